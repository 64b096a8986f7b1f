"""What was sent and is not acknowledged to the last byte: what of it is in flight, and what was lost.

Cost is what shapes it. Chunks are kept as the bytes that were sent, in one list; a call that sent many leaves
one `Flight` for all of them; a SACK costs as much as it newly acknowledges. Only a chunk that is overtaken by
what was sent later, and so may be lost, gets an object of its own.

Loss is found by what was delivered later (RFC 8985, with a packet threshold as in RFC 9002, which grows with
the reordering that is seen).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from heapq import heappop, heappush
from operator import attrgetter

from peercli.sctp.ranges import Ranges
from peercli.sctp.roundtrip import RoundTrip

__all__ = ["Batch", "Flight", "Missing", "Outstanding"]

PACKET_THRESHOLD = 3
"""A chunk is lost if this many packets that were sent after it were delivered, until reordering was seen."""
MAX_PACKET_THRESHOLD = 1_000
MAX_REORDER_STEPS = 16
REORDER_MEMORY_ROUNDS = 64
"""Round trips without reordering after which it is no longer reckoned with."""
MAX_BLOCKS_PROCESSED = 2_000
"""Gap blocks heeded in one SACK."""
COMPLETE_BLOCKS = 16
"""Gap blocks up to which a SACK surely tells of all gaps; some stacks tell only of the first 20."""


@dataclass(slots=True)
class Flight:
    """What one call sent: up to which TSN, and the state of delivery to measure its rate against
    (draft-cheng-iccrg-delivery-rate-estimation)."""

    end: int  # exclusive
    sent_at: float
    delivered: int
    delivered_at: float
    first_sent_at: float
    app_limited: bool


_end = attrgetter("end")


class _State(Enum):
    WAITING = auto()  # in flight, but overtaken
    LOST = auto()  # to be sent again, unless it was given up
    FOUND = auto()


class Missing:
    """A chunk that something sent later has overtaken."""

    __slots__ = ("flight", "resends", "size", "state", "tsn")

    def __init__(self, tsn: int, size: int, flight: Flight, state: _State) -> None:
        self.tsn = tsn
        self.size = size
        self.flight = flight  # of its latest transmission
        self.resends = 0
        self.state = state


@dataclass(slots=True)
class Batch:
    """What the SACKs of one batch told."""

    acked: int = 0
    newest: Flight | None = None  # the one sent last of which something was delivered
    fresh: Flight | None = None  # the same among first transmissions
    ambiguous: bool = False  # it answers something that was sent again, and may be late for the rest
    overtaken: int = 0  # all before this TSN was sent before something that was delivered
    complete: bool = True  # it told of all gaps


class Outstanding:
    """TSNs here are unbounded; `first` is the first to be used. Sizes are of whole chunks.

    Up to `cum` all is acknowledged. From there to `_top` each chunk is either in `_sacked` or in `_missing`.
    The rest, up to `next_tsn`, is in flight for the first time.
    """

    def __init__(self, first: int, rtt: RoundTrip) -> None:
        self._rtt = rtt
        self.next_tsn = first
        self.cum = first - 1
        self.log: list[bytes | memoryview] = []  # the chunks from cum + 1 on
        self.in_flight = 0
        self.size = 0  # in flight or lost
        self.given_up: set[int] = set()  # TSNs that are not worth sending again
        self.batch = Batch()

        self._flights: deque[Flight] = deque()  # of first transmissions
        self._sacked = Ranges()
        self._missing: dict[int, Missing] = {}
        self._top = first
        self._highest = first  # one beyond the last TSN that was acknowledged
        self._overtaken: deque[Missing] = deque()  # by TSN; sent but once
        self._resent: deque[Missing] = deque()  # by when they were sent again
        self._lost: list[int] = []  # heap; may hold TSNs that were found since

        # What RFC 8985 calls RACK: the newest transmission that was delivered, and its round trip.
        self._newest_sent_at = -math.inf
        self._newest_rtt = 0.0
        self.chunks_in_packet = 1
        self._threshold = PACKET_THRESHOLD
        self._reorder_steps = 1
        self._quiet_rounds = 0
        self._needless_at = -math.inf
        self.probed_tsn = 0
        self.next_check: float | None = None
        """When something overtaken will be deemed lost, if it was not found by then."""

    @property
    def empty(self) -> bool:
        return self.cum + 1 == self.next_tsn

    # Sending ------------------------------------------------------------------------------

    def add_flight(self, flight: Flight) -> None:
        """Chunks up to `flight.end` were sent for the first time; they are in `log` and counted already."""
        self._flights.append(flight)

    @property
    def has_lost(self) -> bool:
        """Whether there is anything to be sent again."""
        lost = self._lost
        while lost:
            missing = self._missing.get(lost[0])
            if missing is not None and missing.state is _State.LOST and missing.tsn not in self.given_up:
                return True
            heappop(lost)
        return False

    def resend(self, flight: Flight) -> bytes | memoryview:
        """The first lost chunk, which counts as sent again in `flight`. There must be one."""
        missing = self._missing[heappop(self._lost)]
        missing.state = _State.WAITING
        missing.flight = flight
        missing.resends += 1
        self._resent.append(missing)
        self.in_flight += missing.size
        return self.log[missing.tsn - self.cum - 1]

    def probe(self, *, first: bool) -> bytes | memoryview | None:
        """The first or the last outstanding chunk, to be sent once more just to bring on a SACK."""
        if first:
            tsn = self.cum + 1
        elif self.next_tsn > self._top:
            tsn = self.next_tsn - 1
        else:
            tsn = max((m.tsn for m in self._missing.values() if m.state is _State.WAITING), default=0)
        if not self.cum < tsn < self.next_tsn or tsn in self.given_up:
            return None
        self.probed_tsn = tsn
        return self.log[tsn - self.cum - 1]

    # Acknowledgements ---------------------------------------------------------------------

    def acknowledge_below(self, end: int, now: float) -> None:
        """All below `end`, which is beyond `cum` + 1, is acknowledged."""
        start = self.cum + 1
        if self._top > start:
            for first, last in self._sacked.gaps(start, min(end, self._top)):
                for tsn in range(first, last):
                    self._find(tsn, now)
            self._sacked.drop_below(end)
        if self._top < end:
            self._deliver(max(start, self._top), end)
            self._top = self._highest = end
        self.cum = end - 1
        del self.log[: end - start]
        while self._flights and self._flights[0].end <= end:
            self._flights.popleft()
        if self.given_up:
            kept = {tsn for tsn in self.given_up if tsn >= end}
            self.batch.ambiguous = self.batch.ambiguous or len(kept) < len(self.given_up)
            self.given_up = kept
        if self._sacked and self._sacked.starts[0] == end:
            self._lose_reneged()

    def acknowledge_blocks(self, blocks: Sequence[int], now: float) -> None:
        """What lies in the gap blocks is acknowledged; they are starts and ends, counted from `cum`."""
        cum, top, next_tsn = self.cum, self._top, self.next_tsn
        known = set(zip(self._sacked.starts, self._sacked.ends, strict=True))
        for index in range(0, min(len(blocks), 2 * MAX_BLOCKS_PROCESSED), 2):
            start, end = cum + blocks[index], cum + blocks[index + 1] + 1
            if (start, end) in known or start >= end or start <= cum + 1 or end > next_tsn:
                continue
            for first, last in self._sacked.add(start, end):
                for tsn in range(first, min(last, top)):
                    self._find(tsn, now)
                if last > top:
                    self._deliver(max(first, top), last)
            self._highest = max(self._highest, end)
        self._overtake(self._highest)
        self.batch.complete = len(blocks) <= 2 * COMPLETE_BLOCKS

    def note_duplicate(self, tsn: int, now: float) -> None:
        """The far side got a chunk twice."""
        self.batch.ambiguous = True
        if tsn != self.probed_tsn & 0xFFFFFFFF:
            self._note_needless(now)

    def _deliver(self, first: int, last: int) -> None:
        """Chunks in flight for the first time are acknowledged."""
        start = self.cum + 1
        size = sum(map(len, self.log[first - start : last - start]))
        self.batch.acked += size
        self.in_flight -= size
        self.size -= size
        self._note_delivered(self._flight(last - 1), fresh=last - 1 != self.probed_tsn)

    def _find(self, tsn: int, now: float) -> None:
        """A chunk that was missing is acknowledged."""
        missing = self._missing.pop(tsn)
        flight = missing.flight
        if missing.state is _State.WAITING:
            self.in_flight -= missing.size
        self.size -= missing.size
        if tsn not in self.given_up:
            self.batch.acked += missing.size
        if not missing.resends:
            self._note_reordered(self._highest - tsn)
            if missing.state is _State.LOST:
                self._note_needless(now)
            if tsn != self.probed_tsn:
                self._note_delivered(flight, fresh=True)
        elif now - flight.sent_at >= 0.9 * self._rtt.shortest:
            self._note_delivered(flight, fresh=False)
            self.batch.overtaken = max(self.batch.overtaken, flight.end)
        else:
            self._note_needless(now)  # too early to be the answer to what was sent again
        missing.state = _State.FOUND

    def _flight(self, tsn: int) -> Flight:
        """The flight in which a TSN was sent first."""
        flights = self._flights
        if tsn < flights[0].end:
            return flights[0]
        return flights[bisect_right(flights, tsn, key=_end)]

    def _note_delivered(self, flight: Flight, *, fresh: bool) -> None:
        batch = self.batch
        if batch.newest is None or flight.sent_at >= batch.newest.sent_at:
            batch.newest = flight
        if fresh and (batch.fresh is None or flight.sent_at >= batch.fresh.sent_at):
            batch.fresh = flight

    def _overtake(self, limit: int) -> None:
        """What is below `limit` and not acknowledged was overtaken by something that is."""
        if limit <= self._top:
            return
        for first, last in self._sacked.gaps(self._top, limit):
            flight = self._flight(first)
            for tsn in range(first, last):
                if tsn >= flight.end:
                    flight = self._flight(tsn)
                self._overtaken.append(self._miss(tsn, flight, _State.WAITING))
        self._top = limit

    def _miss(self, tsn: int, flight: Flight, state: _State) -> Missing:
        missing = self._missing[tsn] = Missing(tsn, len(self.log[tsn - self.cum - 1]), flight, state)
        return missing

    def _lose_reneged(self) -> None:
        """The far side has dropped what it had told of in gap blocks (RFC 9260 section 6.2.1), as its
        cumulative TSN stops right before them."""
        first, last = self._sacked.starts[0], self._sacked.ends[0]
        self._sacked.drop_below(last)
        for tsn in range(first, last):
            self.size += self._miss(tsn, self._flight(tsn), _State.LOST).size
            heappush(self._lost, tsn)

    # Losses -------------------------------------------------------------------------------

    def finish_batch(self, now: float) -> tuple[Batch, list[Missing]]:
        """What the SACKs since the last call told, and what is now deemed lost."""
        batch, self.batch = self.batch, Batch()
        if batch.complete and batch.overtaken > self._top:
            self._overtake(batch.overtaken)
        newest = batch.newest
        if newest is not None and newest.sent_at >= self._newest_sent_at:
            self._newest_sent_at = newest.sent_at
            self._newest_rtt = now - newest.sent_at
        return batch, self.detect_losses(now)

    def detect_losses(self, now: float) -> list[Missing]:
        """Deem lost what enough was delivered after, or what something was delivered long enough after."""
        self.next_check = None
        lost: list[Missing] = []
        if not self._missing:
            return lost
        by_count = self._highest - max(self._threshold, PACKET_THRESHOLD * self.chunks_in_packet)
        reordering = min(self._reorder_steps * self._rtt.shortest / 4, self._rtt.patience)
        deadline = self._newest_rtt + reordering  # after it was sent
        for waiting, below in ((self._overtaken, by_count), (self._resent, 0)):
            while waiting:
                missing = waiting[0]
                if missing.state is _State.WAITING:
                    sent_at = missing.flight.sent_at
                    if missing.tsn >= below:
                        if sent_at > self._newest_sent_at:
                            break
                        if now < sent_at + deadline:
                            self.next_check = min(sent_at + deadline, self.next_check or math.inf)
                            break
                    lost.append(missing)
                    self._lose(missing)
                waiting.popleft()
        return lost

    def lose_all(self) -> list[Missing]:
        """Deem lost all that is in flight."""
        self._overtake(self.next_tsn)
        self._overtaken.clear()
        self._resent.clear()
        lost = [missing for missing in self._missing.values() if missing.state is _State.WAITING]
        for missing in lost:
            self._lose(missing)
        return lost

    def _lose(self, missing: Missing) -> None:
        missing.state = _State.LOST
        self.in_flight -= missing.size
        heappush(self._lost, missing.tsn)

    def _note_reordered(self, distance: int) -> None:
        self._threshold = min(max(self._threshold, distance + 1), MAX_PACKET_THRESHOLD)
        self._quiet_rounds = 0

    def _note_needless(self, now: float) -> None:
        """Something was sent again for nothing: be more patient."""
        self._quiet_rounds = 0
        if now - self._needless_at > (self._rtt.srtt or 0.0):
            self._needless_at = now
            self._reorder_steps = min(self._reorder_steps + 1, MAX_REORDER_STEPS)

    def begin_round(self) -> None:
        """A round trip has passed."""
        self._quiet_rounds += 1
        if self._quiet_rounds > REORDER_MEMORY_ROUNDS:
            self._quiet_rounds = 0
            self._threshold, self._reorder_steps = PACKET_THRESHOLD, 1
