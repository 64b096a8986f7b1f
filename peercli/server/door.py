"""Whom connections come from, and how many each address has: before they are WebSockets, and after."""

from __future__ import annotations

import asyncio
from collections import Counter

from peercli.server.http import Request
from peercli.server.limits import network

__all__ = ["Door"]

_THIS_MACHINE = frozenset({"127.0.0.1", "::"})  # `limits.network` makes ::1 into ::


class Door:
    """Counts the connections of each address.

    Args:
        max_connections: of one address at once.
        proxies: trusted ones in front of us, which say in X-Forwarded-For who comes.
    """

    def __init__(self, max_connections: int, proxies: int) -> None:
        self._max_connections = max_connections
        self._proxies = proxies
        self._connections: Counter[str] = Counter()  # by address
        self._http: dict[asyncio.Transport, str] = {}  # those that are no sockets yet, by address

    def __len__(self) -> int:
        return self._connections.total()

    @property
    def http(self) -> list[asyncio.Transport]:
        """The connections that are no WebSockets."""
        return list(self._http)

    def connections(self, address: str) -> int:
        """How many connections the address has."""
        return self._connections[address]

    def most(self) -> int:
        """How many connections that address has which has the most."""
        return max(self._connections.values(), default=0)

    def enter(self, transport: asyncio.Transport) -> bool:
        """A connection was made; False: it is one too many."""
        peer = transport.get_extra_info("peername")
        address = _network(peer[0] if peer else "")
        # Behind a proxy all connections come from it.
        if self._connections[address] >= self._max_connections and not self._proxies:
            return False
        self._connections[address] += 1
        self._http[transport] = address
        return True

    def leave(self, transport: asyncio.Transport) -> None:
        """A connection that `enter` let in ended without becoming a WebSocket."""
        if (address := self._http.pop(transport, None)) is not None:
            self.release(address)

    def upgrade(self, request: Request, transport: asyncio.Transport) -> tuple[str, bool]:
        """A connection has become a WebSocket: whose it is, and whether that has not too many.

        It counts until it is given back by `release`.
        """
        address, connected = self.address(request, transport), self._http.pop(transport)
        if address != connected:
            self.release(connected)
            self._connections[address] += 1
        return address, not (self._proxies and self._connections[address] > self._max_connections)

    def release(self, address: str) -> None:
        """A connection of the address has ended."""
        self._connections[address] -= 1
        if not self._connections[address]:
            del self._connections[address]

    def address(self, request: Request, transport: asyncio.Transport) -> str:
        """Who asks, as far as limits are concerned: the connection's far end, or whom our proxy names."""
        if self._proxies:
            # Each proxy appends whom it heard it from; what stands further left anybody can write.
            forwarded = request.headers.get("x-forwarded-for", "").split(",")
            for entry in forwarded[-self._proxies :][:1]:
                if address := _network(entry.strip()):
                    return address
        return self._http[transport]

    def is_this_machine(self, request: Request, transport: asyncio.Transport) -> bool:
        """Does the request come from here, and from no proxy?"""
        return self._http[transport] in _THIS_MACHINE and "x-forwarded-for" not in request.headers


def _network(address: str) -> str:
    try:
        return network(address)
    except ValueError:
        return ""
