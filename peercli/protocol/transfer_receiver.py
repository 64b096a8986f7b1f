"""The receiver's side of the file protocol, for one connection: a pure state machine.

`received` takes messages and returns what is to be done on the disk, in order. What the disk then did is
told by `stored`, `safe` and `failed`. Whoever sends content must have said where each byte belongs: every
offset and length is checked here against the offer, so the disk's side can take them as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from peercli.errors import ProtocolError
from peercli.protocol.manifest import MAX_SIZE, Entry, Manifest, NameRules
from peercli.protocol.transfer import (
    MAX_MESSAGE,
    Accept,
    Content,
    Credit,
    Decline,
    Done,
    Failed,
    Offer,
    Outcome,
    Part,
    Prefix,
    Safe,
    Side,
    Wire,
    control,
    control_list,
)

__all__ = [
    "WINDOW",
    "Abandon",
    "Action",
    "Ended",
    "Finish",
    "Hole",
    "Offered",
    "Plan",
    "Receiver",
    "Start",
    "Write",
]

WINDOW = 64 << 20  # bytes of content that may be sent beyond what is stored: 1 Gbit/s with 500 ms
REPORT_AFTER = 2.0  # seconds; the sender hears at least so often how far we are while content comes
MISSING = "the sender ended without it"


@dataclass(frozen=True, slots=True)
class Offered:
    """The whole offer is here; `accept` or `decline` is to be called."""

    id: str
    entries: list[Entry]
    files: int
    bytes: int  # of the files whose size is known


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer to an offer: what is `have` already, what to `skip` and why, and proposals to resume."""

    have: frozenset[int] = frozenset()
    skip: Mapping[int, str] = field(default_factory=dict)
    resume: Mapping[int, tuple[Prefix, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """Content of the file begins to come, from `offset` on: 0, or one that was proposed."""

    entry: int
    offset: int


@dataclass(frozen=True, slots=True)
class Write:
    """The next bytes of the file that was started last."""

    entry: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class Hole:
    """The next `length` bytes of the file that was started last are zeros."""

    entry: int
    length: int


@dataclass(frozen=True, slots=True)
class Finish:
    """All content of the file has come; its SHA-256, in hex, must be `digest`."""

    entry: int
    digest: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """The rest of the file will not come."""

    entry: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """No more content will come. Make everything safe and tell so, then call `finish`."""


Action = Offered | Start | Write | Hole | Finish | Abandon | Ended


class _Phase(Enum):
    OFFER = "waiting for the offer"
    DECIDING = "deciding on the offer"
    CONTENT = "taking content"
    ENDED = "making everything safe"
    FINISHED = "finished"


class Receiver(Side):
    """Takes one offer. `outcomes` has, for each entry, what became of it, or None while that is open.

    `rules` are the save-dir's. `max_bytes` bounds the content of the whole transfer (None: whatever is
    offered); what goes beyond it while it comes, as only a file of unknown size can, raises `ProtocolError`.
    """

    def __init__(
        self, rules: NameRules, now: float, *, window: int = WINDOW, max_bytes: int | None = None
    ) -> None:
        super().__init__("receiver", now)
        self.outcomes: list[Outcome | None] = []
        self._phase = _Phase.OFFER
        self._manifest = Manifest(rules)
        self._id = ""
        self._window = window
        self._max_bytes = MAX_SIZE if max_bytes is None else max_bytes
        self._resume: Mapping[int, tuple[Prefix, ...]] = {}
        self._parts: deque[Part] = deque()  # announced, and not yet come
        self._begun = False  # whether the first of them has begun to come
        self._left = 0  # bytes that the first of them still lacks
        self._current: int | None = None  # the file that is coming
        self._offset = 0
        self._ended: set[int] = set()  # files whose content is all here
        self._announced = 0  # bytes of content on this connection, holes included
        self._stored = 0
        self._granted = 0
        self._reported = (now, 0)  # when, and how much was stored then

    def received(self, data: Wire, now: float) -> list[Action]:
        """Takes one message. Raises as `Side` does."""
        self.heard = now
        self.progressed(now)
        if not isinstance(data, str):
            actions = self._content(memoryview(data))
            self._report(now)
            return actions
        match self._read(data):
            case Offer() as offer:
                return self._offered(offer)
            case Content(parts):
                return self._announce(parts)
            case Failed(entry, reason, message):
                return self._abandoned(entry, reason, message)
            case Done():
                return self._all_sent()
            case Accept() | Decline() | Credit() | Safe():
                raise ProtocolError("the sender sent a message that is the receiver's")
            case _:
                return []

    def accept(self, plan: Plan, now: float) -> None:
        """Takes the offer. An entry that is refused by its own nature is skipped, whatever the plan says."""
        self._needs(_Phase.DECIDING)
        entries = self._manifest.entries
        refused = {entry: "refused" for entry, offered in enumerate(entries) if offered.refused}
        skip = {**plan.skip, **refused}
        have = plan.have - skip.keys()
        for entry in have:
            self.outcomes[entry] = Outcome("safe")
        for entry, reason in skip.items():
            self.outcomes[entry] = Outcome("skipped", reason, entries[entry].refused)
        self._resume = plan.resume
        self._phase = _Phase.CONTENT
        self._granted = self._window
        self._reported = (now, 0)
        resume = [
            [entry, [[prefix.offset, prefix.digest] for prefix in prefixes]]
            for entry, prefixes in plan.resume.items()
            if self.outcomes[entry] is None
        ]
        self.outbox.extend(control_list("accept", "have", sorted(have), more=True))
        self.outbox.extend(control_list("accept", "skip", sorted(skip.items()), more=True))
        self.outbox.extend(control_list("accept", "resume", resume, credit=self._granted))

    def decline(self, reason: str, message: str = "") -> None:
        """Refuses the offer: `declined` by the user, `space`, `too-big`, `conflict`."""
        self._needs(_Phase.DECIDING)
        self._phase = _Phase.FINISHED
        self.outbox.append(control("decline", reason=reason, message=message[:MAX_MESSAGE]))

    def stored(self, count: int, now: float) -> None:
        """So many more bytes of content (`Write` and `Hole`) are dealt with."""
        self._stored += count
        self._report(now)

    def _report(self, now: float) -> None:
        """Raises the credit when it pays, or when the sender should hear something."""
        when, told = self._reported
        if self._stored - told >= self._window // 4 or (self._stored > told and now >= when + REPORT_AFTER):
            self._granted = self._stored + self._window
            self._reported = (now, self._stored)
            self.outbox.append(control("credit", bytes=self._granted))

    def safe(self, entries: Iterable[int]) -> None:
        """These entries are safe on the disk, checked and in their place."""
        entries = list(entries)
        for entry in entries:
            self.outcomes[entry] = Outcome("safe")
        for start in range(0, len(entries), 4_096):
            self.outbox.append(control("safe", entries=entries[start : start + 4_096]))

    def failed(self, entry: int, reason: str, message: str) -> None:
        """This entry will not be completed here; what still comes of it is thrown away."""
        self.outcomes[entry] = Outcome("failed", reason, message)
        self._tell_failed(entry, reason, message)
        if entry == self._current:
            self._current = None

    def finish(self) -> None:
        """Everything has been told; the sender will close."""
        self._needs(_Phase.ENDED)
        for entry, outcome in enumerate(self.outcomes):
            if outcome is None:
                self.failed(entry, "missing", MISSING)
        self._phase = _Phase.FINISHED
        self.outbox.append(control("done"))

    @property
    def finished(self) -> bool:
        """Whether the last word is in the outbox."""
        return self._phase is _Phase.FINISHED

    def _offered(self, offer: Offer) -> list[Action]:
        self._needs(_Phase.OFFER)
        if self._id and offer.id != self._id:
            raise ProtocolError("the sender made two offers at once")
        self._id = offer.id
        for raw in offer.entries:
            self._manifest.add(raw)
        if offer.more:
            return []
        manifest = self._manifest
        if not manifest.entries:
            raise ProtocolError("the offer is empty")
        self.outcomes = [None] * len(manifest.entries)
        self._phase = _Phase.DECIDING
        return [Offered(self._id, manifest.entries, manifest.files, manifest.bytes)]

    def _announce(self, parts: list[Part]) -> list[Action]:
        self._needs(_Phase.CONTENT)
        if self._parts:
            raise ProtocolError("the sender announced content before the last was complete")
        self._announced += sum(part.length for part in parts)
        if self._announced > self._granted:
            raise ProtocolError("the sender sent more than it had credit for")
        if self._announced > self._max_bytes:
            raise ProtocolError(f"the sender sent more than {self._max_bytes:,} bytes")
        self._parts.extend(parts)
        return self._content(memoryview(b""), announced=True)

    def _content(self, data: memoryview, *, announced: bool = False) -> list[Action]:
        """Deals bytes out to the parts they belong to, and passes over parts that need none."""
        if not self._parts and not announced:
            raise ProtocolError("the sender sent content that was not announced")
        actions: list[Action] = []
        while self._parts:
            part = self._parts[0]
            if not self._begun:
                self._begin(part, actions)
            taken, data = data[: self._left], data[self._left :]
            self._left -= len(taken)
            wanted = self.outcomes[part.entry] is None
            if not wanted:
                self._stored += part.length if part.hole else len(taken)
            if taken and wanted:
                actions.append(Write(part.entry, taken))
            if self._left:
                break
            if part.hole and wanted:
                actions.append(Hole(part.entry, part.length))
            if part.digest and wanted:
                actions.append(Finish(part.entry, part.digest))
                self._ended.add(part.entry)
                self._current = None
            self._parts.popleft()
            self._begun = False
        if data:
            raise ProtocolError("the sender sent more content than it announced")
        return actions

    def _begin(self, part: Part, actions: list[Action]) -> None:
        """Checks where the part belongs."""
        self._begun = True
        self._left = 0 if part.hole else part.length
        entry = self._entry(part.entry)
        outcome = self.outcomes[part.entry]
        if entry.kind != "file" or part.entry in self._ended:
            raise ProtocolError("the sender sent content for what needs none")
        if outcome is not None:
            if outcome.state != "failed":
                raise ProtocolError("the sender sent content that was not wanted")
            return  # it was on its way when we said so
        if part.entry != self._current:
            if self._current is not None:
                raise ProtocolError("the sender began a file before the last was complete")
            proposed = [prefix.offset for prefix in self._resume.get(part.entry, ())]
            if part.offset != 0 and part.offset not in proposed:
                raise ProtocolError("the sender began at an offset that was not proposed")
            self._current, self._offset = part.entry, part.offset
            actions.append(Start(part.entry, part.offset))
        if part.offset != self._offset:
            raise ProtocolError("the sender left a gap in a file")
        self._offset += part.length
        limit = self._max_bytes if entry.size is None else entry.size
        if self._offset > limit or (part.digest and entry.size not in (None, self._offset)):
            raise ProtocolError("the sender sent a file in another size than it offered")

    def _abandoned(self, entry: int, reason: str, message: str) -> list[Action]:
        self._needs(_Phase.CONTENT)
        self._entry(entry)
        if self._parts and self._parts[0].entry == entry:
            raise ProtocolError("the sender gave up a file inside its content")
        if entry in self._ended:
            raise ProtocolError("the sender gave up a file that was complete")
        if self.outcomes[entry] is not None:
            return []  # we gave it up first, and the two messages crossed
        self.outcomes[entry] = Outcome("failed", reason, message)
        if entry == self._current:
            self._current = None
        return [Abandon(entry, reason, message)]

    def _all_sent(self) -> list[Action]:
        self._needs(_Phase.CONTENT)
        if self._parts:
            raise ProtocolError("the sender ended inside its content")
        actions: list[Action] = []
        for entry, offered in enumerate(self._manifest.entries):
            if offered.kind == "file" and self.outcomes[entry] is None and entry not in self._ended:
                self.failed(entry, "missing", MISSING)
                actions.append(Abandon(entry, "missing", MISSING))
        self._phase = _Phase.ENDED
        actions.append(Ended())
        return actions

    def _entry(self, entry: int) -> Entry:
        if entry >= len(self._manifest.entries):
            raise ProtocolError("the sender speaks of an entry that it did not offer")
        return self._manifest.entries[entry]

    def _needs(self, *phases: _Phase) -> None:
        if self._phase not in phases:
            raise ProtocolError(f"a message came out of turn (while {self._phase.value})")
