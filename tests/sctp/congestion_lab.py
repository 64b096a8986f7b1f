"""Flows over one bottleneck in virtual time: what a congestion controller makes of a path.

Packets cross a bottleneck (rate, queue, random loss) and a delay; the receiver acknowledges them by a policy.
Sender and receiver may be hosts whose processes cost time and are kept from running now and then. Times are
seconds, rates bytes/s, sizes bytes; one seed gives one outcome.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from peercli.sctp.congestion import AckSample, Controller

__all__ = ["PAYLOAD", "WIRE", "Bottleneck", "Flow", "Host", "Lab", "mbit"]

PAYLOAD = 1172  # of a 1,200-byte SCTP packet
WIRE = 1265  # with DTLS, UDP and IP
REORDERING = 3  # packets (RFC 9260 section 7.2.4)
BURST = 54  # packets in one GSO call
TIMER = 0.001  # what an event loop's timer resolves
LATENESS = 0.01  # of a timer, at most, that pacing makes up for
BIN = 0.05  # of the goodput record


def mbit(rate: float) -> float:
    """Bytes/s of so many Mbit/s."""
    return rate * 125_000


class Lab:
    """The virtual clock and its events."""

    def __init__(self, seed: int = 1) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, do))

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, do = heapq.heappop(self._events)
            do()
        self.now = until


class Host:
    """A process that is kept from running for `pauses` (shortest, longest), every `interval` on average."""

    def __init__(
        self, lab: Lab, pauses: tuple[float, float] = (0.0, 0.0), interval: float = math.inf
    ) -> None:
        self._rng = random.Random(lab.rng.random())
        self._pauses = pauses
        self._interval = interval
        self._from = self._until = 0.0

    def runs_at(self, when: float) -> float:
        """When work that is ready at `when` gets to run."""
        if self._interval == math.inf:
            return when
        while self._until <= when:
            self._from = self._until + self._rng.expovariate(1 / self._interval)
            self._until = self._from + self._rng.uniform(*self._pauses)
        return self._until if self._from <= when else when


class Bottleneck:
    """A FIFO queue of `limit` bytes in front of a link, with random loss behind it."""

    def __init__(self, lab: Lab, rate: float, delay: float, limit: float, loss: float = 0.0) -> None:
        self.lab = lab
        self.rate = rate
        self.delay = delay
        self.limit = limit
        self.loss = loss
        self.queued = 0
        self.dropped = 0
        self.waits: list[tuple[float, float]] = []  # (when, how long a packet would have waited)
        self._queue: deque[tuple[Flow, int]] = deque()
        self._busy = False
        self._rng = random.Random(lab.rng.random())
        lab.at(0.0, self._measure)

    def send(self, flow: Flow, seq: int) -> None:
        if self.queued + WIRE > self.limit:
            self.dropped += 1
            return
        self.queued += WIRE
        self._queue.append((flow, seq))
        if not self._busy:
            self._busy = True
            self.lab.at(self.lab.now + WIRE / self.rate, self._served)

    def wait(self, start: float, end: float = math.inf) -> float:
        """Mean queueing delay over a span, as a ping beside the flows would see it."""
        seen = [wait for when, wait in self.waits if start <= when < end]
        return sum(seen) / len(seen)

    def _served(self) -> None:
        flow, seq = self._queue.popleft()
        self.queued -= WIRE
        if self._rng.random() >= self.loss:
            self.lab.at(self.lab.now + self.delay, lambda: flow.receiver.arrived(seq))
        self._busy = bool(self._queue)
        if self._busy:
            self.lab.at(self.lab.now + WIRE / self.rate, self._served)

    def _measure(self) -> None:
        self.waits.append((self.lab.now, self.queued / self.rate))
        self.lab.at(self.lab.now + 0.01, self._measure)


@dataclass(slots=True)
class Sent:
    at: float
    delivered: int
    delivered_at: float
    first_sent_at: float
    app_limited: bool


class Receiver:
    """Acknowledges every `ack_every` packets, at a gap, or after `ack_delay`; what it finds in one go, once.

    Its socket holds `buffer` bytes while its host does not run; `cost` is its time for a packet.
    """

    def __init__(
        self, flow: Flow, host: Host, ack_every: int, ack_delay: float, cost: float, buffer: float
    ) -> None:
        self.flow = flow
        self.lab = flow.lab
        self.delivered: list[int] = []
        self.dropped = 0
        self._host = host
        self._ack_every = ack_every
        self.ack_delay = ack_delay
        self._cost = cost
        self._buffer = buffer
        self._inbox: list[int] = []
        self._pending: list[int] = []
        self._expected = 0
        self._gap = False
        self._running = False

    def arrived(self, seq: int) -> None:
        if len(self._inbox) * WIRE >= self._buffer:
            self.dropped += 1
            return
        self._inbox.append(seq)
        if not self._running:
            self._running = True
            when = self._host.runs_at(self.lab.now)
            if when > self.lab.now:
                self.lab.at(when, self._run)
            else:
                self._run()

    def _run(self) -> None:
        now = self.lab.now
        batch, self._inbox = self._inbox[:BURST], self._inbox[BURST:]
        slot = int(now / BIN)
        self.delivered += [0] * (slot + 1 - len(self.delivered))
        self.delivered[slot] += len(batch) * PAYLOAD
        for seq in batch:
            self._gap |= seq != self._expected
            self._expected = seq + 1
        if not self._pending:
            self.lab.at(now + self.ack_delay, self._acknowledge)
        self._pending += batch
        if len(self._pending) >= self._ack_every or self._gap:
            self._acknowledge()
        if self._cost:
            self.lab.at(self._host.runs_at(now + len(batch) * self._cost), self._next)
        else:
            self._next()

    def _next(self) -> None:
        self._running = bool(self._inbox)
        if self._running:
            self._run()

    def _acknowledge(self) -> None:
        if self._pending:
            acked, self._pending, self._gap = self._pending, [], False
            self.lab.at(self.lab.now + self.flow.return_delay, lambda: self.flow.acknowledged(acked))


class Flow:
    """A sender with a controller, and its receiver across the bottleneck.

    `backlog` is what the application has for it. What is lost is not sent again, as if the application had
    so much more: the goodput is what arrives.
    """

    def __init__(
        self,
        lab: Lab,
        link: Bottleneck,
        control: Controller,
        *,
        start: float = 0.0,
        backlog: float = math.inf,
        rwnd: float = math.inf,
        ack_every: int = 4,
        ack_delay: float = 0.02,
        cost: float = 0.0,
        receiver_cost: float = 0.0,
        receiver_buffer: float = math.inf,
        host: Host | None = None,
        receiver_host: Host | None = None,
    ) -> None:
        self.lab = lab
        self.link = link
        self.control = control
        self.backlog = backlog
        self.rwnd = rwnd
        self.return_delay = link.delay
        self.lost = self.timeouts = 0
        self.receiver = Receiver(
            self, receiver_host or Host(lab), ack_every, ack_delay, receiver_cost, receiver_buffer
        )
        self._host = host or Host(lab)
        self._cost = cost
        self._inbox: list[int] = []
        self._outstanding: dict[int, Sent] = {}
        self._next_seq = self._lowest = 0
        self._in_flight = 0
        self._wake_at = math.inf
        self._free_at = 0.0
        self._departure = 0.0  # of the next packet, by the pacing rate
        self._late = False
        self._delivered = 0
        self._delivered_at = self._first_sent_at = start
        self._app_limited_until = 0
        self._round_end = 0
        self._min_rtt = math.inf
        self._srtt = 0.5
        self._progress_at = start
        self._probed = False
        self._wake(start)

    def goodput(self, start: float, end: float) -> float:
        """Mbit/s of payload that arrived from `start` to `end`."""
        slots = self.receiver.delivered[round(start / BIN) : round(end / BIN)]
        return sum(slots) / (end - start) / mbit(1)

    def offer(self, nbytes: float) -> None:
        """The application has so much more to send."""
        self.backlog += nbytes
        self._wake(self.lab.now)

    def acknowledged(self, seqs: list[int]) -> None:
        self._inbox += seqs
        self._wake(self.lab.now)

    def _wake(self, when: float) -> None:
        when = self._host.runs_at(max(when, self._free_at))
        if when < self._wake_at:
            self._wake_at = when
            self.lab.at(when, self._run)

    def _run(self) -> None:
        if self.lab.now < self._wake_at:
            return  # an earlier wake-up overtook this one
        self._wake_at = math.inf
        if self._inbox:
            self._take_acknowledgements()
        elif self._outstanding and self.lab.now >= self._timer():
            self._time_out()
        sent = self._send()
        self._free_at = self.lab.now + sent * self._cost
        if sent == BURST:
            self._wake(self._free_at)
        if self._outstanding:
            self._wake(self._timer())

    def _timer(self) -> float:
        """When silence calls for a probe, and after that for a retransmission."""
        if self._probed:
            return self._progress_at + max(1.0, 3 * self._srtt)
        return self._progress_at + 2 * self._srtt + self.receiver.ack_delay

    def _send(self) -> int:
        now, control = self.lab.now, self.control
        rate = control.pacing_rate
        # What this host was late for is made up for, not what a full window or an idle application missed.
        self._departure = max(self._departure, now - LATENESS if self._late else now)
        self._late = True
        if not self._outstanding:
            self._first_sent_at = self._delivered_at = self._progress_at = now
        window = min(control.cwnd, self.rwnd)
        sent = 0
        while sent < BURST and self._in_flight + PAYLOAD <= window:
            if self.backlog < PAYLOAD:
                self._app_limited_until = self._delivered + self._in_flight or 1
                self._late = False
                break
            if self._departure > now:
                self._wake(now + max(TIMER, self._departure - now))
                break
            self._departure += PAYLOAD / rate
            self.backlog -= PAYLOAD
            self._send_packet()
            sent += 1
        if self._in_flight + PAYLOAD > window:
            self._late = False
        if sent:
            control.on_sent(now, sent * PAYLOAD, self._in_flight)
        return sent

    def _send_packet(self) -> None:
        self._outstanding[self._next_seq] = Sent(
            self.lab.now,
            self._delivered,
            self._delivered_at,
            self._first_sent_at,
            self._app_limited_until > 0,
        )
        self.link.send(self, self._next_seq)
        self._next_seq += 1
        self._in_flight += PAYLOAD

    def _take_acknowledgements(self) -> None:
        now = self.lab.now
        seqs, self._inbox = self._inbox, []
        newest: Sent | None = None
        acked = 0
        for seq in seqs:
            packet = self._outstanding.pop(seq, None)
            if packet is None:
                continue
            acked += PAYLOAD
            if newest is None or packet.at >= newest.at:
                newest = packet
        if newest is None:
            return
        self._progress_at = now
        self._probed = False
        self._delivered += acked
        self._delivered_at = now
        if self._delivered > self._app_limited_until:
            self._app_limited_until = 0
        self._in_flight -= acked
        rtt = now - newest.at
        self._min_rtt = min(self._min_rtt, rtt)
        self._srtt += (rtt - self._srtt) / 8
        interval = max(now - newest.delivered_at, newest.at - newest.first_sent_at)
        self._first_sent_at = newest.at
        valid = interval > 0 and interval >= self._min_rtt
        rate = (self._delivered - newest.delivered) / interval if valid else None
        round_start = newest.delivered >= self._round_end
        if round_start:
            self._round_end = self._delivered
        lost = self._detect_loss(max(seqs))
        self.control.on_ack(
            AckSample(
                now=now,
                acked=acked,
                rtt=rtt,
                min_rtt=self._min_rtt,
                delivery_rate=rate,
                app_limited=newest.app_limited,
                in_flight=self._in_flight,
                round_start=round_start,
                lost=lost,
            )
        )

    def _detect_loss(self, largest: int) -> int:
        """What was sent well before the newest acknowledged packet, and is not acknowledged, is lost."""
        lost = 0
        newest_at = 0.0
        while self._lowest < largest:
            packet = self._outstanding.get(self._lowest)
            if packet is not None:
                if self._lowest >= largest - REORDERING and self.lab.now < packet.at + 1.5 * self._srtt:
                    break
                newest_at = packet.at
                lost += PAYLOAD
                del self._outstanding[self._lowest]
            self._lowest += 1
        if lost:
            self.lost += lost
            self._in_flight -= lost
            self.control.on_loss(self.lab.now, lost, self._in_flight, newest_at)
        return lost

    def _time_out(self) -> None:
        self._progress_at = self.lab.now
        if not self._probed:  # RFC 8985 section 7: one packet more, so that a lost tail is noticed
            self._probed = True
            self._send_packet()
            return
        self._probed = False
        self.timeouts += 1
        self.lost += self._in_flight
        self._outstanding.clear()
        self._lowest = self._next_seq
        self._in_flight = 0
        self.control.on_timeout(self.lab.now, 0)
