"""The broker on the network: HTTP and WebSockets around the realms.

Its URLs, answers and messages are those of PeerServer 1.0.2 (`api/v1`, `webSocketServer`), so that stock
PeerJS works with it. It differs where PeerServer fails its users: a client that comes back hears OPEN, an id
whose holder has vanished is free for the next who asks, the key in an HTTP URL has to be the right one, and
everything that a client can make it keep or do has a limit (`options.Limits`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import time
import uuid
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from peercli.errors import UsageError
from peercli.server.access import Key, NotAllowed, ice_servers, read_keys, read_secret
from peercli.server.envelope import seal
from peercli.server.http import HttpConnection, Request, Response, accept_upgrade
from peercli.server.limits import Rates, network
from peercli.server.metrics import CONTENT_TYPE, Counts, Gauges, render
from peercli.server.options import ServerOptions
from peercli.server.realm import (
    ID_TAKEN,
    INVALID_KEY,
    LIMIT_EXCEEDED,
    MISSING_PARAMETERS,
    NORMAL_CLOSURE,
    POLICY_VIOLATION,
    Close,
    Effects,
    Elsewhere,
    Realm,
    Send,
    refusal,
    unfit,
)
from peercli.server.websocket import Socket

if TYPE_CHECKING:
    from peercli.server.cluster import Cluster

__all__ = ["Server"]

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 0.25  # seconds between looks at what has run out
SHUTDOWN_GRACE = 3.0  # seconds for the sockets to close when the broker stops
MESSAGE_UNIT = 16 * 1024  # bytes that count as one message more
KEY_BURST = 10.0  # seconds' worth of messages that the clients of a key may have saved up
BACKLOG = 4096  # connections that the kernel may have waiting for us
GOING_AWAY = 1001  # WebSocket close code (RFC 6455, section 7.4.1)

# What clients look for to recognise a broker (PeerServer's `app.json`).
ABOUT = {
    "name": "PeerJS Server",
    "description": "A broker between PeerJS clients, compatible with PeerServer, by peercli.",
    "website": "https://peerjs.com/",
}
NOT_STORED = {"Cache-Control": "no-store"}


@dataclass(slots=True)
class _Tenant:
    """An API key and its realm."""

    key: Key
    realm: Realm[Socket]
    rates: Rates | None  # of all its clients together; None: no limit


class Server:
    """A broker, listening while its `async with` block lasts.

        async with Server(ServerOptions(port=0)) as server:
            print(server.url)
            await server.serve_until(stop)

    Raises (on entry):
        UsageError: the address cannot be listened on, or a file that the options name not be used.
    """

    def __init__(self, options: ServerOptions | None = None) -> None:
        self.options = options or ServerOptions()
        self.limits = limits = self.options.limits
        self.counts = Counts()
        self._tenants: dict[str, _Tenant] = {}
        self._requests = Rates(limits.request_rate, limits.request_burst)
        self._messages = Rates(limits.message_rate, limits.message_burst)
        self._connections: Counter[str] = Counter()  # by address
        self._http: dict[asyncio.Transport, str] = {}  # connections that are no sockets yet, by address
        self._sockets: dict[Socket, None] = {}  # in the order in which they came
        self._names = count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._emptied = asyncio.Event()  # set when the last socket is gone
        self._stopping = False
        self._cluster: Cluster | None = None

    @property
    def port(self) -> int:
        """The port it listens on: the one asked for, or the one found free."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients on this machine find it: `http://127.0.0.1:9000/`."""
        scheme = "http" if self.options.tls_cert is None else "https"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.options.host, self.options.host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{self.options.path}"

    @property
    def peers(self) -> list[str]:
        """The ids of the clients, of all keys."""
        return [peer_id for tenant in self._tenants.values() for peer_id in tenant.realm.ids]

    async def __aenter__(self) -> Self:
        options = self.options
        self._tls = None if options.tls_cert is None else ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._loop = loop = asyncio.get_running_loop()
        if options.redis:
            self._cluster = _make_cluster(self)
        self.reload()
        if self._cluster is not None:
            await self._cluster.__aenter__()
        try:
            self._listener = await loop.create_server(
                lambda: HttpConnection(self, loop),
                options.host,
                options.port,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else self.limits.http_idle,
                reuse_port=options.share_port or None,
                backlog=BACKLOG,
            )
        except OSError as error:
            if self._cluster is not None:
                await self._cluster.__aexit__()
            raise UsageError(
                f"cannot listen on {options.host} port {options.port}: {error.strerror or error}",
                hint="Another program may have the port; 0 takes a free one.",
            ) from error
        self._port: int = self._listener.sockets[0].getsockname()[1]
        self._sweeper = asyncio.create_task(self._sweep(), name="broker sweeper")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._listener.close()
        try:
            await self._drain()
        finally:
            self._sweeper.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(self._sweeper, *self._tasks, return_exceptions=True)
            for transport in [*self._http, *(socket.transport for socket in self._sockets)]:
                transport.abort()
            await asyncio.sleep(0)  # for the transports to tell their protocols
            if self._cluster is not None:
                await self._cluster.__aexit__()

    async def _drain(self) -> None:
        """Tell the clients that we go, so many at a time that wherever they turn to can take them in."""
        for transport in list(self._http):
            transport.close()
        sockets = list(self._sockets)
        until, left = self._loop.time() + self.options.drain, len(sockets)
        for socket in sockets:
            socket.close(GOING_AWAY, "the broker is stopping")
            left -= 1
            if (rest := until - self._loop.time()) > 0 and left:
                await asyncio.sleep(rest / left)
        if self._sockets:
            self._emptied.clear()
            try:
                async with asyncio.timeout(SHUTDOWN_GRACE):
                    await self._emptied.wait()
            except TimeoutError:
                log.debug("%d clients did not say goodbye", len(self._sockets))

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set."""
        waiter = asyncio.create_task(stop.wait())
        always = {self._sweeper} if self._cluster is None else {self._sweeper, self._cluster.task}
        try:
            await asyncio.wait({waiter, *always}, return_when=asyncio.FIRST_COMPLETED)
            for task in always:
                if task.done():
                    await task  # it ends by an error only
        finally:
            waiter.cancel()

    def try_reload(self) -> None:
        """`reload`, for a signal: what is wrong is logged."""
        try:
            self.reload()
        except UsageError as error:
            log.error("nothing was reloaded: %s", error)
        else:
            log.warning("the certificate and the keys have been read again")

    def reload(self) -> None:
        """Read the certificate, the keys and the secrets again. Clients whose key is gone have to leave.

        Raises:
            UsageError: one of them cannot be used; all is as it was.
        """
        keys = read_keys(self.options)
        turn = self.options.turn_secret_file
        self._turn_secret = b"" if turn is None else read_secret(turn)
        if self._tls is not None:
            _load_certificate(self._tls, self.options)
        for name in self._tenants.keys() - keys.keys():
            gone = self._tenants.pop(name)
            for socket in [socket for socket in self._sockets if socket.tenant is gone]:
                self._refuse(socket, INVALID_KEY)
        for name, key in keys.items():
            if (tenant := self._tenants.get(name)) is not None:
                tenant.key, tenant.rates = key, _rates_of(key)
                tenant.realm.concurrent_limit = key.concurrent_limit
            else:
                self._tenants[name] = _Tenant(key, self._make_realm(key), _rates_of(key))

    def _make_realm(self, key: Key) -> Realm[Socket]:
        return Realm(
            expire_timeout=self.options.expire_timeout,
            alive_timeout=self.options.alive_timeout,
            concurrent_limit=key.concurrent_limit,
            max_held=self.limits.max_held,
            max_held_per_peer=self.limits.max_held_per_peer,
            shared=self._cluster is not None,
            gone=partial(self._release_id, key.name),
        )

    def _release_id(self, key: str, peer_id: str, socket: Socket) -> None:
        if self._cluster is not None:
            self._cluster.release(key, peer_id, socket.name)

    # HTTP ----------------------------------------------------------------------------------------

    def joined(self, transport: asyncio.Transport) -> bool:
        """`http.Site`: a connection was made."""
        peer = transport.get_extra_info("peername")
        address = _network(peer[0] if peer else "")
        # Behind a proxy all connections come from it.
        if self._stopping or (
            self._connections[address] >= self.limits.max_connections and not self.options.proxied
        ):
            self.counts.rejected["connections of an address"] += 1
            return False
        self._connections[address] += 1
        self._http[transport] = address
        return True

    def parted(self, transport: asyncio.Transport) -> None:
        """`http.Site`: a connection ended."""
        if (address := self._http.pop(transport, None)) is not None:
            self._release(address)

    def _release(self, address: str) -> None:
        self._connections[address] -= 1
        if not self._connections[address]:
            del self._connections[address]

    def answer(
        self, request: Request, transport: asyncio.Transport
    ) -> Response | Coroutine[None, None, Response]:
        """`http.Site`: the answer to a request."""
        address = self._address(request, transport)
        response: Response
        if self._stopping:
            response = Response(503, b"Stopping")
        elif request.path == f"{self.options.path}healthz":
            response = self._health()
        elif request.path == f"{self.options.path}metrics" and self._may_scrape(request, transport):
            response = Response(200, render(self.counts, self._gauges), CONTENT_TYPE)
        elif not self._requests.allow(address, self._loop.time()):
            self.counts.rejected["request rate"] += 1
            response = Response(429, b"Too many requests", headers={"Retry-After": "1"})
        elif request.path == f"{self.options.path}peerjs" and request.wants_websocket:
            response = accept_upgrade(request)
        else:
            answer = self._answer(request)
            if not isinstance(answer, Response):
                return self._answer_later(request, answer)
            response = answer
        if response.status != 101:
            self._allow_origin(request, response)
        return response

    def _health(self) -> Response:
        """Whether newcomers can be let in: what a load balancer asks."""
        if self._cluster is not None and not self._cluster.up:
            return Response(503, b"Redis is away")
        return Response(200, b"ok")

    def _may_scrape(self, request: Request, transport: asyncio.Transport) -> bool:
        local = self._http[transport] in _THIS_MACHINE and "x-forwarded-for" not in request.headers
        return self.options.metrics or local

    def _gauges(self) -> Gauges:
        tenants = self._tenants
        self.counts.messages = sum((tenant.realm.counts for tenant in tenants.values()), Counter())
        return Gauges(
            clients={name: len(tenant.realm.ids) for name, tenant in tenants.items()},
            sockets=len(self._sockets),
            connections=self._connections.total(),
            held_bytes=sum(tenant.realm.held for tenant in tenants.values()),
            held_peers=sum(tenant.realm.awaited for tenant in tenants.values()),
            paused=sum(socket.paused for socket in self._sockets),
            redis_up=None if self._cluster is None else self._cluster.up,
            redis_under_way=0 if self._cluster is None else self._cluster.under_way,
        )

    async def _answer_later(self, request: Request, answer: Coroutine[None, None, Response]) -> Response:
        response = await answer
        self._allow_origin(request, response)
        return response

    def _address(self, request: Request, transport: asyncio.Transport) -> str:
        """Who asks, as far as limits are concerned: the connection's far end, or whom our proxy names."""
        if hops := self.options.proxied:
            # Each proxy appends whom it heard it from; what stands further left anybody can write.
            forwarded = request.headers.get("x-forwarded-for", "").split(",")
            for entry in forwarded[-hops:][:1]:
                if address := _network(entry.strip()):
                    return address
        return self._http[transport]

    def _answer(self, request: Request) -> Response | Coroutine[None, None, Response]:
        path, prefix = request.path, self.options.path
        if not f"{path}/".startswith(prefix):
            return Response(404, b"Not Found")
        if request.method == "OPTIONS":
            return Response(204)
        parts = path[len(prefix) :].strip("/").split("/")
        if parts == [""]:
            return _json(ABOUT, {})
        name, _, method = "/".join(parts).partition("/")
        if method not in ("id", "peers", "ice"):
            return Response(404, b"Not Found")
        tenant = self._tenants.get(name)
        if tenant is None:
            return Response(401, INVALID_KEY.encode())
        match method:
            case "id":
                return Response(
                    200, str(uuid.uuid4()).encode(), "text/html; charset=utf-8", NOT_STORED.copy()
                )
            case "ice" if self.options.turn_urls:
                return self._offer_turn(request, tenant.key)
            case "peers" if tenant.key.allow_discovery:
                return self._list_peers(tenant) if self._cluster else _json(tenant.realm.ids, NOT_STORED)
            case "peers":
                return Response(401, b"Unauthorized")
            case _:
                return Response(404, b"Not Found")

    async def _list_peers(self, tenant: _Tenant) -> Response:
        assert self._cluster is not None
        found = await self._cluster.ids(tenant.key.name)
        return _json(tenant.realm.ids if found is None else found, NOT_STORED)

    def _offer_turn(self, request: Request, key: Key) -> Response:
        now = time.time()
        peer_id = request.query.get("id", "")
        if key.auth_secret:
            try:
                key.identify(peer_id, request.query.get("token", ""), now)
            except NotAllowed as error:
                return Response(401, str(error).encode())
        servers = ice_servers(self.options, self._turn_secret, uuid.uuid4().hex, now)
        return _json({"iceServers": servers, "ttl": int(self.options.turn_lifetime)}, NOT_STORED)

    def _allow_origin(self, request: Request, response: Response) -> None:
        """CORS, as the npm package `cors` answers for PeerServer: the origin is named back if it may call."""
        origin = request.headers.get("origin")
        vary = ["Origin"]
        if origin is not None and ("*" in self.options.cors or origin in self.options.cors):
            response.headers["Access-Control-Allow-Origin"] = origin
        if response.status == 204:
            response.headers["Access-Control-Allow-Methods"] = "GET,HEAD"
            vary.append("Access-Control-Request-Headers")
            if wanted := request.headers.get("access-control-request-headers"):
                response.headers["Access-Control-Allow-Headers"] = wanted
        response.headers["Vary"] = ", ".join(vary)

    # WebSockets ----------------------------------------------------------------------------------

    def upgrade(self, request: Request, transport: asyncio.Transport, early: bytes) -> None:
        """`http.Site`: a connection has become a WebSocket."""
        address, connected = self._address(request, transport), self._http.pop(transport)
        if address != connected:
            self._release(connected)
            self._connections[address] += 1
        socket = Socket(self, self._loop, transport, address, str(next(self._names)))
        transport.set_protocol(socket)
        self._sockets[socket] = None
        self.counts.opened += 1
        if self.options.proxied and self._connections[address] > self.limits.max_connections:
            self._refuse(socket, TOO_MANY)
        else:
            self._admit(socket, request)
        if early:
            socket.data_received(early)

    def _admit(self, socket: Socket, request: Request) -> None:
        # Of a parameter given twice the last counts, as in PeerServer.
        peer_id, token, key = (request.query.get(name, "") for name in ("id", "token", "key"))
        if not (peer_id and token and key):
            self._refuse(socket, MISSING_PARAMETERS)
            return
        tenant = self._tenants.get(key)
        if tenant is None:
            self._refuse(socket, INVALID_KEY)
            return
        if not tenant.key.admits_origin(request.headers.get("origin")):
            self._refuse(socket, ORIGIN_NOT_ALLOWED)
            return
        try:
            identity = tenant.key.identify(peer_id, token, time.time())
        except NotAllowed as error:
            self._refuse(socket, str(error))
            return
        socket.tenant, socket.peer_id = tenant, peer_id
        holder = tenant.realm.contested(peer_id, identity)
        if holder is None and (self._cluster is None or unfit(peer_id, identity)):
            self._apply(tenant.realm.attach(socket, peer_id, identity, self._loop.time()))
        else:
            self.start(self._admit_later(tenant, socket, holder, peer_id, identity))

    async def _admit_later(
        self, tenant: _Tenant, socket: Socket, holder: Socket | None, peer_id: str, identity: str
    ) -> None:
        """Let a client in once others have been asked: the id's holder if it is still there, and Redis."""
        if holder is not None and not await holder.probe():
            log.debug("a holder of an id is gone, and somebody else asks for it")
            tenant.realm.detach(holder)
            holder.abort()
        if self._cluster is None or tenant.realm.contested(peer_id, identity) is not None:
            if socket in self._sockets:
                self._apply(tenant.realm.attach(socket, peer_id, identity, self._loop.time()))
            return
        key = tenant.key
        status, held = await self._cluster.claim(
            key.name, peer_id, identity, socket.name, key.concurrent_limit
        )
        if status != "open":
            kind, reason = _REFUSALS[status]
            self._refuse(socket, reason, kind)
            return
        if socket in self._sockets:
            self._apply(tenant.realm.attach(socket, peer_id, identity, self._loop.time()))
        if tenant.realm.link_of(peer_id) is not socket:
            self._cluster.release(key.name, peer_id, socket.name)
        self._cluster.settle(key.name, peer_id, held)

    # What the other brokers ask of this one (`cluster.Local`) ----------------------------------------

    def deliver(self, key: str, dst: str, data: bytes) -> bool:
        """Send to a client of ours; False when it is not here."""
        tenant = self._tenants.get(key)
        if tenant is None or not (effects := tenant.realm.deliver(dst, data)):
            return False
        self._apply(effects)
        return tenant.realm.link_of(dst) is not None

    def expire(self, key: str, src: str, dst: str) -> bool:
        """Tell our client `src` that `dst` did not get what it was sent."""
        return self.deliver(key, src, seal("EXPIRE", src=dst, dst=src))

    def evict(self, key: str, peer_id: str, link: str) -> None:
        """The client has come back at another broker."""
        self._close_client(key, peer_id, link, NORMAL_CLOSURE, "replaced by a newer socket")

    def dispossess(self, key: str, peer_id: str, link: str) -> None:
        """While we were cut off the id has become another's."""
        self._close_client(key, peer_id, link, POLICY_VIOLATION, ID_TAKEN)

    def _close_client(self, key: str, peer_id: str, link: str, code: int, reason: str) -> None:
        if (socket := self._find(key, peer_id, link)) is not None:
            socket.tenant.realm.detach(socket)
            socket.close(code, reason)

    def probe(self, key: str, peer_id: str, link: str) -> None:
        """Somebody else asks for the client's id."""
        if (socket := self._find(key, peer_id, link)) is not None:
            self.start(self._probe(socket))

    async def _probe(self, socket: Socket) -> None:
        if not await socket.probe():
            socket.tenant.realm.detach(socket)
            socket.abort()

    def _find(self, key: str, peer_id: str, link: str) -> Socket | None:
        tenant = self._tenants.get(key)
        socket = None if tenant is None else tenant.realm.link_of(peer_id)
        return socket if socket is not None and socket.name == link else None

    def clients(self) -> list[tuple[str, str, str, str, int]]:
        """All clients: key, id, link, identity, and how many clients the key may have."""
        return [
            (name, peer_id, socket.name, identity, tenant.key.concurrent_limit)
            for name, tenant in self._tenants.items()
            for peer_id, identity, socket in tenant.realm.clients()
        ]

    def _refuse(self, socket: Socket, reason: str, kind: str = "ERROR") -> None:
        self.counts.rejected[reason] += 1
        self._apply(refusal(socket, reason, kind))

    def pay(self, socket: Socket, count: int, size: int) -> bool:
        """`websocket.Owner`: may what came be handled at once?"""
        cost = count + size // MESSAGE_UNIT
        tenant, now = socket.tenant, socket.heard_at
        if not self._messages.allow(socket.address, now, cost):
            return False
        return tenant is None or tenant.rates is None or tenant.rates.allow("", now, cost)

    def charge(self, socket: Socket, size: int) -> float:
        """`websocket.Owner`: how long a message waits for its sender's address and key to pay for it."""
        cost = 1 + size // MESSAGE_UNIT
        delay = self._messages.delay(socket.address, cost, socket.heard_at)
        if (tenant := socket.tenant) is not None and tenant.rates is not None:
            delay = max(delay, tenant.rates.delay("", cost, socket.heard_at))
        return delay

    def received(self, socket: Socket, data: bytes) -> None:
        """`websocket.Owner`: a message."""
        if (tenant := socket.tenant) is not None:
            self._apply(tenant.realm.receive(socket, data, socket.heard_at), tenant)

    def handled(self, socket: Socket, count: int) -> None:
        """`websocket.Owner`: what came has been passed on."""
        self.counts.took(self._loop.time() - socket.heard_at, count)

    def lost(self, socket: Socket) -> None:
        """`websocket.Owner`: a socket has ended."""
        if socket.tenant is not None:
            socket.tenant.realm.detach(socket)
            self._log("a client has gone", socket)
        del self._sockets[socket]
        self._release(socket.address)
        if not self._sockets:
            self._emptied.set()

    def _apply(self, effects: Effects[Socket], tenant: _Tenant | None = None) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                if not effect.link.send(effect.data):
                    self.counts.rejected["slow reader"] += 1
                    self._log("a client that does not read what it is sent was dropped", effect.link)
                    effect.link.tenant.realm.detach(effect.link)
                    effect.link.abort()
            elif isinstance(effect, Close):
                effect.link.close(effect.code, effect.reason)
            else:
                assert tenant is not None
                self._send_elsewhere(tenant, effect)

    def _send_elsewhere(self, tenant: _Tenant, message: Elsewhere) -> None:
        src, dst, data, held = message
        assert self._cluster is not None
        if not self._cluster.route(tenant.key.name, src, dst, data, held=held) and held:
            self._apply(tenant.realm.hold(src, dst, data, self._loop.time()))

    def _log(self, what: str, socket: Socket) -> None:
        """Tell of a client: by name and address only if asked to."""
        fields = {"key": socket.tenant.key.name if socket.tenant else ""}
        if self.options.log_ids:
            fields |= {"id": socket.peer_id, "address": socket.address}
        log.info(
            "%s%s", what, f" ({socket.peer_id})" if self.options.log_ids else "", extra={"fields": fields}
        )

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """`http.Site`: do `work`; it is seen to its end, or cancelled when the broker stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        interval = min(SWEEP_INTERVAL, self.limits.ping_interval / 2)
        check_at = 0.0
        while True:
            await asyncio.sleep(interval)
            now = self._loop.time()
            for tenant in self._tenants.values():
                self._apply(tenant.realm.expire(now))
            if now >= check_at:
                check_at = now + self.limits.ping_interval / 8
                for socket in list(self._sockets):
                    socket.check(now)


_THIS_MACHINE = frozenset({"127.0.0.1", "::"})  # `limits.network` makes ::1 into ::
AWAY = "The broker has lost its companions for a while; try again"
_REFUSALS = {"taken": ("ID-TAKEN", ID_TAKEN), "full": ("ERROR", LIMIT_EXCEEDED), "away": ("ERROR", AWAY)}
TOO_MANY = "Too many connections from this address"
ORIGIN_NOT_ALLOWED = "Pages from this origin may not connect"


def _make_cluster(server: Server) -> Cluster:
    """The Redis side of a broker; imported here because few need it.

    Raises:
        UsageError: the package is not installed, or the URL cannot be read.
    """
    try:
        from peercli.server.cluster import Cluster
    except ImportError as error:
        raise UsageError("Redis needs the package redis", hint="pip install 'peercli[redis]'") from error
    options = server.options
    return Cluster(
        options.redis,
        server,
        alive_timeout=options.alive_timeout,
        expire_timeout=options.expire_timeout,
        max_held=server.limits.max_held,
        max_held_per_peer=server.limits.max_held_per_peer,
    )


def _rates_of(key: Key) -> Rates | None:
    return None if key.message_rate == inf else Rates(key.message_rate, key.message_rate * KEY_BURST)


def _json(value: object, headers: dict[str, str]) -> Response:
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(200, body, "application/json; charset=utf-8", headers.copy())


def _network(address: str) -> str:
    try:
        return network(address)
    except ValueError:
        return ""


def _load_certificate(context: ssl.SSLContext, options: ServerOptions) -> None:
    """Have the listener show this certificate from now on.

    Raises:
        UsageError: the certificate or its key cannot be read or do not belong together.
    """
    assert options.tls_cert is not None
    try:
        # Tried apart: a context that failed to load is left without a key.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(options.tls_cert, options.tls_key)
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"cannot use the TLS certificate {options.tls_cert}: {error}") from error
