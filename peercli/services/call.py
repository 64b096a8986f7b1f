"""call: what is sent, where what comes goes, and how a call runs to its end."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from peercli.errors import ConnectionClosed, PeerError
from peercli.peer.media import MediaConnection, MediaStream, check_video_codec
from peercli.peer.peer import Peer
from peercli.rtc.devices import Device, list_devices
from peercli.rtc.inputs import Frame
from peercli.rtc.recorder import STDOUT, Recorder, check_recording
from peercli.rtc.sinks import Route, Taker, deliver, playing
from peercli.rtc.sound import Speaker
from peercli.rtc.sources import Source, open_source
from peercli.rtc.terminal import TerminalView
from peercli.services.dial import while_telling, within
from peercli.services.events import Answered, Calling, CallStats, Close, Recorded, Report, RouteFound

__all__ = [
    "Consent",
    "Device",
    "MediaOptions",
    "Studio",
    "answer",
    "answer_calls",
    "list_devices",
    "open_studio",
    "ring",
    "take_a_call",
]

STATS_INTERVAL = 1.0  # s
FLIGHT = 0.5  # s that the last frames of a source have to arrive before the call ends

Consent = Callable[[MediaConnection], Awaitable[bool]]
"""Whether to answer a call; cancelled when the caller gives up."""


@dataclass(frozen=True, kw_only=True)
class MediaOptions:
    """What is sent in calls, and what becomes of what they bring.

    Args:
        file, video, audio, size, fps, loop: as `open_source` takes them.
        video_codec: vp8 or h264.
        bitrate: bit/s of video, at most.
        record: the file to record to, `-` for stdout; of a second call at the same time, `NAME-2`.
        record_own: our own sound, too, mixed with the far side's.
        play: by the speaker.
        view: on the terminal that stderr is.
    """

    file: str | None = None
    video: str | None = None
    audio: str | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None
    loop: bool = False
    video_codec: str | None = None
    bitrate: int | None = None
    record: str | None = None
    record_own: bool = False
    play: bool = False
    view: bool = False


@asynccontextmanager
async def open_studio(options: MediaOptions, report: Report) -> AsyncIterator[Studio]:
    """Open everything that calls need, before anybody is rung.

    Raises:
        UsageError: a source is missing, busy or cannot be read, or there is no way to record or play.
    """
    check_video_codec(options.video_codec)
    if options.record is not None:
        await asyncio.to_thread(check_recording, options.record)
    if options.play:
        Speaker().close()
    source = await open_source(
        file=options.file,
        video=options.video,
        audio=options.audio,
        size=options.size,
        fps=options.fps,
        loop=options.loop,
    )
    try:
        yield Studio(source, options, report)
    finally:
        await source.close()


class Studio:
    """What calls share: a source, and how what comes is recorded, heard and seen. Made by `open_studio`."""

    def __init__(self, source: Source, options: MediaOptions, report: Report) -> None:
        self._source = source
        self._options = options
        self.report = report
        self._recordings = itertools.count(1)
        self.view: TerminalView | None = None
        """What shows a call at the moment."""

    def stream(self) -> MediaStream | None:
        """What one more call sends; nothing, once that has ended."""
        return self._source.stream() if self._source.is_live() else None

    @property
    def quality(self) -> dict[str, Any]:
        """How it is to be encoded: what `Peer.ring` and `MediaConnection.answer` take."""
        return {"video_codec": self._options.video_codec, "bitrate": self._options.bitrate}

    async def carry(self, call: MediaConnection, *, duration: float | None = None) -> None:
        """Carry a call that stands to its end: until either side hangs up, or what is sent has ended.

        Args:
            duration: seconds after which we hang up.

        Raises:
            PeerError: the call was lost, a device failed, or the recording did.
            BrokenPipeError: nobody takes the recording any more.
        """
        failure: PeerError | None = None
        try:
            await self._announce(call)
            await self._run(call, duration)
        except PeerError as error:
            failure = error
            raise
        finally:
            await call.close()
            await self.report(_close(call, failure))

    async def _announce(self, call: MediaConnection) -> None:
        remote = call.remote_stream
        there = (remote.audio is not None, remote.video is not None)
        await self.report(Answered(call.peer, call.connection_id, *there))
        if route := call.route:
            await self.report(RouteFound.of(call.peer, route))

    async def _run(self, call: MediaConnection, duration: float | None) -> None:
        async with self._outlets(call) as (routes, recorder):
            delivering = (deliver(*route) for route in routes)
            endings: list[asyncio.Future[Any]] = [
                asyncio.create_task(_hung_up(call)),
                asyncio.gather(self._tell(call), *delivering),  # which fails, or never ends
            ]
            if call.local_stream.tracks:
                endings.append(asyncio.create_task(self._source_ended(call)))
            if duration is not None:
                endings.append(asyncio.create_task(asyncio.sleep(duration)))
            if recorder is not None:
                endings.append(asyncio.create_task(recorder.broken()))
            try:
                done, _ = await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
                for ending in done:
                    ending.result()
            finally:
                await call.close()  # which the far side is to see before a recording is finished
                for ending in endings:
                    ending.cancel()
                await asyncio.gather(*endings, return_exceptions=True)

    async def _source_ended(self, call: MediaConnection) -> None:
        await self._source.ended()
        await self._source.drained(call.local_stream)
        await asyncio.sleep(FLIGHT)

    async def _tell(self, call: MediaConnection) -> None:
        started = time.monotonic()
        while True:
            await asyncio.sleep(STATS_INTERVAL)
            stats = call.stats()
            flows = {
                way: {
                    kind: {name: _rounded(value) for name, value in asdict(flow).items()}
                    for kind in ("audio", "video")
                    if (flow := getattr(stats, f"{kind}_{way}")) is not None
                }
                for way in ("sent", "received")
            }
            await self.report(
                CallStats(
                    call.peer,
                    call.connection_id,
                    flows["sent"],
                    flows["received"],
                    stats.round_trip,
                    call.route.relayed if call.route else False,
                    round(time.monotonic() - started, 1),
                )
            )

    @asynccontextmanager
    async def _outlets(self, call: MediaConnection) -> AsyncIterator[tuple[list[Route], Recorder | None]]:
        """What takes the frames of each track of a call, and the recorder among them."""
        takers: dict[str, list[Taker]] = {"audio": [], "video": []}
        remote, recorder = call.remote_stream, None
        routes = [(track, takers[track.kind]) for track in remote.tracks]
        with_own = self._options.record_own and call.local_stream.audio is not None
        async with AsyncExitStack() as stack:
            if self._options.record is not None and (remote.tracks or with_own):
                kinds = {track.kind for track in remote.tracks}
                recorder = Recorder(self._recording_path(), kinds, with_own=with_own)
                stack.push_async_callback(self._finish, recorder, call)
                for kind, those in takers.items():
                    those.append(partial(_record, recorder, call, kind))
                if with_own and (own := self._source.stream({"audio"}).audio) is not None:
                    stack.callback(own.stop)
                    routes.append((own, [recorder.take_own]))
            if self._options.play and remote.audio is not None:
                speaker = stack.enter_context(closing(Speaker()))
                takers["audio"].append(playing(speaker))
            if self._options.view and remote.video is not None and self.view is None:
                self.view = TerminalView()
                stack.callback(self._close_view)
                takers["video"].append(self.view.take)
            yield routes, recorder

    def _recording_path(self) -> str:
        assert self._options.record is not None
        number = next(self._recordings)
        if number == 1 or self._options.record == STDOUT:
            return self._options.record
        stem, ending = os.path.splitext(self._options.record)
        return f"{stem}-{number}{ending}"

    async def _finish(self, recorder: Recorder, call: MediaConnection) -> None:
        if await recorder.close():
            await self.report(
                Recorded(call.peer, call.connection_id, recorder.path, recorder.frames, recorder.left_out)
            )

    def _close_view(self) -> None:
        assert self.view is not None
        self.view.close()
        self.view = None


def _record(recorder: Recorder, call: MediaConnection, kind: str, frame: Frame) -> None:
    recorder.take(frame, call.clock_offset(kind))


def _close(call: MediaConnection, failure: PeerError | None) -> Close:
    reason, message = ("closed", "") if failure is None else (failure.type, failure.message)
    return Close(call.peer, call.connection_id, reason, message)


async def _hung_up(call: MediaConnection) -> None:
    error = await call.closed()
    if not isinstance(error, ConnectionClosed):
        raise error


def _rounded(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value


async def ring(
    peer: Peer,
    peer_id: str,
    studio: Studio,
    *,
    metadata: Any = None,
    timeout: float,
    duration: float | None = None,
) -> None:
    """Call `peer_id` by a peer that is not started yet, carry the call to its end, and destroy that peer.

    Args:
        timeout: seconds that it may take until the call stands, the broker included.
        duration: seconds of the call, at most.

    Raises:
        TimedOut: nobody answered.
        Declined: the far side said no.
        PeerError: as `Peer.start`, `Peer.ring` and `Studio.carry` raise.
    """
    try:
        async with within(timeout, peer, peer_id):
            await peer.start()
            call = peer.ring(peer_id, studio.stream(), metadata=metadata, **studio.quality)
            try:
                await studio.report(Calling(call.peer, call.connection_id, call.metadata, incoming=False))
                await call.opened()
            except BaseException:
                await call.close()  # while the broker can still tell the far side to stop ringing
                raise
        await studio.carry(call, duration=duration)
    finally:
        await peer.destroy()


async def take_a_call(peer: Peer, studio: Studio, consent: Consent, *, duration: float | None = None) -> None:
    """Wait for a call that is agreed to, by a peer that is not started yet, and carry it to its end.

    Raises as `Peer.start`, `Peer.accept_call` and `Studio.carry` do.
    """
    async with peer:
        await while_telling(peer, studio.report, _take_one(peer, studio, consent, duration))


async def _take_one(peer: Peer, studio: Studio, consent: Consent, duration: float | None) -> None:
    while True:
        call = await peer.accept_call()
        await studio.report(Calling(call.peer, call.connection_id, call.metadata, incoming=True))
        if await _agreed(call, consent):
            await answer(call, studio, duration=duration)
            return
        await call.close()
        await studio.report(Close(call.peer, call.connection_id, "declined", ""))


async def answer_calls(peer: Peer, studio: Studio, *, once: bool = False) -> None:
    """Answer everybody who calls a started peer, many at once, until cancelled.

    Args:
        once: until the first call has ended.

    Raises:
        PeerError: with `once`, how that call failed; else a failure ends but its call.
    """
    carrying: set[asyncio.Task[None]] = set()
    try:
        async for call in peer.calls():
            await studio.report(Calling(call.peer, call.connection_id, call.metadata, incoming=True))
            if once:
                await answer(call, studio)
                return
            task = asyncio.create_task(_answer_among_others(call, studio))
            carrying.add(task)
            task.add_done_callback(carrying.discard)
    finally:
        for task in carrying:
            task.cancel()
        await asyncio.gather(*carrying, return_exceptions=True)


async def _answer_among_others(call: MediaConnection, studio: Studio) -> None:
    with suppress(PeerError):  # which the event `close` has told
        await answer(call, studio)


async def answer(call: MediaConnection, studio: Studio, *, duration: float | None = None) -> None:
    """Answer a call, and carry it to its end.

    Raises:
        PeerError: the call came to nothing, or as `Studio.carry` raises.
    """
    call.answer(studio.stream(), **studio.quality)
    try:
        await call.opened()
    except PeerError as error:
        await studio.report(_close(call, error))
        raise
    await studio.carry(call, duration=duration)


async def _agreed(call: MediaConnection, consent: Consent) -> bool:
    """Whether the call is wanted; no, too, once the caller has given up."""
    asking, ending = asyncio.ensure_future(consent(call)), asyncio.ensure_future(call.closed())
    try:
        await asyncio.wait({asking, ending}, return_when=asyncio.FIRST_COMPLETED)
        return not ending.done() and asking.result()
    finally:
        asking.cancel()
        ending.cancel()
        await asyncio.gather(asking, ending, return_exceptions=True)
