"""Descriptors as streams: read and written by threads, and never lost when somebody stops waiting."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from peercli.errors import StorageFailed, UsageError
from peercli.services.streams import FdSink, FdSource, lines

MUCH = 8 << 20  # bytes; more than any pipe takes before it blocks


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's two ends, closed at the end if they are not yet."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for fd in ends:
            with suppress(OSError):
                os.close(fd)


async def test_a_read_that_is_cancelled_loses_nothing() -> None:
    with pipe() as (reader, writer):
        async with FdSource(reader) as source:
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await source.read()
            os.write(writer, b"late")
            assert await source.read() == b"late"
            os.close(writer)
            assert await source.read() == b""


async def test_a_source_that_is_left_in_the_middle_of_a_read() -> None:
    """The thread ends with it, and what comes later is for whoever reads next."""
    with pipe() as (reader, writer):
        async with FdSource(reader) as source:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await source.read()
        os.write(writer, b"for others")
        assert os.read(reader, 100) == b"for others"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read-")]


async def test_what_cannot_be_read() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    async with FdSource(fd) as source:
        with pytest.raises(UsageError, match="cannot be read"):
            await source.read()
    os.close(fd)


async def test_nobody_reads() -> None:
    with pipe() as (reader, writer):
        sink = FdSink(writer)
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            await sink.write(b"x")
        await sink.release()


async def test_a_full_disk() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    sink = FdSink(fd)
    with pytest.raises(StorageFailed, match="No space left"):
        await sink.write(b"x")
    await sink.release()
    os.close(fd)


async def test_a_slow_reader_and_one_who_stops_waiting() -> None:
    """A write that is cancelled is still done, before the next one."""
    with pipe() as (reader, writer):
        sink = FdSink(writer)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await sink.write(b"a" * MUCH)
        later = asyncio.create_task(sink.write(b"b"))
        await asyncio.sleep(0.05)
        assert not later.done()
        taken = b""
        while len(taken) < MUCH + 1:
            taken += await asyncio.to_thread(os.read, reader, 1 << 20)
        await later
        assert taken == b"a" * MUCH + b"b"
        await sink.close()
        assert os.read(reader, 1) == b""  # the end, although the number is still taken
        await sink.release()


async def test_lines() -> None:
    """Whole ones, however they come; the last may have no end."""

    class Pieces:
        def __init__(self, *pieces: bytes) -> None:
            self._pieces = list(pieces)

        async def read(self) -> bytes:
            return self._pieces.pop(0) if self._pieces else b""

    given = Pieces(b"one\ntw", b"o\n", b"\n", "f\u00fcnf".encode()[:2], "f\u00fcnf".encode()[2:], b"\xff")
    assert [line async for line in lines(given)] == ["one", "two", "", "f\u00fcnf\ufffd"]
