"""The broker on the network: HTTP and WebSockets around the realm.

Its URLs, answers and messages are those of PeerServer 1.0.2 (`api/v1`, `webSocketServer`), so that stock
PeerJS works with it. It differs where PeerServer fails its users: a client that comes back hears OPEN, an id
whose holder has vanished is free for the next who asks, the key in an HTTP URL has to be the right one, and
everything that a client can make it keep or do has a limit (`options.Limits`).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Self

from aiohttp import WSMsgType, web
from aiohttp.http import HttpProcessingError

from peercli.errors import UsageError
from peercli.server.limits import Rates, network
from peercli.server.options import ServerOptions
from peercli.server.realm import INVALID_KEY, MISSING_PARAMETERS, Effects, Realm, Send, refusal
from peercli.server.websocket import Socket

__all__ = ["Server"]

log = logging.getLogger(__name__)
http_log = logging.getLogger(f"{__name__}.http")

SWEEP_INTERVAL = 0.25  # seconds between looks at what has run out
SHUTDOWN_GRACE = 3.0  # seconds for the sockets to close when the broker stops
MESSAGE_UNIT = 16 * 1024  # bytes that count as one message more
GOING_AWAY = 1001  # WebSocket close code (RFC 6455, section 7.4.1)

# What clients look for to recognise a broker (PeerServer's `app.json`).
ABOUT = {
    "name": "PeerJS Server",
    "description": "A broker between PeerJS clients, compatible with PeerServer, by peercli.",
    "website": "https://peerjs.com/",
}
NOT_STORED = {"Cache-Control": "no-store"}


class Server:
    """A broker, listening while its `async with` block lasts.

        async with Server(ServerOptions(port=0)) as server:
            print(server.url)
            await server.serve_until(stop)

    Raises (on entry):
        UsageError: the address cannot be listened on, or the certificate not be used.
    """

    def __init__(self, options: ServerOptions | None = None) -> None:
        self.options = options or ServerOptions()
        limits = self.options.limits
        self._realm: Realm[Socket] = Realm(
            expire_timeout=self.options.expire_timeout,
            alive_timeout=self.options.alive_timeout,
            concurrent_limit=self.options.concurrent_limit,
            max_held=limits.max_held,
            max_held_per_peer=limits.max_held_per_peer,
        )
        self._requests = Rates(limits.request_rate, limits.request_burst)
        self._messages = Rates(limits.message_rate, limits.message_burst)
        self._sockets: dict[Socket, asyncio.Task[object]] = {}  # each with the task that reads it
        self._stopping = False

    @property
    def port(self) -> int:
        """The port it listens on: the one asked for, or the one found free."""
        port: int = self._runner.addresses[0][1]
        return port

    @property
    def url(self) -> str:
        """Where clients on this machine find it: `http://127.0.0.1:9000/`."""
        scheme = "http" if self.options.tls_cert is None else "https"
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.options.host, self.options.host)
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}{self.options.path}"

    @property
    def peers(self) -> list[str]:
        """The ids of the clients."""
        return self._realm.ids

    async def __aenter__(self) -> Self:
        options = self.options
        tls = _tls_context(options)
        self._loop = asyncio.get_running_loop()
        self._runner = web.ServerRunner(
            web.Server(
                self._handle,
                access_log=None,
                logger=http_log,
                keepalive_timeout=options.limits.http_idle,
                lingering_time=0,
            ),
            shutdown_timeout=SHUTDOWN_GRACE,
        )
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, options.host, options.port, ssl_context=tls)
        try:
            await self._site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise UsageError(
                f"cannot listen on {options.host} port {options.port}: {error.strerror or error}",
                hint="Another program may have the port; 0 takes a free one.",
            ) from error
        self._sweeper = asyncio.create_task(self._sweep(), name="broker sweeper")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await self._site.stop()
        self._sweeper.cancel()
        for socket in self._sockets:
            socket.close(GOING_AWAY, "the broker is stopping")
        readers = list(self._sockets.values())
        if readers:
            _, slow = await asyncio.wait(readers, timeout=SHUTDOWN_GRACE)
            for reader in slow:
                reader.cancel()
        await asyncio.gather(self._sweeper, *readers, return_exceptions=True)
        await self._runner.cleanup()

    async def serve_until(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set."""
        waiter = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({waiter, self._sweeper}, return_when=asyncio.FIRST_COMPLETED)
            if self._sweeper.done():
                await self._sweeper  # it ends by an error only
        finally:
            waiter.cancel()

    # HTTP ----------------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        address = self._address(request)
        if self._stopping:
            response = web.Response(status=503, text="Stopping")
        elif not self._requests.allow(address, self._loop.time()):
            response = web.Response(status=429, text="Too many requests", headers={"Retry-After": "1"})
        elif request.path == f"{self.options.path}peerjs" and _asks_for_websocket(request):
            return await self._serve_socket(request, address)
        else:
            response = self._answer(request)
        self._allow_origin(request, response)
        response.headers["Server"] = "peercli"
        return response

    def _address(self, request: web.BaseRequest) -> str:
        """Who asks, as far as limits are concerned: the connection's far end, or whom our proxy names."""
        candidates = [request.remote or ""]
        if hops := self.options.proxied:
            forwarded = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",")
            # Each proxy appends whom it heard it from; what stands further left anybody can write.
            candidates = [entry.strip() for entry in forwarded[-hops:][:1]] + candidates
        for candidate in candidates:
            with suppress(ValueError):
                return network(candidate)
        return ""

    def _answer(self, request: web.BaseRequest) -> web.Response:
        path, prefix = request.path, self.options.path
        if not f"{path}/".startswith(prefix):
            return web.Response(status=404, text="Not Found")
        if request.method == "OPTIONS":
            return web.Response(status=204)
        parts = path[len(prefix) :].strip("/").split("/") if request.method in {"GET", "HEAD"} else None
        match parts:
            case [""]:
                return web.json_response(ABOUT)
            case [key, "id" | "peers"] if key != self.options.key:
                return web.Response(status=401, text=INVALID_KEY)
            case [_, "id"]:
                return web.Response(text=str(uuid.uuid4()), content_type="text/html", headers=NOT_STORED)
            case [_, "peers"] if self.options.allow_discovery:
                return web.json_response(self.peers, headers=NOT_STORED)
            case [_, "peers"]:
                return web.Response(status=401, text="Unauthorized")
            case _:
                return web.Response(status=404, text="Not Found")

    def _allow_origin(self, request: web.BaseRequest, response: web.Response) -> None:
        """CORS, as the npm package `cors` answers for PeerServer: the origin is named back if it may call."""
        origin = request.headers.get("Origin")
        response.headers.add("Vary", "Origin")
        if origin is not None and ("*" in self.options.cors or origin in self.options.cors):
            response.headers["Access-Control-Allow-Origin"] = origin
        if response.status == 204:
            response.headers["Access-Control-Allow-Methods"] = "GET,HEAD"
            response.headers.add("Vary", "Access-Control-Request-Headers")
            if wanted := request.headers.get("Access-Control-Request-Headers"):
                response.headers["Access-Control-Allow-Headers"] = wanted

    # WebSockets ----------------------------------------------------------------------------------

    async def _serve_socket(self, request: web.BaseRequest, address: str) -> web.StreamResponse:
        limits = self.options.limits
        protocol = request.headers.get("Sec-WebSocket-Protocol", "").partition(",")[0].strip()
        web_socket = web.WebSocketResponse(
            timeout=limits.close_timeout,
            autoping=False,
            compress=False,
            max_msg_size=limits.max_message,
            protocols=[protocol] if protocol else [],  # the first it offers, as PeerServer
        )
        await web_socket.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        if request.transport is None or self._stopping:
            return web_socket
        socket = Socket(web_socket, request.transport, limits)
        self._sockets[socket] = task
        try:
            async with asyncio.timeout(None) as reading:
                socket.when_said(lambda: reading.reschedule(self._loop.time()))
                try:
                    # Of a parameter given twice the last counts, as in PeerServer.
                    await self._admit(socket, dict(request.query.items()))
                    await self._read(socket, web_socket, address)
                finally:
                    socket.when_said(None)
        except TimeoutError:
            self._realm.detach(socket)
            await socket.say_goodbye()
        finally:
            self._realm.detach(socket)
            await socket.aclose()
            del self._sockets[socket]
        return web_socket

    async def _admit(self, socket: Socket, query: dict[str, str]) -> None:
        peer_id, token, key = (query.get(name, "") for name in ("id", "token", "key"))
        if not (peer_id and token and key):
            self._apply(refusal(socket, MISSING_PARAMETERS))
            return
        if key != self.options.key:
            self._apply(refusal(socket, INVALID_KEY))
            return
        holder = self._realm.contested(peer_id, token)
        if holder is not None and not await holder.probe():
            log.debug("%s: its holder is gone, and somebody else asks for it", peer_id)
            self._realm.detach(holder)
            holder.abort()
        self._apply(self._realm.attach(socket, peer_id, token, self._loop.time()))

    async def _read(self, socket: Socket, web_socket: web.WebSocketResponse, address: str) -> None:
        while True:
            message = await web_socket.receive()
            socket.heard()
            match message.type:
                case WSMsgType.TEXT:
                    text = message.data
                case WSMsgType.BINARY:
                    text = message.data.decode(errors="replace")
                case WSMsgType.PING:
                    text = ""
                    socket.send(message.data, WSMsgType.PONG)
                case WSMsgType.PONG:
                    text = ""
                case _:
                    return
            cost = 1 + len(text) // MESSAGE_UNIT
            if delay := self._messages.delay(address, cost, self._loop.time()):
                # Its own connection fills up meanwhile, and stops it; nothing is lost.
                await socket.pause(delay)
            if text:
                self._apply(self._realm.receive(socket, text, self._loop.time()))

    def _apply(self, effects: Effects[Socket]) -> None:
        for effect in effects:
            if not isinstance(effect, Send):
                effect.link.close(effect.code, effect.reason)
            elif not effect.link.send(effect.data):
                log.info("a client that does not read what it is sent was dropped")
                self._realm.detach(effect.link)
                effect.link.abort()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            self._apply(self._realm.expire(self._loop.time()))


def _is_our_fault(record: logging.LogRecord) -> bool:
    """aiohttp reports as errors of the server what its clients do wrong; that is nobody's concern here."""
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)


http_log.addFilter(_is_our_fault)


def _asks_for_websocket(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _tls_context(options: ServerOptions) -> ssl.SSLContext | None:
    """The TLS side of the listener, or None for plain HTTP.

    Raises:
        UsageError: the certificate or its key cannot be read or do not belong together.
    """
    if options.tls_cert is None or options.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"cannot use the TLS certificate {options.tls_cert}: {error}") from error
    return context
