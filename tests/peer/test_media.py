"""Calls: both ways, one way, refused, hung up, and with odd descriptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from websockets.asyncio.client import ClientConnection

from peercli.errors import (
    ConnectionClosed,
    Declined,
    PeerError,
    PeerUnavailable,
    ProtocolError,
    TimedOut,
    UsageError,
    WebRTCError,
)
from peercli.peer import media
from peercli.peer.media import MediaConnection, MediaStream
from peercli.peer.peer import Peer
from peercli.rtc.rtp import MAX_FRAMES
from tests.brokers import our_server
from tests.peer.peers import event, make, pair, payload, until
from tests.rtc.ice_servers import coturn
from tests.server import clients
from tests.tracks import GREEN, YELLOW, Moving, Tone, TwoColours, colours, level, near, stream


@asynccontextmanager
async def called(
    here: MediaStream | None, there: MediaStream | None, **options: Any
) -> AsyncIterator[tuple[MediaConnection, MediaConnection]]:
    """A call from Alice to Bob that stands, both ends, with the streams of either. `options` are `ring`'s."""
    async with pair(take_calls=True) as (alice, bob):
        calling = alice.ring("bob", here, **options)
        answering = await bob.accept_call()
        answering.answer(there)
        await asyncio.gather(calling.opened(), answering.opened())
        yield calling, answering


async def comes_through(received: MediaStream) -> None:
    """Fail unless this is `stream()`, seen and heard at the other end."""
    assert received.video is not None
    assert received.audio is not None
    left, right = colours(await received.video.recv())
    assert near(left, GREEN)
    assert near(right, YELLOW)
    while level(await received.audio.recv()) < 0.01:
        pass


def knows_the_round_trip(call: MediaConnection) -> bool:
    """Whether a report has told of it."""
    return call.stats().round_trip is not None


async def all_of(track: MediaStreamTrack) -> None:
    """Take frames until there are no more, which is an error to aiortc."""
    while True:
        await track.recv()


# Streams --------------------------------------------------------------------------------------


async def test_both_see_and_hear_each_other() -> None:
    ours, theirs = stream(), stream()
    async with called(ours, theirs) as (here, there):
        assert here.open
        assert there.open
        assert here.local_stream == ours
        for end in (here, there):
            await comes_through(end.remote_stream)
            await until(partial(knows_the_round_trip, end))
            stats = end.stats()
            for flow in (stats.video_sent, stats.video_received):
                assert flow is not None
                assert (flow.codec, flow.width, flow.height, flow.lost) == ("VP8", 320, 240, 0)
                assert flow.packets > 0 < flow.bitrate
                assert 0 < flow.rate < 60
            for flow in (stats.audio_sent, stats.audio_received):
                assert flow is not None
                assert flow.codec == "opus"
    assert all(track.readyState == "ended" for track in (*ours.tracks, *theirs.tracks))


@pytest.mark.parametrize(("calls", "answers"), [(True, False), (False, True), (False, False)])
async def test_a_side_without_a_stream(calls: bool, answers: bool) -> None:
    async with called(stream() if calls else None, stream() if answers else None) as (here, there):
        for receiving, sent in ((here, answers), (there, calls)):
            if sent:
                await comes_through(receiving.remote_stream)
            else:
                assert receiving.remote_stream.tracks == []


@pytest.mark.parametrize("kind", ["audio", "video"])
async def test_one_kind_of_media(kind: str) -> None:
    track = Tone() if kind == "audio" else TwoColours()
    async with called(MediaStream(**{kind: track}), stream()) as (here, there):
        await comes_through(here.remote_stream)
        (received,) = there.remote_stream.tracks
        assert received.kind == kind
        await received.recv()


async def test_h264() -> None:
    async with called(stream(), stream(), video_codec="h264") as (here, there):
        await comes_through(here.remote_stream)
        await comes_through(there.remote_stream)
        sent = here.stats().video_sent
        assert sent is not None
        assert sent.codec == "H264"


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_by_a_relay(tmp_path: Path, transport: Literal["udp", "tcp"]) -> None:
    async with coturn(tmp_path) as turn:
        options: dict[str, Any] = {
            "ice_servers": (turn.server(transport=transport),),
            "relay": True,
            "take_calls": True,
        }
        async with pair(**options) as (alice, bob):
            here = alice.ring("bob", stream())
            there = await bob.accept_call()
            there.answer(stream())
            await asyncio.gather(here.opened(), there.opened())
            assert there.route is not None
            assert there.route.relayed
            await comes_through(here.remote_stream)
            await comes_through(there.remote_stream)
            await here.close()
            async with asyncio.timeout(1):
                assert isinstance(await there.closed(), ConnectionClosed)


