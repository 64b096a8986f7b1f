"""How commands end when somebody, or something, ends them: signals, readers and writers that go."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from websockets.asyncio.client import connect

from tests.brokers import socket_url
from tests.cli.shell import Shell, fresh
from tests.commands import Command

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
CODES = {INT: 130, TERM: 143, HUP: 129}


@asynccontextmanager
async def silence() -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A broker that takes connections and says nothing: its address, and whether somebody has come."""
    taken = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", taken
    finally:
        server.close()


async def ended_by(number: signal.Signals, command: Command) -> None:
    """Send the signal; fail unless the command ends by it, without a further word."""
    said = command.stderr
    command.process.send_signal(number)
    assert await command.exit_code() == CODES[number]
    assert command.stderr == said


async def test_signals_while_the_broker_says_nothing() -> None:
    """Ctrl-C ends the wait for a broker, in every command that has one."""

    async def case(number: signal.Signals, *line: str) -> None:
        # Each has a broker of its own: some connect more than once, and count for those who still start.
        async with silence() as (url, taken), Shell(url).peercli(*line) as command:
            await taken.wait()
            await ended_by(number, command)

    await asyncio.gather(
        case(INT, "pipe"),
        case(TERM, "pipe", "x"),
        case(INT, "connect", "x"),
        case(HUP, "listen"),
        case(INT, "peers"),
    )


async def test_signals_while_waiting_for_a_peer(shell: Shell) -> None:
    """Ctrl-C ends the wait for whoever may come, and the broker's own."""
    async with AsyncExitStack() as life:
        lines = ("pipe",), ("pipe", "--recv-only"), ("listen",), ("listen", "--once")
        commands = [await life.enter_async_context(shell.peercli(*line)) for line in lines]
        for command in commands:
            await command.says("Listening as ")
        await asyncio.gather(*map(ended_by, (INT, HUP, INT, TERM), commands))


async def test_signals_while_negotiating(shell: Shell) -> None:
    """Ctrl-C ends the wait for the answer of a peer that is there and does not answer."""
    deaf = fresh("deaf")
    async with connect(socket_url(shell.broker, id=deaf, token="t")) as socket, AsyncExitStack() as life:
        assert json.loads(await socket.recv())["type"] == "OPEN"
        lines = ("pipe", deaf), ("connect", deaf)
        commands = [await life.enter_async_context(shell.peercli(*line)) for line in lines]
        offers: set[str] = set()
        async with asyncio.timeout(30):
            while len(offers) < len(commands):
                message = json.loads(await socket.recv())
                offers |= {message["src"]} if message["type"] == "OFFER" else set()
        await asyncio.gather(*map(ended_by, (INT, TERM), commands))


@asynccontextmanager
async def joined(shell: Shell, *options: str) -> AsyncIterator[tuple[Command, Command]]:
    """A pipe in the middle of its life: who waited, and who called."""
    box = fresh("box")
    async with shell.peercli("pipe", "--id", box, *options) as waiting:
        await waiting.says("Listening as")
        async with shell.peercli("pipe", box, *options) as calling:
            for one, other in ((waiting, calling), (calling, waiting)):
                await one.write(b"some\n")
                assert await other.line() == "some"
            yield waiting, calling


async def test_signals_in_the_middle_of_a_pipe(shell: Shell) -> None:
    """Ctrl-C is told to the other side, which ends with 7 and says why."""

    async def case(number: signal.Signals, which: int) -> None:
        async with joined(shell) as ends:
            ends[which].process.send_signal(number)
            assert await ends[which].exit_code() == CODES[number]
            assert await ends[1 - which].exit_code() == 7
            await ends[1 - which].says("peercli: the peer gave up: interrupted")

    await asyncio.gather(case(INT, 0), case(TERM, 1))


async def test_ctrl_c_beside_a_frozen_peer(shell: Shell) -> None:
    """Saying goodbye to a peer that does not listen does not last."""
    async with joined(shell) as (waiting, calling):
        calling.process.send_signal(signal.SIGSTOP)
        try:
            await ended_by(INT, waiting)
        finally:
            calling.process.send_signal(signal.SIGCONT)


