"""send-file and receive-file as two processes: what arrives, what is refused, what crashes leave behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests import tools
from tests.cli.shell import Done, Shell, fresh, random_file
from tests.cli.test_terminal import terminal
from tests.commands import Command

LONG_AGO = 10**18 + 123_000_000  # ns since 1970: the protocol has milliseconds or better


def tree(root: Path) -> dict[str, tuple[int, int | None, str | bytes | None]]:
    """Everything below a folder, and itself: mode, mtime (not of links) and content, by path."""
    found: dict[str, tuple[int, int | None, str | bytes | None]] = {}
    for path in [root, *root.rglob("*")]:
        about = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(root))] = (about.st_mode, None, os.readlink(path))
        else:
            content = path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(root))] = (about.st_mode, about.st_mtime_ns, content)
    return found


def parts(root: Path) -> list[Path]:
    """What is half there below a folder."""
    return [path for path in root.rglob("*") if path.name.endswith(".part")]


def date_all(root: Path) -> None:
    """Give every folder a date of long ago, the deepest first."""
    for path in sorted(root.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            os.utime(path, ns=(LONG_AGO, LONG_AGO))
    os.utime(root, ns=(LONG_AGO, LONG_AGO))


@asynccontextmanager
async def receiving(shell: Shell, *arguments: str, **streams: Any) -> AsyncIterator[tuple[str, Command]]:
    """`peercli receive-file ARGUMENTS`, waiting, and its id."""
    id = fresh("inbox")
    async with shell.peercli("receive-file", "--id", id, *arguments, **streams) as receiver:
        if "--json" in arguments:
            await until(receiver, "open")
        else:
            await receiver.says(f" as {id}")
        yield id, receiver


async def until(command: Command, event: str) -> dict[str, Any]:
    """The next event of that name that a command with --json tells."""
    while (found := json.loads(await command.line()))["event"] != event:
        pass
    return dict(found)


async def transfer(shell: Shell, to: list[str], what: list[str], **options: Any) -> tuple[Done, int]:
    """Send `what` to a `receive-file` with these arguments; how that ended, and the receiver's exit code."""
    async with receiving(shell, *to) as (id, receiver):
        sent = await shell.run("send-file", id, *what, **options)
        return sent, await receiver.exit_code()


async def test_a_tree_arrives_equal(shell: Shell, tmp_path: Path) -> None:
    """Odd names, empty folders, empty files, holes, links, modes and dates."""
    source, inbox = tmp_path / "-süße 🥦", tmp_path / "inbox"
    (source / "empty" / "er").mkdir(parents=True)
    (source / "closed").mkdir(mode=0o700)
    for name in (
        "-rf",
        "--",
        "new\nline",
        "日本語.txt",
        "e\u0301",
        ".hidden",
        " space ",
        "a*?",
        "no UTF-8 \udce9",
    ):
        (source / name).write_bytes(os.fsencode(name))
    (source / "zero").touch()
    (source / "closed" / "run").write_bytes(b"#!/bin/sh\n")
    (source / "closed" / "run").chmod(0o750)
    random_file(source / "large", 3_000_001)
    with (source / "sparse").open("wb") as sparse:
        sparse.seek(64 << 20)
        sparse.write(b"end")
    (source / "link").symlink_to("closed/run")
    (source / "closed" / "up").symlink_to("../nowhere")
    for number, path in enumerate(sorted(path for path in source.rglob("*") if not path.is_symlink())):
        os.utime(path, ns=(LONG_AGO, LONG_AGO + number * 10**9))
    date_all(source)

    sent, code = await transfer(shell, ["--save-dir", str(inbox)], ["--", str(source)])
    assert (sent.code, code) == (0, 0), sent.err
    assert tree(inbox / source.name) == tree(source)
    assert [path.name for path in inbox.iterdir()] == [source.name]
    assert "there already" not in sent.err  # a hole is sent, too
    here = (inbox / source.name / "sparse").stat()
    assert here.st_blocks * 512 < 1 << 20, "the hole was filled"


