"""Bytes in and out of a process, without ever blocking the event loop.

A descriptor is read and written by a thread of its own. Setting it non-blocking instead would be set for
whoever shares it (the shell, the other end of a pipeline), and does nothing for files.
"""

from __future__ import annotations

import asyncio
import os
import queue
import select
import threading
from asyncio.subprocess import Process
from collections.abc import Callable
from typing import Protocol

__all__ = ["FdSink", "FdSource", "ProcessSink", "ProcessSource", "Sink", "Source"]

CHUNK = 1 << 18  # bytes read at once


class Source(Protocol):
    """Where bytes come from."""

    async def read(self) -> bytes:
        """Some bytes, as soon as there are any; none at the end."""

    async def close(self) -> None:
        """Read no more; free what it holds."""


class Sink(Protocol):
    """Where bytes go."""

    async def write(self, data: bytes) -> None:
        """Return when `data` is taken; raises BrokenPipeError when nobody will ever take it."""

    async def close(self) -> None:
        """Say that no more will come."""


class _Worker:
    """A thread that does one blocking call at a time. It is a daemon: one stuck in a write to a pipe that
    nobody reads cannot keep the process alive."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], bytes], asyncio.Future[bytes]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def call(self, function: Callable[[], bytes]) -> bytes:
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls.put((function, future))
        return await future

    def stop(self) -> None:
        self._calls.put(None)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, future = call
            result: bytes | BaseException
            try:
                result = function()
            except OSError as error:
                result = error
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, result)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return


def _settle(future: asyncio.Future[bytes], result: bytes | BaseException) -> None:
    if future.done():
        return
    if isinstance(result, bytes):
        future.set_result(result)
    else:
        future.set_exception(result)


class FdSource:
    """Reads a file descriptor: a file, a pipe, a terminal, a socket, /dev/null."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._worker: _Worker | None = None
        self._wake: tuple[int, int] | None = None
        self._pending: asyncio.Future[bytes] | None = None

    async def read(self) -> bytes:
        """Some bytes, none at the end. May be cancelled: what was read meanwhile comes next time.

        Raises:
            OSError: the descriptor cannot be read.
        """
        if self._worker is None:
            self._worker = _Worker(f"read-{self._fd}")
            self._wake = os.pipe()
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._worker.call(self._read))
        try:
            data = await asyncio.shield(self._pending)
        except OSError:
            self._pending = None
            raise
        self._pending = None
        return data

    def _read(self) -> bytes:
        assert self._wake is not None
        ready, _, _ = select.select([self._fd, self._wake[0]], [], [])
        return os.read(self._fd, CHUNK) if self._fd in ready else b""

    async def close(self) -> None:
        """Stop a read that is under way, and the thread. The descriptor itself stays open."""
        if self._worker is None or self._wake is None:
            return
        os.write(self._wake[1], b"\0")
        self._worker.stop()
        self._worker.join()
        if self._pending is not None:
            await asyncio.wait({self._pending})
            if not self._pending.cancelled():
                self._pending.exception()
        for fd in self._wake:
            os.close(fd)
        self._worker = self._wake = None


class FdSink:
    """Writes a file descriptor. What nobody takes is waited for, but not past the end of the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._worker: _Worker | None = None
        self._turn = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        """Write all of `data`.

        Raises:
            BrokenPipeError: nobody reads the other end any more.
            OSError: the descriptor cannot be written.
        """
        async with self._turn:
            if self._worker is None:
                self._worker = _Worker(f"write-{self._fd}")
            await self._worker.call(lambda: self._write(data))

    def _write(self, data: bytes) -> bytes:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        return b""

    async def close(self) -> None:
        """Let the thread end. The descriptor itself stays open."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None


class ProcessSource:
    """Reads a child process's standard output."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._stream = process.stdout

    async def read(self) -> bytes:
        return await self._stream.read(CHUNK)

    async def close(self) -> None:
        pass


class ProcessSink:
    """Writes a child process's standard input."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        self._stream = process.stdin

    async def write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
            await self._stream.drain()
        except ConnectionResetError:
            raise BrokenPipeError("the command reads no more") from None

    async def close(self) -> None:
        self._stream.close()
