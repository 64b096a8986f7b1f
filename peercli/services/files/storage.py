"""Where received files go: content grows in a `.part` beside its target, and is renamed into place once it
is whole, checked and on the disk.

Everything here blocks, so it is called through threads; nothing is printed. Folders are opened one below the
other without following links, and every file is reached through its folder's descriptor, so nothing can come
to lie outside the save-dir, whatever links stand there or are put there meanwhile.

What survives a crash is the `.part` under its fixed name and what is in place. `plan` finds both again and
proposes them with digests: nothing is trusted by its name alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from threading import Event
from typing import Literal

from peercli.errors import StorageFailed
from peercli.protocol.manifest import Entry, numbered_name, part_name
from peercli.protocol.transfer import MAX_PREFIXES, Prefix
from peercli.protocol.transfer_receiver import Abandon, Finish, Hole, Plan, Start, Write
from peercli.services.files.disk import (
    BLOCK,
    FILE_FLAGS,
    Folders,
    Key,
    Version,
    dress,
    flush,
    hashed,
    key_of,
    lock,
    move,
    probe,
    reading,
    status_of,
    version_of,
    volume_sync,
)

__all__ = ["NEVER", "Conflict", "Incoming", "Refusal", "Result", "SaveDir", "Saved", "Trouble"]

Conflict = Literal["resume", "rename", "overwrite", "skip", "fail"]

PREFIX_STEP = 16 << 20  # bytes; least distance of the offsets proposed for a `.part`: what a torn end costs
MAX_NUMBER = 1_000  # `name (1)` … are tried so far
MAX_PARTS = 8  # `.part` names of one target that others may hold
MAX_PENDING = 1_024  # whole files that wait, open and locked, to be made safe together
DESCRIPTOR_SHARE = 4  # … and no more than one in so many of the descriptors that the process may have
MAX_PENDING_BYTES = 64 << 20
MAX_PIECES = 1_024  # written in one go (Linux's IOV_MAX)
FLUSH_BYTES = 16 << 20  # of one file, after which the disk begins with them
FEW = 8  # up to so many files are synced one by one, more by syncing their volume
MTIME_SLACK = 2_000_000_000  # nanoseconds: what FAT rounds times to

NEVER = Event()  # what is never stopped
_ZEROS = bytes(BLOCK)
# What concerns the volume or the process, not one file: the next would fail alike.
_FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
_IN_THE_WAY = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENXIO}

_Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Saved:
    """An entry that is safe. `digest` is SHA-256 in hex, empty for folders and links; sizes are in bytes."""

    entry: int
    path: str
    size: int = 0
    digest: str = ""
    resumed_from: int = 0


@dataclass(frozen=True, slots=True)
class Trouble:
    """An entry that cannot be kept; `reason` as in the protocol's `failed`."""

    entry: int
    reason: str
    message: str


@dataclass(slots=True)
class Result:
    """What has become safe, and what could not be kept."""

    saved: list[Saved] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    def add(self, other: Result) -> None:
        self.saved += other.saved
        self.troubles += other.troubles


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the offer must be declined; `reason` as in the protocol's `decline`."""

    reason: str
    message: str


class _Failure(Exception):
    """One entry cannot be kept; the others can."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class SaveDir:
    """A folder that takes files; made when it is not there. Several transfers may use it at once.

    Raises `StorageFailed` when it cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], *, on_conflict: Conflict = "resume") -> None:
        self.path = os.path.abspath(path)
        self.on_conflict = on_conflict
        self.claimed: set[Key] = set()  # every `.part` in use here
        try:
            os.makedirs(self.path, exist_ok=True)
            self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.rules = probe(self.fd)
            except OSError:
                self.close()
                raise
        except OSError as error:
            raise StorageFailed(f"cannot save to {self.path}: {error.strerror}") from None
        umask = os.umask(0o077)
        os.umask(umask)
        self.default_mode = 0o666 & ~umask

    def incoming(self, entries: Sequence[Entry]) -> Incoming:
        """A transfer of these entries into this folder."""
        return Incoming(self, entries)

    def close(self) -> None:
        os.close(self.fd)


