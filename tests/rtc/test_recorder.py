"""Recordings of every kind, whatever comes to be recorded; and pictures as a terminal shows them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

import peercli.rtc.recorder
from peercli.errors import StorageFailed, UsageError
from peercli.rtc.mixer import SAMPLE
from peercli.rtc.pattern import TONE_AMPLITUDE, TONE_PITCH, Pattern, Tone
from peercli.rtc.recorder import Recorder, check_recording
from peercli.rtc.terminal import Style, render, style_of
from tests.clips import Recording, loudness, make_tone, usual_loudness

RATE = 48_000  # samples/s
BLOCK = 960  # samples
OWN_PITCH = 1000  # Hz


def sound(seconds: float, *, without: range = range(0)) -> Iterator[av.AudioFrame]:
    """The tone, in blocks, but for the blocks of these numbers."""
    tone = Tone()
    for number in range(int(seconds * RATE / BLOCK)):
        if number not in without:
            yield tone.play(number * BLOCK, BLOCK)


def pictures(seconds: float, *sizes: tuple[int, int]) -> Iterator[av.VideoFrame]:
    """The test picture, ten times a second, of one size after the other."""
    patterns = [Pattern(*size) for size in sizes]
    count = int(seconds * 10)
    for number in range(count):
        frame = patterns[number * len(patterns) // count].draw(number, 0, "00:00:00.000")
        frame.pts, frame.time_base = number * 9000, Fraction(1, 90_000)
        yield frame


async def record(path: Path, *frames: Iterator[av.AudioFrame] | Iterator[av.VideoFrame]) -> Recording:
    """A recording of frames whose clocks are one."""
    recorder = Recorder(str(path), {"audio", "video"} if len(frames) == 2 else {"audio"})
    for kind in frames:
        for frame in kind:
            recorder.take(frame, 1000.0)
    assert await recorder.close()
    return Recording.read(path)


@pytest.mark.parametrize(
    ("ending", "video", "audio"),
    [
        ("mp4", "h264", "aac"),
        ("mov", "h264", "aac"),
        ("mkv", "h264", "opus"),
        ("webm", "vp8", "opus"),
        ("ts", "h264", "aac"),
        ("m4a", None, "aac"),
        ("wav", None, "pcm_s16le"),
        ("flac", None, "flac"),
        ("ogg", None, "opus"),
        ("mp3", None, "mp3float"),
    ],
)
async def test_every_ending(tmp_path: Path, ending: str, video: str | None, audio: str) -> None:
    recording = await record(tmp_path / f"out.{ending}", pictures(2, (160, 120)), sound(2))
    assert recording.codecs == ({"video": video} if video else {}) | {"audio": audio}
    assert len(recording.pictures) == (20 if video else 0)
    assert 1.95 <= len(recording.samples) / RATE <= 2.05
    tone = loudness(recording.samples[RATE // 2 : RATE * 3 // 2], TONE_PITCH)
    assert tone == pytest.approx(TONE_AMPLITUDE, rel=0.1)


async def test_pictures_that_change_their_size(tmp_path: Path) -> None:
    """All have the first one's."""
    sizes = ((320, 240), (160, 120), (640, 360))
    recording = await record(tmp_path / "out.mkv", pictures(3, *sizes), sound(3))
    assert len(recording.pictures) == 30
    assert {(frame.width, frame.height) for _, frame in recording.pictures} == {(320, 240)}
    assert [mark and mark.counter for mark in recording.marks[:20]] == [*range(20)]


async def test_lost_sound_is_silence(tmp_path: Path) -> None:
    """What comes after it stays where it belongs."""
    recording = await record(tmp_path / "out.wav", sound(3, without=range(50, 100)))
    second = [loudness(recording.samples[start : start + RATE], TONE_PITCH) for start in (0, RATE, 2 * RATE)]
    assert second == pytest.approx([TONE_AMPLITUDE, 0, TONE_AMPLITUDE], abs=0.01)


