"""The five serializations: against themselves, against PeerJS's own serializers, against hostile input."""

from __future__ import annotations

import contextlib
import math
import random
import tracemalloc
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peercli.errors import MessageTooBig, ProtocolError, UsageError
from peercli.protocol import binarypack, messagepack
from peercli.protocol.chunks import CHUNK_SIZE, split
from peercli.protocol.codecs import (
    CLOSE,
    MAX_JSON_RECEIVED,
    SERIALIZATIONS,
    STREAM_PIECE,
    Codec,
    make_codec,
)
from peercli.protocol.values import MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_VALUES, UNDEFINED
from tests.protocol import strategies
from tests.protocol.peerjs_node import JavaScript, JavaScriptError, PeerJS

STRUCTURED = ["binary", "binary-utf8", "json", "MsgPack"]
PACKED = ["binary", "binary-utf8", "MsgPack"]
FIVE_MB = bytes(range(256)) * 20_000


def transfer(value: Any, serialization: str) -> list[Any]:
    """What one side decodes of what the other encodes."""
    return decode_all(make_codec(serialization), make_codec(serialization).encode(value))


def decode_all(codec: Codec, wire: Iterable[Any]) -> list[Any]:
    return [value for message in wire for value in codec.decode(message)]


def nested(depth: int) -> Any:
    """Lists and maps in one another, `depth` of them."""
    value: Any = []
    for level in range(depth - 1):
        value = [value] if level % 2 else {"a": value}
    return value


# Names ----------------------------------------------------------------------------------------


def test_every_serialization_has_a_codec_of_its_name() -> None:
    assert SERIALIZATIONS == ("binary", "binary-utf8", "json", "raw", "MsgPack")
    assert [make_codec(name).name for name in SERIALIZATIONS] == list(SERIALIZATIONS)


@pytest.mark.parametrize("name", ["", "none", "msgpack", "JSON", "__class__"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="serialization"):
        make_codec(name)


# Round trips ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(strategies.messages)
def test_round_trip_packed(value: Any) -> None:
    for serialization in PACKED:
        assert transfer(value, serialization) == [strategies.without_undefined(value)]


@settings(deadline=None, max_examples=100)
@given(strategies.json_messages)
def test_round_trip_json(value: Any) -> None:
    assert transfer(value, "json") == [strategies.without_undefined(value)]


@settings(deadline=None)
@given(strategies.any_text)
def test_text_with_lone_surrogates(text: str) -> None:
    joined = strategies.joined(text)
    assert transfer(text, "json") == [joined]
    assert transfer(text, "MsgPack") == [text]
    replaced = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in joined)
    assert transfer(text, "raw") == transfer(text, "binary") == [replaced]


@pytest.mark.parametrize("value", ["", "text", "😀", b"", b"\x00\xff", FIVE_MB])
def test_round_trip_raw(value: str | bytes) -> None:
    assert list(make_codec("raw").encode(value)) == [value]
    assert make_codec("raw").decode(value) == [value]


def test_raw_views() -> None:
    """What can change is copied; what cannot is not."""
    for whole in (bytes(range(100)), bytearray(range(100))):
        view = memoryview(whole).toreadonly()
        for part in (view, view[10:20], view[::2], view.cast("i")):
            (wire,) = make_codec("raw").encode(part)
            assert wire == part.tobytes()
            assert isinstance(wire, bytes) or isinstance(whole, bytes)


@pytest.mark.parametrize("make", [bytearray, memoryview])
@pytest.mark.parametrize("serialization", ["binary", "raw", "MsgPack"])
def test_buffers_are_bytes_and_are_copied(serialization: str, make: Any) -> None:
    value = bytearray(b"before" * 10_000)
    wire = make_codec(serialization).encode(make(value))
    value[:] = b"after!" * 10_000
    assert decode_all(make_codec(serialization), wire) == [b"before" * 10_000]


