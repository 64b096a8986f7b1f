"""What every connection to a peer has in common, whether it carries data or a call."""

from __future__ import annotations

import asyncio
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Self

from peercli.errors import AuthenticationFailed, ConnectionClosed, PeerError, WebRTCError
from peercli.options import IceOptions
from peercli.peer.auth import Gate, left, unlike
from peercli.peer.emitter import Emitter
from peercli.protocol.auth import Proven
from peercli.protocol.messages import Answer, Candidate, Expire, Kind, Offer, PeerMessage

if TYPE_CHECKING:
    from peercli.rtc.channel import Channel
    from peercli.rtc.ice import PairReport
    from peercli.rtc.link import Route, Trickle
    from peercli.rtc.media import Media

__all__ = ["Connection", "Signal", "prepare"]

logger = logging.getLogger(__name__)

_WEBRTC = "peercli.rtc.link"

Signal = Callable[[PeerMessage | Expire], None]
"""Sends a message by way of the broker."""


async def prepare() -> None:
    """Import WebRTC, while the event loop goes on: it takes as long as it takes to dial a far broker."""
    if _WEBRTC not in sys.modules:
        await asyncio.to_thread(import_module, _WEBRTC)


class Connection(Emitter, ABC):
    """A connection to one peer (peerjs `lib/baseconnection.ts`).

    Events: `close` (), `error` (PeerError), `iceStateChanged` (str), and, beyond PeerJS, `authenticated`
    (Proven), before `open`.

    Attributes:
        peer: the far side's id.
        connection_id: what both sides call this connection.
        metadata: any JSON value given by the side that connected.
        outgoing: whether this side connected.
        proven: what the far side has proved, once it has; None if nothing was asked.
    """

    type: Kind

    def __init__(
        self,
        offer: Offer,
        *,
        outgoing: bool,
        ice: IceOptions,
        signal: Signal,
        gate: Gate | None,
        media: Media | None = None,
    ) -> None:
        from peercli.rtc.link import Link  # see `prepare`

        super().__init__()
        self.peer = offer.peer
        self.connection_id = offer.connection_id
        self.metadata = offer.metadata
        self.outgoing = outgoing
        self.proven: Proven | None = None
        self._gate = gate
        self._wanted = True  # else it is declined as soon as all is proved
        self._unproved: AuthenticationFailed | None = None
        self._leaving = False
        self._offer = offer
        self._signal = signal
        self._link = Link(
            ice,
            media=media,
            on_candidate=self._trickle,
            on_state=self._ice_state_changed,
        )
        self._opening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._finished = asyncio.Event()

    @property
    def route(self) -> Route | None:
        """How packets go to the far side, once there is a path."""
        return self._link.route

    @property
    def fingerprints(self) -> tuple[str, str]:
        """SHA-256 of our certificate and of the far side's, once the connection is open."""
        return self._link.fingerprints

    @property
    def pairs(self) -> list[PairReport]:
        """How each pair of addresses, ours and the far side's, has done in the search for a path."""
        return self._link.pairs

    async def opened(self) -> None:
        """Return once the connection is open.

        Raises:
            PeerError: why it will not be: `peer-unavailable`, `negotiation-failed`, …
        """
        await asyncio.shield(self._opening)

    async def closed(self) -> PeerError:
        """Wait for the end, and say why: `ConnectionClosed` when either side closed it."""
        error = await self._link.ended()
        return self._unproved or error

    async def close(self) -> None:
        """End the connection; the far side is told."""
        self._leaving = True
        await self._link.close()
        await self._finished.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is None:
                await self._drain()
        finally:
            await self.close()

    # For Peer ---------------------------------------------------------------------------------

    async def _drain(self) -> bool:
        """Wait, but not for ever, until what was sent has arrived; whether it has."""
        return True

    async def _run(self) -> None:
        """The whole life: negotiate, serve until the end, clean up. Peer owns the task."""
        try:
            await self._live()
            await self._link.close()
        except PeerError as failure:
            await self._link.close(failure)
            self._unproved = self._want_of_proof(failure)
        except Exception as failure:
            logger.exception("%s: a fault", self.connection_id)
            await self._link.close(WebRTCError(f"the connection failed: {failure!r}"))
        error = await self.closed()
        if not self._opening.done():
            self._opening.set_exception(error)
            self._opening.exception()  # whoever waits gets it; nobody need wait
        self._ended(error)
        self._finished.set()
        if not isinstance(error, ConnectionClosed):
            self.emit("error", error)
        self.emit("close")

    def _want_of_proof(self, failure: PeerError) -> AuthenticationFailed | None:
        """What to say of a far side that left, and so failed to prove what it had to."""
        if self._leaving or self._gate is None or self.proven is not None:
            return None
        if self.outgoing and isinstance(failure, ConnectionClosed):
            return left(self.peer)
        return failure if isinstance(failure, AuthenticationFailed) else None

    @abstractmethod
    async def _live(self) -> None:
        """Negotiate, set `_opening`, and serve until the far side closes; a PeerError ends the connection."""

    def _announced(self) -> Offer:
        """Our offer, as the broker may see it."""
        return self._offer if self._gate is None else self._gate.announcement(self._offer)

    async def _prove(self, channel: Channel | None) -> None:
        """Pass the gate, if there is one, before anything is sent, taken or shown.

        Raises:
            AuthenticationFailed: one of us did not prove what it had to.
            PeerError: the connection is not to be for another reason.
        """
        if self._gate is None:
            return
        if channel is None:
            raise unlike(self.peer, wants=False)
        if self.outgoing:
            self.proven = await self._gate.call(self._link, channel, self._offer)
        else:
            self.proven = await self._gate.answer(self._link, channel, self._offer, wanted=self._wanted)
            self.metadata = self.proven.metadata
        self.emit("authenticated", self.proven)

    def _ended(self, error: PeerError) -> None:
        """The link has ended; the listeners have not been told yet."""

    def _fail(self, error: PeerError) -> None:
        """End a connection that is not open yet, for a reason the broker gave."""
        if not self._opening.done():
            self._link.end(error)

    def _handle(self, message: Answer | Candidate) -> None:
        """Take what the far side says through the broker."""
        if isinstance(message, Candidate):
            self._link.add_candidate(message.candidate)
        elif self.outgoing:
            if message.auth != (self._gate is not None):
                self._link.end(unlike(self.peer, message.auth))
            else:
                self._link.accept(message.sdp)

    def _ice_state_changed(self, state: str) -> None:
        self.emit("iceStateChanged", state)

    def _trickle(self, candidate: Trickle) -> None:
        self._signal(
            Candidate(
                self.peer,
                self.connection_id,
                self.type,
                candidate.candidate,
                candidate.sdp_mid,
                candidate.sdp_mline_index,
                candidate.username_fragment,
            )
        )
