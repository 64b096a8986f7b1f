"""What a data connection's messages look like on the data channel, by the name of its serialization.

From peerjs 1.5.5, lib/dataconnection: BufferedConnection/{BinaryPack,Json,Raw}.ts and
StreamConnection/MsgPack.ts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Final, Protocol

from peercli.errors import MessageTooBig, ProtocolError, UsageError
from peercli.protocol import binarypack, messagepack
from peercli.protocol.chunks import CHUNK_SIZE, ChunkError, Reassembler, split
from peercli.protocol.jsontext import parse
from peercli.protocol.values import UNDEFINED, check_shape, in_utc, shape_fault, well_formed

__all__ = ["CLOSE", "MAX_JSON_RECEIVED", "SERIALIZATIONS", "STREAM_PIECE", "Close", "Codec", "make_codec"]

MAX_JSON_RECEIVED = 1 << 20
"""Bytes of a JSON message we read. PeerJS sends less than CHUNK_SIZE; another program may send more."""

STREAM_PIECE = 32_768
"""Bytes in which a MsgPack stream is cut (StreamConnection.ts)."""


class Close(Enum):
    """The type of `CLOSE`."""

    CLOSE = "close"

    def __repr__(self) -> str:
        return "CLOSE"


CLOSE: Final = Close.CLOSE
"""Stands in the place of the message by which PeerJS says: all is sent, close the connection."""

_CLOSE_MESSAGE = {"__peerData": {"type": "close"}}


class Codec(Protocol):
    """One connection's serialization: messages to data channel messages, and back.

    A data channel message is str (sent as text) or bytes (sent as binary).
    """

    name: str

    def encode(self, value: Any) -> Iterable[bytes | str | memoryview]:
        """The data channel messages that carry `value`; send all of one value before those of the next.

        The value is checked and packed at the call, so it may be changed afterwards.

        Raises:
            UsageError: this serialization cannot carry `value`.
            MessageTooBig: it can, but not so much.
        """

    def decode(self, wire: bytes | str) -> list[Any]:
        """The messages that this data channel message completes, none or several; `CLOSE` is the last.

        Raises:
            ProtocolError: the far side broke the protocol: close the connection.
        """

    def encode_close(self) -> Iterable[bytes | str]:
        """The data channel messages that ask the far side to close once it has all the others."""


class BinaryCodec:
    """`binary` and `binary-utf8`: BinaryPack, cut into chunks where it is long."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._reassembler = Reassembler()
        self._next_chunk_id = 1

    def encode(self, value: Any) -> Iterable[bytes]:
        if _peer_data(value):
            raise UsageError('a map with the key "__peerData" is PeerJS\'s own and cannot be sent')
        packed = binarypack.pack(value)
        if len(packed) <= CHUNK_SIZE:
            return [packed]
        self._next_chunk_id += 1
        return split(packed, self._next_chunk_id - 1)

    def decode(self, wire: bytes | str) -> list[Any]:
        value = binarypack.unpack(_binary(wire))
        if not _peer_data(value):
            return [value]
        if _is_close(value):
            return [CLOSE]
        packed = self._reassembler.add(value)
        if packed is None:
            return []
        value = binarypack.unpack(packed)
        if _is_close(value):
            return [CLOSE]
        if _peer_data(value):
            raise ChunkError("the chunks of a message hold a chunk again")
        return [value]

    def encode_close(self) -> Iterable[bytes]:
        return [binarypack.pack(_CLOSE_MESSAGE)]


