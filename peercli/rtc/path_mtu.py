"""How large a packet the path carries, found by trying (RFC 8899), without I/O."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["LADDER", "PathMtu"]

LADDER = (
    1_188,  # IPv6's smallest MTU (1,280), with UDP, TURN and DTLS around: any path has to take it
    1_312,  # tunnels (1,400)
    1_352,  # WireGuard (1,420)
    1_404,  # PPPoE (1,492), and over IPv6 Ethernet
    1_432,  # Ethernet (1,500)
    8_912,  # jumbo frames (9,000)
    16_384,  # loopback; the most that a DTLS record holds
)
"""Bytes of SCTP worth trying: what networks carry, less the headers of IP, UDP and DTLS."""

MAX_PROBES = 3  # of one size, until it is deemed too large (RFC 8899 §5.1.2)
RAISE_INTERVAL = 600.0  # s after a search until the next one (PMTU_RAISE_TIMER)
FALL_BACK_FOR = 60.0  # s at the smallest size after a black hole, until the next search


class PathMtu:
    """A search over LADDER, by halves; not beyond `most` bytes.

    Attributes:
        size: bytes that a packet may have now.
        probing: the size of the probe under way; None if there is none.
    """

    def __init__(self, most: int = LADDER[-1]) -> None:
        self.size = LADDER[0]
        self.probing: int | None = None
        self._steps = bisect_right(LADDER, most)
        self._good, self._bad = 0, self._steps  # steps that are known to fit, and not to
        self._lost = 0  # probes of the size that is tried
        self._not_before = 0.0

    def next_probe(self, now: float) -> int | None:
        """The size of a probe to be sent now; `acked` or `lost` must follow."""
        if self.probing is not None or now < self._not_before:
            return None
        if self._bad - self._good == 1:
            if self._good == self._steps - 1:
                return None
            self._bad = self._steps
        self.probing = LADDER[(self._good + self._bad) // 2]
        return self.probing

    def acked(self, size: int, now: float) -> None:
        """The probe came through."""
        if size == self.probing:
            self.size = size
            self._good = LADDER.index(size)
            self._settle(now)

    def lost(self, size: int, now: float) -> None:
        """The probe was not answered."""
        if size != self.probing:
            return
        self._lost += 1
        if self._lost < MAX_PROBES:
            self.probing = None
            return
        self._bad = LADDER.index(size)
        self._settle(now)

    def _settle(self, now: float) -> None:
        self.probing = None
        self._lost = 0
        if self._bad - self._good == 1:
            self._not_before = now + RAISE_INTERVAL

    def fall_back(self, now: float) -> bool:
        """Nothing comes through any more: maybe for its size. False if it was as small as can be."""
        if not self._good:
            return False
        self.size, self.probing = LADDER[0], None
        self._good, self._bad, self._lost = 0, self._steps, 0
        self._not_before = now + FALL_BACK_FOR
        return True
