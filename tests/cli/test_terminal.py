"""Commands at a terminal: the prompt of connect, keys, progress, and what peers may not do to a screen."""

from __future__ import annotations

import asyncio
import sys
import termios
from pathlib import Path
from typing import Any

import pexpect

from peercli.peer.peer import Peer
from peercli.protocol.codes import spoken
from tests.cli.shell import Shell, fresh, random_file

WITHIN = 30  # s


def terminal(shell: Shell, *arguments: str) -> pexpect.spawn[str]:
    """peercli at a terminal of its own."""
    return spawn(shell, sys.executable, "-m", "peercli", *arguments)


def spawn(shell: Shell, program: str, *arguments: str) -> pexpect.spawn[str]:
    """A program at a terminal of its own."""
    environment: Any = shell.env | {"TERM": "xterm", "COLUMNS": "80", "PROMPT_TOOLKIT_NO_CPR": "1"}
    return pexpect.spawn(
        program,
        list(arguments),
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


async def test_a_slip_at_the_prompt(shell: Shell) -> None:
    """What should be JSON and is not ends nothing."""
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer:
        child = terminal(shell, "connect", peer.id, "--input", "json")
        connection = await peer.accept()
        await shows(child, ">")
        child.send("[1, 2\r")
        await shows(child, "That is not JSON, and was not sent: ")
        child.send("[1, 2]\r")
        assert await asyncio.wait_for(connection.receive(), WITHIN) == [1, 2]
        child.send("\x04")
        assert await exit_code(child) == 0


async def test_ctrl_z_at_the_prompt(shell: Shell) -> None:
    """It is the shell's, and no part of a message; after fg the conversation goes on."""
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer:
        child = spawn(shell, "bash", "--norc", "-i")
        child.send(f"peercli connect {peer.id}\r")
        connection = await peer.accept()
        await shows(child, ">")
        child.send("\x1a")
        await shows(child, "Stopped")
        child.send("fg\r")
        await shows(child, ">")
        child.send("back\r")
        assert await asyncio.wait_for(connection.receive(), WITHIN) == "back"
        child.send("\x04")
        await asyncio.wait_for(connection.closed(), WITHIN)
        child.send("exit\r")
        assert await exit_code(child) == 0


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


# Words to compare -----------------------------------------------------------------------------

WORDS = r"Compare with the other side: (\w+ \w+ \w+ \w+)"
SECRET = "the secret"


def words(peer: Peer) -> str:
    """What a peer with one connection would show."""
    (connection,) = peer.live
    assert connection.proven is not None
    return spoken(connection.proven.derive("words"))


async def words_shown(child: pexpect.spawn[str]) -> str:
    """The words that its terminal shows next."""
    await shows(child, WORDS)
    return str(child.match[1])  # type: ignore[index]  # nothing else matches


def echoes(child: pexpect.spawn[str]) -> bool:
    """Whether its terminal shows what is typed, as it does where nobody has changed that."""
    return bool(termios.tcgetattr(child.child_fd)[3] & termios.ECHO)


async def test_words_at_the_prompt(shell: Shell) -> None:
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=(), secret=SECRET) as peer:
        child = terminal(shell, "connect", peer.id, "--secret", SECRET)
        connection = await peer.accept()
        await shows(child, ">")
        child.send("/verify\r")
        assert await words_shown(child) == words(peer)
        child.send("all is well\r")
        assert await asyncio.wait_for(connection.receive(), WITHIN) == "all is well", "the other was not sent"
        child.send("\x04")
        assert await exit_code(child) == 0


async def test_words_beside_progress(shell: Shell, tmp_path: Path) -> None:
    """And the terminal is left as it was, after the end and after Ctrl-C, which is a key like others."""
    file = random_file(tmp_path / "file", 3 << 20)
    for secret, end in ((SECRET, "\x03"), ("", "")):
        box, trust = fresh("box"), ["--secret", secret] if secret else []
        receive = ("receive-file", "--id", box, "--save-dir", str(tmp_path / "in"), "--on-conflict", "rename")
        async with shell.peercli(*receive, *trust, "--verify" if secret else "-v") as receiver:
            await receiver.says("Listening as")
            child = terminal(shell, "send-file", box, str(file), "--limit-rate", "300k", *trust)
            await shows(child, "KiB/s")
            assert not echoes(child)
            child.send("xv")
            if secret:
                assert await words_shown(child) == await receiver.says("Compare with the other side: ")
            else:
                await shows(child, "There are no words to compare")
            child.send(end)
            await shows(child, pexpect.EOF)
            assert echoes(child)
            child.close()
            assert child.exitstatus == (130 if end else 0)


async def test_words_in_a_call(shell: Shell) -> None:
    """In place of the numbers, until the key is pressed again."""
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=(), secret=SECRET) as peer:
        peer.on("call", lambda call: call.answer())
        media = ("--video", "test", "--audio", "none", "--size", "320x240", "--fps", "5")
        child = terminal(shell, "call", peer.id, "--secret", SECRET, *media)
        await shows(child, "320x240 ")
        child.send("v")
        assert await words_shown(child) == words(peer)
        child.send("v")
        await shows(child, "320x240 ")
        child.send("\x03")
        await shows(child, pexpect.EOF)
        assert echoes(child)
        child.close()
        assert child.exitstatus == 130


async def test_a_secret_that_is_asked_for(shell: Shell) -> None:
    """It is not shown while it is typed, nor afterwards."""
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=(), secret="hush") as peer:
        child = terminal(shell, "connect", peer.id, "--secret", "-")
        await shows(child, "Secret: ")
        child.send("hush\r")
        await asyncio.wait_for(peer.accept(), WITHIN)
        await shows(child, ">")
        assert b"hush" not in Path(f"/proc/{child.pid}/cmdline").read_bytes()  # noqa: ASYNC240
        shown = str(child.before)
        child.send("\x04")
        assert await exit_code(child) == 0
        assert "hush" not in shown + str(child.before)


async def test_the_colours_of_doctor(shell: Shell) -> None:
    """They are the terminal's to obey, not to be read."""
    child = terminal(shell, "doctor")
    await shows(child, "\x1b\\[1mbroker\x1b\\[0m\r\n")
    await shows(child, "\x1b\\[1mverdict\x1b\\[0m\r\n")
    assert await exit_code(child) == 0