def test_dates() -> None:
    at = datetime(2025, 2, 3, 4, 5, 6, 789_000, tzinfo=timezone(timedelta(hours=-3)))
    assert transfer(at, "binary") == ["Mon Feb 03 2025 07:05:06 GMT+0000"]
    assert transfer([at], "json") == [["2025-02-03T07:05:06.789Z"]]
    assert transfer([at], "MsgPack") == [[at]]
    for serialization in STRUCTURED:
        with pytest.raises(UsageError, match="time zone"):
            make_codec(serialization).encode([at.replace(tzinfo=None)])


def test_msgpack_carries_what_is_no_finite_number() -> None:
    assert transfer([math.inf, -math.inf], "MsgPack") == [[math.inf, -math.inf]]
    assert math.isnan(transfer(math.nan, "MsgPack")[0])


# On the wire ----------------------------------------------------------------------------------


def test_binary_cuts_at_the_limit() -> None:
    whole = b"x" * (CHUNK_SIZE - 3)  # with its header of three bytes exactly CHUNK_SIZE
    codec = make_codec("binary")
    assert [len(wire) for wire in codec.encode(whole)] == [CHUNK_SIZE]
    chunks = [[binarypack.unpack(wire) for wire in codec.encode(whole + b"x")] for _ in range(2)]  # type: ignore[arg-type]
    assert [[chunk["__peerData"] for chunk in message] for message in chunks] == [[1, 1], [2, 2]]
    assert [len(chunk["data"]) for chunk in chunks[0]] == [CHUNK_SIZE, 1]


def test_chunks_may_come_in_any_order() -> None:
    sender, receiver = make_codec("binary"), make_codec("binary")
    messages = [FIVE_MB[seed : seed + 200_000] for seed in range(5)]
    wire = [message for value in messages for message in sender.encode(value)]
    random.Random(1).shuffle(wire)
    assert sorted(decode_all(receiver, wire)) == sorted(messages)


def test_json_is_utf8_of_limited_length() -> None:
    codec = make_codec("json")
    assert list(codec.encode({"é": [1, None, "\u2028"]})) == ['{"é":[1,null,"\u2028"]}'.encode()]
    assert [len(wire) for wire in codec.encode("é" * 8148)] == [CHUNK_SIZE - 2]
    for big in ("é" * 8149, "x" * 1_000_000):
        with pytest.raises(MessageTooBig):
            codec.encode(big)


def test_json_is_read_from_text_and_bytes() -> None:
    for wire in ('{"a":"é"}', '{"a":"é"}'.encode(), b'\xef\xbb\xbf{"a":"\\u00e9"}'):
        assert make_codec("json").decode(wire) == [{"a": "é"}]
    longest = "x" * (MAX_JSON_RECEIVED - 2)
    assert make_codec("json").decode(f'"{longest}"') == [longest]


def test_json_answers_in_the_kind_of_message_that_it_gets() -> None:
    codec = make_codec("json")
    for wire in ('["é"]', '["é"]'.encode(), '["é"]'):
        value = codec.decode(wire)[0]
        assert list(codec.encode(value)) == [wire]
        assert {type(sent) for sent in codec.encode_close()} == {type(wire)}


