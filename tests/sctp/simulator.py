"""Two associations and the network between them, in virtual time: one seed gives one outcome."""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from peercli.sctp.association import Association, State
from peercli.sctp.events import ChannelOpened, Event, MessageReceived, RoomAvailable

__all__ = ["Endpoint", "Path", "Simulation"]

MAX_STEPS = 3_000_000
"""Events after which a simulation is deemed to run in circles."""


@dataclass
class Path:
    """One direction of a network. Seconds, bytes/s, bytes, probabilities."""

    delay: float = 0.01
    jitter: float = 0.0
    """Up to this much more delay, each packet its own: it reorders."""
    rate: float | None = None
    queue: int = 256 * 1024
    """Bytes that may wait for a limited rate."""
    loss: float = 0.0
    duplication: float = 0.0
    corruption: float = 0.0
    drop: Callable[[bytes], bool] = field(default=lambda packet: False)
    """Further packets to lose: for tests that aim."""

    busy_until: float = 0.0
    carried: int = 0
    lost: int = 0


class Endpoint:
    """An association and an application that reads what comes, unless told not to."""

    def __init__(self, name: str, association: Association) -> None:
        self.name = name
        self.association = association
        self.events: list[Event] = []
        self.received: dict[int, list[bytes]] = defaultdict(list)
        self.reading = True
        self.unread: list[MessageReceived] = []
        self.on_event: Callable[[Event], None] = lambda event: None
        self.to_send: dict[int, list[bytes]] = {}
        self.most_held = 0
        self.batch: list[bytes] = []

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    def opened(self) -> list[ChannelOpened]:
        return [event for event in self.events if isinstance(event, ChannelOpened)]

    def read(self, count: int | None = None) -> None:
        """Take what waits, or its first `count` messages."""
        taken, self.unread = self.unread[:count], self.unread[len(self.unread[:count]) :]
        for message in taken:
            self.association.consume(len(message.data))


