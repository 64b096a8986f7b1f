"""Encoders: whole pictures and differences, the size of a picture, and what is asked of Opus."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction
from typing import Any

import av
import pytest
from aiortc import rtcrtpreceiver
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from peercli.rtc.encoders import H264, Vp8, is_too_large, with_opus_parameters
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


@pytest.mark.parametrize("make", [Vp8, H264])
async def test_the_bitrate_is_met(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    """Higher or lower than before; in two seconds of a picture in which much changes."""
    pictures = await frames(240)
    monkeypatch.setattr(time, "monotonic", itertools.count(step=0.1).__next__)
    encoder, rest = make(), iter(enumerate(pictures))
    for bitrate in (800_000, 500_000, 1_500_000):
        sent = 0
        for number, frame in itertools.islice(rest, 80):
            frame.pts, frame.time_base = number * 3_000, Fraction(1, 90_000)
            encoded = encoder.encode(frame, bitrate=bitrate, keyframe=False)
            sent += sum(len(payload) for each in encoded for payload in each.payloads)
        assert bitrate / 2 < sent * 8 * 30 / 80 < bitrate * 3 / 2, bitrate


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


VP8 = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90_000, payloadType=97)


@pytest.mark.parametrize(
    ("data", "too_large"),
    [
        (b"", False),
        (b"\x00" * 9, False),
        (bytes.fromhex("10 00 00 9d 01 2a 00 05 d0 02"), False),  # 1280x720
        (bytes.fromhex("10 00 00 9d 01 2a ff 3f ff 3f"), True),
        (bytes.fromhex("11 00 00 9d 01 2a ff 3f ff 3f"), False),  # a difference has no size
    ],
)
def test_pictures_beyond_all_reason(data: bytes, too_large: bool) -> None:
    assert is_too_large(VP8, data) is too_large


def test_a_picture_of_h264_beyond_all_reason() -> None:
    encoder = av.CodecContext.create("libx264", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = 4096, 4096, "yuv420p"
    encoder.time_base = Fraction(1, 30)
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency"}
    (packet,) = encoder.encode(av.VideoFrame(4096, 4096, "yuv420p"))
    h264 = RTCRtpCodecParameters(mimeType="video/H264", clockRate=90_000, payloadType=99)
    decoder = rtcrtpreceiver.get_decoder(h264)  # type: ignore[attr-defined]
    with pytest.raises(av.FFmpegError):
        decoder.decode(JitterFrame(bytes(packet), 0))