def test_msgpack_is_a_stream_in_pieces() -> None:
    wire = list(make_codec("MsgPack").encode(FIVE_MB))
    assert {len(message) for message in wire[:-1]} == {STREAM_PIECE}
    assert len(wire) == -(-(len(FIVE_MB) + 5) // STREAM_PIECE)


@settings(deadline=None, max_examples=100)
@given(st.lists(strategies.messages, max_size=5), st.data())
def test_a_msgpack_stream_may_be_cut_anywhere(values: list[Any], data: st.DataObject) -> None:
    sender, receiver = make_codec("MsgPack"), make_codec("MsgPack")
    stream = b"".join(wire for value in values for wire in sender.encode(value) if isinstance(wire, bytes))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    pieces = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode_all(receiver, pieces) == [strategies.without_undefined(value) for value in values]


def test_a_msgpack_stream_byte_by_byte() -> None:
    value = [{"a": [1, -1, 300, 2**40, 1.5, "😀" * 100, b"x" * 300, None, True]}, [[]], {}, datetime.now(UTC)]
    wire = b"".join(msgpack.packb(value, datetime=True) for _ in range(3))
    assert decode_all(make_codec("MsgPack"), (bytes([byte]) for byte in wire)) == [value] * 3


def test_a_close_marker_in_chunks() -> None:
    """PeerJS looks for it there, too."""
    packed = binarypack.pack({"__peerData": {"type": "close"}, "why": "x" * CHUNK_SIZE})
    assert decode_all(make_codec("binary"), split(packed, 1)) == [CLOSE]


@pytest.mark.parametrize("serialization", STRUCTURED)
def test_close_marker(serialization: str) -> None:
    codec = make_codec(serialization)
    wire = [*codec.encode("last"), *codec.encode_close()]
    assert decode_all(make_codec(serialization), wire) == ["last", CLOSE]
    assert repr(CLOSE) == "CLOSE"


def test_raw_has_no_close_marker() -> None:
    assert list(make_codec("raw").encode_close()) == []


def test_what_follows_the_close_marker_is_dropped() -> None:
    codec = make_codec("MsgPack")
    wire = b"".join(map(bytes, [*codec.encode(1), *codec.encode_close(), *codec.encode(2)]))  # type: ignore[arg-type]
    assert make_codec("MsgPack").decode(wire) == [1, CLOSE]


def test_maps_with_the_reserved_key() -> None:
    close, other, unset = {"__peerData": {"type": "close"}}, {"__peerData": 5}, {"__peerData": 0}
    for serialization in STRUCTURED:
        with pytest.raises(UsageError, match="PeerJS's own"):
            make_codec(serialization).encode(close)
        assert transfer([close, other], serialization) == [[close, other]]
        assert transfer(unset, serialization) == [unset]
    for serialization in ("json", "MsgPack"):
        assert transfer(other, serialization) == [other]
    with pytest.raises(UsageError, match="PeerJS's own"):
        make_codec("binary").encode(other)


# PeerJS ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(values=st.lists(strategies.js_messages.filter(lambda value: value), max_size=4))
def test_binary_is_what_peerjs_sends(peerjs: PeerJS, values: list[Any]) -> None:
    for serialization in ("binary", "binary-utf8"):
        codec = make_codec(serialization)
        ours = [wire for value in values for wire in codec.encode(value)] + list(codec.encode_close())
        assert ours == peerjs.send(serialization, values, flush=True)
        received = peerjs.receive(serialization, ours)
        assert received == ([strategies.without_undefined(value) for value in values], True)


@settings(deadline=None, max_examples=100)
@given(values=st.lists(strategies.json_messages.filter(lambda value: value), max_size=4))
def test_json_with_peerjs(peerjs: PeerJS, values: list[Any]) -> None:
    expected = [strategies.without_undefined(value) for value in values]
    codec = make_codec("json")
    ours = [wire for value in values for wire in codec.encode(value)] + list(codec.encode_close())
    assert peerjs.receive("json", ours) == (expected, True)
    assert decode_all(codec, peerjs.send("json", expected, flush=True)) == [*expected, CLOSE]


@settings(deadline=None, max_examples=60)
@given(values=st.lists(strategies.js_messages.filter(lambda value: value), max_size=4))
def test_msgpack_with_peerjs(peerjs: PeerJS, values: list[Any]) -> None:
    expected = [strategies.without_undefined(value) for value in values]
    codec = make_codec("MsgPack")
    ours = [wire for value in values for wire in codec.encode(value)] + list(codec.encode_close())
    theirs = peerjs.send("MsgPack", values, flush=True)
    assert ours == theirs
    assert peerjs.receive("MsgPack", ours) == (expected, True)
    assert decode_all(codec, theirs) == [*expected, CLOSE]


@pytest.mark.parametrize("serialization", PACKED)
@pytest.mark.parametrize("value", [FIVE_MB, "漢字" * 800_000, [{"k": FIVE_MB[:50_000]}] * 5])
def test_long_messages_with_peerjs(peerjs: PeerJS, serialization: str, value: Any) -> None:
    ours = list(make_codec(serialization).encode(value))
    assert ours == peerjs.send(serialization, [value])
    assert peerjs.receive(serialization, ours).values == [value]
    assert decode_all(make_codec(serialization), ours) == [value]


REFUSED = JavaScriptError
"""Stands for the error with which a PeerJS serializer answers a value."""

ABC = b"ab" + b"c" * 39_998
INTS = b"\1\0\0\0\xff\xff\xff\xff"
FLOATS = b"\0\0\0\0\0\0\xf8?"

# An expression, and what we receive of its value over `binary`, `json` and `MsgPack`.
OF_JAVASCRIPT: list[tuple[str, Any, Any, Any]] = [
    ("undefined", None, UNDEFINED, None),
    ("null", None, None, None),
    ("[1,,undefined,4]", [1, None, None, 4], [1, None, None, 4], [1, None, None, 4]),
    ("new Array(3)", [None] * 3, [None] * 3, [None] * 3),
    ("({a: undefined, b: [undefined]})", {"a": None, "b": [None]}, {"b": [None]}, {"a": None, "b": [None]}),
    ("-0", 0, 0, 0),
    ("NaN", 0.0, None, math.nan),
    ("-Infinity", REFUSED, None, -math.inf),
    ("1e21", REFUSED, 1e21, 1e21),
    ("2 ** 64", 0, 18446744073709552000, 2.0**64),
    ("Number.MAX_SAFE_INTEGER", 2**53 - 1, 2**53 - 1, 2**53 - 1),
    ("Number.MIN_SAFE_INTEGER", 1 - 2**53, 1 - 2**53, 1 - 2**53),
    ("10n", REFUSED, REFUSED, REFUSED),
    ("'\\ud83d\\ude00'", "😀", "😀", "😀"),
    ("'a\\udc00'", "a\ufffd", "a\udc00", "a\udc00"),
    ("new Uint8Array([1, 2, 3]).subarray(1)", b"\2\3", {"0": 2, "1": 3}, b"\2\3"),
    ("new Int32Array([0, 1, -1]).subarray(1)", INTS, {"0": 1, "1": -1}, INTS),
    ("new Float64Array([1.5])", FLOATS, {"0": 1.5}, FLOATS),
    ("new BigInt64Array([1n])", b"\1" + bytes(7), REFUSED, b"\1" + bytes(7)),
    ("new Uint8Array([1, 2]).buffer", b"\1\2", {}, {}),
    ("new ArrayBuffer(0)", b"", {}, {}),
    ("new DataView(new ArrayBuffer(3), 1)", REFUSED, {}, bytes(2)),
    ("new Blob(['é'])", "é".encode(), {}, {}),
    ("new File(['é'], 'name')", "é".encode(), {}, {}),
    ("[new Blob(['b']), {b: new Blob(), a: 1}]", [b"b", {"b": b"", "a": 1}], *2 * ([{}, {"b": {}, "a": 1}],)),
    ("new Blob(['ab', 'c'.repeat(39998)])", ABC, {}, {}),
    (
        "new Date(1e12)",
        "Sun Sep 09 2001 01:46:40 GMT+0000 (Coordinated Universal Time)",
        "2001-09-09T01:46:40.000Z",
        datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
    ),
    ("new Date(NaN)", "Invalid Date", None, datetime(1970, 1, 1, tzinfo=UTC)),
    ("new (class Point { x = 1; get y() { return 2 } })", {"x": 1}, {"x": 1}, {"x": 1}),
    ("({2: 'b', x: 0, 1: 'a'})", *3 * ({"1": "a", "2": "b", "x": 0},)),
    ("JSON.parse('{\"__proto__\": 1}')", {"__proto__": 1}, {"__proto__": 1}, {"__proto__": 1}),
    ("Object.create(null)", REFUSED, {}, {}),
    ("new Map([[1, 2]])", REFUSED, {}, {}),
    ("(() => 1)", REFUSED, UNDEFINED, REFUSED),
    ("Symbol()", REFUSED, UNDEFINED, REFUSED),
]


@pytest.mark.parametrize(
    ("expression", "binary", "json", "msgpack"), OF_JAVASCRIPT, ids=[row[0] for row in OF_JAVASCRIPT]
)
def test_what_javascript_alone_has(
    peerjs: PeerJS, expression: str, binary: Any, json: Any, msgpack: Any
) -> None:
    for serialization, expected in [("binary", binary), ("json", json), ("MsgPack", msgpack)]:
        try:
            wire = peerjs.send(serialization, [JavaScript(expression)])
        except JavaScriptError:
            assert expected is REFUSED
        else:
            assert repr(decode_all(make_codec(serialization), wire)) == repr([expected])


def test_json_limit_is_that_of_peerjs(peerjs: PeerJS) -> None:
    fits, too_big = "x" * (CHUNK_SIZE - 3), "x" * (CHUNK_SIZE - 2)
    assert peerjs.send("json", [fits]) == list(make_codec("json").encode(fits))
    with pytest.raises(JavaScriptError, match="message-too-big"):
        peerjs.send("json", [too_big])
    with pytest.raises(MessageTooBig):
        make_codec("json").encode(too_big)


@settings(deadline=None, max_examples=60)
@given(text=strategies.any_text.filter(bool))
def test_lone_surrogates_with_peerjs(peerjs: PeerJS, text: str) -> None:
    joined = strategies.joined(text)
    assert list(make_codec("json").encode(joined)) == peerjs.send("json", [joined])
    if len(joined) <= 50:  # for longer ones PeerJS takes another encoder, which replaces them
        assert decode_all(make_codec("MsgPack"), peerjs.send("MsgPack", [joined])) == [joined]
        assert peerjs.receive("MsgPack", list(make_codec("MsgPack").encode(joined))).values == [joined]


@pytest.mark.parametrize(
    "at",
    [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2345, 6, 7, 8, 9, 10, 123_000, UTC),
        datetime(1, 2, 3, tzinfo=UTC),
    ],
)
def test_dates_with_peerjs(peerjs: PeerJS, at: datetime) -> None:
    for serialization in ("json", "MsgPack"):
        assert list(make_codec(serialization).encode([at])) == peerjs.send(serialization, [[at]])
    assert decode_all(make_codec("MsgPack"), peerjs.send("MsgPack", [at])) == [at]
    assert peerjs.receive("MsgPack", list(make_codec("MsgPack").encode(at))).values == [at]


