"""The resume protocol: one conversation over as many connections as it takes, nothing lost or said twice.

A peercli that opens an ordered connection names a session in its OFFER's payload, `"peercli": {"session":
ID}`; one that takes part says the same in its ANSWER. Anybody else, a PeerJS page too, passes over both, and
the connection is an ordinary one.

In a session, messages are values as ever, numbered by counting them, each direction from 0. Text that begins
with U+0010 (DLE) is the protocol's own: with a second DLE it is the application's, less the first of them;
else it is the JSON of a control. Unknown types are ignored.

`{"type": "begin", "secret": S}`
    The first message of the side that dialled, on the session's first connection.
`{"type": "ack", "messages": N}`
    The application has taken the first N messages. Until then the sender keeps them to send them again; it
    keeps up to 16 MiB, and then waits.
`{"type": "ask", "messages": N}`
    An acknowledgement is wanted as soon as N messages are taken, and not only when it is due.
`{"type": "end"}`
    The conversation is over. A connection that ends without this may be resumed, within two minutes; within
    15 s, if it did not break off but was closed.

The side that dialled resumes by a new connection, with `"resume": true` beside the ID of the session. There,
before anything else, each side says these, waiting each time for the other's:

`{"type": "challenge", "nonce": X}`
`{"type": "proof", "proof": P}`
    P is the HMAC-SHA-256 under S of these, with NULs between: "dialled" or "called"; the nonces, that of the
    side that dialled first; the fingerprints of the certificates on this connection, its own first.
`{"type": "resume", "messages": N}`
    The proof is good; N messages have arrived here, go on with the next.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from peercli.errors import ProtocolError

__all__ = [
    "NONCE_BYTES",
    "SECRET_BYTES",
    "WINDOW",
    "Ack",
    "Ask",
    "Begin",
    "Challenge",
    "Control",
    "End",
    "Proof",
    "Resume",
    "Session",
    "decode",
    "encode",
    "is_control",
    "is_proof",
    "prove",
    "weight",
]

WINDOW = 16 << 20  # bytes of messages kept until they are acknowledged: two of a pipe's windows
ACK_EVERY = WINDOW // 32  # bytes
SECRET_BYTES = NONCE_BYTES = 16
MAX_CONTROL = 1_000  # characters
MAX_COUNT = 2**53  # messages
MESSAGE_COST = 64  # bytes that a message, or an item in one, counts beside its content
DLE = "\x10"


@dataclass(frozen=True, slots=True)
class Begin:
    secret: str


@dataclass(frozen=True, slots=True)
class Ack:
    messages: int


@dataclass(frozen=True, slots=True)
class Ask:
    messages: int


@dataclass(frozen=True, slots=True)
class End:
    pass


@dataclass(frozen=True, slots=True)
class Challenge:
    nonce: str


@dataclass(frozen=True, slots=True)
class Proof:
    proof: str


@dataclass(frozen=True, slots=True)
class Resume:
    messages: int


Control = Begin | Ack | Ask | End | Challenge | Proof | Resume
_KINDS: dict[str, type[Control]] = {
    kind.__name__.lower(): kind for kind in (Begin, Ack, Ask, End, Challenge, Proof, Resume)
}


def encode(control: Control) -> str:
    """The text of a control."""
    return DLE + json.dumps({"type": type(control).__name__.lower()} | asdict(control))


def is_control(message: object) -> bool:
    """Whether a message is the protocol's own."""
    return isinstance(message, str) and message[:1] == DLE and message[1:2] != DLE


def decode(text: str) -> Control | None:
    """The control in a text; None for a type that this version does not know.

    Raises:
        ProtocolError: it is too long, no JSON object, or lacks what its type needs.
    """
    if len(text) > MAX_CONTROL:
        raise ProtocolError(f"a control message of {len(text)} characters")
    try:
        fields = json.loads(text.removeprefix(DLE))
        kind = _KINDS.get(fields["type"])
        if kind is None:
            return None
        return kind(**{name: _field(name, fields[name]) for name in kind.__dataclass_fields__})
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ProtocolError("a control message that cannot be read") from None


def _field(name: str, value: object) -> Any:
    match name, value:
        case "messages", int() if not isinstance(value, bool) and 0 <= value <= MAX_COUNT:
            return value
        case "secret" | "nonce" | "proof", str():
            return value
        case _:
            raise ValueError


def prove(secret: str, *, dialled: bool, nonces: tuple[str, str], fingerprints: tuple[str, str]) -> Proof:
    """What shows that a side knows the secret, and is at an end of this very connection.

    Args:
        dialled: which side it is.
        nonces, fingerprints: of the side that dialled, and of the other.
    """
    text = "\0".join(("dialled" if dialled else "called", *nonces, *fingerprints))
    key = secret.encode(errors="replace")
    return Proof(hmac.new(key, text.encode(errors="replace"), hashlib.sha256).hexdigest())


def is_proof(given: Proof, expected: Proof) -> bool:
    """Whether they are the same, in a time that does not tell where they differ."""
    return hmac.compare_digest(given.proof.encode(errors="replace"), expected.proof.encode())


