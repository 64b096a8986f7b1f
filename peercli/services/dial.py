"""Coming together: reaching a peer, or being reached, by way of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NoReturn, TypeVar

from peercli.errors import AuthenticationFailed, PeerError, TimedOut, UnavailableID
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.protocol.codes import make_code, meeting_id
from peercli.protocol.messages import Offer
from peercli.services.events import Event, Open, Reconnecting, Refused, Report
from peercli.services.lasting import Conversation, Sessions, connect

__all__ = ["called", "coded", "dialled", "first_of", "joined", "started", "tell", "while_telling", "within"]

T = TypeVar("T")

CODE_NUMBERS = (999, 99_999, 999_999_999)  # the most that a code's number is, until one is free


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
        async with within(timeout, peer, peer_id):
            await peer.start()
            connection = await peer.connect(peer_id, timeout=None, **options)
        yield connection
    finally:
        await peer.destroy()


@asynccontextmanager
async def joined(
    peer: Peer, peer_id: str, report: Report, *, timeout: float, reconnect: bool, **options: Any
) -> AsyncIterator[Conversation]:
    """As `dialled`, a conversation that outlasts its connection; if `reconnect`, and the far side can."""
    try:
        async with within(timeout, peer, peer_id):
            await peer.start()
            conversation = await connect(peer, peer_id, report, timeout=None, reconnect=reconnect, **options)
        try:
            yield conversation
        finally:
            await conversation.close()
    finally:
        await peer.destroy()


@asynccontextmanager
async def within(timeout: float, peer: Peer, peer_id: str) -> AsyncIterator[None]:
    """Bound what reaches for a peer, in seconds; TimedOut says whether the broker or the peer was silent."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        if not peer.open:
            raise TimedOut(
                f"the broker {peer.place} did not answer within {timeout:g} s",
                hint="check the --server address; --timeout gives it longer",
            ) from None
        raise TimedOut(
            f"the peer {peer_id} did not answer within {timeout:g} s",
            hint="is it busy, or gone without a word? --timeout gives it longer",
        ) from None


@asynccontextmanager
async def started(peer: Peer, timeout: float) -> AsyncIterator[None]:
    """A peer that has `timeout` seconds to open at its broker; raises as `Peer.start`, and TimedOut."""
    async with AsyncExitStack() as life:
        async with within(timeout, peer, peer.id):
            await life.enter_async_context(peer)
        yield


@asynccontextmanager
async def called(
    peer: Peer, sessions: Sessions, report: Report, *, timeout: float
) -> AsyncIterator[Conversation]:
    """The first conversation that somebody begins with a peer that is not started yet.

    Args:
        timeout: seconds for the broker.

    Raises as `Peer.start`, `Peer.accept` and `tell` do, and TimedOut.
    """
    async with started(peer, timeout):
        conversation = await while_telling(peer, report, sessions.accept(peer))
        resuming = asyncio.create_task(_only_resume(peer, sessions))
        try:
            yield conversation
        finally:
            await conversation.close()
            resuming.cancel()
            await asyncio.wait({resuming})


async def _only_resume(peer: Peer, sessions: Sessions) -> None:
    """Take in who resumes a conversation, and nobody else."""
    with suppress(PeerError):  # then the conversation waits in vain, and says so
        while True:
            await (await sessions.accept(peer)).close()


async def first_of(peer: Peer, report: Report) -> DataConnection:
    """The first connection that somebody opens to a started peer; raises as `Peer.accept` and `tell`."""
    return await while_telling(peer, report, peer.accept())


async def while_telling(peer: Peer, report: Report, waiting_for: Coroutine[Any, Any, T]) -> T:
    """What is waited for; meanwhile `tell` works, to which the first who comes and is refused is the end."""
    coming = asyncio.create_task(waiting_for)
    telling = asyncio.create_task(tell(peer, report, once=True))
    try:
        await asyncio.wait({coming, telling}, return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            telling.result()
        return coming.result()
    finally:
        coming.cancel()
        telling.cancel()
        await asyncio.gather(coming, telling, return_exceptions=True)


async def coded(make: Callable[[str, str], Peer], length: int) -> tuple[Peer, str]:
    """A started peer that waits for whoever has the code, and the code.

    Args:
        make: gives a peer of this id and with this code for a secret.
        length: of the code, in words.

    Raises:
        UnavailableID: all the codes that were tried are in use.
        PeerError: as `Peer.start` raises.
    """
    for most in CODE_NUMBERS:
        code = make_code(length, most=most)
        peer = make(meeting_id(code), code)
        try:
            await peer.start()
        except BaseException as error:
            await peer.destroy()
            if not isinstance(error, UnavailableID) or most == CODE_NUMBERS[-1]:
                raise
        else:
            return peer, code
    raise AssertionError("unreachable")


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
        stranger = peer.credentials.once and error.reason == "no-secret"  # has not spent the code
        alone = once and not peer.active and not stranger
        news.put_nowait(error if alone else Refused(peer_id, error.reason, error.message))

    def declined(offer: Offer) -> None:
        from peercli.services.admission import capability_of  # knows every protocol: seldom needed

        message = f"its {capability_of(offer)} is not wanted here"
        news.put_nowait(Refused(offer.known_as or offer.peer, "declined", message))

    if peer.open and not peer.credentials.once:  # then a code stands for the id
        opened(peer.id)
    peer.on("open", opened)
    peer.on("reconnecting", reconnecting)
    peer.on("refused", refused)
    peer.on("declined", declined)
    try:
        while True:
            event = await news.get()
            if isinstance(event, AuthenticationFailed):
                raise event
            await report(event)
    finally:
        peer.remove_listener("declined", declined)
        peer.remove_listener("refused", refused)
        peer.remove_listener("open", opened)
        peer.remove_listener("reconnecting", reconnecting)
