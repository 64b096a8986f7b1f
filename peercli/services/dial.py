"""Coming together: reaching a peer, or being reached, by way of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from peercli.errors import AuthenticationFailed, TimedOut
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.services.events import Event, Open, Reconnecting, Refused, Report

__all__ = ["called", "dialled", "tell"]


@asynccontextmanager
async def dialled(
    peer: Peer, peer_id: str, *, timeout: float, **options: Any
) -> AsyncIterator[DataConnection]:
    """A connection to `peer_id`, by a peer that is not started yet; at the end, that peer is destroyed.

    Args:
        timeout: seconds for all of it, the broker included.
        options: as `Peer.connect` takes them.

    Raises:
        TimedOut: it took longer.
        PeerError: as `Peer.start` and `Peer.connect` raise.
    """
    try:
        try:
            async with asyncio.timeout(timeout):
                await peer.start()
                connection = await peer.connect(peer_id, timeout=None, **options)
        except TimeoutError:
            raise _too_late(peer, peer_id, timeout) from None
        yield connection
    finally:
        await peer.destroy()


def _too_late(peer: Peer, peer_id: str, timeout: float) -> TimedOut:
    if not peer.open:
        return TimedOut(
            f"the broker {peer.place} did not answer within {timeout:g} s",
            hint="check the --server address; --timeout gives it longer",
        )
    return TimedOut(
        f"the peer {peer_id} did not answer within {timeout:g} s",
        hint="is it busy, or gone without a word? --timeout gives it longer",
    )


@asynccontextmanager
async def called(peer: Peer, report: Report) -> AsyncIterator[DataConnection]:
    """The first connection that somebody opens to a peer that is not started yet.

    Raises as `Peer.start`, `Peer.accept` and `tell` do.
    """
    async with peer:
        accepting = asyncio.create_task(peer.accept())
        telling = asyncio.create_task(tell(peer, report, once=True))
        try:
            await asyncio.wait({accepting, telling}, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                telling.result()
            connection = accepting.result()
        finally:
            accepting.cancel()
            telling.cancel()
            await asyncio.wait({accepting, telling})
        yield connection


async def tell(peer: Peer, report: Report, *, once: bool = False) -> NoReturn:
    """Report, until cancelled, how a started peer fares with its broker, and who was refused.

    Raises:
        AuthenticationFailed: with `once`, the first who came was refused.
    """
    news: asyncio.Queue[Event | AuthenticationFailed] = asyncio.Queue()

    def opened(peer_id: str) -> None:
        news.put_nowait(Open(peer_id))

    def reconnecting(attempt: int, delay: float) -> None:
        news.put_nowait(Reconnecting(attempt, delay))

    def refused(peer_id: str, error: AuthenticationFailed) -> None:
        alone = once and not peer.active
        news.put_nowait(error if alone else Refused(peer_id, error.reason, error.message))

    if peer.open:
        opened(peer.id)
    peer.on("open", opened)
    peer.on("reconnecting", reconnecting)
    peer.on("refused", refused)
    try:
        while True:
            event = await news.get()
            if isinstance(event, AuthenticationFailed):
                raise event
            await report(event)
    finally:
        peer.remove_listener("refused", refused)
        peer.remove_listener("open", opened)
        peer.remove_listener("reconnecting", reconnecting)
