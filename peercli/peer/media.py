"""MediaConnection: a call to one peer, with the names and manners of PeerJS's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from peercli.errors import ConnectionClosed, Declined, PeerError, UsageError
from peercli.options import IceOptions
from peercli.peer.auth import Gate
from peercli.peer.connection import Connection, Signal
from peercli.protocol.messages import Answer, Candidate, Expire, Offer
from peercli.rtc.stream import MediaStream

if TYPE_CHECKING:
    from peercli.rtc.media import MediaStats

__all__ = ["VIDEO_CODECS", "MediaConnection", "MediaStream", "check_video_codec"]

VIDEO_CODECS = ("vp8", "h264")
RING_TIMEOUT = 120.0  # s until a call that nobody answers is declined
NO_TIMEOUT = 10.0  # s that it may take to prove who says no


def check_video_codec(name: str | None) -> None:
    """Raise UsageError if there is no such video codec here; None is as good as any."""
    if name is not None and name not in VIDEO_CODECS:
        raise UsageError(f"there is no video codec {name!r} here; there are {', '.join(VIDEO_CODECS)}")


class MediaConnection(Connection):
    """A call (peerjs `lib/mediaconnection.ts`).

    Get one from `Peer.call`, or from `Peer.calls` and `answer` it.

    Beside sound and picture it has a data channel, as PeerJS's calls have: by its end the far side sees at
    once that this side hung up.

    Events: `open` (), `willCloseOnRemote` (): the far side will see it when we hang up; `stream`
    (MediaStream): what the far side sends, if it sends anything; `close` (), `error` (PeerError),
    `iceStateChanged` (str).
    """

    type: Literal["media"] = "media"

    def __init__(
        self,
        offer: Offer,
        *,
        outgoing: bool,
        ice: IceOptions,
        signal: Signal,
        gate: Gate | None,
    ) -> None:
        from peercli.rtc.media import Media  # see `peercli.peer.connection.prepare`

        self._media = Media()
        super().__init__(
            offer,
            outgoing=outgoing,
            ice=ice,
            signal=signal,
            gate=gate,
            media=self._media,
        )
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ringing = False

    @property
    def local_stream(self) -> MediaStream:
        """What this side sends."""
        return self._media.local

    @property
    def remote_stream(self) -> MediaStream:
        """What the far side sends; nothing before the call is open."""
        return self._media.remote if self.open else MediaStream()

    @property
    def open(self) -> bool:
        """Whether sound and picture flow."""
        return self._opening.done() and not self._opening.exception() and not self._finished.is_set()

    def stats(self) -> MediaStats:
        """How the call goes just now."""
        return self._media.stats()

    def clock_offset(self, kind: str) -> float | None:
        """Seconds from the time of a frame, `audio` or `video`, to the clock that both share at the far side.

        None until the far side has reported of it; PyAV's frames of one kind have times of their own.
        """
        return self._media.clock_offset(kind)

    def request_keyframe(self) -> None:
        """Ask the far side for a whole picture, when what is shown or kept begins anew."""
        self._media.request_keyframe()

    # Answering --------------------------------------------------------------------------------

    def answer(
        self,
        stream: MediaStream | None = None,
        *,
        sdp_transform: Callable[[str], str] | None = None,
        video_codec: str | None = None,
        bitrate: int | None = None,
    ) -> None:
        """Take an incoming call; `opened` waits until it stands.

        Args:
            stream: what to send; without, the call is one-way. Its tracks are stopped when the call ends.
            sdp_transform: is given our session description, and gives the one to use.
            video_codec: vp8 or h264, where the far side has it.
            bitrate: bit/s of video at most; by default what its size asks for.

        Raises:
            UsageError: we called, or the call has been answered, or there is no such codec.
            PeerError: the call has ended already.
        """
        if self.outgoing or (self._answered.done() and not self._answered.exception()):
            raise UsageError("this call needs no answer")
        if self._answered.done():
            self._answered.result()
        self._configure(stream, sdp_transform, video_codec, bitrate)
        self._answered.set_result(None)

    def decline(self) -> None:
        """Say no to an incoming call; the caller sees `Declined`, a PeerJS page `peer-unavailable`."""
        if self.outgoing or self._answered.done():
            return
        if self._gate is None:
            self._turn_away()
        else:
            self._wanted = False  # a caller who wants proof would not believe the broker
            self._answered.set_result(None)

    async def close(self) -> None:
        """Hang up; a call that has not been answered is declined. The far side sees it at once."""
        self.decline()
        if not self._wanted:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._finished.wait(), NO_TIMEOUT)
        self._stop_ringing()
        await super().close()

    def _stop_ringing(self) -> None:
        """Tell the far side, while the broker can still be used, that nothing will come of this."""
        if not self.outgoing and not self._answered.done():
            self._turn_away()
        if self._ringing:
            self._ringing = False
            self._tell_it_is_over()

    def _turn_away(self) -> None:
        self._tell_it_is_over()
        self._refuse(ConnectionClosed("the call was declined"))

    def _tell_it_is_over(self) -> None:
        """By way of the broker, when there is nothing else between us yet."""
        self._signal(Expire(self.peer, self.connection_id, declined=True))

    def _configure(
        self,
        stream: MediaStream | None,
        sdp_transform: Callable[[str], str] | None,
        video_codec: str | None,
        bitrate: int | None,
    ) -> None:
        check_video_codec(video_codec)
        self._media.local = stream or MediaStream()
        self._media.sdp_transform = sdp_transform
        self._media.video_codec = video_codec
        self._media.bitrate = bitrate

    def _refuse(self, error: PeerError) -> None:
        if not self.outgoing and not self._answered.done():
            self._answered.set_exception(error)
            self._answered.exception()  # nobody need be waiting

    # For Peer ---------------------------------------------------------------------------------

    async def _live(self) -> None:
        if self.outgoing:
            sdp = await self._link.offer(self.connection_id, ordered=True)
            self._signal(replace(self._announced(), sdp=sdp))
            self._ringing = True
        else:
            await self._wait_for_answer()
            sdp = await self._link.answer(self._offer.sdp)
            self._signal(Answer(self.peer, self.connection_id, "media", sdp, auth=self._gate is not None))
        await self._link.established()
        channel = await self._link.channel() if self._link.has_channel else None
        if channel is not None:
            self.emit("willCloseOnRemote")
        try:
            await self._prove(channel)  # so far nothing was sent, and nothing that came was decoded or shown
        except Declined:
            if self._wanted:
                raise
            raise ConnectionClosed("the call was declined") from None
        self._media.start()
        self._opening.set_result(None)
        self.emit("open")
        if self.remote_stream.tracks:
            self.emit("stream", self.remote_stream)
        if channel is None:
            raise await self._link.ended()
        async for _ in channel:
            pass  # there is nothing to say there but goodbye

    async def _wait_for_answer(self) -> None:
        try:
            async with asyncio.timeout(RING_TIMEOUT):
                await asyncio.shield(self._answered)
        except TimeoutError:
            self.decline()
            await self._answered

    def _ended(self, error: PeerError) -> None:
        self._refuse(error)
        for track in self.local_stream.tracks:
            track.stop()

    def _handle(self, message: Answer | Candidate) -> None:
        if isinstance(message, Answer):
            self._ringing = False
        super()._handle(message)

    def _fail(self, error: PeerError) -> None:
        self._ringing = False
        self._refuse(error)
        super()._fail(error)
