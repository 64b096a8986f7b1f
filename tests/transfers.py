"""Whole transfers without a network: both machines and both disks in one thread, a message at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol

from peercli.protocol.manifest import Entry, NameRules, transfer_id
from peercli.protocol.transfer import Prefix, Wire
from peercli.protocol.transfer_receiver import (
    Abandon,
    Ended,
    Finish,
    Hole,
    Offered,
    Plan,
    Receiver,
    Start,
    Write,
)
from peercli.protocol.transfer_sender import Chunk, Finished, Read, Sender
from peercli.services.files.storage import NEVER, Refusal, Result, Saved

Work = Start | Write | Hole | Finish | Abandon


class Reading(Protocol):
    """What `Session` wants of `outgoing.Reader`."""

    def read(self, reads: Sequence[Read], stopped: Event) -> list[Chunk]: ...


class Keeping(Protocol):
    """What `Session` wants of `storage.Incoming`."""

    def plan(self, stopped: Event) -> Plan | Refusal: ...
    def apply(self, actions: Iterable[Work], stopped: Event) -> Result: ...
    def commit(self) -> Result: ...
    def finish(self) -> Result: ...


@dataclass
class Session:
    """One connection. `keep` finds or makes the receiver's disk for an offer.

    Once the far side told that a file is safe, none of its content may come again: `safe`, which
    goes on from session to session, holds that.
    """

    entries: list[Entry]
    reader: Reading
    keep: Callable[[str, list[Entry]], Keeping]
    rules: NameRules = field(default_factory=NameRules)
    piece_size: int = 65_536
    window: int = 1 << 26
    id: str = ""
    safe: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.now = 0.0
        self.content = 0
        self.finished = False
        self.result = Result()
        self.keeping: Keeping | None = None
        self.offered: list[Entry] = []
        name = self.id or transfer_id(self.entries)
        self.sender = Sender(self.entries, name, 0.0, piece_size=self.piece_size)
        self.receiver = Receiver(self.rules, 0.0, window=self.window)

    def run(self) -> Session:
        """Goes on until the transfer has finished."""
        while not self.finished:
            assert self.step(), "both sides wait for each other"
        return self

    def step(self) -> bool:
        """Does one thing; False when there is nothing to do."""
        self.now += 0.01
        if self.sender.outbox:
            self._to_receiver(self.sender.outbox.pop(0))
            return True
        if self.receiver.outbox:
            message = self.receiver.outbox.pop(0)
            self.finished = Finished() in self.sender.received(message, self.now)
            for index, outcome in enumerate(self.sender.outcomes):
                if outcome is not None and outcome.state == "safe":
                    self.safe.add(index)
            return True
        plan = self.sender.plan()
        if plan:
            self.sender.read(self.reader.read(plan, NEVER))
            return True
        if self.keeping is not None:
            result = self.keeping.commit()
            self._tell(result)
            return bool(result.saved or result.troubles)
        return False

    def _to_receiver(self, message: Wire) -> None:
        work: list[Work] = []
        for action in self.receiver.received(message, self.now):
            match action:
                case Offered(id=name, entries=entries):
                    self.offered = entries
                    self.keeping = self.keep(name, entries)
                    self._tell(self.keeping.commit(), aloud=False)
                    plan = self.keeping.plan(NEVER)
                    if isinstance(plan, Refusal):
                        self.receiver.decline(plan.reason, plan.message)
                    else:
                        self.receiver.accept(plan, self.now)
                case Ended():
                    self._apply(work)
                    work = []
                    assert self.keeping is not None
                    self._tell(self.keeping.finish())
                    self.receiver.finish()
                case Write(entry, data):
                    assert entry not in self.safe, "something safe was sent twice"
                    self.content += len(data)
                    work.append(action)
                case _:
                    work.append(action)
        self._apply(work)

    def _apply(self, work: list[Work]) -> None:
        if not work:
            return
        assert self.keeping is not None
        self._tell(self.keeping.apply(work, NEVER))
        writes = sum(len(action.data) for action in work if isinstance(action, Write))
        holes = sum(action.length for action in work if isinstance(action, Hole))
        self.receiver.stored(writes + holes, self.now)

    def _tell(self, result: Result, *, aloud: bool = True) -> None:
        self.result.add(result)
        if aloud and result.saved:
            self.receiver.safe(saved.entry for saved in result.saved)
        for trouble in result.troubles if aloud else []:
            self.receiver.failed(trouble.entry, trouble.reason, trouble.message)


class MemoryReader:
    """Reads from a list of contents; None is what cannot be read."""

    def __init__(self, contents: Sequence[bytes | None]) -> None:
        self.contents = contents
        self._positions: dict[int, int] = {}

    def read(self, reads: Sequence[Read], stopped: Event) -> list[Chunk]:
        return [self._read(read) for read in reads]

    def _read(self, read: Read) -> Chunk:
        content = self.contents[read.entry]
        if content is None:
            return Chunk(read.entry, problem="unreadable", message="no permission")
        if read.start:
            self._positions[read.entry] = 0
            for prefix in read.prefixes:
                if hashlib.sha256(content[: prefix.offset]).hexdigest() == prefix.digest:
                    self._positions[read.entry] = prefix.offset
        start = self._positions[read.entry]
        end = self._positions[read.entry] = min(start + read.length, len(content))
        digest = hashlib.sha256(content).hexdigest() if end == len(content) else ""
        data = content[start:end]
        if read.holes and data and not any(data):
            return Chunk(read.entry, start, hole=len(data), digest=digest)
        return Chunk(read.entry, start, data, digest=digest)


class MemoryDisk:
    """A save-dir in memory. What `files` and `parts` hold survives a `crash`; the rest is the process's."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.parts: dict[str, bytearray] = {}
        self.entries: list[Entry] = []
        self._saved: set[int] = set()
        self._pending: list[tuple[int, str]] = []
        self._whole = -1  # the entry whose file in place is about to be confirmed

    def crash(self) -> None:
        self._saved, self._pending = set(), []

    def open(self, entries: list[Entry]) -> MemoryDisk:
        self.entries = entries
        return self

    def plan(self, stopped: Event) -> Plan:
        resume: dict[int, tuple[Prefix, ...]] = {}
        for index, entry in enumerate(self.entries):
            here = self.files.get(entry.name) or bytes(self.parts.get(entry.name, b""))
            if here and index not in self._saved and (entry.size is None or len(here) <= entry.size):
                middle, end = len(here) // 2, len(here)
                resume[index] = tuple(
                    Prefix(offset, hashlib.sha256(here[:offset]).hexdigest())
                    for offset in sorted({middle, end} - {0})
                )
        return Plan(have=frozenset(self._saved), resume=resume)

    def apply(self, actions: Iterable[Work], stopped: Event) -> Result:
        result = Result()
        for action in actions:
            name = self.entries[action.entry].name
            match action:
                case Start(entry, offset):
                    self._whole = entry if offset and len(self.files.get(name, b"")) == offset else -1
                    here = self.files.get(name) or bytes(self.parts.get(name, b""))
                    self.parts[name] = bytearray(here[:offset])
                    assert len(self.parts[name]) == offset
                case Write(_, data):
                    self.parts[name] += data
                case Hole(_, length):
                    self.parts[name] += bytes(length)
                case Finish(entry, digest):
                    assert hashlib.sha256(self.parts[name]).hexdigest() == digest
                    self._pending.append((entry, digest))
                case Abandon():
                    self.parts.pop(name, None)
        return result

    def commit(self) -> Result:
        result = Result()
        for index, digest in self._pending:
            name = self.entries[index].name
            self.files[name] = bytes(self.parts.pop(name))
            result.saved.append(Saved(index, name, len(self.files[name]), digest))
        self._saved.update(index for index, _ in self._pending)
        self._pending = []
        return result

    def finish(self) -> Result:
        result = self.commit()
        made = [
            index for index, entry in enumerate(self.entries) if entry.kind != "file" and not entry.refused
        ]
        result.saved += [Saved(index, self.entries[index].name) for index in made if index not in self._saved]
        self._saved.update(made)
        return result
