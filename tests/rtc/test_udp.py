"""A socket in batches: what is sent arrives in its datagrams, whatever the kernel can do."""

from __future__ import annotations

import errno
import random
import socket
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from peercli.rtc.udp import UdpSocket
from tests.rtc.moody import MoodySocket


def ours(real: socket.socket, *, coalesce: bool = False) -> UdpSocket:
    transport = SimpleNamespace(get_extra_info=lambda _: real)
    return UdpSocket(cast(Any, SimpleNamespace(transport=transport)), coalesce=coalesce)


@pytest.fixture
def sockets() -> Iterator[tuple[UdpSocket, socket.socket]]:
    """One of ours, and one to send to."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        for each in (here, there):
            each.bind(("127.0.0.1", 0))
        there.settimeout(10)
        udp = ours(here)
        yield udp, there
        udp.close()


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize(("size", "total"), [(1_000, 53_500), (1_225, 100_000), (16_421, 40_000), (700, 700)])
def test_what_is_sent_arrives_in_its_datagrams(
    sockets: tuple[UdpSocket, socket.socket], size: int, total: int, segments: bool
) -> None:
    udp, there = sockets
    udp._segments &= segments
    data = random.randbytes(total)
    assert udp.send(memoryview(data), size, there.getsockname()) == total
    for start in range(0, total, size):
        assert there.recv(65_536) == data[start : start + size]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's alone")
@pytest.mark.parametrize("coalesce", [True, False])
def test_glued_datagrams_come_with_their_size(
    sockets: tuple[UdpSocket, socket.socket], coalesce: bool
) -> None:
    udp, there = sockets
    receiver = ours(there, coalesce=coalesce)
    try:
        data = random.randbytes(10_300)
        udp.send(memoryview(data), 1_000, there.getsockname())
        arrived: list[bytes] = []
        while len(b"".join(arrived)) < len(data):
            arrival = receiver.receive()
            assert arrival is not None
            datagrams, size, _ = arrival
            arrived.append(bytes(datagrams))
            assert size == min(1_000, len(datagrams))
        assert b"".join(arrived) == data
        assert len(arrived) == (1 if coalesce else 11)
        assert receiver.receive() is None
    finally:
        receiver.close()


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
def test_without_segmentation_after_all(sockets: tuple[UdpSocket, socket.socket], code: int) -> None:
    udp, there = sockets
    udp._segments = True
    udp._socket = cast(Any, MoodySocket(udp._socket, lambda many: OSError(code, "no") if many else None))
    data = random.randbytes(10_500)
    assert udp.send(memoryview(data), 1_000, there.getsockname()) == len(data)
    assert b"".join(there.recv(65_536) for _ in range(11)) == data
    assert udp._segments == (code != errno.EIO)  # the others are about this size, and may pass


def test_nothing_is_lost_of_what_the_socket_has_no_room_for(
    sockets: tuple[UdpSocket, socket.socket],
) -> None:
    udp, there = sockets
    turns = iter(range(1_000_000))
    udp._segments = False
    udp._socket = cast(
        Any, MoodySocket(udp._socket, lambda _: BlockingIOError() if next(turns) % 4 == 3 else None)
    )
    data = random.randbytes(20_000)
    sent = 0
    while sent < len(data):
        sent += udp.send(memoryview(data)[sent:], 1_000, there.getsockname())
    assert b"".join(there.recv(65_536) for _ in range(20)) == data
