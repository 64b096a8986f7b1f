"""The broker on the network: it listens, keeps an eye on the time, and takes its leave.

It works as PeerServer 1.0.2 does, so that stock PeerJS works with it. It differs where PeerServer fails its
users: a client that comes back hears OPEN, an id whose holder has vanished is free for the next who asks, the
key in an HTTP URL has to be the right one, and everything that a client can make it keep or do has a limit
(`options.Limits`).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from peercli.errors import UsageError
from peercli.server.access import read_keys, read_secret
from peercli.server.door import Door
from peercli.server.http import HttpConnection, Request, Response
from peercli.server.listening import BACKLOG, local_host, open_ports, show_certificate
from peercli.server.metrics import Counts, Gauges
from peercli.server.options import ServerOptions
from peercli.server.routes import Routes
from peercli.server.sessions import Sessions

if TYPE_CHECKING:
    from peercli.server.cluster import Cluster

__all__ = ["Server"]

log = logging.getLogger(__name__)

SWEEP_INTERVAL = 0.25  # seconds between looks at what has run out
SHUTDOWN_GRACE = 3.0  # seconds for the sockets to close when the broker stops
GOING_AWAY = 1001  # WebSocket close code (RFC 6455, section 7.4.1)


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
        self.limits = self.options.limits
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    @property
    def port(self) -> int:
        """The port it listens on: the one asked for, or the one found free."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients on this machine find it: `http://127.0.0.1:9000/`."""
        scheme = "http" if self.options.tls_cert is None else "https"
        return f"{scheme}://{local_host(self.options.host)}:{self.port}{quote(self.options.path)}"

    @property
    def peers(self) -> list[str]:
        """The ids of the clients, of all keys."""
        return [peer_id for tenant in self.sessions.tenants.values() for peer_id in tenant.realm.ids]

    async def __aenter__(self) -> Self:
        options = self.options
        self._tls = None if options.tls_cert is None else ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._loop = asyncio.get_running_loop()
        self.counts = Counts()
        self.door = Door(self.limits.max_connections, options.proxied)
        self.sessions = Sessions(options, self.counts, self.start, self.door.release)
        self._routes = Routes(options, self.door, self.sessions, self.counts, self._gauges)
        self._cluster = self.sessions.cluster = (
            _make_cluster(options, self.sessions) if options.redis else None
        )
        self.reload()
        if self._cluster is not None:
            await self._cluster.__aenter__()
        try:
            ports = open_ports(options.host, options.port, share=options.share_port)
        except UsageError:
            if self._cluster is not None:
                await self._cluster.__aexit__()
            raise
        self._port: int = ports[0].getsockname()[1]
        self._listeners = [
            await self._loop.create_server(
                lambda: HttpConnection(self, self._loop),
                sock=port,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else self.limits.http_idle,
                backlog=BACKLOG,
            )
            for port in ports
        ]
        self._sweeper = asyncio.create_task(self._sweep(), name="broker sweeper")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        try:
            await self._drain()
        finally:
            self._sweeper.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(self._sweeper, *self._tasks, return_exceptions=True)
            for transport in [*self.door.http, *(socket.transport for socket in self.sessions.sockets)]:
                transport.abort()
            await asyncio.sleep(0)  # for the transports to tell their protocols
            if self._cluster is not None:
                await self._cluster.__aexit__()

    async def _drain(self) -> None:
        """Tell the clients that we go, so many at a time that wherever they turn to can take them in."""
        for transport in self.door.http:
            transport.close()
        sockets = list(self.sessions.sockets)
        until, left = self._loop.time() + self.options.drain, len(sockets)
        for socket in sockets:
            socket.close(GOING_AWAY, "the broker is stopping")
            left -= 1
            if (rest := until - self._loop.time()) > 0 and left:
                await asyncio.sleep(rest / left)
        if self.sessions.sockets:
            self.sessions.emptied.clear()
            try:
                await asyncio.wait_for(self.sessions.emptied.wait(), SHUTDOWN_GRACE)
            except TimeoutError:
                log.debug("%d clients did not say goodbye", len(self.sessions.sockets))

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
        options = self.options
        keys, turn = read_keys(options), options.turn_secret_file
        secret = b"" if turn is None else read_secret(turn)
        if self._tls is not None:
            assert options.tls_cert is not None
            assert options.tls_key is not None
            show_certificate(self._tls, options.tls_cert, options.tls_key)
        self._routes.turn_secret = secret
        self.sessions.set_keys(keys)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` (`http.Site`); it is seen to its end, or cancelled when the broker stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _sweep(self) -> None:
        interval = min(SWEEP_INTERVAL, self.limits.ping_interval / 2)
        check_at = 0.0
        late = False
        while True:
            due = self._loop.time() + interval
            await asyncio.sleep(interval)
            now = self._loop.time()
            if late := now > due + interval and not late:
                continue  # we stood still: what clients have said meanwhile is to be read first
            self.sessions.expire_due(now)
            if now >= check_at:
                check_at = now + self.limits.ping_interval / 8
                self.sessions.check_sockets(now)

    def _gauges(self) -> Gauges:
        sessions, cluster = self.sessions, self._cluster
        self.counts.messages = sessions.message_counts
        return Gauges(
            clients={name: len(tenant.realm.ids) for name, tenant in sessions.tenants.items()},
            sockets=len(sessions.sockets),
            connections=len(self.door),
            held_bytes=sum(tenant.realm.held for tenant in sessions.tenants.values()),
            held_peers=sum(tenant.realm.awaited for tenant in sessions.tenants.values()),
            paused=sum(socket.paused for socket in sessions.sockets),
            redis_up=None if cluster is None else cluster.up,
            redis_under_way=0 if cluster is None else cluster.under_way,
        )

    # What connections tell (`http.Site`) ------------------------------------------------------------

    def joined(self, transport: asyncio.Transport) -> bool:
        """A connection was made; False: it is not welcome."""
        if self._stopping or not self.door.enter(transport):
            self.counts.rejected["connections of an address"] += 1
            return False
        return True

    def parted(self, transport: asyncio.Transport) -> None:
        """A connection ended that was no WebSocket."""
        self.door.leave(transport)

    def answer(
        self, request: Request, transport: asyncio.Transport
    ) -> Response | Coroutine[None, None, Response]:
        """The answer to a request."""
        if self._stopping:
            return Response(503, b"Stopping")
        return self._routes.answer(request, transport, self._loop.time())

    def upgrade(self, request: Request, transport: asyncio.Transport, early: bytes) -> None:
        """A connection has become a WebSocket."""
        address, fits = self.door.upgrade(request, transport)
        socket = self.sessions.enter(request, transport, address, fits=fits)
        if early:
            socket.data_received(early)


def _make_cluster(options: ServerOptions, sessions: Sessions) -> Cluster:
    """The Redis side of a broker; imported here because few need it.

    Raises:
        UsageError: the package is not installed, or the URL cannot be read.
    """
    try:
        from peercli.server.cluster import Cluster
    except ImportError as error:
        raise UsageError("Redis needs the package redis", hint="pip install 'peercli[redis]'") from error
    return Cluster(
        options.redis,
        sessions,
        alive_timeout=options.alive_timeout,
        expire_timeout=options.expire_timeout,
        max_held=options.limits.max_held,
        max_held_per_peer=options.limits.max_held_per_peer,
    )
