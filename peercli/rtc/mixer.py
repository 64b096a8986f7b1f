"""Mixes the sound of both sides of a call, as it is heard at this end."""

from __future__ import annotations

import array
from operator import add

__all__ = ["LATENCY", "RATE", "SAMPLE", "Mixer", "mixed"]

RATE = 48_000  # samples/s
SAMPLE = 4  # bytes of one, both channels
LATENCY = 0.5  # s that sound waits for the other side's
LATE = 0.4  # s by which a side may be late, before it is taken for one that has paused
GAP = 0.06  # s by which sound may be off before silence fills it, or it is cut


class Mixer:
    """Puts sound of 16 bits in stereo where it was heard by our clock, whatever clock its side has.

    What was under way the shortest tells how one clock goes by the other, so that jitter is not recorded.
    """

    def __init__(self) -> None:
        self.begins: float | None = None
        """Seconds, by our clock, at which the first sound was heard."""
        self._taken = 0  # samples
        self._store = bytearray()
        self._delays: dict[str, float] = {}  # s from a side's clock to ours
        self._next: dict[str, int] = {}  # sample where a side goes on

    def add(self, side: str, pcm: bytes, at: float, now: float) -> float | None:
        """Add sound of one side.

        Args:
            at: seconds, by its side's clock.
            now: seconds, by ours.

        Returns:
            The seconds, by our clock, at which it is put; None if it is left out.
        """
        delay = self._delays.get(side, now - at)
        if not delay <= now - at <= delay + LATE:
            delay = now - at
        self._delays[side] = delay
        if self.begins is None:
            self.begins = at + delay
        due = round((at + delay - self.begins) * RATE)
        position = self._next.get(side, due)
        if due - position > GAP * RATE:
            position = due
        if position - due > GAP * RATE or position < self._taken:
            return None
        self._next[side] = position + len(pcm) // SAMPLE
        start = (position - self._taken) * SAMPLE
        end = start + len(pcm)
        self._store += bytes(max(0, end - len(self._store)))
        self._store[start:end] = mixed(self._store[start:end], pcm)
        return self.begins + position / RATE

    def take(self, now: float) -> bytes:
        """What will not change any more, for sound is at most LATENCY late."""
        size = max(0, round((now - LATENCY - (self.begins or now)) * RATE) - self._taken) * SAMPLE
        self._store += bytes(max(0, size - len(self._store)))
        return self._cut(size)

    def rest(self) -> bytes:
        """All that is left."""
        return self._cut(len(self._store))

    def _cut(self, size: int) -> bytes:
        pcm = bytes(self._store[:size])
        del self._store[:size]
        self._taken += size // SAMPLE
        return pcm


def mixed(one: bytes | bytearray, other: bytes | bytearray) -> bytes:
    """The sum of sound of 16 bits, both as long; what is too loud is clipped."""
    sums = [*map(add, memoryview(one).cast("h"), memoryview(other).cast("h"))]
    if sums and (max(sums) > 32767 or min(sums) < -32768):
        sums = [max(-32768, min(32767, value)) for value in sums]
    return array.array("h", sums).tobytes()
