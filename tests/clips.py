"""Clips to send in calls, and what can be told of their recordings.

The pictures are the test picture, whose mark numbers them; `flash` has one that goes white for a moment, once
a second, while it beeps.
"""

from __future__ import annotations

import array
import cmath
import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av

from peercli.rtc.pattern import Mark, Pattern, Tone, read_mark

__all__ = [
    "Heard",
    "Recording",
    "loudness",
    "make_clip",
    "make_flashes",
    "make_tone",
    "similarity",
    "usual_loudness",
]

RATE = 48_000  # samples/s
BLOCK = 960  # samples
FLASH = 0.1  # s of each second
BEEP_PITCH = 1000  # Hz


def make_clip(
    path: Path,
    *,
    seconds: float,
    size: tuple[int, int] = (320, 240),
    fps: int = 30,
    video: bool = True,
    audio: bool = True,
    times: list[float] | None = None,
) -> Path:
    """The test picture and tone in a file, coded well.

    Args:
        times: seconds at which pictures are shown, where that is not `fps` times a second.
    """
    pattern, tone = Pattern(size[0] & ~1, size[1] & ~1), Tone()
    moments = times or [number / fps for number in range(round(seconds * fps))]
    pictures = (
        (at, pattern.draw(number, number, "00:00:00.000").reformat(width=size[0], height=size[1]))
        for number, at in enumerate(moments if video else [])
    )
    blocks = (tone.play(start, BLOCK) for start in range(0, round(seconds * RATE) if audio else 0, BLOCK))
    return _write(path, pictures if video else None, blocks if audio else None, size)


def make_flashes(path: Path, seconds: int, *, size: tuple[int, int] = (160, 120), fps: int = 30) -> Path:
    """A grey picture that is white for FLASH seconds at each full second, with a beep meanwhile."""
    dark, white = (_plain(size, luma) for luma in (60, 235))
    wave = array.array(
        "h",
        (
            round(16000 * math.sin(2 * math.pi * BEEP_PITCH * sample / RATE))
            for sample in range(BLOCK)
            for _ in range(2)
        ),
    ).tobytes()

    def blocks() -> Iterator[av.AudioFrame]:
        for start in range(0, seconds * RATE, BLOCK):
            frame = av.AudioFrame("s16", "stereo", BLOCK)
            frame.planes[0].update(wave if start % RATE < FLASH * RATE else bytes(len(wave)))
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), start
            yield frame

    pictures = (
        (number / fps, white if number % fps < FLASH * fps else dark) for number in range(seconds * fps)
    )
    return _write(path, pictures, blocks(), size)


def make_tone(path: Path, pitch: float, seconds: float, amplitude: float = 0.25) -> Path:
    """One tone in a WAV file, in stereo."""
    level, turn = amplitude * 32767, 2 * math.pi * pitch / RATE
    waves = (round(level * math.sin(turn * sample)) for sample in range(round(seconds * RATE)))
    samples = array.array("h", (value for value in waves for _ in range(2)))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return path


def _plain(size: tuple[int, int], luma: int) -> av.VideoFrame:
    frame = av.VideoFrame(*size, "yuv420p")
    for plane, value in zip(frame.planes, (luma, 128, 128), strict=True):
        plane.update(bytes([value]) * plane.buffer_size)
    return frame


def _write(
    path: Path,
    pictures: Iterator[tuple[float, av.VideoFrame]] | None,
    blocks: Iterator[av.AudioFrame] | None,
    size: tuple[int, int],
) -> Path:
    with av.open(str(path), "w") as container:
        picture_stream: Any = None
        if pictures is not None:
            odd = bool(size[0] % 2 or size[1] % 2)
            codec = "ffv1" if odd else "libx264"
            options = {} if odd else {"crf": "12", "preset": "ultrafast", "g": "30", "bf": "0"}
            picture_stream = container.add_stream(codec, rate=30, options=options)
            picture_stream.width, picture_stream.height = size
            picture_stream.pix_fmt = "yuv444p" if odd else "yuv420p"
            picture_stream.codec_context.time_base = Fraction(1, 90_000)
        sound_stream: Any = container.add_stream("libopus", rate=RATE, layout="stereo") if blocks else None
        due = -1.0
        for at, frame in pictures or ():
            while blocks is not None and due <= at and (block := next(blocks, None)) is not None:
                due = float(block.time or 0)
                container.mux(sound_stream.encode(block))
            frame.pts, frame.time_base = round(at * 90_000), Fraction(1, 90_000)
            container.mux(picture_stream.encode(frame))
        for block in blocks or ():
            container.mux(sound_stream.encode(block))
        for stream in (picture_stream, sound_stream):
            if stream is not None:
                container.mux(stream.encode(None))
    return path


