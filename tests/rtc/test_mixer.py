"""The sound of both sides of a call: mixed, each where it was heard."""

from __future__ import annotations

import array

import pytest

from peercli.rtc.mixer import RATE, Mixer, mixed

BLOCK = 960  # samples: 20 ms


def level(value: int, samples: int = BLOCK) -> bytes:
    return array.array("h", [value] * 2 * samples).tobytes()


def heard(pcm: bytes) -> list[tuple[int, int]]:
    """Runs of one value: the value, and for how many samples."""
    runs: list[tuple[int, int]] = []
    for value in array.array("h", pcm)[::2]:
        last, length = runs[-1] if runs else (None, 0)
        runs[-1:] = [(value, length + 1)] if value == last else [*runs[-1:], (value, 1)]
    return runs


@pytest.mark.parametrize(
    ("one", "other", "sum"),
    [(1, 2, 3), (-5, 3, -2), (32767, 1, 32767), (-32768, -1, -32768), (32767, -32768, -1)],
)
def test_a_sum_is_clipped(one: int, other: int, sum: int) -> None:
    assert mixed(level(one), level(other)) == level(sum)


def test_nothing_is_nothing() -> None:
    mixer = Mixer()
    assert mixer.take(1e6) == mixer.rest() == mixed(b"", b"") == b""


def test_clocks_of_their_own() -> None:
    """Jitter is not heard; what one side sends before the other is heard before it."""
    mixer, pcm = Mixer(), b""
    for number in range(100):
        at, jitter = number * 0.02, 0.03 * (number % 3)
        if number >= 50:
            mixer.add("own", level(10), 7000 + at, 500 + at)
        mixer.add("far", level(1), at, 500 + at + jitter)
        pcm += mixer.take(500 + at)
    assert heard(pcm + mixer.rest()) == [(1, 50 * BLOCK), (11, 50 * BLOCK)]


def test_sound_goes_on_after_a_pause() -> None:
    """It comes later than its own clock says, and its place is where it is heard."""
    mixer, pcm = Mixer(), b""
    for number in range(100):
        at, now = number * 0.02, number * 0.02 + (5.0 if number >= 50 else 0.0)
        assert mixer.add("own", level(1), at, now) == pytest.approx(now)
        pcm += mixer.take(now)
    assert heard(pcm + mixer.rest()) == [(1, 50 * BLOCK), (0, 5 * RATE), (1, 50 * BLOCK)]


def test_a_clock_that_leaps() -> None:
    """Whatever a far side's times are, its sound is put at about now."""
    mixer = Mixer()
    for now, at in enumerate([0.0, 1e9, -1e9, 3.0, 4.0, 95_000.0]):
        placed = mixer.add("far", level(1), at, float(now))
        assert placed == pytest.approx(now, abs=0.5)
        assert len(mixer.take(float(now))) <= 2 * RATE * 4
