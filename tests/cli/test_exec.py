"""peercli listen --exec: a process for each peer, its stdin and stdout joined to it, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path

import psutil

from peercli.peer.peer import Peer
from tests.cli.shell import Shell, fresh

PATIENCE = 30.0  # s


async def test_a_line_a_message(shell: Shell) -> None:
    """For connect, the command's lines are messages both ways; it learns who is there; its end is the end."""
    bot, who = fresh("bot"), fresh("who")
    script = (
        'echo "$PEERCLI_PEER|$PEERCLI_LABEL|$PEERCLI_METADATA";'
        'while read -r line; do echo "<$line>"; [ "$line" = bye ] && exit; done'
    )
    async with shell.peercli("listen", "--id", bot, "--exec", script, "--allow", who) as listen:
        await listen.says("Listening as")
        options = ("--id", who, "--label", "a b", "--metadata", '{"k": ["🥦"]}', "--input", "json")
        lines = ['"one two"', '{"a": 1}', '{"$bytes": "AAE="}', '"bye"', '"too late"']
        done = await shell.run("connect", bot, *options, "-k", input="\n".join(lines).encode())
        assert done.code in (0, 7)  # whether "too late" was sent depends on the moment
        assert done.out.decode().splitlines() == [
            f'{who}|a b|{{"k": ["🥦"]}}',
            "<one two>",
            '<{"a": 1}>',
            '<{"$bytes": "AAE="}>',
            "<bye>",
        ]


async def test_bytes_through_a_pipe(shell: Shell) -> None:
    """For pipe, the command is a filter: bytes in, bytes out, each end told; many at once."""
    bot = fresh("bot")
    async with shell.peercli("listen", "--id", bot, "--exec", "tr a-z A-Z", "--allow-anyone") as listen:
        await listen.says("Listening as")
        texts = [b"", b"some\n\0bytes", os.urandom(2_000_000)]
        for text, done in zip(
            texts, await asyncio.gather(*(shell.run("pipe", bot, input=text) for text in texts)), strict=True
        ):
            assert (done.code, done.out == text.upper() or len(text) > 100) == (0, True)
            assert len(done.out) == len(text)
            assert done.err == ""


async def test_how_a_command_ends(shell: Shell, tmp_path: Path) -> None:
    """One that has seen enough ends the pipe in peace; one that fails is told, on both sides."""
    commands = {
        "head -n 1": ("yes | peercli pipe $bot; exit ${PIPESTATUS[1]}", 0, b"y\n", ""),
        "cat > copy": ("seq 100000 | peercli pipe $bot", 0, b"", ""),
        "echo part; exit 3": ("peercli pipe $bot < /dev/null", 7, b"part\n", "ended with exit code 3"),
        "kill -9 $$": ("echo x | peercli pipe $bot", 7, b"", "was ended by SIGKILL"),
        "cat > /dev/full": ("echo x | peercli pipe $bot", 7, b"", "ended with exit code 1"),
    }

    async def case(command: str, script: str, code: int, out: bytes, why: str) -> None:
        bot = fresh("bot")
        listen_options = ("--exec", f"cd {tmp_path}; {command}", "--allow-anyone")
        async with shell.peercli("listen", "--id", bot, *listen_options) as listen:
            await listen.says("Listening as")
            done = await shell.run_script(script, bot=bot)
            assert (done.code, done.out) == (code, out), done.err
            if why:
                assert f"peercli: the peer gave up: the command {why}\n" in done.err
                await listen.says(f"is gone: the command {why}")
            assert (await shell.run_script(script, bot=bot)).code == code  # the listener goes on

    async def said_all() -> None:
        bot = fresh("bot")
        async with shell.peercli("listen", "--id", bot, "--exec", "echo hi", "--allow-anyone") as listen:
            await listen.says("Listening as")
            done = await shell.run("pipe", bot, input=None)  # its stdin stays open: nobody waits for its end
            assert (done.code, done.out, done.err) == (0, b"hi\n", "")

    await asyncio.gather(said_all(), *(case(command, *rest) for command, rest in commands.items()))
    assert (tmp_path / "copy").read_text() == "".join(f"{number}\n" for number in range(1, 100_001))


async def test_our_secrets_are_not_the_peers(shell: Shell) -> None:
    bot = fresh("bot")
    secrets = {"PEERCLI_SECRET": "s", "PEERCLI_TOKEN": "t"}
    async with shell.peercli("listen", "--id", bot, "--exec", "env", env=secrets) as listen:
        await listen.says("Listening as")
        done = await shell.run("pipe", bot, env={"PEERCLI_SECRET": "s"})
    assert done.code == 0
    assert b"PEERCLI_SERVER=" in done.out
    assert not any(name.encode() in done.out for name in secrets)


