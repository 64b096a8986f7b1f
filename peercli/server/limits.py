"""How much one address may ask for: token buckets. PURE: `now` is passed in."""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address

__all__ = ["Rates", "network"]


class Rates:
    """A token bucket for every address: `rate` tokens a second, at most `burst` saved up.

    An address is forgotten when its bucket is full again, so that the table holds no more of them than were
    seen in the last `burst / rate` seconds.
    """

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when; oldest first

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, address: str, now: float) -> bool:
        """Take one token; False, and nothing taken, when there is none."""
        tokens = self._tokens(address, now)
        if tokens < 1:
            return False
        self._put(address, tokens - 1, now)
        return True

    def delay(self, address: str, cost: float, now: float) -> float:
        """Take `cost` tokens, on credit if need be; the seconds to wait until they are paid for."""
        tokens = self._tokens(address, now) - cost
        self._put(address, tokens, now)
        return max(0.0, -tokens / self._rate)

    def _tokens(self, address: str, now: float) -> float:
        tokens, then = self._buckets.get(address, (self._burst, now))
        return min(self._burst, tokens + (now - then) * self._rate)

    def _put(self, address: str, tokens: float, now: float) -> None:
        self._buckets[address] = tokens, now
        self._buckets.move_to_end(address)
        while self._tokens(oldest := next(iter(self._buckets)), now) >= self._burst:
            del self._buckets[oldest]


def network(address: str) -> str:
    """What shares a bucket: an IPv4 address, or the /64 that an IPv6 host can choose its addresses from.

    Raises:
        ValueError: no IP address.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return str(parsed)
