"""The sending half of an association: what to send, how much of it, and when.

Messages become chunks, each once and for good (`Outstanding` keeps them); chunks become packets. How much
may leave is for the congestion controller, the far side's window and pacing to say. A tail that is lost is
found by probes (RFC 8985 section 7), and anything at last by RFC 9260's retransmission timer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from peercli.sctp.congestion import AckSample, Controller
from peercli.sctp.outstanding import Batch, Flight, Missing, Outstanding
from peercli.sctp.packet import DATA_HEADER, HEADER_SIZE, IDATA_HEADER, Flag
from peercli.sctp.ranges import unwrap
from peercli.sctp.roundtrip import RTO_MAX, RoundTrip
from peercli.sctp.skips import Skips
from peercli.sctp.streams import Message, SendQueue

__all__ = ["MAX_OUTSTANDING_CHUNKS", "Sender"]

MAX_OUTSTANDING_CHUNKS = 30_000
"""Stream sequence numbers have 16 bits: were more messages on their way, a late one would seem an old one."""

MAX_TAIL_PROBES = 2
"""Probes in a row, the second of what is oldest, before a timeout."""
PROBE_PATIENCE = 0.01
"""Seconds beyond two round trips before a tail is deemed lost: hosts are busy."""

MIN_BURST = 65_000
"""A window this far open is used at once; with less open, more SACKs are waited for. One GSO call's worth."""
PACING_QUANTUM = 0.001
"""Seconds of sending that may leave at once: timers are no finer."""
PACING_CATCH_UP = 0.01
"""Seconds of sending that a late timer may catch up."""

_MASK = 0xFFFFFFFF


class _Packets:
    """Chunks being packed into packets."""

    __slots__ = ("_parts", "done", "room", "seal", "size")

    def __init__(self, size: int, seal: Callable[..., bytes]) -> None:
        self.size = size
        self.seal = seal
        self.done: list[bytes] = []
        self._parts: list[bytes | memoryview] = []
        self.room = size

    @property
    def empty(self) -> bool:
        """Whether no packet is begun."""
        return not self._parts

    def add(self, chunk: bytes | memoryview) -> None:
        if len(chunk) > self.room and self._parts:
            self.flush()
        self._parts.append(chunk)
        self.room -= len(chunk)

    def flush(self) -> None:
        if self._parts:
            self.done.append(self.seal(*self._parts))
            self._parts = []
            self.room = self.size


class _Sack(NamedTuple):
    cum: int
    window: int
    blocks: Sequence[int]


