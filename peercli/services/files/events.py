"""What file transfers tell while they work: more of the events of `--json`.

Names are paths as the sender gave them, with `/` between the components. They come from strangers: whoever
shows one takes control characters, and lone surrogates (bytes that are no UTF-8), out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peercli.services.events import Event

__all__ = [
    "FileFailed",
    "FileProgress",
    "FileSaved",
    "FileSent",
    "FileSkipped",
    "FilesOffered",
    "Resuming",
    "TransferEnded",
]


@dataclass(frozen=True, slots=True)
class FilesOffered(Event):
    """What a transfer is about. `names` are the first of the files and folders at its top."""

    event: ClassVar[str] = "offer"
    peer: str
    names: tuple[str, ...]
    top: int  # how many files and folders there are at its top
    files: int
    size: int  # bytes, of the files whose size is known
    endless: bool  # whether there is a file whose size is not known


@dataclass(frozen=True, slots=True)
class FileProgress(Event):
    """How far a transfer is: `bytes` of `total` (None: not known) of the current file, and of everything."""

    event: ClassVar[str] = "progress"
    peer: str
    name: str
    bytes: int
    total: int | None
    rate: float  # bytes/s, of late
    all_bytes: int
    all_total: int | None
    all_files: int  # done, in whichever way
    files: int


@dataclass(frozen=True, slots=True)
class FileSaved(Event):
    """A file, folder or link is safe here. `sha256` is empty for folders and links."""

    event: ClassVar[str] = "saved"
    peer: str
    name: str
    path: str
    size: int
    sha256: str
    resumed_from: int


@dataclass(frozen=True, slots=True)
class FileSent(Event):
    """A file, folder or link is safe at the peer. `sha256` is empty where its content was not read."""

    event: ClassVar[str] = "sent"
    peer: str
    name: str
    size: int
    sha256: str
    resumed_from: int


@dataclass(frozen=True, slots=True)
class FileSkipped(Event):
    """Left out on purpose, and nothing is wrong with that."""

    event: ClassVar[str] = "skipped"
    peer: str
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class FileFailed(Event):
    """This one was not transferred; the others are."""

    event: ClassVar[str] = "failed"
    peer: str
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Resuming(Event):
    """The connection was lost, for `reason`; attempt number `attempt` to go on comes in `delay` seconds."""

    event: ClassVar[str] = "reconnecting"
    peer: str
    attempt: int
    delay: float
    reason: str


@dataclass(frozen=True, slots=True)
class TransferEnded(Event):
    """A transfer is over. `bytes` of content came over, as data or holes; `size` is what they brought or
    confirmed."""

    event: ClassVar[str] = "transferred"
    peer: str
    files: int
    size: int
    bytes: int
    skipped: int
    failed: int
    seconds: float
