"""BinaryPack, the default wire format of PeerJS (peerjs-js-binarypack 2.1.0, lib/binarypack.ts).

It looks like MessagePack but gives strings and bytes other headers. `pack` writes what the JavaScript
packer writes, byte for byte, except where that one would corrupt the value:

- Fractions are exact. JavaScript's are off in the last bits near a power of two, wrong for some powers
  of two below 2^-28, and nonsense for subnormal numbers.
- 2^63 and 2^64 are themselves; JavaScript sends -2^63 and 0.
- Whole floats past 64 bits go as float64, which JavaScript reads well but refuses to send.

What JavaScript misreads, whoever sent it: whole numbers past 2^53 lose their last digits, those below
-2^31 are rounded to a multiple of 2048, subnormal floats come out wrong, and the key "__proto__" is lost.
JavaScript sends NaN as 0.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from datetime import datetime
from typing import Any

from peercli.errors import MessageTooBig, ProtocolError, UsageError
from peercli.protocol.values import (
    MAX_DEPTH,
    MAX_MESSAGE_BYTES,
    MAX_VALUES,
    UNDEFINED,
    check_shape,
    in_utc,
    well_formed,
)

__all__ = ["UNDEFINED", "UnpackError", "pack", "unpack"]


class UnpackError(ProtocolError):
    """The bytes are not exactly one BinaryPack value, or the value breaks a limit of `protocol.values`."""


# Packing --------------------------------------------------------------------------------------

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_BYTE = tuple(bytes([byte]) for byte in range(0x100))
_INTEGERS = (  # the first that fits is taken; signed 64 comes before unsigned, as in pack_integer()
    (0, 0xFF, 0xCC, struct.Struct(">BB")),
    (-0x80, 0x7F, 0xD0, struct.Struct(">Bb")),
    (0, 0xFFFF, 0xCD, struct.Struct(">BH")),
    (-0x8000, 0x7FFF, 0xD1, struct.Struct(">Bh")),
    (0, 0xFFFF_FFFF, 0xCE, struct.Struct(">BI")),
    (-0x8000_0000, 0x7FFF_FFFF, 0xD2, struct.Struct(">Bi")),
    (-(1 << 63), (1 << 63) - 1, 0xD3, struct.Struct(">Bq")),
    (0, (1 << 64) - 1, 0xCF, struct.Struct(">BQ")),
)
_FLOAT64 = struct.Struct(">Bd")
_SIZE16 = struct.Struct(">BH")
_SIZE32 = struct.Struct(">BI")

_Parts = list[bytes | bytearray]


def pack(value: Any) -> bytes:
    """One value as BinaryPack.

    Takes None, bool, int, float, str, bytes, bytearray, memoryview, list, tuple, dict with str keys,
    `UNDEFINED` (sent as null) and datetime with a time zone (sent as the text of a JavaScript Date, in UTC
    and whole seconds). A lone surrogate in a str becomes U+FFFD, as in JavaScript.

    Raises:
        UsageError: another type, a key that is not a str (JavaScript would make it one, and lose an
            entry where two become the same), NaN or an infinity, an int outside -2^63 … 2^64-1, or a
            limit of `protocol.values`.
        MessageTooBig: the result would exceed MAX_MESSAGE_BYTES.
    """
    check_shape(value)
    parts: _Parts = []
    _pack(parts, value)
    if sum(map(len, parts)) > MAX_MESSAGE_BYTES:
        raise MessageTooBig(f"the message is bigger than {MAX_MESSAGE_BYTES} bytes")
    return b"".join(parts)


def _pack(parts: _Parts, value: Any) -> None:
    packer = _PACKERS.get(type(value)) or _packer_of_base(value)
    packer(parts, value)


def _pack_null(parts: _Parts, value: object) -> None:
    parts.append(b"\xc0")


def _pack_bool(parts: _Parts, value: bool) -> None:
    parts.append(b"\xc3" if value else b"\xc2")


def _pack_int(parts: _Parts, value: int) -> None:
    if -0x20 <= value <= 0x7F:
        parts.append(_BYTE[value & 0xFF])
        return
    for low, high, header, layout in _INTEGERS:
        if low <= value <= high:
            parts.append(layout.pack(header, value))
            return
    raise UsageError("this int does not fit into 64 bits")


def _pack_float(parts: _Parts, value: float) -> None:
    if not math.isfinite(value):
        raise UsageError("NaN and infinities cannot be sent in BinaryPack", hint="MsgPack carries them")
    if value.is_integer() and -(2.0**63) <= value < 2.0**64:
        _pack_int(parts, int(value))
    else:
        parts.append(_FLOAT64.pack(0xCB, value))


def _pack_str(parts: _Parts, value: str) -> None:
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        encoded = well_formed(value).encode()
    _pack_size(parts, len(encoded), 0xB0, 0xD8)
    parts.append(encoded)


def _pack_bytes(parts: _Parts, value: bytes | bytearray) -> None:
    _pack_size(parts, len(value), 0xA0, 0xDA)
    parts.append(value)


def _pack_view(parts: _Parts, value: memoryview) -> None:
    _pack_bytes(parts, value.tobytes())


def _pack_list(parts: _Parts, value: list[Any] | tuple[Any, ...]) -> None:
    _pack_size(parts, len(value), 0x90, 0xDC)
    for item in value:
        _pack(parts, item)


def _pack_dict(parts: _Parts, value: dict[str, Any]) -> None:
    _pack_size(parts, len(value), 0x80, 0xDE)
    for key, item in value.items():
        _pack_str(parts, key)
        _pack(parts, item)


def _pack_datetime(parts: _Parts, value: datetime) -> None:
    """Date.prototype.toString (ECMA-262) without the optional name of the zone; Date.parse() reads it."""
    at = in_utc(value)
    date = f"{_WEEKDAYS[at.weekday()]} {_MONTHS[at.month - 1]} {at.day:02} {at.year:04}"
    _pack_str(parts, f"{date} {at.hour:02}:{at.minute:02}:{at.second:02} GMT+0000")


def _pack_size(parts: _Parts, size: int, short: int, long: int) -> None:
    """A header with a size: in the header's low bits, or in the 16 or 32 bits after it."""
    if size <= 0x0F:
        parts.append(_BYTE[short + size])
    elif size <= 0xFFFF:
        parts.append(_SIZE16.pack(long, size))
    elif size <= MAX_MESSAGE_BYTES:
        parts.append(_SIZE32.pack(long + 1, size))
    else:
        raise MessageTooBig(f"the message is bigger than {MAX_MESSAGE_BYTES} bytes")


