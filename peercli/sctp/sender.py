"""The sending half of an association: TSNs, what is outstanding, what was lost, and when to send.

Cost is what shapes it. Chunks are kept as the bytes that were sent, in one list; a call to `transmit` leaves
one `Flight` for all that it sent; a SACK costs as much as it newly acknowledges. Only a chunk that is
overtaken, and so may be lost, gets an object of its own.

Loss is found by what was delivered later (RFC 8985, with a packet threshold as in RFC 9002, which grows with
the reordering that is seen), by probes for lost tails, and at last by RFC 9260's retransmission timer.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from heapq import heappop, heappush
from operator import attrgetter

from peercli.sctp import packet
from peercli.sctp.congestion import AckSample, Controller
from peercli.sctp.packet import DATA_HEADER, HEADER_SIZE, IDATA_HEADER, Flag
from peercli.sctp.ranges import Ranges, unwrap
from peercli.sctp.streams import Message, SendQueue

__all__ = ["MAX_OUTSTANDING_CHUNKS", "RTO_INITIAL", "RTO_MAX", "RTO_MIN", "RoundTrip", "Sender"]

RTO_INITIAL = 1.0
RTO_MIN = 0.2
"""Seconds added to the smoothed round trip at the least: the far side may delay a SACK that long."""
RTO_MAX = 10.0
"""Seconds; RFC 9260 suggests 60, after which nobody is watching any more."""
MAX_OUTSTANDING_CHUNKS = 60_000
"""A SACK cannot tell of more than 65,535 chunks."""
MAX_BLOCKS_PROCESSED = 2_000
"""Gap blocks heeded in one SACK."""

PACKET_THRESHOLD = 3
MAX_PACKET_THRESHOLD = 1_000
MAX_REORDER_STEPS = 16
REORDER_MEMORY_ROUNDS = 64
"""Round trips without a needless retransmission after which the tolerance for reordering shrinks."""

MAX_TAIL_PROBES = 2
"""Probes in a row, the second of what is oldest, before a timeout."""
PROBE_DELAY_MIN = 0.01
"""Seconds of patience beyond two round trips before a tail is deemed lost: hosts are busy."""

MIN_BURST = 65_000
"""A window this far open is used at once; with less open, more SACKs are waited for. One GSO call's worth."""
PACING_QUANTUM = 0.001
"""Seconds of sending that may leave at once: timers are no finer."""
PACING_CATCH_UP = 0.01
"""Seconds of sending that a late timer may catch up."""
MIN_RTT_MEMORY = 10.0

_MASK = 0xFFFFFFFF


class RoundTrip:
    """Round-trip estimates and the timeout that follows from them (RFC 9260 section 6.3.1, RFC 6298)."""

    __slots__ = ("_earlier_min", "_min_since", "latest", "min", "rto", "srtt", "var")

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.var = 0.0
        self.latest = 0.0
        self.min = math.inf
        self._earlier_min = math.inf
        self._min_since = 0.0
        self.rto = RTO_INITIAL

    def sample(self, rtt: float, now: float) -> None:
        self.latest = rtt
        if self.srtt is None:
            self.srtt, self.var = rtt, rtt / 2
        else:
            self.var += (abs(rtt - self.srtt) - self.var) / 4
            self.srtt += (rtt - self.srtt) / 8
        self.rto = min(self.srtt + max(RTO_MIN, 4 * self.var), RTO_MAX)
        # The shortest of this and the last span of MIN_RTT_MEMORY.
        if now - self._min_since > MIN_RTT_MEMORY:
            self._earlier_min, self.min = self.min, rtt
            self._min_since = now
        self.min = min(self.min, rtt)

    @property
    def shortest(self) -> float:
        return min(self.min, self._earlier_min)


class Flight:
    """What one call sent: its last TSN, and the delivery state to measure its rate against
    (draft-cheng-iccrg-delivery-rate-estimation)."""

    __slots__ = ("app_limited", "delivered", "delivered_at", "end", "first_sent_at", "sent_at")

    def __init__(self, end: int, now: float, sender: Sender) -> None:
        self.end = end  # exclusive
        self.sent_at = now
        self.delivered = sender.delivered
        self.delivered_at = sender.delivered_at
        self.first_sent_at = sender.first_sent_at
        self.app_limited = sender.app_limited_until > 0