async def test_events() -> None:
    async with pair() as (alice, bob):
        happened: list[tuple[str, str, Any]] = []

        def watch(name: str, call: MediaConnection) -> None:
            for each in ("open", "willCloseOnRemote", "stream", "close", "error"):
                call.on(each, lambda *values, each=each: happened.append((name, each, values)))

        @bob.on("call")
        def answer(call: MediaConnection) -> None:
            watch("bob", call)
            assert call.metadata == {"why": ["a", 1]}
            call.answer()

        here = alice.ring("bob", stream(), metadata={"why": ["a", 1]})
        watch("alice", here)
        await here.opened()
        await until(lambda: ("bob", "open", ()) in happened)
        await here.close()
        await until(lambda: ("bob", "close", ()) in happened)
        for name in ("alice", "bob"):
            names = [each for who, each, _ in happened if who == name]
            assert names == ["willCloseOnRemote", "open", *(["stream"] if name == "bob" else []), "close"]


async def test_nothing_flows_before_the_far_side_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    admitted = asyncio.Event()

    async def prove(*_: object) -> None:
        await admitted.wait()

    monkeypatch.setattr(MediaConnection, "_prove", prove)
    async with pair(take_calls=True) as (alice, bob):
        here = alice.ring("bob", stream())
        there = await bob.accept_call()
        there.answer(stream())
        await asyncio.gather(event(here, "willCloseOnRemote"), event(there, "willCloseOnRemote"))
        await asyncio.sleep(0.5)
        for end in (here, there):
            assert not end.open
            assert end.remote_stream.tracks == []
            stats = end.stats()
            assert not stats.video_sent
            assert not stats.audio_sent
        admitted.set()
        await asyncio.gather(here.opened(), there.opened())
        await comes_through(here.remote_stream)
        await comes_through(there.remote_stream)


async def test_frames_that_nobody_takes_do_not_pile_up() -> None:
    async with called(MediaStream(video=Moving(160, 120, rate=60)), None) as (_, there):
        video = there.remote_stream.video
        assert video is not None

        def waiting() -> int:
            return int(video._queue.qsize())  # type: ignore[attr-defined]

        await until(lambda: waiting() == MAX_FRAMES["video"])
        first: Any = await video.recv()
        await asyncio.sleep(0.3)
        assert waiting() <= MAX_FRAMES["video"]
        later: Any = await video.recv()
        assert later.pts - first.pts > 90_000 // 60  # some in between are gone


async def test_sdp_transform() -> None:
    seen: list[str] = []

    def look(sdp: str) -> str:
        seen.append(sdp)
        return sdp.replace("useinbandfec=1", "useinbandfec=0")

    async with pair(take_calls=True) as (alice, bob):
        here = alice.ring("bob", stream(), sdp_transform=look)
        there = await bob.accept_call()
        assert "useinbandfec=0" in there._offer.sdp
        there.answer(stream(), sdp_transform=look)
        await here.opened()
        assert len(seen) == 2
        await comes_through(here.remote_stream)


# Refusals and ends ----------------------------------------------------------------------------


async def test_a_call_is_declined() -> None:
    async with pair(take_calls=True) as (alice, bob):
        here = alice.ring("bob", stream())
        there = await bob.accept_call()
        there.decline()
        with pytest.raises(Declined):
            await here.opened()
        with pytest.raises(PeerError):
            there.answer()
        await there.close()


async def test_nobody_takes_calls() -> None:
    async with pair() as (alice, _):
        with pytest.raises(Declined):
            await alice.call("bob")


async def test_a_call_that_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair(take_calls=True) as (alice, bob):
        calling = asyncio.create_task(alice.call("bob", stream(), timeout=0.5))
        there = await bob.accept_call()
        with pytest.raises(TimedOut):
            await calling
        assert isinstance(await there.closed(), ConnectionClosed)  # it does not ring for ever
        monkeypatch.setattr(media, "RING_TIMEOUT", 0.1)
        with pytest.raises(Declined):
            await alice.call("bob")


async def test_nobody_is_there() -> None:
    async with pair() as (alice, _):
        ours = stream()
        with pytest.raises(PeerUnavailable):
            await alice.call("nobody", ours)
        assert all(track.readyState == "ended" for track in ours.tracks)


