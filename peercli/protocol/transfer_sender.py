"""The sender's side of the file protocol, for one connection: a pure state machine.

`received` takes messages; `plan` says what to read next and `read` takes what was read, so reading from the
disk runs beside sending. After a lost connection a fresh `Sender` offers the same entries again, and
the receiver's answer says where to go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from peercli.errors import Declined, ProtocolError, StorageFailed
from peercli.protocol.manifest import MAX_SIZE, Entry, encode_entry
from peercli.protocol.transfer import (
    PIECE_SIZE,
    Accept,
    Content,
    Credit,
    Decline,
    Done,
    Failed,
    Offer,
    Outcome,
    Prefix,
    Safe,
    Side,
    Wire,
    control,
    control_list,
)

__all__ = ["BATCH_ENTRIES", "BATCH_SIZE", "Accepted", "Chunk", "Finished", "Read", "Sender", "Settled"]

MAX_PROPOSALS = 16_384  # offsets that a receiver proposes in all, beyond one for each entry
BATCH_SIZE = 1 << 20  # bytes read, and announced in one header, at a time
BATCH_ENTRIES = 400  # … and files: their header stays below CONTROL_SIZE


@dataclass(frozen=True, slots=True)
class Read:
    """Read up to `length` more bytes of the file.

    `start`: the first of this connection; begin at the greatest of `prefixes` that fits, else at 0.
    `holes`: what reads as zeros because nothing is stored there may be told as a hole.
    """

    entry: int
    length: int
    start: bool
    prefixes: tuple[Prefix, ...]
    holes: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """What was read: `data`, or a `hole` of so many zeros.

    `digest` (hex, of the whole file) comes with the end of the file, alone or with the last of the content.
    A `problem` (a reason for `failed`) says instead why the file cannot be sent, `message` for people.
    """

    entry: int
    offset: int = 0
    data: bytes = b""
    hole: int = 0
    digest: str = ""
    problem: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The receiver takes the offer: `wanted` files are to be sent, `resumable` of them are partly there."""

    wanted: int
    resumable: int


@dataclass(frozen=True, slots=True)
class Settled:
    """The receiver told what became of these entries: `outcomes` has it."""

    entries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """Every entry has an outcome, and the connection may be closed."""


Action = Accepted | Settled | Finished


class _Phase(Enum):
    OFFERED = "waiting for the answer"
    SENDING = "sending content"
    DONE = "all content is sent"
    FINISHED = "all outcomes are known"


