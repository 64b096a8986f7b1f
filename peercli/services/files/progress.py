"""How far a transfer is, told now and then."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from peercli.protocol.manifest import Entry
from peercli.services.events import Report
from peercli.services.files.events import FileProgress, FilesOffered

__all__ = ["Meter", "offer_of"]

INTERVAL = 0.1  # s between two reports
WINDOW = 5.0  # s over which the rate is measured
MAX_NAMES = 20  # told of an offer


def offer_of(peer: str, entries: Sequence[Entry]) -> FilesOffered:
    """What a transfer of these entries is about."""
    top = dict.fromkeys(entry.path[0] for entry in entries)
    sizes = [entry.size for entry in entries if entry.kind == "file"]
    return FilesOffered(
        peer,
        names=tuple(top)[:MAX_NAMES],
        top=len(top),
        files=len(sizes),
        size=sum(size for size in sizes if size is not None),
        endless=None in sizes,
    )


class Meter:
    """Counts the content of entries as it moves; it may also go back. Times are seconds of any clock.

    Attributes:
        done: bytes of all entries that have arrived, in this transfer or before.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.done = 0
        self._entries = entries
        self._positions: dict[int, int] = {}
        self._settled = 0
        self._current = 0
        self._files = sum(entry.kind == "file" for entry in entries)
        sizes = [entry.size for entry in entries if entry.kind == "file"]
        self._total = None if None in sizes else sum(size for size in sizes if size is not None)
        self._moved: deque[tuple[float, int]] = deque()  # when, and how many bytes, within WINDOW
        self._moved_bytes = 0  # in there
        self._began: float | None = None
        self._told = 0.0

    def at(self, entry: int, position: int, moved: int, now: float) -> None:
        """The content of the entry has come to `position`; `moved` bytes of it just now."""
        self.done += position - self._positions.get(entry, 0)
        self._positions[entry] = position
        self._moved.append((now, moved))
        self._moved_bytes += moved
        self._current = entry
        if self._began is None:
            self._began = now

    def settle(self, entry: int, *, safe: bool) -> None:
        """The entry is done with; `safe`: all of it is there, however it came."""
        size = self._entries[entry].size
        if safe and size is not None:
            self.done += size - self._positions.get(entry, 0)
            self._positions[entry] = size
        if self._entries[entry].kind == "file":
            self._settled += 1

    def position(self, entry: int) -> int:
        return self._positions.get(entry, 0)

    def seconds(self, now: float) -> float:
        """Since content began to move."""
        return 0.0 if self._began is None else now - self._began

    async def tell(self, peer: str, report: Report, now: float, *, last: bool = False) -> None:
        """Report, unless that was just done."""
        if not self._positions or (now < self._told + INTERVAL and not last):
            return
        self._told = now
        while self._moved and self._moved[0][0] < now - WINDOW:
            self._moved_bytes -= self._moved.popleft()[1]
        span = min(max(self.seconds(now), INTERVAL), WINDOW)
        entry = self._entries[self._current]
        await report(
            FileProgress(
                peer,
                entry.name,
                self._positions[self._current],
                entry.size,
                self._moved_bytes / span,
                self.done,
                self._total,
                self._settled,
                self._files,
            )
        )
