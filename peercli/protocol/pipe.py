"""The pipe protocol: two byte streams, one each way, over one connection.

A page can speak it: tests/interop/pipe.html does, in some hundred lines.

The connection is PeerJS's, `serialization: "raw"`, `reliable: true`, and says what it is for in its
metadata: `{"peercli": {"service": "pipe", "version": 1}}`. Binary messages are the stream's bytes, in
order; messages of 65,536 bytes reach everybody. Text messages are JSON objects of up to 4,096 characters
that control it; unknown members and unknown types are ignored.

`{"type": "hello", "version": 1, "window": W, "receives": true}`
    The first message of each side, without waiting for the other's. The other may send W bytes beyond what
    was acknowledged, and none before it has heard this. `receives: false` says that nothing is wanted: then
    the other sends its end at once. A hello of another version ends the connection.
`{"type": "ack", "bytes": N}`, at the end `{"type": "ack", "bytes": N, "end": true}`
    N bytes, counted from the start, have been taken by the reader. A sender stops at N + W, so a slow
    reader slows the writer and nobody holds more than W bytes. (A data channel alone cannot do this
    for a browser: a page cannot leave messages unread.) An acknowledgement is owed at the latest after
    each W/4 bytes. The last one, with `"end": true`, is owed once the reader has taken the end, too (if
    nothing was wanted, at once), and only when all is well with it: the sender's success stands on that.
`{"type": "end", "bytes": N}`
    The stream from this side is complete, after N bytes. The other direction goes on.
`{"type": "stop"}`
    This side's reader has seen enough, and all is well. The other side ends its stream where it is; what
    is on its way is acknowledged as if it had been read.
`{"type": "abort", "reason": R}`
    This side gives up; the connection closes.

When both directions have ended and all is acknowledged, either side closes the connection: peercli does,
and a page had better leave it to peercli, for what PeerJS has not sent yet is lost when it closes.

A peer that says nothing within three seconds, or begins with anything but a hello, is taken for a plain
PeerJS page; so is one that connects without that metadata, and it is not said hello to either. A plain
page gets the bytes at the pace of the network; what it sends, text or bytes, is the stream; and the end of
one direction closes the connection. (Except where the side that was called has nothing to send: then the
page decides.) A hello that comes late is still good, if no more was sent than its window allows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from peercli.errors import ProtocolError

__all__ = [
    "HELLO_TIMEOUT",
    "METADATA",
    "PIECE",
    "VERSION",
    "WINDOW",
    "Abort",
    "Ack",
    "Control",
    "End",
    "Hello",
    "Receiver",
    "Sender",
    "Stop",
    "decode",
    "encode",
    "greeting",
    "is_pipe",
]

VERSION = 1
METADATA = {"peercli": {"service": "pipe", "version": VERSION}}
WINDOW = 8 << 20  # bytes; 100 Mbit/s over 300 ms needs half of it
PIECE = 1 << 16  # bytes in a message: what every WebRTC stack takes
HELLO_TIMEOUT = 3.0  # s
MAX_CONTROL = 1 << 12  # characters
MAX_COUNT = 2**53  # bytes in a stream: JavaScript counts no further


def is_pipe(metadata: object, serialization: str) -> bool:
    """Whether a connection with this metadata is meant for this protocol."""
    match metadata:
        case {"peercli": {"service": "pipe"}}:
            return serialization == "raw"
        case _:
            return False


@dataclass(frozen=True, slots=True)
class Hello:
    window: int
    receives: bool


@dataclass(frozen=True, slots=True)
class Ack:
    bytes: int
    end: bool = False


@dataclass(frozen=True, slots=True)
class End:
    bytes: int


@dataclass(frozen=True, slots=True)
class Stop:
    pass


@dataclass(frozen=True, slots=True)
class Abort:
    reason: str


Control = Hello | Ack | End | Stop | Abort


def encode(control: Control) -> str:
    """The text of a control message."""
    match control:
        case Hello(window, receives):
            fields: dict[str, Any] = {"version": VERSION, "window": window, "receives": receives}
        case Ack(count, end):
            fields = {"bytes": count, "end": True} if end else {"bytes": count}
        case End(count):
            fields = {"bytes": count}
        case Stop():
            fields = {}
        case Abort(reason):
            fields = {"reason": reason}
    return json.dumps({"type": type(control).__name__.lower(), **fields})


def decode(text: str) -> Control | None:
    """The control message in a text; None for a type that this version does not know.

    Raises:
        ProtocolError: it is too long, no JSON object, or lacks what its type needs; or it is a hello of a
            version other than ours.
    """
    if len(text) > MAX_CONTROL:
        raise ProtocolError(f"a control message of {len(text)} characters")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("a control message that is not JSON") from None
    match message:
        case {"type": "hello", "version": version} if version != VERSION:
            raise ProtocolError(f"the peer speaks version {str(version)[:20]} of the pipe protocol, not 1")
        case {"type": "hello", "version": _, "window": window}:
            return Hello(_count(window), message.get("receives", True) is not False)
        case {"type": "ack", "bytes": count}:
            return Ack(_count(count), message.get("end") is True)
        case {"type": "end", "bytes": count}:
            return End(_count(count))
        case {"type": "stop"}:
            return Stop()
        case {"type": "abort"}:
            return Abort(str(message.get("reason", "no reason given"))[:200])
        case {"type": "hello" | "ack" | "end"}:
            raise ProtocolError("a control message without its number")
        case {"type": str()}:
            return None
        case _:
            raise ProtocolError("a control message without a type")


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise ProtocolError("a control message whose number is none")
    return value


def greeting(message: object) -> Hello | None:
    """The hello in a peer's first message; None if it says something else, as a plain page does.

    Raises:
        ProtocolError: a hello of another version, or without its window.
    """
    if not isinstance(message, str) or len(message) > MAX_CONTROL:
        return None
    try:
        parsed = json.loads(message)
    except (ValueError, RecursionError):
        return None
    match parsed:
        case {"type": "hello", "version": _}:
            control = decode(message)
            return control if isinstance(control, Hello) else None
        case _:
            return None


class Sender:
    """The sending direction: how much may go, and whether all of it has arrived."""

    def __init__(self) -> None:
        self.sent = 0
        self.acknowledged = 0
        self.ended = False
        self.complete = False
        """Whether the peer's reader has taken everything, and the end."""
        self._window = 0

    @property
    def room(self) -> int:
        """Bytes that may be sent now."""
        return self.acknowledged + self._window - self.sent

    def hello(self, hello: Hello) -> None:
        """Raises ProtocolError for one so late that more than its window is on its way."""
        if self.sent > hello.window:
            raise ProtocolError(f"the peer said hello only after {self.sent} bytes were sent to it")
        self._window = hello.window

    def ack(self, ack: Ack) -> None:
        """Raises ProtocolError where more, or less, is acknowledged than can be."""
        if not self.acknowledged <= ack.bytes <= self.sent:
            raise ProtocolError(
                f"the peer acknowledges {ack.bytes} bytes of {self.sent}, after {self.acknowledged}"
            )
        if ack.end and not (self.ended and ack.bytes == self.sent):
            raise ProtocolError("the peer acknowledges the end of a stream that has not ended there")
        self.acknowledged = ack.bytes
        self.complete = self.complete or ack.end


