"""The data path: datagrams glued and torn, sockets with moods, paths that change."""

from __future__ import annotations

import asyncio
import errno
import random
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from peercli.errors import MessageTooBig
from peercli.rtc import ice
from peercli.rtc.channel import UNLIMITED, Channel
from peercli.rtc.datapath import (
    BIO_BYTES,
    DTLS_OVERHEAD,
    AssociationChannel,
    SctpTransport,
    _Dtls,
    _open_all,
    _Udp,
)
from peercli.rtc.path_mtu import LADDER
from tests.interop.stacks.proxy import Faults, Proxy
from tests.rtc.links import both, connected, ends

ETHERNET = 1_500 - 28  # bytes of UDP over IPv4

probing = pytest.mark.skipif(
    sys.platform != "linux", reason="paths are probed where fragments can be forbidden"
)


# Datagrams in one piece ---------------------------------------------------------------------------


class Pieces:
    """In the place of a DTLS session: keeps what it is given."""

    def __init__(self) -> None:
        self.given: list[bytes] = []

    def open(self, records: bytes | memoryview) -> list[bytes]:
        self.given.append(bytes(records))
        return [bytes(records)]


def record(size: int) -> bytes:
    """A DTLS record of `size` bytes in all."""
    return b"\x17\xfe\xfd" + bytes(8) + (size - 13).to_bytes(2, "big") + random.randbytes(size - 13)


@pytest.mark.parametrize("known", [True, False], ids=["size-known", "size-unknown"])
@pytest.mark.parametrize(("size", "count", "last"), [(1_225, 54, 300), (1_469, 44, 1_469), (16_421, 3, 50)])
def test_glued_datagrams_are_cut_where_records_end(size: int, count: int, last: int, known: bool) -> None:
    records = [record(size) for _ in range(count - 1)] + [record(last)]
    session = Pieces()
    glued = b"".join(records)
    assert b"".join(_open_all(cast(_Dtls, session), glued, size if known else 0)) == glued
    ends_at = {sum(map(len, records[:number])) for number in range(count + 1)}
    at = 0
    for piece in session.given:
        at += len(piece)
        assert at in ends_at
        assert len(piece) <= max(BIO_BYTES, size)


def test_a_record_that_lies_about_its_length_is_no_trouble() -> None:
    garbage = record(20_000)[:11] + b"\xff\xff" + random.randbytes(20_000)
    session = Pieces()
    assert b"".join(_open_all(cast(_Dtls, session), garbage, 0)) == garbage


# Sockets ------------------------------------------------------------------------------------------


class MoodySocket:
    """A socket that fails as `mood` says, which is asked before every datagram that is sent.

    Attributes:
        batches: calls that carried many datagrams.
    """

    def __init__(self, real: socket.socket, mood: Callable[[bool], OSError | None]) -> None:
        self._real = real
        self._mood = mood
        self.batches = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def sendto(self, data: memoryview, address: tuple[str, int]) -> int:
        if error := self._mood(False):
            raise error
        return self._real.sendto(data, address)

    def sendmsg(self, buffers: Sequence[memoryview], *arguments: Any) -> int:
        if error := self._mood(True):
            raise error
        self.batches += 1
        return self._real.sendmsg(buffers, *arguments)