async def test_only_with_consent(shell: Shell) -> None:
    """Nobody's command runs for just anybody: exit code 2, and a hint."""
    done = await shell.run("listen", "--exec", "cat")
    assert (done.code, done.out) == (2, b"")
    assert done.err == (
        "peercli: --exec would let anybody who knows the id run the command\n"
        "hint: name who may with --allow ID, set a --secret, or say --allow-anyone\n"
    )


async def test_a_strangers_command_does_not_start(shell: Shell, tmp_path: Path) -> None:
    """With --allow, the command runs for those named and nobody else."""
    bot, friend = fresh("bot"), fresh("friend")
    command = f"echo $PEERCLI_PEER >> {tmp_path / 'ran'}"
    async with shell.peercli("listen", "--id", bot, "--exec", command, "--allow", friend) as listen:
        await listen.says("Listening as")
        assert (await shell.run("pipe", bot)).code == 8
        assert (await shell.run("pipe", bot, "--id", friend)).code == 0
    assert (tmp_path / "ran").read_text() == f"{friend}\n"


async def test_nothing_outlives_its_peer(shell: Shell) -> None:
    """The whole process group ends: when the peer closes, when it is killed, when we are interrupted."""
    bot = fresh("bot")
    command = "sleep 1000 & sh -c 'trap \"\" TERM; sleep 1001' & echo $$; wait"
    async with shell.peercli(
        *("listen", "--id", bot, "--exec", command, "--allow-anyone", "--no-reconnect")
    ) as listen:
        await listen.says("Listening as")

        async def group(out: str) -> list[psutil.Process]:
            leader = psutil.Process(int(out))
            while len(children := leader.children(recursive=True)) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            return [leader, *children]

        async with (
            shell.peercli("connect", bot) as closing,
            shell.peercli("connect", bot) as aborting,
            shell.peercli("pipe", bot) as piping,
            shell.peercli("pipe", bot) as staying,
        ):
            groups = [await group(await each.line()) for each in (closing, aborting, piping, staying)]
            closing.end_input()
            aborting.process.terminate()
            piping.process.kill()
            for processes in groups[:3]:
                await ended(processes)
            assert all(map(runs, groups[3]))
            listen.process.terminate()
            assert await listen.exit_code() == 143
            await ended(groups[3])
            assert await staying.exit_code() == 7


async def ended(processes: list[psutil.Process]) -> None:
    """Wait until none of `processes` runs."""
    async with asyncio.timeout(PATIENCE):
        while any(map(runs, processes)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def runs(process: psutil.Process) -> bool:
    """Whether it still does anything: one that has ended may wait long for an init to take note."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_what_a_hostile_peer_names_itself(shell: Shell) -> None:
    """NULs, lone surrogates and 100 KB in what goes into the environment harm nobody else."""
    bot = fresh("bot")
    command = 'printf %s "$PEERCLI_LABEL" | wc -c'
    async with (
        shell.peercli("listen", "--id", bot, "--exec", command, "--allow-anyone") as listen,
        Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer,
    ):
        await listen.says("Listening as")
        odd = await peer.connect(bot, label="a\0b", metadata={"\0": "\ud800"})
        assert await odd.receive() == "2"
        huge = await peer.connect(bot, metadata="x" * 200_000)
        assert [message async for message in huge] == []
        await listen.says("is gone: the command cannot be started: Argument list too long")
        again = await peer.connect(bot, label="again")
        assert await again.receive() == "5"


async def test_once_tells_how_the_command_ended(shell: Shell) -> None:
    """With --once, a command that fails is the outcome: 9."""

    async def case(command: str, code: int) -> None:
        bot = fresh("bot")
        async with shell.peercli(
            *("listen", "--id", bot, "--once", "--exec", command, "--allow-anyone", "--json")
        ) as listen:
            while json.loads(await listen.line())["event"] != "open":
                pass
            await shell.run("pipe", bot)
            assert await listen.exit_code() == code
            events = [json.loads(line) for line in (await listen.read()).splitlines()]
            assert (events[-1]["event"] == "error") == bool(code)
            with contextlib.suppress(KeyError):
                assert events[-1]["exit_code"] == code

    await asyncio.gather(case("true", 0), case("false", 9))
