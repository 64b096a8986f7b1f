"""A single file, to a place of the user's choice: under another name, or as a stream to a descriptor."""

from __future__ import annotations

import hashlib
import os
import select
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace
from threading import Event

from peercli.protocol.manifest import Entry, NameRules
from peercli.protocol.transfer import Prefix
from peercli.protocol.transfer_receiver import Abandon, Finish, Hole, Plan, Start, Write
from peercli.services.files.storage import (
    NEVER,
    Conflict,
    Incoming,
    Refusal,
    Result,
    Saved,
    SaveDir,
    Trouble,
)

__all__ = ["Outlet", "single_file"]

POLL = 0.25  # s until a write to a pipe that nobody reads notices that it is no longer wanted
ONLY_ONE = Refusal("declined", "only a single file is taken here")

_ZEROS = bytes(1 << 16)


def _is_single(entries: Sequence[Entry]) -> bool:
    return len(entries) == 1 and entries[0].kind == "file"


class _OneFile(SaveDir):
    def __init__(self, path: str, *, on_conflict: Conflict) -> None:
        super().__init__(os.path.dirname(os.path.abspath(path)), on_conflict=on_conflict)
        self._name = os.path.basename(path)

    def incoming(self, entries: Sequence[Entry]) -> Incoming:
        if not _is_single(entries):
            return _Refusing(self, [])
        return super().incoming([replace(entries[0], path=(self._name,))])


class _Refusing(Incoming):
    def plan(self, stopped: Event) -> Plan | Refusal:
        return ONLY_ONE


def single_file(path: str, *, on_conflict: Conflict = "resume") -> SaveDir:
    """A place that takes one file, and calls it `path`."""
    return _OneFile(path, on_conflict=on_conflict)


class Outlet:
    """A place that writes one file to a descriptor, as it comes: whether it is right is known at its end."""

    rules = NameRules()

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def incoming(self, entries: Sequence[Entry]) -> _Flow:
        return _Flow(self._fd, entries)

    def close(self) -> None:
        """The descriptor stays open."""


class _Flow:
    """The one transfer. It can go on after a lost connection, but never back."""

    def __init__(self, fd: int, entries: Sequence[Entry]) -> None:
        self.saved: dict[int, Saved] = {}
        self._fd = fd
        self._single = _is_single(entries)
        self._digest = hashlib.sha256()
        self._position = 0
        mode = os.fstat(fd).st_mode
        # A pipe that is ready takes this much without waiting (POSIX); a file does not let us wait anyhow.
        self._piece = select.PIPE_BUF if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else 1 << 20

    def plan(self, stopped: Event) -> Plan | Refusal:
        if not self._single:
            return ONLY_ONE
        here = (Prefix(self._position, self._digest.hexdigest()),)
        return Plan(have=frozenset(self.saved), resume={0: here} if self._position and not self.saved else {})

    def apply(
        self, actions: Iterable[Start | Write | Hole | Finish | Abandon], stopped: Event = NEVER
    ) -> Result:
        """Raises `BrokenPipeError` when nobody reads."""
        for action in actions:
            match action:
                case Start(_, offset) if offset != self._position:
                    return Result(troubles=[Trouble(0, "storage", "what was written cannot be taken back")])
                case Write(_, data):
                    self._write(data, stopped)
                case Hole(_, length):
                    for start in range(0, length, len(_ZEROS)):
                        self._write(memoryview(_ZEROS)[: length - start], stopped)
                case Finish(_, digest) if digest != self._digest.hexdigest():
                    return Result(troubles=[Trouble(0, "digest", "what was written is not what was sent")])
                case Finish(_, digest):
                    self.saved[0] = Saved(0, "-", self._position, digest)
                    return Result(saved=[self.saved[0]])
        return Result()

    def _write(self, data: memoryview, stopped: Event) -> None:
        while data and not stopped.is_set():
            if select.select([], [self._fd], [], POLL)[1]:
                count = os.write(self._fd, data[: self._piece])
                self._digest.update(data[:count])
                self._position += count
                data = data[count:]

    def commit(self) -> Result:
        return Result()

    def finish(self) -> Result:
        return Result()

    def close(self) -> None:
        """Nothing is held."""