_flight_end = attrgetter("end")


class _State(Enum):
    WAITING = auto()  # in flight, but overtaken
    LOST = auto()  # to be sent again, or abandoned
    GONE = auto()


class _Missing:
    """A chunk that something sent later has overtaken."""

    __slots__ = ("flight", "resends", "size", "state", "tsn")

    def __init__(self, tsn: int, size: int, flight: Flight) -> None:
        self.tsn = tsn
        self.size = size
        self.flight = flight  # of its latest transmission
        self.resends = 0
        self.state = _State.WAITING


@dataclass(slots=True)
class _Batch:
    """What the SACKs of one batch told."""

    acked: int = 0
    lost: int = 0
    newest: Flight | None = None
    fresh: Flight | None = None  # the newest of those that were sent but once
    ambiguous: bool = False  # a SACK that answers something sent again may be late for the rest
    lost_sent_at: float = 0.0


class _Packets:
    """Chunks being packed into packets."""

    __slots__ = ("_parts", "done", "room", "seal", "size")

    def __init__(self, size: int, seal: Callable[[bytes], bytes]) -> None:
        self.size = size
        self.seal = seal
        self.done: list[bytes] = []
        self._parts: list[bytes] = []
        self.room = size

    @property
    def empty(self) -> bool:
        return not self._parts

    def add(self, chunk: bytes) -> None:
        if len(chunk) > self.room and self._parts:
            self.flush()
        self._parts.append(chunk)
        self.room -= len(chunk)

    def flush(self) -> None:
        if self._parts:
            self.done.append(self.seal(b"".join(self._parts)))
            self._parts = []
            self.room = self.size


