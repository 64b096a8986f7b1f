"""TURN servers that the broker offers: used when nothing else is said, with a real coturn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from peercli.options import DEFAULT_ICE_SERVERS, parse_broker
from peercli.peer.directory import offered_ice
from peercli.peer.peer import Peer
from tests.brokers import our_server
from tests.commands import peercli
from tests.rtc.ice_servers import coturn


@asynccontextmanager
async def offering(folder: Path) -> AsyncIterator[str]:
    """A broker of ours that hands out credentials for a coturn."""
    secret = folder / "secret"
    secret.write_text("turn secret\n")
    async with coturn(folder, secret="turn secret") as turn:
        url = f"turn:{turn.address}:{turn.port}?transport=udp"
        async with our_server(turn_urls=("stuns:for-others.example", url), turn_secret_file=secret) as broker:
            yield broker


async def test_commands_use_what_the_broker_offers(tmp_path: Path) -> None:
    async with offering(tmp_path) as broker:
        options = ("--server", broker, "--relay", "--json")
        async with peercli("listen", *options, "--id", "here", "--once") as listen:
            assert json.loads(await listen.line())["event"] == "open"
            async with peercli("connect", "here", *options) as connect:
                await connect.write("over TURN\n")
                connect.end_input()
                heard = [json.loads(await listen.line())]
                while heard[-1]["event"] != "data":
                    heard.append(json.loads(await listen.line()))
                assert heard[-1]["data"] == "over TURN"
                assert any(event["event"] == "route" and event["relayed"] for event in heard)


async def test_what_is_said_goes_before_what_is_offered(tmp_path: Path) -> None:
    async with offering(tmp_path) as broker:
        async with Peer(server=broker) as peer:
            assert [server.scheme for server in peer.ice.servers] == ["turn"]
        async with Peer(server=broker, ice_servers=()) as peer:
            assert peer.ice.servers == ()
    async with our_server() as broker, Peer(server=broker) as peer:
        assert peer.ice.servers == DEFAULT_ICE_SERVERS


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"iceServers":[],"ttl":1}',
        b'{"iceServers":7,"ttl":1}',
        b'{"iceServers":[7],"ttl":1}',
        b'{"iceServers":[{"urls":7}],"ttl":1}',
        b'{"iceServers":[{"urls":["http://x"]}],"ttl":1}',
        b'{"iceServers":[{"urls":["turn:x"],"username":7}],"ttl":1}',
        b'{"iceServers":[{"urls":["stun:x"]}]}',
        b'{"iceServers":[{"urls":["stun:x"]}],"ttl":"soon"}',
    ],
)
async def test_an_offer_that_cannot_be_read_is_none(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(answer)
        writer.write(head + answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port: Any = server.sockets[0].getsockname()[1]
        assert await offered_ice([parse_broker(f"http://127.0.0.1:{port}/")], "a", "t") is None