class Session:
    """One end of a session: what is kept to be sent again, and what waits for the application.

    `push` what the application sends, while there is `room`, and send what `next` gives, in order. Give what
    comes to `arrive`, and to the application what `read` gives while there is anything `unread`.

    Args:
        secret: known to the side that dialled; the other one is told.
    """

    def __init__(self, secret: str = "") -> None:
        self.secret = secret
        self.over = False
        """Whether the far side has ended the conversation."""
        self.pushed = 0
        self.acknowledged = 0
        self.arrived = 0
        self.unread: deque[tuple[Any, int]] = deque()
        self._controls: deque[Control] = deque([Begin(secret)] if secret else [])
        self._unsent: deque[tuple[Any, int]] = deque()  # on this connection; with their bytes
        self._unacknowledged: deque[tuple[Any, int]] = deque()  # those before them
        self._kept_bytes = 0  # in both
        self._taken = self._told = self._asked = 0
        self._untold_bytes = self._unread_bytes = 0

    # Out --------------------------------------------------------------------------------------

    @property
    def room(self) -> bool:
        """Whether another message may be pushed."""
        return self._kept_bytes < WINDOW

    def push(self, message: Any) -> None:
        """Number a message, and keep it until it is acknowledged."""
        size = weight(message)
        if isinstance(message, str) and message[:1] == DLE:
            message = DLE + message
        self._unsent.append((message, size))
        self._kept_bytes += size
        self.pushed += 1

    def ask(self) -> None:
        """Have all that was pushed acknowledged as soon as it is taken."""
        self._controls.append(Ask(self.pushed))

    @property
    def ready(self) -> bool:
        """Whether there is something for the connection."""
        return bool(self._controls or self._unsent)

    def next(self) -> Any:
        """What the connection is to be given next."""
        if self._controls:
            return encode(self._controls.popleft())
        self._unacknowledged.append(self._unsent.popleft())
        return self._unacknowledged[-1][0]

    def discard(self) -> None:
        """Free what is kept to be sent: it will not be."""
        self._controls.clear()
        self._unsent.clear()
        self._unacknowledged.clear()
        self._kept_bytes = 0

    # In ---------------------------------------------------------------------------------------

    def arrive(self, message: Any) -> bool:
        """Take what has come; whether it is for the application to `read`.

        Raises:
            ProtocolError: it cannot be read, or breaks the protocol.
        """
        if is_control(message):
            self._heed(decode(message))
            return False
        if self._unread_bytes >= 2 * WINDOW:  # twice: numbers may weigh more here than there
            raise ProtocolError("the peer sent more than the window allows")
        size = weight(message)
        if isinstance(message, str) and message[:1] == DLE:
            message = message[1:]
        self.unread.append((message, size))
        self._unread_bytes += size
        self.arrived += 1
        return True

    def _heed(self, control: Control | None) -> None:
        match control:
            case Ack(count):
                self._acknowledge(count)
            case Ask(count):
                self._asked = count
                self._ack_if_due()
            case Begin(secret) if not self.secret:
                self.secret = secret
            case End():
                self.over = True
            case None:
                pass
            case _:
                raise ProtocolError(f"the peer sent {type(control).__name__.lower()} in mid-conversation")

    def _acknowledge(self, count: int) -> None:
        sent = self.pushed - len(self._unsent)
        if not self.acknowledged <= count <= sent:
            raise ProtocolError(
                f"the peer acknowledges {count} messages of {sent}, after {self.acknowledged}"
            )
        for _ in range(count - self.acknowledged):
            self._kept_bytes -= self._unacknowledged.popleft()[1]
        self.acknowledged = count

    def read(self) -> Any:
        """The oldest message that is unread; the application has it now."""
        message, size = self.unread.popleft()
        self._unread_bytes -= size
        self._untold_bytes += size
        self._taken += 1
        self._ack_if_due()
        return message

    def _ack_if_due(self) -> None:
        if self._untold_bytes >= ACK_EVERY or self._told < self._asked <= self._taken:
            self._ack()

    def _ack(self) -> None:
        self._controls.append(Ack(self._taken))
        self._told, self._untold_bytes = self._taken, 0

    # Over a new connection --------------------------------------------------------------------

    def resume(self, arrived: int) -> None:
        """Go on over a new connection: `arrived` messages have reached the far side.

        Raises:
            ProtocolError: that cannot be.
        """
        sent = self.pushed - len(self._unsent)
        if not self.acknowledged <= arrived <= sent:
            raise ProtocolError(f"the peer wants to go on at message {arrived} of {sent}")
        while self._unacknowledged and self.pushed - len(self._unsent) > arrived:
            self._unsent.appendleft(self._unacknowledged.pop())
        self._controls.clear()
        self._ack()
        self.ask()


def weight(message: object) -> int:
    """The bytes that a message counts, for the bound on what is kept."""
    match message:
        case bytes() | str():
            return MESSAGE_COST + len(message)
        case list() | tuple():
            return MESSAGE_COST + sum(map(weight, message))
        case dict():
            return MESSAGE_COST + sum(map(weight, message)) + sum(map(weight, message.values()))
        case _:
            return MESSAGE_COST
