"""peercli connect, against peercli listen and the library: lines become messages, messages lines."""

from __future__ import annotations

import asyncio
import base64
import json
from asyncio.subprocess import DEVNULL
from typing import Any

import pytest

from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from tests.cli.shell import Shell, fresh

VALUES: list[Any] = [
    "text",
    '🥦 \\ "quoted"',
    1,
    -2.5,
    True,
    None,
    [1, [2, {"a": []}]],
    {"deep": {"bytes": {"$bytes": base64.b64encode(b"\0\xff").decode()}}},
    {"$bytes": ""},
]


@pytest.mark.parametrize("serialization", ["binary", "msgpack", "json", "raw"])
async def test_values_there_and_back(shell: Shell, serialization: str) -> None:
    """What goes in as JSON comes back from `listen --echo` as the same JSON, and is printed alike there."""
    values = {
        "json": [value for value in VALUES if "$bytes" not in json.dumps(value)],
        "raw": [value for value in VALUES if isinstance(value, str) or value == {"$bytes": ""}],
    }.get(serialization, VALUES)
    if serialization == "raw":
        values = [*values[:-1], {"$bytes": "AP8="}]
    bot = fresh("bot")
    async with shell.peercli("listen", "--id", bot, "--echo", "--once") as listen:
        await listen.says("Listening as")
        options = ("--input", "json", "--serialization", serialization, "-k")
        async with shell.peercli("connect", bot, *options) as connect:
            lines = [json.dumps(value) for value in values]
            await connect.write("\n\n".join(lines) + "\n")  # empty lines are no messages
            expected = [value if isinstance(value, str) else json.dumps(value) for value in values]
            assert [await connect.line() for _ in values] == expected
            assert [await listen.line() for _ in values] == expected


async def test_text_lines(shell: Shell) -> None:
    """Every line is a message, empty ones and a last one without an end too; nothing is lost at the end."""
    bot = fresh("bot")
    lines = [f"line {number}" for number in range(2000)]
    text = "\n".join(["one", "", " two ", '{"no": "json"}', *lines, "no end"])
    async with shell.peercli("listen", "--id", bot, "--once") as listen:
        await listen.says("Listening as")
        connect = await shell.run("connect", bot, input=text.encode())
        assert (connect.code, connect.out, connect.err) == (0, b"", "")
        assert (await listen.read()).decode() == text + "\n"
        assert await listen.exit_code() == 0


async def accepted(shell: Shell, peer: Peer, *options: str, input: bytes = b"") -> DataConnection:
    """The connection that `connect OPTIONS` opens to a peer; it ends by itself."""
    calling = asyncio.create_task(shell.run("connect", peer.id, *options, input=input))
    connection = await peer.accept()
    async for _ in connection:
        pass
    done = await calling
    assert done.code == 0, done.err
    return connection


async def test_what_a_connection_is_made_of(shell: Shell) -> None:
    """Label, metadata, order and serialization are what the options say."""
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer:
        plain = await accepted(shell, peer)
        assert (plain.metadata, plain.reliable, plain.serialization) == (None, True, "binary")
        assert plain.label == plain.connection_id
        metadata = {"a": [1, "🥦"]}
        options = ("--label", "a label", "--metadata", json.dumps(metadata), "--unreliable")
        dressed = await accepted(shell, peer, *options, "--serialization", "json")
        assert (dressed.label, dressed.metadata) == ("a label", metadata)
        assert (dressed.reliable, dressed.serialization) == (False, "json")


async def test_waiting_for_replies(shell: Shell) -> None:
    """--wait stays so long for replies, -k until the peer closes, and neither is needed for what is quick."""
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer:

        async def reply(delay: float, text: str) -> None:
            connection = await peer.accept()
            question = await connection.receive()
            await asyncio.sleep(delay)
            await connection.send(f"{question} {text}")
            await connection.close(flush=True)

        for options in (("--wait", "20"), ("-k",)):
            replying = asyncio.create_task(reply(1.0, "late"))
            done = await shell.run("connect", peer.id, *options, input=b"how are you?\n")
            await replying
            assert (done.code, done.out) == (0, b"how are you? late\n")


