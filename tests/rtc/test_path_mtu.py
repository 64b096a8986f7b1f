"""The search for the path's MTU, against paths of every size."""

from __future__ import annotations

import pytest

from peercli.rtc.path_mtu import FALL_BACK_FOR, LADDER, MAX_PROBES, RAISE_INTERVAL, PathMtu

ETHERNET = 1_432


def search(mtu: PathMtu, capacity: int, now: float = 0.0) -> list[int]:
    """Answer probes as a path that takes `capacity` bytes, until there are no more; their sizes."""
    probes = []
    while (size := mtu.next_probe(now)) is not None:
        assert mtu.probing == size
        probes.append(size)
        (mtu.acked if size <= capacity else mtu.lost)(size, now)
    return probes


@pytest.mark.parametrize("capacity", [*LADDER, *(size + 3 for size in LADDER), 1_415, 2_043])
def test_finds_the_largest_that_fits(capacity: int) -> None:
    mtu = PathMtu()
    assert mtu.size == LADDER[0]
    probes = search(mtu, capacity)
    assert mtu.size == max(size for size in LADDER if size <= capacity)
    assert len(set(probes)) <= 3
    assert all(size > LADDER[0] for size in probes)


@pytest.mark.parametrize("most", LADDER)
def test_goes_no_further_than_it_may(most: int) -> None:
    mtu = PathMtu(most)
    assert all(size <= most for size in search(mtu, LADDER[-1]))
    assert mtu.size == most
    assert mtu.next_probe(2 * RAISE_INTERVAL) is None


def test_a_few_probes_may_be_lost() -> None:
    mtu = PathMtu()
    size = mtu.next_probe(0.0)
    assert size
    for _ in range(MAX_PROBES - 1):
        mtu.lost(size, 0.0)
        assert mtu.next_probe(0.0) == size
    mtu.acked(size, 0.0)
    assert mtu.size == size
    search(mtu, LADDER[-1])
    assert mtu.size == LADDER[-1]


def test_one_probe_at_a_time_and_no_answer_but_to_that() -> None:
    mtu = PathMtu()
    size = mtu.next_probe(0.0)
    assert size
    assert mtu.next_probe(0.0) is None
    mtu.acked(LADDER[-1], 0.0)
    mtu.lost(LADDER[-1], 0.0)
    assert mtu.size == LADDER[0]
    assert mtu.probing == size
    mtu.acked(size, 0.0)
    mtu.acked(size, 0.0)
    mtu.lost(size, 0.0)
    assert mtu.size == size


def test_a_path_that_grew_is_found_out_later() -> None:
    mtu = PathMtu()
    search(mtu, ETHERNET)
    assert search(mtu, LADDER[-1], RAISE_INTERVAL - 1) == []
    assert search(mtu, LADDER[-1], RAISE_INTERVAL + 1)
    assert mtu.size == LADDER[-1]


def test_a_black_hole() -> None:
    mtu = PathMtu()
    assert not mtu.fall_back(0.0)
    search(mtu, LADDER[-1])
    assert mtu.fall_back(100.0)
    assert mtu.size == LADDER[0]
    assert not mtu.fall_back(100.0)
    assert search(mtu, ETHERNET, 100.0 + FALL_BACK_FOR / 2) == []
    search(mtu, ETHERNET, 101.0 + FALL_BACK_FOR)
    assert mtu.size == ETHERNET
