"""The file protocol, version 1: its messages, and what both of its sides do alike. A page can speak it:
tests/interop/files.html does, in some fifty lines for each direction.

It runs over one PeerJS data connection opened with `{serialization: "raw", reliable: true, metadata:
{"peercli": {"service": "files", "version": 1}}}`. A text message is one JSON object with a `type`
(control); a binary message is content. Fields that are not known are ignored, and so are messages of an
unknown type; a known one that breaks a rule ends the transfer. We send no text over 60,000 bytes (and take
262,144), and no binary message over 65,536 unless the far side is known to take more.

Both sides, at any time:

    {"type": "hello", "version": 1, "role": "sender" | "receiver", "can": ["holes"]}
        First of all, without waiting for the other's. Another version, or two of one role, ends it.
    {"type": "ping"}, answered at once by {"type": "pong"}
        Sent after 10 s of silence; after 45 s of silence the far side counts as lost.
    {"type": "cancel", "reason": "cancelled" | "version" | "protocol" | "storage" | …, "message": …}
        The end of everything. What is safe stays safe; what is half there can be gone on with.
        `message` is a line for people, here and below.
    {"type": "failed", "entry": 7, "reason": …, "message": …}
        This entry will not be completed; the others go on. Sender: "changed", "vanished", "unreadable".
        Receiver: "digest", "conflict", "storage", "missing"; it ignores content for it from then on.

1. The sender offers. `protocol/manifest.py` tells what an entry is; entries are counted from 0 through all
   offer messages, and `more` is true on all but the last. The same transfer, tried again, has the same id.

    {"type": "offer", "id": "5f2c…", "entries": [{"path": ["a.txt"], "size": 5}, …], "more": false}

2. The receiver asks whom it must, and answers: in several messages, whose lists add up, with `more` true on
   all but the last. Only after that one content may come, and only its credit counts.

    {"type": "accept", "have": [0, 1], "skip": [[2, "exists"]], "resume": [[3, [[4096, "sha256…"], …]]],
     "credit": 67108864, "more": false}
        `have`: safe here since an earlier try of this transfer. `skip`: not wanted, and why.
        `resume`: offsets in a file (ascending, none over its size) with the SHA-256, in hex, of all content
        before each. The sender goes on at the greatest that fits its own file, else at 0, where all other
        files start. `credit`: how many bytes of content may be sent in all on this connection; without it,
        any number. Each list may be left out when it is empty.
    {"type": "decline", "reason": "declined" | "space" | "too-big" | "conflict", "message": …}

3. The sender sends content: a header, then binary messages that hold exactly the bytes of its parts, end
   to end. The borders of messages mean nothing. Other control may come between; the next header may not.

    {"type": "content", "parts": [[entry, offset, length], [entry, offset, length, "sha256…"], …]}
        One file after another, each without gaps. A part with a digest (SHA-256 of the whole file, in hex)
        ends its file. A fifth element `true` makes the part a hole: so many zeros, none of which is sent;
        only for a receiver that can "holes". Holes count towards the credit like other content.

4. Meanwhile the receiver raises the credit, and says what is safe on its disk, checked and in its place.

    {"type": "credit", "bytes": 134217728}
        In all, as in the answer: no less than what was said before.
    {"type": "safe", "entries": [3, 4, 5]}

5. {"type": "done"} from the sender: all content is sent. The receiver makes folders and links, says what is
   safe, and answers {"type": "done"}. What is then neither safe, skipped nor failed is missing. The sender
   closes the connection, so the receiver's last word cannot be cut off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from peercli.errors import ConnectionLost, Declined, PeerError, ProtocolError, StorageFailed
from peercli.protocol.manifest import MAX_ENTRIES, MAX_SIZE

__all__ = [
    "CONTROL_SIZE",
    "DEAD_AFTER",
    "MAX_CONTENT",
    "MAX_CONTROL",
    "MAX_MESSAGE",
    "MAX_PARTS",
    "MAX_PREFIXES",
    "METADATA",
    "PIECE_SIZE",
    "PING_AFTER",
    "VERSION",
    "Accept",
    "Cancel",
    "Content",
    "Credit",
    "Decline",
    "Done",
    "Failed",
    "Hello",
    "Message",
    "Offer",
    "Outcome",
    "Part",
    "Ping",
    "Pong",
    "Prefix",
    "Role",
    "Safe",
    "Side",
    "Wire",
    "control",
    "control_list",
    "decode",
    "is_files",
]

VERSION = 1
METADATA = {"peercli": {"service": "files", "version": VERSION}}
CONTROL_SIZE = 60_000  # bytes of the longest control message that we send
MAX_CONTROL = 262_144  # … and that we take
PIECE_SIZE = 65_536  # what every data channel takes in one message (RFC 8841 section 6.1)
MAX_PARTS = 1_024  # in one header
MAX_CONTENT = 16 << 20  # bytes of content, without holes, behind one header
MAX_PREFIXES = 64  # offsets that a receiver proposes for one file
MAX_MESSAGE = 200  # characters of a text for people
PING_AFTER = 10.0  # seconds
DEAD_AFTER = 45.0  # seconds

Role = Literal["sender", "receiver"]
Wire = str | bytes | memoryview
"""A message as the channel carries it: control, or content."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TRANSFER_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_REASON = re.compile(r"[a-z-]{1,32}")


