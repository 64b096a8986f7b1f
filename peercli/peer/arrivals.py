"""Those who have come to us, and whom nobody has accepted yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from peercli.errors import Disconnected, PeerError

__all__ = ["Arrivals"]

C = TypeVar("C")


class Arrivals(Generic[C]):
    """A queue that ends with an error, for everybody who waits, when nobody will come any more."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[C | None] = asyncio.Queue()  # None: `_end` may say why nobody follows
        self._end: PeerError | None = None

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, connection: C) -> None:
        """Add one to the end."""
        self._queue.put_nowait(connection)

    def end(self, error: PeerError) -> None:
        """Let `take` raise, once those who have come are taken, until `go_on`."""
        self._end = error
        self._queue.put_nowait(None)

    def go_on(self) -> None:
        """Others may come after all."""
        self._end = None

    async def take(self) -> C:
        """The next one; may be cancelled without losing it. Raises what `end` was given."""
        while True:
            connection = await self._queue.get()
            if connection is not None:
                return connection
            if self._end is not None:
                self._queue.put_nowait(None)  # for the next who asks
                raise self._end

    async def __aiter__(self) -> AsyncIterator[C]:
        """Each of them; that we left is no error here."""
        while True:
            try:
                connection = await self.take()
            except Disconnected:
                return
            yield connection
