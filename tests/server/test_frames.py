"""Frames, beside the library `websockets` as the client."""

from __future__ import annotations

from itertools import count, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close, Frame
from websockets.frames import Opcode as Theirs
from websockets.protocol import Protocol, Side, State
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
        (opcode, b"\x03\xe8" if opcode == 8 else bytes([n]) * (size if opcode < 8 else min(size, 125)))
        for n, (opcode, size) in enumerate(shape)
    ]
    data = b"".join(sent(opcode, payload) for opcode, payload in messages)
    reader = FrameReader(LIMIT)
    assert [found for piece in cut(data, cuts) for found in reader.feed(piece)] == messages


@given(st.lists(st.binary(max_size=200), min_size=2, max_size=6), st.lists(st.integers(0, 2000), max_size=4))
def test_joins_what_comes_in_pieces_with_pings_between(pieces: list[bytes], cuts: list[int]) -> None:
    last = len(pieces) - 1
    data = b"".join(
        sent(0 if n else 2, piece, fin=n == last) + sent(9, b"?") for n, piece in enumerate(pieces)
    )
    reader = FrameReader(LIMIT)
    found = [message for part in cut(data, cuts) for message in reader.feed(part)]
    assert [message for message in found if message[0] == 2] == [(2, b"".join(pieces))]
    assert found.count((9, b"?")) == len(pieces)
    assert found.count((0, b"")) == last


@given(st.text(max_size=40), st.lists(st.integers(0, 200), max_size=4))
def test_text_may_be_cut_inside_a_character(text: str, cuts: list[int]) -> None:
    pieces = cut(text.encode(), cuts)
    data = b"".join(sent(0 if n else 1, piece, fin=n == len(cuts)) for n, piece in enumerate(pieces))
    assert FrameReader(LIMIT).feed(data)[-1] == (1, text.encode())


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
    assert Close.parse(close_frame(1008, "ü" * 200)[2:]) == Close(1008, "ü" * 61)
    assert len(close_frame(1008, "u" * 200)) == 2 + 125
    assert Close.parse(close_frame(1000, "bye")[2:]) == Close(1000, "bye")


CODES_THAT_ARE_NONE = (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65_535)


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
def test_close_codes(code: int) -> None:
    payload = code.to_bytes(2, "big") + "tschüß".encode()
    assert FrameReader(LIMIT).feed(sent(8, payload)) == [(8, payload)]
    assert FrameReader(LIMIT).feed(sent(8, b"")) == [(8, b"")]


Heard = list[tuple[int, bytes]]
PAYLOADS = st.sampled_from(
    [b"", b"x", "é".encode(), b"\xc3", b"\xa9", b"\x03\xe8", b"\x03\xed", b"\x03\xe8\xff"]
)
MOSTLY = st.sampled_from([True] * 7 + [False])


@st.composite
def any_frame(draw: st.DrawFn) -> bytes:
    """A client's frame, more often than not as it should be."""
    opcode = draw(st.sampled_from([0, 0, 1, 1, 2, 8, 9, 10, 3, 15]))
    rsv = 0 if draw(MOSTLY) else draw(st.sampled_from([0x10, 0x20, 0x40]))
    payload = draw(PAYLOADS | st.binary(max_size=200))
    size = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
    masked = draw(MOSTLY)
    first, second = draw(st.sampled_from([0x80, 0])) | rsv | opcode, size[0] | (0x80 if masked else 0)
    return bytes([first, second]) + size[1:] + (bytes(4) if masked else b"") + payload


def read_by_ours(frames: list[bytes]) -> tuple[Heard, int | None]:
    reader, heard = FrameReader(LIMIT), []
    for data in frames:
        try:
            heard += [message for message in reader.feed(data) if message[0] != 0]
        except FrameError as error:
            return heard, error.code
        if heard and heard[-1][0] == 8:
            break  # nothing counts any more
    return heard, None


def read_by_websockets(frames: list[bytes]) -> tuple[Heard, int | None]:
    protocol, heard = Protocol(Side.SERVER, state=State.OPEN), []
    pieces: list[bytes] = []
    kind = 0
    for data in frames:
        if data[0] == 0x88:
            # It would have a message end before a close, which RFC 6455 does not ask.
            protocol = Protocol(Side.SERVER, state=State.OPEN)
        protocol.receive_data(data)
        for event in protocol.events_received():
            assert isinstance(event, Frame)
            if event.opcode >= 8:
                heard.append((int(event.opcode), bytes(event.data)))
                continue
            kind = int(event.opcode) or kind
            pieces.append(bytes(event.data))
            if event.fin:
                heard.append((kind, b"".join(pieces)))
                pieces.clear()
                if kind == 1 and not is_utf8(heard[-1][1]):  # which it leaves to its caller
                    return heard[:-1], 1007
        if protocol.parser_exc is not None:
            if heard and heard[-1][0] == 8:
                heard.pop()
            return heard, 1007 if isinstance(protocol.parser_exc, UnicodeDecodeError) else 1002
        if heard and heard[-1][0] == 8:
            break
    return heard, None


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@settings(max_examples=200)
@given(st.lists(any_frame(), max_size=6))
def test_whatever_comes_is_taken_and_refused_as_by_another_library(frames: list[bytes]) -> None:
    assert read_by_ours(frames) == read_by_websockets(frames)


def read_bytewise(data: bytes) -> None:
    reader = FrameReader(LIMIT)
    for n in range(len(data)):
        reader.feed(data[n : n + 1])


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x05hello", 1002),  # not masked
        (b"\x81\x00", 1002),  # …and seen even where nothing follows
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
        (sent(1, b"\xff"), 1007),
        (sent(1, "é".encode()[:1]), 1007),
        (sent(1, b"\xed\xa0\xbd"), 1007),  # half of a surrogate pair
        (sent(1, b"\xce", fin=False) + sent(0, b"\xff"), 1007),
        (sent(8, b"\x03"), 1002),  # half a code
        *((sent(8, code.to_bytes(2, "big")), 1002) for code in CODES_THAT_ARE_NONE),
        (sent(8, b"\x03\xe8\xff"), 1007),
    ],
    ids=map(str, count()),  # not the bytes: a mask is chosen by chance
)
def test_refuses(data: bytes, code: int) -> None:
    with pytest.raises(FrameError) as refused:
        read_bytewise(data)
    assert refused.value.code == code


def test_empty_pieces_weigh_nothing() -> None:
    reader = FrameReader(LIMIT)
    reader.feed(sent(1, b"", fin=False))
    for _ in range(10_000):
        assert reader.feed(sent(0, b"", fin=False)) == [(0, b"")]  # …but are seen, and so can be counted
    assert reader.feed(sent(0, b"end")) == [(1, b"end")]


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_unmasking_without_c(payload: bytes, mask: bytes) -> None:
    expected = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    assert unmask_slowly(payload, mask) == expected
