"""What is sent in calls: files of all kinds, pipes, devices, and how they begin, keep time and end."""

from __future__ import annotations

import asyncio
import os
import struct
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from aiortc.mediastreams import MediaStreamError

from peercli.errors import ConnectionLost, UsageError
from peercli.rtc import inputs, sources
from peercli.rtc.devices import Driver
from peercli.rtc.pattern import Pattern, Witness, read_mark
from peercli.rtc.sources import Source, open_source
from tests.clips import make_clip


@dataclass
class Got:
    """The frames of one call."""

    pictures: list[Any] = field(default_factory=list)
    blocks: list[Any] = field(default_factory=list)

    @property
    def times(self) -> list[float]:
        return [round(float(frame.time), 3) for frame in self.pictures]


async def take_all(source: Source, most: float = 30.0) -> Got:
    """Everything that one call is given, for `most` seconds."""
    got, stream = Got(), source.stream()

    async def take(track: Any) -> None:
        try:
            while True:
                frame = await track.recv()
                (got.blocks if track.kind == "audio" else got.pictures).append(frame)
        except MediaStreamError:
            pass

    await asyncio.wait([asyncio.create_task(take(track)) for track in stream.tracks], timeout=most)
    for track in stream.tracks:
        track.stop()
    await asyncio.sleep(0)
    return got


@asynccontextmanager
async def opened(**options: Any) -> AsyncIterator[Source]:
    """A source for the block, whose threads are gone after it."""
    before = threading.active_count()
    source = await open_source(**options)
    try:
        yield source
    finally:
        await source.close()
    assert threading.active_count() <= before


async def test_a_file_ends_and_its_times_are_kept(tmp_path: Path) -> None:
    """Pictures that do not come evenly; sound in blocks of 20 ms without a gap."""
    times = [0.0, 0.04, 0.2, 0.21, 0.5, 0.9]
    clip = make_clip(tmp_path / "clip.mkv", seconds=1, size=(160, 120), times=times)
    async with opened(file=str(clip)) as source:
        assert source.kinds == {"audio", "video"}
        got = await take_all(source)
        await source.ended()
    assert got.times == times
    assert [read_mark(frame) and read_mark(frame).counter for frame in got.pictures] == [*range(6)]  # type: ignore[union-attr]
    assert {(block.samples, block.sample_rate, block.layout.name) for block in got.blocks} == {
        (960, 48_000, "stereo")
    }
    assert [block.pts for block in got.blocks] == [*range(0, 960 * len(got.blocks), 960)]
    assert 48 <= len(got.blocks) <= 50


@pytest.mark.parametrize("kinds", [{"video"}, {"audio"}], ids=str)
async def test_one_kind_alone(tmp_path: Path, kinds: set[str]) -> None:
    clip = make_clip(
        tmp_path / "clip.mkv", seconds=0.5, size=(160, 120), video="video" in kinds, audio="audio" in kinds
    )
    async with opened(file=str(clip)) as source:
        assert source.kinds == kinds
        got = await take_all(source)
    assert (bool(got.pictures), bool(got.blocks)) == ("video" in kinds, "audio" in kinds)
    (other,) = {"video", "audio"} - kinds
    with pytest.raises(UsageError, match=f"has no {other}"):
        await open_source(**{other: str(clip)})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("matrix", "size", "back"),
    [
        ((1, 0, 0, 1), (160, 120), "null"),
        ((0, 1, -1, 0), (120, 160), "transpose=cclock"),  # as a phone held upright has it
        ((-1, 0, 0, -1), (160, 120), "hflip,vflip"),
        ((0, -1, 1, 0), (120, 160), "transpose=clock"),
    ],
)
async def test_a_phone_that_was_turned(
    tmp_path: Path, matrix: tuple[int, ...], size: tuple[int, int], back: str
) -> None:
    """Pictures are sent as they are to be seen, whichever way the sensor was."""
    clip = make_clip(tmp_path / "clip.mp4", seconds=0.2, size=(160, 120), audio=False)
    a, b, c, d = (value << 16 for value in matrix)
    data = bytearray(clip.read_bytes())
    at = data.index(b"tkhd") + 44  # ISO 14496-12 section 8.3.2
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(data)
    async with opened(file=str(clip)) as source:
        got = await take_all(source)
    assert len(got.pictures) == 6
    assert {(frame.width, frame.height) for frame in got.pictures} == {size}
    lying = [*filtered(got.pictures, back)]
    assert [mark and mark.counter for mark in map(read_mark, lying)] == [*range(6)]


def filtered(pictures: list[av.VideoFrame], filters: str) -> Iterator[av.VideoFrame]:
    """What FFmpeg's filters make of pictures of one size."""
    graph = av.filter.Graph()
    nodes = [graph.add(*each.split("=")) for each in filters.split(",")]
    first = pictures[0]
    source = graph.add_buffer(
        width=first.width, height=first.height, format=first.format, time_base=Fraction(1, 90_000)
    )
    graph.link_nodes(source, *nodes, graph.add("buffersink")).configure()
    for picture in pictures:
        graph.vpush(picture)
        yield graph.vpull()


