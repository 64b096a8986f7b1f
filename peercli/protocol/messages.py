"""What a peer and a broker say to each other (PeerServer `enums.ts`; peerjs `lib/negotiator.ts`).

Each message is a small value; `encode` and `decode` are the only places that know the JSON. What
comes in is checked here, so that nobody after this has to.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from peercli.errors import ProtocolError
from peercli.protocol.jsontext import parse
from peercli.protocol.values import shape_fault

__all__ = [
    "MAX_MESSAGE_LENGTH",
    "Answer",
    "BrokerError",
    "BrokerMessage",
    "Candidate",
    "Expire",
    "Heartbeat",
    "IdTaken",
    "InvalidKey",
    "Kind",
    "Leave",
    "Offer",
    "Open",
    "PeerMessage",
    "decode",
    "encode",
]

MAX_MESSAGE_LENGTH = 1 << 20  # bytes of JSON; an offer with many tracks is some 10 KB
MAX_ID_LENGTH = 1024  # characters, of a peer or a connection
MAX_LABEL_LENGTH = 65_535  # as much as a data channel can tell (RFC 8832 §5.1)
MAX_CANDIDATE_LENGTH = 1024  # characters; they are kept by the hundred, and some 150 are usual

Kind = Literal["data", "media"]


@dataclass(frozen=True, slots=True)
class Open:
    """The broker: the id is yours."""


@dataclass(frozen=True, slots=True)
class IdTaken:
    """The broker: another session has the id."""


@dataclass(frozen=True, slots=True)
class InvalidKey:
    """The broker: this API key is not served here."""


@dataclass(frozen=True, slots=True)
class BrokerError:
    """The broker failed, and closes the socket."""

    reason: str


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The client, every 5 s: still here."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The peer is gone."""

    peer: str


@dataclass(frozen=True, slots=True)
class Expire:
    """The broker: the peer never came for what it was sent.

    A peercli that declines a connection says so itself, by this message with a payload: PeerServer relays
    it, a PeerJS page sees `peer-unavailable` at once, and peercli knows better from `declined`. With `auth`
    it is for want of a proof (`peercli.protocol.auth`).
    """

    peer: str
    connection_id: str | None = None
    declined: bool = False
    auth: bool = False


@dataclass(frozen=True, slots=True)
class Offer:
    """A connection, proposed. `peer` is the far side: the source of what came, the target of what goes.

    `auth` announces the handshake of `peercli.protocol.auth`, here and in the answer: a courtesy to peers
    that do not expect it, on which nothing rests. `known_as` never comes by the broker: it is the name under
    which the key is known that the far side has proved to own. `session` is what the connection belongs to,
    if it can be resumed (`peercli.protocol.resume`), and `resumes` says that it does so.
    """

    peer: str
    connection_id: str
    kind: Kind
    sdp: str
    metadata: Any = None
    label: str = ""
    reliable: bool = False
    serialization: str = "binary"
    auth: bool = False
    known_as: str = ""
    session: str | None = None
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A connection, accepted; and the session too, if it is named."""

    peer: str
    connection_id: str
    kind: Kind
    sdp: str
    auth: bool = False
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A transport address of the far side (W3C `RTCIceCandidateInit`)."""

    peer: str
    connection_id: str
    kind: Kind
    candidate: str
    sdp_mid: str | None = None
    sdp_mline_index: int | None = None
    username_fragment: str | None = None


PeerMessage = Offer | Answer | Candidate
BrokerMessage = Open | IdTaken | InvalidKey | BrokerError | Heartbeat | Leave | Expire | PeerMessage


def encode(message: BrokerMessage) -> str:
    """The JSON text of a message that a client sends."""
    match message:
        case Heartbeat():
            return '{"type":"HEARTBEAT"}'
        case Leave(peer):
            return _dump("LEAVE", peer, None)
        case Expire(peer, connection_id, declined, auth):
            return _dump(
                "EXPIRE", peer, {"connectionId": connection_id, "declined": declined, "auth": auth or None}
            )
        case Offer():
            payload = {"sdp": {"type": "offer", "sdp": message.sdp}, "metadata": message.metadata}
            if message.kind == "data":
                payload |= {
                    "label": message.label,
                    "reliable": message.reliable,
                    "serialization": message.serialization,
                    "peercli": _session(message.session, resumes=message.resumes),
                }
            return _dump("OFFER", message.peer, _payload(message) | payload)
        case Answer():
            payload = {"sdp": {"type": "answer", "sdp": message.sdp}, "peercli": _session(message.session)}
            return _dump("ANSWER", message.peer, _payload(message) | payload)
        case Candidate():
            candidate = {
                "candidate": message.candidate,
                "sdpMid": message.sdp_mid,
                "sdpMLineIndex": message.sdp_mline_index,
                "usernameFragment": message.username_fragment,
            }
            return _dump("CANDIDATE", message.peer, _payload(message) | {"candidate": candidate})
        case _:
            raise ValueError(f"a client never sends {type(message).__name__}")


def _session(session: str | None, *, resumes: bool = False) -> dict[str, Any] | None:
    return None if session is None else {"session": session} | ({"resume": True} if resumes else {})


def _payload(message: PeerMessage) -> dict[str, Any]:
    payload = {"type": message.kind, "connectionId": message.connection_id}
    return payload if isinstance(message, Candidate) or not message.auth else payload | {"auth": True}


