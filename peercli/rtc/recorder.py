"""Writes a call into a file or a pipe.

Sound and pictures come on clocks of their own. What they have in common is told by the far side's sender
reports (RFC 3550 §6.4.1), which come some time after the first frames: until then what is encoded is held
back, so that a recording is in step from its first second on. Without reports, it goes by the times at which
frames came.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import av
from av.audio.resampler import AudioResampler
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet

from peercli.errors import StorageFailed, UsageError
from peercli.rtc.inputs import Frame, Media, reason
from peercli.rtc.mixer import RATE, SAMPLE, Mixer

__all__ = ["STDOUT", "Recorder", "check_recording"]

CLOCK = Fraction(1, 90_000)  # s
HOLD = 3.0  # s that is waited for sender reports
HOLD_KIND = 10.0  # s that is waited for the first frame of the other kind
AUDIO_LEAD = 0.06  # s that aiortc holds sound back against jitter, and pictures not
GAP = 0.06  # s by which sound may be off before silence fills it, or it is cut
MAX_AHEAD = 60.0  # s that sound may be ahead of our clock; more is a broken one, which would fill the disk
MAX_WAITING = 90  # frames that wait to be encoded; on a machine too slow for it, pictures are left out
STDOUT = "-"


@dataclass(frozen=True)
class _Format:
    """A container, and what goes into it; `video` is None where it takes none."""

    name: str
    audio: str
    video: str | None = None
    options: dict[str, str] = field(default_factory=dict)


# Can be read while it grows, and is made a plain file in the end, where FFmpeg can do that (7.1).
_HYBRID = av.library_versions["libavformat"] >= (61, 7, 0)
_MP4 = {
    "movflags": "+hybrid_fragmented" if _HYBRID else "+frag_keyframe+empty_moov+default_base_moof",
    "frag_duration": "1000000",
}
_MATROSKA = {"cluster_time_limit": "1000"}
_FORMATS = {
    ".mp4": _Format("mp4", "aac", "libx264", _MP4),
    ".mov": _Format("mov", "aac", "libx264", _MP4),
    ".m4a": _Format("mp4", "aac", None, _MP4),
    ".mkv": _Format("matroska", "libopus", "libx264", _MATROSKA),
    ".webm": _Format("webm", "libopus", "libvpx", _MATROSKA),
    ".ts": _Format("mpegts", "aac", "libx264"),
    ".wav": _Format("wav", "pcm_s16le"),
    ".flac": _Format("flac", "flac"),
    ".ogg": _Format("ogg", "libopus"),
    ".opus": _Format("ogg", "libopus"),
    ".mp3": _Format("mp3", "libmp3lame"),
    STDOUT: _Format("matroska", "libopus", "libx264", _MATROSKA | {"live": "1"}),
}
_CODEC_OPTIONS = {
    "libx264": {"preset": "superfast", "crf": "20", "bf": "0", "g": "60"},
    "libvpx": {"deadline": "realtime", "cpu-used": "6", "crf": "10", "g": "60"},
}
_VPX_BITS = 0.15  # of a pixel, at most


def check_recording(path: str) -> None:
    """See whether a recording could be made, before there is anything to record.

    Raises:
        UsageError: the ending tells no container, the file cannot be written, or stdout is a terminal.
    """
    _format_of(path)
    if path == STDOUT:
        if os.isatty(1):
            raise UsageError(
                "a recording is not for a terminal", hint="write --record - | ffplay -, or > FILE"
            )
        return
    try:
        if os.path.exists(path):
            os.close(os.open(path, os.O_WRONLY))
        else:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            os.unlink(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {reason(error)}") from None


class Recorder:
    """A recording to `path`, or to stdout for `-`; the ending of the name tells the container.

    Args:
        expected: what the far side sends.
        with_own: our own sound comes, too, to be mixed with the far side's.

    Raises:
        UsageError: the ending tells no container, or the file cannot be written.
    """

    def __init__(self, path: str, expected: set[str], *, with_own: bool = False) -> None:
        format = self._format = _format_of(path)
        self.path = path
        self._name = "stdout" if path == STDOUT else path
        self.frames = 0
        """Pictures that were recorded."""
        self.left_out = 0
        """Pictures that there was no time for."""
        expected = expected | {"audio"} if with_own else expected
        self._expected = expected if format.video else expected & {"audio"}
        self._with_own = with_own
        try:
            self._stdout = _Stdout()
            self._container: OutputContainer = av.open(
                self._stdout if path == STDOUT else os.path.abspath(path),
                "w",
                format=format.name,
                options=format.options | {"flush_packets": "1"},
            )
        except (FFmpegError, OSError) as error:
            raise UsageError(f"{path} cannot be written: {reason(error)}") from None
        self._tracks: dict[Media, _Encoded] = {}
        self._held: list[tuple[Media, Packet[Any]]] = []
        self._began: float | None = None
        self._flowing = False
        self._queue: queue.SimpleQueue[_Taken | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._done = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def take(self, frame: Frame, offset: float | None) -> None:
        """Record a frame of the far side's.

        Args:
            offset: seconds from the frame's own time to the far side's clock, once it is known.
        """
        if isinstance(frame, av.VideoFrame) and self._queue.qsize() > MAX_WAITING:
            self.left_out += 1
            return
        self._queue.put(_Taken(frame, time.monotonic(), offset))

    def take_own(self, frame: Frame) -> None:
        """Record a frame of our own sound."""
        self._queue.put(_Taken(frame, time.monotonic(), None, own=True))

    async def broken(self) -> None:
        """Wait until no more can be written; raises StorageFailed or BrokenPipeError."""
        await asyncio.shield(self._failed)

    async def close(self) -> bool:
        """Finish the recording; False if there is nothing in it, and no file then.

        Raises:
            StorageFailed, BrokenPipeError: it is not whole.
        """
        self._queue.put(None)
        await self._done.wait()
        self._thread.join()
        if self._failed.done():
            self._failed.result()
        if not self._flowing and self.path != STDOUT:
            with suppress(OSError):
                os.unlink(self.path)
        return self._flowing

    # The thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self._write()
        except Exception as failure:  # noqa: BLE001  whoever waits for the end must not wait for ever
            why = self._stdout.failure or failure
            if isinstance(why, BrokenPipeError):
                error = BrokenPipeError("nobody reads its stdout any more")
            else:
                error = StorageFailed(f"{self._name} cannot be written: {reason(why)}")
        with suppress(RuntimeError):  # the loop may be closed under a thread that was left behind
            self._loop.call_soon_threadsafe(self._end, error)

    def _end(self, error: Exception | None) -> None:
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)
            self._failed.exception()  # whoever waits for it is told; nobody has to
        self._done.set()

    def _write(self) -> None:
        try:
            while (item := self._queue.get()) is not None:
                self._encode(item)
                self._flow_if_ready()
            for kind, track in self._tracks.items():
                self._mux(kind, track.flush())
            self._flow()
        finally:
            self._container.close()

    def _encode(self, item: _Taken) -> None:
        kind: Media = "audio" if isinstance(item.frame, av.AudioFrame) else "video"
        if kind not in self._expected:
            return
        if self._began is None:
            self._began = item.arrived
        if kind not in self._tracks:
            if self._flowing:  # the header is written: it came too late
                self._expected -= {kind}
                return
            self._tracks[kind] = self._add(item.frame)
        self.frames += kind == "video"
        self._mux(kind, self._tracks[kind].take(item))

    def _add(self, frame: Frame) -> _Encoded:
        if isinstance(frame, av.AudioFrame):
            sound = _Conversation if self._with_own else _Sound
            return sound(self._container.add_stream(self._format.audio, rate=RATE, layout="stereo"))
        assert self._format.video is not None
        options = dict(_CODEC_OPTIONS[self._format.video])
        stream: Any = self._container.add_stream(self._format.video, rate=30, options=options)
        stream.width, stream.height = (max(side & ~1, 2) for side in (frame.width, frame.height))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = CLOCK
        if self._format.video == "libvpx":
            stream.bit_rate = int(frame.width * frame.height * 30 * _VPX_BITS)
        return _Pictures(stream)

    def _mux(self, kind: Media, packets: list[Packet[Any]]) -> None:
        if not self._flowing:
            self._held += [(kind, packet) for packet in packets]
            return
        track = self._tracks[kind]
        for packet in packets:
            shift = int(track.shift / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
            self._container.mux_one(packet)

    def _flow_if_ready(self) -> None:
        if self._flowing or self._began is None:
            return
        waited = time.monotonic() - self._began
        complete = self._tracks.keys() == self._expected
        known = all(track.offset is not None for track in self._tracks.values())
        if waited >= HOLD_KIND or (complete and (known or len(self._expected) == 1 or waited >= HOLD)):
            self._flow()

    def _flow(self) -> None:
        """Write what was held back: from now on it is known which time is which."""
        if self._flowing or not self._tracks:
            return
        known = all(track.offset is not None for track in self._tracks.values())
        for track in self._tracks.values():
            track.shift = track.first + (track.offset or 0.0 if known else track.arrival)
        zero = min(track.shift for track in self._tracks.values())
        for track in self._tracks.values():
            track.shift -= zero
        self._flowing = True
        held, self._held = self._held, []
        for kind, packet in sorted(held, key=lambda one: self._tracks[one[0]].shift + _moment(one[1])):
            self._mux(kind, [packet])


class _Taken(NamedTuple):
    """A frame, and when it arrived, by our clock; the rest as `Recorder.take` has it."""

    frame: Any
    arrived: float
    offset: float | None
    own: bool = False


class _Encoded:
    """One stream of a recording. Its packets begin at 0.

    Attributes:
        first: seconds, on the track's clock, at which it begins.
        offset: seconds from the track's clock to the far side's.
        arrival: the same to ours, by the frame that was under way the shortest.
        shift: seconds from its packets' times to the recording's.
    """

    lead = 0.0

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.first = 0.0
        self.offset: float | None = None
        self.arrival = float("inf")
        self.shift = 0.0

    def take(self, item: _Taken) -> list[Packet[Any]]:
        self.offset = item.offset if item.offset is not None else self.offset
        self.arrival = min(self.arrival, item.arrived - float(item.frame.time or 0) - self.lead)
        return self.encode(item)

    def encode(self, item: _Taken) -> list[Packet[Any]]:
        raise NotImplementedError

    def flush(self) -> list[Packet[Any]]:
        packets: list[Packet[Any]] = self._stream.encode(None)
        return packets


class _Pictures(_Encoded):
    """All of the size of the first one."""

    _last: int | None = None

    def encode(self, item: _Taken) -> list[Packet[Any]]:
        frame = item.frame
        if self._last is None:
            self.first = float(frame.time)
        moment = round((float(frame.time) - self.first) / CLOCK)
        if self._last is not None and moment <= self._last:
            return []
        self._last = moment
        if (frame.width, frame.height) != (self._stream.width, self._stream.height):
            frame = frame.reformat(width=self._stream.width, height=self._stream.height, format="yuv420p")
        frame.pts, frame.time_base, frame.pict_type = moment, CLOCK, 0
        packets: list[Packet[Any]] = self._stream.encode(frame)
        return packets


class _Sound(_Encoded):
    """Without gaps: what was lost is silence."""

    lead = AUDIO_LEAD

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._to_pcm = _ToPcm()
        self._samples: int | None = None
        self._began = 0.0  # by our clock

    def encode(self, item: _Taken) -> list[Packet[Any]]:
        at = float(item.frame.time)
        if self._samples is None:
            self.first, self._samples, self._began = at, 0, item.arrived
        gap = at - self.first - self._samples / RATE
        if gap < -GAP or at - self.first > item.arrived - self._began + MAX_AHEAD:
            return []
        packets: list[Packet[Any]] = []
        silence = round(gap * RATE) if gap > GAP else 0
        for start in range(0, silence, RATE):
            packets += self._encode(bytes(min(RATE, silence - start) * SAMPLE))
        return packets + self._encode(self._to_pcm(item.frame))

    def _encode(self, pcm: bytes) -> list[Packet[Any]]:
        packets: list[Packet[Any]] = []
        for start in range(0, len(pcm), RATE * SAMPLE):
            piece = pcm[start : start + RATE * SAMPLE]
            frame = av.AudioFrame("s16", "stereo", len(piece) // SAMPLE)
            frame.planes[0].update(piece)
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), self._samples
            self._samples = (self._samples or 0) + frame.samples
            packets += self._stream.encode(frame)
        return packets


class _Conversation(_Sound):
    """The far side's sound and ours, by our clock."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.arrival, self._samples = -self.lead, 0
        self._mixer = Mixer()
        self._own_to_pcm = _ToPcm()

    def take(self, item: _Taken) -> list[Packet[Any]]:
        at = float(item.frame.time or 0)
        side, to_pcm = ("own", self._own_to_pcm) if item.own else ("far", self._to_pcm)
        placed = self._mixer.add(side, to_pcm(item.frame), at, item.arrived)
        self.first = self._mixer.begins or 0.0
        if item.offset is not None and placed is not None:
            self.offset = item.offset + at - placed
        return self._encode(self._mixer.take(item.arrived))

    def flush(self) -> list[Packet[Any]]:
        return self._encode(self._mixer.rest()) + super().flush()


