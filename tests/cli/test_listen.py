"""peercli listen: many peers at once, whom it lets in, how it ends, and a broker that comes and goes."""

from __future__ import annotations

import asyncio
import base64
import json
import os

from peercli.peer.peer import Peer
from tests.brokers import port_of
from tests.cli.shell import Shell, fresh
from tests.commands import peercli


async def test_many_peers_at_once(shell: Shell) -> None:
    """Whoever comes is heard while the others stay; each gets its own echo."""
    bot = fresh("bot")
    async with (
        shell.peercli("listen", "--id", bot, "--echo") as listen,
        Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer,
    ):
        await listen.says("Listening as")
        count = 25
        connections = await asyncio.gather(*(peer.connect(bot) for _ in range(count)))
        for round in range(3):
            await asyncio.gather(*(each.send(f"{n}.{round}") for n, each in enumerate(connections)))
        heard = {await listen.line() for _ in range(3 * count)}
        assert heard == {f"{n}.{round}" for n in range(count) for round in range(3)}
        for n, connection in enumerate(connections):
            assert [await connection.receive() for _ in range(3)] == [f"{n}.{round}" for round in range(3)]
        await connections[0].close()
        await connections[1].send("still here")
        assert await listen.line() == "still here"


async def test_once(shell: Shell) -> None:
    """The first connection's end is the end, and nobody else is let in meanwhile."""
    bot = fresh("bot")
    async with (
        shell.peercli("listen", "--id", bot, "--once") as listen,
        Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer,
    ):
        await listen.says("Listening as")
        first = await peer.connect(bot)
        second = await shell.run("connect", bot)
        assert (second.code, second.err) == (8, f"peercli: the peer {bot} declined\n")
        await first.send("all of it")
        await first.close(flush=True)
        assert (await listen.read(), await listen.exit_code()) == (b"all of it\n", 0)


async def test_who_is_let_in(shell: Shell) -> None:
    """--allow names who may, --max-peers how many; the others are told at once, with 8."""
    bot, friend, other = fresh("bot"), fresh("friend"), fresh("other")
    async with shell.peercli(
        *("listen", "--id", bot, "--allow", friend, "--allow", other, "--max-peers", "1")
    ) as listen:
        await listen.says("Listening as")
        stranger, calls = await asyncio.gather(
            shell.run("connect", bot, "--json"),
            shell.run("connect", bot, "--id", friend, input=b"let me in\n"),
        )
        assert (stranger.code, calls.code) == (8, 0), calls.err
        error = json.loads(stranger.out)
        assert error == error | {"event": "error", "type": "declined", "exit_code": 8}
        assert await listen.line() == "let me in"
        async with shell.peercli("connect", bot, "--id", friend) as staying:
            await staying.write("I stay\n")
            assert await listen.line() == "I stay"
            assert (await shell.run("connect", bot, "--id", other)).code == 8
            staying.end_input()
            assert await staying.exit_code() == 0
        assert (await shell.run("connect", bot, "--id", other, input=b"now\n")).code == 0
        assert await listen.line() == "now"


async def test_streams(shell: Shell) -> None:
    """Pipes come out as their bytes, one after the other, never mixed; messages are lines between them."""
    bot = fresh("bot")
    async with shell.peercli("listen", "--id", bot) as listen:
        await listen.says("Listening as")
        streams = [bytes([letter]) * 3_000_000 for letter in b"ab"]
        calling = asyncio.gather(*(shell.run("pipe", bot, input=stream) for stream in streams))
        assert await listen.read(6_000_000) in (streams[0] + streams[1], streams[1] + streams[0])
        assert [(done.code, done.err, done.out) for done in await calling] == [(0, "", b"")] * 2
        assert (await shell.run("connect", bot, input=b"a message\n")).code == 0
        assert await listen.line() == "a message"


async def test_events(shell: Shell) -> None:
    """With --json: who comes, what they say, streams piece by piece and as a whole, and every end."""
    bot = fresh("bot")
    async with shell.peercli("listen", "--id", bot, "--json") as listen:
        events = [json.loads(await listen.line())]
        stream = os.urandom(300_000)
        assert (await shell.run("pipe", bot, input=stream)).code == 0
        assert (await shell.run("connect", bot, "--input", "json", input=b"[1]\n")).code == 0
        while [event["event"] for event in events].count("close") < 2:
            events.append(json.loads(await listen.line()))
    assert listen.stderr == ""
    data = [event.pop("data") for event in events if event["event"] == "data"]
    assert b"".join(base64.b64decode(piece["$bytes"]) for piece in data[:-1]) == stream
    assert data[-1] == [1]
    whole = next(event for event in events if event["event"] == "stream")
    assert whole["bytes"] == len(stream)
    assert [event["reason"] for event in events if event["event"] == "close"] == ["closed"] * 2
    assert {event["event"] for event in events} == {"open", "connection", "route", "data", "stream", "close"}
    assert {event["connection"] for event in events[1:] if "connection" in event} == {
        event["connection"] for event in events if event["event"] == "connection"
    }


async def test_broker_killed_and_started_again(shell: Shell) -> None:
    """The id is taken back, what is open lives on, and new connections are possible afterwards."""
    local = {"PEERCLI_ICE": "none"}
    async with peercli("server", "--port", "0") as broker:
        server = await broker.says("Listening at ")
        async with (
            peercli("listen", "--id", "bot", "--echo", "--server", server, env=local) as listen,
            peercli("connect", "bot", "--server", server, env=local) as calling,
            peercli("pipe", "--id", "box", "--server", server, env=local) as waiting,
        ):
            await listen.says("Listening as bot")
            await waiting.says("Listening as box")
            await calling.write("before\n")
            assert await calling.line() == "before"
            broker.kill()
            await listen.says("The broker is away")
            await waiting.says("The broker is away")
            await calling.write("meanwhile\n")
            assert await calling.line() == "meanwhile"
            async with peercli("server", "--port", str(port_of(server))) as again:
                await again.says("Listening at ")
                await listen.says("Listening as bot")
                await waiting.says("Listening as box")
                later = Shell(server)
                waiting.end_input()
                chat, stream = await asyncio.gather(
                    later.run("connect", "bot", "--wait", "5", input=b"after\n"),
                    later.run("pipe", "box", input=b"bytes"),
                )
                assert (chat.code, chat.out, stream.code) == (0, b"after\n", 0)
                await calling.write("still\n")
                assert await calling.line() == "still"
