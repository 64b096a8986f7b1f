"""Round-trip estimates, and the timeout that follows from them (RFC 9260 section 6.3.1)."""

from __future__ import annotations

import math

__all__ = ["RTO_INITIAL", "RTO_MAX", "RTO_MIN", "RoundTrip"]

RTO_INITIAL = 1.0
RTO_MIN = 0.2
"""Seconds added to the smoothed round trip at the least: the far side may delay a SACK that long."""
RTO_MAX = 10.0
"""Seconds; RFC 9260 suggests 60, after which nobody is watching any more."""
MIN_RTT_MEMORY = 10.0


class RoundTrip:
    """`srtt`, its variation `var` and `rto`, in seconds. `srtt` is None before the first sample."""

    __slots__ = ("_earlier_shortest", "_shortest", "_since", "rto", "srtt", "var")

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.var = 0.0
        self.rto = RTO_INITIAL
        self._shortest = self._earlier_shortest = math.inf
        self._since = -math.inf

    def sample(self, rtt: float, now: float) -> None:
        if self.srtt is None:
            self.srtt, self.var = rtt, rtt / 2
        else:
            self.var += (abs(rtt - self.srtt) - self.var) / 4
            self.srtt += (rtt - self.srtt) / 8
        self.rto = min(self.srtt + max(RTO_MIN, 4 * self.var), RTO_MAX)
        if now - self._since > MIN_RTT_MEMORY:
            self._earlier_shortest, self._shortest = self._shortest, math.inf
            self._since = now
        self._shortest = min(self._shortest, rtt)

    @property
    def shortest(self) -> float:
        """The shortest of the last MIN_RTT_MEMORY seconds, or up to twice as many."""
        return min(self._shortest, self._earlier_shortest)

    @property
    def patience(self) -> float:
        """What an answer takes, as far as is known."""
        return RTO_INITIAL if self.srtt is None else self.srtt
