"""The broker's clients: who is let in, what becomes of their messages, and when they have to go.

Everything about a socket that is more than bytes is here: it stands between the sockets (`websocket.Owner`),
the realms, and the brokers of the same realm (`cluster.Local`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from math import inf
from typing import TYPE_CHECKING, Any

from peercli.server.access import Key, NotAllowed
from peercli.server.envelope import seal
from peercli.server.http import Request
from peercli.server.limits import Rates
from peercli.server.metrics import Counts
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

__all__ = ["Sessions", "Tenant"]

log = logging.getLogger(__name__)

MESSAGE_UNIT = 16 * 1024  # bytes that count as one message more
KEY_BURST = 10.0  # seconds' worth of messages that the clients of a key may have saved up

AWAY = "The broker has lost its companions for a while; try again"
TOO_MANY = "Too many connections from this address"
ORIGIN_NOT_ALLOWED = "Pages from this origin may not connect"
_REFUSALS = {"taken": ("ID-TAKEN", ID_TAKEN), "full": ("ERROR", LIMIT_EXCEEDED), "away": ("ERROR", AWAY)}


@dataclass(slots=True)
class Tenant:
    """An API key and its realm."""

    key: Key
    realm: Realm[Socket]
    rates: Rates | None  # of all its clients together; None: no limit


class Sessions:
    """All sockets, and the realms that their clients are in.

    Args:
        start: does work in the background, and sees it to its end.
        left: called with the address of each socket that has ended.
    """

    def __init__(
        self,
        options: ServerOptions,
        counts: Counts,
        start: Callable[[Coroutine[Any, Any, None]], None],
        left: Callable[[str], None],
    ) -> None:
        self.limits = options.limits
        self._options = options
        self._counts = counts
        self._start = start
        self._left = left
        self._loop = asyncio.get_running_loop()
        self._rates = Rates(self.limits.message_rate, self.limits.message_burst)
        self._names = count(1)
        self._turn_ends = False  # will `_end_turn` be called?
        self._unsent: list[Socket] = []
        self._handled: list[tuple[int, float]] = []  # messages that came together, and since when
        self.tenants: dict[str, Tenant] = {}
        """By the name of their key."""
        self.sockets: dict[Socket, None] = {}
        """In the order in which they came."""
        self.emptied = asyncio.Event()
        """Set when the last socket is gone."""
        self.cluster: Cluster | None = None
        """The way to the other brokers of the same realm."""

    def set_keys(self, keys: Mapping[str, Key]) -> None:
        """These are the API keys from now on. Clients whose key is gone have to leave."""
        for name in self.tenants.keys() - keys.keys():
            gone = self.tenants.pop(name)
            for socket in [socket for socket in self.sockets if socket.tenant is gone]:
                self._refuse(socket, INVALID_KEY)
        for name, key in keys.items():
            if (tenant := self.tenants.get(name)) is not None:
                tenant.key, tenant.rates = key, _rates_of(key)
                tenant.realm.concurrent_limit = key.concurrent_limit
            else:
                self.tenants[name] = Tenant(key, self._make_realm(key), _rates_of(key))

    def _make_realm(self, key: Key) -> Realm[Socket]:
        return Realm(
            expire_timeout=self._options.expire_timeout,
            alive_timeout=self._options.alive_timeout,
            concurrent_limit=key.concurrent_limit,
            max_held=self.limits.max_held,
            max_held_per_peer=self.limits.max_held_per_peer,
            shared=self.cluster is not None,
            gone=partial(self._gone, key.name),
        )

    def _gone(self, key: str, peer_id: str, token: str, socket: Socket) -> None:
        self._log("a client has gone", socket)
        if self.cluster is not None:
            self.cluster.release(key, peer_id, socket.name, token)

    @property
    def message_counts(self) -> Counter[str]:
        """Messages received, by type."""
        return sum((tenant.realm.counts for tenant in self.tenants.values()), Counter())

    # Coming ---------------------------------------------------------------------------------------

    def enter(self, request: Request, transport: asyncio.Transport, address: str, *, fits: bool) -> Socket:
        """A WebSocket was opened by `address`, which has too many if it does not fit."""
        socket = Socket(self, self._loop, transport, address, str(next(self._names)))
        transport.set_protocol(socket)
        self.sockets[socket] = None
        self._counts.opened += 1
        if fits:
            self._admit(socket, request)
        else:
            self._refuse(socket, TOO_MANY)
        return socket

    def _admit(self, socket: Socket, request: Request) -> None:
        # Of a parameter given twice the last counts, as in PeerServer.
        peer_id, token, key = (request.query.get(name, "") for name in ("id", "token", "key"))
        if not (peer_id and token and key):
            self._refuse(socket, MISSING_PARAMETERS)
            return
        tenant = self.tenants.get(key)
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
        if holder is None and (self.cluster is None or unfit(peer_id, identity)):
            self._attach(socket, identity)
        else:
            self._start(self._admit_later(socket, holder, identity))

    async def _admit_later(self, socket: Socket, holder: Socket | None, identity: str) -> None:
        """Let a client in once others have been asked: the id's holder if it is still there, and Redis."""
        realm, key, peer_id = socket.tenant.realm, socket.tenant.key, socket.peer_id
        if holder is not None and not await holder.probe():
            log.debug("a holder of an id is gone, and somebody else asks for it")
            holder.abort()
        if self.cluster is None or realm.contested(peer_id, identity) is not None:
            self._attach(socket, identity)
            return
        status, held = await self.cluster.claim(
            key.name, peer_id, identity, socket.name, key.concurrent_limit
        )
        if status == "away" and realm.contested(peer_id, identity) is None:
            here = realm.link_of(peer_id) is not None
            if self.cluster.let_back(key.name, peer_id, identity, socket.name, here=here):
                self._attach(socket, identity)
                return
        if status != "open":
            kind, reason = _REFUSALS[status]
            self._refuse(socket, reason, kind)
            return
        self._attach(socket, identity)
        if realm.link_of(peer_id) is not socket:
            self.cluster.release(key.name, peer_id, socket.name)
        self.cluster.settle(key.name, peer_id, held)

    def _attach(self, socket: Socket, identity: str) -> None:
        if socket in self.sockets and not socket.closing:
            realm = socket.tenant.realm
            self._apply(realm.attach(socket, socket.peer_id, identity, self._loop.time()))
            if realm.link_of(socket.peer_id) is socket:
                self._log("a client has come", socket)

    def _refuse(self, socket: Socket, reason: str, kind: str = "ERROR") -> None:
        self._counts.rejected[reason] += 1
        self._apply(refusal(socket, reason, kind))

    # What sockets tell (`websocket.Owner`) --------------------------------------------------------

    def pay(self, socket: Socket, count: int, size: int) -> bool:
        """May what came be handled at once?"""
        cost = count + size // MESSAGE_UNIT
        tenant, now = socket.tenant, socket.heard_at
        if not self._rates.allow(socket.address, now, cost):
            return False
        return tenant is None or tenant.rates is None or tenant.rates.allow("", now, cost)

    def charge(self, socket: Socket, size: int) -> float:
        """How long a message waits for its sender's address and key to pay for it."""
        cost = 1 + size // MESSAGE_UNIT
        delay = self._rates.delay(socket.address, cost, socket.heard_at)
        if (tenant := socket.tenant) is not None and tenant.rates is not None:
            delay = max(delay, tenant.rates.delay("", cost, socket.heard_at))
        return delay

    def received(self, socket: Socket, data: bytes) -> None:
        """A message came."""
        if (tenant := socket.tenant) is not None:
            self._apply(tenant.realm.receive(socket, data, socket.heard_at), tenant)

    def unsent(self, socket: Socket) -> None:
        """A socket has something to send."""
        self._unsent.append(socket)
        self._end_turn_soon()

    def handled(self, count: int, begun: float) -> None:
        """What came has been passed on."""
        self._handled.append((count, begun))
        self._end_turn_soon()

    def _end_turn_soon(self) -> None:
        if not self._turn_ends:
            self._turn_ends = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        """Let out what all the sockets that were read from have caused: a write costs more than a message."""
        self._turn_ends = False
        for socket in self._unsent:
            socket.flush()
        self._unsent.clear()
        now = time.perf_counter()
        for messages, begun in self._handled:
            self._counts.took(now - begun, messages)
        self._handled.clear()

    def leaving(self, socket: Socket) -> None:
        """A socket is about to end: its id is free, and what is for it waits for who comes next."""
        if socket.tenant is not None:
            socket.tenant.realm.detach(socket)

    def lost(self, socket: Socket) -> None:
        """A socket has ended."""
        self.leaving(socket)
        del self.sockets[socket]
        self._left(socket.address)
        if not self.sockets:
            self.emptied.set()

    # What the other brokers ask of this one (`cluster.Local`) -------------------------------------

    def deliver(self, key: str, dst: str, data: bytes) -> bool:
        """Send to a client of ours; False when it is not here."""
        tenant = self.tenants.get(key)
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
            socket.close(code, reason)

    def probe(self, key: str, peer_id: str, link: str) -> None:
        """Somebody else asks for the client's id."""
        if (socket := self._find(key, peer_id, link)) is not None:
            self._start(self._probe(socket))

    async def _probe(self, socket: Socket) -> None:
        if not await socket.probe():
            socket.abort()

    def _find(self, key: str, peer_id: str, link: str) -> Socket | None:
        tenant = self.tenants.get(key)
        socket = None if tenant is None else tenant.realm.link_of(peer_id)
        return socket if socket is not None and socket.name == link else None

    def clients(self) -> list[tuple[str, str, str, str, int]]:
        """All clients: key, id, link, identity, and how many clients the key may have."""
        return [
            (name, peer_id, socket.name, identity, tenant.key.concurrent_limit)
            for name, tenant in self.tenants.items()
            for peer_id, identity, socket in tenant.realm.clients()
        ]

    # What follows ---------------------------------------------------------------------------------

    def expire_due(self, now: float) -> None:
        """Tell the senders of what has waited too long; close clients without a heartbeat."""
        for tenant in self.tenants.values():
            self._apply(tenant.realm.expire(now))

    def check_sockets(self, now: float) -> None:
        """Ping those that are silent, drop those that do not answer."""
        for socket in list(self.sockets):
            socket.check(now)

    def _apply(self, effects: Effects[Socket], tenant: Tenant | None = None) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                if not effect.link.send(effect.data):
                    self._counts.rejected["slow reader"] += 1
                    self._log("a client that does not read what it is sent was dropped", effect.link)
                    effect.link.abort()
            elif isinstance(effect, Close):
                effect.link.close(effect.code, effect.reason)
            else:
                assert tenant is not None
                self._send_elsewhere(tenant, effect)

    def _send_elsewhere(self, tenant: Tenant, message: Elsewhere) -> None:
        src, dst, data, held = message
        assert self.cluster is not None
        if not self.cluster.route(tenant.key.name, src, dst, data, held=held) and held:
            self._apply(tenant.realm.hold(src, dst, data, self._loop.time()))

    def _log(self, what: str, socket: Socket) -> None:
        """Tell of a client: by name and address only if asked to."""
        fields = {"key": socket.tenant.key.name if socket.tenant else ""}
        if self._options.log_ids:
            fields |= {"id": socket.peer_id, "address": socket.address}
        log.info(
            "%s%s", what, f" ({socket.peer_id})" if self._options.log_ids else "", extra={"fields": fields}
        )


def _rates_of(key: Key) -> Rates | None:
    return None if key.message_rate == inf else Rates(key.message_rate, key.message_rate * KEY_BURST)
