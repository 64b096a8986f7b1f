"""A connection to Redis that can be cut."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

__all__ = ["Wire"]


class Wire:
    """A way to the Redis at the URL `redis`, by a socket at `path`, while its `async with` block lasts."""

    def __init__(self, redis: str, path: Path) -> None:
        self._target = redis.removeprefix("unix://")
        self._path = path
        self.url = f"unix://{path}"
        self._ends: set[asyncio.StreamWriter] = set()
        self._open = True

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_unix_server(self._carry, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        self._open = False
        for end in self._ends:
            end.transport.abort()

    def mend(self) -> None:
        self._open = True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        except OSError:  # Redis is not there
            writer.transport.abort()
            return
        self._ends |= {writer, far_writer}

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.transport.abort()

        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))
        self._ends -= {writer, far_writer}
