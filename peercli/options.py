"""What a peer is told, parsed and checked once, at the edge: ids, broker and ICE URLs."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from peercli.errors import InvalidID, UsageError

__all__ = [
    "DEFAULT_BROKER",
    "DEFAULT_ICE_SERVERS",
    "Broker",
    "IceOptions",
    "IceServer",
    "PortRange",
    "check_id",
    "did_you_mean",
    "parse_broker",
    "parse_ice_server",
    "parse_port_range",
    "random_id",
    "random_token",
    "read_ice_servers",
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
    """Where a PeerServer is: the options `host`, `port`, `path`, `key` and `secure` of PeerJS."""

    host: str
    port: int
    path: str = "/"
    key: str = "peerjs"
    secure: bool = False

    def __post_init__(self) -> None:
        path = quote("/".join(["", *filter(None, self.path.split("/")), ""]), safe="/%")
        object.__setattr__(self, "path", path)

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
        key = quote(self.key, safe="")
        return f"http{'s' * self.secure}://{self._authority}{self.path}{key}/{method}"

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
        secure = {"http": False, "ws": False, "https": True, "wss": True}[url.scheme]
        port = url.port if url.port is not None else 443 if secure else 80
        query = parse_qs(url.query, strict_parsing=True) if url.query else {}
        if not text.isprintable() or "@" in url.netloc or url.fragment or not query.keys() <= {"key"}:
            raise ValueError
        return Broker(
            _host(url.hostname or ""), _port(port), url.path, query.get("key", ["peerjs"])[0], secure
        )
    except (KeyError, ValueError):
        raise UsageError(
            f"the server address {text!r} cannot be read", hint="write http://host:port/path?key=…"
        ) from None


def _host(text: str) -> str:
    """`text`, if a resolver can be asked for it; raises ValueError."""
    text.encode("idna")  # refuses what getaddrinfo would: an empty label, or one of more than 63 bytes
    if not text or not text.isprintable() or " " in text:
        raise ValueError
    return text


def _port(port: int) -> int:
    if not 0 < port < 65536:
        raise ValueError
    return port


@dataclass(frozen=True, slots=True)
class IceServer:
    """A STUN or TURN server (RFC 7064, RFC 7065)."""

    scheme: Literal["stun", "turn", "turns"]
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
    r"(?:\?transport=(?P<transport>udp|tcp))?",
    re.ASCII,
)


def parse_ice_server(text: str) -> IceServer:
    """Read `stun:host[:port]` or `turn:user:password@host[:port]?transport=udp|tcp`.

    `turns:` (over TLS) too; user and password may be percent-encoded. `stuns:` (RFC 7064) is refused: what
    it tells is the address of a TLS connection, and peers send to each other's UDP ports.

    Raises:
        UsageError: it is no such address, or one of `stuns:`.
    """
    shown = re.sub(r":.*@", ":…@", text, flags=re.DOTALL)  # without the password
    match = _ICE_URL.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        is_turn, is_tls = match["scheme"].startswith("turn"), match["scheme"].endswith("s")
        host = _host(match["host"].strip("[]"))
        port = _port(int(match["port"] or (5349 if is_tls else 3478)))
    except ValueError:
        raise UsageError(
            f"the ICE server {shown!r} cannot be read",
            hint="write stun:host[:port] or turn:user:password@host[:port]",
        ) from None
    if match["scheme"] == "stuns":
        raise UsageError(
            f"the ICE server {shown!r} is of no use: over TLS it tells no address that a peer could send to",
            hint="write stun:host[:port], or turns:user:password@host[:port] for a relay over TLS",
        )
    scheme: Literal["stun", "turn", "turns"] = match["scheme"]  # type: ignore[assignment]
    if is_turn and match["username"] is None:
        raise UsageError(
            f"the TURN server {shown!r} needs a user and a password", hint="write turn:user:password@host"
        )
    transport: Literal["udp", "tcp"] = match["transport"] or ("tcp" if scheme == "turns" else "udp")  # type: ignore[assignment]
    if match["transport"] and (not is_turn or (is_tls and transport == "udp")):
        raise UsageError(f"the ICE server {shown!r} cannot be reached over {transport}")
    return IceServer(
        scheme, host, port, transport, unquote(match["username"] or ""), unquote(match["password"] or "")
    )


def read_ice_servers(given: Iterable[str | IceServer | Mapping[str, Any]]) -> tuple[IceServer, ...]:
    """STUN and TURN servers in any form: URLs, `IceServer`s, and W3C's `RTCIceServer` dictionaries.

    The last are what PeerJS's `config["iceServers"]` holds: `urls`, one or a list, and for TURN `username`
    and `credential`.

    Raises:
        UsageError: one of them cannot be read.
    """
    servers: list[IceServer] = []
    for one in given:
        if isinstance(one, IceServer):
            servers.append(one)
        else:
            servers += map(parse_ice_server, [one] if isinstance(one, str) else _ice_urls(one))
    return tuple(servers)


def _ice_urls(entry: Mapping[str, Any]) -> list[str]:
    """The URLs of an `RTCIceServer`, with the login in each that needs it."""
    try:
        urls, login = entry["urls"], ""
        if "username" in entry:
            login = f"{quote(entry['username'], safe='')}:{quote(entry['credential'], safe='')}@"
        pairs = [url.split(":", 1) for url in ([urls] if isinstance(urls, str) else urls)]
        return [f"{scheme}:{login if scheme.startswith('turn') else ''}{place}" for scheme, place in pairs]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UsageError(
            "an ICE server cannot be read",
            hint='write {"urls": "turn:host", "username": "…", "credential": "…"}, or one URL',
        ) from None


PortRange = tuple[int, int]
"""The lowest and the highest port that may be used."""


def parse_port_range(text: str) -> PortRange:
    """Read `LOW-HIGH`, or one port.

    Raises:
        UsageError: it is no such range.
    """
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", text, re.ASCII)
    try:
        if match is None:
            raise ValueError
        low, high = _port(int(match[1])), _port(int(match[2] or match[1]))
        if low > high:
            raise ValueError
    except ValueError:
        raise UsageError(
            f"the port range {text!r} cannot be read", hint="write LOW-HIGH: 40000-40100"
        ) from None
    return low, high


@dataclass(frozen=True, slots=True)
class IceOptions:
    """How paths to peers may be looked for.

    Attributes:
        servers: every one is asked, all at once.
        relay: only through TURN.
        ports: the local UDP ports that may be used; by default whichever is free.
        interfaces: patterns of the network interfaces that may be used, as `eth*`; by default all but the
            bridges of containers and virtual machines.
    """

    servers: tuple[IceServer, ...] = ()
    relay: bool = False
    ports: PortRange | None = None
    interfaces: tuple[str, ...] = ()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint at what `word` was probably meant to be; nothing if it is like none of the known ones."""
    import difflib  # only who makes a mistake pays for it

    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else ""
