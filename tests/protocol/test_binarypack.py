"""BinaryPack: what goes in comes out, the bytes are JavaScript's, and nothing hostile gets through."""

from __future__ import annotations

import contextlib
import copy
import enum
import math
import pickle
import struct
import tracemalloc
from collections import OrderedDict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from peercli.errors import MessageTooBig, UsageError
from peercli.protocol import binarypack
from peercli.protocol.binarypack import UNDEFINED, UnpackError, pack, unpack
from peercli.protocol.values import MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_VALUES
from tests.protocol import strategies
from tests.protocol.peerjs_node import JavaScriptError, PeerJS

SIZES = [0, 1, 15, 16, 255, 256, 0xFFFF, 0x10000, 70_000]
OF_SIZE = [bytes, "x".__mul__, [None].__mul__, lambda n: {f"k{i}": i for i in range(n)}]


def nested(depth: int) -> Any:
    """Lists in one another, `depth` of them."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


# Round trips ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(strategies.messages)
def test_what_is_packed_is_unpacked(value: Any) -> None:
    assert unpack(pack(value)) == strategies.without_undefined(value)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", OF_SIZE, ids=["bytes", "str", "list", "dict"])
def test_every_size(make: Any, size: int) -> None:
    value = make(size)
    unpacked = unpack(pack(value))
    assert unpacked == value
    assert type(unpacked) is type(value)


def test_types_survive() -> None:
    unpacked = unpack(pack([True, False, 1, 0, 1.5, "1", b"1", None]))
    assert [type(item) for item in unpacked] == [bool, bool, int, int, float, str, bytes, type(None)]


def test_a_whole_float_becomes_an_int_as_in_javascript() -> None:
    for value, packed in [(1.0, "01"), (-0.0, "00"), (256.0, "cd0100"), (2.0**63, "cf8000000000000000")]:
        assert pack(value).hex() == packed
        assert unpack(pack(value)) == value


def test_python_relatives_of_the_types() -> None:
    class Level(enum.IntEnum):
        HIGH = 300

    class Pair(NamedTuple):
        left: int
        right: Any

    assert unpack(pack(Level.HIGH)) == 300
    assert unpack(pack(Pair(1, (2, 3)))) == [1, [2, 3]]
    assert unpack(pack(OrderedDict(a=1))) == {"a": 1}
    for view in (bytearray(b"abcd"), memoryview(b"abcd"), memoryview(b"a1b2c3d4")[::2]):
        assert unpack(pack(view)) == b"abcd"
    assert unpack(bytearray(pack("text"))) == unpack(memoryview(pack("text"))) == "text"


def test_what_is_packed_is_a_copy() -> None:
    value = bytearray(b"before")
    packed = pack(value)
    value[:] = b"after!"
    assert unpack(packed) == b"before"


def test_undefined() -> None:
    assert not UNDEFINED
    assert repr(UNDEFINED) == str(UNDEFINED) == "UNDEFINED"
    assert pickle.loads(pickle.dumps(UNDEFINED)) is UNDEFINED
    assert copy.deepcopy([UNDEFINED])[0] is UNDEFINED
    assert unpack(b"\xc1") is UNDEFINED
    assert unpack(pack(UNDEFINED)) is None


@pytest.mark.parametrize(
    ("packed", "value"),
    [
        ("ca3fc00000", 1.5),
        ("cb7ff0000000000000", math.inf),
        ("d0ff", -1),
        ("d1ff7f", -129),
        ("d2ffffffff", -1),
        ("d3ffffffffffffffff", -1),
        ("cfffffffffffffffff", 2**64 - 1),
        ("82b0c0b0c1", {"": UNDEFINED}),
    ],
)
def test_forms_that_pack_does_not_choose(packed: str, value: Any) -> None:
    assert unpack(bytes.fromhex(packed)) == value


def test_nan_is_read() -> None:
    assert math.isnan(unpack(bytes.fromhex("cb7ff8000000000000")))


# JavaScript -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=400)
@given(value=strategies.js_messages)
def test_bytes_are_those_of_javascript(peerjs: PeerJS, value: Any) -> None:
    packed, theirs = pack(value), peerjs.pack(value)
    assert packed == theirs
    assert peerjs.unpack(packed) == unpack(theirs) == strategies.without_undefined(value)


def whole_numbers_at_the_edges() -> set[int]:
    """The float64 numbers at and next to powers of two where a format ends, and their negatives."""
    numbers: set[int] = set()
    for power in (0, 4, 5, 7, 8, 15, 16, 31, 32, 52, 53, 54, 62, 63, 64):
        at = 2.0**power
        beside = [math.nextafter(at, 0), math.nextafter(at, math.inf), at - 1, at, at + 1]
        numbers |= {sign * int(n) for n in beside if n.is_integer() for sign in (1, -1)}
    return numbers


def test_whole_numbers_at_the_edges(peerjs: PeerJS) -> None:
    for n in whole_numbers_at_the_edges():
        packed = pack(float(n))
        assert unpack(packed) == n
        if n < -(2**63) or n > 2**64:
            assert packed[0] == 0xCB
            with pytest.raises(JavaScriptError, match="Invalid integer"):
                peerjs.pack(n)
        elif n in (2**63, 2**64):
            assert unpack(peerjs.pack(n)) in (-(2**63), 0)
        else:
            assert packed == pack(n) == peerjs.pack(n)
        assert abs(peerjs.unpack(packed) - n) <= (2048 if n < -(2**31) else 0)


@pytest.mark.parametrize("key", strategies.RESERVED)
def test_keys_that_trip_the_javascript_packer(peerjs: PeerJS, key: str) -> None:
    assert unpack(pack({key: 1})) == {key: 1}
    assert peerjs.unpack(pack({key: 1})) == ({} if key == "__proto__" else {key: 1})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", OF_SIZE, ids=["bytes", "str", "list", "dict"])
def test_every_size_in_javascript(peerjs: PeerJS, make: Any, size: int) -> None:
    value = make(size)
    packed = pack(value)
    assert peerjs.unpack(packed) == value
    # The JavaScript packer recurses once for every item of an array or a map.
    if size <= 1000 or isinstance(value, str | bytes):
        assert packed == peerjs.pack(value)


@settings(deadline=None, max_examples=300)
@given(value=strategies.any_float)
@example(2.0**-29)
@example(math.nextafter(8, 0))
@example(5e-324)
def test_floats_are_those_of_javascript_or_better(peerjs: PeerJS, value: float) -> None:
    packed = pack(value)
    assert unpack(packed) == value
    if value.is_integer() and not -(2.0**63) <= value <= 2.0**64:
        with pytest.raises(JavaScriptError, match="Invalid integer"):
            peerjs.pack(value)
    elif packed != (theirs := peerjs.pack(value)):
        assert unpack(theirs) != value
    if packed[0] == 0xCB and abs(value) >= 2.0**-1022:
        assert peerjs.unpack(packed) == value


@settings(deadline=None)
@given(value=st.integers(-strategies.SAFE, -(2**31) - 1))
def test_negative_numbers_that_javascript_rounds(peerjs: PeerJS, value: int) -> None:
    packed = pack(value)
    assert packed == peerjs.pack(value)
    assert abs(peerjs.unpack(packed) - value) <= 2048


@settings(deadline=None)
@given(text=strategies.any_text)
def test_lone_surrogates_are_replaced_as_in_javascript(peerjs: PeerJS, text: str) -> None:
    assert pack(text) == peerjs.pack(text)


@pytest.mark.parametrize(
    ("value", "in_javascript"),
    [
        (2**53 + 1, 2**53),
        (-(2**53 - 1), -(2**53)),
        (2**64 - 1, 2**64),
        (2**63, 2**63),
        (1e300, 1e300),
        (5e-324, 2.0**-1023),
        (-(2**31) - 1, -(2**31)),
    ],
)
def test_what_javascript_makes_of_numbers(peerjs: PeerJS, value: float, in_javascript: float) -> None:
    assert peerjs.unpack(pack(value)) == in_javascript
    assert unpack(pack(value)) == value


def test_dates_are_texts_that_javascript_writes_and_reads(peerjs: PeerJS) -> None:
    for at in (
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2025, 9, 9, 12, 34, 56, 789_000, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datetime(987, 12, 31, 23, 59, 59, tzinfo=UTC),
    ):
        text = unpack(pack(at))
        theirs = unpack(peerjs.pack(at))
        milliseconds = at.timestamp() // 1 * 1000
        assert peerjs.parse_date(text) == peerjs.parse_date(theirs) == milliseconds
        assert len(text.split()) == 6
        assert theirs == f"{text} (Coordinated Universal Time)"


# Values that cannot be sent -------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        2**64,
        -(2**63) - 1,
        math.nan,
        math.inf,
        -math.inf,
        {1, 2},
        object(),
        1j,
        {1: "a"},
        {None: "a"},
        {b"a": "a"},
        datetime(2025, 1, 1),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))),
    ],
    ids=lambda value: repr(value).split(" at ")[0],
)
def test_unsendable_values(value: Any) -> None:
    for whole in (value, [1, {"a": value}]):
        with pytest.raises(UsageError):
            pack(whole)


def test_limits_of_pack() -> None:
    assert unpack(pack(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    assert len(unpack(pack([0] * MAX_VALUES))) == MAX_VALUES
    endless: list[Any] = []
    endless += [endless, endless]
    for value in (nested(MAX_DEPTH + 1), [0] * (MAX_VALUES + 1), endless, {"a": endless}):
        with pytest.raises(UsageError):
            pack(value)
    half = bytes(MAX_MESSAGE_BYTES // 2)
    for big in (bytes(MAX_MESSAGE_BYTES + 1), [half, half]):
        with pytest.raises(MessageTooBig):
            pack(big)


def test_the_longest_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binarypack, "MAX_MESSAGE_BYTES", 1000)
    for longest in (bytes(997), [bytes(498), bytes(495)]):
        assert unpack(pack(longest)) == longest
    with pytest.raises(MessageTooBig):
        pack([bytes(498), bytes(496)])
    with pytest.raises(UnpackError, match="bigger"):
        unpack(b"\xda\x03\xe6" + bytes(998))


@pytest.mark.parametrize(
    "many", [[[]] * 1000, [{}] * 1000, [{"a": [[]]}] * 1000, {str(n): [] for n in range(1000)}], ids=range(4)
)
def test_siblings_are_not_nested(many: Any) -> None:
    assert unpack(pack(many)) == many


# Hostile bytes --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=1000)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_the_documented_error(data: bytes) -> None:
    with contextlib.suppress(UnpackError):
        unpack(data)


@settings(deadline=None)
@given(strategies.messages, st.data())
def test_every_cut_and_every_addition_is_noticed(value: Any, data: st.DataObject) -> None:
    packed = pack(value)
    cut = data.draw(st.integers(0, len(packed) - 1))
    for broken in (packed[:cut], packed + b"\x00"):
        with pytest.raises(UnpackError):
            unpack(broken)


@pytest.mark.parametrize("header", [*range(0xC4, 0xCA), *range(0xD4, 0xD8)])
def test_headers_that_mean_nothing(header: int) -> None:
    with pytest.raises(UnpackError, match=f"0x{header:02x}"):
        unpack(bytes([header]) + bytes(20))


@pytest.mark.parametrize("text", [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
def test_strings_that_are_not_utf8(text: bytes) -> None:
    with pytest.raises(UnpackError, match="UTF-8"):
        unpack(bytes([0xB0 + len(text)]) + text)


@pytest.mark.parametrize("key", [1, 1.5, None, UNDEFINED, True, b"key", [], {}, ["a"]], ids=repr)
def test_map_keys_are_strings(key: Any) -> None:
    with pytest.raises(UnpackError, match="key"):
        unpack(b"\x81" + pack(key) + b"\x00")


def test_of_equal_keys_the_last_wins(peerjs: PeerJS) -> None:
    packed = b"\x82" + pack("a") + b"\x01" + pack("a") + b"\x02"
    assert unpack(packed) == peerjs.unpack(packed) == {"a": 2}


def test_limits_of_unpack() -> None:
    deepest = b"\x91" * (MAX_DEPTH - 1) + b"\x90"
    assert unpack(deepest) == nested(MAX_DEPTH)
    with pytest.raises(UnpackError, match="deep"):
        unpack(b"\x91" + deepest)
    with pytest.raises(UnpackError, match="deep"):
        unpack(b"\x91" * 1_000_000)
    with pytest.raises(UnpackError, match="values"):
        unpack(struct.pack(">BI", 0xDD, MAX_VALUES + 1) + bytes(MAX_VALUES + 1))
    with pytest.raises(UnpackError, match="values"):
        unpack(b"\x92" + (struct.pack(">BI", 0xDD, MAX_VALUES // 2) + bytes(MAX_VALUES // 2)) * 2)
    with pytest.raises(UnpackError, match="bigger"):
        unpack(bytes(MAX_MESSAGE_BYTES + 1))


@pytest.mark.parametrize("header", [0xD9, 0xDB, 0xDD, 0xDF])
def test_a_size_is_not_believed(header: int) -> None:
    lie = bytes([header]) + b"\xff\xff\xff\xff"
    tracemalloc.start()
    try:
        for data in (lie, lie + bytes(1000), b"\x91" * 50 + lie, b"\x9f" + lie * 15):
            with pytest.raises(UnpackError, match="too early"):
                unpack(data)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
