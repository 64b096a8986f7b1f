"""Commands at a terminal: the prompt of connect, keys, progress, and what peers may not do to a screen."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pexpect

from peercli.peer.peer import Peer
from tests.cli.shell import Shell, fresh

WITHIN = 30  # s


def terminal(shell: Shell, *arguments: str) -> pexpect.spawn[str]:
    """peercli at a terminal of its own."""
    environment: Any = shell.env | {"TERM": "xterm", "COLUMNS": "80", "PROMPT_TOOLKIT_NO_CPR": "1"}
    return pexpect.spawn(
        sys.executable,
        ["-m", "peercli", *arguments],
        env=environment,
        encoding="utf-8",
        timeout=WITHIN,
        dimensions=(24, 80),
    )


async def shows(child: pexpect.spawn[str], pattern: Any) -> None:
    """Wait until the screen was sent something like `pattern`."""
    await asyncio.to_thread(child.expect, pattern)


async def exit_code(child: pexpect.spawn[str]) -> int | None:
    """How it ended, once it has said all."""
    await shows(child, pexpect.EOF)
    child.close()
    return child.exitstatus


async def test_the_prompt(shell: Shell) -> None:
    """Lines with editing and history go out, what comes is shown, controls are not obeyed; Ctrl-D ends it."""
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer:
        child = terminal(shell, "connect", peer.id)
        connection = await peer.accept()
        await shows(child, ">")
        child.send("helo\x1b[Dl\r")  # the arrow to the left, and the letter that is missing
        assert await asyncio.wait_for(connection.receive(), WITHIN) == "hello"
        child.send("\x1b[A\r")  # the arrow up: the line before
        assert await asyncio.wait_for(connection.receive(), WITHIN) == "hello"
        await connection.send("red \x1b[31malert\x07\x9b2J")
        await shows(child, r"red \[31malert2J")
        child.send("\x04")
        assert await exit_code(child) == 0


async def test_ctrl_c_at_the_prompt(shell: Shell) -> None:
    """The key is as good as the signal."""
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer:
        child = terminal(shell, "connect", peer.id)
        await peer.accept()
        await shows(child, ">")
        child.send("\x03")
        assert await exit_code(child) == 130


async def test_a_pipe_at_a_terminal(shell: Shell) -> None:
    """Typed lines and Ctrl-D go through; controls of the peer do not show; --progress draws."""
    box = fresh("box")
    async with shell.peercli("pipe", "--id", box) as waiting:
        await waiting.says("Listening as")
        child = terminal(shell, "pipe", box, "--progress")
        await waiting.write(b"evil\x1b]0;title\x07\nend\n")
        waiting.end_input()
        await shows(child, r"evil\]0;title\r\n")
        await shows(child, "Ctrl-D ends your side too")
        child.send("typed\r")
        assert await waiting.line() == "typed"
        child.send("\x04")
        await shows(child, r"B 0:\d\d:\d\d \[.*/s\]")
        assert await exit_code(child) == 0
        assert await waiting.exit_code() == 0
