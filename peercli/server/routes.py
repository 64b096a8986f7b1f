"""The broker's HTTP: what is answered at which path, and to whom.

Its URLs and answers are those of PeerServer 1.0.2 (`api/v1`), except that the key in a URL has to be the
right one; `ice`, `metrics` and `healthz` are added.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Coroutine

from peercli.server.access import Key, NotAllowed, ice_servers
from peercli.server.door import Door
from peercli.server.http import Request, Response, accept_upgrade
from peercli.server.limits import Rates
from peercli.server.metrics import CONTENT_TYPE, Counts, Gauges, render
from peercli.server.options import ServerOptions
from peercli.server.realm import INVALID_KEY
from peercli.server.sessions import Sessions, Tenant

__all__ = ["Routes"]

# What clients look for to recognise a broker (PeerServer's `app.json`).
ABOUT = {
    "name": "PeerJS Server",
    "description": "A broker between PeerJS clients, compatible with PeerServer, by peercli.",
    "website": "https://peerjs.com/",
}
NOT_STORED = {"Cache-Control": "no-store"}

Answer = Response | Coroutine[None, None, Response]


class Routes:
    """Answers requests.

    Args:
        gauges: how it is right now, for /metrics.
    """

    def __init__(
        self,
        options: ServerOptions,
        door: Door,
        sessions: Sessions,
        counts: Counts,
        gauges: Callable[[], Gauges],
    ) -> None:
        self._options = options
        self._door = door
        self._sessions = sessions
        self._counts = counts
        self._gauges = gauges
        self._rates = Rates(options.limits.request_rate, options.limits.request_burst)
        self.turn_secret = b""
        """Signs TURN credentials."""

    def answer(self, request: Request, transport: asyncio.Transport, now: float) -> Answer:
        """The answer to a request, now or later; 101 for what may become a WebSocket."""
        address, prefix = self._door.address(request, transport), self._options.path
        response: Response
        if request.path == f"{prefix}healthz":
            response = self._health()
        elif request.path == f"{prefix}metrics" and self._may_scrape(request, transport):
            response = Response(200, render(self._counts, self._gauges), CONTENT_TYPE)
        elif not self._rates.allow(address, now):
            self._counts.rejected["request rate"] += 1
            response = Response(429, b"Too many requests", headers={"Retry-After": "1"})
        elif request.path == f"{prefix}peerjs" and request.wants_websocket:
            response = accept_upgrade(request)
        else:
            answer = self._answer(request)
            if not isinstance(answer, Response):
                return self._answer_later(request, answer)
            response = answer
        if response.status != 101:
            self._allow_origin(request, response)
        return response

    async def _answer_later(self, request: Request, answer: Coroutine[None, None, Response]) -> Response:
        response = await answer
        self._allow_origin(request, response)
        return response

    def _answer(self, request: Request) -> Answer:
        path, prefix = request.path, self._options.path
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
        tenant = self._sessions.tenants.get(name)
        if tenant is None:
            return Response(401, INVALID_KEY.encode())
        match method:
            case "id":
                return Response(
                    200, str(uuid.uuid4()).encode(), "text/html; charset=utf-8", NOT_STORED.copy()
                )
            case "ice" if self._options.turn_urls:
                return self._offer_turn(request, tenant.key)
            case "peers" if tenant.key.allow_discovery:
                return self._list_peers(tenant)
            case "peers":
                return Response(401, b"Unauthorized")
            case _:
                return Response(404, b"Not Found")

    def _health(self) -> Response:
        """Whether newcomers can be let in: what a load balancer asks."""
        if (cluster := self._sessions.cluster) is not None and not cluster.up:
            return Response(503, b"Redis is away")
        return Response(200, b"ok")

    def _may_scrape(self, request: Request, transport: asyncio.Transport) -> bool:
        return self._options.metrics or self._door.is_this_machine(request, transport)

    def _list_peers(self, tenant: Tenant) -> Answer:
        if self._sessions.cluster is None:
            return _json(tenant.realm.ids, NOT_STORED)
        return self._list_all_peers(tenant)

    async def _list_all_peers(self, tenant: Tenant) -> Response:
        assert self._sessions.cluster is not None
        found = await self._sessions.cluster.ids(tenant.key.name)
        return _json(tenant.realm.ids if found is None else found, NOT_STORED)

    def _offer_turn(self, request: Request, key: Key) -> Response:
        now = time.time()
        peer_id = request.query.get("id", "")
        if key.auth_secret:
            try:
                key.identify(peer_id, request.query.get("token", ""), now)
            except NotAllowed as error:
                return Response(401, str(error).encode())
        servers = ice_servers(self._options, self.turn_secret, uuid.uuid4().hex, now)
        return _json({"iceServers": servers, "ttl": int(self._options.turn_lifetime)}, NOT_STORED)

    def _allow_origin(self, request: Request, response: Response) -> None:
        """CORS, as the npm package `cors` answers for PeerServer: the origin is named back if it may call."""
        origin, allowed = request.headers.get("origin"), self._options.cors
        vary = ["Origin"]
        if origin is not None and ("*" in allowed or origin in allowed):
            response.headers["Access-Control-Allow-Origin"] = origin
        if response.status == 204:
            response.headers["Access-Control-Allow-Methods"] = "GET,HEAD"
            vary.append("Access-Control-Request-Headers")
            if wanted := request.headers.get("access-control-request-headers"):
                response.headers["Access-Control-Allow-Headers"] = wanted
        response.headers["Vary"] = ", ".join(vary)


def _json(value: object, headers: dict[str, str]) -> Response:
    body = json.dumps(value, separators=(",", ":")).encode()
    return Response(200, body, "application/json; charset=utf-8", headers.copy())
