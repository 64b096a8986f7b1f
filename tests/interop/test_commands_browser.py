"""peercli's commands against stock PeerJS in real browsers, through the real PeerServer and through ours."""

from __future__ import annotations

import json
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from peercli.protocol.jsontext import from_json, to_json
from tests.brokers import BrokerFactory, our_server, port_of
from tests.commands import Command, peercli
from tests.interop.browsers import Page, PageConnection
from tests.interop.values import SERIALIZATIONS, counted, data, differences, from_python, in_python, sendable


def shell(server: str, *arguments: str, stdout: int = PIPE) -> AbstractAsyncContextManager[Command]:
    """`peercli ARGUMENTS` at this broker; no address is asked of anybody."""
    return peercli(*arguments, stdout=stdout, env={"PEERCLI_SERVER": server, "PEERCLI_ICE": "none"})


async def event(command: Command, name: str) -> dict[str, Any]:
    """The next event of that name that a command with --json prints."""
    while (found := json.loads(await command.line()))["event"] != name:
        pass
    return dict(found)


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
async def test_listen_echo(page: Page, server: str, echo: str, serialization: str) -> None:
    """What the page sends to `listen --echo` comes back as a stock page would have got it."""
    cases = sendable(serialization)
    theirs = await page.peer(server)
    there = await theirs.connect(echo, serialization=serialization, reliable=True)
    await there.send(*(case.sent for case in cases))
    expected = [case.after(serialization) for case in cases]
    assert differences(cases, expected, await there.receive(len(cases))) == []
    await there.close(flush=serialization != "raw")
    await there.happened("close")


async def test_listen_prints(page: Page, server: str) -> None:
    """Each message is a line: text as it is, anything else as JSON; several connections at once."""
    async with shell(server, "listen") as listen:
        id = await listen.says("Listening as ")
        theirs = await page.peer(server)
        first = await theirs.connect(id, reliable=True)
        second = await theirs.connect(id, serialization="json")
        await first.send("🥦 text", 1.5, [None, {"a": True}], data("Uint8Array", b"\0\1"))
        lines = ["🥦 text", "1.5", '[null, {"a": true}]', '{"$bytes": "AAE="}']
        assert [await listen.line() for _ in lines] == lines
        await second.send({"from": "the second"})
        assert json.loads(await listen.line()) == {"from": "the second"}
        await first.close()
        await second.send("still here")
        assert await listen.line() == "still here"


async def test_listen_tells_all_in_json(page: Page, server: str) -> None:
    """With --json, the page's connection, message and end are events."""
    async with shell(server, "listen", "--json") as listen:
        opened = await event(listen, "open")
        theirs = await page.peer(server)
        options = {"label": "a label", "metadata": {"a": [1]}, "serialization": "json"}
        there = await theirs.connect(opened["id"], **options)
        ends = {"peer": theirs.id, "connection": there.facts["connectionId"]}
        assert (await event(listen, "connection")).items() >= (ends | options).items()
        await there.send({"deep": [1, None]})
        assert (await event(listen, "data")).items() >= (ends | {"data": {"deep": [1, None]}}).items()
        await there.close()
        assert (await event(listen, "close")).items() >= ends.items()


async def test_listen_tells_every_value(page: Page) -> None:
    """In JSON are: bytes as base64, a date as its ISO text, what is no number as null."""
    async with our_server() as server, shell(server, "listen", "--json") as listen:
        theirs, id = await page.peer(server), (await event(listen, "open"))["id"]
        for serialization in SERIALIZATIONS:
            cases = sendable(serialization)
            there = await theirs.connect(id, serialization=serialization, reliable=True)
            await there.send(*(case.sent for case in cases))
            told = [from_python(from_json(to_json(await event(listen, "data")))["data"]) for _ in cases]
            assert differences(cases, [in_json(in_python(case, serialization)) for case in cases], told) == []


def in_json(tagged: Any) -> Any:
    """What --json makes of a value, which both are tagged."""
    match tagged:
        case list():
            return [in_json(item) for item in tagged]
        case {"$": "number"}:
            return None
        case {"$": "Date"}:
            return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=tagged["value"])).isoformat()
        case dict() if "$" not in tagged:
            return {key: in_json(item) for key, item in tagged.items()}
        case _:
            return tagged


async def test_connect(page: Page, server: str) -> None:
    """Lines reach the page as text, its answers are lines; the end of stdin closes after the last line."""
    theirs = await page.peer(server)
    options = ("--label", "a label", "--metadata", '{"a": [1]}', "--unreliable")
    async with shell(server, "connect", theirs.id, *options) as connect:
        there = await theirs.accept()
        expected = {"label": "a label", "metadata": {"a": [1]}, "serialization": "binary", "reliable": False}
        assert there.facts.items() >= expected.items()
        await connect.write("hello 🥦\n")
        assert await there.receive() == ["hello 🥦"]
        await there.send({"a": 1})
        assert json.loads(await connect.line()) == {"a": 1}
        lines = [f"line {number}" for number in range(500)]
        await connect.write("\n".join([*lines, ""]))
        connect.end_input()
        assert sorted(await there.receive(len(lines))) == sorted(lines)
        await there.happened("close")
        assert await connect.exit_code() == 0


