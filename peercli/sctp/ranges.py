"""Sets of integers held as sorted ranges: which TSNs arrived, and which were acknowledged."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

__all__ = ["Ranges", "unwrap"]


def unwrap(number: int, near: int) -> int:
    """The unbounded number that ends in these 32 bits and lies closest to `near`.

    TSNs are kept unbounded inside and cut to 32 bits on the wire, so no comparison need mind the wrap.
    """
    return near + ((number - near + 0x80000000) & 0xFFFFFFFF) - 0x80000000


class Ranges:
    """Half-open ranges, sorted, disjoint and never adjacent. Changes cost O(log n) and a list shift."""

    __slots__ = ("ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []

    def __len__(self) -> int:
        """The number of ranges, not of the integers in them."""
        return len(self.starts)

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self.starts, number) - 1
        return index >= 0 and number < self.ends[index]

    def add(self, start: int, end: int) -> list[tuple[int, int]]:
        """Add [start, end), which must not be empty, and return the parts of it that are new."""
        starts, ends = self.starts, self.ends
        # Those that touch [start, end], adjacent ones included, become one.
        first = bisect_left(ends, start)
        last = bisect_right(starts, end)
        new = []
        at = start
        for index in range(first, last):
            if at < starts[index]:
                new.append((at, starts[index]))
            at = max(at, ends[index])
        if at < end:
            new.append((at, end))
        if new:
            starts[first:last] = [min(start, starts[first]) if first < last else start]
            ends[first:last] = [max(end, at)]
        return new

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of [start, end) that are not in the set."""
        missing = []
        at = start
        for index in range(bisect_right(self.ends, start), bisect_left(self.starts, end)):
            if at < self.starts[index]:
                missing.append((at, self.starts[index]))
            at = self.ends[index]
        if at < end:
            missing.append((at, end))
        return missing

    def drop_below(self, limit: int) -> None:
        """Remove every number below `limit`."""
        count = bisect_right(self.ends, limit)
        if count:
            del self.starts[:count], self.ends[:count]
        if self.starts and self.starts[0] < limit:
            self.starts[0] = limit