class Sender:
    """`queue` is what there is to send. `peer_window` is the far side's a_rwnd."""

    def __init__(
        self,
        *,
        tsn: int,
        peer_window: int,
        max_packet: int,
        seal: Callable[[bytes], bytes],
        queue: SendQueue,
        controller: Controller,
        partial_reliability: bool,
        now: float,
    ) -> None:
        self.queue = queue
        self.controller = controller
        self.seal = seal
        self.partial_reliability = partial_reliability
        self.set_max_packet(max_packet)
        self.rtt = RoundTrip()

        # Up to `cum` all was acknowledged; below `_top` a chunk was, or it is in `_missing`; the rest is in
        # flight.
        self.next_tsn = tsn + (1 << 32)
        self.cum = self.next_tsn - 1
        self._top = self.next_tsn
        self._highest = self._top  # one beyond the last TSN acknowledged
        self._log: list[bytes] = []  # the chunks from cum + 1 on, padded
        self._flights: deque[Flight] = deque()  # of first transmissions
        self._sacked = Ranges()  # above `cum`
        self._missing: dict[int, _Missing] = {}
        self._overtaken: deque[_Missing] = deque()  # in order of sending; those sent but once
        self._resent: deque[_Missing] = deque()
        self._lost: list[int] = []  # heap; may name TSNs found since

        self.in_flight = 0
        self.outstanding = 0  # in flight or lost
        self.peer_window = peer_window
        self._peer_room = peer_window

        # Partial reliability (RFC 3758).
        self._limited: dict[int, Message] = {}
        self._abandoned: set[int] = set()
        self._skipped: list[Message] = []
        self._advanced = self.cum
        self._forward_due = False
        self._forward_sent_at = -math.inf

        # Delivery rate and rounds.
        self.delivered = 0
        self.delivered_at = now
        self.first_sent_at = now
        self.app_limited_until = 0
        self._next_round = 0
        self._batch = _Batch()

        # Loss detection.
        self._rack_sent_at = -math.inf
        self._rack_rtt = 0.0
        self._chunks_in_packet = 1
        self._threshold = PACKET_THRESHOLD
        self._reorder_steps = 1
        self._quiet_rounds = 0
        self._needless_at = -math.inf
        self._overtake_to = 0

        # Timers: times, or None.
        self.backoff = 0  # retransmission timeouts in a row
        self._timer: float | None = None
        self._timer_probes = False  # the timer is for a tail probe, not for a timeout
        self._probes = 0  # since something was acknowledged
        self._probe_due = False
        self._timeout_due = False
        self._probed_tsn = 0
        self._overtaken_at: float | None = None
        self._paced_until = now

        self.packets_sent = 0
        self.bytes_sent = 0
        self.retransmits = 0
        self.timeouts = 0

    # Limits -------------------------------------------------------------------------------

    def set_max_packet(self, size: int) -> None:
        """Make packets of at most `size` bytes from now on. What has a TSN keeps the size it has."""
        self._size = (size & ~3) - HEADER_SIZE

    @property
    def idle(self) -> bool:
        """Nothing is queued, and all that was sent is acknowledged."""
        return not self.queue and self.cum + 1 == self.next_tsn

    def timeout(self) -> float | None:
        """When to call `handle_timeout`, or `transmit` again."""
        soonest = self._timer
        for at in (self._overtaken_at, self._paced_release()):
            if at is not None and (soonest is None or at < soonest):
                soonest = at
        return soonest

    def _paced_release(self) -> float | None:
        """When pacing lets more out, if that is all there is to wait for."""
        if (
            not (self._lost or self.queue)
            or self.controller.pacing_rate == math.inf
            or not self._window_room()
        ):
            return None
        if not self._lost and self._peer_room < self._size and self.outstanding:
            return None
        return self._paced_until

    def _window_room(self) -> int:
        """Bytes the congestion window lets out; 0 also while it is better to wait for a larger burst."""
        controller = self.controller
        room = controller.cwnd - self.in_flight
        if not self.in_flight:
            return max(room, 1)
        if controller.pacing_rate == math.inf:
            quantum = MIN_BURST
        else:
            quantum = int(controller.pacing_rate * PACING_QUANTUM)
        return room if room > 0 and room >= min(MIN_BURST, quantum, controller.cwnd >> 2) else 0

    def _allowance(self, now: float) -> int:
        """Bytes that may leave now."""
        room = self._window_room()
        rate = self.controller.pacing_rate
        if room and rate != math.inf:
            if now < self._paced_until:
                return 0
            late = min(now - self._paced_until, PACING_CATCH_UP)
            room = min(room, max(2 * self._size, int(rate * (PACING_QUANTUM + late))))
        return room

    def may_send(self, now: float) -> bool:
        """Whether `transmit` would send data now."""
        return bool(self._lost or self.queue) and self._allowance(now) > 0

    # Sending ------------------------------------------------------------------------------

    def transmit_control(self, chunks: Sequence[bytes]) -> list[bytes]:
        """Packets of control chunks alone."""
        packets = _Packets(self._size, self.seal)
        for chunk in chunks:
            packets.add(chunk)
        packets.flush()
        return packets.done

    def transmit(self, now: float, limit: int, lead: Sequence[bytes] = ()) -> list[bytes]:
        """Packets that may leave now, about `limit` at most.

        `lead` are control chunks to go first, sharing a packet with data; they go out in any case.
        """
        packets = _Packets(self._size, self.seal)
        for chunk in lead:
            packets.add(chunk)
        forward = self._forward_tsn(now)
        if forward:
            packets.add(forward)

        budget = self._allowance(now)
        forced = self._probe_due or self._timeout_due
        if forced:
            budget = max(budget, 1)
        before = self.bytes_sent
        if budget and not self.in_flight:
            self.first_sent_at = self.delivered_at = now  # idle time is no one's rate
        if budget and self._lost:
            budget = self._send_lost(packets, limit, budget, now)
        if budget > 0 and self.queue:
            budget = self._send_new(packets, limit, budget, now)
        if self._probe_due and self.bytes_sent == before:
            self._repeat(packets)
        self._probe_due = self._timeout_due = False
        packets.flush()

        sent = self.bytes_sent - before
        if sent:
            self._after_sending(now, sent)
        if budget > 0 and not self._lost and len(packets.done) < limit:
            # The application or the far side's window limits us: what is measured now is not the path's rate.
            self.app_limited_until = max(self.delivered + self.in_flight, 1)
        self.packets_sent += len(packets.done)
        return packets.done

    def _after_sending(self, now: float, sent: int) -> None:
        rate = self.controller.pacing_rate
        if rate != math.inf:
            self._paced_until = max(self._paced_until, now - PACING_CATCH_UP) + sent / rate
        else:
            self._paced_until = now
        self.controller.on_sent(now, sent, self.in_flight)
        if self._timer is None:
            self._start_timer(now)

    def _send_lost(self, packets: _Packets, limit: int, budget: int, now: float) -> int:
        """Send again what was lost, oldest first. Returns what is left of the budget."""
        lost, base = self._lost, self.cum + 1
        flight = Flight(self.next_tsn, now, self)
        while lost and budget > 0 and len(packets.done) < limit:
            missing = self._missing.get(lost[0])
            if missing is None or missing.state is not _State.LOST or missing.tsn in self._abandoned:
                heappop(lost)
                continue
            heappop(lost)
            missing.state = _State.WAITING
            missing.flight = flight
            missing.resends += 1
            self._resent.append(missing)
            packets.add(self._log[missing.tsn - base])
            self.in_flight += missing.size
            self.bytes_sent += missing.size
            self.retransmits += 1
            budget -= missing.size
        return budget

    def _send_new(self, packets: _Packets, limit: int, budget: int, now: float) -> int:
        """Give TSNs to what is queued, and send it. Returns what is left of the budget."""
        queue, size = self.queue, self._size
        header = IDATA_HEADER.size if queue.interleaving else DATA_HEADER.size
        full = size - header
        before = self.bytes_sent
        first_tsn = self.next_tsn
        while budget > 0 and len(packets.done) < limit:
            message = queue.head()
            if message is None:
                break
            if message.limited and self._has_expired(message, now):
                continue
            room = MAX_OUTSTANDING_CHUNKS - (self.next_tsn - self.cum)
            if room <= 0:
                budget = 0
                break
            remaining = len(message.data) - message.sent
            if packets.empty and remaining > full and self._peer_room >= size:
                count = 1 if queue.interleaving and queue.contended else (remaining - 1) // full
                count = min(
                    count, room, limit - len(packets.done), -(-budget // size), self._peer_room // size
                )
                self._send_run(message, count, full, packets.done)
                budget -= count * size
                if queue.interleaving:
                    queue.pass_turn()
                continue
            # The head or the tail of a message: it shares its packet with others.
            taken = min(remaining, packets.room - header)
            if taken <= 0 or (taken < remaining <= full):
                packets.flush()  # what fits a packet of its own is not cut
                continue
            needed = header + taken
            if needed > self._peer_room and self.outstanding:
                break  # a zero-window probe is sent only alone (RFC 9260 section 6.1 A)
            self._send_fragment(message, taken, packets)
            budget -= needed
            if packets.room <= header:
                packets.flush()
        sent = self.bytes_sent - before
        if sent:
            self._flights.append(Flight(self.next_tsn, now, self))
            if packets.done:
                self._chunks_in_packet = max(1, (self.next_tsn - first_tsn) // len(packets.done))
        return budget

    def _send_run(self, message: Message, count: int, full: int, done: list[bytes]) -> None:
        """Send `count` fragments that fill a packet each and are not the message's last."""
        tsn, sent = self.next_tsn, message.sent
        if not sent:
            self._begin(message)
        flags = message.flags | (0 if sent else Flag.BEGIN)
        view = memoryview(message.data)
        log, seal, key = self._log, self.seal, message.key
        if self.queue.interleaving:
            length = IDATA_HEADER.size + full
            pack_interleaved = IDATA_HEADER.pack
            fsn = message.fsn
            for _ in range(count):
                end = sent + full
                chunk = (
                    pack_interleaved(64, flags, length, tsn & _MASK, key, fsn or message.ppid)
                    + view[sent:end]
                )
                log.append(chunk)
                done.append(seal(chunk))
                flags &= ~Flag.BEGIN
                sent = end
                tsn += 1
                fsn += 1
            message.fsn = fsn
        else:
            length = DATA_HEADER.size + full
            pack, ppid = DATA_HEADER.pack, message.ppid
            for _ in range(count):
                end = sent + full
                chunk = pack(0, flags, length, tsn & _MASK, key, ppid) + view[sent:end]
                log.append(chunk)
                done.append(seal(chunk))
                flags &= ~Flag.BEGIN
                sent = end
                tsn += 1
        message.stream.buffered -= count * full
        self._account(message, tsn, sent, count * length)

    def _send_fragment(self, message: Message, taken: int, packets: _Packets) -> None:
        """Send the next `taken` bytes of a message in a packet that is shared."""
        queue, sent = self.queue, message.sent
        if not sent:
            self._begin(message)
        end = sent + taken
        flags = message.flags | (0 if sent else Flag.BEGIN)
        last = end == len(message.data)
        if last:
            flags |= Flag.END
            if not queue.contended and len(message.stream.messages) == 1:
                flags |= Flag.IMMEDIATE  # nothing follows that would bring on a SACK (RFC 7053)
        payload = message.data[sent:end] if taken != len(message.data) else message.data
        tsn = self.next_tsn & _MASK
        if queue.interleaving:
            ppid_or_fsn = message.fsn or message.ppid
            header = IDATA_HEADER.pack(64, flags, IDATA_HEADER.size + taken, tsn, message.key, ppid_or_fsn)
            message.fsn += 1
        else:
            header = DATA_HEADER.pack(0, flags, DATA_HEADER.size + taken, tsn, message.key, message.ppid)
        padding = -taken & 3
        chunk = header + payload + bytes(padding) if padding else header + payload
        self._log.append(chunk)
        packets.add(chunk)
        message.stream.buffered -= taken
        self._account(message, self.next_tsn + 1, end, len(chunk))
        if last:
            queue.finish(message)
        elif queue.interleaving and packets.room <= IDATA_HEADER.size:
            queue.pass_turn()

    def _begin(self, message: Message) -> None:
        self.queue.begin(message)
        message.first_tsn = self.next_tsn

    def _account(self, message: Message, next_tsn: int, sent: int, size: int) -> None:
        if message.limited and self.partial_reliability:
            for tsn in range(self.next_tsn, next_tsn):
                self._limited[tsn] = message
        self.next_tsn = message.end_tsn = next_tsn
        message.sent = sent
        self.in_flight += size
        self.outstanding += size
        self._peer_room -= size
        self.bytes_sent += size

    def _repeat(self, packets: _Packets) -> None:
        """Send the last chunk once more, so that its SACK shows what is missing before it (RFC 8985
        section 7); if that was of no use, the first."""
        if self._probes > 1:
            tsn = self.cum + 1
        elif self.next_tsn > self._top:
            tsn = self.next_tsn - 1
        else:
            tsn = max((m.tsn for m in self._missing.values() if m.state is _State.WAITING), default=0)
        if self.cum < tsn < self.next_tsn and tsn not in self._abandoned:
            self._probed_tsn = tsn
            packets.add(self._log[tsn - self.cum - 1])
            self.retransmits += 1

    # Acknowledgements ---------------------------------------------------------------------

    def on_sack(
        self, cumulative: int, window: int, blocks: Sequence[int], duplicates: Iterable[int], now: float
    ) -> bool:
        """Take in a SACK; `finish_batch` must follow. False if it acknowledges what was never sent."""
        cum = unwrap(cumulative, self.cum)
        if cum < self.cum:
            return True  # overtaken by a later one
        if cum >= self.next_tsn:
            return False
        batch = self._batch
        acked = batch.acked
        if cum > self.cum:
            self._acknowledge_below(cum + 1, now)
        if blocks:
            self._acknowledge_blocks(blocks, now)
        for tsn in duplicates:
            batch.ambiguous = True
            if tsn != self._probed_tsn & _MASK:
                self._note_needless(now)
                break
        was_closed = self._peer_room < self._size
        self.peer_window = window
        self._peer_room = window - self.outstanding
        if batch.acked != acked:
            self.backoff = self._probes = 0
            self._start_timer(now)
        elif was_closed and window >= self._size and self.outstanding and self.backoff:
            # The window has opened: what was sent to probe it may have been dropped.
            self.backoff = 0
            self._lose_all(now)
            self._start_timer(now)
        return True

    def _acknowledge_below(self, end: int, now: float) -> None:
        batch, start = self._batch, self.cum + 1
        fresh = max(start, self._top)
        if self._top > start:
            for first, last in self._sacked.gaps(start, min(end, self._top)):
                for tsn in range(first, last):
                    self._found(tsn, now)
            self._sacked.drop_below(end)
        if fresh < end:
            size = sum(map(len, self._log[fresh - start : end - start]))
            batch.acked += size
            self.in_flight -= size
            self.outstanding -= size
            self._top = self._highest = end
            self._note_delivered(self._flight(end - 1), resent=end - 1 == self._probed_tsn)
        self.cum = end - 1
        del self._log[: end - start]
        flights = self._flights
        while flights and flights[0].end <= end:
            flights.popleft()
        if self._limited:
            for tsn in range(start, end):
                self._limited.pop(tsn, None)
        if self._abandoned:
            abandoned = {tsn for tsn in self._abandoned if tsn >= end}
            batch.ambiguous = batch.ambiguous or len(abandoned) < len(self._abandoned)
            self._abandoned = abandoned
            self._skipped = [message for message in self._skipped if message.end_tsn > end]
        if self._sacked and self._sacked.starts[0] == end:
            self._forget_reneged()

    def _acknowledge_blocks(self, blocks: Sequence[int], now: float) -> None:
        batch, cum, log = self._batch, self.cum, self._log
        top, highest = self._top, self._highest
        for index in range(0, min(len(blocks), 2 * MAX_BLOCKS_PROCESSED), 2):
            start, end = cum + blocks[index], cum + blocks[index + 1] + 1
            if start >= end or start <= cum + 1 or end > self.next_tsn:
                continue
            for first, last in self._sacked.add(start, end):
                for tsn in range(first, min(last, top)):
                    self._found(tsn, now)
                if last > top:
                    first = max(first, top)
                    size = sum(map(len, log[first - cum - 1 : last - cum - 1]))
                    batch.acked += size
                    self.in_flight -= size
                    self.outstanding -= size
                    self._note_delivered(self._flight(last - 1), resent=last - 1 == self._probed_tsn)
            highest = max(highest, end)
        self._highest = highest
        self._overtake(highest)

    def _flight(self, tsn: int) -> Flight:
        """The flight in which a TSN was sent first."""
        flights = self._flights
        if tsn < flights[0].end:
            return flights[0]
        return flights[bisect_right(flights, tsn, key=_flight_end)]

    def _note_delivered(self, flight: Flight, *, resent: bool = False) -> None:
        batch = self._batch
        if batch.newest is None or flight.sent_at >= batch.newest.sent_at:
            batch.newest = flight
        if not resent and (batch.fresh is None or flight.sent_at >= batch.fresh.sent_at):
            batch.fresh = flight

    def _overtake(self, limit: int) -> None:
        """What is below `limit` and not acknowledged was overtaken by something that is."""
        if limit <= self._top:
            return
        base = self.cum + 1
        for first, last in self._sacked.gaps(self._top, limit):
            flight = self._flight(first)
            for tsn in range(first, last):
                if tsn >= flight.end:
                    flight = self._flight(tsn)
                missing = _Missing(tsn, len(self._log[tsn - base]), flight)
                self._missing[tsn] = missing
                self._overtaken.append(missing)
        self._top = limit

    def _found(self, tsn: int, now: float) -> None:
        """A chunk that was missing is acknowledged."""
        missing = self._missing.pop(tsn)
        if missing.state is _State.WAITING:
            self.in_flight -= missing.size
        self.outstanding -= missing.size
        if tsn not in self._abandoned:
            self._batch.acked += missing.size
        if not missing.resends:
            self._note_reordered(self._highest - tsn)
            if missing.state is _State.LOST:
                self._note_needless(now)
            if tsn != self._probed_tsn:
                self._note_delivered(missing.flight)
        elif now - missing.flight.sent_at >= 0.9 * self.rtt.shortest:
            self._note_delivered(missing.flight, resent=True)
            # All that was sent before it is overtaken too.
            self._overtake_to = max(self._overtake_to, missing.flight.end)
        else:
            self._note_needless(now)  # too early to be the answer to what was sent again
        missing.state = _State.GONE

    def finish_batch(self, now: float) -> None:
        """The SACKs of a batch are taken in: look for losses, and tell the controller what was learnt."""
        if self._overtake_to > self._top:
            self._overtake(self._overtake_to)
        batch, newest = self._batch, self._batch.newest
        if newest is not None and newest.sent_at >= self._rack_sent_at:
            self._rack_sent_at = newest.sent_at
            self._rack_rtt = now - newest.sent_at
        rtt = None
        if newest is not None and newest is batch.fresh and not batch.ambiguous:
            rtt = now - newest.sent_at
            self.rtt.sample(rtt, now)
        self._detect_losses(now)
        self._batch = _Batch()
        if batch.lost:
            self.controller.on_loss(now, batch.lost, self.in_flight, batch.lost_sent_at)
        if not batch.acked:
            return

        self.delivered += batch.acked
        self.delivered_at = now
        if self.delivered > self.app_limited_until:
            self.app_limited_until = 0
        rate, app_limited, round_start = None, False, False
        if newest is not None:
            self.first_sent_at = newest.sent_at
            interval = max(newest.sent_at - newest.first_sent_at, now - newest.delivered_at)
            if interval > 0 and interval >= self.rtt.shortest:
                rate = (self.delivered - newest.delivered) / interval
            app_limited = newest.app_limited
            if newest.delivered >= self._next_round:
                self._next_round = self.delivered
                round_start = True
                self._forget_reordering()
        self.controller.on_ack(
            AckSample(
                now=now,
                acked=batch.acked,
                rtt=rtt,
                min_rtt=self.rtt.shortest,
                delivery_rate=rate,
                app_limited=app_limited,
                in_flight=self.in_flight,
                round_start=round_start,
                lost=batch.lost,
            )
        )

    # Losses -------------------------------------------------------------------------------

    def _detect_losses(self, now: float) -> None:
        """Deem lost what enough was delivered after, or what something was delivered long enough after."""
        self._overtaken_at = None
        if not self._missing:
            return
        threshold = max(self._threshold, PACKET_THRESHOLD * self._chunks_in_packet)
        reordering = min(self._reorder_steps * self.rtt.shortest / 4, self.rtt.srtt or RTO_INITIAL)
        patience = self._rack_rtt + reordering
        for waiting, by_count in ((self._overtaken, self._highest - threshold), (self._resent, 0)):
            while waiting:
                missing = waiting[0]
                if missing.state is _State.WAITING:
                    sent_at = missing.flight.sent_at
                    if missing.tsn >= by_count:
                        if sent_at > self._rack_sent_at:
                            break
                        if now < sent_at + patience:
                            due = sent_at + patience
                            self._overtaken_at = min(due, self._overtaken_at or due)
                            break
                    self._lose(missing, now)
                waiting.popleft()

    def _lose(self, missing: _Missing, now: float) -> None:
        missing.state = _State.LOST
        self.in_flight -= missing.size
        batch = self._batch
        batch.lost += missing.size
        batch.lost_sent_at = max(batch.lost_sent_at, missing.flight.sent_at)
        message = self._limited.get(missing.tsn)
        if message is not None and (
            now >= message.expires
            or (message.max_retransmits is not None and missing.resends >= message.max_retransmits)
        ):
            self._abandon(message, now)
        if missing.tsn not in self._abandoned:
            heappush(self._lost, missing.tsn)

    def _lose_all(self, now: float) -> None:
        """Deem everything lost that is outstanding. Controllers hear of it in another way."""
        self._overtake(self.next_tsn)
        self._overtaken.clear()
        self._resent.clear()
        for missing in list(self._missing.values()):
            if missing.state is _State.WAITING:
                self._lose(missing, now)
        self._batch.lost = 0

    def _forget_reneged(self) -> None:
        """The far side has dropped what it had reported in gap blocks (RFC 9260 section 6.2.1), as its
        cumulative TSN stops right before them."""
        first, last = self._sacked.starts[0], self._sacked.ends[0]
        self._sacked.drop_below(last)
        for tsn in range(first, last):
            missing = _Missing(tsn, len(self._log[tsn - self.cum - 1]), self._flight(tsn))
            missing.state = _State.LOST
            self._missing[tsn] = missing
            self.outstanding += missing.size
            if tsn not in self._abandoned:
                heappush(self._lost, tsn)

    def _note_reordered(self, distance: int) -> None:
        self._threshold = min(max(self._threshold, distance + 1), MAX_PACKET_THRESHOLD)
        self._quiet_rounds = 0

    def _note_needless(self, now: float) -> None:
        """Something was sent again for nothing: be more patient."""
        self._quiet_rounds = 0
        if now - self._needless_at > (self.rtt.srtt or 0.0):
            self._needless_at = now
            self._reorder_steps = min(self._reorder_steps + 1, MAX_REORDER_STEPS)

    def _forget_reordering(self) -> None:
        self._quiet_rounds += 1
        if self._quiet_rounds > REORDER_MEMORY_ROUNDS:
            self._quiet_rounds = 0
            self._threshold, self._reorder_steps = PACKET_THRESHOLD, 1

    # Timers -------------------------------------------------------------------------------

    def _start_timer(self, now: float) -> None:
        """Start the timer anew, or stop it if nothing is outstanding."""
        self._timer_probes = False
        if self.cum + 1 == self.next_tsn:
            self._timer = None
            return
        rto = min(self.rtt.rto * 2**self.backoff, RTO_MAX)
        srtt = self.rtt.srtt
        if srtt is not None and not self.backoff and self.in_flight and self.peer_window >= self._size:
            delay = (max(2 * srtt, srtt + 4 * self.rtt.var) + PROBE_DELAY_MIN) * 2**self._probes
            if delay < rto and self._probes < MAX_TAIL_PROBES:
                self._timer_probes = True
                self._timer = now + delay
                return
        self._timer = now + rto

    def handle_timeout(self, now: float) -> bool:
        """Let due timers run; `transmit` must follow. True if the retransmission timer ran out."""
        if self._overtaken_at is not None and now >= self._overtaken_at:
            self._detect_losses(now)
            batch, self._batch = self._batch, _Batch()
            if batch.lost:
                self.controller.on_loss(now, batch.lost, self.in_flight, batch.lost_sent_at)
        if self._timer is None or now < self._timer:
            return False
        if self._timer_probes:
            self._probes += 1
            self._start_timer(now)
            self._probe_due = self._forward_due = True
            return False
        self.backoff += 1
        self.timeouts += 1
        self._lose_all(now)
        if self.peer_window >= self._size:
            self.controller.on_timeout(now, self.in_flight)
        self._timeout_due = self._forward_due = True
        self._start_timer(now)
        return True

    # Partial reliability ------------------------------------------------------------------

    def _has_expired(self, message: Message, now: float) -> bool:
        """Give up a message at the head of the queue if it is too old, or was given up already."""
        if now < message.expires:
            return False
        if message.number < 0:
            self.queue.finish(message)
            return True
        if not self.partial_reliability:
            return False
        self._abandon(message, now)
        return True

    def _abandon(self, message: Message, now: float) -> None:
        """Give up a message of which something was sent (RFC 3758 section 3.5 A3)."""
        if message.sent < len(message.data):
            # The far side would wait for the end. A TSN that stands for it is skipped with the rest.
            self.queue.finish(message)
            message.sent = len(message.data)
            self._log.append(b"")
            self._limited[self.next_tsn] = message
            self.next_tsn = message.end_tsn = self.next_tsn + 1
            self._flights.append(Flight(self.next_tsn, now, self))
        for tsn in range(max(message.first_tsn, self.cum + 1), message.end_tsn):
            if self._limited.get(tsn) is message:  # between them are others', if interleaved
                self._abandoned.add(tsn)
        self._skipped.append(message)

    def _forward_tsn(self, now: float) -> bytes | None:
        """A FORWARD-TSN, if the far side can skip something and was not told just now."""
        due, self._forward_due = self._forward_due, False
        if not self._abandoned:
            return None
        advanced = max(self._advanced, self.cum)
        while advanced + 1 in self._abandoned:
            advanced += 1
        patience = self.rtt.srtt if self.rtt.srtt is not None else RTO_INITIAL
        due = due or advanced > self._advanced or now - self._forward_sent_at > patience
        self._advanced = advanced
        if advanced <= self.cum or not due:
            return None
        self._forward_sent_at = now
        if self._timer is None:
            self._start_timer(now)
        # Interleaved, what is skipped may be but a part of a message; the rest of it is of no use either.
        skipped = sorted((m for m in self._skipped if m.first_tsn <= advanced), key=attrgetter("first_tsn"))
        limit = (self._size - 8) // (8 if self.queue.interleaving else 4)
        latest: dict[tuple[int, bool], int] = {}
        for message in skipped:
            unordered = bool(message.flags)
            key = (message.stream.id, unordered)
            if unordered and not self.queue.interleaving:
                continue
            if key not in latest and len(latest) == limit:
                advanced = self._advanced = message.first_tsn - 1
                break
            latest[key] = message.number
        if self.queue.interleaving:
            return packet.iforward_tsn(
                advanced & _MASK, [(stream, unordered, mid) for (stream, unordered), mid in latest.items()]
            )
        return packet.forward_tsn(advanced & _MASK, [(stream, ssn) for (stream, _), ssn in latest.items()])
