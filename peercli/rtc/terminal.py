"""Pictures as a terminal shows them: two pixels a character, or by kitty's graphics where it knows them."""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal

import av

from peercli.rtc.inputs import Frame

__all__ = ["Style", "TerminalView", "render", "style_of"]

Style = Literal["kitty", "truecolor", "palette", "letters"]

MAX_RATE = 15.0  # pictures a second: a terminal is a slow screen
MAX_PIXELS = 400  # of either side, in kitty's graphics
_RAMP = " .:-=+*#%@"
_CHUNK = 4096  # bytes of a piece of kitty's graphics


def style_of(environment: Mapping[str, str]) -> Style:
    """How pictures are best drawn in the terminal of this environment."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if "NO_COLOR" in environment or term in ("", "dumb", "linux"):
        return "letters"
    multiplexed = "TMUX" in environment or term.startswith(("screen", "tmux"))
    if not multiplexed and ("KITTY_WINDOW_ID" in environment or "kitty" in term or program == "ghostty"):
        return "kitty"
    return "truecolor" if environment.get("COLORTERM") in ("truecolor", "24bit") else "palette"


def render(frame: av.VideoFrame, columns: int, rows: int, style: Style) -> str:
    """A picture as text that fills at most `columns` × `rows` characters, in the middle of them."""
    across, down = (1, 1) if style == "letters" else (1, 2)
    # A character is twice as high as it is wide.
    scale = min(columns / frame.width, rows * 2 / frame.height)
    wide = max(1, min(columns, round(frame.width * scale)))
    high = max(1, min(rows, round(frame.height * scale / 2)))
    left, top = (columns - wide) // 2, (rows - high) // 2
    if style == "kitty":
        return f"\x1b[{top + 1};{left + 1}H" + _kitty(frame, wide, high)
    small = frame.reformat(
        width=wide * across, height=high * down, format="gray" if style == "letters" else "rgb24"
    )
    plane = small.planes[0]
    size = plane.line_size
    pixels = bytes(plane)
    lines = [pixels[start : start + size] for start in range(0, high * down * size, size)]
    if style == "letters":
        text = [_letters(line[:wide]) for line in lines]
    else:
        colour = _true if style == "truecolor" else _palette
        text = [_half_blocks(lines[2 * row], lines[2 * row + 1], wide, colour) for row in range(high)]
    return "".join(f"\x1b[{top + 1 + row};{left + 1}H{line}" for row, line in enumerate(text))


def _letters(line: bytes) -> str:
    return "".join(_RAMP[brightness * len(_RAMP) >> 8] for brightness in line)


def _true(red: int, green: int, blue: int) -> str:
    return f"2;{red};{green};{blue}"


def _palette(red: int, green: int, blue: int) -> str:
    """The nearest of the 256 colours: a cube of six steps, and greys."""
    if max(red, green, blue) - min(red, green, blue) < 12:
        grey = (red + green + blue) // 3
        return f"5;{16 if grey < 4 else 231 if grey > 246 else 232 + (grey - 3) * 24 // 244}"
    red, green, blue = ((part * 5 + 127) // 255 for part in (red, green, blue))
    return f"5;{16 + 36 * red + 6 * green + blue}"


def _half_blocks(above: bytes, below: bytes, wide: int, colour: Callable[[int, int, int], str]) -> str:
    pieces: list[str] = []
    last: tuple[bytes, bytes] | None = None
    for start in range(0, wide * 3, 3):
        both = above[start : start + 3], below[start : start + 3]
        if both != last:
            pieces.append(f"\x1b[38;{colour(*both[0])};48;{colour(*both[1])}m")
            last = both
        pieces.append("▀")
    return "".join(pieces) + "\x1b[0m"


def _kitty(frame: av.VideoFrame, columns: int, rows: int) -> str:
    """kitty's graphics protocol: an image, placed over so many characters, in place of the last one."""
    scale = min(1.0, MAX_PIXELS / max(frame.width, frame.height))
    width, height = max(1, int(frame.width * scale)), max(1, int(frame.height * scale))
    small = frame.reformat(width=width, height=height, format="rgb24")
    size, pixels = small.planes[0].line_size, bytes(small.planes[0])
    data = base64.b64encode(
        b"".join(pixels[row * size : row * size + width * 3] for row in range(height))
    ).decode()
    chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    first = f"a=T,i=1,p=1,q=2,C=1,f=24,s={width},v={height},c={columns},r={rows},"
    return "".join(
        f"\x1b_G{first if index == 0 else ''}m={int(index < len(chunks) - 1)};{chunk}\x1b\\"
        for index, chunk in enumerate(chunks)
    )


class TerminalView:
    """Shows the newest picture on a terminal, and a line of text below it; a slow terminal misses some.

    Args:
        fd: the terminal.
    """

    def __init__(self, fd: int = 2) -> None:
        self._fd = fd
        self._style = style_of(os.environ)
        self._latest: av.VideoFrame | None = None
        self._text = ""
        self._news = threading.Event()
        self._closed = threading.Event()
        self.shown = 0
        """Pictures."""
        self._write("\x1b[?1049h\x1b[?25l\x1b[2J")
        self._thread = threading.Thread(target=self._run, name="view", daemon=True)
        self._thread.start()

    def take(self, frame: Frame) -> None:
        """Show a picture, as soon as the last one is drawn."""
        if isinstance(frame, av.VideoFrame):
            self._latest = frame
            self._news.set()

    def say(self, text: str) -> None:
        """Show a line below, which has nothing in it that a terminal would obey."""
        self._text = text
        self._news.set()

    def close(self) -> None:
        """Give the terminal back."""
        self._closed.set()
        self._news.set()
        self._thread.join(1.0)  # a terminal that is stopped takes nothing
        self._write("\x1b[0m\x1b[?25h\x1b[?1049l")

    def _run(self) -> None:
        size = (0, 0)
        while self._news.wait() and not self._closed.is_set():
            self._news.clear()
            started = time.monotonic()
            columns, rows = os.get_terminal_size(self._fd)
            text = "\x1b[?2026h"  # all at once, where the terminal knows how
            if (columns, rows) != size:
                size = columns, rows
                text += "\x1b[2J"
            if (frame := self._latest) is not None and rows > 1:
                text += render(frame, columns, rows - 1, self._style)
                self.shown += 1
            self._write(f"{text}\x1b[{rows};1H{self._text[: columns - 1]}\x1b[K\x1b[?2026l")
            self._closed.wait(max(0.0, 1 / MAX_RATE - (time.monotonic() - started)))

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(sys.stderr.encoding or "utf-8", "replace"))
        with suppress(OSError):  # nobody looks any more
            while data:
                data = data[os.write(self._fd, data) :]
