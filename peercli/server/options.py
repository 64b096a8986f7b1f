"""How a broker is set up: PeerServer's options, in seconds, and the limits that it never had."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf, isfinite
from pathlib import Path

from peercli.errors import UsageError

__all__ = ["Limits", "ServerOptions"]

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client, or one address, can take of the broker.

    A PeerJS page opening a connection sends one offer of some kilobytes and a few dozen candidates, and a
    heartbeat every 5 s. The rates leave room for a school behind one address that comes back all at once.
    """

    max_message: int = _MIB  # bytes of one message; a bigger one closes its socket with 1009
    max_outbox: int = 4 * _MIB  # bytes waiting for a slow reader before its socket is dropped
    max_held: int = 64 * _MIB  # bytes held for all absent peers together
    max_held_per_peer: int = 2 * _MIB  # bytes held for one absent peer; must fit in its outbox when it comes
    request_rate: float = 50.0  # HTTP requests and handshakes a second from one address
    request_burst: float = 500.0  # …and how many at once
    message_rate: float = 500.0  # messages a second from one address; each 16 KiB counts as one more
    message_burst: float = 5000.0
    key_message_rate: float = inf  # …under one API key, unless the keys file says otherwise
    max_connections: int = 2000  # of one address at once, sockets and others
    http_idle: float = 30.0  # seconds a connection may take to send a request, or to send its next
    ping_interval: float = 15.0  # seconds of silence before the socket is pinged; PeerJS speaks every 5 s
    ping_timeout: float = 10.0  # seconds without an answer before it is dropped
    probe_timeout: float = 5.0  # seconds for the holder of an id to answer when somebody else asks for it
    close_timeout: float = 2.0  # seconds for a closing handshake


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Options of the broker (PeerServer's `bin/peerjs.ts`; times in seconds, not milliseconds).

    Raises:
        UsageError: a value that cannot work.
    """

    host: str = "127.0.0.1"
    port: int = 9000  # 0: any free one
    path: str = "/"  # "/a/b", "a/b" and "/a/b/" are the same
    key: str = "peerjs"
    expire_timeout: float = 5.0  # how long an absent peer's messages are held
    alive_timeout: float = 60.0  # how long an id is kept without a HEARTBEAT
    concurrent_limit: int = 5000  # clients
    allow_discovery: bool = False  # may anybody list the ids?
    cors: tuple[str, ...] = ("*",)  # origins whose pages may call; "*": every one
    tls_cert: Path | None = None
    tls_key: Path | None = None
    origins: tuple[str, ...] = ("*",)  # pages from here may open sockets, and programs that name no origin
    auth_secret_file: Path | None = None  # signs the tokens that clients must bring; None: they need none
    keys_file: Path | None = None  # several API keys, each with a realm of its own (`access.read_keys`)
    turn_urls: tuple[str, ...] = ()  # what `GET {path}{key}/ice` hands out…
    turn_secret_file: Path | None = None  # …with credentials signed by this (coturn's static-auth-secret)
    turn_lifetime: float = 86_400.0  # seconds for which they are good
    drain: float = 0.0  # seconds over which sockets are closed when the broker stops
    redis: str = ""  # URL of the Redis in which several brokers share one realm
    share_port: bool = False  # may other brokers on this machine listen on the same port?
    log_ids: bool = False  # may logs name clients and their addresses?
    metrics: bool = False  # may everybody read /metrics? If not, only this machine
    proxied: int = 0  # trusted proxies in front; the client's address is taken from X-Forwarded-For
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parts = [part for part in self.path.split("/") if part]
        object.__setattr__(self, "path", "".join(f"/{part}" for part in parts) + "/")
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port {self.port} is not between 0 and 65535")
        if not self.key or "/" in self.key:
            raise UsageError(f"{self.key!r} cannot be a key: it stands in URLs as one part of the path")
        if not all(map(isfinite, (self.expire_timeout, self.alive_timeout, self.drain, self.turn_lifetime))):
            raise UsageError("a time must be a number of seconds")
        if self.expire_timeout <= 0 or self.alive_timeout <= 0:
            raise UsageError("a timeout must be longer than 0 seconds")
        if self.concurrent_limit < 1:
            raise UsageError("the concurrent limit must leave room for at least 1 client")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("TLS needs both the certificate and its key")
        if bool(self.turn_urls) != (self.turn_secret_file is not None):
            raise UsageError("TURN credentials need both the servers' URLs and their secret")
        for url in self.turn_urls:
            if not url.startswith(("turn:", "turns:", "stun:", "stuns:")):
                raise UsageError(f"{url!r} is no TURN server", hint="write turn:host:port?transport=udp")
        if self.share_port and not self.redis:
            raise UsageError("brokers on one port have to be one realm", hint="--redis URL makes them so")
        if self.drain < 0:
            raise UsageError("a time cannot be negative")
        if self.turn_lifetime < 1:
            raise UsageError("TURN credentials must be good for a second at least")
        if self.proxied < 0:
            raise UsageError("the number of proxies cannot be negative")
