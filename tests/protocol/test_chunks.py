"""Long messages in chunks: cut, put together in any order, and bounded whatever comes."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peercli.errors import ProtocolError
from peercli.protocol.binarypack import pack, unpack
from peercli.protocol.chunks import CHUNK_SIZE, MAX_PARTIAL, MAX_PIECES, ChunkError, Reassembler, split

LENGTHS = [1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 2 * CHUNK_SIZE, 5 * CHUNK_SIZE + 7]


def message(length: int, seed: int = 0) -> bytes:
    """Bytes in which no two stretches are alike."""
    return b"".join((seed + n).to_bytes(4, "big") for n in range(-(-length // 4)))[:length]


def chunk(n: Any = 0, total: Any = 2, data: Any = b"data", chunk_id: Any = 1) -> dict[str, Any]:
    """A chunk as it is unpacked."""
    return {"__peerData": chunk_id, "n": n, "total": total, "data": data}


def feed(reassembler: Reassembler, packed: Iterable[bytes]) -> list[bytes]:
    """The messages completed by packed chunks."""
    whole = (reassembler.add(unpack(wire)) for wire in packed)
    return [packed for packed in whole if packed is not None]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_message_is_cut_as_peerjs_cuts_it(length: int) -> None:
    chunks = [unpack(wire) for wire in split(message(length), 7)]
    assert [list(chunk) for chunk in chunks] == [["__peerData", "n", "data", "total"]] * len(chunks)
    assert {chunk["__peerData"] for chunk in chunks} == {7}
    assert {chunk["total"] for chunk in chunks} == {len(chunks)}
    assert [chunk["n"] for chunk in chunks] == list(range(len(chunks)))
    assert [len(chunk["data"]) for chunk in chunks[:-1]] == [CHUNK_SIZE] * (len(chunks) - 1)
    assert b"".join(chunk["data"] for chunk in chunks) == message(length)


def test_chunks_are_made_one_at_a_time() -> None:
    packed = bytes(20_000_000)
    tracemalloc.start()
    try:
        assert sum(len(unpack(wire)["data"]) for wire in split(packed, 1)) == len(packed)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@settings(deadline=None)
@given(
    lengths=st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4),
    random=st.randoms(use_true_random=False),
)
def test_chunks_of_several_messages_in_any_order(lengths: list[int], random: Random) -> None:
    messages = [message(length, seed) for seed, length in enumerate(lengths)]
    wires = [wire for chunk_id, packed in enumerate(messages, 1) for wire in split(packed, chunk_id)]
    random.shuffle(wires)
    assert sorted(feed(Reassembler(), wires)) == sorted(messages)


def test_an_id_can_be_used_again() -> None:
    reassembler = Reassembler()
    for seed in range(3):
        assert feed(reassembler, split(message(40_000, seed), 1)) == [message(40_000, seed)]


def test_only_unfinished_messages_count() -> None:
    """The limits are those of a moment, not of a connection's life."""
    reassembler = Reassembler(max_message_bytes=500)
    for _ in range(MAX_PIECES // 500 + 2):
        assert feed(reassembler, map(pack, (chunk(n, 500, b"x") for n in range(500)))) == [b"x" * 500]


@pytest.mark.parametrize(
    "bad",
    [
        chunk(total=2**32),
        chunk(total=2**64 - 1, n=2**63),
        chunk(total=0),
        chunk(total=-1, n=-2),
        chunk(total=1.0),
        chunk(total=True, n=False),
        chunk(total=None),
        chunk(n=2),
        chunk(n=-1),
        chunk(n=0.5),
        chunk(n="0"),
        chunk(data=b""),
        chunk(data="text"),
        chunk(data=None),
        chunk(data=[1, 2]),
        chunk(chunk_id=None),
        chunk(chunk_id="1"),
        chunk(chunk_id=[]),
        chunk(chunk_id={"type": "open"}),
        chunk(chunk_id=True),
        {},
        {"__peerData": 1},
        {"__peerData": 1, "n": 0, "total": 1},
    ],
    ids=repr,
)
def test_chunks_that_make_no_sense(bad: dict[str, Any]) -> None:
    reassembler = Reassembler()
    with pytest.raises(ChunkError):
        reassembler.add(bad)
    assert issubclass(ChunkError, ProtocolError)
    assert feed(reassembler, split(message(40_000), 1)) == [message(40_000)]


@pytest.mark.parametrize(
    ("second", "why"),
    [(chunk(n=0), "twice"), (chunk(n=0, data=b"else"), "twice"), (chunk(n=1, total=3), "differ")],
    ids=["duplicate", "overwritten", "another total"],
)
def test_chunks_that_contradict(second: dict[str, Any], why: str) -> None:
    reassembler = Reassembler()
    assert reassembler.add(chunk(n=0)) is None
    assert reassembler.add(chunk(n=1, chunk_id=2)) is None
    with pytest.raises(ChunkError, match=why):
        reassembler.add(second)
    # The message is forgotten, and no other.
    assert reassembler.add(chunk(n=1)) is None
    assert reassembler.add(chunk(n=0, chunk_id=2)) == b"datadata"


def test_a_missing_chunk_completes_nothing() -> None:
    wires = list(split(message(10 * CHUNK_SIZE), 1))
    reassembler = Reassembler()
    assert feed(reassembler, wires[:4] + wires[5:]) == []
    assert feed(reassembler, wires[4:5]) == [message(10 * CHUNK_SIZE)]


def test_the_longest_message() -> None:
    reassembler = Reassembler(max_message_bytes=50_000)
    assert feed(reassembler, split(bytes(50_000), 1)) == [bytes(50_000)]
    with pytest.raises(ChunkError, match="bigger than 50000"):
        feed(reassembler, split(bytes(50_001), 2))


def taken_until_error(reassembler: Reassembler, chunks: Iterator[dict[str, Any]]) -> int:
    """How many chunks, of which none completes a message, are taken before the first that is refused."""
    for taken, bad in enumerate(chunks):
        try:
            assert reassembler.add(bad) is None
        except ChunkError:
            return taken
    raise AssertionError("the flood ended first")


def distinct_messages() -> Iterator[dict[str, Any]]:
    """One chunk of ever new messages."""
    return (chunk(chunk_id=chunk_id) for chunk_id in itertools.count(1))


def tiny_pieces() -> Iterator[dict[str, Any]]:
    """One message in ever more pieces of a byte."""
    return (chunk(n=n, total=60_000_000, data=b"x") for n in itertools.count())


def unfinished_messages() -> Iterator[dict[str, Any]]:
    """Messages of which the last byte never comes, each as long as may be."""
    for chunk_id in itertools.count(1):
        for n in range(60):
            yield chunk(n=n, total=61, data=bytes(16_000), chunk_id=chunk_id)


@pytest.mark.parametrize(
    ("flood", "most"),
    [(distinct_messages, MAX_PARTIAL), (tiny_pieces, MAX_PIECES), (unfinished_messages, 125)],
)
def test_a_flood_ends_in_an_error_and_little_memory(
    flood: Callable[[], Iterator[dict[str, Any]]], most: int
) -> None:
    limit = 1_000_000 if flood is unfinished_messages else 64_000_000
    reassembler = Reassembler(max_message_bytes=limit)
    tracemalloc.start()
    try:
        assert taken_until_error(reassembler, flood()) == most
        assert tracemalloc.get_traced_memory()[1] < 16_000_000
    finally:
        tracemalloc.stop()


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
)
fields = st.sampled_from(["__peerData", "n", "total", "data"])


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    hostile=st.lists(
        st.dictionaries(fields, scalars).filter(lambda chunk: chunk.get("__peerData") not in (0, 1, 2, 3))
        | st.builds(chunk, st.integers(-1, 4), st.integers(-1, 4), st.binary(max_size=3), st.integers(4, 9)),
        max_size=30,
    ),
    random=st.randoms(use_true_random=False),
)
def test_hostile_chunks_do_no_harm_to_other_messages(
    sizes: list[int], hostile: list[dict[str, Any]], random: Random
) -> None:
    whole = [[f"{n} of {chunk_id}".encode() for n in range(total)] for chunk_id, total in enumerate(sizes)]
    good = [
        chunk(n, len(pieces), piece, chunk_id)
        for chunk_id, pieces in enumerate(whole)
        for n, piece in enumerate(pieces)
    ]
    chunks = good + hostile
    random.shuffle(chunks)
    reassembler, completed = Reassembler(), []
    for each in chunks:
        try:
            completed.append(reassembler.add(each))
        except ChunkError:
            assert each not in good
    assert {b"".join(pieces) for pieces in whole} <= set(completed)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.dictionaries(fields, scalars)
        | st.builds(chunk, st.integers(-1, 4), st.integers(-1, 4), st.binary(max_size=3), st.integers(0, 2)),
        max_size=30,
    )
)
def test_any_chunks_complete_a_message_or_raise_the_documented_error(chunks: list[dict[str, Any]]) -> None:
    reassembler = Reassembler(max_message_bytes=8, max_partial=2)
    for bad in chunks:
        try:
            whole = reassembler.add(bad)
        except ChunkError:
            continue
        assert whole is None or 1 <= len(whole) <= 8