async def test_exclude(shell: Shell, tmp_path: Path) -> None:
    """By name anywhere, and with a slash by path."""
    source, inbox = tmp_path / "source", tmp_path / "inbox"
    for name in ("keep.txt", "leave.log", "deep/leave.log", "deep/keep", "deep/leave", "leave"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    arguments = [str(source), "--exclude", "*.log", "--exclude", "deep/leave"]
    sent, code = await transfer(shell, ["--save-dir", str(inbox)], arguments)
    assert (sent.code, code) == (0, 0), sent.err
    arrived = {str(path.relative_to(inbox)) for path in inbox.rglob("*") if path.is_file()}
    assert arrived == {"source/keep.txt", "source/deep/keep", "source/leave"}


async def test_output_to_a_file(shell: Shell, tmp_path: Path) -> None:
    """-o names the file; a folder is nothing for it."""
    source, target = random_file(tmp_path / "source", 1_000_000), tmp_path / "other name"
    sent, code = await transfer(shell, ["-o", str(target)], [str(source)])
    assert (sent.code, code) == (0, 0), sent.err
    assert target.read_bytes() == source.read_bytes()
    (tmp_path / "folder").mkdir()
    sent, code = await transfer(shell, ["-o", str(tmp_path / "no")], [str(tmp_path / "folder")])
    assert (sent.code, code) == (8, 8), sent.err
    assert not (tmp_path / "no").exists()


async def test_streams(shell: Shell, tmp_path: Path) -> None:
    """stdin to stdout, where nothing else is printed; and stdin to a file with a name."""
    data = os.urandom(2_000_003)
    async with receiving(shell, "-o", "-") as (id, receiver):
        sending = asyncio.create_task(shell.run("send-file", id, "-", input=data))
        arrived = await receiver.read()
        sent = await sending
        assert (sent.code, await receiver.exit_code()) == (0, 0), sent.err
    assert arrived == data
    assert hashlib.sha256(data).hexdigest() in sent.err
    sent, code = await transfer(
        shell, ["--save-dir", str(tmp_path)], ["-", "--name", "called so"], input=data
    )
    assert (sent.code, code) == (0, 0), sent.err
    assert (tmp_path / "called so").read_bytes() == data


async def test_a_reader_that_has_seen_enough(shell: Shell, tmp_path: Path) -> None:
    """141 for the receiver; and its sender is told so, and does not try again."""
    box, source = fresh("box"), random_file(tmp_path / "source", 5_000_000)
    script = f"peercli receive-file --id {box} -o - | head -c 10; echo :${{PIPESTATUS[0]}}"
    async with shell.script(script) as receiver:
        await receiver.says("Listening as")
        sent = await shell.run("send-file", box, str(source))
        assert await receiver.read() == source.read_bytes()[:10] + b":141\n"
    assert sent.code == 9
    assert "peercli: the far side could not keep the data: nobody reads it any more\n" in sent.err


@pytest.mark.parametrize(
    ("policy", "codes", "files"),
    [
        ("resume", (0, 0), {"a": b"old", "a (1)": b"new!"}),
        ("rename", (0, 0), {"a": b"old", "a (1)": b"new!"}),
        ("overwrite", (0, 0), {"a": b"new!"}),
        ("skip", (0, 0), {"a": b"old"}),
        ("fail", (8, 9), {"a": b"old"}),
    ],
)
async def test_conflicts(
    shell: Shell, tmp_path: Path, policy: str, codes: tuple[int, int], files: dict[str, bytes]
) -> None:
    """What becomes of a file that is there already, and of the exit codes: the sender's, the receiver's."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "a").write_bytes(b"old")
    (tmp_path / "a").write_bytes(b"new!")
    to = ["--save-dir", str(inbox), "--on-conflict", policy]
    sent, code = await transfer(shell, to, [str(tmp_path / "a")])
    assert (sent.code, code) == codes, sent.err
    assert {path.name: path.read_bytes() for path in inbox.iterdir()} == files


async def test_nobody_to_ask(shell: Shell) -> None:
    """Without a terminal, consent has to be given beforehand."""
    done = await shell.run("receive-file")
    assert done.code == 2
    assert "-y" in done.err
    assert "--save-dir" in done.err


@pytest.mark.parametrize(("answer", "codes"), [("n", (8, 8)), ("", (8, 8)), ("y", (0, 0))])
async def test_the_question(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, codes: tuple[int, int]
) -> None:
    """At a terminal a person says whether; no answer is no. The name cannot play with the screen."""
    source, inbox, id = tmp_path / "a\x1b[2Jb", tmp_path / "inbox", fresh("asked")
    source.write_bytes(b"content")
    inbox.mkdir()
    monkeypatch.chdir(inbox)
    child = terminal(shell, "receive-file", "--id", id)
    try:
        await asyncio.to_thread(child.expect, f" as {id}")
        async with shell.peercli("send-file", id, str(source)) as sender:
            question = r"offers 1 file, 7B: a[^\x1b]*b\. Save to .*\[y/N\]"
            await asyncio.to_thread(child.expect, question)
            child.send(f"{answer}\r")
            assert await sender.exit_code() == codes[0], sender.stderr
        await asyncio.to_thread(child.expect, pexpect.EOF)
    finally:
        child.close()
    assert child.exitstatus == codes[1]
    assert len(list(inbox.iterdir())) == (answer == "y")


async def test_listen_takes_two_at_once(shell: Shell, tmp_path: Path) -> None:
    """Both are under way together: neither can end before both have begun."""
    inbox, id = tmp_path / "inbox", fresh("box")
    async with AsyncExitStack() as stack:
        listen = await stack.enter_async_context(
            shell.peercli("listen", "--id", id, "--save-dir", str(inbox), "--json")
        )
        await until(listen, "open")
        senders = [
            await stack.enter_async_context(shell.peercli("send-file", id, "-", "--name", name))
            for name in ("one", "two")
        ]
        for _ in senders:
            await until(listen, "offer")
        for sender, data in zip(senders, (b"1", b"2"), strict=True):
            await sender.write(data)
            sender.end_input()
        assert [await sender.exit_code() for sender in senders] == [0, 0]
    assert {path.name: path.read_bytes() for path in inbox.iterdir()} == {"one": b"1", "two": b"2"}


async def test_listen_without_consent(shell: Shell, tmp_path: Path) -> None:
    """Nobody named a folder, nobody can be asked: no."""
    (tmp_path / "a").write_bytes(b"a")
    async with shell.peercli("listen", "--id", fresh("box")) as listen:
        id = await listen.says("Listening as ")
        sent = await shell.run("send-file", id, str(tmp_path / "a"))
        assert sent.code == 8, sent.err


async def test_json(shell: Shell, tmp_path: Path) -> None:
    """Both sides tell offer, the file with its digest, and the end."""
    source, inbox = random_file(tmp_path / "a", 100_000), tmp_path / "inbox"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    async with receiving(shell, "--save-dir", str(inbox), "--json") as (id, receiver):
        sent = await shell.run("send-file", id, str(source), "--json")
        received = await receiver.read()
        assert (sent.code, await receiver.exit_code()) == (0, 0), sent.err
    about = {"name": "a", "size": 100_000, "sha256": digest, "resumed_from": 0}
    saved = about | {"path": str(inbox / "a")}
    for text, kind, expected in ((sent.out, "sent", about), (received, "saved", saved)):
        events = {event["event"]: event for event in map(json.loads, text.splitlines())}
        assert events["offer"].items() >= {"names": ["a"], "files": 1, "size": 100_000}.items()
        assert events[kind].items() >= expected.items()
        assert events["transferred"].items() >= {"files": 1, "bytes": 100_000, "failed": 0}.items()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        tools.missing("root, to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        tools.missing(f"the right to mount ({mounted.stderr.strip()})")
    yield disk
    subprocess.run(["umount", disk], check=True)


async def test_a_full_disk(shell: Shell, small_disk: Path, tmp_path: Path) -> None:
    """Somebody else takes the space amid a transfer: both say so, nothing is lost, and it goes on later."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "first").write_bytes(b"small")
    random_file(source / "second", 6_000_000)
    ballast = small_disk / "ballast"
    async with receiving(shell, "--save-dir", str(small_disk), "--json") as (id, receiver):
        async with shell.peercli("send-file", id, str(source), "--limit-rate", "2M") as sender:
            await until(receiver, "offer")
            await until(receiver, "saved")
            with pytest.raises(OSError, match="No space left"):
                random_file(ballast, 8 << 20)
            assert await sender.exit_code() == 9
            assert "space" in sender.stderr.lower()
        assert (await until(receiver, "error")).items() >= {"exit_code": 9}.items()
        assert await receiver.exit_code() == 9
    assert (small_disk / "source" / "first").read_bytes() == b"small"
    assert not (small_disk / "source" / "second").exists()
    ballast.unlink()
    async with receiving(shell, "--save-dir", str(small_disk), "--json") as (id, receiver):
        sent = await shell.run("send-file", id, str(source))
        saved = await until(receiver, "saved")
        while saved["name"] != "source/second":
            saved = await until(receiver, "saved")
        assert saved["resumed_from"] > 0
        await receiver.read()
        assert (sent.code, await receiver.exit_code()) == (0, 0), sent.err
    assert tree(small_disk / "source") == tree(source)
    assert parts(small_disk) == []


async def test_links_are_sent_as_links_or_followed(shell: Shell, tmp_path: Path) -> None:
    """--follow-symlinks sends what they lead to, and a circle of them is told."""
    source, outside = tmp_path / "source", tmp_path / "outside"
    for folder in (source, outside):
        folder.mkdir()
    (outside / "far").write_bytes(b"far")
    (source / "near").write_bytes(b"near")
    (source / "file").symlink_to("near")
    (source / "folder").symlink_to(outside)
    sent, code = await transfer(shell, ["--save-dir", str(tmp_path / "links")], [str(source)])
    assert (sent.code, code) == (0, 0), sent.err
    assert (tmp_path / "links/source/file").readlink() == Path("near")
    assert "leads outside" in sent.err
    assert not (tmp_path / "links/source/folder").is_symlink()

    followed = [str(source), "--follow-symlinks"]
    sent, code = await transfer(shell, ["--save-dir", str(tmp_path / "files")], followed)
    assert (sent.code, code) == (0, 0), sent.err
    found = tree(tmp_path / "files/source")
    assert {name: content for name, (_, _, content) in found.items() if content} == {
        "near": b"near",
        "file": b"near",
        "folder/far": b"far",
    }
    (source / "round").symlink_to(source)
    sent, _ = await transfer(shell, ["--save-dir", str(tmp_path / "circle")], followed)
    assert (sent.code, "leads back" in sent.err) == (2, True), sent.err
    assert (tmp_path / "circle/source/folder/far").read_bytes() == b"far"


async def test_limit_rate(shell: Shell, tmp_path: Path) -> None:
    """So many bytes a second, and no more."""
    source = random_file(tmp_path / "a", 300_000)
    arguments = [str(source), "--limit-rate", "200k", "--json"]
    sent, code = await transfer(shell, ["--save-dir", str(tmp_path / "inbox")], arguments)
    assert (sent.code, code) == (0, 0), sent.err
    (end,) = [event for event in map(json.loads, sent.out.splitlines()) if event["event"] == "transferred"]
    assert end["seconds"] > 300_000 / 204_800 - 0.3


async def test_max_size(shell: Shell, tmp_path: Path) -> None:
    """What is offered beyond it is declined; what only comes to be, at stdin, is cut short."""
    source, inbox = random_file(tmp_path / "a", 100_000), tmp_path / "inbox"
    to = ["--save-dir", str(inbox), "--max-size", "50k"]
    sent, code = await transfer(shell, to, [str(source)])
    assert (sent.code, code) == (8, 8), sent.err
    assert "51,200 bytes" in sent.err
    sent, code = await transfer(shell, to, ["-"], input=source.read_bytes())
    assert sent.code != 0, sent.err
    assert code != 0
    assert "51,200 bytes" in sent.err
    assert not [path for path in inbox.iterdir() if path.name == "stdin"]


async def test_keep_open(shell: Shell, tmp_path: Path) -> None:
    """One after the other, from whomever, until it is interrupted."""
    inbox = tmp_path / "inbox"
    async with receiving(shell, "--save-dir", str(inbox), "--keep-open") as (id, receiver):
        for name in ("one", "two"):
            (tmp_path / name).write_text(name)
            sent = await shell.run("send-file", id, str(tmp_path / name))
            assert sent.code == 0, sent.err
        receiver.process.send_signal(signal.SIGINT)
        assert await receiver.exit_code() == 130
    assert {path.name: path.read_text() for path in inbox.iterdir()} == {"one": "one", "two": "two"}


async def test_retry(shell: Shell, tmp_path: Path) -> None:
    """With --retry 0 a lost receiver is the end."""
    source = random_file(tmp_path / "a", 5_000_000)
    to = ["--save-dir", str(tmp_path / "inbox")]
    arguments = [str(source), "--limit-rate", "2M"]
    async with (
        receiving(shell, *to) as (id, receiver),
        shell.peercli("send-file", id, *arguments, "--retry", "0") as sender,
    ):
        await receiver.says("Receiving")
        receiver.kill()
        assert await sender.exit_code() == 7
        assert "attempt" not in sender.stderr


async def test_a_read_only_target(shell: Shell, small_disk: Path, tmp_path: Path) -> None:
    """Is declined before anything is sent."""
    source = random_file(tmp_path / "a", 1_000)
    mount = await asyncio.create_subprocess_exec("mount", "-o", "remount,ro", small_disk)
    assert await mount.wait() == 0
    sent, code = await transfer(shell, ["--save-dir", str(small_disk)], [str(source)])
    assert (sent.code, code) == (9, 9), sent.err
    assert os.listdir(small_disk) == []