class Receiver:
    """The receiving direction: what has come, what the reader has taken, what is to be acknowledged."""

    def __init__(self, window: int = WINDOW) -> None:
        self.arrived = 0
        self.taken = 0
        self.ended = False
        self._window = window
        self._told = 0

    def arrive(self, nbytes: int) -> None:
        """Count what has come; raises ProtocolError after the end, or beyond the window."""
        if self.ended:
            raise ProtocolError("the peer sent more after the end of its stream")
        if self.arrived + nbytes - self._told > self._window:
            raise ProtocolError("the peer sent more than the window allows")
        self.arrived += nbytes

    def end(self, end: End) -> None:
        """Note that no more will come; raises ProtocolError if the stream is not as long as said."""
        if end.bytes != self.arrived or self.ended:
            raise ProtocolError(f"the peer's stream ended after {self.arrived} bytes, not {end.bytes}")
        self.ended = True

    def take(self, nbytes: int) -> Ack | None:
        """Count what the reader has taken; the acknowledgement, if one is due."""
        self.taken += nbytes
        return self._ack() if self.taken - self._told >= self._window // 16 else None

    def finish(self) -> Ack:
        """The acknowledgement of the whole stream, once the reader has taken its end."""
        return self._ack(end=True)

    def _ack(self, *, end: bool = False) -> Ack:
        self._told = self.taken
        return Ack(self.taken, end)