def _dump(kind: str, peer: str, payload: dict[str, Any] | None) -> str:
    message: dict[str, Any] = {"type": kind, "dst": peer}
    if payload is not None:
        message["payload"] = {key: value for key, value in payload.items() if value is not None}
    # In ASCII, so that a lone surrogate, which a peer's connectionId may hold, can be sent back.
    return json.dumps(message, separators=(",", ":"))


def decode(text: str | bytes) -> BrokerMessage | None:
    """The message in a socket's text; None for a type that this version does not know.

    Raises:
        ProtocolError: it is too long, no JSON object, or a known type without what it needs.
    """
    if len(text) > MAX_MESSAGE_LENGTH:
        raise ProtocolError(f"the broker sent a message of length {len(text)}")
    try:
        message = parse(text)
    except ValueError:
        raise ProtocolError("the broker sent a message that is not JSON") from None
    if not isinstance(message, dict):
        raise ProtocolError("the broker sent a message that is not an object")
    peer = message.get("src")
    payload = message.get("payload")
    # JavaScript's null stands for what is left out.
    payload = {k: v for k, v in payload.items() if v is not None} if isinstance(payload, dict) else {}
    match message.get("type"):
        case "OPEN":
            return Open()
        case "ID-TAKEN":
            return IdTaken()
        case "INVALID-KEY":
            return InvalidKey()
        case "ERROR":
            reason = payload.get("msg")
            reason = reason[:200] if isinstance(reason, str) else "no reason given"
            # PeerServer 1.0.2 has no INVALID-KEY of its own; this is its sentence for it.
            return InvalidKey() if reason == "Invalid key provided" else BrokerError(reason)
        case "LEAVE":
            return Leave(_id(peer, "src"))
        case "EXPIRE":
            connection_id = payload.get("connectionId")
            return Expire(
                _id(peer, "src"),
                connection_id if isinstance(connection_id, str) else None,
                payload.get("declined") is True,
                payload.get("auth") is True,
            )
        case "OFFER":
            serialization = _text(payload.get("serialization", "binary"), "serialization", MAX_ID_LENGTH)
            return Offer(
                _id(peer, "src"),
                _id(payload.get("connectionId"), "connectionId"),
                _kind(payload),
                _sdp(payload),
                _metadata(payload),
                _text(payload.get("label", ""), "label", MAX_LABEL_LENGTH),
                bool(payload.get("reliable")),
                "raw" if serialization == "none" else serialization,  # as PeerJS called it before 1.5
                payload.get("auth") is True,
                **_ours(payload),
            )
        case "ANSWER":
            connection_id = _id(payload.get("connectionId"), "connectionId")
            auth, session = payload.get("auth") is True, _ours(payload)["session"]
            return Answer(_id(peer, "src"), connection_id, _kind(payload), _sdp(payload), auth, session)
        case "CANDIDATE":
            return _candidate(_id(peer, "src"), payload)
        case _:
            return None


def _candidate(peer: str, payload: dict[str, Any]) -> Candidate:
    candidate = payload.get("candidate")
    if not isinstance(candidate, dict):
        raise ProtocolError("a candidate came without its address")
    index = candidate.get("sdpMLineIndex")
    return Candidate(
        peer,
        _id(payload.get("connectionId"), "connectionId"),
        _kind(payload),
        _text(candidate.get("candidate"), "candidate", MAX_CANDIDATE_LENGTH),
        _optional(candidate.get("sdpMid"), "sdpMid"),
        index if isinstance(index, int) and not isinstance(index, bool) else None,
        _optional(candidate.get("usernameFragment"), "usernameFragment"),
    )


def _text(value: object, name: str, limit: int) -> str:
    if not isinstance(value, str):
        raise ProtocolError(f"the broker sent a {name} that is not text")
    if len(value) > limit:
        raise ProtocolError(f"the broker sent a {name} of {len(value)} characters")
    return value


def _optional(value: object, name: str) -> str | None:
    return _text(value, name, MAX_ID_LENGTH) if isinstance(value, str) else None


def _id(value: object, name: str) -> str:
    text = _text(value, name, MAX_ID_LENGTH)
    if not text or not text.isprintable():  # it will be shown, logged, perhaps become a file's name
        raise ProtocolError(f"the broker sent a {name} that no peer has: {text[:40]!r}")
    return text


def _metadata(payload: dict[str, Any]) -> Any:
    metadata = payload.get("metadata")
    if fault := shape_fault(metadata):
        raise ProtocolError(f"the metadata of a connection cannot be read: {fault}")
    return metadata


def _ours(payload: dict[str, Any]) -> dict[str, Any]:
    """The session that a connection belongs to, and whether it resumes it."""
    match payload.get("peercli"):
        case {"session": str(session), **more}:
            return {"session": _id(session, "session"), "resumes": more.get("resume") is True}
        case _:
            return {"session": None, "resumes": False}


def _kind(payload: dict[str, Any]) -> Kind:
    match payload.get("type"):
        case "data":
            return "data"
        case "media":
            return "media"
        case _:
            raise ProtocolError("a connection that is neither for data nor for media")


def _sdp(payload: dict[str, Any]) -> str:
    description = payload.get("sdp")
    if not isinstance(description, dict):
        raise ProtocolError("a session description is missing")
    return _text(description.get("sdp"), "session description", MAX_MESSAGE_LENGTH)
