"""Where frames come from: each is opened, and read, by a thread of its own."""

from __future__ import annotations

import errno
import itertools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol

import av
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.error import FFmpegError

from peercli.errors import UsageError
from peercli.rtc.devices import DEVICES_HINT, Driver
from peercli.rtc.pattern import Pattern, Tone
from peercli.rtc.sound import Microphone

__all__ = [
    "Capture",
    "Clock",
    "Frame",
    "Input",
    "Listening",
    "Media",
    "Pictures",
    "Recording",
    "Shape",
    "Sine",
    "Stopped",
    "reason",
]

Media = Literal["audio", "video"]
Frame = av.AudioFrame | av.VideoFrame

RATE = 48_000  # samples/s; Opus knows no other
BLOCK = 960  # samples: 20 ms, an Opus packet
CLOCK = Fraction(1, 90_000)  # s; RTP's for video (RFC 7741, RFC 6184)
TEST_SIZE, TEST_FPS = (640, 480), 30.0
MAX_SIDE = 8192  # pixels of a picture, either way
DRIFT = 0.05  # s by which sound may be off its time before it is set right
LAG = 0.5  # s by which an input may be late before its clock is set back: a stalled download, for one
AHEAD = 2.0  # s of packets that are read to find the next of the other kind
MOST_AHEAD = 500  # packets of them, where they do not say how long they last
MOST_READY = 16  # frames that are decoded to find the next of the other kind
URL_TIMEOUT = 10.0  # s without a byte

_TURNS = {1: ["transpose=cclock"], 2: ["hflip", "vflip"], 3: ["transpose=clock"]}  # by quarters, to the left
_MAY_BE_THE_WISHES = {errno.EINVAL, errno.EIO, errno.ENOSYS}


class Stopped(Exception):
    """Nobody wants frames any more."""


