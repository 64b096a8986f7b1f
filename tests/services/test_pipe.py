"""Pipe, both ends in one loop over a connection that is none: what happens to streams, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from peercli.errors import ConnectionClosed, ConnectionLost, PeerError, StorageFailed
from peercli.protocol.pipe import METADATA, WINDOW, End, Hello, encode
from peercli.services.pipe import Pipe
from tests.peer.peers import until

PIECE = 1 << 16


class Line:
    """One end of a connection, as far as a pipe cares."""

    serialization = "raw"
    metadata = METADATA
    max_message = 1 << 18

    def __init__(self, *, outgoing: bool) -> None:
        self.outgoing = outgoing
        self.far: Line
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()
        self._over = False

    async def send(self, value: Any) -> None:
        await asyncio.sleep(0)
        if self._over or self.far._over:
            raise ConnectionClosed("closed")
        self.far._inbox.put_nowait(value)

    async def flush(self) -> None:
        if self._over or self.far._over:
            raise ConnectionClosed("closed")

    async def close(self, *, flush: bool = False) -> None:
        if not self._over:
            self._over = True
            for end in (self, self.far):
                end._inbox.put_nowait(ConnectionClosed("closed"))

    def lose(self) -> None:
        for end in (self, self.far):
            end._over = True
            end._inbox.put_nowait(ConnectionLost("lost"))

    async def __aiter__(self) -> AsyncIterator[Any]:
        while True:
            value = await self._inbox.get()
            if isinstance(value, ConnectionClosed):
                return
            if isinstance(value, PeerError):
                raise value
            yield value


class Source:
    """Gives pieces, one a turn; then ends, or does not."""

    def __init__(self, *pieces: bytes, ends: bool = True) -> None:
        self._pieces = list(pieces)
        self._ends = ends

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        if not self._pieces and not self._ends:
            await asyncio.Event().wait()
        return self._pieces.pop(0) if self._pieces else b""


class Sink:
    """Takes all, while it is let; or fails."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.taken = b""
        self.closed = asyncio.Event()
        self.may = asyncio.Event()
        self.may.set()
        self._fails = fails

    async def write(self, data: bytes) -> None:
        await self.may.wait()
        if self._fails:
            raise self._fails
        self.taken += data

    async def close(self) -> None:
        self.closed.set()


def line() -> tuple[Any, Any]:
    """Both ends of a connection: who called, who was called."""
    here, there = Line(outgoing=True), Line(outgoing=False)
    here.far, there.far = there, here
    return here, there


async def run(*pipes: Pipe) -> list[BaseException | None]:
    """Run pipes to their ends; what each raised."""
    async with asyncio.timeout(30):
        return await asyncio.gather(*(pipe.run() for pipe in pipes), return_exceptions=True)


async def test_both_ways() -> None:
    here, there = line()
    sinks = Sink(), Sink()
    ended = await run(Pipe(here, Source(b"to ", b"there"), sinks[0]), Pipe(there, Source(b"back"), sinks[1]))
    assert ended == [None, None]
    assert [sink.taken for sink in sinks] == [b"back", b"to there"]
    assert all(sink.closed.is_set() for sink in sinks)


@pytest.mark.parametrize("which", [0, 1])
async def test_half_close(which: int) -> None:
    """One direction ends, its sink with it; the other goes on until it ends, too."""
    ends = line()
    more = asyncio.Event()

    class Late(Source):
        async def read(self) -> bytes:
            await more.wait()
            return await super().read()

    sources = [Source(b"question"), Late(b"ans", b"wer")]
    sinks = [Sink(), Sink()]
    pipes = [Pipe(ends[(which + side) % 2], sources[side], sinks[side]) for side in (0, 1)]
    running = asyncio.create_task(run(*pipes))
    await asyncio.wait_for(sinks[1].closed.wait(), 30)
    assert (sinks[1].taken, running.done()) == (b"question", False)
    more.set()
    assert await running == [None, None]
    assert sinks[0].taken == b"answer"