@pytest.mark.parametrize("ends", ["caller", "callee"])
async def test_hanging_up(ends: str) -> None:
    async with called(stream(), stream()) as (here, there):
        one, other = (here, there) if ends == "caller" else (there, here)
        theirs = other.remote_stream
        await one.close()
        async with asyncio.timeout(1):
            assert isinstance(await other.closed(), ConnectionClosed)
        await other.close()
        assert not one.open
        assert not other.open
        for track in theirs.tracks:
            with pytest.raises(MediaStreamError):
                await all_of(track)


@pytest.mark.parametrize("who", ["caller", "callee"])
async def test_a_peer_is_destroyed_while_it_rings(who: str) -> None:
    """The other side need not wait to be told."""
    async with pair(take_calls=True) as (alice, bob):
        here = alice.ring("bob", stream())
        there = await bob.accept_call()
        await (alice if who == "caller" else bob).destroy()
        async with asyncio.timeout(10):
            assert isinstance(await there.closed(), PeerError)
            assert isinstance(await here.closed(), PeerError)


async def test_what_cannot_be_asked_for() -> None:
    async with pair(take_calls=True) as (alice, bob):
        with pytest.raises(UsageError):
            alice.ring("bob", video_codec="av1")
        with pytest.raises(UsageError):
            alice.ring("bob", metadata=object())
        here = alice.ring("bob", stream())
        there = await bob.accept_call()
        with pytest.raises(UsageError):
            here.answer()
        with pytest.raises(UsageError):
            there.answer(video_codec="av1")
        there.answer()
        with pytest.raises(UsageError):
            there.answer()
        await here.opened()


# Odd descriptions -----------------------------------------------------------------------------


async def test_a_transform_that_fails() -> None:
    async with pair() as (alice, _):
        with pytest.raises(WebRTCError):
            await alice.call("bob", sdp_transform=lambda sdp: sdp[1_000_000])


@asynccontextmanager
async def calls_from_a_page() -> AsyncIterator[tuple[ClientConnection, Peer]]:
    """A client that speaks to the broker by itself, and Bob, who takes calls."""
    async with (
        our_server() as url,
        make("bob", url, take_calls=True) as bob,
        clients.client(url, "page") as page,
    ):
        yield page, bob


SECTION = "m=video 9 UDP/TLS/RTP/SAVPF 97\r\nc=IN IP4 0.0.0.0\r\na=mid:{}\r\n"


@pytest.mark.parametrize(
    "sdp",
    ["", "v=0\r\n", "nonsense", SECTION.format(0), "".join(SECTION.format(mid) for mid in range(1_000))],
    ids=["empty", "nothing", "nonsense", "half", "too much"],
)
async def test_offers_that_cannot_be_answered(sdp: str) -> None:
    async with calls_from_a_page() as (page, bob):
        await clients.send(page, "OFFER", dst="bob", payload=payload("mc_1", sdp, type="media"))
        call = await bob.accept_call()
        call.answer(stream())
        assert isinstance(await call.closed(), ProtocolError)
        assert bob.open


async def test_a_call_of_peerjs_before_1_5() -> None:
    """It has no data channel: it ends with the encrypted session."""
    async with calls_from_a_page() as (page, bob):
        far_side = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        for track in stream().tracks:
            far_side.addTrack(track)
        await far_side.setLocalDescription()
        offer = payload("mc_1", far_side.localDescription.sdp, type="media")
        await clients.send(page, "OFFER", dst="bob", payload=offer)
        call = await bob.accept_call()
        call.answer(stream())
        answer = (await clients.receive(page))["payload"]["sdp"]["sdp"]
        await far_side.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await call.opened()
        await comes_through(call.remote_stream)
        await far_side.close()
        assert isinstance(await call.closed(), ConnectionClosed)


async def test_more_streams_than_anybody_asked_for() -> None:
    """Of several pictures the first is taken."""
    async with calls_from_a_page() as (page, bob):
        far_side = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        for track in (TwoColours(), Moving(160, 120), Moving(160, 120)):
            far_side.addTrack(track)
        await far_side.setLocalDescription()
        offer = payload("mc_1", far_side.localDescription.sdp, type="media")
        await clients.send(page, "OFFER", dst="bob", payload=offer)
        call = await bob.accept_call()
        call.answer()
        answer = (await clients.receive(page))["payload"]["sdp"]["sdp"]
        assert answer.count("a=inactive") == 2
        await far_side.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await call.opened()
        (video,) = call.remote_stream.tracks
        assert near(colours(await video.recv())[0], GREEN)
        await far_side.close()