def is_files(metadata: object, serialization: str) -> bool:
    """Whether a connection with this metadata is meant for this protocol."""
    match metadata:
        case {"peercli": {"service": "files"}}:
            return serialization == "raw"
        case _:
            return False


@dataclass(frozen=True, slots=True)
class Hello:
    version: int
    role: str
    can: frozenset[str]


@dataclass(frozen=True, slots=True)
class Ping:
    pass


@dataclass(frozen=True, slots=True)
class Pong:
    pass


@dataclass(frozen=True, slots=True)
class Cancel:
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    entry: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Offer:
    """`entries` are as they came: `manifest.Manifest` reads them."""

    id: str
    entries: list[object]
    more: bool


@dataclass(frozen=True, slots=True)
class Prefix:
    """The content before `offset` has this SHA-256, in hex."""

    offset: int
    digest: str


@dataclass(frozen=True, slots=True)
class Accept:
    have: list[int]
    skip: list[tuple[int, str]]
    resume: list[tuple[int, tuple[Prefix, ...]]]
    credit: int | None
    more: bool


@dataclass(frozen=True, slots=True)
class Decline:
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one file; `digest` (hex) is there when it ends the file."""

    entry: int
    offset: int
    length: int
    digest: str = ""
    hole: bool = False


@dataclass(frozen=True, slots=True)
class Content:
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Credit:
    bytes: int


@dataclass(frozen=True, slots=True)
class Safe:
    entries: list[int]


@dataclass(frozen=True, slots=True)
class Done:
    pass


Message = (
    Hello | Ping | Pong | Cancel | Failed | Offer | Accept | Decline | Content | Credit | Safe | Done
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an entry. `reason` is empty where it is safe."""

    state: Literal["safe", "skipped", "failed"]
    reason: str = ""
    message: str = ""


# Writing --------------------------------------------------------------------------------------


