"""Peers that know each other, clients that misbehave, and a wire that can be cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from peercli.peer.data import DataConnection
from peercli.peer.emitter import Emitter
from peercli.peer.peer import Peer
from tests.brokers import our_server

__all__ = ["PATIENCE", "Wire", "event", "linked", "make", "pair", "payload", "until", "wire"]

PATIENCE = 40.0  # s until a test that hangs is told so


def make(id: str | None, url: str, **options: Any) -> Peer:
    """A peer that asks no server for its address."""
    return Peer(id, server=url, **{"ice_servers": ()} | options)


@asynccontextmanager
async def pair(url: str | None = None, **options: Any) -> AsyncIterator[tuple[Peer, Peer]]:
    """Alice and Bob, at the broker at `url` or at one of ours. `options` are Bob's."""
    async with asyncio.timeout(PATIENCE):
        if url is None:
            async with our_server() as url, make("alice", url) as alice, make("bob", url, **options) as bob:
                yield alice, bob
        else:
            async with make("alice", url) as alice, make("bob", url, **options) as bob:
                yield alice, bob


@asynccontextmanager
async def linked(**options: Any) -> AsyncIterator[tuple[DataConnection, DataConnection]]:
    """A connection from Alice to Bob, both ends. `options` are those of `connect`."""
    async with pair() as (alice, bob):
        here = await alice.connect("bob", **options)
        yield here, await bob.accept()


async def event(emitter: Emitter, name: str) -> tuple[Any, ...]:
    """What the next event of this name brings."""
    heard: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()

    def listen(*values: Any) -> None:
        if not heard.done():
            heard.set_result(values)

    emitter.once(name, listen)
    return await heard


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what no event tells of."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Wire:
    """A TCP relay between peers and their broker, which can be cut."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self._near: set[asyncio.StreamWriter] = set()
        self._far: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent = False
        self.swallows = False  # what is said either way is taken, and passed on to nobody
        self.to_broker = b""
        self.from_broker = b""

    async def start(self, port: int = 0) -> str:
        """Listen, and give the URL that leads here."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", port)
        port = self._server.sockets[0].getsockname()[1]
        return urlunsplit(self._target._replace(netloc=f"127.0.0.1:{port}"))

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        far_reader, far_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._near.add(writer)
        self._far.add(far_writer)
        sending = asyncio.create_task(self._send(reader, far_writer))
        try:
            with suppress(OSError):
                while data := await far_reader.read(65_536):
                    self.from_broker += data
                    if not self.swallows:
                        writer.write(data)
        finally:
            writer.transport.abort()
            far_writer.transport.abort()
            await sending

    async def _send(self, reader: asyncio.StreamReader, far_writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                self.to_broker += data
                if not self.swallows:
                    far_writer.write(data)
            if not self._silent:
                far_writer.close()

    def cut(self, *, unnoticed: bool = False) -> None:
        """Break what is there; `unnoticed` by the broker, as when a laptop wakes up in another network."""
        self._silent = unnoticed
        for writer in self._near if unnoticed else self._near | self._far:
            writer.transport.abort()

    async def stop(self) -> None:
        """Listen no more, and break what is there."""
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()


@asynccontextmanager
async def wire(url: str) -> AsyncIterator[tuple[Wire, str]]:
    """A wire to the broker at `url`, and the URL of its near end."""
    relay = Wire(url)
    near = await relay.start()
    try:
        yield relay, near
    finally:
        await relay.stop()


def payload(connection_id: str, sdp: str, **more: Any) -> dict[str, Any]:
    """What an OFFER of a PeerJS page carries."""
    given = {
        "sdp": {"type": "offer", "sdp": sdp},
        "type": "data",
        "connectionId": connection_id,
        "label": connection_id,
        "reliable": False,
        "serialization": "binary",
    }
    return json.loads(json.dumps(given | more))  # type: ignore[no-any-return]
