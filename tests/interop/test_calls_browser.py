"""Calls between the library and stock PeerJS in real browsers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from peercli.errors import ConnectionClosed
from peercli.peer.media import MediaConnection
from peercli.peer.peer import Peer
from tests.brokers import our_server
from tests.interop.browsers import Page, PageCall
from tests.tracks import GREEN, TONE, YELLOW, colours, level, near, stream

RED, BLUE = (255, 0, 0), (0, 0, 255)  # what the page sends
WITHIN = 20.0  # s; any one thing that a test waits for
AT_ONCE = 1.0  # s until the far side has seen that one hung up
BOTH = ("audio", "video")
ANSWERS = {"answered with a stream": BOTH, "answered without one": ()}


@pytest.fixture
def broker_url(background: Any) -> str:
    """A broker for all these tests."""
    url: str = background.get("broker for calls", our_server)
    return url


async def shows_our_stream(call: PageCall) -> None:
    """Fail unless the page sees and hears what we send."""
    assert await call.happened("stream") == ["audio", "video"]
    for _ in range(round(WITHIN / 0.2)):
        seen = await call.seen()
        heard = seen["packets"] > 10 and (seen["tone"] is None or abs(seen["tone"] - TONE) < 10)
        if heard and seen["frames"] > 5:
            break
        await asyncio.sleep(0.2)
    assert heard, seen
    assert (seen["width"], seen["height"]) == (320, 240)
    assert near(seen["left"], GREEN), seen
    assert near(seen["right"], YELLOW), seen


async def we_get_the_pages(call: MediaConnection) -> None:
    """Fail unless we see and hear what the page sends."""
    theirs = call.remote_stream
    assert theirs.audio is not None
    assert theirs.video is not None
    async with asyncio.timeout(WITHIN):
        while True:
            left, right = colours(await theirs.video.recv())
            if near(left, RED) and near(right, BLUE):
                break
        while level(await theirs.audio.recv()) < 0.01:
            pass


async def hang_up_there(call: PageCall, here: MediaConnection) -> None:
    """The page hangs up, and we see it at once."""
    start = time.monotonic()
    await call.close()
    async with asyncio.timeout(WITHIN):
        assert isinstance(await here.closed(), ConnectionClosed)
    assert time.monotonic() - start < AT_ONCE


async def hang_up_here(here: MediaConnection, call: PageCall) -> None:
    """We hang up, and the page sees it at once."""
    await call.happened("willCloseOnRemote")
    start = time.monotonic()
    await here.close()
    await call.happened("close")
    assert time.monotonic() - start < AT_ONCE


@pytest.mark.parametrize("answered", ANSWERS)
async def test_the_page_calls(page: Page, broker_url: str, answered: str) -> None:
    """We see its picture, it sees ours if there is one; then one of them hangs up."""
    async with Peer(server=broker_url, ice_servers=(), take_calls=True) as ours:
        theirs = await page.peer(broker_url)
        there = await theirs.call(ours.id, *BOTH, metadata={"from": "page"})
        async with asyncio.timeout(WITHIN):
            here = await ours.accept_call()
            assert here.metadata == {"from": "page"}
            here.answer(stream() if ANSWERS[answered] else None)
            await here.opened()
        await we_get_the_pages(here)
        if ANSWERS[answered]:
            await shows_our_stream(there)
            await hang_up_there(there, here)
        else:
            assert (await there.seen())["frames"] == 0
            await hang_up_here(here, there)


@pytest.mark.parametrize("answered", ANSWERS)
async def test_we_call_the_page(page: Page, broker_url: str, answered: str) -> None:
    """The same the other way round."""
    async with Peer(server=broker_url, ice_servers=()) as ours:
        theirs = await page.peer(broker_url)
        here = ours.ring(theirs.id, stream(), metadata=["from", 1])
        there = await theirs.accept_call()
        assert there.facts["metadata"] == ["from", 1]
        await there.answer(*ANSWERS[answered])
        async with asyncio.timeout(WITHIN):
            await here.opened()
        await shows_our_stream(there)
        if ANSWERS[answered]:
            await we_get_the_pages(here)
            await hang_up_here(here, there)
        else:
            assert here.remote_stream.tracks == []
            await hang_up_there(there, here)


async def test_we_call_without_a_stream(page: Page, broker_url: str) -> None:
    """The page may send its own all the same."""
    async with Peer(server=broker_url, ice_servers=()) as ours:
        theirs = await page.peer(broker_url)
        here = ours.ring(theirs.id)
        there = await theirs.accept_call()
        await there.answer(*BOTH)
        async with asyncio.timeout(WITHIN):
            await here.opened()
        await we_get_the_pages(here)
        assert (await there.seen())["frames"] == 0
        await hang_up_here(here, there)


async def test_the_page_calls_with_its_camera(page: Page, broker_url: str) -> None:
    """The browser's own, a fake with a picture that moves."""
    async with Peer(server=broker_url, ice_servers=(), take_calls=True) as ours:
        theirs = await page.peer(broker_url)
        await theirs.call(ours.id, "camera")
        async with asyncio.timeout(WITHIN):
            here = await ours.accept_call()
            here.answer()
            await here.opened()
            assert here.remote_stream.video is not None
            frames: list[Any] = [await here.remote_stream.video.recv() for _ in range(10)]
        assert frames[-1].width >= 320
        assert bytes(frames[0].planes[0]) != bytes(frames[-1].planes[0])


@pytest.mark.parametrize("kind", BOTH)
async def test_the_page_calls_with_one_kind(page: Page, broker_url: str, kind: str) -> None:
    """There is nothing of the other, either way."""
    async with Peer(server=broker_url, ice_servers=(), take_calls=True) as ours:
        theirs = await page.peer(broker_url)
        there = await theirs.call(ours.id, kind)
        async with asyncio.timeout(WITHIN):
            here = await ours.accept_call()
            here.answer(stream())
            await here.opened()
            (track,) = here.remote_stream.tracks
            assert track.kind == kind
            await track.recv()
        assert await there.happened("stream") == [kind]
        await hang_up_there(there, here)


async def test_h264_where_the_page_has_it(page: Page, broker_url: str) -> None:
    """It is used where it can be, and else the picture comes all the same."""
    async with Peer(server=broker_url, ice_servers=()) as ours:
        theirs = await page.peer(broker_url)
        here = ours.ring(theirs.id, stream(), video_codec="h264")
        there = await theirs.accept_call()
        await there.answer(*BOTH)
        async with asyncio.timeout(WITHIN):
            await here.opened()
        await shows_our_stream(there)
        await we_get_the_pages(here)
        has_h264 = await page.evaluate(
            "RTCRtpReceiver.getCapabilities('video').codecs.some(({ mimeType }) => mimeType == 'video/H264')"
        )
        sent = here.stats().video_sent
        assert sent is not None
        assert sent.codec == ("H264" if has_h264 else "VP8")


async def test_a_call_is_declined(page: Page, broker_url: str) -> None:
    """The page is told at once what it understands."""
    async with Peer(server=broker_url, ice_servers=(), take_calls=True) as ours:
        theirs = await page.peer(broker_url)
        await theirs.call(ours.id, *BOTH)
        async with asyncio.timeout(WITHIN):
            here = await ours.accept_call()
        here.decline()
        assert (await theirs.happened("error"))["type"] == "peer-unavailable"
