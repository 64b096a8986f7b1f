"""The STUN and TURN servers of a peer: those it was given, or what its broker offers, while that is good."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from peercli.options import Broker, IceOptions
from peercli.peer.directory import ICE_TIMEOUT, offered_ice

__all__ = ["IceKeeper"]

ICE_RETRY = 600.0  # s before a broker that offered no servers is asked again


class IceKeeper:
    """Keeps the options of the connections to come.

    Args:
        options: to begin with.
        asks: whether the broker's servers replace those of `options`, if it offers any.

    Attributes:
        options: for the next connection.
    """

    def __init__(
        self, options: IceOptions, brokers: Sequence[Broker], id: str, token: str, *, asks: bool
    ) -> None:
        self.options = options
        self._brokers = brokers
        self._id = id
        self._token = token
        self._asks = asks
        self._settled = asyncio.Event()  # the broker has answered, or is not asked
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask, unless that is done already."""
        if not self._asks:
            self._settled.set()
        elif self._task is None:
            self._task = asyncio.create_task(self._keep())

    async def settled(self) -> None:
        """Return when it is known what the broker offers, or 2 s have passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ICE_TIMEOUT):
                await self._settled.wait()

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _keep(self) -> None:
        """Use the servers that the broker offers, with credentials that are good for a while yet."""
        while True:
            offer = await offered_ice(self._brokers, self._id, self._token)
            if offer is not None:
                self.options = replace(self.options, servers=offer.servers)
            self._settled.set()
            await asyncio.sleep(offer.ttl / 2 if offer else ICE_RETRY)
