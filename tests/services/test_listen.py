"""Listener, in one loop with its visitors: streams in turn, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from peercli.peer.peer import Peer
from peercli.protocol.messages import Offer
from peercli.protocol.transfer import METADATA
from peercli.services.admission import Admission, parse_rules
from peercli.services.dial import joined
from peercli.services.events import Close, Connection, Data, Event, Stream
from peercli.services.files.events import FilesOffered
from peercli.services.files.receiving import Inbox
from peercli.services.files.storage import SaveDir
from peercli.services.lasting import connect
from peercli.services.listen import Listener
from peercli.services.pipe import PIPE, Pipe
from tests.brokers import our_server
from tests.peer.peers import PATIENCE, make, until

VISITS = 40


class Sink:
    """Keeps what is written, and whether somebody closed it."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.closed = False

    async def write(self, data: bytes) -> None:
        self.taken.append(data)
        await asyncio.sleep(0.001)

    async def close(self) -> None:
        self.closed = True


class Source:
    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def read(self) -> bytes:
        await asyncio.sleep(0.001)
        return self._pieces.pop(0) if self._pieces else b""


@asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[tuple[Peer, Listener, list[Event], str]]:
    """A visitor, a listener, what the listener reports, and their broker."""
    events: list[Event] = []

    async def report(event: Event) -> None:
        events.append(event)

    listener = Listener(report=report, **({"output": None} | options))
    async with (
        asyncio.timeout(PATIENCE),
        our_server() as url,
        make("listener", url, admit=listener.admit, lasting=True) as peer,
        make("visitor", url) as visitor,
    ):
        serving = asyncio.create_task(listener.run(peer))
        try:
            yield visitor, listener, events, url
        finally:
            serving.cancel()
            await asyncio.wait({serving})


async def ignore(event: Event) -> None:
    pass


async def agree(offer: FilesOffered) -> bool:
    return True


async def test_streams_in_turn_on_one_stdout() -> None:
    """One after the other, never mixed; the output outlives them all."""
    sink = Sink()
    async with listening(output=sink) as (_, _, events, url):

        async def send(letter: bytes) -> None:
            async with joined(
                make(None, url), "listener", ignore, timeout=30, reconnect=letter < b"c", **PIPE
            ) as connection:
                await Pipe(connection, Source(*[letter * 50_000] * 20), None).run()

        await asyncio.gather(*map(send, (b"a", b"b", b"c")))
        await until(lambda: sum(isinstance(event, Close) for event in events) == 3)
    whole = b"".join(sink.taken)
    order = list(dict.fromkeys(whole))
    assert whole == b"".join(bytes([letter]) * 1_000_000 for letter in order)
    assert sorted(order) == list(b"abc")
    assert [event.bytes for event in events if isinstance(event, Stream)] == [1_000_000] * 3
    assert not sink.closed


async def test_echo_and_events() -> None:
    async with listening(echo=True) as (visitor, _, events, _):
        connection = await connect(visitor, "listener", ignore, timeout=30, reconnect=True, label="l")
        for value in ("text", {"a": [1, None]}, b"bytes"):
            await connection.send(value)
            assert await connection.receive() == value
        await connection.close(flush=True)
        await until(lambda: isinstance(events[-1], Close))
    assert [event.data for event in events if isinstance(event, Data)] == ["text", {"a": [1, None]}, b"bytes"]
    first = next(event for event in events if isinstance(event, Connection))
    assert (first.peer, first.label, first.metadata) == ("visitor", "l", None)
    assert isinstance(events[-1], Close)
    assert events[-1].reason == "closed"


def test_a_command_is_not_to_be_had_with_the_right_to_send_files(tmp_path: Path) -> None:
    """Beside --exec, files go to the inbox; what only looks like files goes nowhere."""
    rules = parse_rules(["friend:file", "boss"])
    place = SaveDir(tmp_path)
    inbox = Inbox(place, ignore, consent=agree)
    admission = Admission(rules, known={})
    listener = Listener(report=ignore, output=None, command="cat", inbox=inbox, admission=admission)

    def admits(
        peer: str, serialization: str = "raw", reliable: bool = True, session: str | None = None
    ) -> bool:
        return listener.admit(
            Offer(peer, "c", "data", "", METADATA, "", reliable, serialization, session=session)
        )

    assert admits("friend")
    assert admits("boss")
    assert not admits("friend", serialization="binary")  # not what carries files: it would get the command
    assert admits("boss", serialization="binary")
    for peer in ("friend", "boss"):
        assert not admits(peer, session="s")
        assert not admits(peer, reliable=False)
    place.close()


async def test_nothing_is_left_of_those_who_were_here() -> None:
    """Whichever way they leave: no tasks, sockets, threads, nor objects."""
    async with listening(echo=True) as (visitor, _, events, _):

        async def visit(number: int) -> None:
            connection = await connect(visitor, "listener", ignore, timeout=30, reconnect=number % 2 == 0)
            await connection.send(number)
            assert await connection.receive() == number
            await connection.close(flush=number % 3 == 0)

        async def count(visits: int) -> tuple[int, int, int, int]:
            for start in range(0, visits, 5):
                await asyncio.gather(*map(visit, range(start, start + 5)))
            await until(lambda: not visitor.active)
            await asyncio.sleep(0.2)
            events.clear()
            gc.collect()
            files = len(list(Path("/proc/self/fd").iterdir()))  # noqa: ASYNC240
            return len(asyncio.all_tasks()), files, threading.active_count(), len(gc.get_objects())

        before, after = await count(VISITS), await count(VISITS)  # caches fill up in the first round
        assert after[:3] == before[:3]
        # A connection is hundreds of objects; timers that were cancelled stay for a while.
        assert after[3] - before[3] < 5 * VISITS, (before, after)
