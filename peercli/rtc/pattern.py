"""The test picture and tone: something to look at, and a clock that programs read out of it.

The top of the picture is a table of 20 × 3 square cells, white for 1 and black for 0, row by row, the most
significant bit first: 20 bits that count frames, 32 bits of a clock in milliseconds, and 8 bits that check
them. A cell is 1/20 of the width, so that every scaled copy can be read as well. Whoever has the same clock
knows from a frame alone which one it is, and how long it was under way.
"""

from __future__ import annotations

import math
import struct
import time
from fractions import Fraction
from typing import NamedTuple

from av import AudioFrame, VideoFrame

__all__ = ["TONE_AMPLITUDE", "TONE_PITCH", "Mark", "Pattern", "Tone", "Witness", "read_mark"]

COLUMNS, ROWS = 20, 3
COUNTER_BITS, CLOCK_BITS, CHECK_BITS = 20, 32, 8
BLACK, GREY, WHITE = 16, 126, 235  # luma, as television has it
SPEED = 2  # pixels a frame by which the background moves
BARS = ((128, 128), (16, 146), (166, 16), (54, 34), (202, 222), (90, 240), (240, 110), (128, 128))  # Cb, Cr

TONE_PITCH = 440  # Hz
TONE_AMPLITUDE = 0.25  # of full scale: -12 dBFS
_RATE = 48_000  # samples/s
_PERIOD = 1200  # samples in which eleven waves fit

_GLYPHS = {  # five rows of three bits
    "0": "75557",
    "1": "26227",
    "2": "71747",
    "3": "71717",
    "4": "55711",
    "5": "74717",
    "6": "74757",
    "7": "71111",
    "8": "75757",
    "9": "75717",
    ":": "02020",
    ".": "00002",
    " ": "00000",
}


class Mark(NamedTuple):
    """What a frame says of itself: its number, and the clock when it was made; both wrap around."""

    counter: int
    milliseconds: int


def _check(value: int) -> int:
    """Eight bits that are right by chance once in 256 times, and never for a table of one colour."""
    return (sum(byte * (index + 3) for index, byte in enumerate(value.to_bytes(7, "big"))) + 0x5A) & 0xFF