async def test_input_that_is_no_json(shell: Shell) -> None:
    """The line is named, exit code 2, and what came before it has arrived."""
    bot = fresh("bot")
    async with shell.peercli("listen", "--id", bot, "--once") as listen:
        await listen.says("Listening as")
        connect = await shell.run("connect", bot, "--input", "json", input=b'{"a": 1}\n\n{"b": }\n3\n')
        assert connect.code == 2
        assert connect.err.startswith("peercli: line 3 of stdin is not JSON: ")
        assert connect.err.count("\n") == 1
        assert await listen.read() == b'{"a": 1}\n'


async def test_values_that_cannot_be_sent(shell: Shell) -> None:
    """Exit code 2, for what the serialization cannot carry and for what no JSON is."""
    bot = fresh("bot")
    async with shell.peercli("listen", "--id", bot, stdout=DEVNULL) as listen:
        await listen.says("Listening as")
        bad = await asyncio.gather(
            shell.run("connect", bot, "--input", "json", "--serialization", "raw", input=b"[1]\n"),
            shell.run("connect", bot, "--serialization", "json", input=b"x" * 20_000),
            shell.run("connect", bot, "--metadata", "{oops"),
            shell.run("connect", bot, "--input", "json", input=b'{"$bytes": "no base64!"}\n'),
        )
        assert [done.code for done in bad] == [2, 2, 2, 2], [done.err for done in bad]
        assert bad[2].err.startswith("peercli: --metadata is not JSON: ")
        assert bad[3].err.startswith("peercli: line 1 of stdin is not JSON: ")


async def test_events_are_on_stdout(shell: Shell) -> None:
    """With --json every line of stdout is an event."""
    bot = fresh("bot")
    async with shell.peercli("listen", "--id", bot, "--echo", "--json") as listen:
        assert json.loads(await listen.line()) == {"event": "open", "id": bot}
        done = await shell.run(
            "connect", bot, "--json", "--label", "l", "--metadata", "[1]", "--wait", "1", input=b"hello\n"
        )
        assert (done.code, done.err) == (0, "")
        ours = [json.loads(line) for line in done.out.splitlines()]
        theirs = [json.loads(await listen.line()) for _ in range(4)]
        for said in (ours, theirs):
            assert [event["event"] for event in said] == ["connection", "route", "data", "close"]
            assert said[0] | {"peer": ""} == {
                "event": "connection",
                "peer": "",
                "connection": ours[0]["connection"],
                "label": "l",
                "metadata": [1],
                "serialization": "binary",
            }
            assert said[2]["data"] == "hello"
            assert said[3]["reason"] == "closed"
        assert (ours[1]["local"], ours[1]["remote"]) == (theirs[1]["remote"], theirs[1]["local"])


async def test_the_peer_closes_first(shell: Shell) -> None:
    """The end of a conversation is no fault; the end of it in the middle of a message is, with 7."""
    async with Peer(fresh("peer"), server=shell.broker, ice_servers=()) as peer:
        async with shell.peercli("connect", peer.id) as connect:
            connection = await peer.accept()
            await connect.write("hello\n")
            assert await connection.receive() == "hello"
            await connection.close()
            assert (await connect.exit_code(), connect.stderr) == (0, "")
        async with shell.peercli("connect", peer.id) as connect:
            connection = await peer.accept()
            assert connect.process.stdin
            connect.process.stdin.write(b"more than anybody takes\n" * 1_000_000)
            await connection.receive()
            await connect.stuck()
            await connection.close()
            assert await connect.exit_code() == 7
            await connect.says("peercli: the peer closed the connection before everything was sent")
