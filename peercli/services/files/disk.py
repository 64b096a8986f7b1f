"""The disk as the save-dir needs it: folders that no link leads out of, renames that replace nothing, syncs.

Everything here blocks. `OSError` is let through: what it means for a transfer is up to the caller.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from secrets import token_hex
from threading import Event

from peercli.protocol.manifest import NameRules

__all__ = [
    "BLOCK",
    "FILE_FLAGS",
    "UNSUPPORTED",
    "Folders",
    "Key",
    "Version",
    "dress",
    "flush",
    "hashed",
    "key_of",
    "lock",
    "move",
    "probe",
    "reading",
    "status_of",
    "version_of",
    "volume_sync",
]

BLOCK = 1 << 20  # bytes hashed at a time
MAX_FOLDERS = 64  # folders kept open
FEW_FOLDERS = 8  # up to so many are synced one by one, more by syncing their volume
SHORTEST = 64  # bytes; a volume that says its names are shorter than this is not believed

FILE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO in the way must not make us wait
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
UNSUPPORTED = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}

Key = tuple[int, int]  # device and inode
Version = tuple[int, int, int, int]  # … and size and mtime
_Path = tuple[str, ...]


def probe(folder: int) -> NameRules:
    """Tries what names the volume of the folder can hold."""
    longest = os.fstatvfs(folder).f_namemax
    limit = longest if longest >= SHORTEST else 255
    name = f".peercli-{token_hex(8)}"
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=folder))
    except OSError:
        return NameRules(max_bytes=limit)
    try:
        fold = status_of(folder, name.upper()) is not None
        try:
            other = os.open(f"{name}:", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        except OSError as error:
            windows = error.errno in (errno.EINVAL, errno.ENOENT, errno.EACCES)
        else:
            windows = False
            os.close(other)
            os.unlink(f"{name}:", dir_fd=folder)
    finally:
        os.unlink(name, dir_fd=folder)
    return NameRules(windows=windows, fold=fold, max_bytes=limit)


def status_of(folder: int, name: str) -> os.stat_result | None:
    """The status of what has the name itself, be it a link; None when nothing has it."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


@functools.cache
def volume_sync() -> Callable[[int], int] | None:
    """Linux's syncfs(2), which makes thousands of small files safe at once; None where there is none."""
    return getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


def key_of(status: os.stat_result) -> Key:
    return status.st_dev, status.st_ino


def version_of(status: os.stat_result) -> Version:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def reading(folder: int, name: str) -> Iterator[tuple[int, os.stat_result] | None]:
    """Descriptor and status of a regular file; None when there is none of that name."""
    try:
        fd = os.open(name, os.O_RDONLY | FILE_FLAGS, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            raise
        yield None
        return
    try:
        status = os.fstat(fd)
        yield (fd, status) if stat.S_ISREG(status.st_mode) else None
    finally:
        os.close(fd)


def hashed(fd: int, offsets: Sequence[int], stopped: Event) -> Iterator[tuple[int, hashlib._Hash]]:
    """The running digest at each of the ascending offsets."""
    digest, position = hashlib.sha256(), 0
    for offset in offsets:
        while position < offset:
            block = os.pread(fd, min(BLOCK, offset - position), position)
            if not block or stopped.is_set():
                return
            digest.update(block)
            position += len(block)
        yield offset, digest.copy()


def lock(fd: int) -> bool:
    """Takes the file for us alone, until it is closed; False when another process has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return True


def move(folder: int, old: str, new: str) -> None:
    """Renames within a folder; raises `FileExistsError` rather than replace anything."""
    try:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        # A volume without hard links: the look before the leap is the best there is.
        if status_of(folder, new) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(old, dir_fd=folder)


def dress(fd: int, mode: int | None, mtime: int | None) -> None:
    """Mode and time, as far as the volume (or the owner of a folder that was there) lets us."""
    try:
        if mode is not None:
            os.fchmod(fd, mode)
        if mtime is not None:
            os.utime(fd, ns=(mtime, mtime))
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def flush(fd: int, end: int) -> None:
    """Have the disk begin with what is before `end`, and forget what it has of that already.

    Else it would all be left to the sync at the end; and memory that is used again is cheaper than other.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, end, os.POSIX_FADV_DONTNEED)


class Folders:
    """The folders below one that is open, reached one by one without following links.

    `changed` collects those in which names have changed since the last `sync`.
    """

    def __init__(self, root: int) -> None:
        self.changed: set[_Path] = set()
        self._root = root
        self._open: dict[_Path, int] = {}

    def find(self, path: _Path) -> int:
        """A descriptor, good until the next call; -1 when there is no such folder."""
        return self._get(path, create=False)

    def make(self, path: _Path) -> int:
        """A descriptor, good until the next call; the folder is made when it is not there."""
        return self._get(path, create=True)

    def _get(self, path: _Path, *, create: bool) -> int:
        if not path:
            return self._root
        fd = self._open.pop(path, -1)
        if fd < 0:
            parent = self._get(path[:-1], create=create)
            fd = self._enter(parent, path, create=create) if parent >= 0 else -1
            if fd < 0:
                return -1
            while len(self._open) >= MAX_FOLDERS:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = fd  # at the end: the one used last is closed last
        return fd

    def _enter(self, parent: int, path: _Path, *, create: bool) -> int:
        try:
            return os.open(path[-1], FOLDER_FLAGS, dir_fd=parent)
        except FileNotFoundError:
            if not create:
                return -1
        with suppress(FileExistsError):
            os.mkdir(path[-1], 0o777, dir_fd=parent)
            self.changed.add(path[:-1])
        return os.open(path[-1], FOLDER_FLAGS, dir_fd=parent)

    def sync(self) -> None:
        """Makes all changed names safe."""
        paths, self.changed = self.changed, set()
        if len(paths) > FEW_FOLDERS:
            self.sync_volumes(paths)
            return
        for path in paths:
            os.fsync(self.make(path))

    def sync_volumes(self, paths: Iterable[_Path]) -> None:
        """Makes everything safe on the volumes of these folders (where that cannot be, only their names)."""
        sync = volume_sync()
        synced: set[int] = set()
        for path in paths:
            fd = self.make(path)
            if sync is None:
                os.fsync(fd)
            elif (device := os.fstat(fd).st_dev) not in synced:
                synced.add(device)
                if sync(fd) != 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])
