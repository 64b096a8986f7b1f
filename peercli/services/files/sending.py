"""Files on their way to one peer, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

from peercli.errors import (
    BrokerError,
    ConnectionClosed,
    ConnectionLost,
    NegotiationFailed,
    PeerUnavailable,
    StorageFailed,
    TimedOut,
    UsageError,
    WebRTCError,
)
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.protocol.transfer import METADATA, Outcome
from peercli.protocol.transfer_sender import Finished, Sender, Settled
from peercli.services.chat import announce
from peercli.services.dial import dialled
from peercli.services.events import Report
from peercli.services.files.events import FileFailed, FileSent, FileSkipped, Resuming, TransferEnded
from peercli.services.files.line import Line, in_thread
from peercli.services.files.outgoing import Reader, Selection
from peercli.services.files.progress import Meter, offer_of
from peercli.services.redial import RETRIES, pause, redial

__all__ = ["FILES", "Sending", "send_files"]

FILES: dict[str, Any] = {"metadata": METADATA, "serialization": "raw", "reliable": True}
"""How a connection for files is opened: options of `Peer.connect`."""

MAX_PIECE = 262_144
PIECE_TIME = 0.25  # s that one message takes at a limited rate
SMALLEST_PIECE = 1_024  # bytes

_LOST = (
    ConnectionLost,
    ConnectionClosed,
    PeerUnavailable,
    NegotiationFailed,
    WebRTCError,
    TimedOut,
    BrokerError,
)


async def send_files(
    peer: Peer, peer_id: str, sending: Sending, *, timeout: float, retries: int = RETRIES
) -> None:
    """Send to `peer_id`, by a peer that is not started yet, and go on after lost connections.

    Args:
        timeout: seconds to reach the peer, the first time; at most so many each time again.
        retries: attempts in a row, without progress, to reach it again.

    Raises:
        Declined: the far side does not want it.
        StorageFailed: the far side cannot keep it, or not all of it.
        UsageError: some of it could not be read.
        PeerError: as `dialled` raises; ConnectionLost when going on failed `retries` times.
    """
    attempt = 0
    async with dialled(peer, peer_id, timeout=timeout, **FILES) as first:
        connection: DataConnection | None = first
        while True:
            sent = sending.sent
            try:
                if connection is None:
                    connection = await redial(peer, peer_id, timeout=timeout, **FILES)
                await announce(connection, sending.report)
                await sending.over(connection)
                break
            except _LOST as error:
                if sending.settled:
                    break
                attempt = 1 if sending.sent > sent else attempt + 1
                if attempt > retries:
                    raise
                delay = pause(attempt)
                await sending.report(Resuming(peer_id, attempt, delay, error.message))
                await asyncio.sleep(delay)
            finally:
                if connection is not None:
                    await connection.close()
                connection = None
        await sending.conclude(peer_id)


class Sending:
    """A selection of files. `over` a connection it is sent; over the next one it goes on; `close` at the end.

    Attributes:
        sent: bytes of content handed to connections so far, those of holes included.
    """

    def __init__(
        self, selection: Selection, report: Report, *, limit_rate: float | None = None, stdin: int = 0
    ) -> None:
        self.report = report
        self.sent = 0
        self._selection = selection
        self._entries = selection.entries
        self._limit_rate = limit_rate
        self._reader = Reader(selection.sources, stdin=stdin)
        self._outcomes: dict[int, Outcome] = {}
        self._resumed: dict[int, int] = {}
        self._meter = Meter(self._entries)

    @property
    def settled(self) -> bool:
        """Whether it is known of everything what became of it."""
        return len(self._outcomes) == len(self._entries)

    async def over(self, connection: DataConnection) -> None:
        """Send what the far side does not have, until it says of everything what became of it.

        Raises:
            Declined, StorageFailed: the far side does not want it, or cannot keep it.
            ConnectionLost: the connection ended before; the next one goes on.
            ProtocolError: the far side broke the protocol.
        """
        await self.report(offer_of(connection.peer, self._entries))
        piece_size = min(MAX_PIECE, connection.max_message)
        if self._limit_rate is not None:
            piece_size = max(SMALLEST_PIECE, min(piece_size, int(self._limit_rate * PIECE_TIME)))
        now = asyncio.get_running_loop().time
        sender = Sender(self._entries, self._selection.id, now(), piece_size=piece_size)
        line = Line(connection, sender, limit_rate=self._limit_rate)
        stopped = threading.Event()
        news = asyncio.Event()

        async def take(message: str | bytes) -> None:
            for action in sender.received(message, now()):
                match action:
                    case Settled(entries):
                        await self._settle(connection.peer, sender, entries)
                    case Finished():
                        line.over = True
            news.set()

        async def work() -> None:
            while not line.over:
                plan = sender.plan()
                if not plan:
                    news.clear()
                    await news.wait()
                    continue
                chunks = await in_thread(stopped, self._reader.read, plan, stopped)
                await line.drained()
                for chunk in chunks:
                    length = len(chunk.data) + chunk.hole
                    self.sent += length
                    self._resumed.setdefault(chunk.entry, chunk.offset)
                    self._meter.at(chunk.entry, chunk.offset + length, length, now())
                for settled in sender.read(chunks):
                    if isinstance(settled, Settled):
                        await self._settle(connection.peer, sender, settled.entries)
                line.push()
                await self._meter.tell(connection.peer, self.report, now())

        await line.run(take, work())
        await self._meter.tell(connection.peer, self.report, now(), last=True)

    async def conclude(self, peer: str) -> None:
        """Report how it ended.

        Raises:
            StorageFailed: the far side did not keep everything; or a file changed while it was sent.
            UsageError: something could not be read.
        """
        failed = [outcome for outcome in self._outcomes.values() if outcome.state == "failed"]
        skipped = [outcome for outcome in self._outcomes.values() if outcome.state == "skipped"]
        for problem in self._selection.problems:
            await self.report(FileFailed(peer, problem.path, "unreadable", problem.message))
        await self.report(
            TransferEnded(
                peer,
                files=sum(entry.kind == "file" for entry in self._entries),
                size=self._meter.done,
                bytes=self.sent,
                skipped=len(skipped),
                failed=len(failed) + len(self._selection.problems),
                seconds=self._meter.seconds(asyncio.get_running_loop().time()),
            )
        )
        if failed:
            raise StorageFailed(
                _count(len(failed), len(self._entries), failed[0].message or failed[0].reason)
            )
        if self._selection.problems:
            first = self._selection.problems[0]
            raise UsageError(f"not everything could be read: {first.path}: {first.message}")

    def close(self) -> None:
        self._reader.close()

    async def _settle(self, peer: str, sender: Sender, entries: Iterable[int]) -> None:
        for index in entries:
            outcome = sender.outcomes[index]
            if outcome is None or index in self._outcomes:
                continue
            self._outcomes[index] = outcome
            entry = self._entries[index]
            self._meter.settle(index, safe=outcome.state == "safe")
            if outcome.state == "safe":
                size = entry.size if entry.size is not None else self._meter.position(index)
                resumed = self._resumed.get(index, size)
                await self.report(FileSent(peer, entry.name, size, self._reader.digest(index), resumed))
            elif outcome.state == "skipped":
                await self.report(FileSkipped(peer, entry.name, outcome.reason, outcome.message))
            else:
                await self.report(FileFailed(peer, entry.name, outcome.reason, outcome.message))


def _count(failed: int, all_of_them: int, why: str) -> str:
    return f"{failed:,} of {all_of_them:,} were not delivered: {why}"
