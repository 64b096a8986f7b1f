"""What PeerJS can say, and what of it survives: one table for every test that sends values.

A case that gives nothing else for a serialization arrives in a stock page just as it was sent. Where it does
not, `arrives` says what JavaScript, or PeerJS, makes of it; the page-to-page tests hold stock PeerJS to this
table, and the others hold peercli to the same. The values follow PeerJS's own end-to-end tests
(peers/peerjs, e2e/datachannel), and add the borders of every number format.
"""

from __future__ import annotations

import hashlib
import json
import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

__all__ = [
    "CASES",
    "SERIALIZATIONS",
    "Case",
    "counted",
    "data",
    "differences",
    "from_python",
    "in_python",
    "large",
    "same",
    "sendable",
    "special",
]

SERIALIZATIONS = ("binary", "binary-utf8", "json", "raw", "MsgPack")

LARGE = 65_536  # bytes; page.js tells more of them, and longer strings, by length and digest

NEVER: Final = object()
"""In the place of what arrives: stock PeerJS throws when it sends this, or cannot read it."""


def data(type: str, content: bytes) -> dict[str, str]:
    """A JavaScript ArrayBuffer, Blob, File or typed array with this content."""
    return {"$": type, "base64": b64encode(content).decode()}


def special(value: str) -> dict[str, str]:
    """A JavaScript number that JSON lacks: NaN, Infinity, -Infinity or -0."""
    return {"$": "number", "value": value}


