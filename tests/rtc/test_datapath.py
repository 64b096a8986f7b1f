"""The data path under whole connections: datagrams glued and torn, sockets with moods, paths that change."""

from __future__ import annotations

import asyncio
import errno
import random
import re
import sys
from functools import partial
from typing import Any, cast

import pytest
from aioice import stun
from aioice.ice import StunProtocol
from aiortc import AudioStreamTrack, RTCBundlePolicy, RTCConfiguration, VideoStreamTrack
from av import VideoFrame

from peercli.errors import ConnectionClosed, MessageTooBig
from peercli.rtc import datapath, dtls, ice
from peercli.rtc.channel import UNLIMITED, Channel, StockChannel
from peercli.rtc.datapath import AssociationChannel, SctpTransport
from peercli.rtc.path_mtu import LADDER
from peercli.rtc.peerconnection import PeerConnection
from peercli.rtc.udp import _SOL_UDP, _UDP_GRO, UdpSocket
from tests.interop.stacks.proxy import Faults, Proxy
from tests.rtc.links import End, both, connected, ends, join
from tests.rtc.moody import MoodySocket

ETHERNET = 1_500 - 28  # bytes of UDP over IPv4

probing = pytest.mark.skipif(
    sys.platform != "linux", reason="paths are probed where fragments can be forbidden"
)


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


async def chatter(here: Channel) -> None:
    """Send until that fails."""
    while True:
        await here.send(b"anyone?")
        await asyncio.sleep(0)


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
    send, probe = UdpSocket.send, UdpSocket.probe
    async with connected() as (_, _, here, there):
        mtu = transport_of(here)._mtu

        def watched_send(udp: UdpSocket, datagrams: memoryview, size: int, address: tuple[str, int]) -> int:
            too_large.extend([size] if size > mtu.size + dtls.OVERHEAD else [])
            return send(udp, datagrams, size, address)

        def watched_probe(udp: UdpSocket, datagram: memoryview, address: tuple[str, int]) -> None:
            probes.append(len(datagram) - dtls.OVERHEAD)
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
    """In the middle of a transfer each way, as Chromium does right after connecting."""
    monkeypatch.setattr(ice, "host_addresses", lambda *_: ["127.0.0.1", "127.0.0.2"])
    async with connected() as (one, _, here, there):
        await until_large(here, there, LADDER[-1])
        agent = one.link._agent
        before = agent.selected
        assert before is not None
        other = next(
            candidate for candidate in agent.local_candidates if candidate.host != before.local_candidate.host
        )
        protocol = next(protocol for protocol in agent.hosts if protocol.local_candidate is other)
        carrying = asyncio.gather(carry(here, there, 400), carry(there, here, 400))
        await asyncio.sleep(0.02)
        assert not carrying.done()
        agent._nominated[1] = type(before)(protocol, before.remote_candidate)
        await carrying
        udp = transport_of(here)._udp
        assert udp is not None
        assert udp.protocol is protocol
        await until_large(here, there, LADDER[-1])


class Gluing:
    """Sends a STUN request in one datagram with what is sent, as far as the far side's kernel is concerned.

    Attributes:
        before, after: how many went before a record, and after many.
    """

    def __init__(self, udp: UdpSocket, request: bytes) -> None:
        self._send = udp.send
        self._request = request
        self.before = self.after = 0

    def send(self, datagrams: memoryview, size: int, address: tuple[str, int]) -> int:
        request, many = self._request, len(datagrams) // size * size
        if len(datagrams) <= len(request):
            self._send(memoryview(request + datagrams), len(request), address)
            self.before += 1
        elif size < many < 60_000 and many < 60 * size:
            self._send(memoryview(bytes(datagrams[:many]) + request), size, address)
            self._send(datagrams[many:], size, address)
            self.after += 1
        else:
            return self._send(datagrams, size, address)
        return len(datagrams)


@pytest.mark.skipif(sys.platform != "linux", reason="datagrams are glued by Linux")
async def test_stun_that_arrives_glued_to_dtls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datapath, "MAX_PACKET", 1_432)
    heard: list[tuple[str, int]] = []

    def hear(message: stun.Message, address: tuple[str, int], protocol: StunProtocol) -> None:
        heard.append(address)

    async with connected() as (one, other, here, there):
        await carry(here, there, 5)
        agent, udp, association = one.link._agent, transport_of(here)._udp, transport_of(here)._association
        pair = agent.selected
        assert udp is not None
        assert association is not None
        assert association.sender is not None
        assert pair is not None
        request = agent.build_request(pair, nominate=False)
        request.add_message_integrity((agent.remote_password or "").encode())
        gluing = Gluing(udp, bytes(request))
        monkeypatch.setattr(other.link._agent, "request_received", hear)
        monkeypatch.setattr(udp, "send", gluing.send)
        retransmits = association.sender.retransmits
        for size in (1, 50_000) * 20:
            await here.send(bytes(size))
            assert await there.receive() == bytes(size)
            await here.flush()
        assert gluing.before > 10
        assert gluing.after > 10
        assert len(heard) == gluing.before + gluing.after
        assert set(heard) == {pair.local_addr}
        # A busy machine answers late, and what is then sent again was there before: none of it was lost.
        resent = association.sender.retransmits - retransmits
        await carry(here, there, 1)
        far_side = transport_of(there)._association
        assert far_side is not None
        assert far_side.receiver is not None
        assert far_side.receiver.duplicates_received >= resent


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