async def test_a_far_side_whose_clock_runs_away_does_not_fill_the_disk(tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "out.wav"), {"audio"})
    for number, frame in enumerate(sound(0.2)):
        frame.pts = number * 1_000 * RATE
        recorder.take(frame, None)
    assert await recorder.close()
    assert (tmp_path / "out.wav").stat().st_size < 100 * RATE * SAMPLE


async def test_a_long_pause_is_as_long_in_the_recording(tmp_path: Path, play: Play) -> None:
    recorder = Recorder(str(tmp_path / "out.flac"), {"audio"})
    play((0.0, sound(200, without=range(50, 9950)), lambda frame: recorder.take(frame, None)))
    assert await recorder.close()
    recording = Recording.read(tmp_path / "out.flac")
    assert len(recording.samples) == pytest.approx(200 * RATE, rel=0.001)


class Play:
    """Frames that arrive when they are due, by a clock of its own: a busy machine makes none late."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(peercli.rtc.recorder, "time", SimpleNamespace(monotonic=lambda: self.now))

    def __call__(self, *parts: tuple[float, Iterator[Any], Callable[[Any], None]]) -> None:
        """Each part begins at its second, and its frames go to what takes them."""
        due = (
            (begins + float(frame.time or 0), take, frame) for begins, part, take in parts for frame in part
        )
        for at, take, frame in sorted(due, key=itemgetter(0)):
            self.now = at
            take(frame)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    return Play(monkeypatch)


def own_sound(tmp_path: Path, seconds: float) -> Iterator[av.AudioFrame]:
    with av.open(str(make_tone(tmp_path / "own-sound.wav", OWN_PITCH, seconds))) as clip:
        yield from clip.decode(audio=0)


def parts(recording: Recording, pitch: float, ends: list[float]) -> list[float]:
    """How loud a pitch is between moments, in seconds, but for 0.15 s beside each."""
    edges = [(round((a + 0.15) * RATE), round((b - 0.15) * RATE)) for a, b in pairwise(ends)]
    return [usual_loudness(recording.samples[a:b], pitch) for a, b in edges]


async def test_both_sides_of_a_conversation(tmp_path: Path, play: Play) -> None:
    """We begin to speak a second after the far side, and are heard for a second after it."""
    recorder = Recorder(str(tmp_path / "out.wav"), {"audio"}, with_own=True)
    theirs = 0.0, sound(2), lambda frame: recorder.take(frame, 1000.0)
    play(theirs, (1.0, own_sound(tmp_path, 2), recorder.take_own))
    assert await recorder.close()
    recording = Recording.read(tmp_path / "out.wav")
    assert parts(recording, TONE_PITCH, [0, 1, 2, 3]) == pytest.approx([TONE_AMPLITUDE] * 2 + [0], abs=0.03)
    assert parts(recording, OWN_PITCH, [0, 1, 2, 3]) == pytest.approx([0] + [TONE_AMPLITUDE] * 2, abs=0.03)


@pytest.mark.parametrize("ending", ["mkv", "mp3"])
async def test_the_far_side_sends_no_sound(tmp_path: Path, play: Play, ending: str) -> None:
    """Ours is the recording's."""
    recorder = Recorder(str(tmp_path / f"out.{ending}"), {"video"}, with_own=True)
    theirs = 0.0, pictures(1, (160, 120)), lambda frame: recorder.take(frame, 1000.0)
    play(theirs, (0.0, own_sound(tmp_path, 1), recorder.take_own))
    assert await recorder.close()
    recording = Recording.read(tmp_path / f"out.{ending}")
    assert len(recording.pictures) == (10 if ending == "mkv" else 0)
    assert parts(recording, OWN_PITCH, [0, 1]) == pytest.approx([TONE_AMPLITUDE], rel=0.1)


