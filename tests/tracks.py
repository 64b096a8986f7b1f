"""Made-up sound and picture for calls, in real time, and what can be told of what comes out."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from peercli import MediaStream

__all__ = [
    "GREEN",
    "TONE",
    "YELLOW",
    "Colour",
    "Moving",
    "Stamped",
    "Tone",
    "TwoColours",
    "age",
    "colours",
    "level",
    "near",
    "stream",
]

Colour = tuple[int, int, int]

GREEN, YELLOW = (0, 200, 0), (230, 230, 0)
TONE = 440  # Hz
STAMP_BITS, BLOCK = 18, 16  # of milliseconds, each a square of so many pixels


class _Paced(MediaStreamTrack):
    """What comes out of a chain of FFmpeg's filters, when its time has come."""

    def __init__(self, *chain: tuple[str, str]) -> None:
        super().__init__()
        self._graph = av.filter.Graph()
        self._graph.link_nodes(*(self._graph.add(*each) for each in chain)).configure()
        self._start: float | None = None
        self._given = 0

    async def recv(self) -> Any:
        """The next frame, in time; one that is late comes at once."""
        if self.readyState != "live":
            raise MediaStreamError
        frame: Any = self._graph.pull()
        now = asyncio.get_running_loop().time()
        if self._start is None:
            self._start = now
        await asyncio.sleep(self._start + float(frame.pts * frame.time_base) - now)
        self._given += 1
        return frame

    @property
    def rate(self) -> float:
        """Frames a second, so far."""
        if self._start is None:
            return 0.0
        return self._given / (asyncio.get_running_loop().time() - self._start)


class Moving(_Paced):
    """A picture in which much changes."""

    kind = "video"

    def __init__(self, width: int = 640, height: int = 480, rate: int = 30) -> None:
        source = ("testsrc2", f"size={width}x{height}:rate={rate}")
        super().__init__(source, ("format", "yuv420p"), ("buffersink", ""))


class Stamped(Moving):
    """The same, with the time in the picture: `age` reads it, on the same machine."""

    async def recv(self) -> Any:
        frame = await super().recv()
        luma, width = memoryview(frame.planes[0]), frame.planes[0].line_size
        now = _milliseconds()
        for bit in range(STAMP_BITS):
            block = (b"\xeb" if now >> bit & 1 else b"\x10") * BLOCK
            for row in range(BLOCK):
                start = row * width + bit * BLOCK
                luma[start : start + BLOCK] = block
        return frame


def age(frame: Any, width: int) -> float:
    """Seconds since a frame left `Stamped`, which had that width; it may have come in another."""
    luma, block = bytes(frame.planes[0]), BLOCK * frame.width // width
    middle = block // 2 * frame.planes[0].line_size + block // 2
    stamp: int = sum((luma[middle + bit * block] > 128) << bit for bit in range(STAMP_BITS))
    return (_milliseconds() - stamp) % (1 << STAMP_BITS) / 1000


def _milliseconds() -> int:
    return int(time.monotonic() * 1000) % (1 << STAMP_BITS)


class TwoColours(_Paced):
    """A picture that is green on the left and yellow on the right."""

    kind = "video"

    def __init__(self) -> None:
        green, yellow = (f"0x{bytes(colour).hex()}" for colour in (GREEN, YELLOW))
        super().__init__(
            ("color", f"color={green}:size=320x240:rate=20"),
            ("drawbox", f"x=160:w=160:h=240:color={yellow}:t=fill"),
            ("format", "yuv420p"),
            ("buffersink", ""),
        )


class Tone(_Paced):
    """A tone, in stereo."""

    kind = "audio"

    def __init__(self, frequency: int = TONE) -> None:
        source = ("sine", f"frequency={frequency}:sample_rate=48000:samples_per_frame=960")
        form = ("aformat", "sample_fmts=s16:channel_layouts=stereo")
        super().__init__(source, form, ("abuffersink", ""))


def stream() -> MediaStream:
    """A tone and two colours."""
    return MediaStream(Tone(), TwoColours())


def colours(frame: Any) -> tuple[Colour, Colour]:
    """The colours in the middle of the left and the right half of a picture."""
    rgb = frame.reformat(format="rgb24")
    row = rgb.height // 2 * rgb.planes[0].line_size
    data = bytes(rgb.planes[0])
    left, right = (tuple(data[row + x * 3 : row + x * 3 + 3]) for x in (rgb.width // 4, rgb.width * 3 // 4))
    return left, right  # type: ignore[return-value]


def near(one: Any, other: Any) -> bool:
    """Whether colours are the same, but for what codecs do to them."""
    return all(abs(a - b) < 60 for a, b in zip(one, other, strict=True))


def level(frame: Any) -> float:
    """How loud a frame of 16-bit samples is, 1 being the loudest: the root mean square."""
    samples = memoryview(bytes(frame.planes[0])).cast("h")
    return math.sqrt(sum(sample * sample for sample in samples) / len(samples)) / 32_768
