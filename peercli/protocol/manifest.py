"""What a file transfer offers: its entries, and their names made safe.

Names come from a stranger, so this is the one place that turns them into names for the disk. What no
honest sender says (an absolute path, `..`, NUL, an empty name, one path twice, a file that is also a
folder) refuses the whole offer with `ProtocolError`. What is an honest name elsewhere but not here (a
device name of Windows, a name too long, two names that differ in case on a volume that folds case)
becomes another name. A link that leads out of the folder that was offered stays in the list, marked as
refused. Pure: no file system is touched; `NameRules` says what the volume can hold.

An entry on the wire is a JSON object. `path` is the list of the path's components, folders first;
unknown fields are ignored:

    {"path": ["photos"], "kind": "folder", "mode": 493}
    {"path": ["photos", "a.jpg"], "size": 5120, "mode": 420, "mtime": 1700000000123, "mtimeNs": 456789}
    {"path": ["photos", "best.jpg"], "kind": "link", "target": "a.jpg"}

`kind` is file unless it is said. `size` counts bytes; without it the size is not known yet. `stored` counts
those that are not in holes, where that is fewer. `mode` is the nine POSIX permission bits. `mtime` is in
whole milliseconds since 1970 (JavaScript's `File.lastModified`), and `mtimeNs` the nanoseconds on top of
them, 0 to 999,999. A byte of a name that is not UTF-8 is the lone surrogate U+DC00 plus the byte (PEP 383).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from peercli.errors import ProtocolError

__all__ = [
    "MAX_DEPTH",
    "MAX_ENTRIES",
    "MAX_MANIFEST_BYTES",
    "MAX_NAME_BYTES",
    "MAX_PATH_BYTES",
    "MAX_SIZE",
    "Entry",
    "Kind",
    "Manifest",
    "NameRules",
    "encode_entry",
    "numbered_name",
    "offerable",
    "part_name",
    "safe_name",
    "transfer_id",
]

MAX_ENTRIES = 250_000
MAX_MANIFEST_BYTES = 128 << 20  # names and link targets of one offer, as UTF-8, and FOLDER_BYTES a folder
FOLDER_BYTES = 100  # and 8 more for each level of its depth: what a folder costs that only a path mentions
MAX_DEPTH = 255
MAX_NAME_BYTES = 1_024  # on the wire; what the disk can take is up to NameRules
MAX_PATH_BYTES = 4_096  # Linux's PATH_MAX
MAX_SIZE = (1 << 53) - 1  # the greatest integer that JavaScript holds exactly
MAX_MTIME_MS = 253_402_300_799_999  # the last millisecond of the year 9999
PERMISSIONS = 0o777  # never set-user-ID, set-group-ID or sticky from the wire

Kind = Literal["file", "folder", "link"]

_RESERVED_PART = re.compile(r"\..*\.peercli\d*\.part", re.DOTALL)
_WINDOWS_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')
_WINDOWS_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\.|$)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # newline and tab do occur in real names
_NOT_A_BYTE = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")  # surrogates that stand for no byte
_BYTE = re.compile(r"[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class NameRules:
    """What the volume that receives can hold.

    `windows`: a volume with the naming rules of Windows. `fold`: names that differ only in case or in
    Unicode's normal form are the same name there. `max_bytes`: the longest name, in bytes of UTF-8.
    """

    windows: bool = False
    fold: bool = False
    max_bytes: int = 255


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder or link of an offer. `path` is safe to use below the save-dir.

    `size` is in bytes, None while it is not known, and `stored` what of it is not in holes; `mtime` is in
    nanoseconds since 1970. `offered` is the path as the sender named it where that differs from `path`, and
    `refused` why the entry must not be created.
    """

    path: tuple[str, ...]
    kind: Kind = "file"
    size: int | None = None
    stored: int | None = None
    mode: int | None = None
    mtime: int | None = None
    target: str = ""
    offered: tuple[str, ...] = ()
    refused: str = ""

    @property
    def name(self) -> str:
        """The path as one reads it, with `/` between the components."""
        return "/".join(self.path)


# Names ----------------------------------------------------------------------------------------