class JsonCodec:
    """`json`: JSON in UTF-8 under CHUNK_SIZE, as binary messages; to who sends text, as text.

    PeerJS before 1.5 sends text, and reads nothing else. Since 1.5 it reads nothing but binary messages.

    A datetime with a time zone is sent as JavaScript's Date.toJSON, `UNDEFINED` as null. NaN and infinities
    are refused: JavaScript makes them null. An empty message is how PeerJS sends a bare `undefined`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._speaks_text = False

    def encode(self, value: Any) -> Iterable[bytes | str]:
        _check_not_close(value)
        return [self._dump(value)]

    def _dump(self, value: Any) -> bytes | str:
        check_shape(value)
        try:
            text = _JSON.encode(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"this value cannot be sent as JSON: {error}") from None
        # UTF-8 lacks only lone surrogates. JSON.stringify writes one as \ud800, and so does this.
        encoded = text.encode("utf-8", "backslashreplace")
        if len(encoded) >= CHUNK_SIZE:
            raise MessageTooBig(
                f"a JSON message must stay under {CHUNK_SIZE} bytes", hint="use the binary serialization"
            )
        return encoded.decode() if self._speaks_text else encoded

    def decode(self, wire: bytes | str) -> list[Any]:
        self._speaks_text = isinstance(wire, str)
        if len(wire) > MAX_JSON_RECEIVED:
            raise ProtocolError(f"a JSON message is bigger than {MAX_JSON_RECEIVED} bytes")
        if not wire:
            return [UNDEFINED]
        try:
            text = wire if isinstance(wire, str) else wire.decode("utf-8-sig")
            value = parse(text)
        except ValueError:
            raise ProtocolError("a message is not JSON") from None
        if fault := shape_fault(value):
            raise ProtocolError(f"a JSON message cannot be read: {fault}")
        return [CLOSE] if _is_close(value) else [value]

    def encode_close(self) -> Iterable[bytes | str]:
        return [self._dump(_CLOSE_MESSAGE)]


class RawCodec:
    """`raw`: str and bytes as they are, but a lone surrogate in a str becomes U+FFFD, as in a browser.

    There is no message that asks to close: PeerJS sends the text "[object Object]" and nobody closes.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, value: Any) -> Iterable[bytes | str | memoryview]:
        if isinstance(value, str):
            return [well_formed(value)]
        if isinstance(value, memoryview) and type(value.obj) is bytes and value.c_contiguous:
            return [value.cast("B")]  # nobody can change it
        if isinstance(value, bytes | bytearray | memoryview):
            return [bytes(value)]
        raise UsageError(f"a raw connection carries str and bytes, not {type(value).__name__}")

    def decode(self, wire: bytes | str) -> list[Any]:
        return [wire]

    def encode_close(self) -> Iterable[bytes]:
        return []


class MsgPackCodec:
    """`MsgPack`: one MessagePack stream over an ordered channel, cut without regard to its values."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._unpacker = messagepack.Unpacker()

    def encode(self, value: Any) -> Iterable[bytes]:
        _check_not_close(value)
        packed = messagepack.pack(value)
        return (packed[at : at + STREAM_PIECE] for at in range(0, len(packed), STREAM_PIECE))

    def decode(self, wire: bytes | str) -> list[Any]:
        values = [CLOSE if _is_close(value) else value for value in self._unpacker.feed(_binary(wire))]
        return values[: values.index(CLOSE) + 1] if CLOSE in values else values

    def encode_close(self) -> Iterable[bytes]:
        return [messagepack.pack(_CLOSE_MESSAGE)]


_CODECS: dict[str, Callable[[str], Codec]] = {
    "binary": BinaryCodec,
    "binary-utf8": BinaryCodec,
    "json": JsonCodec,
    "raw": RawCodec,
    "MsgPack": MsgPackCodec,
}

SERIALIZATIONS = tuple(_CODECS)
"""The names PeerJS gives its serializations."""


def make_codec(serialization: str, more: Mapping[str, Callable[[str], Codec]] | None = None) -> Codec:
    """A codec for one connection, of SERIALIZATIONS or of `more`.

    Raises:
        UsageError: `serialization` is none of them.
    """
    codecs = {**_CODECS, **(more or {})}
    if serialization not in codecs:
        raise UsageError(
            f"there is no serialization {serialization!r}", hint=f"choose from {', '.join(codecs)}"
        )
    return codecs[serialization](serialization)


def _peer_data(value: object) -> bool:
    """Whether PeerJS takes the message for one of its own: it has `__peerData`, true to JavaScript."""
    return isinstance(value, dict) and value.get("__peerData") not in (None, UNDEFINED, False, 0, "")


def _is_close(value: object) -> bool:
    marker = value.get("__peerData") if isinstance(value, dict) else None
    return isinstance(marker, dict) and marker.get("type") == "close"


def _check_not_close(value: object) -> None:
    if _is_close(value):
        raise UsageError("this message is PeerJS's own and would close the connection")


def _binary(wire: bytes | str) -> bytes:
    if isinstance(wire, str):
        raise ProtocolError("a text message came where only binary ones are spoken")
    return wire


def _json_other(value: object) -> str | None:
    """What the json module knows nothing of."""
    if value is UNDEFINED:
        return None
    if isinstance(value, datetime):
        return in_utc(value).replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    raise TypeError(f"it holds a {type(value).__name__}")


_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json_other)
