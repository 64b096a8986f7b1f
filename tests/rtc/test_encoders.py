"""Encoders: whole pictures and differences, the size of a picture, and what is asked of Opus."""

from __future__ import annotations

import itertools
import time
from typing import Any

import pytest

from peercli.rtc.encoders import H264, Vp8, with_opus_parameters
from tests.tracks import Moving


async def frames(count: int) -> list[Any]:
    """Some of a moving picture, of 640x480."""
    track = Moving(rate=1_000)
    return [await track.recv() for _ in range(count)]


@pytest.mark.parametrize("make", [Vp8, H264])
async def test_encoders(make: Any) -> None:
    encoder = make()
    pictures = await frames(30)
    sizes = [
        sum(
            len(payload)
            for sent in encoder.encode(frame, bitrate=900_000, keyframe=False)
            for payload in sent.payloads
        )
        for frame in pictures
    ]
    assert sizes[0] > 2 * max(sizes[1:])  # whole once, differences after
    (whole,) = encoder.encode((await frames(1))[0], bitrate=900_000, keyframe=True)
    assert sum(map(len, whole.payloads)) > 2 * max(sizes[1:])
    assert max(map(len, whole.payloads)) <= 1_300


@pytest.mark.parametrize("make", [Vp8, H264])
async def test_the_size_of_a_picture_follows_the_bitrate(make: Any) -> None:
    encoder = make()
    (frame,) = await frames(1)
    widths = []
    for bitrate in (900_000, 250_000, 250_000, 20_000, 20_000, 250_000, 3_000_000, 3_000_000):
        frame.pts += 3_000
        encoder.encode(frame, bitrate=bitrate, keyframe=False)
        widths.append(encoder._codec.width)
    assert widths == [640, 320, 320, 160, 160, 320, 640, 640]


async def test_vp8_begins_anew_only_for_good_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time costs a whole picture."""
    (frame,) = await frames(1)
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    encoder = Vp8()
    opened = set()
    for step in range(40):
        frame.pts += 3_000
        encoder.encode(frame, bitrate=900_000 + step * 10_000, keyframe=False)
        opened.add(id(encoder._codec))
    assert len(opened) <= 3


SDP = "m=audio 9 X 111\r\na=rtpmap:111 opus/48000/2\r\na=rtpmap:0 PCMU/8000\r\n"


def test_opus_is_asked_for_in_stereo() -> None:
    asked = with_opus_parameters(SDP)
    assert asked.splitlines()[2].startswith("a=fmtp:111 ")
    assert "stereo=1" in asked
    assert asked.replace(asked.splitlines(keepends=True)[2], "") == SDP
    assert with_opus_parameters(asked) == asked
    assert with_opus_parameters("m=video 9 X 97\r\n") == "m=video 9 X 97\r\n"