def safe_name(name: str, rules: NameRules) -> str:
    """One component of a path as it may be used on the disk.

    Raises `ProtocolError` for what can never be a component: empty, `.`, `..`, or with `/` or NUL inside.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ProtocolError(f"the offer has a name that is none: {name[:80]!r}")
    safe = _CONTROL.sub("_", _NOT_A_BYTE.sub("_", name))
    # Escaped bytes that together are valid UTF-8 would be a second spelling of the same name on disk.
    safe = safe.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    if rules.windows:
        safe = _WINDOWS_FORBIDDEN.sub("_", _BYTE.sub("_", safe))
        if safe[-1] in ". ":
            safe = safe.rstrip(". ") + "_"
        if _WINDOWS_DEVICE.match(safe):
            safe = "_" + safe
    safe = _shortened(safe, rules.max_bytes)
    if _RESERVED_PART.fullmatch(safe.casefold()):
        safe = _shortened(safe + "_", rules.max_bytes)
    return safe


def part_name(name: str, rules: NameRules, *, number: int = 1) -> str:
    """The name, beside `name`, that content has until it is whole; no offered entry can have it."""
    suffix = f".peercli{number if number > 1 else ''}.part"
    return "." + _shortened(name, rules.max_bytes - 1 - len(suffix)) + suffix


def numbered_name(name: str, number: int, rules: NameRules) -> str:
    """`photo.jpg` → `photo (1).jpg`, for when the name itself is taken."""
    stem, extension = _split(name)
    mark = f" ({number})"
    return _shortened(stem, rules.max_bytes - len(_bytes(mark + extension))) + mark + extension


def _split(name: str) -> tuple[str, str]:
    """Stem and extension; `.tar.gz` is one extension, and no more than 16 bytes are taken for one."""
    dot = name.rfind(".")
    if name[:dot].endswith(".tar"):
        dot -= 4
    if dot <= 0 or len(_bytes(name[dot:])) > 16:
        return name, ""
    return name[:dot], name[dot:]


def _shortened(name: str, limit: int) -> str:
    """The name in at most `limit` bytes; a cut name ends in a digest of the whole, so it stays distinct."""
    if len(_bytes(name)) <= limit:
        return name
    _, extension = _split(name)
    mark = "~" + hashlib.sha256(_bytes(name)).hexdigest()[:8] + extension
    return _bytes(name)[: limit - len(_bytes(mark))].decode("utf-8", "ignore") + mark


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _folded(name: str) -> str:
    """Equal for names that a volume which folds case and normal form takes for one name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def _link_refusal(path: tuple[str, ...], target: str, rules: NameRules) -> str:
    """Why the link must not be created, or empty.

    `..` may only lead, because the link's own folder is a real one, so the way up from it is known; after a
    name it could start from wherever another link leads. The way down passes only links that obey this rule.
    """
    if rules.windows:
        return "links cannot be kept on this volume"
    steps = [step for step in target.split("/") if step not in ("", ".")]
    up = next((i for i, step in enumerate(steps) if step != ".."), len(steps))
    if target.startswith("/") or ".." in steps[up:] or up > len(path) - 2:
        return "the link leads out of what was offered"
    if _CONTROL.search(target) or _NOT_A_BYTE.search(target):
        return "the link's target has control characters"
    return ""


# Entries --------------------------------------------------------------------------------------


class _Folder:
    """A folder of the manifest: what the sender calls its children, and which names here are taken."""

    __slots__ = ("children", "listed", "path", "taken")

    def __init__(self, path: tuple[str, ...]) -> None:
        self.path = path
        self.listed = False
        self.children: dict[str, _Folder | str] = {}  # a string: the safe name of a file or link
        self.taken: dict[str, int] = {}  # name here → how many more wanted it


