"""Bytes in and out of a process, without ever blocking the event loop.

A descriptor is read and written by a thread of its own. Setting it non-blocking instead would be set for
whoever shares it (the shell, the other end of a pipeline), and does nothing for files.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import select
import threading
from collections.abc import AsyncIterator, Callable
from typing import Protocol, Self

from peercli.errors import StorageFailed, UsageError

__all__ = ["FdSink", "FdSource", "Sink", "Source", "lines"]

CHUNK = 1 << 20  # bytes read at once: each time costs two changes of threads
MAX_LINE = 64 << 20  # bytes of a line that is one message


class Source(Protocol):
    """Where bytes come from."""

    async def read(self) -> bytes:
        """Some bytes, as soon as there are any; none at the end."""


class Sink(Protocol):
    """Where bytes go."""

    async def write(self, data: bytes) -> None:
        """Return when `data` is taken; raises BrokenPipeError when nobody will ever take it."""

    async def close(self) -> None:
        """Say that no more will come; raises if what was written is lost after all."""


async def lines(source: Source) -> AsyncIterator[str]:
    """The lines of a source, without their ends; the last one may have none.

    Raises:
        UsageError: a line is longer than MAX_LINE.
    """
    rest = bytearray()
    while data := await source.read():
        *whole, last = data.split(b"\n")
        for line in whole:
            yield (rest + line).decode(errors="replace")
            rest.clear()
        rest += last
        if len(rest) > MAX_LINE:
            raise UsageError(f"a line is longer than {MAX_LINE >> 20} MiB", hint="peercli pipe sends bytes")
    if rest:
        yield rest.decode(errors="replace")


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


def _widen(fd: int) -> None:
    """Let a pipe hold a whole CHUNK, where that can be had: 64 KiB are the usual, and make for many turns."""
    with contextlib.suppress(AttributeError, OSError):  # not Linux; no pipe, or no more may be had
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, CHUNK)


class FdSource:
    """Reads a file descriptor: a file, a pipe, a terminal, a socket, /dev/null."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._worker: _Worker | None = None
        self._wake: tuple[int, int] | None = None
        self._pending: asyncio.Future[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def read(self) -> bytes:
        """Some bytes, none at the end. May be cancelled: what was read meanwhile comes next time.

        Raises:
            UsageError: the descriptor cannot be read.
        """
        if self._worker is None:
            _widen(self._fd)
            self._worker = _Worker(f"read-{self._fd}")
            self._wake = os.pipe()
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._worker.call(self._read))
        try:
            data = await asyncio.shield(self._pending)
        except OSError as error:
            self._pending = None
            raise UsageError(f"{_name(self._fd)} cannot be read: {error.strerror}") from None
        self._pending = None
        return data

    def _read(self) -> bytes:
        assert self._wake is not None
        while True:
            ready, _, _ = select.select([self._fd, self._wake[0]], [], [])
            if self._fd not in ready:
                return b""
            with contextlib.suppress(BlockingIOError):  # whoever shares it was quicker
                return os.read(self._fd, CHUNK)

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
            StorageFailed: the descriptor cannot be written: the disk is full, for one.
        """
        async with self._turn:
            await self._call(lambda: self._write(data))

    def _write(self, data: bytes) -> bytes:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # whoever shares it made it so
                select.select([], [self._fd], [])
        return b""

    async def close(self) -> None:
        """Close the descriptor, so that its reader sees the end; the number leads to /dev/null from then on.

        Raises:
            StorageFailed: what was written is lost after all, as some file systems find only now.
        """
        async with self._turn:
            await self._call(self._close)
            await self.release()

    def _close(self) -> bytes:
        # Closing the copy, not the descriptor, tells of errors and never leaves the number free.
        copy, null = os.dup(self._fd), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._fd)
        os.close(null)
        os.close(copy)
        return b""

    async def release(self) -> None:
        """Let the thread end when it can; the descriptor stays open."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    async def _call(self, function: Callable[[], bytes]) -> None:
        if self._worker is None:
            _widen(self._fd)
            self._worker = _Worker(f"write-{self._fd}")
        try:
            await self._worker.call(function)
        except BrokenPipeError:
            raise BrokenPipeError(f"nobody reads its {_name(self._fd)} any more") from None
        except OSError as error:
            raise StorageFailed(f"{_name(self._fd)} cannot be written: {error.strerror}") from None


def _name(fd: int) -> str:
    return {0: "stdin", 1: "stdout"}.get(fd, f"descriptor {fd}")
