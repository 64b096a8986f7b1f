"""HTTP on one connection, as far as a broker speaks it: small requests without a body, and upgrades.

llhttp (by way of httptools) reads what came; nothing of it is kept once a WebSocket has taken over.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import httptools

from peercli.server.options import Limits

__all__ = ["HttpConnection", "Request", "Response", "Site", "accept_upgrade"]

MAX_HEAD = 16 * 1024  # bytes of a request's line and headers
MAX_FIELDS = 32  # of a query
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3
_BODYLESS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(slots=True)
class Request:
    """What was asked. Header names are in lower case; of one given twice the values are joined by commas."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    wants_websocket: bool


@dataclass(slots=True)
class Response:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)

    def encode(self, *, head_only: bool, close: bool) -> bytes:
        """The bytes on the wire, with the time of now (RFC 9110 §6.6.1)."""
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}", "Server: peercli"]
        lines.append(f"Date: {formatdate(usegmt=True)}")
        if self.status not in (101, 204):
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if close:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + (b"" if head_only else self.body)


class Site(Protocol):
    """What serves the requests of all connections."""

    limits: Limits

    def joined(self, transport: asyncio.Transport) -> bool:
        """A connection was made; False: it is one too many."""

    def answer(
        self, request: Request, transport: asyncio.Transport
    ) -> Response | Coroutine[None, None, Response]:
        """The answer to `request`, now or later. With status 101, `upgrade` is called next."""

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Do `work`, and see it to its end."""

    def upgrade(self, request: Request, transport: asyncio.Transport, early: bytes) -> None:
        """The 101 has been sent: the connection is the site's, and `early` has come already."""

    def parted(self, transport: asyncio.Transport) -> None:
        """The connection ended without an upgrade."""


def accept_upgrade(request: Request) -> Response:
    """The answer to an opening handshake (RFC 6455, section 4.2.2)."""
    headers = request.headers
    if headers.get("sec-websocket-version") != "13":
        return Response(426, b"Upgrade Required", headers={"Sec-WebSocket-Version": "13"})
    key = headers.get("sec-websocket-key", "").encode()
    with suppress(ValueError):
        if len(base64.b64decode(key, validate=True)) == 16:
            accept = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
            answer = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
            # The first that it offers, as PeerServer.
            protocol = headers.get("sec-websocket-protocol", "").partition(",")[0].strip()
            if protocol and protocol.isprintable() and protocol.isascii():
                answer["Sec-WebSocket-Protocol"] = protocol
            return Response(101, headers=answer)
    return Response(400, b"Bad Request")


class HttpConnection(asyncio.Protocol):
    """One connection until it closes or becomes a WebSocket.

    It has `http_idle` seconds to send a request, and as long for its next: a request that trickles in, or
    never ends, costs no more than that and MAX_HEAD bytes. Who does not read the answers is not heard either.
    """

    def __init__(self, site: Site, loop: asyncio.AbstractEventLoop) -> None:
        self._site = site
        self._loop = loop
        self._size = 0
        self._url = b""
        self._headers: dict[str, str] = {}
        self._done = False  # nothing more is read
        self._upgraded: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self._timer = self._loop.call_later(self._site.limits.http_idle, transport.abort)
        self._welcome = self._site.joined(transport)
        if not self._welcome:
            self._refuse(503)
        self._parser = httptools.HttpRequestParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()
        if self._welcome:
            self._site.parted(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._done:
            return
        self._size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._upgraded is not None:
                self._hand_over(self._upgraded, data[upgrade.args[0] :])
            elif not self._done:
                self._refuse(400)
        except httptools.HttpParserError:
            if not self._done:
                self._refuse(400)
        else:
            if self._size > MAX_HEAD and not self._done:
                self._refuse(431)

    def pause_writing(self) -> None:
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    # What httptools calls -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url, self._headers = b"", {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]},{text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        method = self._parser.get_method().decode("latin-1")
        if not self._done and method not in _BODYLESS:
            self._refuse(404)  # as PeerServer, which has no route for them

    def on_message_complete(self) -> None:
        if self._done:
            return
        self._size = 0
        try:
            request = self._read_request()
        except ValueError:
            self._refuse(400)
            return
        response = self._site.answer(request, self._transport)
        if not isinstance(response, Response):
            self._done = True  # its connection ends with it: answers keep their order
            self._site.start(self._answer_later(request, response))
            return
        if response.status == 101:
            self._upgraded = request
            self._transport.write(response.encode(head_only=True, close=False))
            return
        close = not self._parser.should_keep_alive() or self._parser.should_upgrade()
        self._transport.write(response.encode(head_only=request.method == "HEAD", close=close))
        if close:
            self._end()
        else:
            self._timer.cancel()
            self._timer = self._loop.call_later(self._site.limits.http_idle, self._transport.abort)

    async def _answer_later(self, request: Request, answer: Coroutine[None, None, Response]) -> None:
        response = await answer
        self._transport.write(response.encode(head_only=request.method == "HEAD", close=True))
        self._transport.close()

    def _read_request(self) -> Request:
        url = urlsplit(self._url.decode(errors="replace"))
        query = dict(parse_qsl(url.query, keep_blank_values=True, max_num_fields=MAX_FIELDS))
        method, headers = self._parser.get_method().decode("latin-1"), self._headers
        if "host" not in headers and self._parser.get_http_version() != "1.0":
            raise ValueError("no Host (RFC 9112 §3.2)")
        upgrades = method == "GET" and self._parser.should_upgrade()
        wants_websocket = upgrades and headers.get("upgrade", "").lower() == "websocket"
        return Request(method, unquote(url.path), query, headers, wants_websocket)

    def _refuse(self, status: int) -> None:
        body = HTTPStatus(status).phrase.encode()
        self._transport.write(Response(status, body).encode(head_only=False, close=True))
        self._end()

    def _end(self) -> None:
        self._done = True
        self._transport.close()

    def _hand_over(self, request: Request, early: bytes) -> None:
        self._done = True
        self._timer.cancel()
        self._transport.resume_reading()  # the answers to requests before it may not have been read
        self._site.upgrade(request, self._transport, early)
