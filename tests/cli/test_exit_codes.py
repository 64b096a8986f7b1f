"""Every exit code there is, each provoked by real processes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from peercli.cli.exits import Exit
from tests.cli.shell import DEVNULL, Done, Shell, fresh

Case = Callable[[Shell, Path], Awaitable[Done]]

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nobody listens


def alone(*arguments: str) -> Case:
    """A command that needs nobody else."""

    async def case(shell: Shell, folder: Path) -> Done:
        return await shell.run(*(each.replace("BROKER", shell.broker) for each in arguments))

    return case


def beside(waiting: tuple[str, ...], calling: tuple[str, ...]) -> Case:
    """A command that meets another, which waits under the id that ID stands for."""

    async def case(shell: Shell, folder: Path) -> Done:
        box = fresh("box")
        async with shell.peercli(*waiting, "--id", box, stdout=DEVNULL) as other:
            await other.says("Listening as")
            return await shell.run(*(box if each == "ID" else each for each in calling), input=b"hello\n")

    return case


def ended_by(number: signal.Signals) -> Case:
    """A command that a signal ends."""

    async def case(shell: Shell, folder: Path) -> Done:
        async with shell.peercli("listen") as command:
            await command.says("Listening as")
            command.process.send_signal(number)
            return Done(await command.exit_code(), b"", "")

    return case


def without(library: str) -> Case:
    """A file of the user's has the name of a library that is needed, and does something else."""

    async def case(shell: Shell, folder: Path) -> Done:
        (folder / library).mkdir()
        (folder / library / f"{library}.py").write_text("print(1 / 0)")
        return await shell.run("connect", "somebody", env={"PYTHONPATH": str(folder / library)})

    return case


async def peer_gone(shell: Shell, folder: Path) -> Done:
    """The peer is ended in the middle of it."""
    box = fresh("box")
    async with shell.peercli("pipe", "--id", box) as staying:
        await staying.says("Listening as")
        async with shell.peercli("pipe", box) as dying:
            await dying.write("some\n")
            assert await staying.line() == "some"
            dying.process.terminate()
            return Done(await staying.exit_code(), b"", staying.stderr)


async def disk_full(shell: Shell, folder: Path) -> Done:
    """What a peer sends goes where there is no room for it."""
    box = fresh("box")
    async with shell.script(f"exec peercli pipe --id {box} > /dev/full") as full:
        await full.says("Listening as")
        await shell.run("pipe", box, input=b"some")
        return Done(await full.exit_code(), b"", full.stderr)


async def deaf_broker(shell: Shell, folder: Path) -> Done:
    """A broker takes the connection and says nothing."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    try:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        return await shell.run("connect", "x", "--server", url, "--timeout", "1")
    finally:
        server.close()


async def reader_gone(shell: Shell, folder: Path) -> Done:
    """Whoever reads the standard output has seen enough."""
    box = fresh("box")
    async with shell.script(f"yes | peercli pipe --id {box}") as endless:
        await endless.says("Listening as")
        return await shell.run_script(f"peercli pipe {box} < /dev/null | head -n 1; exit ${{PIPESTATUS[0]}}")


TABLE: dict[Exit, tuple[Case, ...]] = {
    Exit.DONE: (alone("--version"), beside(("listen",), ("connect", "ID"))),
    Exit.FAULT: (without("msgpack"), without("platformdirs")),  # as it works, and as it reads its options
    Exit.USAGE: (
        alone("pipe", "--no-such-option"),
        alone("pipe", "--server", "ftp://x", "y"),
        alone("pipe", "--ice", "nonsense", "y"),
        alone("pipe", "y", "--config", "/nowhere/config.toml"),
        alone("send-file", "y", "/nowhere/file"),
        alone("connect"),
        alone("no-such-command"),
    ),
    Exit.BROKER: (
        alone("connect", "x", "--server", NOWHERE),
        alone("peers", "--server", NOWHERE),
    ),
    Exit.UNAVAILABLE: (alone("connect", "nobody-here"), alone("pipe", "nobody-here")),
    Exit.IDENTITY: (
        alone("listen", "--id", "-not-valid-"),
        alone("listen", "--server", "BROKER?key=other"),
        beside(("listen",), ("listen", "--id", "ID")),
    ),
    Exit.NO_ROUTE: (
        beside(
            ("listen",), ("connect", "ID", "--relay", "--ice", "turn:user:password@127.0.0.1:9?transport=tcp")
        ),
    ),
    Exit.LOST: (peer_gone,),
    Exit.DECLINED: (
        beside(("listen",), ("send-file", "ID", __file__)),
        beside(("listen", "--allow", "somebody-else"), ("connect", "ID")),
    ),
    Exit.STORAGE: (disk_full,),
    Exit.AUTHENTICATION: (
        beside(("listen", "--secret", "right"), ("connect", "ID", "--secret", "wrong")),
        beside(("listen", "--secret", "right"), ("connect", "ID")),
    ),
    Exit.TIMEOUT: (deaf_broker,),
    Exit.HUNG_UP: (ended_by(signal.SIGHUP),),
    Exit.INTERRUPTED: (ended_by(signal.SIGINT),),
    Exit.BROKEN_PIPE: (reader_gone,),
    Exit.TERMINATED: (ended_by(signal.SIGTERM),),
}

SILENT = {Exit.DONE, Exit.HUNG_UP, Exit.INTERRUPTED, Exit.BROKEN_PIPE, Exit.TERMINATED}


def test_none_is_left_out() -> None:
    assert set(TABLE) == set(Exit)
    assert all(TABLE.values())


@pytest.mark.parametrize("exit", Exit, ids=lambda exit: f"{exit:d}-{exit.name.lower()}")
async def test_exit_code(shell: Shell, tmp_path: Path, exit: Exit) -> None:
    """The code, and with it one line that says what and why, and hints; or nothing at all."""
    for done in await asyncio.gather(*(case(shell, tmp_path) for case in TABLE[exit])):
        assert done.code == exit, done.err
        if exit not in SILENT:
            said = [line for line in done.err.splitlines() if not line.startswith("Listening as ")]
            assert said.pop(0).startswith("peercli: "), done.err
            assert all(line.startswith("hint: ") for line in said), done.err