async def test_odd_sizes_and_sizes_asked_for(tmp_path: Path) -> None:
    """Both sides even, as codecs want them; what is asked for is filled as far as the shape allows."""
    clip = make_clip(tmp_path / "clip.mkv", seconds=0.2, size=(321, 241), audio=False)
    for size, expected in ((None, (320, 240)), ((160, 160), (160, 120)), ((999, 99), (132, 98))):
        async with opened(file=str(clip), size=size) as source:
            got = await take_all(source)
        assert {(frame.width, frame.height) for frame in got.pictures} == {expected}
        assert {frame.format.name for frame in got.pictures} == {"yuv420p"}


async def test_fewer_pictures_a_second(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", seconds=1, size=(160, 120), audio=False)
    async with opened(file=str(clip), fps=10) as source:
        got = await take_all(source)
    assert 9 <= len(got.pictures) <= 12


async def test_over_and_over(tmp_path: Path) -> None:
    """A second round follows the first one without a step in time."""
    clip = make_clip(tmp_path / "clip.mkv", seconds=0.4, size=(160, 120))
    async with opened(file=str(clip), loop=True) as source:
        got = await take_all(source, most=2.5)
    numbers = [mark.counter for frame in got.pictures if (mark := read_mark(frame))]
    assert len(numbers) > 24
    assert numbers == [number % 12 for number in range(len(numbers))]
    assert got.times == sorted(got.times)


async def test_calls_share_a_source_and_a_slow_one_drops(tmp_path: Path) -> None:
    async with opened(video="test", size=(160, 120)) as source:
        quick, slow = asyncio.create_task(take_all(source, most=2)), source.stream()
        assert slow.video is not None
        await slow.video.recv()
        got = await quick
        late = [await slow.video.recv() for _ in range(10)]
        slow.video.stop()
        assert source.dropped > 0
    assert len(got.pictures) > 30
    assert {frame.pts for frame in got.pictures} & {frame.pts for frame in late}


async def test_the_picture_and_the_tone_know_themselves() -> None:
    witness = Witness()
    async with opened(video="test", audio="test") as source:
        got = await take_all(source, most=1)
    for frame in (*got.pictures, *got.blocks):
        witness.take(frame)
    assert witness.pictures == len(got.pictures) > 5
    assert witness.pitch == pytest.approx(440, abs=5)


def test_every_scaled_copy_of_a_mark_can_be_read() -> None:
    for size in ((160, 120), (640, 480), (1280, 720), (400, 200)):
        frame = Pattern(*size).draw(123_456, 4_000_000_000, "12:34:56.789")
        for width in (80, 160, 500, size[0]):
            copy = frame.reformat(width=width, height=width * size[1] // size[0] & ~1)
            assert read_mark(copy) == (123_456, 4_000_000_000), (size, width)
    grey = av.VideoFrame(160, 120, "gray")
    for value in (0, 128, 255):
        grey.planes[0].update(bytes([value]) * grey.planes[0].buffer_size)
        assert read_mark(grey) is None


async def test_a_pipe_that_is_silent_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing does not wait for whoever does not write."""
    reading, writing = os.pipe()
    kept = os.dup(0)
    os.dup2(reading, 0)
    try:
        opening = asyncio.create_task(open_source(file="-"))
        await asyncio.sleep(0.3)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert not any(thread.name == "stdin" for thread in threading.enumerate())
    finally:
        os.dup2(kept, 0)
        for fd in (kept, reading, writing):
            os.close(fd)


@pytest.mark.parametrize("method", ["open", "frames"])
async def test_a_fault_while_a_file_is_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Of whatever kind it is: it must not look like waiting, nor like the end."""

    def fail(*_: object) -> None:
        raise RuntimeError("odd")

    async def play(path: Path) -> None:
        async with opened(file=str(path)) as source:
            source.start()
            await source.ended()

    monkeypatch.setattr(inputs.Recording, method, fail)
    with pytest.raises((RuntimeError, ConnectionLost), match="odd"):
        await play(make_clip(tmp_path / "clip.mkv", seconds=0.2))


async def test_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's test device in the place of v4l2: pictures as they come, none of them kept for later."""
    driver = Driver("lavfi", "testsrc2=size=320x240:rate=20,realtime", wishes={"video_size": "64x48"})
    monkeypatch.setattr(sources, "driver_for", lambda *_: driver)
    async with opened(video="camera", size=(160, 120)) as source:
        assert source.kinds == {"video"}
        await asyncio.sleep(0.5)  # while it rings
        got = await take_all(source, most=1.5)
    assert {(frame.width, frame.height, frame.time_base) for frame in got.pictures} == {
        (160, 120, Fraction(1, 90_000))
    }
    assert got.times == sorted(got.times)
    assert got.times[0] < 0.4
    assert len(got.pictures) > 10


async def test_a_device_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver("lavfi", "testsrc2=size=320x240:rate=20:duration=0.5,realtime")
    monkeypatch.setattr(sources, "driver_for", lambda *_: driver)
    async with opened(video="camera") as source:
        await take_all(source)
        with pytest.raises(ConnectionLost, match="is gone"):
            await source.ended()