class _ToPcm:
    """Makes sound of any form 48 kHz, 16 bits, stereo."""

    def __init__(self) -> None:
        self._resampler: AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None

    def __call__(self, frame: av.AudioFrame) -> bytes:
        format = (frame.format.name, frame.layout.name, frame.sample_rate)
        pieces = [frame]
        if format != ("s16", "stereo", RATE):
            if format != self._format or self._resampler is None:
                self._format, self._resampler = format, AudioResampler("s16", "stereo", RATE)
            pieces = self._resampler.resample(frame)
        return b"".join(bytes(piece.planes[0])[: piece.samples * SAMPLE] for piece in pieces)


class _Stdout:
    """Stdout, as PyAV writes it: there is no way back in it. FFmpeg forgets why it failed."""

    failure: OSError | None = None

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(1, view) :]
        except OSError as error:
            self.failure = error
            raise
        return len(data)


def _format_of(path: str) -> _Format:
    ending = STDOUT if path == STDOUT else os.path.splitext(path)[1].lower()
    if ending not in _FORMATS:
        known = " ".join(name for name in _FORMATS if name != STDOUT)
        raise UsageError(f"the ending of {path} tells no container", hint=f"write one of {known}")
    return _FORMATS[ending]


def _moment(packet: Packet[Any]) -> float:
    return float((packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base)
