"""What is sent in a call: a camera, a microphone, a screen, a file, a pipe, or the test picture and tone.

    source = await open_source(video="camera", audio="mic")
    connection = await peer.call("bob", source.stream())
    await source.ended()
    await source.close()

A `Source` is opened before anybody is rung, and is shared by any number of calls: each has tracks of its own,
that drop frames rather than wait for a slow call. Every input has a thread, which decodes, keeps time, and
hands frames to the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from peercli.errors import ConnectionLost, PeerError, UsageError
from peercli.rtc.devices import DEVICES_HINT, driver_for
from peercli.rtc.inputs import (
    Capture,
    Clock,
    Frame,
    Input,
    Listening,
    Media,
    Pictures,
    Recording,
    Shape,
    Sine,
    Stopped,
    reason,
)
from peercli.rtc.media import MediaStream
from peercli.rtc.sound import has_portaudio

__all__ = ["Source", "open_source"]

DEPTH = {"audio": 25, "video": 15}  # frames of a file that may wait for a slow call: half a second
LIVE_DEPTH = {"audio": 25, "video": 2}  # of a device: late is worse than lost
DRAIN_TIMEOUT = 3.0  # s that a slow call has for the last frames
JOIN_TIMEOUT = 2.0  # s that a thread has to end; one stuck in a driver is left behind


class _Feed:
    """An input, and the thread that reads it."""

    def __init__(self, input: Input, clock: Clock, take: Callable[[Frame, bool], None]) -> None:
        self.input = input
        self.failure: PeerError | None = None
        self._clock = clock
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[set[Media]] = self._loop.create_future()
        self.done = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=input.name, daemon=True)

    async def open(self) -> set[Media]:
        """What it has; raises UsageError."""
        self._thread.start()
        return await asyncio.shield(self._opened)

    def _run(self) -> None:
        try:
            opened = self.input.open()
        except Exception as error:  # noqa: BLE001  whoever waits must be told, whatever it is
            self._tell(self._opened.set_exception, error)
        else:
            self._tell(self._opened.set_result, opened)
            self._read()
        finally:
            self.input.close()
            self._tell(self.done.set)

    def _tell(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop may be closed under a thread that was left behind
            self._loop.call_soon_threadsafe(function, *arguments)

    def _read(self) -> None:
        try:
            for frame in self.input.frames(self._clock):
                if self._clock.stopped.is_set():
                    return
                if self._clock.running:
                    self._tell(self._take, frame, self.input.live)
        except Stopped:
            return
        except Exception as error:  # noqa: BLE001  else this would look like its end
            self.failure = ConnectionLost(f"{self.input.name} has failed: {reason(error)}")
        else:
            if self.input.live and not self._clock.stopped.is_set():
                self.failure = ConnectionLost(f"{self.input.name} is gone")

    async def close(self) -> None:
        self.input.interrupt()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.done.wait(), JOIN_TIMEOUT)
            self._thread.join()
        if self._opened.done() and not self._opened.cancelled():
            self._opened.exception()


class _Track(MediaStreamTrack):
    """The sound or the pictures of a source, for one call."""

    def __init__(self, kind: Media, source: Source) -> None:
        super().__init__()
        self.kind: Media = kind
        self._source = source
        self._frames: deque[Frame] = deque()
        self._news = asyncio.Event()
        self.drained = asyncio.Event()

    def take(self, frame: Frame, depth: int) -> None:
        self._frames.append(frame)
        while len(self._frames) > depth:
            self._frames.popleft()
            self._source.dropped += 1
        self._news.set()

    def end(self) -> None:
        self._news.set()

    async def recv(self) -> Frame:
        """The next frame; raises MediaStreamError at the end."""
        self._source.start()
        while not self._frames:
            if self.readyState == "ended" or self._source.is_over(self.kind):
                self.stop()
                raise MediaStreamError
            self._news.clear()
            await self._news.wait()
        return self._frames.popleft()

    def stop(self) -> None:
        """End it: no more frames for this call."""
        super().stop()
        self.drained.set()
        self._source.forget(self)
        self._news.set()


class Source:
    """What is sent, opened and ready: made by `open_source`."""

    def __init__(self) -> None:
        self.kinds: set[Media] = set()
        """What it has."""
        self.dropped = 0
        """Frames that some call was too slow for."""
        self._clock = Clock()
        self._feeds: list[_Feed] = []
        self._by_kind: dict[Media, _Feed] = {}
        self._tracks: set[_Track] = set()
        self._endings: list[asyncio.Task[None]] = []

    async def add(self, input: Input) -> None:
        """Open an input too; raises UsageError."""
        feed = _Feed(input, self._clock, self._take)
        self._feeds.append(feed)
        for kind in await feed.open():
            self._by_kind[kind] = feed
            self.kinds.add(kind)
        self._endings.append(asyncio.create_task(self._end_with(feed)))

    def stream(self, kinds: Collection[Media] = ("audio", "video")) -> MediaStream:
        """Tracks for one more call. Time begins to run when one of them is first read."""
        tracks = {kind: _Track(kind, self) for kind in self.kinds.intersection(kinds)}
        self._tracks |= {*tracks.values()}
        return MediaStream(**tracks)

    def is_live(self) -> bool:
        """Whether there is something to send still."""
        return any(not feed.done.is_set() for feed in self._feeds)

    def start(self) -> None:
        """Let time run, if it does not yet."""
        self._clock.start()

    def is_over(self, kind: Media) -> bool:
        """Whether no more frames of a kind will come."""
        return self._by_kind[kind].done.is_set()

    def forget(self, track: _Track) -> None:
        """Give no more frames to a track."""
        self._tracks.discard(track)

    async def ended(self) -> None:
        """Wait until every file has been played to its end, or a device is gone.

        Raises:
            ConnectionLost: a device is gone.
        """
        lasting = [feed for feed in self._feeds if feed.input.live]
        passing = [feed for feed in self._feeds if not feed.input.live] or lasting
        waiting = [
            asyncio.create_task(_all_done(feeds)) for feeds in (passing, *([feed] for feed in lasting))
        ]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        for feed in self._feeds:
            if feed.failure is not None:
                raise feed.failure

    async def drained(self, stream: MediaStream) -> None:
        """Wait until the tracks of one call have given all there was, or have had DRAIN_TIMEOUT for it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_TIMEOUT):
                for track in stream.tracks:
                    if isinstance(track, _Track):
                        await track.drained.wait()

    async def close(self) -> None:
        """Stop everything; calls that use it find that their tracks have ended."""
        self._clock.stop()
        await asyncio.gather(*(feed.close() for feed in self._feeds))
        for task in self._endings:
            task.cancel()
        await asyncio.gather(*self._endings, return_exceptions=True)
        for track in [*self._tracks]:
            track.stop()

    def _take(self, frame: Frame, live: bool) -> None:
        kind: Media = "audio" if isinstance(frame, av.AudioFrame) else "video"
        depth = (LIVE_DEPTH if live else DEPTH)[kind]
        for track in self._tracks:
            if track.kind == kind:
                track.take(frame, depth)

    async def _end_with(self, feed: _Feed) -> None:
        await feed.done.wait()
        for track in [*self._tracks]:
            track.end()