class Sender(Side):
    """Sends `entries`. `outcomes` has, for each, what became of it, or None while that is open.

    `piece_size`: bytes of the longest binary message.
    """

    def __init__(
        self, entries: Sequence[Entry], transfer_id: str, now: float, *, piece_size: int = PIECE_SIZE
    ) -> None:
        super().__init__("sender", now)
        self.outcomes: list[Outcome | None] = [None] * len(entries)
        self._entries = entries
        self._piece_size = piece_size
        self._phase = _Phase.OFFERED
        self._resume: dict[int, tuple[Prefix, ...]] = {}
        self._proposals = 0
        self._credit: int | None = None
        self._sent = 0  # bytes of content on this connection, holes included
        self._complete: set[int] = set()  # files whose last part was sent
        self._next = 0  # entries before this one need no more content
        self._offset: int | None = None  # how far that file is, None before it is started
        self._reading = False
        self.outbox.extend(control_list("offer", "entries", map(encode_entry, entries), id=transfer_id))

    def received(self, data: Wire, now: float) -> list[Action]:
        """Takes one message. Raises as `Side` does, and `Declined` or `StorageFailed` on a decline."""
        self.heard = now
        self.progressed(now)
        if not isinstance(data, str):
            raise ProtocolError("the receiver sent content")
        match self._read(data):
            case Accept() as accept:
                return self._accepted(accept)
            case Decline(reason, message):
                self.left = True
                said = f": {message}" if message else ""
                if reason in ("space", "storage"):
                    raise StorageFailed(f"the far side cannot keep the files{said}")
                raise Declined(f"the far side declined the files{said}")
            case Credit(limit):
                self._needs(_Phase.SENDING, _Phase.DONE)
                if self._credit is not None:
                    self._credit = max(self._credit, limit)
            case Safe(entries):
                self._needs(_Phase.SENDING, _Phase.DONE)
                return self._safe(entries)
            case Failed(entry, reason, message):
                self._needs(_Phase.SENDING, _Phase.DONE)
                return self._failed(entry, reason, message)
            case Done():
                self._needs(_Phase.DONE)
                return self._finished()
            case Offer() | Content():
                raise ProtocolError("the receiver offered files itself")
            case _:
                pass
        return []

    def plan(self) -> list[Read]:
        """What to read next, in one go; empty while there is nothing that may be sent.

        `read` must be called with the result before anything more is planned.
        """
        if self._phase is not _Phase.SENDING or self._reading:
            return []
        reads: list[Read] = []
        room = BATCH_SIZE if self._credit is None else min(BATCH_SIZE, self._credit - self._sent)
        entry, offset = self._next, self._offset
        while entry < len(self._entries) and len(reads) < BATCH_ENTRIES:
            if not self._open(entry):
                entry, offset = entry + 1, None
                continue
            size = self._entries[entry].size
            left = MAX_SIZE if size is None else size - (offset or 0)
            length = min(room, left)
            if length == 0 < left:
                break
            prefixes = self._resume.get(entry, ()) if offset is None else ()
            reads.append(Read(entry, length, offset is None, prefixes, "holes" in self._far_can))
            room -= length
            if length < left:
                break
            entry, offset = entry + 1, None
        self._reading = bool(reads)
        return reads

    def read(self, chunks: Sequence[Chunk]) -> list[Action]:
        """Takes what was read, in the order of the plan, and puts it in the outbox."""
        self._reading = False
        settled: list[int] = []
        batch: list[Chunk] = []
        for chunk in chunks:
            if self.outcomes[chunk.entry] is not None:
                continue  # the receiver has meanwhile said that it failed
            if chunk.problem:
                self._send(batch)
                batch = []
                self._settle(chunk.entry, Outcome("failed", chunk.problem, chunk.message))
                settled.append(chunk.entry)
                self._tell_failed(chunk.entry, chunk.problem, chunk.message)
                continue
            self._next, self._offset = chunk.entry, chunk.offset + len(chunk.data) + chunk.hole
            self._sent += len(chunk.data) + chunk.hole
            if chunk.data or chunk.hole or chunk.digest:
                batch.append(chunk)
            if chunk.digest:
                self._complete.add(chunk.entry)
        self._send(batch)
        self._end_content()
        return [Settled(tuple(settled))] if settled else []

    def _send(self, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            return
        parts: list[list[object]] = []
        for chunk in chunks:
            part: list[object] = [chunk.entry, chunk.offset, len(chunk.data) or chunk.hole]
            if chunk.digest or chunk.hole:
                part.append(chunk.digest or None)
            if chunk.hole:
                part.append(True)
            parts.append(part)
        self.outbox.append(control("content", parts=parts))
        content = chunks[0].data if len(chunks) == 1 else b"".join(chunk.data for chunk in chunks)
        if len(content) <= self._piece_size:
            self.outbox.extend([content] if content else [])
            return
        view = memoryview(content)
        starts = range(0, len(content), self._piece_size)
        self.outbox.extend(view[start : start + self._piece_size] for start in starts)

    @property
    def _far_can(self) -> frozenset[str]:
        return self.far.can if self.far is not None else frozenset()

    def _open(self, entry: int) -> bool:
        """Whether the entry is a file that still needs content."""
        return (
            self._entries[entry].kind == "file"
            and self.outcomes[entry] is None
            and entry not in self._complete
        )

    def _end_content(self) -> None:
        if self._phase is not _Phase.SENDING or self._reading:
            return
        while self._next < len(self._entries) and not self._open(self._next):
            self._next, self._offset = self._next + 1, None
        if self._next == len(self._entries):
            self._phase = _Phase.DONE
            self.outbox.append(control("done"))

    def _accepted(self, accept: Accept) -> list[Action]:
        self._needs(_Phase.OFFERED)
        settled = [*accept.have, *(entry for entry, _ in accept.skip)]
        for entry in settled:
            self._check(entry)
        for entry in accept.have:
            self._settle(entry, Outcome("safe"))
        for entry, reason in accept.skip:
            self._settle(entry, Outcome("skipped", reason))
        for entry, prefixes in accept.resume:
            self._check(entry)
            size = self._entries[entry].size
            if self._entries[entry].kind != "file" or (size is not None and prefixes[-1].offset > size):
                raise ProtocolError("the receiver has more of a file than there is")
            self._resume[entry] = prefixes
            self._proposals += len(prefixes)
        if self._proposals > len(self._entries) + MAX_PROPOSALS:
            raise ProtocolError("the receiver proposes too many offsets")
        actions: list[Action] = [Settled(tuple(settled))] if settled else []
        if accept.more:
            return actions
        self._credit = accept.credit
        self._phase = _Phase.SENDING
        wanted = [entry for entry in range(len(self._entries)) if self._open(entry)]
        actions.append(Accepted(len(wanted), sum(entry in self._resume for entry in wanted)))
        self._end_content()
        return actions

    def _safe(self, entries: Sequence[int]) -> list[Action]:
        for entry in entries:
            self._check(entry)
            if entry not in self._complete and self._entries[entry].kind == "file":
                raise ProtocolError("the receiver calls safe what was never sent")
            self._settle(entry, Outcome("safe"))
        return [Settled(tuple(entries))]

    def _failed(self, entry: int, reason: str, message: str) -> list[Action]:
        self._check(entry)
        if self.outcomes[entry] is not None:
            return []  # we failed it ourselves, and the two messages crossed
        self._settle(entry, Outcome("failed", reason, message))
        self._end_content()
        return [Settled((entry,))]

    def _finished(self) -> list[Action]:
        missing = tuple(entry for entry, outcome in enumerate(self.outcomes) if outcome is None)
        for entry in missing:
            self._settle(entry, Outcome("failed", "missing", "the far side did not say what became of it"))
        self._phase = _Phase.FINISHED
        return [Settled(missing), Finished()] if missing else [Finished()]

    def _settle(self, entry: int, outcome: Outcome) -> None:
        if self.outcomes[entry] is not None:
            raise ProtocolError("the receiver settles an entry twice")
        self.outcomes[entry] = outcome

    def _check(self, entry: int) -> None:
        if entry >= len(self._entries):
            raise ProtocolError("the receiver speaks of an entry that was not offered")

    def _needs(self, *phases: _Phase) -> None:
        if self._phase not in phases:
            raise ProtocolError(f"the receiver sent a message out of turn ({self._phase.value})")
