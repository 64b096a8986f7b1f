"""peercli pipe, both ends of it real processes: what goes in comes out, whatever stdin and stdout are."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from asyncio.subprocess import DEVNULL
from pathlib import Path

import psutil
import pytest

from peercli.peer.peer import Peer
from peercli.protocol.pipe import WINDOW
from tests.brokers import peerserver
from tests.cli.shell import PIPE, Done, Shell, fresh, random_file
from tests.commands import Command

BIG = 200 << 20  # bytes
FLAT = 64 << 20  # bytes by which a process may grow while far more goes through it


async def piped(shell: Shell, there: bytes, back: bytes = b"") -> tuple[Done, Done]:
    """Both ends of a pipe that carries `there` to the one that waits, and `back` from it."""
    box = fresh("box")
    async with shell.peercli("pipe", "--id", box) as waiting:
        await waiting.says(f"Listening as {box}")
        calling = asyncio.create_task(shell.run("pipe", box, input=there))
        await waiting.write(back)
        waiting.end_input()
        out = await waiting.read()
        return await calling, Done(await waiting.exit_code(), out, waiting.stderr)


async def test_sizes_and_both_directions(shell: Shell) -> None:
    """Nothing, one byte, some MB of binary, one way and both ways at once."""
    some, more = os.urandom(3_000_000), os.urandom(2_000_001)
    cases = [(b"", b""), (b"\0", b""), (b"", b"\n"), (some, b""), (more, some)]
    for (there, back), (calling, waiting) in zip(
        cases, await asyncio.gather(*(piped(shell, *case) for case in cases)), strict=True
    ):
        assert (calling.code, waiting.code) == (0, 0), (calling.err, waiting.err)
        assert (waiting.out == there, calling.out == back) == (True, True)
        assert calling.err == ""


async def test_through_the_real_peerserver() -> None:
    """Nothing of it depends on our own broker."""
    async with peerserver(expire_timeout=1) as url:
        data = os.urandom(1_000_000)
        calling, waiting = await piped(Shell(url), data, b"back")
        assert (calling.code, waiting.code, calling.out, waiting.out == data) == (0, 0, b"back", True)


@pytest.mark.timeout(240)
async def test_200_mb_from_file_to_file(shell: Shell, tmp_path: Path) -> None:
    """200 MB arrive as they were, and neither process grows with them."""
    source, copy, box = random_file(tmp_path / "source", BIG), tmp_path / "copy", fresh("box")
    with source.open("rb") as stdin, copy.open("wb") as stdout:
        async with (
            shell.peercli("pipe", "--id", box, stdin=DEVNULL, stdout=stdout) as waiting,
        ):
            await waiting.says("Listening as")
            async with shell.peercli("pipe", box, "--json", stdin=stdin) as calling:
                await calling.says('"connection"')
                before = calling.memory(), waiting.memory()
                most = before
                while waiting.process.returncode is None:
                    async with asyncio.timeout(180):
                        await asyncio.sleep(0.2)
                    most = max(most[0], calling.memory()), max(most[1], waiting.memory())
                assert await calling.exit_code() == 0
    assert waiting.process.returncode == 0, waiting.stderr
    with source.open("rb") as sent, copy.open("rb") as received:
        assert (
            hashlib.file_digest(sent, "sha256").digest() == hashlib.file_digest(received, "sha256").digest()
        )
    assert [now - then < FLAT for now, then in zip(most, before, strict=True)] == [True, True], (before, most)


async def test_half_close_either_way(shell: Shell) -> None:
    """A direction ends by itself, stdout with it, and the other goes on."""
    box = fresh("box")
    async with shell.peercli("pipe", "--id", box) as waiting:
        await waiting.says("Listening as")
        async with shell.peercli("pipe", box) as calling:
            await calling.write(b"question")
            calling.end_input()
            assert await waiting.read() == b"question"  # its end, while the answer is still to come
            await waiting.write(b"an answer that is ")
            await asyncio.sleep(0.2)
            await waiting.write(b"long in coming")
            waiting.end_input()
            assert await calling.read() == b"an answer that is long in coming"
            assert (await calling.exit_code(), await waiting.exit_code()) == (0, 0)


async def test_slow_reader(shell: Shell) -> None:
    """While nobody reads, the writer stops and nothing grows; the other direction goes on; then all comes."""
    box, total = fresh("box"), 5 * WINDOW
    output, stdout = os.pipe()
    with os.fdopen(output, "rb") as reader:
        async with shell.peercli("pipe", "--id", box, stdout=stdout) as waiting:
            os.close(stdout)
            await waiting.says("Listening as")
            async with shell.peercli("pipe", box) as calling:
                assert calling.process.stdin
                calling.process.stdin.write(bytes(total))
                calling.end_input()
                async with asyncio.timeout(120):
                    while calling.process.stdin.transport.get_write_buffer_size() > total - WINDOW // 2:  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                    await standing_still(calling, waiting)
                before = calling.memory() + waiting.memory()
                await waiting.write(b"against the stream")
                waiting.end_input()
                assert await calling.read() == b"against the stream"
                unwritten = calling.process.stdin.transport.get_write_buffer_size()
                assert unwritten > total - 3 * WINDOW
                assert calling.memory() + waiting.memory() - before < FLAT
                assert len(await asyncio.to_thread(reader.read)) == total
                assert (await calling.exit_code(), await waiting.exit_code()) == (0, 0)


async def standing_still(*commands: Command) -> None:
    """Return when processes have used no time to speak of for a while."""
    used = -1.0
    while True:
        times = [psutil.Process(command.process.pid).cpu_times() for command in commands]
        before, used = used, sum(time.user + time.system for time in times)
        if used - before < 0.05:
            return
        await asyncio.sleep(1.0)


async def test_every_kind_of_stdin(shell: Shell, tmp_path: Path) -> None:
    """A file, a pipe, /dev/null and no stdin at all; and output to a file."""
    (tmp_path / "in").write_bytes(b"from a file")
    cases = {
        "peercli pipe $box < $dir/in": b"from a file",
        "printf 'from a pipe' | peercli pipe $box": b"from a pipe",
        "(sleep 0.5; printf late; sleep 0.5; printf r) | peercli pipe $box": b"later",
        "peercli pipe $box < /dev/null": b"",
        "peercli pipe $box <&-": b"",
    }

    async def case(text: str, expected: bytes) -> None:
        box = fresh("box")
        async with shell.peercli("pipe", "--id", box, stdin=DEVNULL) as waiting:
            await waiting.says("Listening as")
            done = await shell.run_script(text, box=box, dir=str(tmp_path))
            assert (done.code, await waiting.read(), await waiting.exit_code()) == (0, expected, 0), done

    await asyncio.gather(*(case(*each) for each in cases.items()))


async def test_closed_or_full_stdout(shell: Shell) -> None:
    """What cannot be written is exit code 9, and 7 for the peer; nothing to write is no fault."""

    async def case(redirection: str, sent: str, codes: tuple[int, int], why: str) -> None:
        box = fresh("box")
        async with shell.script(f"exec peercli pipe --id {box} < /dev/null {redirection}") as waiting:
            await waiting.says("Listening as")
            calling = await shell.run_script(f"printf '{sent}' | peercli pipe {box}")
            assert (await waiting.exit_code(), calling.code) == codes, (waiting.stderr, calling.err)
            if why:
                assert f"peercli: stdout cannot be written: {why}\n" in waiting.stderr
                assert calling.err == f"peercli: the peer gave up: stdout cannot be written: {why}\n"

    await asyncio.gather(
        case(">&-", "", (0, 0), ""),
        case(">&-", "x", (9, 7), "Bad file descriptor"),
        case("> /dev/full", "x", (9, 7), "No space left on device"),
    )


async def test_unreadable_stdin(shell: Shell) -> None:
    """What cannot be read is exit code 2, and the peer is told."""
    box = fresh("box")
    async with shell.peercli("pipe", "--id", box, stdin=DEVNULL) as waiting:
        await waiting.says("Listening as")
        done = await shell.run_script(f"peercli pipe {box} 0> /dev/null")
        assert (done.code, done.err) == (2, "peercli: stdin cannot be read: Bad file descriptor\n")
        assert await waiting.exit_code() == 7
        assert "the peer gave up: stdin cannot be read: Bad file descriptor" in waiting.stderr


async def test_one_way_only(shell: Shell) -> None:
    """--recv-only leaves stdin alone, --send-only leaves stdout alone; both are nothing."""
    boxes = [fresh("box") for _ in range(2)]
    async with (
        shell.peercli("pipe", "--id", boxes[0], "--recv-only") as receiver,
        shell.peercli("pipe", "--id", boxes[1], "--send-only") as sender,
    ):
        await receiver.says("Listening as")
        await sender.says("Listening as")
        await sender.write(b"one way")
        sender.end_input()
        to_receiver, to_sender, neither = await asyncio.gather(
            shell.run("pipe", boxes[0], input=b"only in"),
            shell.run("pipe", boxes[1], input=None),  # its stdin stays open: nobody wants it
            shell.run("pipe", boxes[1], "--send-only", "--recv-only"),
        )
        assert (to_receiver.code, to_receiver.out) == (0, b"")
        assert (to_sender.code, to_sender.out) == (0, b"one way")
        assert (neither.code, neither.out) == (2, b"")
        assert neither.err == "peercli: --recv-only and --send-only leave nothing to do\n"
        assert (await receiver.read(), await receiver.exit_code()) == (b"only in", 0)
        assert (await sender.read(), await sender.exit_code()) == (b"", 0)


async def test_events_are_on_stderr(shell: Shell) -> None:
    """With --json every line of stderr is an event, and stdout is the stream alone."""
    box = fresh("box")
    async with shell.peercli("pipe", "--id", box, "--json", stdin=DEVNULL) as waiting:
        await waiting.says('"open"')
        calling = await shell.run("pipe", box, "--json", "--progress", input=b"payload")
        assert (calling.code, calling.out) == (0, b"")
        assert (await waiting.read(), await waiting.exit_code()) == (b"payload", 0)
    heard = [json.loads(line) for line in waiting.stderr.splitlines()]
    assert [event["event"] for event in heard] == ["open", "connection", "route", "close"]
    assert heard[0]["id"] == box
    assert heard[1]["metadata"] == {"peercli": {"service": "pipe", "version": 1}}
    assert (heard[2]["relayed"], heard[3]["reason"]) == (False, "closed")
    said = [json.loads(line) for line in calling.err.splitlines()]
    first, last = said[:2], said[-2:]
    assert [event["event"] for event in first + last] == ["connection", "route", "progress", "close"]
    assert {event["event"] for event in said[2:-1]} == {"progress"}, "one each second, on a slow machine"
    assert last[0]["bytes"] == len(b"payload")
    assert {event["peer"] for event in said if "peer" in event} == {box}


async def test_with_a_plain_peer(shell: Shell) -> None:
    """The library without the protocol: it may call, or be called; text and bytes are the stream."""
    box = fresh("box")
    async with (
        Peer(fresh("page"), server=shell.broker, ice_servers=()) as page,
        shell.peercli("pipe", "--id", box, stdin=PIPE) as waiting,
    ):
        await waiting.says("Listening as")
        ours = await page.connect(box, serialization="raw")
        await ours.send(bytes(100_000))
        await ours.send("and text")
        await waiting.write(b"an answer")
        assert await ours.receive() == b"an answer"
        await ours.close(flush=True)
        assert await waiting.read() == bytes(100_000) + b"and text"
        assert await waiting.exit_code() == 0

        async with shell.peercli("pipe", page.id) as calling:
            theirs = await page.accept()
            assert json.loads(await theirs.receive())["type"] == "hello"  # which a plain page cannot read
            await calling.write(b"after three seconds")
            assert await theirs.receive() == b"after three seconds"
            await theirs.send(b"back")
            calling.end_input()
            assert [message async for message in theirs] == []
            assert (await calling.read(), await calling.exit_code()) == (b"back", 0)


async def test_an_empty_stdin_leaves_a_plain_peer_time(shell: Shell) -> None:
    """Whoever waits with nothing to send still takes all that a page has to say."""
    box = fresh("box")
    async with (
        Peer(fresh("page"), server=shell.broker, ice_servers=()) as page,
        shell.peercli("pipe", "--id", box, stdin=DEVNULL) as waiting,
    ):
        await waiting.says("Listening as")
        ours = await page.connect(box)
        await asyncio.sleep(0.3)
        await ours.send({"not": "bytes"})
        assert await waiting.exit_code() == 7
        assert "the peer sent a dict, and a pipe carries bytes" in waiting.stderr
