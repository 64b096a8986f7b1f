"""Frames, beside the library `websockets` as the client."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame
from websockets.frames import Opcode as Theirs
from websockets.streams import StreamReader

from peercli.server.frames import FrameError, FrameReader, Opcode, close_frame, frame, unmask_slowly

LIMIT = 100_000
SIZES = st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, LIMIT]) | st.integers(0, 300)


def sent(opcode: int, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(Theirs(opcode), payload, fin).serialize(mask=True)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(at)]


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 8, 9, 10]), SIZES), max_size=5),
    st.lists(st.integers(0, 1 << 20), max_size=5),
)
def test_reads_what_a_client_sends_however_it_is_cut(shape: list[tuple[int, int]], cuts: list[int]) -> None:
    messages = [
        (opcode, bytes([n]) * (size if opcode < 8 else min(size, 125)))
        for n, (opcode, size) in enumerate(shape)
    ]
    data = b"".join(sent(opcode, payload) for opcode, payload in messages)
    reader = FrameReader(LIMIT)
    assert [found for piece in cut(data, cuts) for found in reader.feed(piece)] == messages


@given(st.lists(st.binary(max_size=200), min_size=2, max_size=6), st.lists(st.integers(0, 2000), max_size=4))
def test_joins_what_comes_in_pieces_with_pings_between(pieces: list[bytes], cuts: list[int]) -> None:
    last = len(pieces) - 1
    data = b"".join(
        sent(0 if n else 1, piece, fin=n == last) + sent(9, b"?") for n, piece in enumerate(pieces)
    )
    reader = FrameReader(LIMIT)
    found = [message for part in cut(data, cuts) for message in reader.feed(part)]
    assert [message for message in found if message[0] == 1] == [(1, b"".join(pieces))]
    assert found.count((9, b"?")) == len(pieces)


@given(st.sampled_from(list(Opcode)), SIZES)
def test_a_client_reads_what_is_written(opcode: Opcode, size: int) -> None:
    payload = b"x" * (size if opcode < 8 else min(size, 125))
    stream = StreamReader()
    stream.feed_data(frame(opcode, payload))
    parser = Frame.parse(stream.read_exact, mask=False)
    with pytest.raises(StopIteration) as parsed:
        next(parser)
    assert parsed.value.value == Frame(Theirs(opcode), payload)


def test_a_long_reason_is_cut() -> None:
    assert close_frame(1008, "ü" * 200)[:4] == b"\x88\x7d\x03\xf0"
    assert Close.parse(close_frame(1000, "bye")[2:]) == Close(1000, "bye")


def read_bytewise(data: bytes) -> None:
    reader = FrameReader(LIMIT)
    for n in range(len(data)):
        reader.feed(data[n : n + 1])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (b"\xf1\x80\x00\x00\x00\x00", 1002),  # reserved bits
        (b"\x83\x80\x00\x00\x00\x00", 1002),  # opcodes that nobody has defined
        (b"\x8b\x80\x00\x00\x00\x00", 1002),
        (b"\x80\x80\x00\x00\x00\x00", 1002),  # a continuation of nothing
        (b"\x01\x80\x00\x00\x00\x00" * 2, 1002),  # a message inside another
        (b"\x09\x80\x00\x00\x00\x00", 1002),  # a ping in pieces
        (b"\x89\xfe\x00\x7e\x00\x00\x00\x00", 1002),  # a ping of 126 bytes
        (b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00", 1009),
        (sent(1, bytes(LIMIT + 1))[:14], 1009),  # seen by its header
        (sent(1, bytes(LIMIT), fin=False) + sent(0, b"x"), 1009),
    ],
    ids=map(str, range(11)),  # not the bytes: a mask is chosen by chance
)
def test_refuses(data: bytes, code: int) -> None:
    with pytest.raises(FrameError) as refused:
        read_bytewise(data)
    assert refused.value.code == code


def test_empty_pieces_weigh_nothing() -> None:
    reader = FrameReader(LIMIT)
    reader.feed(sent(1, b"", fin=False))
    for _ in range(10_000):
        assert reader.feed(sent(0, b"", fin=False)) == []
    assert reader.feed(sent(0, b"end")) == [(1, b"end")]


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmasking_without_c(payload: bytes, mask: bytes) -> None:
    expected = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    assert unmask_slowly(payload, mask) == expected