async def _all_done(feeds: list[_Feed]) -> None:
    for feed in feeds:
        await feed.done.wait()


async def open_source(
    *,
    file: str | None = None,
    video: str | None = None,
    audio: str | None = None,
    size: tuple[int, int] | None = None,
    fps: float | None = None,
    loop: bool = False,
) -> Source:
    """Open what is to be sent.

    Args:
        file: a path, a URL, or `-` for stdin: its video, where there is any, and its audio.
        video: `camera[:NAME]`, `screen[:NAME]`, `test`, `none`, or as `file`; goes before the file's.
        audio: `mic[:NAME]`, `test`, `none`, or as `file`; goes before the file's.
        size: pixels, wide and high, that pictures have to fit in; the test picture's size.
        fps: pictures a second, at most.
        loop: play files over and over.

    Raises:
        UsageError: one of them is missing, busy, or cannot be read. Nothing stays open.
    """
    shape = Shape(size, fps)
    source = Source()
    asked: dict[Media, str | None] = {"video": video or file, "audio": audio or file}
    try:
        if asked["video"] == asked["audio"] and asked["video"] not in (None, "none", "test"):
            path = asked["video"]
            assert path is not None
            both: set[Media] = {"audio", "video"}
            required = video is not None and audio is not None
            await source.add(Recording(path, both, required=required, loop=loop, shape=shape))
        else:
            for kind, spec in asked.items():
                if spec not in (None, "none"):
                    await source.add(_input(kind, spec, loop=loop, shape=shape))
    except BaseException:
        await source.close()
        raise
    return source


def _input(kind: Media, spec: str, *, loop: bool, shape: Shape) -> Input:
    what, _, name = spec.partition(":")
    match kind, what:
        case "video", "test":
            return Pictures(shape)
        case "audio", "test":
            return Sine()
        case "audio", "mic" if has_portaudio():
            return Listening(name)
        case ("video", "camera" | "screen" as device) | ("audio", "mic" as device):
            return Capture(device, driver_for(device, name, shape.size, shape.fps), shape)
        case _, "camera" | "screen" | "mic":
            raise UsageError(f"{kind} cannot come from {what}", hint=DEVICES_HINT)
    return Recording(spec, {kind}, required=True, loop=loop, shape=shape)