class Clock:
    """The time of a source, in seconds since the first frame was asked for."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self.stopped = threading.Event()
        self._zero = 0.0

    def start(self) -> None:
        if not self._started.is_set():
            self._zero = time.monotonic()
            self._started.set()

    def stop(self) -> None:
        self.stopped.set()
        self._started.set()

    @property
    def running(self) -> bool:
        return self._started.is_set()

    def now(self) -> float:
        return time.monotonic() - self._zero if self.running else 0.0

    def wait_until(self, due: float) -> float:
        """How late it is, in seconds, once it is `due`; raises Stopped."""
        self._started.wait()
        self.stopped.wait(max(0.0, due - self.now()))
        if self.stopped.is_set():
            raise Stopped
        return self.now() - due


class Input(Protocol):
    """Something with frames in it. All is called by one thread, but `interrupt`."""

    name: str
    live: bool

    def open(self) -> set[Media]:
        """What it has; raises UsageError if it cannot be had."""

    def frames(self, clock: Clock) -> Iterator[Frame]:
        """Its frames, each when it is due, by `clock`."""

    def interrupt(self) -> None:
        """Make a read that is under way come to an end."""

    def close(self) -> None:
        """Free what it holds."""


@dataclass(frozen=True)
class Shape:
    """What pictures become: inside `size`, even on both sides, at most `fps`."""

    size: tuple[int, int] | None
    fps: float | None

    def fit(self, frame: av.VideoFrame) -> av.VideoFrame:
        width, height = frame.width, frame.height
        if self.size is not None:
            scale = min(self.size[0] / width, self.size[1] / height)
            width, height = round(width * scale), round(height * scale)
        width, height = (max(2, min(side, MAX_SIDE) & ~1) for side in (width, height))
        if (width, height, "yuv420p") == (frame.width, frame.height, frame.format.name):
            return frame
        return frame.reformat(width=width, height=height, format="yuv420p", dst_color_range="MPEG")


class _Upright:
    """Turns pictures as their display matrix says: a phone that is held upright films lying ones."""

    def __init__(self) -> None:
        self._kind: tuple[Any, ...] = ()  # of picture, that the filters were made for
        self._turned = av.filter.Graph()

    def turn(self, frame: av.VideoFrame) -> av.VideoFrame:
        filters = _TURNS.get(round(frame.rotation / 90) % 4)
        if filters is None:
            return frame
        kind = frame.width, frame.height, frame.format.name, filters
        if kind != self._kind:
            graph = self._turned = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=CLOCK
            )
            nodes = [graph.add(*each.split("=")) for each in filters]
            graph.link_nodes(source, *nodes, graph.add("buffersink")).configure()
            self._kind = kind
        self._turned.vpush(frame)
        return self._turned.vpull()


class _Thinned:
    """Leaves out pictures that come more often than `fps` times a second; None leaves out none."""

    def __init__(self, fps: float | None) -> None:
        self._interval = 1 / fps if fps is not None else 0.0
        self._due = 0.0

    def leaves_out(self, at: float) -> bool:
        """Whether the picture of this time, in seconds, is one too many."""
        if at < self._due - self._interval / 2:
            return True
        self._due = max(self._due + self._interval, at)
        return False


class _Generated:
    """What is made here needs no opening."""

    name, live = "test", False

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        pass


class Pictures(_Generated):
    """The test picture."""

    def __init__(self, shape: Shape) -> None:
        width, height = shape.size or TEST_SIZE
        self._pattern = Pattern(width & ~1, height & ~1)
        self._fps = shape.fps or TEST_FPS

    def open(self) -> set[Media]:
        return {"video"}

    def frames(self, clock: Clock) -> Iterator[Frame]:
        counter = 0
        while True:
            late = clock.wait_until(counter / self._fps)
            if late > LAG:
                counter += int(late * self._fps)
            now = time.time()
            text = time.strftime("%H:%M:%S", time.localtime(now)) + f".{int(now % 1 * 1000):03}"
            frame = self._pattern.draw(counter, int(now * 1000), text)
            frame.pts, frame.time_base = int(counter / self._fps / CLOCK), CLOCK
            yield frame
            counter += 1


class Sine(_Generated):
    """The test tone."""

    def __init__(self) -> None:
        self._tone = Tone()

    def open(self) -> set[Media]:
        return {"audio"}

    def frames(self, clock: Clock) -> Iterator[Frame]:
        samples = 0
        while True:
            clock.wait_until(samples / RATE)
            yield self._tone.play(samples, BLOCK)
            samples += BLOCK


class Listening:
    """A microphone, by PortAudio."""

    live = True

    def __init__(self, name: str) -> None:
        self.name = f"the microphone {name or '(default)'}"
        self._microphone = Microphone(name)

    def open(self) -> set[Media]:
        self._microphone.open()
        return {"audio"}

    def frames(self, clock: Clock) -> Iterator[Frame]:
        resampled = _Resampled()
        for block in self._microphone.blocks(clock.stopped):
            yield from resampled.feed(block, clock.now())

    def interrupt(self) -> None:
        pass

    def close(self) -> None:
        self._microphone.close()


class Capture:
    """A camera, a screen or a microphone, by one of FFmpeg's drivers."""

    live = True

    def __init__(self, what: str, driver: Driver, shape: Shape) -> None:
        self.name = f"the {what} {driver.target}"
        self._driver = driver
        self._shape = shape
        self._container: InputContainer | None = None

    def open(self) -> set[Media]:
        driver = self._driver
        try:
            try:
                self._container = self._try(driver.options | driver.wishes)
            except FFmpegError as error:
                if not driver.wishes or error.errno not in _MAY_BE_THE_WISHES:
                    raise
                self._container = self._try(driver.options)
        except (FFmpegError, OSError, ValueError) as error:
            raise UsageError(f"{self.name} cannot be opened: {reason(error)}", hint=DEVICES_HINT) from None
        have: set[Media] = set()
        have |= {"video"} if self._container.streams.video else set()
        return have | ({"audio"} if self._container.streams.audio else set())

    def _try(self, options: dict[str, str]) -> InputContainer:
        return av.open(self._driver.target, "r", format=self._driver.format, options=options)

    def frames(self, clock: Clock) -> Iterator[Frame]:
        assert self._container is not None
        resampled, thinned = _Resampled(), _Thinned(self._shape.fps)
        while True:
            try:
                frames: Iterator[Any] = self._container.decode()
                for frame in frames:
                    if isinstance(frame, av.AudioFrame):
                        yield from resampled.feed(frame, clock.now())
                    else:
                        now = clock.now()
                        if not clock.running or thinned.leaves_out(now):
                            continue
                        frame = self._shape.fit(frame)
                        frame.pts, frame.time_base = int(now / CLOCK), CLOCK
                        yield frame
                return
            except av.error.BlockingIOError:  # avfoundation has nothing yet
                clock.stopped.wait(0.01)

    def interrupt(self) -> None:
        pass  # devices deliver all the time, so that the thread sees soon that it is to stop

    def close(self) -> None:
        if self._container is not None:
            self._container.close()