@given(at=st.datetimes(timezones=st.just(UTC)))
def test_any_date_with_peerjs(peerjs: PeerJS, at: datetime) -> None:
    assert transfer(at, "MsgPack") == [at]
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)  # all that a Date holds
    for serialization in ("json", "MsgPack"):
        assert list(make_codec(serialization).encode(at)) == peerjs.send(serialization, [at])
    (ours,), (theirs,) = transfer(at, "binary"), decode_all(make_codec("binary"), peerjs.send("binary", [at]))
    assert theirs == f"{ours} (Coordinated Universal Time)"


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"b":2,"a":3}',
        "[1e999,-1e999,1e-999]",
        "[0.1,1E2,-0,123456789012345680]",
        '"\\ud83d\\ude00 \\u0000 \\/"',
        ' [ 1 ,\t{ "a" : null }\r\n] ',
        '{"__proto__x":[[[[]]]]}',
    ],
)
def test_json_is_read_as_javascript_reads_it(peerjs: PeerJS, text: str) -> None:
    assert make_codec("json").decode(text) == peerjs.receive("json", [text.encode()]).values


def test_raw_with_peerjs(peerjs: PeerJS) -> None:
    values: list[bytes | str] = ["text", b"bytes", ""]
    assert peerjs.send("raw", values) == values
    assert peerjs.receive("raw", values).values == values


