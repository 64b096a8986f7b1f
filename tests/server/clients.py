"""Raw clients of a broker: a socket and JSON, as little as possible in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.brokers import socket_url

__all__ = [
    "QUIET",
    "SOON",
    "client",
    "ends",
    "get",
    "has_left",
    "hears_nothing",
    "mute_client",
    "receive",
    "send",
]

SOON = 20.0  # seconds by which what must come has come, on the busiest of machines
QUIET = 0.3  # seconds in which what must not come would have come


async def receive(socket: ClientConnection) -> Any:
    async with asyncio.timeout(SOON):
        return json.loads(await socket.recv())


async def hears_nothing(socket: ClientConnection) -> bool:
    try:
        async with asyncio.timeout(QUIET):
            await socket.recv()
    except TimeoutError:
        return True
    return False


async def ends(socket: ClientConnection) -> bool:
    """Did the broker close the socket, with nothing more to say?"""
    try:
        async with asyncio.timeout(SOON):
            await socket.recv()
    except ConnectionClosed:
        return True
    return False


async def send(socket: ClientConnection, type: str, **fields: Any) -> None:
    await socket.send(json.dumps({"type": type, **fields}))


@asynccontextmanager
async def client(url: str, id: str, token: str = "token", **options: Any) -> AsyncIterator[ClientConnection]:
    """A client whose id the broker has confirmed; `options` are those of `websockets` `connect`."""
    async with connect(socket_url(url, id=id, token=token), **options) as socket:
        assert await receive(socket) == {"type": "OPEN"}
        yield socket


async def get(url: str, method: str = "GET", **headers: str) -> tuple[int, Any, str]:
    """Status, headers and body."""
    async with aiohttp.request(method, url, headers=headers) as response:
        return response.status, response.headers, await response.text()


async def has_left(url: str, id: str) -> None:
    """Return once the broker, which has to allow discovery, knows that the client is gone."""
    async with asyncio.timeout(SOON):
        while id in json.loads((await get(url + "peerjs/peers"))[2]):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def mute_client(url: str, id: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A client whose network has gone after it got its id: nothing is read any more, no ping answered."""
    async with client(url, id, **options) as socket:
        socket.transport.pause_reading()
        try:
            yield socket
        finally:
            socket.transport.abort()
