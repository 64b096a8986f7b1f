"""A UDP proxy between two ICE agents, with faults.

Each side is given one candidate, of the proxy's, in the place of all of the other's. What stands before
the first byte of the other's datagrams stays as it is, so ICE and DTLS go through unaware.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
from dataclasses import dataclass
from typing import Any, Self

__all__ = ["Faults", "Proxy"]

HELD_BACK = 0.01  # s at most that a reordered datagram comes late
SOCKET_BUFFER = 4 << 20  # bytes
DRAIN = 200  # datagrams read from one socket before the other gets its turn


@dataclass(frozen=True)
class Faults:
    """What happens to datagrams, as probabilities; `max_size` is the most bytes that one may have."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    max_size: int = 65_535


class Proxy:
    """The proxy, with its two sockets: each receives from one side, and sends to it.

    Attributes:
        faults: what happens to all but ICE's own datagrams; may be changed at any time.
        lost, passed: datagrams so far.
        largest: bytes of the largest datagram that passed.
    """

    def __init__(self, faults: Faults = Faults(), seed: int = 1) -> None:
        self.faults = faults
        self.lost = self.passed = self.largest = 0
        self._random = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._sides: list[_Side] = []
        self._held: set[asyncio.TimerHandle] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._held:
            handle.cancel()
        for side in self._sides:
            self._loop.remove_reader(side.socket)
            side.socket.close()

    def through(self, sdp: str) -> str:
        """The description of one side, for the other: all that it is sent then comes this way."""
        host, port = _address(sdp)
        side = _Side(host, port)
        self._sides.append(side)
        self._loop.add_reader(side.socket, self._readable, side)
        own_host, own_port = side.socket.getsockname()
        candidate = f"a=candidate:1 1 udp 2130706431 {own_host} {own_port} typ host"
        lines = [line for line in sdp.splitlines() if not line.startswith("a=candidate:")]
        at = next(index for index, line in enumerate(lines) if line.startswith("a=ice-ufrag:"))
        return "\r\n".join([*lines[:at], candidate, *lines[at:], ""])

    def _readable(self, stand_in: _Side) -> None:
        """A datagram for the side that `stand_in` stands for: it goes out by the other one's socket."""
        if len(self._sides) < 2:
            return
        other = self._sides[stand_in is self._sides[0]]
        for _ in range(DRAIN):
            try:
                datagram, source = stand_in.socket.recvfrom(65_535)
            except OSError:  # nothing more, or an ICMP error for what was sent
                return
            other.address = source
            self._pass_on(datagram, other.socket, stand_in)

    def _pass_on(self, datagram: bytes, via: socket.socket, to: _Side) -> None:
        faults, chance = self.faults, self._random.random
        if datagram[0] < 4:  # STUN
            faults = Faults()
        if len(datagram) > faults.max_size or chance() < faults.loss:
            self.lost += 1
            return
        for _ in range(2 if chance() < faults.duplication else 1):
            if chance() < faults.reordering:
                self._hold(datagram, via, to)
            else:
                self._send(datagram, via, to)

    def _hold(self, datagram: bytes, via: socket.socket, to: _Side) -> None:
        def release() -> None:
            self._held.discard(handle)
            self._send(datagram, via, to)

        handle = self._loop.call_later(HELD_BACK * self._random.random(), release)
        self._held.add(handle)

    def _send(self, datagram: bytes, via: socket.socket, to: _Side) -> None:
        try:
            via.sendto(datagram, to.address)
        except OSError:  # no room, or nobody there any more
            self.lost += 1
            return
        self.passed += 1
        self.largest = max(self.largest, len(datagram))


class _Side:
    """One agent: its address, and the socket that stands for it."""

    def __init__(self, host: str, port: int) -> None:
        self.address: Any = (host, port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self.socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        self.socket.bind((host, 0))


def _address(sdp: str) -> tuple[str, int]:
    """The IPv4 host candidate that a description prefers."""
    found = re.findall(r"a=candidate:\S+ 1 udp (\d+) ([\d.]+) (\d+) typ host", sdp, re.IGNORECASE)
    _, host, port = max(found, key=lambda candidate: int(candidate[0]))
    return host, int(port)
