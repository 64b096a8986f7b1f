"""Packets into frames: in order, out of order, and with some missing."""

from __future__ import annotations

import random

import pytest
from aiortc.rtp import RtpPacket

from peercli.rtc.jitter import ASK_AGAIN, MAX_AHEAD, MAX_ASKS, FrameBuffer, Missing

PATIENCE = 1.0


def packet(number: int, frame: int, *, last: bool = False, data: bytes | None = None) -> RtpPacket:
    """A packet of a frame; its number wraps."""
    made = RtpPacket(payload_type=97, sequence_number=number % 65_536, timestamp=frame * 3_000)
    made.marker = int(last)
    made._data = b"%d." % number if data is None else data  # type: ignore[attr-defined]
    return made


def pictures(start: int, frames: int, size: int = 3) -> list[RtpPacket]:
    """The packets of so many frames of `size` packets each."""
    return [
        packet(start + frame * size + part, frame, last=part == size - 1)
        for frame in range(frames)
        for part in range(size)
    ]


def take(buffer: FrameBuffer, now: float = 0.0) -> list[bytes]:
    """The contents of the frames that are ready."""
    return [frame.data for _, frame in buffer.frames(now)]


def video() -> FrameBuffer:
    return FrameBuffer(patience=PATIENCE, is_video=True)


def test_a_frame_is_given_with_its_last_packet() -> None:
    buffer = video()
    for each in pictures(65_530, 4):
        buffer.add(each)
        assert len(take(buffer)) == each.marker


def test_frames_without_markers() -> None:
    buffer = video()
    for number in range(6):
        buffer.add(packet(number, number // 2))
    assert take(buffer) == [b"0.1.", b"2.3."]


@pytest.mark.parametrize("seed", range(20))
def test_any_order_gives_the_same_frames(seed: int) -> None:
    buffer, sent = video(), pictures(65_500, 30)
    buffer.add(sent[0])
    shuffled = sent[1:] + sent[10:20]  # some twice
    random.Random(seed).shuffle(shuffled)
    found = take(buffer)
    for each in shuffled:
        buffer.add(each)
        found += take(buffer)
    assert b"".join(found) == b"".join(each._data for each in sent)  # type: ignore[attr-defined]
    assert len(found) == 30
    assert not buffer.broken


def test_what_was_held_up_is_caught_up_with() -> None:
    buffer, sent = video(), pictures(0, 5)
    for each in sent[:4] + sent[5:]:
        buffer.add(each)
    assert len(take(buffer)) == 1
    assert len(take(buffer, PATIENCE / 2)) == 0
    buffer.add(sent[4])
    assert len(take(buffer, PATIENCE / 2)) == 4
    assert not buffer.broken


def test_a_picture_that_stays_away_is_given_up() -> None:
    buffer, sent = video(), pictures(0, 5)
    for each in sent[:4] + sent[5:]:
        buffer.add(each)
    take(buffer)
    # What begins the first frame behind the gap might have been lost with it.
    assert take(buffer, PATIENCE) == [b"6.7.8.", b"9.10.11.", b"12.13.14."]
    assert buffer.broken
    buffer.add(sent[4])  # too late
    assert take(buffer, PATIENCE) == []
    assert not buffer.awaits(4)


def test_sound_goes_on_with_the_next_packet() -> None:
    buffer = FrameBuffer(patience=PATIENCE, is_video=False)
    for number in (0, 1, 3, 5):
        buffer.add(packet(number, number))
    assert take(buffer) == [b"0.", b"1."]
    assert take(buffer, PATIENCE) == [b"3."]
    assert take(buffer, 2 * PATIENCE) == [b"5."]
    assert not buffer.broken


def test_padding_is_no_frame() -> None:
    buffer = video()
    for each in (packet(0, 0, last=True), packet(1, 0, data=b""), packet(2, 1, last=True)):
        buffer.add(each)
    assert take(buffer) == [b"0.", b"2."]


@pytest.mark.parametrize("jump", [MAX_AHEAD + 1, 30_000, -1_000])
def test_a_stream_that_begins_anew(jump: int) -> None:
    buffer = video()
    for each in pictures(40_000, 2) + pictures(40_000 + jump, 2):
        buffer.add(each)
    assert len(take(buffer)) == 2
    assert buffer.broken


def test_hostile_numbers_do_no_harm() -> None:
    buffer, chance = video(), random.Random(1)
    for step in range(5_000):
        buffer.add(packet(chance.randrange(65_536), chance.randrange(100), last=chance.random() < 0.3))
        take(buffer, step / 100)
        assert len(buffer._packets) <= MAX_AHEAD + 1


def test_asking_for_what_is_missing() -> None:
    buffer = video()
    missing = Missing(buffer)
    sent = pictures(65_530, 4)

    def come(*numbers: int) -> None:
        for number in numbers:
            buffer.add(sent[number])
            assert not missing.add(sent[number])

    come(0, 1, 2, 5, 7)
    gone = [each.sequence_number for each in (sent[3], sent[4], sent[6])]
    assert missing.due(0) == sorted(gone)
    assert missing.due(ASK_AGAIN / 2) == []
    come(3)
    assert missing.due(ASK_AGAIN) == sorted(gone[1:])
    come(8, 9)
    for asks in range(2, 20):
        assert bool(missing.due(asks * ASK_AGAIN)) == (asks < MAX_ASKS)
    buffer.frames(0)
    buffer.frames(PATIENCE)
    assert not missing.due(100)
    assert not missing.missing
