"""How often may somebody fail to prove who they are: each try counts from its start, success takes it back.

Pure: the time is passed in, in seconds. A guesser who opens many connections at once gains nothing by it:
what is under way counts as failed. Ids are free to make up, so beside each peer and each address there is a
limit for all of them together.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

__all__ = ["Attempts"]

MAX_A_MINUTE = 20  # failures of everybody together
FREE = 2  # failures of one peer, or from one address, before it has to wait
FIRST_DELAY = 2.0  # s; doubling with each failure, …
LAST_DELAY = 3600.0  # s; … up to a ban for this long
FORGET = 3600.0  # s without a failure, after which earlier ones are forgotten
MAX_KEPT = 4096  # peers and addresses; the oldest go first


@dataclass(slots=True)
class _Record:
    failures: int = 0
    until: float = 0.0  # no further attempt before
    latest: float = 0.0


class Attempts:
    """The record of one peer's callers."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self._recent: deque[float] = deque()

    def may(self, now: float, who: str) -> bool:
        """Whether an attempt by `who` could go on."""
        return now >= self._record(who).until

    def begin(self, now: float, *who: str) -> bool:
        """Whether an attempt by `who` (a peer's id, its address) may go on; if so it counts as failed."""
        while self._recent and self._recent[0] <= now - 60:
            self._recent.popleft()
        if len(self._recent) >= MAX_A_MINUTE or not all(self.may(now, each) for each in who):
            return False
        self._recent.append(now)
        for each in who:
            record = self._record(each)
            if now - record.latest > FORGET:
                record.failures = 0
            record.failures += 1
            record.latest = now
            beyond = record.failures - FREE
            record.until = now + min(FIRST_DELAY * 2.0 ** min(beyond, 16), LAST_DELAY) if beyond >= 0 else now
            self._records[each] = record
            self._records.move_to_end(each)
        while len(self._records) > MAX_KEPT:
            self._records.popitem(last=False)
        return True

    def succeed(self, began: float, *who: str) -> None:
        """The attempt that began then has succeeded: it does not count, nor do earlier ones of theirs."""
        if began in self._recent:
            self._recent.remove(began)
        for each in who:
            self._records.pop(each, None)

    def _record(self, who: str) -> _Record:
        return self._records.get(who) or _Record()