_PACKERS: dict[type, Callable[[_Parts, Any], None]] = {
    type(None): _pack_null,
    type(UNDEFINED): _pack_null,
    bool: _pack_bool,
    int: _pack_int,
    float: _pack_float,
    str: _pack_str,
    bytes: _pack_bytes,
    bytearray: _pack_bytes,
    memoryview: _pack_view,
    list: _pack_list,
    tuple: _pack_list,
    dict: _pack_dict,
    datetime: _pack_datetime,
}


def _packer_of_base(value: object) -> Callable[[_Parts, Any], None]:
    """The packer for a subclass: an IntEnum, a named tuple, an OrderedDict."""
    for base in type(value).__mro__:
        if base in _PACKERS:
            return _PACKERS[base]
    raise UsageError(f"a value of type {type(value).__name__} cannot be sent in BinaryPack")


# Unpacking ------------------------------------------------------------------------------------


def unpack(data: bytes | bytearray | memoryview) -> Any:
    """The one value that `data` holds. Of equal keys in a map the last wins, as in JavaScript.

    Stricter than the JavaScript unpacker where that one guesses: it reads zeros past the end, ignores
    what follows the value, takes unknown headers for undefined, and decodes broken UTF-8.

    Raises:
        UnpackError: `data` is anything but one whole value within the limits of `protocol.values`.
    """
    if memoryview(data).nbytes > MAX_MESSAGE_BYTES:
        raise UnpackError(f"the message is bigger than {MAX_MESSAGE_BYTES} bytes")
    unpacker = _Unpacker(bytes(data))
    value = unpacker.value()
    if unpacker.left:
        raise UnpackError(f"{unpacker.left} bytes follow the value")
    return value


class _Unpacker:
    __slots__ = ("_at", "_data", "_depth", "_values")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._depth = 0
        self._values = 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def value(self) -> Any:
        header = self._take(1)[0]
        if header < 0x80:
            return header
        if header >= 0xE0:
            return header - 0x100
        if header < 0xC0:
            return _SHORT[header & 0xF0](self, header & 0x0F)
        if header in _CONSTANTS:
            return _CONSTANTS[header]
        if header in _NUMBERS:
            return self._number(_NUMBERS[header])
        if header in _SIZED:
            read, size = _SIZED[header]
            return read(self, self._number(size))
        raise UnpackError(f"no value starts with the byte 0x{header:02x}")

    def bytes_(self, size: int) -> bytes:
        return self._take(size)

    def text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError:
            raise UnpackError("a string is not UTF-8") from None

    def array(self, size: int) -> list[Any]:
        self._enter(size)
        items = [self.value() for _ in range(size)]
        self._depth -= 1
        return items

    def map(self, size: int) -> dict[str, Any]:
        self._enter(2 * size)
        items = {}
        for _ in range(size):
            key = self.value()
            if not isinstance(key, str):
                raise UnpackError("a map has a key that is not a string")
            items[key] = self.value()
        self._depth -= 1
        return items

    def _enter(self, values: int) -> None:
        """Go one level down, to `values` values: each takes a byte at least, so a lie shows here."""
        if values > self.left:
            raise UnpackError("the data ends too early")
        self._depth += 1
        self._values += values
        if self._depth > MAX_DEPTH:
            raise UnpackError(f"the message is nested more than {MAX_DEPTH} deep")
        if self._values > MAX_VALUES:
            raise UnpackError(f"the message has more than {MAX_VALUES} values")

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._take(layout.size))[0]

    def _take(self, size: int) -> bytes:
        start = self._at
        if size > len(self._data) - start:
            raise UnpackError("the data ends too early")
        self._at = start + size
        return self._data[start : self._at]


_CONSTANTS = {0xC0: None, 0xC1: UNDEFINED, 0xC2: False, 0xC3: True}
_NUMBERS = {0xCA + n: struct.Struct(f">{layout}") for n, layout in enumerate("fdBHIQbhiq")}
_SHORT = {0x80: _Unpacker.map, 0x90: _Unpacker.array, 0xA0: _Unpacker.bytes_, 0xB0: _Unpacker.text}
_SIZED = {
    0xD8: (_Unpacker.text, struct.Struct(">H")),
    0xD9: (_Unpacker.text, struct.Struct(">I")),
    0xDA: (_Unpacker.bytes_, struct.Struct(">H")),
    0xDB: (_Unpacker.bytes_, struct.Struct(">I")),
    0xDC: (_Unpacker.array, struct.Struct(">H")),
    0xDD: (_Unpacker.array, struct.Struct(">I")),
    0xDE: (_Unpacker.map, struct.Struct(">H")),
    0xDF: (_Unpacker.map, struct.Struct(">I")),
}
