from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from peercli.sctp.ranges import Ranges, unwrap

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 12)), max_size=30)


def built(parts: list[tuple[int, int]]) -> tuple[Ranges, set[int]]:
    ranges, model = Ranges(), set[int]()
    for start, length in parts:
        wanted = set(range(start, start + length))
        new = ranges.add(start, start + length)
        assert all(first < last for first, last in new)
        assert [number for part in new for number in range(*part)] == sorted(wanted - model)
        model |= wanted
    return ranges, model


@given(RANGES)
def test_ranges_behave_as_a_set(parts: list[tuple[int, int]]) -> None:
    ranges, model = built(parts)
    assert {number for number in range(80) if number in ranges} == model
    assert all(end < start for end, start in zip(ranges.ends, ranges.starts[1:], strict=False))
    assert len(ranges) == len(ranges.starts) == len(ranges.ends)


@given(RANGES, st.integers(0, 60), st.integers(0, 20))
def test_gaps_are_what_is_not_there(parts: list[tuple[int, int]], start: int, length: int) -> None:
    ranges, model = built(parts)
    gaps = ranges.gaps(start, start + length)
    assert [number for gap in gaps for number in range(*gap)] == sorted(
        set(range(start, start + length)) - model
    )


@given(RANGES, st.integers(0, 80))
def test_what_is_below_can_be_dropped(parts: list[tuple[int, int]], limit: int) -> None:
    ranges, model = built(parts)
    ranges.drop_below(limit)
    assert {number for number in range(80) if number in ranges} == {n for n in model if n >= limit}


@given(st.integers(2**32, 2**40), st.integers(-(2**31), 2**31 - 1))
def test_unwrapping_finds_the_number_that_was_cut(near: int, distance: int) -> None:
    assert unwrap((near + distance) & 0xFFFFFFFF, near) == near + distance