# Values that cannot be sent -------------------------------------------------------------------


@pytest.mark.parametrize("serialization", STRUCTURED)
@pytest.mark.parametrize(
    "value",
    [{1}, object(), 1j, {1: "a"}, {b"a": 1}, {None: 1}, [0] * (MAX_VALUES + 1), nested(MAX_DEPTH + 1)],
    ids=lambda value: repr(value)[:20],
)
def test_unsendable_values(serialization: str, value: Any) -> None:
    # Raised by the call: nothing of the message has been sent by then.
    for whole in (value, [b"" if serialization != "json" else "", {"a": value}]):
        with pytest.raises(UsageError):
            make_codec(serialization).encode(whole)


@pytest.mark.parametrize(
    ("serialization", "value"),
    [
        ("json", b"bytes"),
        ("json", [bytearray()]),
        ("json", math.nan),
        ("json", [math.inf]),
        ("json", 10**5000),
        ("binary", math.nan),
        ("binary", [2**64]),
        ("MsgPack", [2**64]),
        ("MsgPack", -(2**63) - 1),
        ("MsgPack", memoryview(b"abcd")[::2]),
        ("raw", None),
        ("raw", 1),
        ("raw", ["text"]),
        ("raw", {"__peerData": {"type": "close"}}),
    ],
    ids=lambda value: repr(value).split(" at ")[0][:20] if not isinstance(value, int) else "int",
)
def test_what_one_serialization_cannot_carry(serialization: str, value: Any) -> None:
    with pytest.raises(UsageError):
        make_codec(serialization).encode(value)


