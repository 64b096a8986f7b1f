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

    def allow(self, address: str, now: float, cost: float = 1) -> bool:
        """Take `cost` tokens; False, and nothing taken, when there are not so many."""
        return self._take(address, cost, now, credit=False) >= 0

    def delay(self, address: str, cost: float, now: float) -> float:
        """Take `cost` tokens, on credit if need be; the seconds to wait until they are paid for."""
        tokens = self._take(address, cost, now, credit=True)
        return 0.0 if tokens >= 0 else -tokens / self._rate

    def _take(self, address: str, cost: float, now: float, *, credit: bool) -> float:
        """What is left in the bucket; below zero it is owed, or without `credit` was not given."""
        buckets, rate, burst = self._buckets, self._rate, self._burst
        if (bucket := buckets.get(address)) is None:
            left = burst - cost
        else:
            left = min(burst, bucket[0] + (now - bucket[1]) * rate) - cost
        if left < 0 and not credit:
            return left
        buckets[address] = left, now
        buckets.move_to_end(address)
        for oldest, (tokens, then) in buckets.items():
            if tokens + (now - then) * rate < burst:
                break
            del buckets[oldest]
            break
        return left


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
