"""Single keys, while something is drawn on the terminal that whoever looks at it may want to change."""

from __future__ import annotations

import asyncio
import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Keys"]

MOST = 64  # keys taken at once


class Keys:
    """The keyboard, for as long as there are listeners, and stdin is a terminal that is ours to read.

    Keys are not shown then, and come at once; Ctrl-C and Ctrl-Z do what they always do.
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[[str], None]] = []
        self._modes: list[Any] | None = None  # of the terminal, before

    def listen(self, pressed: Callable[[str], None]) -> None:
        """Have `pressed` called with each key."""
        self._listeners.append(pressed)
        self._take()

    def leave(self, pressed: Callable[[str], None]) -> None:
        """Undo one `listen`."""
        self._listeners.remove(pressed)
        if not self._listeners:
            self.give_back()

    @contextmanager
    def left_alone(self) -> Iterator[None]:
        """Let somebody else read the terminal, a line at a time."""
        self.give_back()
        try:
            yield
        finally:
            if self._listeners:
                self._take()

    def give_back(self) -> None:
        """Leave the terminal as it was."""
        modes, self._modes = self._modes, None
        if modes is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(0)
            loop.remove_signal_handler(signal.SIGCONT)
            if _is_ours():  # else the shell has seen to it, and touching it would stop us
                termios.tcsetattr(0, termios.TCSANOW, modes)

    def _take(self) -> None:
        if self._modes is None and _is_ours():
            self._modes = termios.tcgetattr(0)
            self._set()
            # After Ctrl-Z and fg, the terminal is as the shell had it.
            asyncio.get_running_loop().add_signal_handler(signal.SIGCONT, self._set)

    def _set(self) -> None:
        if _is_ours():
            tty.setcbreak(0, termios.TCSANOW)
            asyncio.get_running_loop().add_reader(0, self._read)

    def _read(self) -> None:
        data = os.read(0, MOST) if _is_ours() else b""
        if not data:  # it has hung up, or we are in the background
            asyncio.get_running_loop().remove_reader(0)
        for key in data.decode(errors="replace"):
            for pressed in self._listeners[:]:
                pressed(key)


def _is_ours() -> bool:
    """Whether stdin is a terminal, and we are not in its background, where reading would stop us."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
