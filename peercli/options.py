"""What a peer is told, parsed and checked once, at the edge: ids, broker and ICE URLs."""

from __future__ import annotations

import re
import secrets
import string
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from peercli.errors import InvalidID, UsageError

__all__ = [
    "DEFAULT_BROKER",
    "DEFAULT_ICE_SERVERS",
    "Broker",
    "IceServer",
    "PeerOptions",
    "check_id",
    "parse_broker",
    "parse_ice_server",
    "random_id",
    "random_token",
]

MAX_ID_LENGTH = 256  # PeerJS sets no limit; a broker URL has to carry it

_ID = re.compile(r"[A-Za-z0-9]+(?:[ _-][A-Za-z0-9]+)*")
_ALPHABET = string.ascii_lowercase + string.digits


def random_id() -> str:
    """A fresh id of 16 characters: 79 bits of chance, easy to read aloud, one double click to select."""
    return "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(16))


def random_token() -> str:
    """A fresh secret of 16 characters by which the broker knows us again."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(16))


def check_id(peer_id: str) -> str:
    """`peer_id` itself, if PeerJS would take it (peerjs `lib/utils/validateId.ts`).

    Raises:
        InvalidID: it is empty, too long, or has other characters than letters and digits with
            spaces, `-` and `_` between them.
    """
    if len(peer_id) > MAX_ID_LENGTH or not _ID.fullmatch(peer_id):
        raise InvalidID(
            f"the id {peer_id[:80]!r} is not valid",
            hint="an id starts and ends with a letter or a digit; inside, spaces, - and _ are allowed too",
        )
    return peer_id


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a PeerServer is: `path` starts and ends with `/`."""

    host: str
    port: int
    path: str = "/"
    key: str = "peerjs"
    secure: bool = False

    @property
    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as `--server` takes it."""
        query = "" if self.key == "peerjs" else "?" + urlencode({"key": self.key})
        return f"http{'s' * self.secure}://{self._authority}{self.path}{query}"

    def api_url(self, method: str) -> str:
        """The address of an HTTP call: `peers` or `id` (peerjs `lib/api.ts`)."""
        return f"http{'s' * self.secure}://{self._authority}{self.path}{quote(self.key)}/{method}"

    def socket_url(self, peer_id: str, token: str, version: str) -> str:
        """The address of the signalling socket (peerjs `lib/socket.ts`)."""
        query = urlencode(
            {"key": self.key, "id": peer_id, "token": token, "version": version}, quote_via=quote
        )
        return f"ws{'s' * self.secure}://{self._authority}{self.path}peerjs?{query}"


DEFAULT_BROKER = Broker("0.peerjs.com", 443, secure=True)


def parse_broker(text: str) -> Broker:
    """Read `http[s]://host[:port][/path][?key=…]`; a bare `host[:port]` means http.

    Raises:
        UsageError: it is no such address.
    """
    try:
        url = urlsplit(text if "://" in text else f"http://{text}")
        host, port = url.hostname, url.port
    except ValueError as error:
        raise UsageError(f"the server address {text!r} cannot be read: {error}") from None
    secure = url.scheme in {"https", "wss"}
    if not host or url.scheme not in {"http", "https", "ws", "wss"} or url.username or url.fragment:
        raise UsageError(f"the server address {text!r} cannot be read", hint="write http://host:port/path")
    key = parse_qs(url.query).get("key", ["peerjs"])[0]
    return Broker(
        host, port or (443 if secure else 80), f"/{url.path.strip('/')}/".replace("//", "/"), key, secure
    )


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server (RFC 7064, RFC 7065)."""

    scheme: Literal["stun", "stuns", "turn", "turns"]
    host: str
    port: int
    transport: Literal["udp", "tcp"] = "udp"
    username: str = ""
    password: str = field(default="", repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        transport = f"?transport={self.transport}" if self.scheme.startswith("turn") else ""
        return f"{self.scheme}:{host}:{self.port}{transport}"


def _turn(host: str) -> IceServer:
    return IceServer("turn", host, 3478, username="peerjs", password="peerjsp")


DEFAULT_ICE_SERVERS = (
    IceServer("stun", "stun.l.google.com", 19302),
    _turn("eu-0.turn.peerjs.com"),
    _turn("us-0.turn.peerjs.com"),
)
"""What PeerJS ships (peerjs `lib/util.ts`, `DEFAULT_CONFIG`)."""

_ICE_URL = re.compile(
    r"(?P<scheme>stuns?|turns?):(?://)?"
    r"(?:(?P<username>[^:@]*):(?P<password>.*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@?/\s]+)(?::(?P<port>\d{1,5}))?"
    r"(?:\?transport=(?P<transport>udp|tcp))?"
)


def parse_ice_server(text: str) -> IceServer:
    """Read `stun:host[:port]` or `turn:user:password@host[:port]?transport=udp|tcp`.

    `stuns:` and `turns:` (over TLS) too; user and password may be percent-encoded.

    Raises:
        UsageError: it is no such address.
    """
    match = _ICE_URL.fullmatch(text)
    if match is None:
        raise UsageError(
            f"the ICE server {_without_password(text)!r} cannot be read",
            hint="write stun:host[:port] or turn:user:password@host[:port]",
        )
    scheme: Literal["stun", "stuns", "turn", "turns"] = match["scheme"]  # type: ignore[assignment]
    is_turn, is_tls = scheme.startswith("turn"), scheme.endswith("s")
    port = int(match["port"] or (5349 if is_tls else 3478))
    if not 0 < port < 65536:
        raise UsageError(f"the ICE server {_without_password(text)!r} has no port {port}")
    if is_turn and match["username"] is None:
        raise UsageError(
            f"the TURN server {text!r} needs a user and a password", hint="write turn:user:password@host"
        )
    transport: Literal["udp", "tcp"] = match["transport"] or ("tcp" if is_tls else "udp")  # type: ignore[assignment]
    return IceServer(
        scheme,
        match["host"].strip("[]"),
        port,
        transport,
        unquote(match["username"] or ""),
        unquote(match["password"] or ""),
    )


def _without_password(text: str) -> str:
    return re.sub(r":[^:@]*@", ":…@", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOptions:
    """Everything a `Peer` may be told, with PeerJS's defaults (peerjs `lib/peer.ts`, `PeerOptions`)."""

    id: str = field(default_factory=random_id)
    token: str = field(default_factory=random_token, repr=False)
    broker: Broker = DEFAULT_BROKER
    ice_servers: tuple[IceServer, ...] = DEFAULT_ICE_SERVERS
    relay: bool = False
    """Only through TURN (W3C's `iceTransportPolicy: "relay"`)."""

    def __post_init__(self) -> None:
        check_id(self.id)