async def test_killed_in_the_middle(shell: Shell) -> None:
    """Nobody says goodbye, and still the other side notices, with 7: pipes, listen and connect."""

    async def pipe(which: int) -> None:
        async with joined(shell, "--no-reconnect") as ends:
            ends[which].process.kill()
            assert await ends[1 - which].exit_code() == 7
            await ends[1 - which].says("peercli: the connection to the peer was lost")

    async def chat(which: int) -> None:
        bot = fresh("bot")
        async with shell.peercli("listen", "--id", bot, "--once", "--no-reconnect") as listen:
            await listen.says("Listening as")
            async with shell.peercli("connect", bot, "--no-reconnect") as calling:
                await calling.write(b"hello\n")
                assert await listen.line() == "hello"
                ends = listen, calling
                ends[which].process.kill()
                assert await ends[1 - which].exit_code() == 7
                await ends[1 - which].says("peercli: the connection to the peer was lost")

    await asyncio.gather(pipe(0), pipe(1), chat(0), chat(1))


async def test_reader_gone(shell: Shell) -> None:
    """`| head` has seen enough: 141 on that side, 7 and the reason on the other."""

    async def waiting_side() -> None:
        box = fresh("box")
        script = f"peercli pipe --id {box} < /dev/null | head -c 10; echo :${{PIPESTATUS[0]}}"
        async with shell.script(script) as waiting:
            await waiting.says("Listening as")
            calling = await shell.run_script(f"yes | peercli pipe {box}; exit ${{PIPESTATUS[1]}}")
            assert (await waiting.read(), calling.code) == (b"y\n" * 5 + b":141\n", 7)
            assert calling.err == "peercli: the peer gave up: nobody reads its stdout any more\n"

    async def calling_side() -> None:
        box = fresh("box")
        async with shell.script(f"yes | peercli pipe --id {box}; exit ${{PIPESTATUS[1]}}") as waiting:
            await waiting.says("Listening as")
            calling = await shell.run_script(
                f"peercli pipe {box} < /dev/null | head -n 1; echo :${{PIPESTATUS[0]}}"
            )
            assert (calling.out, calling.err, await waiting.exit_code()) == (b"y\n:141\n", "", 7)
            await waiting.says("peercli: the peer gave up: nobody reads its stdout any more")

    async def messages() -> None:
        bot = fresh("bot")
        script = f"peercli listen --id {bot} | head -n 1; echo :${{PIPESTATUS[0]}}"
        async with shell.script(script) as listen:
            await listen.says("Listening as")
            async with shell.peercli("connect", bot, "-k") as calling:
                with suppress(ConnectionError):  # it has just ended, before we have seen it
                    while listen.process.returncode is None and calling.process.returncode is None:
                        await calling.write(b"line\n")
                        await asyncio.sleep(0.2)
                assert await listen.read() == b"line\n:141\n"

    await asyncio.gather(waiting_side(), calling_side(), messages())


async def test_help_that_nobody_reads(shell: Shell) -> None:
    """`| true` makes no traceback of the help."""
    done = await shell.run_script("peercli pipe --help | true; exit ${PIPESTATUS[0]}")
    assert (done.code in (0, 141), done.err) == (True, "")


async def test_stdin_is_left_to_who_comes_next(shell: Shell) -> None:
    """A pipe that reads nothing takes nothing: `--recv-only` in a script leaves the script its input."""
    box = fresh("box")
    async with shell.peercli("pipe", "--id", box, stdin=DEVNULL) as waiting:
        await waiting.says("Listening as")
        done = await shell.run_script(f"printf 'one\\ntwo\\n' | (peercli pipe {box} --recv-only; cat)")
        assert (done.code, done.out, await waiting.exit_code()) == (0, b"one\ntwo\n", 0)


async def test_ctrl_c_while_it_starts(shell: Shell) -> None:
    """In the middle of its imports it ends as any program would, without a traceback."""
    async with shell.script(f"exec {sys.executable} -X importtime -m peercli pipe") as starting:
        await starting.says("peercli.cli.exits")
        starting.process.send_signal(INT)
        assert await starting.exit_code() == -INT  # which a shell calls 130
        assert "Traceback" not in starting.stderr
        assert "KeyboardInterrupt" not in starting.stderr


async def test_a_second_ctrl_c(shell: Shell) -> None:
    """Who cannot wait for the goodbye need not: 130 at once, and quietly."""
    async with joined(shell) as (waiting, calling):
        calling.process.send_signal(signal.SIGSTOP)
        try:
            waiting.process.send_signal(INT)
            await asyncio.sleep(0.1)
            await ended_by(INT, waiting)
        finally:
            calling.process.send_signal(signal.SIGCONT)
            calling.process.kill()
