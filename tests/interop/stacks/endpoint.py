"""What the Python endpoints share: requests from stdin, answers to stdout; see the package's docstring."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
import traceback
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeAlias

__all__ = ["Connection", "End", "Wire", "counted", "main"]

Wire: TypeAlias = bytes | str

MAX_LINE = 1 << 24  # bytes of a request


def counted(start: int, size: int) -> bytes:
    """Bytes `start` to `start + size` of big-endian 32-bit 0, 1, 2, …; both are multiples of 4."""
    words = array("I", range(start // 4, (start + size) // 4))
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes()


class End(ABC):
    """This stack's end of a data channel."""

    label: str
    ordered: bool

    @abstractmethod
    async def opened(self) -> None:
        """Return once the channel is open."""

    @abstractmethod
    async def send(self, data: Wire) -> None:
        """Send a message, and wait while too much is buffered."""

    @abstractmethod
    async def receive(self) -> Wire:
        """The next message."""

    @abstractmethod
    async def close(self) -> None:
        """Close the channel."""

    @abstractmethod
    async def closed(self) -> None:
        """Return once the far side has closed the channel."""


class Connection(ABC):
    """This stack's end of a connection; `came` has the channels that the far side opens."""

    def __init__(self) -> None:
        self.came: asyncio.Queue[End] = asyncio.Queue()

    @abstractmethod
    async def offer(self, label: str, ordered: bool) -> tuple[str, End]:
        """An offer, with all candidates, and the channel in it."""

    @abstractmethod
    async def answer(self, sdp: str) -> str:
        """The answer to the far side's offer, with all candidates."""

    @abstractmethod
    async def accept(self, sdp: str) -> None:
        """Take the far side's answer."""

    @abstractmethod
    async def open(self, label: str, ordered: bool) -> End:
        """Open one more channel."""

    @abstractmethod
    async def close(self) -> None:
        """End the connection."""


class _Endpoint:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channels: list[End] = []
        self._echoes: set[asyncio.Task[None]] = set()

    def _add(self, channel: End) -> int:
        self._channels.append(channel)
        return len(self._channels) - 1

    async def offer(self, label: str, ordered: bool) -> str:
        sdp, channel = await self._connection.offer(label, ordered)
        self._add(channel)
        return sdp

    async def answer(self, sdp: str) -> str:
        return await self._connection.answer(sdp)

    async def accept(self, sdp: str) -> None:
        await self._connection.accept(sdp)

    async def open(self, label: str, ordered: bool) -> int:
        channel = await self._connection.open(label, ordered)
        await channel.opened()
        return self._add(channel)

    async def accepted(self) -> dict[str, Any]:
        channel = await self._connection.came.get()
        return {"channel": self._add(channel), "label": channel.label, "ordered": channel.ordered}

    async def opened(self, channel: int) -> None:
        await self._channels[channel].opened()

    async def send(self, channel: int, messages: list[dict[str, Any]]) -> None:
        for message in messages:
            text: str | None = message.get("text")
            await self._channels[channel].send(counted(0, message["bytes"]) if text is None else text)

    async def receive(self, channel: int, count: int) -> list[dict[str, Any]]:
        return [_described(await self._channels[channel].receive()) for _ in range(count)]

    async def pump(self, channel: int, count: int, size: int, counting: bool) -> None:
        send = self._channels[channel].send
        same = bytes(size)
        for number in range(count):
            await send(counted(number * size, size) if counting else same)

    async def sink(self, channel: int, size: int, digest: bool) -> Any:
        end = self._channels[channel]
        messages = 0
        kept: list[Wire] = []
        sha256 = hashlib.sha256()
        while size > 0:
            message = await end.receive()
            size -= len(message)
            messages += 1
            if digest and end.ordered:
                sha256.update(_octets(message))
            elif digest:
                kept.append(message)
        for message in sorted(map(_octets, kept), key=lambda octets: octets[:4]):
            sha256.update(message)
        return [messages, sha256.hexdigest()] if digest else messages

    async def echo(self, channel: int) -> None:
        async def echo() -> None:
            end = self._channels[channel]
            while True:
                await end.send(await end.receive())

        self._echoes.add(asyncio.create_task(echo()))

    async def ping(self, channel: int, count: int) -> list[float]:
        end = self._channels[channel]
        times = []
        for _ in range(count):
            began = time.perf_counter()
            await end.send(b"\0")
            await end.receive()
            times.append(time.perf_counter() - began)
        return times

    async def close(self, channel: int) -> None:
        await self._channels[channel].close()

    async def closed(self, channel: int) -> None:
        await self._channels[channel].closed()

    async def end(self) -> None:
        for echo in self._echoes:
            echo.cancel()
        await asyncio.gather(*self._echoes, return_exceptions=True)
        await self._connection.close()


def _octets(message: Wire) -> bytes:
    return message.encode() if isinstance(message, str) else message


def _described(message: Wire) -> dict[str, Any]:
    octets = _octets(message)
    sha256 = hashlib.sha256(octets).hexdigest()
    return {"text": isinstance(message, str), "size": len(octets), "sha256": sha256}


async def _serve(connection: Connection) -> None:
    endpoint = _Endpoint(connection)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(MAX_LINE)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks: set[asyncio.Task[None]] = set()

    async def answer(id: int, do: str, parameters: dict[str, Any]) -> None:
        try:
            answer = {"id": id, "result": await getattr(endpoint, do)(**parameters)}
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            answer = {"id": id, "error": "".join(traceback.format_exception(error))}
        print(json.dumps(answer), flush=True)

    while line := await reader.readline():
        request = json.loads(line)
        task = asyncio.create_task(answer(request.pop("id"), request.pop("do"), request))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await endpoint.end()


def main(connection: Callable[[], Connection]) -> None:
    """Serve one connection until stdin ends. `connection` is called in the event loop."""

    async def serve() -> None:
        await _serve(connection())

    with suppress(KeyboardInterrupt):
        asyncio.run(serve())
