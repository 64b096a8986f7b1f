"""The signalling socket: runs `protocol.signaling` over a real WebSocket and a real clock."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import random
import ssl
import time
from collections.abc import Callable, Sequence
from socket import gaierror
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from peercli import __version__
from peercli.errors import NetworkError, PeerError, ProtocolError, ServerError, SslUnavailable
from peercli.options import Broker
from peercli.protocol import signaling
from peercli.protocol.messages import MAX_MESSAGE_LENGTH, BrokerMessage
from peercli.protocol.signaling import Action, Failed, Lost, Opened, Received, Signaling

__all__ = ["BrokerSocket", "Event", "dial", "explain"]

logger = logging.getLogger(__name__)

DIAL_TIMEOUT = 10.0  # s for TCP, TLS and the WebSocket handshake
NEXT_ADDRESS = 0.25  # s until another address of the broker is tried, too (RFC 8305 §8)
PING_INTERVAL = 10.0  # s; a broker that vanished without a word is noticed after at most twice this
CHECK_TIMEOUT = 3.0  # s for a broker to show that it is still there, when there is a doubt
CLOSE_TIMEOUT = 1.0  # s for the closing handshake

Event = Opened | Received | Lost | Failed


class BrokerSocket:
    """A peer's line to its broker, dialled again after every outage until `close`.

    Args:
        on_event: called from the event loop with what the peer has to know.
    """

    def __init__(self, broker: Broker, peer_id: str, token: str, on_event: Callable[[Event], None]) -> None:
        self._broker = broker
        self._url = broker.socket_url(peer_id, token, __version__)
        self._on_event = on_event
        self._signaling = Signaling(peer_id, chance=random.random)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket: asyncio.Task[None] | None = None
        self._line: ClientConnection | None = None
        self._outbox: asyncio.Queue[str] = asyncio.Queue()

    def connect(self) -> None:
        """Dial, unless that is done already."""
        self._perform(self._signaling.connect())

    def disconnect(self) -> None:
        """Hang up, and stay away until `connect`."""
        self._perform(self._signaling.disconnect())

    def send(self, message: BrokerMessage) -> None:
        """Send, or keep for as long as the broker is away.

        Raises:
            ProtocolError: the message is too long for a broker.
        """
        self._perform(self._signaling.send(message))

    def settle(self, connection_id: str) -> None:
        """What was sent for this connection has arrived: do not send it again after an outage."""
        self._signaling.settle(connection_id)

    def repeat(self, connection_id: str) -> None:
        """Send again what was sent for this connection."""
        self._perform(self._signaling.repeat(connection_id))

    def forget(self, connection_id: str) -> None:
        """Do not tell anybody any more of a connection that has ended while the broker was away."""
        self._signaling.forget(connection_id)

    async def check(self) -> None:
        """See whether the broker still hears us, and dial again if not, now; returns when that is known."""
        if (line := self._line) is None:
            self._perform(self._signaling.hurry())
            return
        try:
            async with asyncio.timeout(CHECK_TIMEOUT):
                await (await line.ping())
        except (TimeoutError, ConnectionClosed):
            line.transport.abort()

    async def close(self) -> None:
        """Hang up and free everything."""
        self.disconnect()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _perform(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case signaling.Dial():
                    self._outbox = asyncio.Queue()
                    self._socket = self._loop.create_task(self._run_socket(self._outbox))
                    self._tasks.add(self._socket)
                    self._socket.add_done_callback(self._tasks.discard)
                case signaling.Hangup():
                    if self._socket is not None:
                        self._socket.cancel()
                        self._socket = None
                case signaling.Transmit(text):
                    self._outbox.put_nowait(text)
                case event:
                    self._on_event(event)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (deadline := self._signaling.deadline()) is not None:
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        # A timer may fire a clock tick early; the deadline itself is then what counts as now.
        now = max(self._loop.time(), self._signaling.deadline() or 0.0)
        self._perform(self._signaling.tick(now))

    async def _run_socket(self, outbox: asyncio.Queue[str]) -> None:
        try:
            error = await self._converse(outbox)
        except (OSError, WebSocketException, ValueError, ImportError) as failure:
            # The last two: a host name that cannot be one, and a proxy that the environment asks for in vain.
            error = explain(self._broker.url, failure)
        if self._socket is asyncio.current_task():
            self._socket = None
            self._perform(self._signaling.socket_lost(error, self._loop.time()))

    async def _converse(self, outbox: asyncio.Queue[str]) -> PeerError:
        async with dial(
            self._url,
            open_timeout=DIAL_TIMEOUT,
            ping_interval=PING_INTERVAL,
            ping_timeout=PING_INTERVAL,
        ) as socket:
            self._perform(self._signaling.socket_opened(self._loop.time()))
            writer = asyncio.create_task(self._write(socket, outbox))
            self._line = socket
            try:
                async for text in socket:
                    try:
                        self._perform(self._signaling.received(text, self._loop.time()))
                    except ProtocolError as error:
                        logger.warning("%s: %s", self._broker.url, error)
            except ConnectionClosed:
                pass
            finally:
                self._line = None
                writer.cancel()
                # When we are cancelled, `connect` would call it an internal error. In a task of its own:
                # before Python 3.11.3 nothing times out in a cancelled one, and the line would stay open.
                closing = asyncio.create_task(socket.close())
                await asyncio.wait({writer, closing})
        return NetworkError("the broker closed the connection")  # as PeerJS has it, whoever closed it

    async def _write(self, socket: ClientConnection, outbox: asyncio.Queue[str]) -> None:
        try:
            while True:
                await socket.send(await outbox.get())
        except ConnectionClosed:
            pass  # the reader sees it too, and says so


def dial(url: str, **options: Any) -> connect:
    """A WebSocket to a broker, in the making; `options` are of `websockets.asyncio.client.connect`."""
    # uvloop knows nothing of the kind. And where there is but one address, there is no race to be cancelled:
    # asyncio forgets to close a socket that was connected just before.
    if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop) and not _is_address(url):
        # Else an IPv6 that leads nowhere would use up the time in which IPv4 gets there.
        options["happy_eyeballs_delay"] = NEXT_ADDRESS
    return connect(
        url,
        compression=None,  # messages are few and small, and the first one is waited for
        close_timeout=CLOSE_TIMEOUT,
        max_size=MAX_MESSAGE_LENGTH,
        user_agent_header=f"peercli/{__version__}",
        **options,
    )


def _is_address(url: str) -> bool:
    """Whether the host of `url` is an IP address, not a name that may have several."""
    try:
        ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:
        return False
    return True


# Why a certificate is refused (OpenSSL's `X509_V_ERR_…`).
_NOT_YET_VALID, _EXPIRED = 9, 10
_UNKNOWN_ISSUERS = {18, 19, 20, 21}
_OTHER_NAMES = {62, 64}


def _certificate_hint(code: int) -> str:
    if code in (_NOT_YET_VALID, _EXPIRED):
        today = time.strftime("%Y-%m-%d")
        return f"if today is {today}, as this machine's clock says, the broker's owner has to renew it"
    if code in _UNKNOWN_ISSUERS:
        return "if it is your own, let this machine trust it: SSL_CERT_FILE=cert.pem peercli …"
    if code in _OTHER_NAMES:
        return "it is for another name than the one in the --server address"
    return "check the host name, the broker's certificate and this machine's clock"


def explain(url: str, failure: Exception) -> PeerError:
    """What a failure on the way to the broker at `url` means."""
    where = f"the broker {url}"
    match failure:
        case ssl.SSLCertVerificationError():
            return SslUnavailable(
                f"{where} has no valid certificate: {failure.verify_message}",
                hint=_certificate_hint(failure.verify_code),
            )
        case ssl.SSLError():
            return SslUnavailable(
                f"{where} does not speak TLS: {failure.reason}",
                hint="is it http:// rather than https://?",
            )
        case InvalidStatus():
            return ServerError(
                f"{where} answered HTTP {failure.response.status_code}",
                hint="is its --path the one in the --server address?",
            )
        case WebSocketException():
            return ServerError(f"{where} is no PeerServer: {failure}")
        case TimeoutError():
            return NetworkError(f"{where} does not answer", hint="check the address and the firewall")
        case gaierror():
            return NetworkError(
                f"{where} cannot be found: {failure.strerror}",
                hint="check the host name, and whether this machine has a network and a name server",
            )
        case _:
            # Not `strerror`: asyncio puts the call and the address there.
            number = getattr(failure, "errno", None)
            reason = os.strerror(number) if number else str(failure)
            return NetworkError(f"{where} cannot be reached: {reason}", hint="check the --server address")