class Pattern:
    """Draws frames of one size, in pixels; both sides are even and at least 40."""

    def __init__(self, width: int, height: int) -> None:
        self._size = width, height
        ramp = bytes(BLACK + 48 + abs(128 - x * 256 // width % 256) for x in range(width))
        self._ramp = ramp * 2
        self._chroma = [
            b"".join(bytes([bar[plane]]) * (width // 2 // len(BARS) + 1) for bar in BARS)[: width // 2]
            for plane in (0, 1)
        ]

    def draw(self, counter: int, milliseconds: int, clock: str) -> VideoFrame:
        """The frame number `counter`, made at `milliseconds`; `clock` is for people: digits, `:` and `.`."""
        width, height = self._size
        frame = VideoFrame(width, height, "yuv420p")
        luma = frame.planes[0]
        padding = bytes(luma.line_size - width)
        rows = self._table(counter, milliseconds)
        rows += self._digits(clock)
        grey = min(len(rows), height) // 2
        shift = counter * SPEED % width
        background = self._ramp[shift : shift + width]
        box = max(4, width // 10)
        left = abs((counter * 4) % (2 * (width - box)) - (width - box))
        with_box = background[:left] + bytes([WHITE]) * box + background[left + box :]
        top = min(len(rows) + box // 2, height)
        rows += [background] * (top - len(rows)) + [with_box] * box
        rows = (rows + [background] * height)[:height]
        luma.update(b"".join(row + padding for row in rows))
        for plane, row in zip(frame.planes[1:], self._chroma, strict=True):
            padding = bytes(plane.line_size - width // 2)
            plane.update(
                (bytes([128]) * (width // 2) + padding) * grey + (row + padding) * (height // 2 - grey)
            )
        return frame

    def _table(self, counter: int, milliseconds: int) -> list[bytes]:
        value = (counter % (1 << COUNTER_BITS)) << CLOCK_BITS | milliseconds % (1 << CLOCK_BITS)
        bits = f"{value << CHECK_BITS | _check(value):0{COLUMNS * ROWS}b}"
        edges = [column * self._size[0] // COLUMNS for column in range(COLUMNS + 1)]
        rows = []
        for start in range(0, COLUMNS * ROWS, COLUMNS):
            row = b"".join(
                bytes([WHITE if bits[start + column] == "1" else BLACK]) * (edges[column + 1] - edges[column])
                for column in range(COLUMNS)
            )
            rows += [row] * (self._size[0] // COLUMNS)
        return rows

    def _digits(self, text: str) -> list[bytes]:
        width = self._size[0]
        dot = max(1, width // (4 * len(text) + 2))
        rows = [bytes([BLACK]) * width] * dot
        for line in range(5):
            bits = "".join(f"0{int(_GLYPHS[letter][line]):03b}" for letter in text)
            row = b"".join(bytes([WHITE if bit == "1" else BLACK]) * dot for bit in bits)[:width]
            rows += [row + bytes([BLACK]) * (width - len(row))] * dot
        return rows + [bytes([BLACK]) * width] * dot


def read_mark(frame: VideoFrame) -> Mark | None:
    """The mark in a frame of any size and format, or None where there is none to be read."""
    if frame.format.name not in ("yuv420p", "yuvj420p", "gray"):
        frame = frame.reformat(format="yuv420p")
    luma = frame.planes[0]
    pixels = memoryview(luma)
    cell = frame.width / COLUMNS
    if cell < 2 or frame.height < ROWS * cell:
        return None
    value = 0
    for row in range(ROWS):
        for column in range(COLUMNS):
            brightness = []
            for part in (0.35, 0.5, 0.65):  # the edges of a cell suffer when pictures are compressed
                line = int((row + part) * cell) * luma.line_size
                brightness += [pixels[line + int((column + across) * cell)] for across in (0.35, 0.5, 0.65)]
            value = value << 1 | (sum(brightness) > GREY * len(brightness))
    value, check = value >> CHECK_BITS, value & ((1 << CHECK_BITS) - 1)
    if check != _check(value):
        return None
    return Mark(value >> CLOCK_BITS, value & ((1 << CLOCK_BITS) - 1))


class Witness:
    """Takes the frames of a call, and tells what became of the test picture and tone.

    Attributes:
        pictures: how many came whose mark can be read.
        size: of the last one, in pixels.
        delays: seconds between the making of each and now, by the one clock of both sides.
    """

    def __init__(self) -> None:
        self.pictures = 0
        self.size = (0, 0)
        self.delays: list[float] = []
        self._samples = 0
        self._waves = 0
        self._last = 0

    def take(self, frame: AudioFrame | VideoFrame) -> None:
        """Look at a picture, or listen to sound of 16 bits in stereo."""
        if isinstance(frame, AudioFrame):
            self._listen(frame)
        elif (mark := read_mark(frame)) is not None:
            self.pictures += 1
            self.size = frame.width, frame.height
            late = int(time.time() * 1000) - mark.milliseconds
            self.delays.append(late % (1 << CLOCK_BITS) / 1000)

    def _listen(self, frame: AudioFrame) -> None:
        left = memoryview(frame.planes[0]).cast("B").cast("h")[: frame.samples * 2 : 2].tolist()
        self._waves += sum(
            before < 0 <= after for before, after in zip([self._last, *left], left, strict=False)
        )
        self._last = left[-1]
        self._samples += frame.samples

    @property
    def pitch(self) -> float:
        """Of what was heard, in Hz, if it was one tone."""
        return self._waves * _RATE / self._samples if self._samples else 0.0


class Tone:
    """A sine of TONE_PITCH, on both channels."""

    def __init__(self) -> None:
        level = TONE_AMPLITUDE * 32767
        waves = [
            round(level * math.sin(2 * math.pi * TONE_PITCH * sample / _RATE)) for sample in range(_PERIOD)
        ]
        self._samples = struct.pack(f"<{2 * _PERIOD}h", *(wave for wave in waves for _ in range(2)))

    def play(self, start: int, samples: int) -> AudioFrame:
        """`samples` of it, from the sample `start`; 48 kHz, 16 bits, stereo."""
        frame = AudioFrame(format="s16", layout="stereo", samples=samples)
        offset = start % _PERIOD * 4
        data = (self._samples * (samples // _PERIOD + 2))[offset : offset + samples * 4]
        frame.planes[0].update(data)
        frame.sample_rate, frame.time_base, frame.pts = _RATE, Fraction(1, _RATE), start
        return frame