class Recording:
    """A file, a URL, or stdin, in any container and codec that FFmpeg knows."""

    live = False

    def __init__(self, path: str, wanted: set[Media], *, required: bool, loop: bool, shape: Shape) -> None:
        self.name = "stdin" if path == "-" else path
        self._path = path
        self._wanted = wanted
        self._required = required
        self._loop = loop
        self._shape = shape
        self._pipe = _Pipe(0) if path == "-" else None
        self._container: InputContainer | None = None
        self._streams: list[Any] = []
        self._first: list[tuple[float, Frame]] = []
        self._decoded: Iterator[tuple[float, Frame]] = iter(())

    def open(self) -> set[Media]:
        try:
            if self._pipe is not None:
                self._container = av.open(self._pipe, "r")
            elif "://" in self._path:
                self._container = av.open(self._path, "r", timeout=URL_TIMEOUT)
            else:
                self._container = av.open(os.path.abspath(self._path), "r")
            streams = self._streams = self._choose()
            have: set[Media] = {stream.type for stream in streams}
            if missing := (self._wanted - have if self._required else not have and self._wanted):
                raise UsageError(f"{self.name} has no {' and no '.join(sorted(missing))} in it")
            self._decoded = self._decode(streams)
            self._first = [next(self._decoded)]
        except (FFmpegError, OSError, ValueError) as error:
            raise UsageError(f"{self.name} cannot be played: {reason(error)}") from None
        except StopIteration:
            raise UsageError(f"{self.name} cannot be played: there is nothing in it") from None
        # What has no end has no second round, nor has what cannot be wound back.
        self._loop = self._loop and self._pipe is None and bool(self._container.duration)
        return have

    def _choose(self) -> list[Any]:
        """The best of each kind that is wanted. The picture on the cover of an album is no video."""
        assert self._container is not None
        found = []
        for kind in sorted(self._wanted):
            stream: Any = self._container.streams.best(kind)
            if stream is not None and not stream.disposition & av.stream.Disposition.attached_pic:
                if kind == "video":
                    stream.thread_type = "AUTO"
                found.append(stream)
        return found

    def frames(self, clock: Clock) -> Iterator[Frame]:
        resampled, thinned, upright = _Resampled(), _Thinned(self._shape.fps), _Upright()
        slip = 0.0
        for at, decoded in self._again():
            if isinstance(decoded, av.VideoFrame):
                if thinned.leaves_out(at):
                    continue
                pieces: list[Frame] = [self._shape.fit(upright.turn(decoded))]
                pieces[0].pts, pieces[0].time_base = int(at / CLOCK), CLOCK
            else:
                pieces = [*resampled.feed(decoded, at + _length(decoded))]
            for piece in pieces:
                late = clock.wait_until(float(piece.time or 0) + slip)
                if late > LAG:
                    slip += late
                if slip and piece.pts is not None and piece.time_base is not None:
                    piece.pts += int(slip / piece.time_base)
                yield piece

    def _again(self) -> Iterator[tuple[float, Frame]]:
        """Frames with their time from the start, once, or with `loop` over and over."""
        assert self._container is not None
        zero = end = self._first[0][0]
        base = 0.0
        while True:
            for at, frame in itertools.chain(self._first, self._decoded):
                end = max(end, at + _length(frame))
                yield max(0.0, base + at - zero), frame
            if not self._loop:
                return
            base += end - zero
            self._container.seek(self._container.start_time or 0)
            for stream in self._streams:
                stream.codec_context.flush_buffers()
            self._first, self._decoded = [], self._decode(self._streams)

    def _decode(self, streams: list[Any]) -> Iterator[tuple[float, Frame]]:
        """The frames of all streams, in the order of their times: containers interleave but roughly."""
        times = dict.fromkeys((stream.index for stream in streams), 0.0)
        ready: dict[int, deque[tuple[float, Frame]]] = {index: deque() for index in times}
        for packet in self._in_order(streams):
            index = packet.stream.index
            try:
                frames = packet.decode()
            except (av.error.InvalidDataError, av.error.EOFError):
                continue  # what is damaged is left out
            for frame in frames:
                at = times[index] if frame.time is None else float(frame.time)
                times[index] = at + _length(frame)
                ready[index].append((at, frame))
            # A decoder with several threads is some frames behind its packets.
            while all(ready.values()) or len(ready[index]) > MOST_READY:
                yield _earliest(ready)
        while any(ready.values()):
            yield _earliest(ready)

    def _in_order(self, streams: list[Any]) -> Iterator[Any]:
        """The packets of all streams, the earliest first, as far as AHEAD and MOST_AHEAD let it be seen."""
        assert self._container is not None
        waiting: dict[int, deque[Any]] = {stream.index: deque() for stream in streams}
        last = dict.fromkeys(waiting, float("-inf"))

        def first(index: int) -> float:
            packet = waiting[index][0]
            moment = packet.dts if packet.dts is not None else packet.pts
            if moment is not None and packet.time_base is not None:
                last[index] = float(moment * packet.time_base)
            return last[index]  # a packet without a time, as the flushing one, follows its predecessor

        for packet in self._container.demux(*streams):
            waiting[packet.stream.index].append(packet)
            while True:
                filled = [index for index in waiting if waiting[index]]
                if not filled:
                    break
                known = len(waiting[filled[0]])
                length = sum((p.duration or 0) * float(p.time_base or 0) for p in waiting[filled[0]])
                if len(filled) < len(waiting) and length < AHEAD and known < MOST_AHEAD:
                    break
                yield waiting[min(filled, key=first)].popleft()
        while filled := [index for index in waiting if waiting[index]]:
            yield waiting[min(filled, key=first)].popleft()

    def interrupt(self) -> None:
        if self._pipe is not None:
            self._pipe.interrupt()

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
        if self._pipe is not None:
            self._pipe.close()


