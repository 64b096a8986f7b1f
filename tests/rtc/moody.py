"""Sockets that fail now and then."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["MoodySocket"]


class MoodySocket:
    """A socket that fails as `mood` says, which is asked before each call that sends one, or many."""

    def __init__(self, real: socket.socket, mood: Callable[[bool], OSError | None]) -> None:
        self._real = real
        self._mood = mood

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def sendto(self, data: memoryview, address: tuple[str, int]) -> int:
        if error := self._mood(False):
            raise error
        return self._real.sendto(data, address)

    def sendmsg(self, buffers: Sequence[memoryview], *arguments: Any) -> int:
        if error := self._mood(True):
            raise error
        return self._real.sendmsg(buffers, *arguments)
