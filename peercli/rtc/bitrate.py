"""How many bits a second a path takes, and how many pass."""

from __future__ import annotations

import time
from collections import deque

__all__ = ["MIN_BITRATE", "START_BITRATE", "Bitrate", "Meter"]

MIN_BITRATE = 150_000  # bit/s of video, however bad the path
START_BITRATE = 2_000_000  # bit/s of video before anything is known of the path
LITTLE_LOSS = 0.02  # below which the bitrate grows (as Chromium has it) …
MUCH_LOSS = 0.10  # … and above which it shrinks
GROWTH = 1.15  # of the bitrate, a second without loss
WINDOW = 2.0  # s over which a rate is measured


class Bitrate:
    """How many bits a second a path takes, as its far end reports (as in draft-ietf-rmcat-gcc §6)."""

    def __init__(self) -> None:
        self.limit = START_BITRATE
        """bit/s, never to be exceeded."""
        self._by_delay = float("inf")
        self._by_loss = float(START_BITRATE)
        self._reported: float | None = None

    @property
    def target(self) -> int:
        """bit/s to send."""
        return int(min(max(min(self._by_delay, self._by_loss), MIN_BITRATE), self.limit))

    def estimated(self, bitrate: int) -> None:
        """The receiver's estimate has come (REMB)."""
        self._by_delay = bitrate

    def reported(self, lost: float, now: float) -> None:
        """A receiver report has come: this fraction of the packets since the last one is lost."""
        elapsed = min(now - self._reported, 2.0) if self._reported is not None else 1.0
        self._reported = now
        if lost > MUCH_LOSS:
            self._by_loss = self.target * (1 - lost / 2)
        elif lost < LITTLE_LOSS:
            # From what is sent in fact: what another limit holds down has not been tried.
            self._by_loss = max(self._by_loss, self.target * GROWTH**elapsed)


class Meter:
    """A rate over the last seconds."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, int]] = deque()

    def add(self, amount: int) -> None:
        """Count `amount`, now."""
        now = time.monotonic()
        self._events.append((now, amount))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._events and self._events[0][0] < now - WINDOW:
            self._events.popleft()

    def rate(self) -> float:
        """How much a second."""
        now = time.monotonic()
        self._forget(now)
        if not self._events:
            return 0.0
        return sum(amount for _, amount in self._events) / max(now - self._events[0][0], 0.5)