@contextmanager
def _fatal() -> Iterator[None]:
    """Whatever goes wrong inside is the end of the transfer."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"cannot save: {error.strerror}", hint=_hint(error)) from None


@contextmanager
def _for_entry(entry: Entry) -> Iterator[None]:
    """What goes wrong inside is the failure of one entry, unless the next would fail alike."""
    try:
        yield
    except OSError as error:
        if error.errno in _FATAL:
            raise StorageFailed(f"cannot save {entry.name}: {error.strerror}", hint=_hint(error)) from None
        if error.errno in _IN_THE_WAY:
            raise _Failure("conflict", f"a link or a file is in the way of {entry.name}") from None
        raise _Failure("storage", error.strerror or "it cannot be saved") from None


def _hint(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "make room and run the same command again: it goes on where it stopped" if full else ""


def _close(mtime: int, wanted: int | None) -> bool:
    return wanted is None or abs(mtime - wanted) < MTIME_SLACK


def _leads_to(folder: int, name: str, there: os.stat_result, target: str) -> bool:
    return stat.S_ISLNK(there.st_mode) and os.readlink(name, dir_fd=folder) == target


def _writable(folder: int) -> bool:
    effective = os.access in os.supports_effective_ids
    return os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=effective)


@dataclass(frozen=True, slots=True)
class _Held:
    """Content that is here already, up to some offset: in a `.part`, or in a target."""

    name: str
    version: Version
    digest: str
    running: hashlib._Hash | None = None  # for a `.part` only: to go on from


@dataclass(slots=True)
class _Part:
    """The file that is coming, or one that is whole and waits for its place."""

    entry: int
    folder: _Path
    name: str
    fd: int  # -1 for what is in its place already
    key: Key
    running: hashlib._Hash
    position: int = 0
    flushing: int = 0  # what is before that was handed to the disk
    resumed_from: int = 0
    in_place: str = ""  # the digest of the target, where that is the right file already and `name` its name
    replaces: Version | None = None  # the shorter target that it goes on from

    @property
    def digest(self) -> str:
        return self.in_place or self.running.hexdigest()


class Incoming:
    """One transfer into a save-dir. It outlives connections; one thread at a time may call it.

    For each connection: `plan`, then `apply` as content comes and `commit` when none comes for now, and
    `finish` at its end; after a lost one `commit`, too. Each raises `StorageFailed` when the volume gives up.
    `close`, at the very end, keeps what is half there. `saved` has all that is safe.
    """

    def __init__(self, save_dir: SaveDir, entries: Sequence[Entry]) -> None:
        self.saved: dict[int, Saved] = {}
        self._dir = save_dir
        self._entries = entries
        self._folders = Folders(save_dir.fd)
        self._placed: set[Key] = set()  # what this transfer put in place
        self._held: dict[int, dict[int, _Held]] = {}  # entry → offset proposed → where that is
        self._part: _Part | None = None
        self._pending: list[_Part] = []
        self._pending_bytes = 0
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if descriptors == resource.RLIM_INFINITY:
            descriptors = DESCRIPTOR_SHARE * MAX_PENDING
        self._max_pending = min(MAX_PENDING, descriptors // DESCRIPTOR_SHARE)
        self._named: list[Saved] = []  # in place, their names not yet synced

    # Planning ---------------------------------------------------------------------------------

    def plan(self, stopped: Event) -> Plan | Refusal:
        """What to answer to the offer. Takes as long as hashing what is here; `stopped` ends it early."""
        self._folders.close()
        if not _writable(self._dir.fd):
            return Refusal("storage", f"no permission to write to {self._dir.path}")
        skip: dict[int, str] = {}
        taken: list[str] = []
        self._held = {}
        for index, entry in enumerate(self._entries):
            if entry.kind == "folder" or entry.refused or index in self.saved:
                continue
            verdict = ""
            with suppress(_Failure), _for_entry(entry):  # a failure is told when its content comes
                verdict = self._look(index, entry, stopped)
            if verdict == "skip":
                skip[index] = "exists"
            elif verdict == "fail":
                taken.append(entry.name)
        if taken:
            return Refusal("conflict", f"{len(taken)} of the files exist: {', '.join(taken[:3])}")
        with _fatal():
            volume = os.fstatvfs(self._dir.fd)
        needed, free = self._needed(skip), volume.f_bavail * volume.f_frsize
        if needed > free:
            return Refusal("space", f"{needed:,} bytes are needed, {free:,} are free")
        return Plan(
            have=frozenset(self.saved),
            skip=skip,
            resume={
                index: tuple(Prefix(offset, offers[offset].digest) for offset in sorted(offers))
                for index, offers in self._held.items()
            },
        )

    def _needed(self, skip: Mapping[int, str]) -> int:
        """Bytes that the transfer will still take on the volume."""
        needed = 0
        for index, entry in enumerate(self._entries):
            if entry.size is None or index in self.saved or index in skip:
                continue
            offers = self._held.get(index, {})
            here = max((at for at, held in offers.items() if held.running or at == entry.size), default=0)
            needed += min(entry.size - here, entry.size if entry.stored is None else entry.stored)
        return needed

    def _look(self, index: int, entry: Entry, stopped: Event) -> str:
        """Notes what is here of an entry; `skip` or `fail` where the policy says so for one that exists."""
        folder = self._folders.find(entry.path[:-1])
        if folder < 0:
            return ""
        there = status_of(folder, entry.path[-1])
        policy = self._dir.on_conflict
        if there is not None and policy == "skip":
            return "skip"
        if entry.kind == "link":
            same = there is not None and _leads_to(folder, entry.path[-1], there, entry.target)
        else:
            same = self._look_at_file(index, entry, folder, stopped)
        return "fail" if there is not None and policy == "fail" and not same else ""

    def _look_at_file(self, index: int, entry: Entry, folder: int, stopped: Event) -> bool:
        """Notes what is here of a file; whether it seems to be whole, and in its place."""
        offers: dict[int, _Held] = {}
        part = self._part
        if part is None or part.entry != index:
            self._look_at_part(folder, entry, offers, stopped)
        elif part.position:
            offers[part.position] = _Held(part.name, (*part.key, 0, 0), part.digest, part.running)
        name = self._look_at_targets(folder, entry, offers, stopped)
        if name and entry.size == 0:
            shown = self._shown(entry.path[:-1], name)
            self.saved[index] = Saved(index, shown, 0, hashlib.sha256().hexdigest())
        elif offers:
            self._held[index] = offers
        return name == entry.path[-1]

    def _look_at_part(self, folder: int, entry: Entry, offers: dict[int, _Held], stopped: Event) -> None:
        name = part_name(entry.path[-1], self._dir.rules)
        with reading(folder, name) as opened:
            if opened is None or opened[1].st_nlink != 1 or key_of(opened[1]) in self._dir.claimed:
                return
            fd, status = opened
            size = status.st_size if entry.size is None else min(status.st_size, entry.size)
            step = max(PREFIX_STEP, -(-size // (MAX_PREFIXES - 2)))
            for offset, running in hashed(fd, [*range(step, size, step), size] if size else [], stopped):
                offers[offset] = _Held(name, version_of(status), running.hexdigest(), running)

    def _look_at_targets(self, folder: int, entry: Entry, offers: dict[int, _Held], stopped: Event) -> str:
        """Looks whether the file is in its place, whole or its beginning; the name it has if it is whole."""
        policy = self._dir.on_conflict
        for number in range(MAX_NUMBER if policy in ("resume", "rename") else 1):
            name = self._numbered(entry, number)
            there = status_of(folder, name)
            if there is None or entry.size is None:
                break
            if not stat.S_ISREG(there.st_mode) or key_of(there) in self._placed:
                continue
            whole = there.st_size == entry.size and _close(there.st_mtime_ns, entry.mtime)
            begun = policy == "resume" and number == 0 and 0 < there.st_size < entry.size
            if (whole and entry.size) or (begun and there.st_size not in offers):
                with reading(folder, name) as opened:
                    if opened is not None:
                        for offset, running in hashed(opened[0], [there.st_size], stopped):
                            offers[offset] = _Held(name, version_of(opened[1]), running.hexdigest())
            if whole:
                return name
        return ""

    # Content ----------------------------------------------------------------------------------

    def apply(
        self, actions: Iterable[Start | Write | Hole | Finish | Abandon], stopped: Event = NEVER
    ) -> Result:
        """Does what the protocol says, in order; what else comes of a file that fails is passed over."""
        result = Result()
        failed: set[int] = set()
        for (entry, _), run in groupby(actions, lambda action: (action.entry, isinstance(action, Write))):
            if entry in failed:
                continue
            steps = list(run)
            pieces = deque(step.data for step in steps if isinstance(step, Write))
            try:
                with _for_entry(self._entries[entry]):
                    if pieces:
                        self._write(self._coming(entry), pieces)
                    else:
                        for step in steps:
                            self._do(step)
            except _Failure as failure:
                failed.add(entry)
                result.troubles.append(Trouble(entry, failure.reason, failure.message))
            if len(self._pending) >= self._max_pending or self._pending_bytes >= MAX_PENDING_BYTES:
                result.add(self._place_all())
        return result

    def _do(self, action: Start | Write | Hole | Finish | Abandon) -> None:
        match action:
            case Start(entry, offset):
                self._start(entry, offset)
            case Hole(entry, length):
                part = self._coming(entry)
                os.ftruncate(part.fd, part.position + length)
                part.position = os.lseek(part.fd, part.position + length, os.SEEK_SET)
                for start in range(0, length, BLOCK):
                    part.running.update(_ZEROS[: length - start])
            case Finish(entry, digest):
                self._end(entry, digest)
            case Abandon(entry):
                if self._part is not None and self._part.entry == entry:
                    self._discard(self._part)

    def _write(self, part: _Part, pieces: deque[memoryview]) -> None:
        """Writes all the pieces; after an error, the part is told exactly as far as it goes."""
        while pieces:
            count = os.writev(part.fd, list(islice(pieces, MAX_PIECES)))
            part.position += count
            while count:
                piece = pieces.popleft()
                part.running.update(piece[:count])
                if len(piece) > count:
                    pieces.appendleft(piece[count:])
                count -= min(count, len(piece))
        if part.position - part.flushing >= FLUSH_BYTES:
            flush(part.fd, part.position)
            part.flushing = part.position

    def _coming(self, entry: int) -> _Part:
        if self._part is None or self._part.entry != entry:
            raise _Failure("storage", "its content came out of turn")
        return self._part

    def _start(self, index: int, offset: int) -> None:
        entry = self._entries[index]
        kept, self._part = self._part, None
        if kept is not None and kept.entry == index and kept.position == offset:
            self._part = kept
            return
        if kept is not None:
            self._release(kept)
        held = self._held.get(index, {}).get(offset)
        if held is not None and held.running is None and offset == entry.size:
            self._part = _Part(index, entry.path[:-1], held.name, -1, held.version[:2], hashlib.sha256())
            self._part.in_place, self._part.position, self._part.resumed_from = held.digest, offset, offset
            return
        self._part = part = self._open_part(index, entry.path)
        if held is not None and held.running is not None and held.version[:2] == part.key:
            part.running, part.position, part.resumed_from = held.running.copy(), offset, offset
        os.ftruncate(part.fd, part.position)
        os.lseek(part.fd, part.position, os.SEEK_SET)
        if held is not None and held.running is None:
            self._copy(part, held, offset)
        if part.position != offset:
            raise _Failure("storage", "what it goes on from has changed")

    def _open_part(self, index: int, path: _Path) -> _Part:
        """Opens the `.part`, locked until it has its place, so that nobody else writes into it meanwhile."""
        folder = self._folders.make(path[:-1])
        for number in range(1, MAX_PARTS + 1):
            name = part_name(path[-1], self._dir.rules, number=number)
            fd = self._claim(folder, name)
            if fd < 0:
                fd = self._claim(folder, name)  # the first may have cleared a leftover away
            if fd >= 0:
                return _Part(index, path[:-1], name, fd, key_of(os.fstat(fd)), hashlib.sha256())
        raise _Failure("conflict", "its `.part` is in use, or something else has that name")

    def _claim(self, folder: int, name: str) -> int:
        """A descriptor of the `.part`, ours alone; -1 when it cannot be had."""
        fd = os.open(name, os.O_RDWR | os.O_CREAT | FILE_FLAGS, 0o600, dir_fd=folder)
        try:
            key = key_of(os.fstat(fd))
            if key in self._dir.claimed or not lock(fd):
                os.close(fd)
                return -1
            status, there = os.fstat(fd), status_of(folder, name)
            if there is not None and key_of(there) == key and stat.S_ISREG(status.st_mode):
                if status.st_nlink == 1:
                    self._dir.claimed.add(key)
                    return fd
                # It has another name too, as after a crash amid its rename: that one must not be written to.
                os.unlink(name, dir_fd=folder)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return -1

    def _copy(self, part: _Part, held: _Held, offset: int) -> None:
        """Begins with what the target has already."""
        with reading(self._folders.make(part.folder), held.name) as opened:
            if opened is None or version_of(opened[1]) != held.version:
                return
            while part.position < offset:
                block = os.pread(opened[0], min(BLOCK, offset - part.position), part.position)
                if not block:
                    return
                count = os.write(part.fd, block)
                part.running.update(block[:count])
                part.position += count
        part.resumed_from, part.replaces = offset, held.version

    def _end(self, index: int, digest: str) -> None:
        part, entry = self._coming(index), self._entries[index]
        if part.digest != digest:
            self._discard(part)
            raise _Failure("digest", "what was saved is not what was sent")
        if not part.in_place:
            dress(part.fd, self._dir.default_mode if entry.mode is None else entry.mode, entry.mtime)
        self._part = None
        self._pending.append(part)
        self._pending_bytes += part.position

    def _discard(self, part: _Part) -> None:
        self._part = None
        try:
            if not part.in_place:
                with suppress(FileNotFoundError):
                    os.unlink(part.name, dir_fd=self._folders.make(part.folder))
        finally:
            self._release(part)

    def _release(self, part: _Part) -> None:
        self._dir.claimed.discard(part.key)
        if part.fd >= 0:
            os.close(part.fd)
            part.fd = -1

    # Making safe ------------------------------------------------------------------------------

    def commit(self) -> Result:
        """Makes all whole files safe: their content is on the disk before they have their names."""
        result = self._place_all()
        with _fatal():
            self._folders.sync()
        self._report(result)
        return result

    def _place_all(self) -> Result:
        """Syncs the content of all whole files and names them; their names are safe at the next sync."""
        result = Result()
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        try:
            with _fatal():
                if len(pending) > FEW and volume_sync() is not None:
                    # The names of the last batch are on the same volumes: one sync does for both.
                    self._folders.sync_volumes({part.folder for part in pending} | self._folders.changed)
                    self._folders.changed.clear()
                    self._report(result)
                else:
                    self._sync_files(pending)
            for part in pending:
                try:
                    with _for_entry(self._entries[part.entry]):
                        self._named.append(self._place(part))
                except _Failure as failure:
                    result.troubles.append(Trouble(part.entry, failure.reason, failure.message))
        finally:
            for part in pending:
                self._release(part)
        return result

    def _report(self, result: Result) -> None:
        result.saved += self._named
        self.saved.update((saved.entry, saved) for saved in self._named)
        self._named = []

    def _sync_files(self, parts: Iterable[_Part]) -> None:
        for part in parts:
            if not part.in_place:
                os.fsync(part.fd)
                continue
            with reading(self._folders.make(part.folder), part.name) as opened:
                if opened is not None:
                    os.fsync(opened[0])

    def _place(self, part: _Part) -> Saved:
        entry, folder = self._entries[part.entry], self._folders.make(part.folder)
        status = status_of(folder, part.name)
        if status is None or key_of(status) != part.key or status.st_size != part.position:
            raise _Failure("storage", "someone else has changed it meanwhile")
        name = part.name if part.in_place else self._rename(part, folder, entry)
        self._placed.add(part.key)
        self._folders.changed.add(part.folder)
        path = self._shown(part.folder, name)
        return Saved(part.entry, path, part.position, part.digest, part.resumed_from)

    def _rename(self, part: _Part, folder: int, entry: Entry) -> str:
        """Gives the file its name, without touching what has it, unless that is meant to be replaced."""
        there = status_of(folder, entry.path[-1])
        replaceable = there is not None and (
            version_of(there) == part.replaces
            or (self._dir.on_conflict == "overwrite" and not stat.S_ISDIR(there.st_mode))
        )
        if there is not None and replaceable and key_of(there) not in self._placed:
            os.replace(part.name, entry.path[-1], src_dir_fd=folder, dst_dir_fd=folder)
            return entry.path[-1]
        for number in range(MAX_NUMBER):
            name = self._numbered(entry, number)
            try:
                move(folder, part.name, name)
            except FileExistsError:
                if self._dir.on_conflict in ("skip", "fail"):
                    break
            else:
                return name
        raise _Failure("conflict", f"{entry.name} exists")

    # The end ----------------------------------------------------------------------------------

    def finish(self) -> Result:
        """Makes links and folders, gives folders their modes and times, and makes all of it safe."""
        result = self.commit()
        made: list[Saved] = []
        links = [at for at, entry in enumerate(self._entries) if entry.kind == "link" and not entry.refused]
        folders = [at for at, entry in enumerate(self._entries) if entry.kind == "folder"]
        # The deepest first: making one touches the time of its parent.
        folders.sort(key=lambda at: len(self._entries[at].path), reverse=True)
        for index in [*links, *folders]:
            entry = self._entries[index]
            try:
                with _for_entry(entry):
                    name = self._link(entry) if entry.kind == "link" else self._settle(entry)
            except _Failure as failure:
                result.troubles.append(Trouble(index, failure.reason, failure.message))
            else:
                made.append(Saved(index, self._shown(entry.path[:-1], name)))
        with _fatal():
            self._folders.sync()
        result.saved += [saved for saved in made if saved.entry not in self.saved]
        self.saved.update((saved.entry, saved) for saved in made)
        return result

    def _settle(self, entry: Entry) -> str:
        dress(self._folders.make(entry.path), entry.mode, entry.mtime)
        self._folders.changed.add(entry.path)
        return entry.path[-1]

    def _link(self, entry: Entry) -> str:
        folder = self._folders.make(entry.path[:-1])
        for number in range(MAX_NUMBER):
            name = self._numbered(entry, number)
            there = status_of(folder, name)
            if there is not None and _leads_to(folder, name, there, entry.target):
                return name
            if there is not None and stat.S_ISLNK(there.st_mode) and self._dir.on_conflict == "overwrite":
                os.unlink(name, dir_fd=folder)
                there = None
            if there is None:
                os.symlink(entry.target, name, dir_fd=folder)
                self._folders.changed.add(entry.path[:-1])
                return name
            if self._dir.on_conflict in ("skip", "fail"):
                break
        raise _Failure("conflict", f"{entry.name} exists")

    def close(self) -> None:
        """Lets go of everything; what is half there, or not yet safe, stays as `.part`."""
        for part in self._pending:
            self._release(part)
        if self._part is not None:
            self._release(self._part)
        self._pending, self._part = [], None
        self._folders.close()

    def _numbered(self, entry: Entry, number: int) -> str:
        return numbered_name(entry.path[-1], number, self._dir.rules) if number else entry.path[-1]

    def _shown(self, folder: _Path, name: str) -> str:
        return os.path.join(self._dir.path, *folder, name)
