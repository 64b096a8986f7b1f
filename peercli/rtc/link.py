"""One WebRTC connection to one peer: offer, answer, candidates as they come, failure in time, route."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aioice import Candidate
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceTransport,
    RTCIceTransportPolicy,
    RTCSessionDescription,
)
from aiortc.exceptions import InvalidStateError
from aiortc.sdp import SessionDescription, candidate_from_sdp

from peercli.errors import ConnectionClosed, ConnectionLost, NegotiationFailed, PeerError, ProtocolError
from peercli.options import IceOptions
from peercli.rtc.channel import Channel
from peercli.rtc.diagnosis import SILENCE_HINT, no_path, no_relay
from peercli.rtc.ice import Agent, PairReport, gather_from_servers, show_address
from peercli.rtc.media import KINDS, Media
from peercli.rtc.peerconnection import PeerConnection

__all__ = ["Link", "Route", "Trickle"]

logger = logging.getLogger(__name__)

CANDIDATE_TIMEOUT = 15.0  # s without a working pair after the last news from the far side
NEGOTIATION_TIMEOUT = 60.0  # s for all of it, however often there is news
CHANNEL_TIMEOUT = 10.0  # s from a working path to the data channel
MAX_REMOTE_CANDIDATES = 100  # of one connection (RFC 8445 §6.1.2.5 limits the pairs alike)
DATA = "application"  # the kind of section that a data channel has in a description (RFC 8841)
RELAY_TIMEOUT = 10.0  # s for the first TURN server, where nothing else is allowed


@dataclass(frozen=True, slots=True)
class Trickle:
    """A local candidate for the far side (W3C `RTCIceCandidateInit`)."""

    candidate: str
    sdp_mid: str
    sdp_mline_index: int
    username_fragment: str


@dataclass(frozen=True, slots=True)
class Route:
    """The pair of transport addresses that a connection uses, each as the other side sees it.

    The types are W3C's `RTCIceCandidateType`: host, srflx, prflx or relay.
    """

    local: str
    remote: str
    local_type: str
    remote_type: str

    @property
    def relayed(self) -> bool:
        """Whether a TURN server is in the way, as far as this side can know."""
        return "relay" in (self.local_type, self.remote_type)


class Link:
    """A connection in the making, then in use, then ended.

    The offering side calls `offer`, then `accept`; the answering side calls `answer`. Both call
    `add_candidate` for each that the far side trickles, from then on, and send what `on_candidate` is
    called with. `established` and `ended` tell the rest.

    Args:
        ice: how a path may be looked for.
        media: what a call carries beside its data channel; without, sections for it are refused.
        on_candidate: called for each local candidate that was found after the description was made.
        on_state: called with W3C's `iceConnectionState` each time that it changes.
    """

    def __init__(
        self,
        ice: IceOptions,
        *,
        media: Media | None = None,
        on_candidate: Callable[[Trickle], None],
        on_state: Callable[[str], None] = lambda state: None,
    ) -> None:
        self._ice_options = ice
        self._media = media
        self._on_candidate = on_candidate
        policy = RTCIceTransportPolicy.RELAY if ice.relay else RTCIceTransportPolicy.ALL
        self._pc = PeerConnection(
            RTCConfiguration(
                iceServers=[], iceTransportPolicy=policy, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE
            ),
            on_channel=self._adopt,
            on_end=self.end,
        )
        loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._channel: asyncio.Future[Channel] = loop.create_future()
        self._established: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[PeerError] = loop.create_future()
        self._news = loop.time()
        self._described = False
        self._answered = False
        self._early: list[str] | None = []  # candidates that came before the description
        self._remote_candidates = 0
        self._closing: asyncio.Task[None] | None = None
        self._doom: PeerError | None = None
        self._pc.on("connectionstatechange", self._state_changed)
        self._pc.on("iceconnectionstatechange", lambda: on_state(self._pc.iceConnectionState))

    # Negotiation ------------------------------------------------------------------------------

    async def offer(self, label: str, *, ordered: bool) -> str:
        """Propose a connection with one data channel; the SDP has the host candidates in it.

        Raises:
            NegotiationFailed: there is not one local address to offer.
        """
        if self._media is not None:
            # First: aiortc lets the channel join the transport of the media, not the other way round.
            self._media.offer(self._pc)
        self._adopt(self._pc.open_channel(label, ordered=ordered))
        return await self._describe()

    async def answer(self, sdp: str) -> str:
        """Accept what the far side proposes.

        Raises:
            ProtocolError: the proposal cannot be read.
            NegotiationFailed: there is not one local address to answer with.
        """
        await self._set_remote("offer", sdp)
        if self._media is not None:
            self._media.answer(self._pc)
        return await self._describe()

    def accept(self, sdp: str) -> None:
        """Take the far side's answer to our `offer`; one that cannot be read ends the link."""
        if not self._answered:
            self._answered = True
            self._spawn(self._accept(sdp))

    async def _accept(self, sdp: str) -> None:
        try:
            await self._set_remote("answer", sdp)
        except PeerError as error:
            self.end(error)

    def add_candidate(self, candidate: str) -> None:
        """Take a candidate of the far side (`candidate:…`); what cannot be used is passed over."""
        text = candidate.removeprefix("candidate:")
        if not text or self._remote_candidates >= MAX_REMOTE_CANDIDATES or self._closing:
            return
        self._remote_candidates += 1
        if self._early is not None:
            self._early.append(text)
        else:
            self._add_candidate(text)

    def _add_candidate(self, text: str) -> None:
        try:
            parsed = candidate_from_sdp(text)
        except (ValueError, IndexError, AssertionError):
            logger.info("a candidate that cannot be read: %r", text[:200])
            return
        self._news = asyncio.get_running_loop().time()
        # A task each: a browser's mDNS name may take seconds to resolve.
        self._spawn(self._ice.addRemoteCandidate(parsed))

    async def _set_remote(self, kind: str, sdp: str) -> None:
        if self._media is not None:
            self._media.check(sdp)
        with self._led_by(kind):
            description = SessionDescription.parse(sdp)
            _check_sections(kind, description, [*KINDS, DATA] if self._media else [DATA])
            await self._pc.setRemoteDescription(RTCSessionDescription(_open_ended(sdp), kind))
        if self._ended.done():  # meanwhile
            raise self._ended.result()
        if self._pc.sctp is None and (self._media is None or not self._pc.getTransceivers()):
            raise ProtocolError(f"the far side's {kind} has no data channel")
        early, self._early = self._early or [], None
        for text in early:
            self._add_candidate(text)
        self._news = asyncio.get_running_loop().time()
        self._spawn(self._watch())

    @contextmanager
    def _led_by(self, kind: str) -> Iterator[None]:
        """aiortc raises whatever the far side's text leads it to; here that is a ProtocolError."""
        try:
            yield
        except PeerError:
            raise
        except Exception as error:
            if self._ended.done():  # meanwhile
                raise self._ended.result() from None
            raise ProtocolError(
                f"the far side's {kind} cannot be used: {str(error) or type(error).__name__}"
            ) from error

    async def _describe(self) -> str:
        agent = self._agent
        agent.options = self._ice_options
        agent.on_lost = lambda: self.end(
            ConnectionLost("the connection to the peer was lost", hint=SILENCE_HINT)
        )
        if self._ice_options.relay:
            await self._first_relay(agent)
        try:
            await self._set_local()
        except InvalidStateError:  # closed meanwhile
            raise self._ended.result() from None
        if not agent.local_candidates:
            narrow = self._ice_options.ports or self._ice_options.interfaces
            raise NegotiationFailed(
                "this machine has no network address to offer",
                hint="does --interface, or a --port-range whose ports are taken, leave none?"
                if narrow
                else "",
            )
        self._described = True
        if not self._ice_options.relay:
            self._spawn(gather_from_servers(agent, self._ice_options.servers, self._found))
        return _open_ended(self._pc.localDescription.sdp)

    async def _set_local(self) -> None:
        if self._media is None:
            await self._pc.setLocalDescription()
            return
        if self._pc.signalingState == "have-remote-offer":
            with self._led_by("offer"):
                description = await self._pc.createAnswer()
        else:
            description = await self._pc.createOffer()
        description.sdp = self._media.shape(description.sdp)
        await self._pc.setLocalDescription(description)

    async def _first_relay(self, agent: Agent) -> None:
        found = asyncio.Event()

        def report(candidate: Candidate) -> None:
            if self._described:
                self._found(candidate)
            found.set()

        asking = self._spawn(gather_from_servers(agent, self._ice_options.servers, report))
        waiting = self._spawn(_wait(found))
        await asyncio.wait({asking, waiting}, timeout=RELAY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not found.is_set():
            raise no_relay(agent.reports.values())

    def _found(self, candidate: Candidate) -> None:
        first = re.search(r"^a=mid:(\S+)", self._pc.localDescription.sdp, re.MULTILINE)
        mid = first[1] if first else "0"
        self._on_candidate(Trickle(f"candidate:{candidate.to_sdp()}", mid, 0, self._agent.local_username))

    @property
    def _ice(self) -> RTCIceTransport:
        everything = self._pc.sctp or self._pc.getTransceivers()[0].receiver  # they share one transport
        return everything.transport.transport

    @property
    def _agent(self) -> Agent:
        agent = self._ice._connection
        assert isinstance(agent, Agent)
        return agent

    # Life -------------------------------------------------------------------------------------

    async def channel(self) -> Channel:
        """The data channel, once it is open.

        Raises:
            NegotiationFailed: no path worked, in time.
            PeerError: the link ended otherwise.
        """
        channel = await asyncio.shield(self._channel)
        await channel.opened()
        return channel

    @property
    def has_channel(self) -> bool:
        """Whether there is a data channel, or will be: calls of PeerJS before 1.5 have none."""
        return self._pc.sctp is not None

    async def established(self) -> None:
        """Return once there is an encrypted path to the far side.

        Raises:
            PeerError: why there will be none.
        """
        either: set[asyncio.Future[Any]] = {self._established, self._ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._ended.done():
            raise self._ended.result()

    async def ended(self) -> PeerError:
        """Wait for the end, and say why: `ConnectionClosed` when either side closed it."""
        return await asyncio.shield(self._ended)

    @property
    def pairs(self) -> list[PairReport]:
        """How each pair of candidates has done."""
        return self._agent.pairs if self._described else []

    @property
    def route(self) -> Route | None:
        """How the packets go, once there is a path."""
        used = self._pc.sctp or self._pc.getTransceivers()
        if not used or (pair := self._agent.selected) is None or not self._agent.seen_as:
            return None
        kind, local = self._agent.seen_as
        return Route(show_address(*local), show_address(*pair.remote_addr), kind, pair.remote_candidate.type)

    @property
    def fingerprints(self) -> tuple[str, str]:
        """SHA-256 of our certificate and of the far side's (RFC 8122), as the DTLS session has them.

        Not from the descriptions, which came by the broker.

        Raises:
            ConnectionClosed: there is no session any more; there must have been one.
        """
        assert self._pc.sctp is not None
        session = self._pc.sctp.transport._ssl
        if session is None:
            raise ConnectionClosed("the connection is closed")
        certificates = session.get_certificate(), session.get_peer_certificate()
        ours, theirs = (certificate.digest("sha256").decode() for certificate in certificates if certificate)
        return ours, theirs

    async def close(self, error: PeerError | None = None) -> None:
        """End the link and free what it holds; returns when that is done. May be called again."""
        self.end(error or ConnectionClosed("the connection is closed"))
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._media is not None and self._pc.sctp is not None:
            await self._pc.sctp.stop()  # first, for the far side to see: codecs take a moment to stop
        await self._pc.close()

    async def _watch(self) -> None:
        """Notice that no pair works: PeerJS never says that it has no more candidates, so time decides."""
        loop = asyncio.get_running_loop()
        latest = loop.time() + NEGOTIATION_TIMEOUT
        while not self._established.done():
            patience = min(self._news + CANDIDATE_TIMEOUT, latest) - loop.time()
            if patience <= 0:
                if self._agent.selected is None:
                    self.end(no_path(self._agent, self._ice_options))
                else:
                    self.end(NegotiationFailed("there is a path to the peer, but no encrypted session"))
                return
            await asyncio.wait({self._established}, timeout=patience)
        if not self.has_channel:
            return
        try:
            async with asyncio.timeout(CHANNEL_TIMEOUT):
                await self.channel()
        except TimeoutError:
            self.end(NegotiationFailed("there is a path to the peer, but no data channel came of it"))
        except PeerError:
            pass  # the link has ended, and says why

    def _state_changed(self) -> None:
        state = self._pc.connectionState
        if state == "connected":
            if not self._established.done():
                self._established.set_result(None)
        elif state == "failed":
            if self._established.done():
                self.end(ConnectionLost("the connection to the peer was lost", hint=SILENCE_HINT))
            else:
                self.end(NegotiationFailed("the encrypted session with the peer could not be set up"))
        elif state == "closed":
            self.end(ConnectionClosed("the far side closed the connection"))

    def _adopt(self, channel: Channel) -> None:
        if not self._channel.done():  # one channel a connection; PeerJS knows no more
            self._channel.set_result(channel)

    def doom(self, error: PeerError) -> None:
        """From now on `error` is why the link ends, whoever ends it; a last word can still be said."""
        self._doom = self._doom or error

    def end(self, error: PeerError) -> None:
        """Mark the link as ended, for `error`; `close` then frees it."""
        if self._ended.done():
            return
        error = self._doom or error
        self._ended.set_result(error)
        if not self._channel.done():
            self._channel.set_exception(error)
            self._channel.exception()
        elif not self._channel.cancelled() and self._channel.exception() is None:
            self._channel.result()._ended(error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _check_sections(kind: str, description: SessionDescription, wanted: Sequence[str]) -> None:
    """Refuse what aiortc would begin with, and could neither answer nor close afterwards.

    Raises:
        ProtocolError: there is a section that nobody wants, one more for data, two of one name, or a bundle
            of none.
    """
    kinds = [section.kind for section in description.media]
    if set(kinds) - set(wanted):
        raise ProtocolError(f"the far side's {kind} has a section that nobody wants here")
    if kinds.count(DATA) > 1:
        raise ProtocolError(f"the far side's {kind} has more than one section for data")
    mids = [section.rtp.muxId for section in description.media if section.rtp.muxId]
    if len(mids) > len(set(mids)):
        raise ProtocolError(f"the far side's {kind} has two sections of one name")
    if any(group.items and group.items[0] not in mids for group in description.group):
        raise ProtocolError(f"the far side's {kind} bundles a section that it does not have")


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _open_ended(sdp: str) -> str:
    """`sdp` without the claim, which aiortc makes, that no more candidates follow those in it."""
    return re.sub(r"^a=end-of-candidates\r?\n?", "", sdp, flags=re.MULTILINE)