@pytest.fixture
def sockets() -> Iterator[tuple[_Udp, socket.socket]]:
    """One of ours, and one to send to."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        for each in (here, there):
            each.bind(("127.0.0.1", 0))
        there.settimeout(10)
        transport = SimpleNamespace(get_extra_info=lambda _: here)
        udp = _Udp(cast(Any, SimpleNamespace(transport=transport)), coalesce=False)
        yield udp, there
        udp.close()


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize(("size", "total"), [(1_000, 53_500), (1_225, 100_000), (16_421, 40_000), (700, 700)])
def test_what_is_sent_arrives_in_its_datagrams(
    sockets: tuple[_Udp, socket.socket], size: int, total: int, segments: bool
) -> None:
    udp, there = sockets
    udp._segments &= segments
    data = random.randbytes(total)
    assert udp.send(memoryview(data), size, there.getsockname()) == total
    for start in range(0, total, size):
        assert there.recv(65_536) == data[start : start + size]


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
def test_without_segmentation_after_all(sockets: tuple[_Udp, socket.socket], code: int) -> None:
    udp, there = sockets
    udp._segments = True
    udp._socket = cast(Any, MoodySocket(udp._socket, lambda many: OSError(code, "no") if many else None))
    data = random.randbytes(10_500)
    assert udp.send(memoryview(data), 1_000, there.getsockname()) == len(data)
    assert b"".join(there.recv(65_536) for _ in range(11)) == data
    assert udp._segments == (code != errno.EIO)  # the others are about this size, and may pass


def test_nothing_is_lost_of_what_the_socket_has_no_room_for(sockets: tuple[_Udp, socket.socket]) -> None:
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


# Whole connections --------------------------------------------------------------------------------


def transport_of(channel: Channel) -> SctpTransport:
    assert isinstance(channel, AssociationChannel)
    return channel._transport


async def carry(here: Channel, there: Channel, count: int) -> None:
    """Send as many messages of all sizes, and see that they arrive."""
    messages = [random.randbytes(random.choice((1, 1_000, 30_000, 65_536))) for _ in range(count)]

    async def send() -> None:
        for message in messages:
            await here.send(message)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send())
        for message in messages:
            assert await there.receive() == message


async def until_large(here: Channel, there: Channel, size: int) -> None:
    """Send until packets have that size."""
    async with asyncio.timeout(20):
        while transport_of(here)._mtu.size != size:
            await carry(here, there, 50)


@pytest.mark.parametrize("trouble", ["no-room", "no-segments"])
async def test_moody_sockets_under_a_connection(trouble: str) -> None:
    turns = iter(range(1_000_000))

    def mood(many: bool) -> OSError | None:
        if trouble == "no-room":
            return BlockingIOError() if next(turns) % 3 == 0 else None
        return OSError(errno.EIO, "no") if many else None

    async with connected() as (_, _, here, there):
        await carry(here, there, 5)
        udp = transport_of(here)._udp
        assert udp is not None
        udp._socket = cast(Any, MoodySocket(udp._socket, mood))
        await carry(here, there, 200)
        await carry(there, here, 50)


@probing
async def test_packets_grow_as_far_as_the_path_and_the_far_side_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connected() as (_, _, here, there):
        await until_large(here, there, LADDER[-1])
    monkeypatch.setattr(SctpTransport, "_is_far_side_ours", False)
    async with connected() as (_, _, here, there):
        await until_large(here, there, 1_404)
        await carry(here, there, 50)
        assert transport_of(here)._mtu.size == 1_404


@probing
async def test_probes_alone_are_larger_than_is_known_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What else is sent IP may cut, and a probe that was cut would come through anywhere."""
    too_large: list[int] = []
    probes: list[int] = []
    send, probe = _Udp.send, _Udp.probe
    async with connected() as (_, _, here, there):
        mtu = transport_of(here)._mtu

        def watched_send(udp: _Udp, datagrams: memoryview, size: int, address: tuple[str, int]) -> int:
            too_large.extend([size] if size > mtu.size + DTLS_OVERHEAD else [])
            return send(udp, datagrams, size, address)

        def watched_probe(udp: _Udp, datagram: memoryview, address: tuple[str, int]) -> None:
            probes.append(len(datagram) - DTLS_OVERHEAD)
            probe(udp, datagram, address)

        udp = transport_of(here)._udp
        assert udp is not None
        monkeypatch.setattr(udp, "send", partial(watched_send, udp))
        monkeypatch.setattr(udp, "probe", partial(watched_probe, udp))
        await until_large(here, there, LADDER[-1])
    assert probes[-1] == LADDER[-1]
    assert not too_large


@probing
async def test_a_path_that_takes_less_from_now_on() -> None:
    with Proxy(Faults(max_size=ETHERNET)) as proxy:
        async with ends() as (one, other):
            offer = proxy.through(await one.link.offer("label", ordered=True))
            one.link.accept(proxy.through(await other.link.answer(offer)))
            here, there = await both(one, other)
            await until_large(here, there, 1_432)
            assert proxy.largest <= ETHERNET
            proxy.faults = Faults(max_size=1_300)
            carrying = asyncio.create_task(carry(here, there, 50))
            async with asyncio.timeout(20):
                while transport_of(here)._mtu.size != LADDER[0]:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            proxy.faults = Faults()  # as if IP cut what was sent before and is too large now
            await carrying


@probing
async def test_another_pair_is_selected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "host_addresses", lambda interfaces: ["127.0.0.1", "127.0.0.2"])
    async with connected() as (one, _, here, there):
        await until_large(here, there, LADDER[-1])
        agent = one.link._agent
        before = agent.selected
        assert before is not None
        other = next(
            candidate for candidate in agent.local_candidates if candidate.host != before.local_candidate.host
        )
        protocol = next(protocol for protocol in agent.hosts if protocol.local_candidate is other)
        agent._nominated[1] = type(before)(protocol, before.remote_candidate)
        await carry(here, there, 20)
        udp = transport_of(here)._udp
        assert udp is not None
        assert udp.protocol is protocol
        await until_large(here, there, LADDER[-1])
        await carry(there, here, 20)


async def test_a_flush_sees_what_is_queued_on_a_socket_without_room() -> None:
    async with connected() as (_, _, here, there):
        closed = True
        udp = transport_of(here)._udp
        assert udp is not None
        udp._socket = cast(Any, MoodySocket(udp._socket, lambda _: BlockingIOError() if closed else None))
        await here.send(bytes(200_000))
        flushing = asyncio.create_task(here.flush())
        await asyncio.sleep(0.2)
        assert not flushing.done()
        closed = False
        await flushing
        assert await there.receive() == bytes(200_000)


@pytest.mark.parametrize("datapath", ["", "aiortc"])
@pytest.mark.parametrize(
    ("line", "most"),
    [
        ("a=max-message-size:100000\r\n", 100_000),
        ("a=max-message-size:0\r\n", UNLIMITED),
        ("", 65_536),  # RFC 8841 section 6.1
    ],
)
async def test_the_far_side_says_how_much_it_takes_in_one_message(
    monkeypatch: pytest.MonkeyPatch, datapath: str, line: str, most: int
) -> None:
    monkeypatch.setenv("PEERCLI_DATAPATH", datapath)
    async with ends() as (one, other):
        answer = await other.link.answer(await one.link.offer("label", ordered=True))
        one.link.accept(re.sub(r"a=max-message-size:\d+\r\n", line, answer))
        here, there = await both(one, other)
        assert (here.max_message, there.max_message) == (most, 262_144)
        for size in (min(most, 100_000), 1):
            await here.send("x" * size)
            assert await there.receive() == "x" * size
        with pytest.raises(MessageTooBig):
            await there.send("ü" * 131_073)