async def test_we_say_nothing(tmp_path: Path, play: Play) -> None:
    """The far side's sound is as it would be without us."""
    recorder = Recorder(str(tmp_path / "out.wav"), {"audio"}, with_own=True)
    play((0.0, sound(1), lambda frame: recorder.take(frame, None)))
    assert await recorder.close()
    recording = Recording.read(tmp_path / "out.wav")
    assert len(recording.samples) == RATE
    assert parts(recording, TONE_PITCH, [0, 1]) == pytest.approx([TONE_AMPLITUDE], abs=0.01)


async def test_nothing_came(tmp_path: Path) -> None:
    """No file is left."""
    recorder = Recorder(str(tmp_path / "out.mkv"), {"audio", "video"})
    assert not await recorder.close()
    assert os.listdir(tmp_path) == []


async def test_a_disk_that_is_full(tmp_path: Path) -> None:
    (tmp_path / "out.wav").symlink_to("/dev/full")
    recorder = Recorder(str(tmp_path / "out.wav"), {"audio"})
    for frame in sound(2):
        recorder.take(frame, None)
    with pytest.raises(StorageFailed, match="cannot be written: no space left"):
        await recorder.close()


async def test_an_encoder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = dataclasses.replace(peercli.rtc.recorder._FORMATS[".wav"], audio="no-such-codec")
    monkeypatch.setitem(peercli.rtc.recorder._FORMATS, ".wav", without)
    recorder = Recorder(str(tmp_path / "out.wav"), {"audio"})
    for frame in sound(0.1):
        recorder.take(frame, None)
    with pytest.raises(StorageFailed, match="cannot be written: no-such-codec"):
        await recorder.close()


@pytest.mark.parametrize("ending", ["mkv", "webm"])
async def test_pictures_of_one_pixel(tmp_path: Path, ending: str) -> None:
    recorder = Recorder(str(tmp_path / f"out.{ending}"), {"video"})
    for number in range(5):
        frame = av.VideoFrame(1, 1, "yuv420p")
        frame.pts, frame.time_base = number * 9000, Fraction(1, 90_000)
        recorder.take(frame, None)
    assert await recorder.close()
    assert recorder.frames == 5


def test_a_check_leaves_things_as_they_are(tmp_path: Path) -> None:
    kept = tmp_path / "kept.mp4"
    kept.write_bytes(b"something")
    check_recording(str(kept))
    check_recording(str(tmp_path / "new.mp4"))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.mp4"]
    assert kept.read_bytes() == b"something"
    for wrong in ("out.txt", "out", str(tmp_path / "none" / "out.mp4"), f"{tmp_path}.mkv/"):
        with pytest.raises(UsageError):
            check_recording(wrong)


def test_a_picture_in_a_terminal() -> None:
    """As big as fits, in the middle; its colours are those of the picture."""
    frame = av.VideoFrame(64, 32, "rgb24")
    row = bytes((250, 0, 0)) * 32 + bytes((0, 0, 250)) * 32
    frame.planes[0].update(row * 32)
    text = render(frame, 40, 20, "truecolor")
    assert text.count("▀") == 40 * 10
    assert text.startswith("\x1b[6;1H")
    assert "48;2;250;0;0m" in text
    assert "48;2;0;0;250m" in text
    assert "48;5;196m" in render(frame, 40, 20, "palette")
    letters = render(frame, 40, 20, "letters")
    assert {*letters.replace("\x1b", "")} <= {*" .:-=+*#%@[;H0123456789"}
    assert (
        render(frame, 40, 20, "kitty").count("\x1b_G") == render(frame, 40, 20, "kitty").count("\x1b\\") == 2
    )


@pytest.mark.parametrize(
    ("environment", "style"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "truecolor"),
        ({"TERM": "xterm-256color"}, "palette"),
        ({"TERM": "xterm-kitty", "COLORTERM": "truecolor"}, "kitty"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "COLORTERM": "truecolor"}, "truecolor"),
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor", "NO_COLOR": "1"}, "letters"),
        ({}, "letters"),
    ],
)
def test_how_a_terminal_is_drawn_on(environment: dict[str, str], style: Style) -> None:
    assert style_of(environment) == style