class Simulation:
    """`client` and `server`, connected by `there` and `back`."""

    def __init__(
        self,
        there: Path | None = None,
        back: Path | None = None,
        *,
        seed: int = 1,
        client: Association | None = None,
        server: Association | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.now = 1_000.0
        self.client = Endpoint("client", client or self.association(is_client=True))
        self.server = Endpoint("server", server or self.association(is_client=False))
        self.there = there or Path()
        self.back = back or Path()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._wakes: dict[str, float] = {}
        self._count = 0
        self.steps = 0
        self.on_packet: Callable[[Endpoint, bytes], None] = lambda sender, packet: None

    def association(self, *, tsn: int | None = None, **options: Any) -> Association:
        """An association with this simulation's randomness, or that begins at a certain TSN."""
        fours = count()

        def random_bytes(size: int) -> bytes:
            # The tag is drawn first, then the initial TSN.
            if tsn is not None and size == 4 and next(fours) % 2:
                return tsn.to_bytes(4, "big")
            return self.random.randbytes(size)

        return Association(random=random_bytes, **{"remote_max_message_size": 0} | options)

    def at(self, when: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, do))

    def other(self, endpoint: Endpoint) -> Endpoint:
        return self.server if endpoint is self.client else self.client

    # Driving ------------------------------------------------------------------------------

    def flush(self, endpoint: Endpoint) -> None:
        """Do what a driver does after anything happened: send, take events, and mind the timer."""
        association = endpoint.association
        due = association.timeout()
        if due is not None and due <= self.now:
            association.handle_timeout(self.now)
        self._feed(endpoint)
        for _ in range(10_000):
            packets = association.packets(self.now, 54)
            for packet in packets:
                self._carry(endpoint, packet)
            happened = association.events()
            for event in happened:
                self._handle(endpoint, event)
            self._feed(endpoint)
            if not packets and not happened:
                break
        else:
            raise AssertionError("the association never has enough")
        receiver = association.receiver
        if receiver is not None:
            endpoint.most_held = max(endpoint.most_held, receiver.held)
        due = association.timeout()
        if due is None:
            return
        assert due > self.now, "a timer is due that was just let run"
        if due != self._wakes.get(endpoint.name):
            self._wakes[endpoint.name] = due
            self.at(due, lambda: self._wake(endpoint, due))

    def _wake(self, endpoint: Endpoint, due: float) -> None:
        if self._wakes.get(endpoint.name) != due:
            return
        del self._wakes[endpoint.name]
        self.flush(endpoint)

    def _handle(self, endpoint: Endpoint, event: Event) -> None:
        endpoint.events.append(event)
        if isinstance(event, MessageReceived):
            endpoint.received[event.channel].append(event.data)
            endpoint.unread.append(event)
            if endpoint.reading:
                endpoint.read()
        elif isinstance(event, RoomAvailable):
            self._feed(endpoint)
        endpoint.on_event(event)

    def _feed(self, endpoint: Endpoint) -> None:
        """Send what the application has, as far as there is room."""
        for channel, messages in endpoint.to_send.items():
            while messages and endpoint.association.room(channel):
                endpoint.association.send(channel, messages.pop(0), now=self.now)

    def _carry(self, sender: Endpoint, packet: bytes) -> None:
        self.on_packet(sender, packet)
        path = self.there if sender is self.client else self.back
        chance = self.random.random
        path.carried += 1
        if path.drop(packet) or chance() < path.loss:
            path.lost += 1
            return
        if chance() < path.corruption:
            spot = self.random.randrange(len(packet) * 8)
            changed = bytearray(packet)
            changed[spot // 8] ^= 1 << spot % 8
            packet = bytes(changed)
        leaves = self.now
        if path.rate is not None:
            start = max(self.now, path.busy_until)
            if (start - self.now) * path.rate > path.queue:
                path.lost += 1
                return
            leaves = path.busy_until = start + len(packet) / path.rate
        for _ in range(2 if chance() < path.duplication else 1):
            arrives = leaves + path.delay + chance() * path.jitter
            self.at(arrives, lambda: self._arrive(self.other(sender), packet))

    def _arrive(self, endpoint: Endpoint, packet: bytes) -> None:
        """Packets that arrive at the same moment are one batch, as from a drained socket."""
        endpoint.batch.append(packet)
        if len(endpoint.batch) == 1:
            self.at(self.now, lambda: self._take_batch(endpoint))

    def _take_batch(self, endpoint: Endpoint) -> None:
        batch, endpoint.batch = endpoint.batch, []
        endpoint.association.receive(batch, self.now)
        self.flush(endpoint)

    def run(self, until: Callable[[], bool] = lambda: False, *, seconds: float = 600.0) -> bool:
        """Let time pass until that holds, or for so long. True if it came to hold."""
        end = self.now + seconds
        for endpoint in (self.client, self.server):
            self.flush(endpoint)
        while not until():
            if not self._events or self._events[0][0] > end:
                self.now = end
                return until()
            self.steps += 1
            assert self.steps < MAX_STEPS, "the simulation runs in circles"
            self.now, _, do = heapq.heappop(self._events)
            do()
        return True

    # Shortcuts ----------------------------------------------------------------------------

    def connect(self, *, both: bool = True) -> None:
        self.client.association.connect(self.now)
        if both:
            self.server.association.connect(self.now)
        connected = self.run(
            lambda: all(e.association.state is State.ESTABLISHED for e in (self.client, self.server))
        )
        assert connected, "no association"

    def transfer(self, sender: Endpoint, channel: int, messages: list[bytes], seconds: float = 600.0) -> bool:
        """Send messages on a channel; True once all of them have come."""
        receiver = self.other(sender)
        wanted = len(receiver.received[channel]) + len(messages)
        sender.to_send[channel] = list(messages)
        return self.run(lambda: len(receiver.received[channel]) >= wanted, seconds=seconds)
