"""How a broker fares: what it says over HTTP, and whether messages come back over its socket."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from ssl import SSLError, cert_time_to_seconds
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from peercli import __version__
from peercli.errors import InvalidKey, ServerError, SocketClosed
from peercli.options import Broker, random_id, random_token
from peercli.peer.broker import DIAL_TIMEOUT, dial, explain
from peercli.protocol import messages
from peercli.protocol.messages import BrokerMessage, Candidate

__all__ = ["BrokerAnswer", "SocketAnswer", "ask_http", "ask_socket"]

MAX_ANSWER = 1 << 16  # bytes


@dataclass(frozen=True, slots=True)
class BrokerAnswer:
    """What the broker's own page says; `skew` is how many seconds its clock is ahead of ours."""

    name: str
    seconds: float
    skew: float | None


@dataclass(frozen=True, slots=True)
class SocketAnswer:
    """How the socket did, in seconds: until an id was ours, and a message's way to the broker and back.

    `certificate_left` is how long the certificate is still valid, where there is one.
    """

    opened: float
    round_trip: float
    certificate_left: float | None


async def ask_http(broker: Broker) -> BrokerAnswer:
    """Ask for the broker's page about itself.

    Raises:
        BrokerError: it gave none.
    """
    return await asyncio.to_thread(_ask_http, broker)


def _ask_http(broker: Broker) -> BrokerAnswer:
    begun = time.monotonic()
    url = broker.url.partition("?")[0]
    try:
        with urlopen(url, timeout=DIAL_TIMEOUT) as answer:
            text, date = answer.read(MAX_ANSWER), answer.headers.get("Date")
    except HTTPError as error:
        error.close()
        raise ServerError(
            f"the broker {broker.url} answered HTTP {error.code}",
            hint="is its --path the one in the --server address?",
        ) from None
    except URLError as error:
        reason = error.reason
        raise explain(broker.url, reason if isinstance(reason, OSError) else OSError(str(reason))) from None
    except (OSError, SSLError, HTTPException, ValueError) as error:
        raise explain(broker.url, error) from None
    return BrokerAnswer(_name(text), time.monotonic() - begun, _skew(date))


def _name(text: bytes) -> str:
    """The name of the broker's software; any page will do, since a proxy may give its own."""
    try:
        name = json.loads(text)["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return str(name)[:80]


def _skew(date: str | None) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except ValueError:
        return None


async def ask_socket(broker: Broker) -> SocketAnswer:
    """Register with a fresh id, and send ourselves a message.

    Raises:
        BrokerError: the broker cannot be reached, or failed.
        IdentityRefused: it does not serve the key.
    """
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            return await _ask_socket(broker)
    except (OSError, WebSocketException, ValueError, ImportError) as failure:
        raise explain(broker.url, failure) from None


async def _ask_socket(broker: Broker) -> SocketAnswer:
    peer_id, begun = random_id(), time.monotonic()
    async with dial(broker.socket_url(peer_id, random_token(), __version__)) as socket:
        await _hear(socket, messages.Open)
        opened = time.monotonic()
        await socket.send(messages.encode(Candidate(peer_id, "dc_" + random_id(), "data", "candidate:0")))
        await _hear(socket, Candidate)
        returned = time.monotonic()
        tls = socket.transport.get_extra_info("ssl_object")
        ends = tls.getpeercert().get("notAfter") if tls else None
    left = cert_time_to_seconds(ends) - time.time() if ends else None
    return SocketAnswer(opened - begun, returned - opened, left)


async def _hear(socket: ClientConnection, kind: type[BrokerMessage]) -> None:
    """Wait for a message of this kind."""
    async for text in socket:
        match messages.decode(text):
            case messages.InvalidKey():
                raise InvalidKey("the broker does not serve this key", hint="is the ?key= of --server right?")
            case messages.BrokerError(reason):
                raise ServerError(f"the broker refused: {reason}")
            case message if isinstance(message, kind):
                return
    raise SocketClosed("the broker closed the connection")
