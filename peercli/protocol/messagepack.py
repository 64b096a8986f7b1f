"""MessagePack as PeerJS's MsgPack connections stream it (@msgpack/msgpack 2.8.0): values end to end.

The msgpack package builds the values. Finding where one ends is done here, before anything is built:
the package reserves the memory that a header asks for, and five bytes can ask for gigabytes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]

from peercli.errors import MessageTooBig, ProtocolError, UsageError
from peercli.protocol.values import MAX_DEPTH, MAX_MESSAGE_BYTES, MAX_VALUES, UNDEFINED, check_shape, in_utc

__all__ = ["Unpacker", "pack"]

# PeerJS sends a lone surrogate of a short string as the three bytes it would have in UTF-8. They are
# read and written alike, so that such a string comes back as it was.
_LONE_SURROGATES = "surrogatepass"


def pack(value: Any) -> bytes:
    """One value as MessagePack.

    Takes what `binarypack.pack` takes, and NaN and infinities. `UNDEFINED` becomes nil and a datetime with a
    time zone a timestamp, as in JavaScript. Ints past 2^53 lose their last digits in JavaScript.

    Raises:
        UsageError: another type, a key that is not a str, an int outside -2^63 … 2^64-1, a datetime
            without a time zone, or a limit of `protocol.values`.
        MessageTooBig: the result would exceed MAX_MESSAGE_BYTES.
    """
    check_shape(value)
    try:
        packed: bytes = msgpack.packb(value, default=_other, unicode_errors=_LONE_SURROGATES)
    except (TypeError, ValueError, OverflowError, BufferError) as error:
        raise UsageError(f"this value cannot be sent as MsgPack: {error}") from None
    if len(packed) > MAX_MESSAGE_BYTES:
        raise MessageTooBig(f"the message is bigger than {MAX_MESSAGE_BYTES} bytes")
    return packed


def _other(value: object) -> msgpack.Timestamp | None:
    """What the msgpack package leaves to us."""
    if value is UNDEFINED:
        return None
    if isinstance(value, datetime):
        return msgpack.Timestamp.from_datetime(in_utc(value))
    if isinstance(value, int):
        raise TypeError("an int does not fit into 64 bits")
    raise TypeError(f"it holds a {type(value).__name__}")


class _Header(NamedTuple):
    """What follows a header byte: a size of `width` bytes, or none and `size` itself.

    Then `children` values for each one of the size, or when `children` is 0, `extra` + size bytes.
    """

    width: int = 0
    size: int = 0
    children: int = 0
    extra: int = 0


def _headers() -> tuple[_Header | None, ...]:
    """The table of formats (MessagePack specification, "Formats: Overview"), by header byte."""
    single = (*range(0x80), 0xC0, 0xC2, 0xC3, *range(0xE0, 0x100))
    table: dict[int, _Header] = dict.fromkeys(single, _Header())
    for size in range(0x10):
        table[0x80 + size] = _Header(size=size, children=2)
        table[0x90 + size] = _Header(size=size, children=1)
    for size in range(0x20):
        table[0xA0 + size] = _Header(size=size)
    for n, width in enumerate((1, 2, 4)):
        table[0xC4 + n] = _Header(width)
        table[0xC7 + n] = _Header(width, extra=1)
        table[0xD9 + n] = _Header(width)
    for n, size in enumerate((4, 8, 1, 2, 4, 8, 1, 2, 4, 8)):
        table[0xCA + n] = _Header(size=size)
    for n in range(5):
        table[0xD4 + n] = _Header(size=1 << n, extra=1)
    for n, width in enumerate((2, 4)):
        table[0xDC + n] = _Header(width, children=1)
        table[0xDE + n] = _Header(width, children=2)
    return tuple(table.get(byte) for byte in range(0x100))


_HEADERS = _headers()


class Unpacker:
    """Values out of a stream that is cut anywhere. Timestamps become datetimes in UTC.

    It holds no more than one unfinished value, MAX_MESSAGE_BYTES at most. Of equal keys in a map the last
    wins. After an error the stream has lost its thread, and every call raises that error again.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # in the buffer: the first byte not looked at
        self._open: list[int] = []  # values to come in each list or map that is not complete
        self._values = 0  # of the value being looked at
        self._fault = ""

    def feed(self, data: bytes) -> list[Any]:
        """Take the next bytes of the stream; return the values they complete.

        Raises:
            ProtocolError: not MessagePack, an extension other than the timestamp, a date outside the
                years 1 to 9999, text that is not UTF-8, a map key that is not text, or a limit of
                `protocol.values`.
        """
        if self._fault:
            raise ProtocolError(self._fault)
        try:
            return self._feed(data)
        except ProtocolError as error:
            self._fault = error.message
            self._buffer.clear()
            raise

    def _feed(self, data: bytes) -> list[Any]:
        self._buffer += data
        values = []
        start = 0
        while self._skip(start):
            values.append(_build(self._buffer[start : self._at]))
            start = self._at
            self._values = 0
        del self._buffer[:start]
        self._at -= start
        return values

    def _skip(self, start: int) -> bool:
        """Look for the end of the value that began at `start`: False when its bytes are not all there."""
        buffer, at, unfinished = self._buffer, self._at, self._open
        while at < len(buffer):
            header = _HEADERS[buffer[at]]
            if header is None:
                raise ProtocolError(f"no MessagePack value starts with the byte 0x{buffer[at]:02x}")
            width, size, children, extra = header
            end = at + 1 + width
            if end > len(buffer):
                break
            if width:
                size = int.from_bytes(buffer[at + 1 : end], "big")
            if children:
                self._enter(size * children)
            else:
                end += size + extra
            if end - start > MAX_MESSAGE_BYTES:
                raise ProtocolError(f"the message is bigger than {MAX_MESSAGE_BYTES} bytes")
            if end > len(buffer):
                break
            at = end
            if children and size:
                unfinished.append(size * children)
                continue
            while unfinished:
                unfinished[-1] -= 1
                if unfinished[-1]:
                    break
                unfinished.pop()
            else:
                self._at = at
                return True
        self._at = at
        return False

    def _enter(self, values: int) -> None:
        self._values += values
        if len(self._open) >= MAX_DEPTH:
            raise ProtocolError(f"the message is nested more than {MAX_DEPTH} deep")
        if self._values > MAX_VALUES:
            raise ProtocolError(f"the message has more than {MAX_VALUES} values")


def _build(packed: bytearray) -> Any:
    try:
        return msgpack.unpackb(
            packed,
            timestamp=3,
            unicode_errors=_LONE_SURROGATES,
            object_hook=_text_keys,
            ext_hook=_no_extension,
        )
    except (ValueError, OverflowError) as error:
        raise ProtocolError(f"a MessagePack value cannot be read: {error}") from None


def _text_keys(items: dict[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(key, str) for key in items):
        raise ProtocolError("a map has a key that is not a string")
    return items


def _no_extension(code: int, data: bytes) -> Any:
    raise ProtocolError(f"MessagePack extension {code} is not known")