class _Pipe:
    """A descriptor as PyAV reads it; `interrupt` is the end of it, from any thread."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._wake = os.pipe()

    def read(self, size: int) -> bytes:
        ready, _, _ = select.select([self._fd, self._wake[0]], [], [])
        return os.read(self._fd, size) if self._wake[0] not in ready else b""

    def interrupt(self) -> None:
        with suppress(OSError):
            os.write(self._wake[1], b"\0")

    def close(self) -> None:
        for fd in self._wake:
            os.close(fd)


class _Resampled:
    """Sound as Opus takes it: 48 kHz, 16 bits, stereo, 20 ms at once, without gaps between the blocks.

    Times of blocks jitter by the rounding of a container, or by whatever else a device's computer does; one
    follows the other here unless they are off by more than DRIFT.
    """

    def __init__(self) -> None:
        self._resampler: AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None
        self._waiting = 0  # samples that do not fill a block yet
        self._next = 0

    def feed(self, frame: av.AudioFrame, end: float) -> Iterator[av.AudioFrame]:
        """The blocks that are full now that there is `frame`, whose last sample is at `end` seconds."""
        format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or format != self._format:  # it may change in the middle of a stream
            self._resampler, self._format = AudioResampler("s16", "stereo", RATE, frame_size=BLOCK), format
            self._waiting = 0
        self._waiting += round(frame.samples * RATE / frame.sample_rate)
        frame.pts = None
        for block in self._resampler.resample(frame):
            start = max(0, int(end * RATE) - self._waiting)
            if abs(start - self._next) > DRIFT * RATE:
                self._next = start
            block.pts, block.time_base = self._next, Fraction(1, RATE)
            self._next += block.samples
            self._waiting -= block.samples
            yield block


def _earliest(ready: dict[int, deque[tuple[float, Frame]]]) -> tuple[float, Frame]:
    return min((frames for frames in ready.values() if frames), key=lambda frames: frames[0][0]).popleft()


def _length(frame: Frame) -> float:
    """Seconds."""
    if isinstance(frame, av.AudioFrame):
        return frame.samples / frame.sample_rate
    if frame.duration and frame.time_base:
        return float(frame.duration * frame.time_base)
    return 1 / TEST_FPS


def reason(error: Exception) -> str:
    """What FFmpeg has against it, in words."""
    if isinstance(error, av.error.InvalidDataError):
        return "this is neither audio nor video that can be read"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].lower() + text[1:]
