"""The bitrate that a path takes, as the far side reports it."""

from __future__ import annotations

import pytest

from peercli.rtc.bitrate import GROWTH, MIN_BITRATE, START_BITRATE, Bitrate


def test_the_bitrate_has_a_limit_and_a_floor() -> None:
    bitrate = Bitrate()
    bitrate.limit = 10 * START_BITRATE
    assert bitrate.target == START_BITRATE
    bitrate.limit = 500_000
    assert bitrate.target == 500_000
    bitrate.estimated(300_000)
    assert bitrate.target == 300_000
    bitrate.estimated(0)
    assert bitrate.target == MIN_BITRATE
    bitrate.limit = 50_000
    assert bitrate.target == 50_000


def test_the_bitrate_follows_losses() -> None:
    bitrate = Bitrate()
    bitrate.limit = 10 * START_BITRATE
    bitrate.reported(0.0, 0)
    assert bitrate.target == pytest.approx(START_BITRATE * GROWTH, rel=0.01)
    before = bitrate.target
    bitrate.reported(0.05, 1)
    assert bitrate.target == before
    bitrate.reported(0.2, 2)
    assert bitrate.target == pytest.approx(before * 0.9, rel=0.01)
    for second in range(3, 60):
        bitrate.reported(0.0, second)
    assert bitrate.target == bitrate.limit
    for second in range(60, 120):
        bitrate.reported(0.9, second)
    assert bitrate.target == MIN_BITRATE


def test_what_another_limit_holds_down_has_not_been_tried() -> None:
    bitrate = Bitrate()
    bitrate.limit = 20 * START_BITRATE
    bitrate.estimated(500_000)
    for second in range(60):
        bitrate.reported(0.0, second)
    bitrate.estimated(10 * START_BITRATE)
    assert bitrate.target <= START_BITRATE * GROWTH
