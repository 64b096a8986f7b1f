"""One client's WebSocket, as the realm's link: a bounded outbox, and a watch for silence."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from aiohttp import WSMsgType, web

from peercli.server.options import Limits

__all__ = ["Socket"]

_FRAME_OVERHEAD = 128  # bytes that a waiting frame costs beyond its own


class Socket:
    """Sends without waiting: frames queue up, and one task at a time writes them while there are any.

    A peer that falls silent is pinged, and dropped when it stays so: its network is gone. `heard` is to be
    called for everything that comes from it.
    """

    def __init__(
        self, web_socket: web.WebSocketResponse, transport: asyncio.Transport, limits: Limits
    ) -> None:
        self._web_socket = web_socket
        self._transport = transport
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._outbox: deque[tuple[WSMsgType, bytes]] = deque()
        self._waiting = 0
        self._farewell: tuple[int, bytes] | None = None
        self._on_said: Callable[[], None] | None = None
        self._leaving = asyncio.Event()
        self._paused = False
        self._writer: asyncio.Task[None] | None = None
        self._heard_at = self._loop.time()
        self._answered = asyncio.Event()  # cleared while a ping is out
        self._answered.set()
        self._watch = self._loop.call_at(self._heard_at + limits.ping_interval, self._check_silence)

    def send(self, data: bytes, kind: WSMsgType = WSMsgType.TEXT) -> bool:
        """Queue a frame; False when the outbox is full. After `close` nothing is sent any more."""
        if self._farewell is not None:
            return True
        if self._waiting + len(data) + _FRAME_OVERHEAD > self._limits.max_outbox:
            return False
        self._waiting += len(data) + _FRAME_OVERHEAD
        self._outbox.append((kind, data))
        self._wake()
        return True

    def close(self, code: int, reason: str) -> None:
        """Say goodbye once all that was sent has left."""
        if self._farewell is None:
            self._farewell = code, reason.encode()
            self._leaving.set()
            self._wake()

    def when_said(self, callback: Callable[[], None] | None) -> None:
        """Have `callback` called when, after `close`, all that was sent has left: `say_goodbye` is due."""
        self._on_said = callback

    async def say_goodbye(self) -> None:
        """The closing handshake. The task that reads must do it, and read no more.

        Else aiohttp does not wait for the far side's part of it, and Firefox takes what it was sent last,
        and has not looked at yet, for lost.
        """
        assert self._farewell is not None
        code, reason = self._farewell
        with suppress(ConnectionError):
            await self._web_socket.close(code=code, message=reason)

    def abort(self) -> None:
        """Drop the connection without a word; whoever reads from it sees its end."""
        self._leaving.set()
        self._transport.abort()

    async def pause(self, seconds: float) -> None:
        """Read nothing for a while, but no longer than the socket is to stay. Its silence is ours then."""
        self._paused = True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leaving.wait()
        self._paused = False
        self.heard()

    def heard(self) -> None:
        """Something came from the peer."""
        self._heard_at = self._loop.time()
        self._answered.set()

    async def probe(self) -> bool:
        """Is the peer still there? Asks, and waits `probe_timeout` seconds for a sign of life or the end."""
        if self._paused:
            return True
        self._ping()
        try:
            async with asyncio.timeout(self._limits.probe_timeout):
                await self._answered.wait()
        except TimeoutError:
            return False
        return True

    async def aclose(self) -> None:
        """End the watch and the writer. What is still in the outbox is given the closing timeout to leave."""
        self._watch.cancel()
        self._answered.set()
        if (writer := self._writer) is None:
            return
        try:
            async with asyncio.timeout(self._limits.close_timeout):
                await writer
        except TimeoutError:
            self.abort()

    def _wake(self) -> None:
        if self._writer is None:
            self._writer = asyncio.create_task(self._write(), name="broker socket writer")

    async def _write(self) -> None:
        try:
            while self._outbox:
                kind, data = self._outbox.popleft()
                self._waiting -= len(data) + _FRAME_OVERHEAD
                await self._web_socket.send_frame(data, kind)
            if self._farewell is not None and self._on_said is not None:
                self._on_said()
        except ConnectionError:
            self.abort()  # the reader sees it, and cleans up
        finally:
            self._writer = None

    def _ping(self) -> None:
        if self._answered.is_set():
            self._answered.clear()
            self.send(b"", WSMsgType.PING)

    def _check_silence(self) -> None:
        if self._paused:
            self.heard()
        limits = self._limits
        silence = self._loop.time() - self._heard_at
        due = self._heard_at + limits.ping_interval
        if silence >= limits.ping_interval + limits.ping_timeout:
            self.abort()
            return
        if silence >= limits.ping_interval:
            self._ping()
            due += limits.ping_timeout
        self._watch = self._loop.call_at(due, self._check_silence)