class Manifest:
    """Reads the entries of an offer, one by one; `entries` and the totals hold what was read so far."""

    def __init__(self, rules: NameRules) -> None:
        self.entries: list[Entry] = []
        self.files = 0
        self.bytes = 0  # of the files whose size is known
        self._rules = rules
        self._root = _Folder(())
        self._weight = 0

    def add(self, raw: object) -> None:
        """Reads one entry off the wire. Raises `ProtocolError`; the manifest is then of no more use."""
        if not isinstance(raw, dict):
            raise ProtocolError("an entry of the offer is not an object")
        if len(self.entries) >= MAX_ENTRIES:
            raise ProtocolError(f"the offer has more than {MAX_ENTRIES:,} entries")
        kind: Kind = raw.get("kind", "file")
        if kind not in ("file", "folder", "link"):
            raise ProtocolError("the offer has an entry of an unknown kind")
        offered = self._read_path(raw.get("path"))
        path = self._place(offered, kind)
        size = _whole(raw, "size", 0, MAX_SIZE) if kind == "file" else None
        mode = _whole(raw, "mode", 0, 0xFFFF)
        target = self._read_target(raw.get("target")) if kind == "link" else ""
        self.files += kind == "file"
        self.bytes += size or 0
        if self.bytes > MAX_SIZE:
            raise ProtocolError("the offer's sizes add up to more than can be")
        self.entries.append(
            Entry(
                path=path,
                kind=kind,
                size=size,
                stored=_whole(raw, "stored", 0, size) if size is not None else None,
                mode=None if mode is None else mode & PERMISSIONS,
                mtime=_read_mtime(raw),
                target=target,
                offered=() if path == offered else offered,
                refused=_link_refusal(path, target, self._rules) if kind == "link" else "",
            )
        )

    def _read_path(self, raw: object) -> tuple[str, ...]:
        if not isinstance(raw, list) or not 0 < len(raw) <= MAX_DEPTH:
            raise ProtocolError(f"the offer has a path that is no list of 1 to {MAX_DEPTH} names")
        length = 0
        for name in raw:
            if not isinstance(name, str):
                raise ProtocolError("the offer has a name that is not text")
            length += self._weigh(name, MAX_NAME_BYTES) + 1
        if length > MAX_PATH_BYTES:
            raise ProtocolError(f"the offer has a path of more than {MAX_PATH_BYTES:,} bytes")
        return tuple(raw)

    def _read_target(self, raw: object) -> str:
        if not isinstance(raw, str) or not raw or "\0" in raw:
            raise ProtocolError("the offer has a link without a target")
        self._weigh(raw, MAX_PATH_BYTES)
        return raw

    def _weigh(self, text: str, limit: int) -> int:
        """The text's size in bytes, counted towards what an offer may weigh."""
        size = len(text.encode("utf-8", "surrogatepass"))
        self._weight += size
        if size > limit or self._weight > MAX_MANIFEST_BYTES:
            raise ProtocolError("the offer's names are longer than can be")
        return size

    def _place(self, offered: tuple[str, ...], kind: Kind) -> tuple[str, ...]:
        """The safe path, with its folders noted so that nothing else can claim it."""
        folder = self._root
        for name in offered[:-1]:
            parent = folder.children.get(name) or self._claim(folder, name, "folder")
            if isinstance(parent, str):
                raise ProtocolError("the offer has a folder that is also a file or a link")
            folder = parent
        child = folder.children.get(offered[-1])
        if isinstance(child, _Folder) and kind == "folder" and not child.listed:
            child.listed = True  # its children came first
            return child.path
        if child is not None:
            raise ProtocolError("the offer names one path twice")
        child = self._claim(folder, offered[-1], kind)
        if isinstance(child, str):
            return (*folder.path, child)
        child.listed = True
        return child.path

    def _claim(self, folder: _Folder, name: str, kind: Kind) -> _Folder | str:
        safe = free = safe_name(name, self._rules)
        while (key := self._key(free)) in folder.taken:
            # Counted on from the last one: an offer of nothing but collisions must not cost its square.
            folder.taken[self._key(safe)] += 1
            free = numbered_name(safe, folder.taken[self._key(safe)], self._rules)
        folder.taken[key] = 0
        folder.children[name] = free
        if kind == "folder":
            self._weight += FOLDER_BYTES + 8 * len(folder.path)
            folder.children[name] = _Folder((*folder.path, free))
        return folder.children[name]

    def _key(self, name: str) -> str:
        return _folded(name) if self._rules.fold else name


def _whole(raw: Mapping[str, object], key: str, low: int, high: int) -> int | None:
    value = raw.get(key)
    if value is None:
        return None
    if type(value) is not int or not low <= value <= high:
        raise ProtocolError(f"the offer has an entry with a bad {key}")
    return value


def _read_mtime(raw: Mapping[str, object]) -> int | None:
    milliseconds = _whole(raw, "mtime", -MAX_MTIME_MS, MAX_MTIME_MS)
    below = _whole(raw, "mtimeNs", 0, 999_999) or 0
    return None if milliseconds is None else milliseconds * 1_000_000 + below


def encode_entry(entry: Entry) -> dict[str, object]:
    """The entry as its JSON object."""
    fields: dict[str, object] = {"path": list(entry.path)}
    if entry.kind != "file":
        fields["kind"] = entry.kind
    if entry.size is not None:
        fields["size"] = entry.size
    if entry.stored is not None:
        fields["stored"] = entry.stored
    if entry.target:
        fields["target"] = entry.target
    if entry.mode is not None:
        fields["mode"] = entry.mode & PERMISSIONS
    if entry.mtime is not None:
        fields["mtime"], below = divmod(entry.mtime, 1_000_000)
        if below:
            fields["mtimeNs"] = below
    return fields


def offerable(entry: Entry) -> str:
    """Why an honest receiver would refuse the entry, or empty: to be asked before it is offered."""
    if len(entry.path) > MAX_DEPTH or sum(len(_bytes(name)) + 1 for name in entry.path) > MAX_PATH_BYTES:
        return "its path is too long"
    if entry.mtime is not None and abs(entry.mtime) > MAX_MTIME_MS * 1_000_000:
        return "its time is out of range"
    if (entry.size or 0) > MAX_SIZE:
        return "it is too big"
    return ""


def transfer_id(entries: Iterable[Entry], *, salt: str = "") -> str:
    """The name of a transfer: the same for the same manifest, so that a later run can go on with it.

    `salt` tells apart what the manifest cannot, such as two streams of unknown size.
    """
    digest = hashlib.sha256(salt.encode())
    for entry in entries:
        digest.update(json.dumps(encode_entry(entry)).encode() + b"\n")
    return digest.hexdigest()[:32]