class Sender:
    """`queue` is what there is to send; `peer_window` is the far side's a_rwnd."""

    def __init__(
        self,
        *,
        tsn: int,
        peer_window: int,
        max_packet: int,
        seal: Callable[..., bytes],
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
        self._out = Outstanding(tsn + (1 << 32), self.rtt)
        self._skips = Skips(self._out)
        self.peer_window = peer_window
        self._peer_room = peer_window
        self._sack: _Sack | None = None  # of the batch under way

        # Delivery rate and rounds.
        self._delivered = 0
        self._delivered_at = now
        self._first_sent_at = now
        self._app_limited_until = 0
        self._next_round = 0

        # Timers: times, or None.
        self._timer: float | None = None
        self._timer_probes = False  # the timer is for a tail probe, not for a timeout
        self._backoff = 0  # timeouts since something was acknowledged
        self._probes = 0  # and probes
        self._probe_due = False
        self._timeout_due = False
        self._paced_until = now
        self._held_by_pacing = False

        self.bytes_sent = 0
        self.retransmits = 0
        self.timeouts = 0

    def set_max_packet(self, size: int) -> None:
        """Make packets of at most `size` bytes from now on. What has a TSN keeps the size it has."""
        self._size = (size & ~3) - HEADER_SIZE
        self.controller.mtu = size

    @property
    def backoff(self) -> int:
        """Timeouts since something was acknowledged."""
        return self._backoff

    @property
    def in_flight(self) -> int:
        """Bytes that are on their way."""
        return self._out.in_flight

    @property
    def outstanding(self) -> int:
        """Bytes that are on their way or lost."""
        return self._out.size

    @property
    def last_tsn(self) -> int:
        """The last TSN that was given out."""
        return self._out.next_tsn - 1

    @property
    def idle(self) -> bool:
        """Nothing is queued, and all that was sent is acknowledged."""
        return not self.queue and self._out.empty

    # When and how much --------------------------------------------------------------------

    def timeout(self) -> float | None:
        """When to call `handle_timeout`, and then `transmit`."""
        times = (self._timer, self._out.next_check, self._paced_release())
        return min((at for at in times if at is not None), default=None)

    def _paced_release(self) -> float | None:
        """When pacing lets more out, if that is all there is to wait for."""
        if self.controller.pacing_rate == math.inf or not self._window_room():
            return None
        if self._out.has_lost or (self.queue and not self._is_blocked()):
            return self._paced_until
        return None

    def _is_blocked(self) -> bool:
        """Whether new data must wait for an acknowledgement, whatever the congestion window says."""
        out = self._out
        if out.next_tsn - out.cum >= MAX_OUTSTANDING_CHUNKS:
            return True
        return self._peer_room < self._size and out.size > 0

    def _window_room(self) -> int:
        """Bytes the congestion window lets out; 0 also while it is better to wait for a larger burst."""
        controller, in_flight = self.controller, self._out.in_flight
        room = controller.cwnd - in_flight
        if not in_flight:
            return max(room, 1)
        worthwhile = min(MIN_BURST, controller.pacing_rate * PACING_QUANTUM, controller.cwnd / 4)
        return room if room > 0 and room >= worthwhile else 0

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
        return (bool(self.queue) or self._out.has_lost) and self._allowance(now) > 0

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
        out = self._out
        if not self._held_by_pacing:
            # A late timer is made up for, not what the application, or a full window, let pass.
            self._paced_until = max(self._paced_until, now)
        packets = _Packets(self._size, self.seal)
        for chunk in lead:
            packets.add(chunk)
        forward = self._skips.forward_tsn(
            now, self._size, self.rtt.patience, interleaving=self.queue.interleaving
        )
        if forward:
            packets.add(forward)

        budget = self._allowance(now)
        if self._probe_due or self._timeout_due:
            budget = max(budget, 1)
        before = self.bytes_sent
        if budget and not out.in_flight:
            self._first_sent_at = self._delivered_at = now  # idle time is no one's rate
        if budget and out.has_lost:
            budget = self._send_lost(packets, limit, budget, now)
        if budget > 0 and self.queue:
            budget = self._send_new(packets, limit, budget, now)
        if self._probe_due and self.bytes_sent == before:
            probe = out.probe(first=self._probes > 1)
            if probe:
                packets.add(probe)
                self.retransmits += 1
        self._probe_due = self._timeout_due = False
        packets.flush()
        if self.bytes_sent > before:
            self._after_sending(now, self.bytes_sent - before)
        if budget > 0 and len(packets.done) < limit:
            # The application or the far side's window limits us: what is measured now is not the path's rate.
            self._app_limited_until = max(self._delivered + out.in_flight, 1)
        self._held_by_pacing = self._paced_release() is not None
        return packets.done

    def _after_sending(self, now: float, sent: int) -> None:
        rate = self.controller.pacing_rate
        if rate == math.inf:
            self._paced_until = now
        else:
            self._paced_until = max(self._paced_until, now - PACING_CATCH_UP) + sent / rate
        self.controller.on_sent(now, sent, self._out.in_flight)
        if self._timer is None:
            self._start_timer(now)

    def _flight(self, now: float) -> Flight:
        """A record of what was sent now, up to the next TSN."""
        return Flight(
            self._out.next_tsn,
            now,
            self._delivered,
            self._delivered_at,
            self._first_sent_at,
            self._app_limited_until > 0,
        )

    def _send_lost(self, packets: _Packets, limit: int, budget: int, now: float) -> int:
        """Send again what was lost, oldest first. Returns what is left of the budget."""
        out, flight = self._out, self._flight(now)
        while budget > 0 and len(packets.done) < limit and out.has_lost:
            chunk = out.resend(flight)
            packets.add(chunk)
            self.bytes_sent += len(chunk)
            self.retransmits += 1
            budget -= len(chunk)
        return budget

    def _send_new(self, packets: _Packets, limit: int, budget: int, now: float) -> int:
        """Give TSNs to what is queued, and send it. Returns what is left of the budget."""
        out, queue, size = self._out, self.queue, self._size
        header = IDATA_HEADER.size if queue.interleaving else DATA_HEADER.size
        full = size - header
        first_tsn = out.next_tsn
        while budget > 0 and len(packets.done) < limit:
            message = queue.head()
            if message is None:
                break
            if now >= message.expires and self._drop(message, now):
                continue
            room = MAX_OUTSTANDING_CHUNKS - (out.next_tsn - out.cum)
            if room <= 0:
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
            if taken <= 0 or taken < remaining <= full:
                packets.flush()  # what fits a packet of its own is not cut
                continue
            if header + taken > self._peer_room and out.size:
                break  # a zero-window probe is sent only alone (RFC 9260 section 6.1 A)
            self._send_fragment(message, taken, packets)
            budget -= header + taken
            if packets.room <= header:
                packets.flush()
        if out.next_tsn > first_tsn:
            out.add_flight(self._flight(now))
            out.chunks_in_packet = max(1, (out.next_tsn - first_tsn) // max(1, len(packets.done)))
        return budget

    def _send_run(self, message: Message, count: int, full: int, done: list[bytes]) -> None:
        """Send `count` fragments that fill a packet each and are not the message's last."""
        tsn, sent = self._out.next_tsn, message.sent
        if not sent:
            self._begin(message)
        flags = message.flags | (0 if sent else Flag.BEGIN)
        view = memoryview(message.data)
        log, seal, key = self._out.log, self.seal, message.key
        if self.queue.interleaving:
            kind, header = 64, IDATA_HEADER
            number, step = message.fsn or message.ppid, message.fsn + 1
            message.fsn += count
        else:
            kind, header = 0, DATA_HEADER
            number = step = message.ppid
        pack, length = header.pack, header.size + full
        for _ in range(count):
            end = sent + full
            packet = seal(pack(kind, flags, length, tsn & _MASK, key, number), view[sent:end])
            done.append(packet)
            log.append(memoryview(packet)[HEADER_SIZE:])
            flags &= ~Flag.BEGIN
            tsn += 1
            sent = end
            number = step
            step += kind != 0
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
        tsn = self._out.next_tsn & _MASK
        if queue.interleaving:
            number = message.fsn or message.ppid
            header = IDATA_HEADER.pack(64, flags, IDATA_HEADER.size + taken, tsn, message.key, number)
            message.fsn += 1
        else:
            header = DATA_HEADER.pack(0, flags, DATA_HEADER.size + taken, tsn, message.key, message.ppid)
        padding = -taken & 3
        chunk = header + payload + bytes(padding) if padding else header + payload
        self._out.log.append(chunk)
        packets.add(chunk)
        message.stream.buffered -= taken
        self._account(message, self._out.next_tsn + 1, end, len(chunk))
        if last:
            queue.finish(message)
        elif queue.interleaving and packets.room <= IDATA_HEADER.size:
            queue.pass_turn()

    def _begin(self, message: Message) -> None:
        self.queue.begin(message)
        message.first_tsn = self._out.next_tsn

    def _account(self, message: Message, next_tsn: int, sent: int, size: int) -> None:
        """Chunks of a message, `size` bytes of them, were sent up to the message's byte `sent`."""
        out = self._out
        if message.limited and self.partial_reliability:
            self._skips.watch(message, range(out.next_tsn, next_tsn))
        out.next_tsn = message.end_tsn = next_tsn
        message.sent = sent
        out.in_flight += size
        out.size += size
        self._peer_room -= size
        self.bytes_sent += size

    # Acknowledgements ---------------------------------------------------------------------

    def on_sack(
        self, cumulative: int, window: int, blocks: Sequence[int], duplicates: Iterable[int], now: float
    ) -> bool:
        """Take in a SACK; `finish_batch` must follow. False if it acknowledges what was never sent."""
        out, latest = self._out, self._sack
        cum = unwrap(cumulative, out.cum)
        if cum >= out.next_tsn:
            return False
        for tsn in duplicates:
            out.note_duplicate(tsn, now)
        # The last of a batch tells all that the others did. Some may come late.
        if cum >= out.cum and (latest is None or (cum, blocks[-1:]) >= (latest.cum, latest.blocks[-1:])):
            self._sack = _Sack(cum, window, blocks)
        return True

    def finish_batch(self, now: float) -> None:
        """The SACKs of a batch are taken in: look for losses, and tell the controller what was learnt."""
        out = self._out
        sack, self._sack = self._sack, None
        if sack is not None:
            self._acknowledge(sack, now)
        batch, lost = out.finish_batch(now)
        rtt = None
        if batch.newest is not None and batch.newest is batch.fresh and not batch.ambiguous:
            rtt = now - batch.newest.sent_at
            self.rtt.sample(rtt, now)
        self._on_lost(lost, now)
        if not batch.acked:
            return
        self._delivered += batch.acked
        self._delivered_at = now
        if self._delivered > self._app_limited_until:
            self._app_limited_until = 0
        self.controller.on_ack(self._sample(batch, rtt, sum(missing.size for missing in lost), now))

    def _acknowledge(self, sack: _Sack, now: float) -> None:
        out, window = self._out, sack.window
        before = (out.cum, out.size)
        if sack.cum > out.cum:
            out.acknowledge_below(sack.cum + 1, now)
            self._skips.acknowledge_below(sack.cum + 1)
        if sack.blocks:
            out.acknowledge_blocks(sack.blocks, now)
        was_closed = self._peer_room < self._size
        self.peer_window = window
        self._peer_room = window - out.size
        if (out.cum, out.size) != before:
            self._backoff = self._probes = 0
            self._start_timer(now)
        elif was_closed and window >= self._size and self._backoff:
            # The window has opened: what was sent to probe it may have been dropped.
            self._backoff = 0
            self._give_up_overdue(out.lose_all(), now)
            self._start_timer(now)

    def _sample(self, batch: Batch, rtt: float | None, lost: int, now: float) -> AckSample:
        sample = AckSample(
            now=now,
            acked=batch.acked,
            rtt=rtt,
            min_rtt=self.rtt.shortest,
            delivery_rate=None,
            app_limited=False,
            in_flight=self._out.in_flight,
            round_start=False,
            lost=lost,
        )
        flight = batch.newest
        if flight is not None:
            self._first_sent_at = flight.sent_at
            interval = max(flight.sent_at - flight.first_sent_at, now - flight.delivered_at)
            if interval > 0 and interval >= self.rtt.shortest:
                sample.delivery_rate = (self._delivered - flight.delivered) / interval
            sample.app_limited = flight.app_limited
            if flight.delivered >= self._next_round:
                self._next_round = self._delivered
                sample.round_start = True
                self._out.begin_round()
        return sample

    def _on_lost(self, lost: list[Missing], now: float) -> None:
        """Chunks were found to be lost, though others get through."""
        if lost:
            size = sum(missing.size for missing in lost)
            newest = max(missing.flight.sent_at for missing in lost)
            self._give_up_overdue(lost, now)
            self.controller.on_loss(now, size, self._out.in_flight, newest)

    # Timers -------------------------------------------------------------------------------

    def _start_timer(self, now: float) -> None:
        """Start the timer anew, or stop it if nothing is outstanding."""
        self._timer_probes = False
        if self._out.empty:
            self._timer = None
            return
        rto = min(self.rtt.rto * 2**self._backoff, RTO_MAX)
        srtt = self.rtt.srtt
        if (
            srtt is not None
            and not self._backoff
            and self._probes < MAX_TAIL_PROBES
            and self._out.in_flight
            and self.peer_window >= self._size
        ):
            delay = (max(2 * srtt, srtt + 4 * self.rtt.var) + PROBE_PATIENCE) * 2**self._probes
            if delay < rto:
                self._timer_probes = True
                self._timer = now + delay
                return
        self._timer = now + rto

    def try_again(self, now: float) -> None:
        """The path was silent, and is no more: what waits to be sent again need not wait any longer."""
        if self._backoff:
            self._backoff = 0
            self._timer = now

    def handle_timeout(self, now: float) -> bool:
        """Let due timers run; `transmit` must follow. True if the retransmission timer ran out."""
        out = self._out
        if out.next_check is not None and now >= out.next_check:
            self._on_lost(out.detect_losses(now), now)
        if self._timer is None or now < self._timer:
            return False
        self._skips.due = True
        if self._timer_probes:
            self._probes += 1
            self._probe_due = True
            self._start_timer(now)
            return False
        self._backoff += 1
        self.timeouts += 1
        self._give_up_overdue(out.lose_all(), now)
        if self.peer_window >= self._size:
            self.controller.on_timeout(now, out.in_flight)
        self._timeout_due = True
        self._start_timer(now)
        return True

    # Giving up (RFC 3758) -----------------------------------------------------------------

    def _drop(self, message: Message, now: float) -> bool:
        """Give up a message in the queue that is too old. False if it must be sent all the same."""
        if message.number < 0:
            self.queue.finish(message)
            return True
        if not self.partial_reliability:
            return False
        self._give_up(message, now)
        return True

    def _give_up_overdue(self, lost: Iterable[Missing], now: float) -> None:
        for message in self._skips.overdue(lost, now):
            self._give_up(message, now)

    def _give_up(self, message: Message, now: float) -> None:
        """Give up a message of which something was sent (RFC 3758 section 3.5 A3)."""
        out = self._out
        if message.sent < len(message.data):
            # The far side would wait for the end. A TSN that stands for it is skipped with the rest.
            self.queue.finish(message)
            message.sent = len(message.data)
            out.log.append(b"")
            self._skips.watch(message, (out.next_tsn,))
            out.next_tsn = message.end_tsn = out.next_tsn + 1
            out.add_flight(self._flight(now))
        self._skips.give_up(message)
        if self._timer is None:
            self._start_timer(now)