def control(kind: str, **fields: object) -> str:
    """One control message. Everything beyond ASCII is escaped, lone surrogates too."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":"))


_PONG = control("pong")


def control_list(
    kind: str, key: str, items: Iterable[object], *, more: bool = False, **fields: object
) -> Iterator[str]:
    """The items in as many control messages as their size asks for; `more` is that of the last one."""
    head = control(kind, **fields)[:-1] + f',"{key}":['
    tail = '],"more":%s}'
    room = CONTROL_SIZE - len(head) - len(tail % "false")
    texts: list[str] = []
    used = 0
    for item in items:
        text = json.dumps(item, separators=(",", ":"))
        if texts and used + len(text) > room:
            yield head + ",".join(texts) + tail % "true"
            texts, used = [], 0
        texts.append(text)
        used += len(text) + 1
    yield head + ",".join(texts) + tail % json.dumps(more)


# Reading --------------------------------------------------------------------------------------


def decode(text: str) -> Message | None:
    """The message, every field checked; None for a type that is not known. Raises `ProtocolError`."""
    if len(text) > MAX_CONTROL:
        raise ProtocolError("a control message is too long")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("a control message is not JSON") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("type"), str):
        raise ProtocolError("a control message is not an object with a type")
    reader = _READERS.get(fields["type"])
    return None if reader is None else reader(fields)


_Fields = Mapping[str, object]


def _read_hello(fields: _Fields) -> Hello:
    can = fields.get("can", [])
    if not isinstance(can, list):
        raise ProtocolError("bad `can` in hello")
    return Hello(
        version=_whole(fields.get("version"), "version"),
        role=_text(fields.get("role"), "role"),
        can=frozenset(name for name in can if isinstance(name, str)),
    )


def _read_cancel(fields: _Fields) -> Cancel:
    return Cancel(reason=_reason(fields.get("reason")), message=_for_people(fields))


def _read_failed(fields: _Fields) -> Failed:
    return Failed(_entry(fields.get("entry")), _reason(fields.get("reason")), _for_people(fields))


def _read_offer(fields: _Fields) -> Offer:
    name = fields.get("id")
    if not isinstance(name, str) or not _TRANSFER_ID.fullmatch(name):
        raise ProtocolError("bad `id` in offer")
    return Offer(id=name, entries=_list(fields, "entries"), more=_flag(fields, "more"))


def _read_accept(fields: _Fields) -> Accept:
    credit = fields.get("credit")
    skip = [_row(row, 2) for row in _list(fields, "skip")]
    resume = [_row(row, 2) for row in _list(fields, "resume")]
    return Accept(
        have=[_entry(entry) for entry in _list(fields, "have")],
        skip=[(_entry(row[0]), _reason(row[1])) for row in skip],
        resume=[(_entry(row[0]), _prefixes(row[1])) for row in resume],
        credit=None if credit is None else _whole(credit, "credit"),
        more=_flag(fields, "more"),
    )


def _prefixes(value: object) -> tuple[Prefix, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_PREFIXES:
        raise ProtocolError("bad `resume` in accept")
    rows = [_row(row, 2) for row in value]
    prefixes = tuple(Prefix(_whole(row[0], "offset"), _digest(row[1])) for row in rows)
    offsets = [prefix.offset for prefix in prefixes]
    if offsets != sorted(set(offsets)):
        raise ProtocolError("offsets in accept do not ascend")
    return prefixes


def _read_decline(fields: _Fields) -> Decline:
    return Decline(reason=_reason(fields.get("reason")), message=_for_people(fields))


def _read_content(fields: _Fields) -> Content:
    rows = _list(fields, "parts")
    if len(rows) > MAX_PARTS:
        raise ProtocolError(f"a header has more than {MAX_PARTS:,} parts")
    parts = [_part(row) for row in rows]
    if sum(part.length for part in parts if not part.hole) > MAX_CONTENT:
        raise ProtocolError("a header announces too much content")
    return Content(parts)


def _part(value: object) -> Part:
    row = _row(value, 3)
    digest = row[3] if len(row) > 3 else None
    hole = row[4] if len(row) > 4 else False
    if not isinstance(hole, bool):
        raise ProtocolError("bad part in content")
    return Part(
        entry=_entry(row[0]),
        offset=_whole(row[1], "offset"),
        length=_whole(row[2], "length"),
        digest="" if digest in (None, "") else _digest(digest),
        hole=hole,
    )


def _read_credit(fields: _Fields) -> Credit:
    return Credit(bytes=_whole(fields.get("bytes"), "bytes"))


def _read_safe(fields: _Fields) -> Safe:
    return Safe(entries=[_entry(entry) for entry in _list(fields, "entries")])


def _whole(value: object, name: str, high: int = MAX_SIZE) -> int:
    if type(value) is not int or not 0 <= value <= high:
        raise ProtocolError(f"bad `{name}` in a control message")
    return value


def _entry(value: object) -> int:
    return _whole(value, "entry", MAX_ENTRIES - 1)


def _list(fields: _Fields, key: str) -> list[object]:
    value = fields.get(key, [])
    if not isinstance(value, list):
        raise ProtocolError(f"bad `{key}` in a control message")
    return value


def _row(value: object, least: int) -> list[object]:
    if not isinstance(value, list) or len(value) < least:
        raise ProtocolError("a list in a control message has a bad element")
    return value


def _flag(fields: _Fields, key: str) -> bool:
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise ProtocolError(f"bad `{key}` in a control message")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_MESSAGE:
        raise ProtocolError(f"bad `{name}` in a control message")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ProtocolError("bad digest in a control message")
    return value


def _reason(value: object) -> str:
    return value if isinstance(value, str) and _REASON.fullmatch(value) else "other"


def _for_people(fields: _Fields) -> str:
    value = fields.get("message")
    text = value[:MAX_MESSAGE] if isinstance(value, str) else ""
    return "".join(character if character.isprintable() else " " for character in text).strip()


_READERS: dict[str, Callable[[_Fields], Message]] = {
    "hello": _read_hello,
    "ping": lambda fields: Ping(),
    "pong": lambda fields: Pong(),
    "cancel": _read_cancel,
    "failed": _read_failed,
    "offer": _read_offer,
    "accept": _read_accept,
    "decline": _read_decline,
    "content": _read_content,
    "credit": _read_credit,
    "safe": _read_safe,
    "done": lambda fields: Done(),
}


# Both sides -----------------------------------------------------------------------------------


class Side:
    """Hello, keep-alive and cancel: one end of one connection.

    `outbox` holds the messages (text, or bytes of content) that are to be sent, in order; whoever drives
    the machine empties it after every call. Times are seconds of any clock that does not jump. What the far
    side does wrong raises `ProtocolError`, and when it gives up, the error that says so; the machine is then
    of no more use, but `cancel` may still be called to tell the far side, unless `left` says that it knows.
    """

    def __init__(self, role: Role, now: float) -> None:
        self.role: Role = role
        self.far: Hello | None = None
        self.left = False  # whether the far side has ended it
        self.outbox: list[Wire] = [control("hello", version=VERSION, role=role, can=["holes"])]
        self.heard = now  # when the last message came
        self._alive = now  # when there was a sign of life
        self._pinged = False

    def cancel(self, reason: str, message: str = "") -> None:
        """Says goodbye: `cancelled` by the user, `storage`, `protocol`, `version` …"""
        self.outbox.append(control("cancel", reason=reason, message=message[:MAX_MESSAGE]))

    def _tell_failed(self, entry: int, reason: str, message: str) -> None:
        """Says that this entry will not be completed."""
        self.outbox.append(control("failed", entry=entry, reason=reason, message=message[:MAX_MESSAGE]))

    def progressed(self, now: float) -> None:
        """The far side took in something that we sent: while there is more to send, a sign of life."""
        self._alive, self._pinged = now, False

    def ping(self) -> None:
        """Asks the far side for a sign of life."""
        self.outbox.append(control("ping"))
        self._pinged = True

    def tick(self, now: float) -> float:
        """To be called now and again; returns when next, at the latest.

        Raises `ConnectionLost` when the silence is too long.
        """
        if now >= self._alive + DEAD_AFTER:
            raise ConnectionLost(f"nothing was heard from the far side for {DEAD_AFTER:.0f} seconds")
        if now < self._alive + PING_AFTER:
            return self._alive + PING_AFTER
        if not self._pinged:
            self.ping()
        return self._alive + DEAD_AFTER

    def _read(self, text: str) -> Message | None:
        """Decodes, and deals with what concerns both sides; the rest is returned."""
        message = decode(text)
        if isinstance(message, Hello):
            self._meet(message)
            return None
        if isinstance(message, Cancel):
            self.left = True
            raise self._cancelled(message)
        if self.far is None:
            raise ProtocolError("the far side did not say hello first")
        if isinstance(message, Ping):
            if self.outbox[-1:] != [_PONG]:  # who asks without listening shall not fill our memory
                self.outbox.append(_PONG)
            return None
        return message

    def _meet(self, hello: Hello) -> None:
        if self.far is not None:
            raise ProtocolError("the far side said hello twice")
        if hello.version != VERSION:
            raise ProtocolError(
                f"the far side speaks version {hello.version} of the file protocol, not {VERSION}",
                hint="the same version of peercli on both sides will do",
            )
        if hello.role not in ("sender", "receiver") or hello.role == self.role:
            raise ProtocolError(f"both sides want to be the {self.role} of files")
        self.far = hello

    def _cancelled(self, cancel: Cancel) -> PeerError:
        said = f": {cancel.message}" if cancel.message else ""
        if cancel.reason == "storage":
            return StorageFailed(f"the far side could not keep the data{said}")
        if cancel.reason == "cancelled":
            return Declined(f"the far side cancelled{said}")
        if cancel.reason in ("protocol", "version"):
            return ProtocolError(f"the far side could not follow{said}")
        return ConnectionLost(f"the far side gave up ({cancel.reason}){said}")