@dataclass
class Recording:
    """All that is in a file, decoded.

    Attributes:
        pictures: each with its time in seconds.
        samples: of the left channel, -1 to 1, from `begins` on.
    """

    codecs: dict[str, str] = field(default_factory=dict)
    pictures: list[tuple[float, av.VideoFrame]] = field(default_factory=list)
    samples: array.array[int] = field(default_factory=lambda: array.array("h"))
    begins: float = 0.0

    @classmethod
    def read(cls, path: Path, *, keep: bool = True) -> Recording:
        """Decode a file, as far as it goes.

        Args:
            keep: the pictures, too, and not only their times and tables.
        """
        recording = cls()
        resampler = av.AudioResampler("s16", "mono", RATE)
        with av.open(str(path)) as container:
            streams = [*container.streams.video[:1], *container.streams.audio[:1]]
            recording.codecs = {stream.type: stream.codec_context.name for stream in streams}
            for packet in container.demux(*streams):
                try:
                    frames: Any = packet.decode()
                except av.error.InvalidDataError:
                    continue  # the end of a file whose writer was killed
                for frame in frames:
                    if isinstance(frame, av.VideoFrame):
                        small = frame if keep else frame.reformat(width=80, height=60, format="yuv420p")
                        recording.pictures.append((float(frame.time), small))
                    else:
                        recording._hear(frame, resampler)
        return recording

    def _hear(self, frame: Any, resampler: av.AudioResampler) -> None:
        if not self.samples:
            self.begins = float(frame.time or 0)
        expected = round((float(frame.time or 0) - self.begins) * RATE)
        if expected - len(self.samples) > RATE // 100:
            self.samples.extend([0] * (expected - len(self.samples)))
        for piece in resampler.resample(frame):
            self.samples.frombytes(bytes(piece.planes[0])[: piece.samples * 2])

    @property
    def marks(self) -> list[Mark | None]:
        """What each picture says of itself."""
        return [read_mark(frame) for _, frame in self.pictures]

    def beeps_and_flashes(self) -> list[tuple[float, float]]:
        """When each flash begins, and the beep beside it, in seconds."""
        flashes, dark = [], True
        for at, frame in self.pictures:
            luma = frame.planes[0]
            bright = bytes(luma)[luma.line_size * (frame.height // 2) + frame.width // 2] > 150
            if bright and dark:
                flashes.append(at)
            dark = not bright
        beeps, quiet, step = [], True, RATE // 200
        for start in range(0, len(self.samples) - step, step):
            loud = max(self.samples[start : start + step]) > 4000
            if loud and quiet:
                beeps.append(self.begins + start / RATE)
            quiet = not loud
        return [
            (flash, beep)
            for flash in flashes
            if (beep := min(beeps, key=lambda one: abs(one - flash), default=None)) is not None
            and abs(beep - flash) < 0.5
        ]


@dataclass(frozen=True)
class Heard:
    """A pure sound: its pitch in Hz, and its amplitude, of full scale."""

    pitch: float
    amplitude: float


def loudness(samples: array.array[int], pitch: float) -> float:
    """The amplitude, of full scale, of one pitch in Hz (a bin of a Fourier transform)."""
    turn = cmath.exp(-2j * math.pi * pitch / RATE)
    total, phase = 0j, 1 + 0j
    for sample in samples:
        total += sample * phase
        phase *= turn
    return 2 * abs(total) / len(samples) / 32768


def usual_loudness(samples: array.array[int], pitch: float) -> float:
    """The median over tenths of a second: a busy machine may have cut a little sound out."""
    step = RATE // 10
    return median(loudness(samples[at : at + step], pitch) for at in range(0, len(samples) - step + 1, step))


def similarity(ours: list[av.VideoFrame], theirs: list[av.VideoFrame]) -> list[float]:
    """The structural similarity (SSIM) of pictures, pair by pair, by FFmpeg's filter."""
    graph = av.filter.Graph()
    width, height = ours[0].width, ours[0].height
    format = av.VideoFormat("yuv420p", width, height)
    buffers = [
        graph.add_buffer(width=width, height=height, format=format, time_base=Fraction(1, 30))
        for _ in range(2)
    ]
    ssim, sink = graph.add("ssim"), graph.add("buffersink")
    for index, buffer in enumerate(buffers):
        buffer.link_to(ssim, 0, index)
    ssim.link_to(sink)
    graph.configure()
    found = []
    for number, pair in enumerate(zip(ours, theirs, strict=True)):
        for buffer, frame in zip(buffers, pair, strict=True):
            copy = frame.reformat(width=width, height=height, format="yuv420p")
            copy.pts, copy.time_base = number, Fraction(1, 30)
            buffer.push(copy)
        compared = sink.pull()
        found.append(float(compared.metadata["lavfi.ssim.All"]))
    return found