async def test_one_flush_may_be_given_up_while_another_waits() -> None:
    async with connected() as (_, _, here, there):
        closed = True
        udp = transport_of(here)._udp
        assert udp is not None
        udp._socket = cast(Any, MoodySocket(udp._socket, lambda _: BlockingIOError() if closed else None))
        await here.send(bytes(200_000))
        impatient, patient = asyncio.create_task(here.flush()), asyncio.create_task(here.flush())
        await asyncio.sleep(0.1)
        impatient.cancel()
        await asyncio.wait([impatient])
        closed = False
        await patient
        assert await there.receive() == bytes(200_000)


async def test_what_is_sent_while_the_far_side_closes_is_told_why_it_cannot_be() -> None:
    async with connected() as (_, _, here, there):
        await carry(here, there, 5)
        await there.close()
        with pytest.raises(ConnectionClosed, match="the far side closed"):
            await chatter(here)
        assert here.closed
        with pytest.raises(ConnectionClosed, match="the far side closed"):
            await here.receive()


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


@pytest.mark.parametrize("stock", [(True, True), (True, False), (False, True)])
async def test_the_fallback(monkeypatch: pytest.MonkeyPatch, stock: tuple[bool, bool]) -> None:
    """aiortc's own association, with itself and with ours."""
    sides = []
    for each in stock:
        monkeypatch.setenv("PEERCLI_DATAPATH", "aiortc" if each else "")
        sides.append(End())
    one, other = sides
    try:
        async with asyncio.timeout(30):
            here, there = await join(one, other)
            assert [isinstance(each, StockChannel) for each in (here, there)] == list(stock)
            await carry(here, there, 50)
            await carry(there, here, 50)
            await here.send(bytes(65_536))
            await here.flush()
            await here.close()
            assert [message async for message in there] == [bytes(65_536)]
    finally:
        await asyncio.gather(one.link.close(), other.link.close())


# Media beside data --------------------------------------------------------------------------------


class Noise(VideoStreamTrack):
    """A picture that fills many packets of one size."""

    async def recv(self) -> VideoFrame:
        pts, time_base = await self.next_timestamp()
        frame = VideoFrame(160, 120)
        for plane in frame.planes:
            plane.update(random.randbytes(plane.buffer_size))
        frame.pts, frame.time_base = pts, time_base
        return frame


def coalesces(channel: Channel) -> bool:
    """Whether the kernel may glue what arrives: SRTP could not be told apart again."""
    udp = transport_of(channel)._udp
    assert udp is not None
    return sys.platform == "linux" and bool(udp._socket.getsockopt(_SOL_UDP, _UDP_GRO))


class Caller:
    """A side of a call that also carries data, on one transport."""

    def __init__(self) -> None:
        self.channels: asyncio.Queue[Channel] = asyncio.Queue()
        self.pc = PeerConnection(
            RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE),
            on_channel=self.channels.put_nowait,
            on_end=lambda error: None,
        )
        self.pc.addTrack(AudioStreamTrack())
        self.pc.addTrack(Noise())

    async def frames(self, count: int) -> None:
        """Wait for as many pictures and sounds."""
        for transceiver in self.pc.getTransceivers():
            for _ in range(count):
                await transceiver.receiver.track.recv()

    async def lost(self) -> int:
        """Packets of media that never came, or could not be decrypted."""
        reports = await self.pc.getStats()
        return sum(report.packetsLost for report in reports.values() if report.type == "inbound-rtp")


async def test_media_and_data_share_a_transport() -> None:
    one, other = Caller(), Caller()
    try:
        async with asyncio.timeout(60):
            here = one.pc.open_channel("data", ordered=True)
            await one.pc.setLocalDescription()
            await other.pc.setRemoteDescription(one.pc.localDescription)
            await other.pc.setLocalDescription()
            await one.pc.setRemoteDescription(other.pc.localDescription)
            there = await other.channels.get()
            await here.opened()
            for each in one.pc.getTransceivers():
                assert each.receiver.transport is transport_of(here).transport
            async with asyncio.TaskGroup() as tasks:
                for side in (one, other):
                    tasks.create_task(side.frames(40))
                tasks.create_task(carry(here, there, 200))
                tasks.create_task(carry(there, here, 200))
            await asyncio.gather(one.frames(20), other.frames(20))
            assert [await one.lost(), await other.lost()] == [0, 0]
            for channel in (here, there):
                assert not coalesces(channel)
    finally:
        await asyncio.gather(one.pc.close(), other.pc.close())