async def test_a_slow_reader() -> None:
    """The writer stops at the window; the other direction goes on; then all of it comes."""
    here, there = line()
    sinks = Sink(), Sink()
    sinks[1].may.clear()
    pieces = [bytes([n % 256]) * PIECE for n in range(3 * WINDOW // PIECE)]
    sending = Pipe(here, Source(*pieces), sinks[0])
    running = asyncio.create_task(run(sending, Pipe(there, Source(b"meanwhile"), sinks[1])))
    await asyncio.wait_for(sinks[0].closed.wait(), 30)
    await until(lambda: sending.sent >= WINDOW)
    await asyncio.sleep(0.05)
    assert (sending.sent, sinks[0].taken, sinks[1].taken) == (WINDOW, b"meanwhile", b"")
    sinks[1].may.set()
    assert await running == [None, None]
    assert sinks[1].taken == b"".join(pieces)


async def test_the_reader_is_gone() -> None:
    """BrokenPipeError on that side, which is exit code 141; the other side is told why."""
    here, there = line()
    gone = BrokenPipeError("nobody reads its stdout any more")
    ended = await run(Pipe(here, Source(b"x", ends=False), Sink()), Pipe(there, Source(), Sink(gone)))
    assert ended[1] is gone
    assert isinstance(ended[0], ConnectionLost)
    assert "nobody reads its stdout" in str(ended[0])


async def test_a_sink_that_fails() -> None:
    here, there = line()
    full = StorageFailed("the disk is full")
    ended = await run(Pipe(here, Source(ends=False), Sink(full)), Pipe(there, Source(b"x"), Sink()))
    assert ended[0] is full
    assert "the disk is full" in str(ended[1])


@pytest.mark.parametrize("stuck", ["reading", "writing", "sending"])
async def test_cancelled(stuck: str) -> None:
    """Whatever it waits for, it ends, closes the connection, and tells the other side."""
    here, there = line()
    sinks = Sink(), Sink()
    if stuck == "writing":
        sinks[0].may.clear()
    if stuck == "sending":
        sinks[1].may.clear()
    many = [bytes(PIECE)] * (3 * WINDOW // PIECE)
    pipe = Pipe(here, Source(*(many if stuck == "sending" else []), ends=False), sinks[0])
    other = Pipe(there, Source(b"x", ends=False), sinks[1])
    running, others = asyncio.create_task(run(pipe)), asyncio.create_task(run(other))
    await until(lambda: pipe.sent >= (WINDOW if stuck == "sending" else 0) and other.sent > 0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    for sink in sinks:
        sink.may.set()
    (error,) = await others
    assert isinstance(error, ConnectionLost)
    assert "interrupted" in str(error)


async def test_a_lost_connection() -> None:
    """What came before is with the sink, and both sides say that it was lost."""
    here, there = line()
    sinks = Sink(), Sink()
    pipes = Pipe(here, Source(b"some", ends=False), sinks[0]), Pipe(there, Source(ends=False), sinks[1])
    running = asyncio.create_task(run(*pipes))
    await until(lambda: sinks[1].taken == b"some")
    here.lose()
    assert [type(error) for error in await running] == [ConnectionLost, ConnectionLost]


async def test_nothing_is_wanted() -> None:
    """A side without a sink is not sent anything: the other's source is left alone."""
    here, there = line()
    source, sink = Source(b"unwanted", ends=False), Sink()
    pipe = Pipe(here, source, sink)
    assert await run(pipe, Pipe(there, Source(b"only this"), None)) == [None, None]
    assert (pipe.sent, sink.taken) == (0, b"only this")


async def test_empty_messages_do_not_pile_up() -> None:
    here, there = line()
    sink = Sink()
    sink.may.clear()
    receiving = Pipe(there, None, sink)
    running = asyncio.create_task(receiving.run())
    await here.send(encode(Hello(WINDOW, receives=False)))
    for message in (b"a", *[b""] * 1_000, b"z", encode(End(2))):
        await here.send(message)
    await until(there._inbox.empty)
    assert receiving._arrivals.qsize() <= 3
    sink.may.set()
    await until(sink.closed.is_set)
    assert sink.taken == b"az"
    running.cancel()
    await asyncio.wait([running])