def large(type: str, content: bytes) -> dict[str, Any]:
    """How a page tells of more than 64 KiB of bytes, or of a string in UTF-8."""
    return {"$": type, "length": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def counted(length: int) -> bytes:
    """What `{"$": "Uint8Array", "count": length}` sends: 0, 1, 2, … in four bytes each, all pieces unlike."""
    return b"".join(number.to_bytes(4, "big") for number in range((length + 3) // 4))[:length]


@dataclass(frozen=True)
class Case:
    """A value that a page sends.

    Attributes:
        name: what it shows.
        sent: the value, tagged.
        arrives: by serialization, what a stock page gets of it, where that is something else; or NEVER.
        misread: it is sent well, and only the page that gets it reads something else.
    """

    name: str
    sent: Any
    arrives: dict[str, Any] = field(default_factory=dict)
    misread: bool = False

    def after(self, serialization: str) -> Any:
        """What a stock page gets over a connection of that serialization, or NEVER."""
        return self.arrives.get("binary" if serialization == "binary-utf8" else serialization, self.sent)

    @property
    def is_flat(self) -> bool:
        """Whether it is text or bytes."""
        arrives = self.after("raw")
        return isinstance(self.sent, str) or (isinstance(arrives, dict) and arrives.get("$") == "ArrayBuffer")


def _bytes(name: str, type: str, content: bytes, *, json: Any, msgpack: Any) -> Case:
    """Bytes, which JavaScript reads as an ArrayBuffer; over json and MsgPack, as those make of them."""
    buffer = data("ArrayBuffer", content)
    arrives = {"binary": buffer, "json": json, "raw": buffer, "MsgPack": msgpack}
    return Case(name, data(type, content), arrives)


_DATE = {"$": "Date", "value": 1706749261001}
_DATE_TEXT = "Thu Feb 01 2024 01:01:01 GMT+0000 (Coordinated Universal Time)"
_EARLY_DATE = {"$": "Date", "value": -62075458738999}
_EARLY_DATE_TEXT = "Thu Nov 28 0002 01:01:01 GMT+0000 (Coordinated Universal Time)"
_LONG = "ThisIsÁTèstString"
_LONG_SENT = {"$": "string", "repeat": _LONG, "times": 100_000}
_LONG_ARRIVES = large("string", (_LONG * 100_000).encode())
_BYTES = bytes(range(32))

_EXACT_NUMBERS = [
    *(0, 1, -1, 3.141592653589793, -3.141592653589793, 0.1, -0.1, 1e-300, 2.2250738585072014e-308),
    *(0x0F, 0x7F, 0x80, 0xFF, 0x100, 0x0FFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x0FFFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, 1 << 40, (1 << 53) - 1, 1 << 53),
    *(-0x20, -0x21, -0x80, -0x81, -0x8000, -0x8001, -0x80000000, -(1 << 40), -(1 << 53)),
]

CASES = (
    *(Case(f"number {number}", number) for number in _EXACT_NUMBERS),
    # JavaScript rounds this one before anybody sends it.
    Case("number past 2^53", 0x0FFFFFFFFFFFFFFF, dict.fromkeys(("binary", "json", "MsgPack"), 1 << 60)),
    # PeerJS's BinaryPack takes 2^63 for the last of the signed numbers.
    Case("number 2^63", 1 << 63, {"binary": -(1 << 63)}),
    # PeerJS's BinaryPack reads 64-bit negative numbers to a multiple of 2048.
    Case("number -(2^53-1)", -(1 << 53) + 1, {"binary": -(1 << 53)}, misread=True),
    Case("number -2^31-1", -(1 << 31) - 1, {"binary": -(1 << 31)}, misread=True),
    # PeerJS's BinaryPack writes this one as something else altogether.
    Case("smallest number", 5e-324, {"binary": -1.596672247627776e293}),
    Case("NaN", [special("NaN")], {"binary": NEVER, "json": [None]}),
    Case("Infinity", [special("Infinity")], {"binary": NEVER, "json": [None]}),
    Case("number 1e300", 1e300, {"binary": NEVER}),
    Case("-0", special("-0"), {"binary": 0, "json": 0, "MsgPack": 0}),
    Case("BigInt", {"$": "bigint", "value": "5"}, dict.fromkeys(("binary", "json", "MsgPack"), NEVER)),
    *(Case(f"boolean {value}", value) for value in (True, False)),
    *(
        Case(f"string {text!r:.20}", text)
        for text in ("", "hello", "café", "中文", "broccoli🥦līp𨋢grin😃ok", "\U0010ffff", "\0", "e\u0301 ة")
    ),
    *(Case(f"string of {length}", "é" * length) for length in (7, 8, 15, 16, 31, 32, 127, 128)),
    Case("string of 8,000", "x" * 8_000),
    # JSON has 16,300 bytes at most, and a data channel of Chromium 262,144.
    Case("string of 65,536", "x" * 65_536, {"json": NEVER}),
    Case("string of 1.9 MB", _LONG_SENT, {"json": NEVER, "raw": NEVER}
         | dict.fromkeys(("binary", "MsgPack"), _LONG_ARRIVES)),
    Case("empty array", []),
    Case("empty object", {}),
    Case("array of 16", list(range(16))),
    Case("array of 4,000", [1] * 4_000),
    Case("object of 16", {f"key {number}": number for number in range(16)}),
    Case("nested", {"a": {"b": [{"c": [[]], "🥦": None}, [None, True, "x"]]}}),
    Case("empty key", {"": 1}),
    Case("undefined in an array", [{"$": "undefined"}],
         {"binary": [None], "json": [None], "MsgPack": [None]}),
    Case("undefined in an object", {"a": {"$": "undefined"}, "b": 1},
         {"binary": {"a": None, "b": 1}, "json": {"b": 1}, "MsgPack": {"a": None, "b": 1}}),
    Case("Date", _DATE, {"binary": _DATE_TEXT, "json": "2024-02-01T01:01:01.001Z"}),
    Case("Date long ago", _EARLY_DATE, {"binary": _EARLY_DATE_TEXT, "json": "0002-11-28T01:01:01.001Z"}),
    Case("Date in an array", [_DATE], {"binary": [_DATE_TEXT], "json": ["2024-02-01T01:01:01.001Z"]}),
    _bytes("Uint8Array", "Uint8Array", _BYTES, json={str(byte): byte for byte in _BYTES},
           msgpack=data("Uint8Array", _BYTES)),
    _bytes("empty Uint8Array", "Uint8Array", b"", json={}, msgpack=data("Uint8Array", b"")),
    _bytes("Int32Array", "Int32Array", b"\0\0\0\1\2\3\4\5", json={"0": 16777216, "1": 84148994},
           msgpack=data("Uint8Array", b"\0\0\0\1\2\3\4\5")),
    _bytes("Float64Array", "Float64Array", bytes(8), json={"0": 0}, msgpack=data("Uint8Array", bytes(8))),
    _bytes("ArrayBuffer", "ArrayBuffer", _BYTES, json={}, msgpack={}),
    _bytes("Blob", "Blob", b"blob", json={}, msgpack={}),
    _bytes("File", "File", b"file", json={}, msgpack={}),
    Case("bytes in an object", {"a": [data("Uint8Array", b"\1\2")]},
         {"binary": {"a": [data("ArrayBuffer", b"\1\2")]}, "json": {"a": [{"0": 1, "1": 2}]}}),
    Case("Blob in an array", [data("Blob", b"blob")],
         {"binary": [data("ArrayBuffer", b"blob")], "json": [{}], "MsgPack": [{}]}),
    # What came in chunks is read from one Uint8Array, so that is what the bytes in it become.
    Case("bytes of 100,000", {"$": "Uint8Array", "count": 100_000},
         {"json": NEVER, "raw": large("ArrayBuffer", counted(100_000))}
         | dict.fromkeys(("binary", "MsgPack"), large("Uint8Array", counted(100_000)))),
)  # fmt: skip
"""Every value but a bare null or undefined: a stock page throws when it gets one."""


def sendable(serialization: str) -> list[Case]:
    """The cases that stock PeerJS can both send and read.

    Over `raw`, only text and bytes: JavaScript makes text of everything else.
    """
    cases = [case for case in CASES if case.after(serialization) is not NEVER]
    return [case for case in cases if serialization != "raw" or case.is_flat]


def differences(cases: Sequence[Case], expected: Iterable[Any], received: Iterable[Any]) -> list[str]:
    """A line for each case that did not arrive as it should."""
    return [
        f"{case.name}: {short(case.sent)} arrived as {short(got)}, not {short(should)}"
        for case, should, got in zip(cases, expected, received, strict=True)
        if not same(should, got)
    ]


def from_python(value: Any) -> Any:
    """A Python value, tagged; bytes are of type `bytes`."""
    if isinstance(value, bytes):
        return large("bytes", value) if len(value) > LARGE else data("bytes", value)
    if isinstance(value, str):
        return large("string", value.encode()) if len(value.encode()) > LARGE else value
    if isinstance(value, datetime):
        return {"$": "Date", "value": value.timestamp() * 1000}
    if isinstance(value, list):
        return [from_python(item) for item in value]
    if isinstance(value, dict):
        return {key: from_python(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return special({math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN"))
    return value


def in_python(case: Case, serialization: str) -> Any:
    """What Python gets of a case, as `from_python` tells it: there, all bytes are `bytes`."""
    return _with_bytes(case.sent if case.misread else case.after(serialization))


def _with_bytes(tagged: Any) -> Any:
    if isinstance(tagged, list):
        return [_with_bytes(item) for item in tagged]
    if isinstance(tagged, dict):
        found = {key: _with_bytes(item) for key, item in tagged.items()}
        return found | {"$": "bytes"} if tagged.get("$") in {"ArrayBuffer", "Uint8Array"} else found
    return tagged


def same(one: Any, other: Any) -> bool:
    """Whether two tagged values are the same: True is not 1, and the order of keys is nothing."""
    return json.dumps(_doubles(one), sort_keys=True) == json.dumps(_doubles(other), sort_keys=True)


def _doubles(value: Any) -> Any:
    """`value` with the numbers that JavaScript has: past 2^53 it writes fewer digits than Python."""
    if isinstance(value, list):
        return [_doubles(item) for item in value]
    if isinstance(value, dict):
        return {key: _doubles(item) for key, item in value.items()}
    return value if isinstance(value, bool | str | None) else float(value)


def short(value: Any) -> str:
    """A value for a message to people."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}…"
