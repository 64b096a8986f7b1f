"""One side of the file protocol on a connection: its messages, its clock, its farewell."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from peercli.errors import ConnectionClosed, ConnectionLost, PeerError, ProtocolError, StorageFailed
from peercli.peer.data import DataConnection
from peercli.protocol.transfer import Side, Wire

__all__ = ["Line", "in_thread"]

FAREWELL_TIMEOUT = 3.0  # s to tell the peer that we give up
WATCH = 5.0  # s between two looks at the clock

P = ParamSpec("P")
R = TypeVar("R")


class Line:
    """Carries a side's outbox over a connection, in order, at no more than `limit_rate` bytes/s of content.

    `push` after every call of the side that may have filled the outbox; `drained` waits until it is out.

    Attributes:
        complete: to be set once the peer has said all it had to. That it leaves is no failure then.
        over: to be set once both sides have. That we leave needs no word then.
    """

    def __init__(self, connection: DataConnection, side: Side, *, limit_rate: float | None = None) -> None:
        self.over = self.complete = False
        self._connection = connection
        self._side = side
        self._limit_rate = limit_rate
        self._taking = False
        self._waiting = asyncio.Event()
        self._drained = asyncio.Event()

    def push(self) -> None:
        if self._side.outbox:
            self._drained.clear()
            self._waiting.set()

    @property
    def _may_end(self) -> bool:
        """Whether it is no failure that the connection does."""
        return self.over or self.complete

    async def drained(self) -> None:
        await self._drained.wait()

    async def run(
        self, take: Callable[[str | bytes], Awaitable[None]], work: Coroutine[Any, Any, None]
    ) -> None:
        """Do `work` to its end, and `take` each message meanwhile.

        Raises:
            ConnectionLost: the connection ended before, or the peer fell silent.
            PeerError: what `take` or `work` raised. The peer is told why we leave.
        """
        self.push()
        working = asyncio.create_task(work)
        tasks = {
            working,
            asyncio.create_task(self._write()),
            asyncio.create_task(self._read(take)),
            asyncio.create_task(self._watch()),
        }
        try:
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            for task in [working] if working in done else done:
                task.result()
        except BaseException as error:
            await self._take_leave(error)
            raise

    async def _write(self) -> None:
        loop, outbox = asyncio.get_running_loop(), self._side.outbox
        due = loop.time()
        try:
            while True:
                while outbox:
                    message = outbox.pop(0)
                    if self._limit_rate is not None and not isinstance(message, str):
                        due = max(due, loop.time()) + len(message) / self._limit_rate
                        await asyncio.sleep(due - loop.time())
                    await self._connection.send(message)
                    if not isinstance(message, str):  # control is too little to wait for room
                        self._side.progressed(loop.time())
                self._drained.set()
                self._waiting.clear()
                await self._waiting.wait()
        except (ConnectionClosed, ConnectionLost):
            if self._may_end:
                self._drained.set()
            await _forever()  # reading, which may be behind, tells why

    async def _read(self, take: Callable[[str | bytes], Awaitable[None]]) -> None:
        try:
            async for message in self._connection:
                if not isinstance(message, str | bytes):
                    raise ProtocolError("the peer sent something else than text and bytes")
                self._taking = True
                await take(message)
                self._taking = False
                self.push()
        except ConnectionLost:
            if not self._may_end:
                raise
        if self._may_end:
            await _forever()
        raise ConnectionLost("the peer closed the connection before everything was there")

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._taking:
                # It is we who do not listen, for a slow disk it may be: then their silence means nothing, and
                # ours must not mean anything to them.
                self._side.progressed(loop.time())
                self._side.ping()
            next_time = self._side.tick(loop.time())
            self.push()
            await asyncio.sleep(min(max(next_time - loop.time(), 0.1), WATCH))

    async def _take_leave(self, error: BaseException) -> None:
        if self.over or self._side.left:
            return
        message = error.message if isinstance(error, PeerError) else ""
        match error:
            case ProtocolError():
                reason = "protocol"
            case StorageFailed():
                reason = "storage"
            case BrokenPipeError():
                reason, message = "storage", "nobody reads it any more"
            case ConnectionLost() | ConnectionClosed():
                return
            case asyncio.CancelledError():
                reason = "cancelled"
            case _:
                reason = "internal"
        self._side.outbox.clear()
        self._side.cancel(reason, message)
        with contextlib.suppress(PeerError, TimeoutError):
            await asyncio.wait_for(self._say(self._side.outbox.pop()), FAREWELL_TIMEOUT)

    async def _say(self, message: Wire) -> None:
        await self._connection.send(message)
        await self._connection.flush()


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def in_thread(
    stopped: threading.Event, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """Run `function` in a thread. Cancelled, it sets `stopped` and waits for the thread to heed that."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait({running})
        if not running.cancelled():
            running.exception()
        raise