@pytest.mark.parametrize("serialization", ["binary", "json", "raw", "msgpack"])
async def test_connect_with_json(page: Page, server: str, serialization: str) -> None:
    """Values written as JSON reach the page as values, and come back as JSON."""
    values: list[Any] = ["text", "🥦"]
    if serialization != "raw":
        values += [1, -1.5, True, [None, {"a": {}}], {"b": [1, "x"]}]
    if serialization != "json":
        values.append({"$bytes": "AAE="})
    theirs = await page.peer(server)
    how = ("--input", "json", "--serialization", serialization, "--keep-open")
    async with shell(server, "connect", theirs.id, *how) as connect:
        there = await theirs.accept()
        await there.echo()
        await connect.write("".join(json.dumps(value) + "\n" for value in values))
        lines = [await connect.line() for _ in values]
        assert [
            line if line == value else json.loads(line) for line, value in zip(lines, values, strict=True)
        ] == values
        await there.close()
        assert await connect.exit_code() == 0


async def test_exit_codes(page: Page, server: str) -> None:
    """The codes for a peer that is not there, and for an id that the page has."""
    theirs = await page.peer(server)
    async with (
        shell(server, "connect", "nobody") as absent,
        shell(server, "listen", "--id", theirs.id) as taken,
    ):
        assert await absent.exit_code() == 4
        assert await taken.exit_code() == 5


METADATA = {"peercli": {"service": "pipe", "version": 1}}
HELLO = {"type": "hello", "version": 1, "window": 1 << 20, "receives": True}


async def test_pipe_with_a_page_that_knows_it(page: Page, server: str) -> None:
    """A page that speaks the pipe protocol gets and gives bytes, and each direction ends by itself."""
    theirs = await page.peer(server)
    async with shell(server, "pipe", theirs.id) as pipe:
        there = await theirs.accept()
        assert (there.facts["metadata"], there.facts["serialization"]) == (METADATA, "raw")
        await there.send(json.dumps(HELLO))
        assert (await control(there)).items() >= {"type": "hello", "version": 1, "receives": True}.items()
        await there.send(data("Uint8Array", b"from the page\n\0"), json.dumps({"type": "end", "bytes": 15}))
        assert await pipe.read() == b"from the page\n\0"
        assert await control(there) == {"type": "ack", "bytes": 15, "end": True}
        await pipe.write(b"from the shell\n")
        assert await there.receive() == [data("ArrayBuffer", b"from the shell\n")]
        pipe.end_input()
        assert await control(there) == {"type": "end", "bytes": 15}
        await there.send(json.dumps({"type": "ack", "bytes": 15, "end": True}))
        assert await pipe.exit_code() == 0
        await there.happened("close")


async def control(connection: PageConnection) -> dict[str, Any]:
    """The next message that the page gets, which is one of the pipe protocol's own."""
    return dict(json.loads((await connection.receive())[0]))


async def test_pipe_with_a_plain_page(page: Page, server: str) -> None:
    """A page that knows nothing of pipes sends bytes to `pipe`, and its close is their end."""
    async with shell(server, "pipe") as pipe:
        id = await pipe.says("Listening as ")
        there = await (await page.peer(server)).connect(id, serialization="raw", reliable=True)
        await there.send({"$": "Uint8Array", "count": 100_000}, "and text")
        assert await pipe.read(100_008) == counted(100_000) + b"and text"
        await pipe.write(b"\0from the shell")
        while await there.receive() != [data("ArrayBuffer", b"\0from the shell")]:
            pass  # a greeting, which means nothing to this page
        await there.close()
        assert await pipe.read() == b""
        assert await pipe.exit_code() == 0


async def test_listen_outlives_a_killed_broker(page: Page, broker: BrokerFactory) -> None:
    """Open connections stay, and `listen` comes back for new ones, under its id."""
    async with AsyncExitStack() as life:
        async with broker() as server:
            listen = await life.enter_async_context(shell(server, "listen", "--echo", stdout=DEVNULL))
            id = await listen.says("Listening as ")
            theirs = await page.peer(server)
            there = await theirs.connect(id)
        await theirs.happened("disconnected")
        await there.send("meanwhile")
        assert await there.receive() == ["meanwhile"]
        async with broker(port=port_of(server)):
            assert await listen.says("Listening as ") == id
            await theirs.tell("reconnect")
            assert await theirs.happened("open") == theirs.id
            for connection in (there, await theirs.connect(id)):
                await connection.send("afterwards")
                assert await connection.receive() == ["afterwards"]


async def test_a_page_can_prove_nothing(page: Page, server: str) -> None:
    """Where there is a secret it is refused, in whichever direction, and both sides are told."""
    async with shell(server, "listen", "--secret", "a secret") as listen:
        id = await listen.says("Listening as ")
        theirs = await page.peer(server)
        await theirs.dial(id)
        assert (await theirs.happened("error"))["type"] == "peer-unavailable"
        assert "has no secret set" in await listen.says(f"Refused {theirs.id}")
        async with shell(server, "connect", theirs.id, "--secret", "a secret") as connect:
            assert await connect.exit_code() == 10
            assert "a PeerJS page cannot prove anything" in connect.stderr
