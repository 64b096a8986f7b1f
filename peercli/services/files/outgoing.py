"""What is to be sent: which files and folders, and their content as it is read.

Everything here blocks, so it is called through threads; nothing is printed. A file that changes, shrinks or
vanishes between the walk and its last byte is told as a problem, and its digest is never given.
"""

from __future__ import annotations

import errno
import fnmatch
import hashlib
import os
import re
import select
import stat
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from threading import Event

from peercli.errors import UsageError
from peercli.protocol.manifest import Entry, offerable, transfer_id
from peercli.protocol.transfer import Prefix
from peercli.protocol.transfer_receiver import WINDOW
from peercli.protocol.transfer_sender import BATCH_SIZE, Chunk, Read

__all__ = ["STDIN", "Problem", "Reader", "Selection", "Source", "select_files"]

STDIN = "-"
STREAM_KEPT = WINDOW + 4 * BATCH_SIZE  # bytes of a stream kept for a receiver that lost its connection
CHECKPOINTS = 2 * WINDOW // BATCH_SIZE  # running digests kept of the file being sent
MIN_HOLE = 65_536  # what is smaller is sent as zeros
POLL = 0.25  # seconds until a wait for stdin notices that it is no longer wanted


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not offered, and why."""

    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Source:
    """An entry and where it comes from; `identity` is what must not change while it is sent."""

    entry: Entry
    path: str
    identity: _Identity | None = None
    follow: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """All that was asked for, in the order of the offer; `problems` is what could not be taken along."""

    sources: list[Source]
    problems: list[Problem]
    id: str

    @property
    def entries(self) -> list[Entry]:
        return [source.entry for source in self.sources]


_Identity = tuple[int, int, int, int]


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# The walk -------------------------------------------------------------------------------------


def select_files(
    paths: Sequence[str], *, exclude: Sequence[str] = (), follow_symlinks: bool = False, name: str = "stdin"
) -> Selection:
    """Walks the paths; `-` is stdin, called `name`.

    `exclude`: globs for names at any depth, or, with a slash, for paths below the folders given.
    Links that are named themselves are followed, those inside folders only with `follow_symlinks`.
    Raises `UsageError` for a path that cannot be sent at all, and when two would have one name.
    """
    walk = _Walk(
        [re.compile(fnmatch.translate(glob.rstrip("/"))) for glob in exclude], exclude, follow_symlinks
    )
    for path in paths:
        walk.add(path, name)
    if not walk.sources:
        raise UsageError("there is nothing to send")
    salt = token_hex(16) if any(source.path == STDIN for source in walk.sources) else ""
    return Selection(walk.sources, walk.problems, transfer_id((s.entry for s in walk.sources), salt=salt))


class _Walk:
    def __init__(self, globs: list[re.Pattern[str]], texts: Sequence[str], follow: bool) -> None:
        self.sources: list[Source] = []
        self.problems: list[Problem] = []
        self._names: set[str] = set()
        self._anywhere = [
            glob for glob, text in zip(globs, texts, strict=True) if "/" not in text.rstrip("/")
        ]
        self._below = [glob for glob, text in zip(globs, texts, strict=True) if "/" in text.rstrip("/")]
        self._follow = follow

    def add(self, path: str, stdin_name: str) -> None:
        name = stdin_name if path == STDIN else os.path.basename(os.path.abspath(path))
        if not name or "/" in name:
            raise UsageError(f"{path} has no name to send it under")
        if name in self._names:
            raise UsageError(f"two of the paths are called {name}")
        self._names.add(name)
        if path == STDIN:
            self.sources.append(Source(Entry((name,)), STDIN))
            return
        try:
            status = os.stat(path)
            if stat.S_ISDIR(status.st_mode):
                os.listdir(path)
            elif not os.access(path, os.R_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        if stat.S_ISDIR(status.st_mode):
            self._folder((name,), path, status, [])
        elif stat.S_ISREG(status.st_mode):
            self._file((name,), path, status, follow=True)
        elif stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
            self.sources.append(Source(Entry((name,)), path))
        else:
            raise UsageError(f"cannot send {path}: it is neither a file nor a folder")

    def _folder(
        self, at: tuple[str, ...], path: str, status: os.stat_result, above: list[tuple[int, int]]
    ) -> None:
        key = (status.st_dev, status.st_ino)
        if key in above:
            self._problem(path, "the link leads back to a folder around it")
            return
        if not self._take(Source(Entry(at, "folder", mode=_mode(status), mtime=status.st_mtime_ns), path)):
            return
        try:
            with os.scandir(path) as listing:
                children = sorted(listing, key=lambda child: child.name)
        except OSError as error:
            self._problem(path, error.strerror)
            return
        for child in children:
            try:
                self._child((*at, child.name), child, [*above, key])
            except OSError as error:
                self._problem(child.path, error.strerror)

    def _child(self, at: tuple[str, ...], child: os.DirEntry[str], above: list[tuple[int, int]]) -> None:
        if self._excluded(at):
            return
        if child.is_symlink() and not self._follow:
            target = os.readlink(child.path)
            self._take(Source(Entry(at, "link", target=target), child.path))
            return
        status = child.stat(follow_symlinks=self._follow)
        if stat.S_ISDIR(status.st_mode):
            self._folder(at, child.path, status, above)
        elif stat.S_ISREG(status.st_mode):
            self._file(at, child.path, status, follow=self._follow)
        else:
            self._problem(child.path, "it is neither a file, a folder nor a link")

    def _file(self, at: tuple[str, ...], path: str, status: os.stat_result, *, follow: bool) -> None:
        stored = min(status.st_blocks * 512, status.st_size)
        entry = Entry(
            path=at,
            size=status.st_size,
            stored=stored if stored < status.st_size - 4_096 else None,
            mode=_mode(status),
            mtime=status.st_mtime_ns,
        )
        self._take(Source(entry, path, _identity(status), follow))

    def _take(self, source: Source) -> bool:
        refusal = offerable(source.entry)
        if refusal:
            self._problem(source.path, refusal)
        else:
            self.sources.append(source)
        return not refusal

    def _excluded(self, at: tuple[str, ...]) -> bool:
        below = "/".join(at[1:])
        return any(glob.match(at[-1]) for glob in self._anywhere) or any(
            glob.match(below) or glob.match("/".join(at)) for glob in self._below
        )

    def _problem(self, path: str, message: str | None) -> None:
        self.problems.append(Problem(path, message or "it cannot be read"))


def _mode(status: os.stat_result) -> int:
    return stat.S_IMODE(status.st_mode) & 0o777


# Reading --------------------------------------------------------------------------------------


class _Unsendable(Exception):
    """The file cannot be sent as it was offered. `reason` as in the protocol."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Reader:
    """Reads what a `Sender` plans; one at a time may call it. It outlives connections.

    It remembers digests of files that are done and running digests of the one at hand, so that going on after
    a lost connection costs no second reading of what was already read.
    """

    def __init__(self, sources: Sequence[Source], *, stdin: int = 0) -> None:
        self._sources = sources
        self._stdin = stdin
        self._digests: dict[int, str] = {}
        self._at: tuple[int, _File] | None = None
        self._streams: dict[int, _Stream] = {}

    def read(self, reads: Sequence[Read], stopped: Event) -> list[Chunk]:
        """The content asked for, in order. Problems of files are in the chunks.

        Returns early, with less, once `stopped` is set: then the connection must be over.
        """
        chunks: list[Chunk] = []
        for read in reads:
            if stopped.is_set():
                break
            self._read(read, chunks, stopped)
        return chunks

    def digest(self, entry: int) -> str:
        """SHA-256 of a file that was read to its end, in hex; empty for others."""
        return self._digests.get(entry, "")

    def close(self) -> None:
        self._leave()
        for stream in self._streams.values():
            stream.close()

    def _read(self, read: Read, chunks: list[Chunk], stopped: Event) -> None:
        try:
            if self._sources[read.entry].identity is None:
                self._read_stream(read, chunks, stopped)
            else:
                self._read_file(read, chunks, stopped)
        except _Unsendable as error:
            problem = Chunk(read.entry, problem=error.reason, message=error.message)
        except FileNotFoundError:
            problem = Chunk(read.entry, problem="vanished", message="the file is gone")
        except OSError as error:
            reason = "changed" if error.errno == errno.ELOOP else "unreadable"  # it has become a link
            problem = Chunk(read.entry, problem=reason, message=error.strerror or "it cannot be read")
        else:
            if chunks and chunks[-1].digest:
                self._digests[read.entry] = chunks[-1].digest
            return
        self._leave()
        chunks.append(problem)

    def _read_file(self, read: Read, chunks: list[Chunk], stopped: Event) -> None:
        source = self._sources[read.entry]
        if read.start and read.prefixes:
            last = read.prefixes[-1]
            if last.offset == source.entry.size and self.digest(read.entry) == last.digest:
                chunks.append(Chunk(read.entry, last.offset, digest=last.digest))
                return
        if self._at is None or self._at[0] != read.entry:
            self._leave()
            self._at = read.entry, _File(source)
        file = self._at[1]
        if read.start and not file.seek(read.prefixes, stopped):
            return
        left = read.length
        while True:
            chunk = file.read(read.entry, left, read.holes)
            chunks.append(chunk)
            left -= len(chunk.data) + chunk.hole
            if chunk.digest:
                self._leave()
            if chunk.digest or not left:
                return

    def _read_stream(self, read: Read, chunks: list[Chunk], stopped: Event) -> None:
        stream = self._streams.get(read.entry)
        if stream is None:
            path = self._sources[read.entry].path
            fd = os.dup(self._stdin) if path == STDIN else _opened(path)
            self._streams[read.entry] = stream = _Stream(fd)
        if read.start:
            stream.seek(read.prefixes)
        while not stream.ready(POLL):
            if stopped.is_set():
                return
        chunks.append(stream.read(read.entry, read.length))

    def _leave(self) -> None:
        if self._at is not None:
            self._at[1].close()
            self._at = None