@pytest.mark.parametrize("serialization", PACKED)
def test_messages_that_are_too_big(serialization: str) -> None:
    with pytest.raises(MessageTooBig):
        make_codec(serialization).encode(bytes(MAX_MESSAGE_BYTES))


def test_limits_of_msgpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messagepack, "MAX_MESSAGE_BYTES", 1000)
    monkeypatch.setattr(messagepack, "MAX_VALUES", 100)
    for most in (bytes(997), [0] * 100):
        assert transfer(most, "MsgPack") == [most]
    with pytest.raises(MessageTooBig):
        transfer(bytes(998), "MsgPack")
    for more in (bytes(998), [0] * 101):
        with pytest.raises(ProtocolError):
            make_codec("MsgPack").decode(msgpack.packb(more))


@pytest.mark.parametrize("serialization", STRUCTURED)
def test_the_deepest_message(serialization: str) -> None:
    assert transfer(nested(MAX_DEPTH), serialization) == [nested(MAX_DEPTH)]


# Hostile input --------------------------------------------------------------------------------


def packed_chunk(data: bytes, n: int = 0, total: int = 1) -> bytes:
    return binarypack.pack({"__peerData": 1, "n": n, "data": data, "total": total})


HOSTILE: list[tuple[str, bytes | str]] = [
    ("binary", ""),
    ("binary", "text"),
    ("binary", b""),
    ("binary", b"\x81"),
    ("binary", b"\xc4"),
    ("binary", binarypack.pack({"__peerData": True})),
    ("binary", binarypack.pack({"__peerData": []})),
    ("binary", binarypack.pack({"__peerData": {"type": "open"}})),
    ("binary", packed_chunk(b"\x01", total=2**32)),
    ("binary", packed_chunk(b"\xc4")),
    ("binary", packed_chunk(b"\x01\x02")),
    ("binary", packed_chunk(packed_chunk(b"\x01"))),
    ("json", " "),
    ("json", b"\xef\xbb\xbf"),
    ("json", b"\xff"),
    ("json", "{"),
    ("json", "NaN"),
    ("json", "[Infinity]"),
    ("json", "[-Infinity]"),
    ("json", "1" * 5000),
    ("json", "[" * 100_000),
    ("json", "[" * 5000 + "]" * 5000),
    ("json", "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)),
    ("json", '{"a":' * 100_000),
    ("json", "'single'"),
    ("json", '"' + "x" * MAX_JSON_RECEIVED),
    ("MsgPack", ""),
    ("MsgPack", "text"),
    ("MsgPack", b"\xc1"),
    ("MsgPack", b"\x91\xc1"),
    ("MsgPack", b"\xd9\x01\xff"),
    ("MsgPack", b"\xa2\xc0\x80"),
    ("MsgPack", b"\xd4\x05\x00"),
    ("MsgPack", b"\xc7\x00\x05"),
    ("MsgPack", b"\xd4\xff\x00"),
    ("MsgPack", b"\xc7\x0c\xff" + b"\xff" * 12),
    ("MsgPack", b"\xc7\x0c\xff" + bytes(4) + b"\x7f" + b"\xff" * 7),
    ("MsgPack", b"\xd7\xff" + b"\xff" * 8),
    ("MsgPack", b"\x81\x01\x00"),
    ("MsgPack", b"\x81\xc4\x01a\x00"),
    ("MsgPack", b"\x81\x90\x00"),
    ("MsgPack", b"\x81\x80\x00"),
    ("MsgPack", b"\x81\xc0\x00"),
    ("MsgPack", b"\x81\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x00"),
    ("MsgPack", b"\x81\xd6\xff\x00\x00\x00\x00\x00"),
    ("MsgPack", b"\x91" * (MAX_DEPTH + 1)),
    ("MsgPack", b"\x81\xa0" * (MAX_DEPTH + 1)),
    ("MsgPack", b"\xdd\xff\xff\xff\xff"),
    ("MsgPack", b"\xdf\xff\xff\xff\xff"),
    ("MsgPack", b"\xc6\xff\xff\xff\xff"),
    ("MsgPack", b"\xdb\xff\xff\xff\xff"),
    ("MsgPack", b"\xc9\xff\xff\xff\xff"),
    ("MsgPack", b"\x92" + (b"\xdd" + (MAX_VALUES // 2).to_bytes(4, "big") + bytes(MAX_VALUES // 2)) * 2),
]


@pytest.mark.parametrize(
    ("serialization", "wire"), HOSTILE, ids=[f"{name}-{wire[:12]!r}" for name, wire in HOSTILE]
)
def test_hostile_messages(serialization: str, wire: bytes | str) -> None:
    with pytest.raises(ProtocolError):
        make_codec(serialization).decode(wire)


def test_a_broken_msgpack_stream_stays_broken() -> None:
    codec = make_codec("MsgPack")
    for wire in (b"\x01\xc1", b"\x01", b""):
        with pytest.raises(ProtocolError, match="0xc1"):
            codec.decode(wire)


@pytest.mark.parametrize(
    "header", [b"\xdd\x00\x0f\xff\xff", b"\xdc\xff\xff", b"\xdf\x00\x07\xff\xff", b"\xc6\x03\xff\xff\xf0"]
)
def test_a_size_in_a_msgpack_stream_is_not_believed(header: bytes) -> None:
    codec = make_codec("MsgPack")
    tracemalloc.start()
    try:
        with contextlib.suppress(ProtocolError):
            for _ in range(MAX_DEPTH):
                assert codec.decode(header) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_msgpack_value_without_end_is_given_up() -> None:
    codec = make_codec("MsgPack")
    piece = b"\xc4\xff" + bytes(255)
    assert codec.decode(b"\xdd\x00\x0f\xff\xff") == []
    for _ in range(MAX_MESSAGE_BYTES // (1000 * len(piece))):
        assert codec.decode(piece * 1000) == []
    with pytest.raises(ProtocolError, match="bigger"):
        codec.decode(piece * 1000)


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(SERIALIZATIONS), st.lists(st.binary(max_size=60) | st.text(max_size=20), max_size=5))
def test_any_messages_are_decoded_or_raise_the_documented_error(
    serialization: str, wires: list[bytes | str]
) -> None:
    codec = make_codec(serialization)
    for wire in wires:
        try:
            assert isinstance(codec.decode(wire), list)
        except ProtocolError:
            break


def test_undefined_and_null_are_messages() -> None:
    assert make_codec("binary").decode(b"\xc1") == make_codec("json").decode(b"") == [UNDEFINED]
    for serialization in STRUCTURED:
        assert transfer(None, serialization) == transfer(UNDEFINED, serialization) == [None]
