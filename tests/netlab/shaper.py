"""A wire with a delay: a process that carries packets between two TUN devices, as slowly and badly as asked.

`python -m tests.netlab.shaper NAMESPACE DEVICE NAMESPACE DEVICE` makes both devices and says `ready`. Each
line on its stdin is a JSON array of two objects, the `Shape`s of both directions from now on, or an empty
array to leave them; each is answered by a line with the two directions' counters. It ends with its stdin.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import heapq
import json
import math
import os
import random
import select
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

__all__ = ["Counters", "Direction", "Shape", "enter"]

HOLD = 0.005  # s that a packet out of order comes late
PACKETS_A_TURN = 64  # read from one device before the other gets its turn
REST = 0.0002  # s between turns, in which packets gather: waking up costs more than carrying one
MAX_PACKET = 65_536

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000


@dataclass(frozen=True, slots=True)
class Shape:
    """What one direction of a wire does to packets.

    `rate` is in bit/s of IP packets; `queue` in bytes that may wait for it, beyond which packets are dropped.
    `delay` and `jitter` are in seconds: each packet takes `delay` and up to `jitter` more, and none overtakes
    another. `loss`, `reorder` and `duplicate` are fractions of the packets; one out of order is held for
    `HOLD` while others pass.
    """

    delay: float = 0.0
    jitter: float = 0.0
    rate: float = math.inf
    queue: float = math.inf
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0


@dataclass(slots=True)
class Counters:
    """Packets that came, were dropped for want of room in the queue, and were lost on the way."""

    packets: int = 0
    bytes: int = 0
    dropped: int = 0
    lost: int = 0


class Direction:
    """One direction of a wire, without I/O: packets are taken in, and come out when they are due.

    Times are seconds of any one clock. One `seed` makes one outcome.
    """

    def __init__(self, shape: Shape, seed: int | None = None) -> None:
        self.shape = shape
        self.counters = Counters()
        self._random = random.Random(seed).random
        self._free_at = -math.inf  # when the last byte taken has left the queue
        self._last_due = -math.inf
        self._count = 0
        self._way: list[tuple[float, int, bytes]] = []  # heap of (due, number, packet)

    def take(self, packet: bytes, now: float) -> None:
        """A packet comes in at this end."""
        shape, size, chance, counters = self.shape, len(packet), self._random, self.counters
        counters.packets += 1
        counters.bytes += size
        start = max(now, self._free_at)
        if (start - now) * shape.rate / 8 + size > shape.queue:
            counters.dropped += 1
            return
        self._free_at = start + 8 * size / shape.rate
        if shape.loss and chance() < shape.loss:
            counters.lost += 1
            return
        due = self._free_at + shape.delay
        if shape.jitter:
            due = max(due + shape.jitter * chance(), self._last_due)
        if shape.reorder and chance() < shape.reorder:
            self._put(due + HOLD, packet)
        else:
            self._last_due = due
            self._put(due, packet)
        if shape.duplicate and chance() < shape.duplicate:
            self._put(due, packet)

    def _put(self, due: float, packet: bytes) -> None:
        self._count += 1
        heapq.heappush(self._way, (due, self._count, packet))

    def due(self, now: float) -> Iterator[bytes]:
        """The packets that come out at the other end by `now`."""
        way = self._way
        while way and way[0][0] <= now:
            yield heapq.heappop(way)[2]

    @property
    def next_due(self) -> float:
        """When the next packet comes out, if no other is taken; `inf` if there is none."""
        return self._way[0][0] if self._way else math.inf


def enter(namespace: str) -> None:
    """Move the calling thread into a network namespace made by `ip netns`."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def _open_tun(namespace: str, device: str) -> int:
    enter(namespace)
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


def _carry(ends: tuple[int, int], directions: tuple[Direction, Direction]) -> None:
    clock, control = time.monotonic, sys.stdin.fileno()
    ways = [(ends[0], ends[1], directions[0]), (ends[1], ends[0], directions[1])]
    while True:
        wait = min(direction.next_due for direction in directions) - clock()
        timeout = None if wait == math.inf else max(wait, 0.0)
        readable = select.select((*ends, control), (), (), timeout)[0]
        time.sleep(REST)
        for source, _, direction in ways:
            if source in readable:
                with contextlib.suppress(BlockingIOError):
                    for _ in range(PACKETS_A_TURN):
                        direction.take(os.read(source, MAX_PACKET), clock())
        for _, sink, direction in ways:
            for packet in direction.due(clock()):
                with contextlib.suppress(OSError):  # the device is down, or its queue full
                    os.write(sink, packet)
        if control in readable:
            request = os.read(control, select.PIPE_BUF)  # each line was written in one go
            if not request:
                return
            for direction, shape in zip(directions, json.loads(request), strict=False):
                direction.shape = Shape(**shape)
            print(json.dumps([asdict(direction.counters) for direction in directions]), flush=True)


def main() -> None:
    here, there = _open_tun(*sys.argv[1:3]), _open_tun(*sys.argv[3:5])
    # Late packets would be the wire's doing, so it runs as soon as there is work, whoever else is busy.
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gc.disable()
    print("ready", flush=True)
    _carry((here, there), (Direction(Shape()), Direction(Shape())))


if __name__ == "__main__":
    main()