def _opened(path: str) -> int:
    """A descriptor of a pipe or a device, at once: who opens it for writing may come later, or never."""
    # Linux alone tells a pipe that nobody has written to from one that has ended.
    flags = os.O_NONBLOCK if sys.platform == "linux" else 0
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    os.set_blocking(fd, True)
    return fd


class _File:
    """A regular file while it is sent."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._size = source.entry.size or 0
        self._position = 0
        self._hash = hashlib.sha256()
        self._checkpoints: deque[tuple[int, hashlib._Hash]] = deque(maxlen=CHECKPOINTS)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if source.follow else os.O_NOFOLLOW)
        self._fd = os.open(source.path, flags)
        try:
            self._check(os.fstat(self._fd))
        except _Unsendable:
            self.close()
            raise

    def seek(self, prefixes: Sequence[Prefix], stopped: Event) -> bool:
        """Goes to the greatest offset whose digest fits, else to 0. False when it was stopped."""
        found = 0, hashlib.sha256()
        for prefix in prefixes:
            self._forget(prefix.offset)
            self._position, running = self._checkpoints[-1] if self._checkpoints else found
            self._hash = running.copy()
            while self._position < prefix.offset:
                if stopped.is_set():
                    return False
                self._take(min(BATCH_SIZE, prefix.offset - self._position))
            if self._hash.hexdigest() != prefix.digest:
                break  # and so will all that are longer
            found = prefix.offset, self._hash.copy()
        self._position, self._hash = found
        self._forget(self._position)
        return True

    def read(self, entry: int, length: int, holes: bool) -> Chunk:
        """The next stretch, of up to `length` bytes: data, or a hole."""
        offset = self._position
        length = min(length, self._size - offset)
        hole = 0
        if holes and self._source.entry.stored is not None:
            hole, length = self._stretch(offset, length)
        data = b"" if hole else self._take(length)
        if hole:
            self._hash.update(bytes(hole))
            self._position += hole
        self._check(os.fstat(self._fd))
        if self._position < self._size:
            return Chunk(entry, offset, data, hole)
        self._check(os.stat(self._source.path, follow_symlinks=self._source.follow))
        return Chunk(entry, offset, data, hole, self._hash.hexdigest())

    def close(self) -> None:
        os.close(self._fd)

    def _take(self, length: int) -> bytes:
        data = os.pread(self._fd, length, self._position)
        if len(data) < length:
            raise _Unsendable("changed", "the file has become shorter")
        self._hash.update(data)
        self._position += length
        self._checkpoints.append((self._position, self._hash.copy()))
        return data

    def _forget(self, offset: int) -> None:
        while self._checkpoints and self._checkpoints[-1][0] > offset:
            self._checkpoints.pop()

    def _stretch(self, offset: int, length: int) -> tuple[int, int]:
        """How many of the next bytes are in a hole, or else how many to read before one begins."""
        data = self._after(offset, os.SEEK_DATA)
        if data - offset >= MIN_HOLE:
            return min(data - offset, length), 0
        hole = self._after(data, os.SEEK_HOLE)
        wide = self._after(hole, os.SEEK_DATA) - hole >= MIN_HOLE
        return 0, min(hole - offset, length) if wide else length

    def _after(self, offset: int, what: int) -> int:
        """Where data, or a hole, next begins; the size of the file when none does."""
        try:
            return min(os.lseek(self._fd, offset, what), self._size)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return self._size
            return offset if what == os.SEEK_DATA else self._size  # a volume that cannot tell

    def _check(self, status: os.stat_result) -> None:
        if _identity(status) != self._source.identity:
            raise _Unsendable("changed", "the file has changed since it was offered")


class _Stream:
    """Stdin or a pipe. It cannot be read twice, so its last stretch is kept for a receiver that needs it."""

    def __init__(self, fd: int) -> None:
        self.position = 0
        self._fd = fd
        self._hash = hashlib.sha256()
        self._kept: deque[tuple[int, bytes, hashlib._Hash]] = deque()  # offset, content, digest before it
        self._end = 0  # how much was read from the stream so far
        self._over = False

    def seek(self, prefixes: Sequence[Prefix]) -> None:
        """Goes back to where the receiver is. Raises when what it needs is no longer there."""
        if self._end == 0:
            return  # nothing was read: what another stream left at the receiver is of no use
        offers = [*prefixes[::-1], Prefix(0, hashlib.sha256().hexdigest())]
        for prefix in offers:
            for offset, data, before in self._kept:
                if offset <= prefix.offset <= offset + len(data):
                    running = before.copy()
                    running.update(data[: prefix.offset - offset])
                    if running.hexdigest() == prefix.digest:
                        self.position, self._hash = prefix.offset, running
                        return
        raise _Unsendable("vanished", "the receiver needs a part of the stream that is gone")

    def ready(self, timeout: float) -> bool:
        """Whether `read` would not block, after at most `timeout` seconds."""
        return self._over or self.position < self._end or bool(select.select([self._fd], [], [], timeout)[0])

    def read(self, entry: int, length: int) -> Chunk:
        """What there is, up to `length` bytes; waits if there is nothing."""
        offset = self.position
        data = self._again(length) if offset < self._end else self._more(length)
        self.position += len(data)
        self._hash.update(data)
        over = self._over and self.position == self._end
        return Chunk(entry, offset, data, digest=self._hash.hexdigest() if over else "")

    def close(self) -> None:
        os.close(self._fd)

    def _again(self, length: int) -> bytes:
        for offset, data, _ in self._kept:
            if offset <= self.position < offset + len(data):
                return data[self.position - offset :][:length]
        raise _Unsendable("vanished", "the receiver needs a part of the stream that is gone")

    def _more(self, length: int) -> bytes:
        data = b"" if self._over else os.read(self._fd, length)
        if not data:
            self._over = True
            return data
        self._kept.append((self._end, data, self._hash.copy()))
        self._end += len(data)
        while self._end - self._kept[0][0] - len(self._kept[0][1]) >= STREAM_KEPT:
            self._kept.popleft()
        return data
