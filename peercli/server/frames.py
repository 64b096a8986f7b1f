"""WebSocket frames, the server's side (RFC 6455, section 5). PURE: bytes in, messages out.

Written here rather than taken from a library because a broker does little else, and none fits. CPU seconds
that the same small relay took on each for 100,000 messages, 8 at a time and one by one, by
`python -m tests.bench sockets`: on this 0.51 and 1.62, picows 2.3 0.85 and 1.39, aiohttp 3.14 1.56 and 2.61,
websockets 17 2.55 and 4.07. picows, the one as quick, does not take Firefox's handshake (`Connection:
keep-alive, Upgrade`), answers neither OPTIONS nor HEAD on the same port, leaves it to its user to join and to
bound messages that come in several frames, and keeps a buffer for every idle client.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = ["FrameError", "FrameReader", "Opcode", "close_frame", "frame", "head", "unmask_slowly"]


class Opcode(IntEnum):
    """What a frame carries (RFC 6455, section 11.8)."""

    CONTINUATION = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


# Close codes (section 7.4.1)
PROTOCOL_ERROR = 1002
NOT_TEXT = 1007
TOO_BIG = 1009
_NEVER_SENT = frozenset({1004, 1005, 1006})
MAX_CONTROL = 125  # bytes of a control frame (section 5.5)

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PONG = (
    int(opcode) for opcode in (Opcode.CONTINUATION, Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PONG)
)


class FrameError(Exception):
    """The far side does not keep to the protocol, or to our limit; `code` says so in the close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def head(opcode: int, size: int) -> bytes:
    """What stands before the payload where a whole message is one frame, unmasked as a server's are."""
    if size < 126:
        return bytes((0x80 | opcode, size))
    if size < 65536:
        return bytes((0x80 | opcode, 126, size >> 8, size & 255))
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")


def frame(opcode: int, payload: bytes) -> bytes:
    """One whole message in one frame."""
    return head(opcode, len(payload)) + payload


def close_frame(code: int, reason: str) -> bytes:
    """The frame that begins or answers a closing handshake; the reason is cut to what fits."""
    fits = reason.encode()[: MAX_CONTROL - 2].decode(errors="ignore")  # no half a character
    return frame(Opcode.CLOSE, code.to_bytes(2, "big") + fits.encode())


class FrameReader:
    """Cuts a client's bytes into messages. At most `max_message` bytes and one header wait in it."""

    __slots__ = ("_kind", "_max_message", "_parts", "_rest")

    def __init__(self, max_message: int) -> None:
        self._max_message = max_message
        self._rest = bytearray()  # the frame that has not come whole
        self._parts: bytearray | None = None  # of the message that comes in several frames
        self._kind = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The messages and control frames that `data` completes, as (opcode, payload), in order.

        A frame that completes no message is (CONTINUATION, b""): it has cost as much work as one that does.

        Raises:
            FrameError: nothing more can be read from this client.
        """
        source: bytes | bytearray = data
        if self._rest:
            self._rest += data
            source = self._rest
        found: list[tuple[int, bytes]] = []
        at, end = 0, len(source)
        while end - at >= 6:  # the smallest header with a mask
            first, size = source[at], source[at + 1]
            opcode = first & 0x0F
            if first & 0x70 or size < 0x80:
                raise FrameError(PROTOCOL_ERROR, "reserved bits or no mask")
            size &= 0x7F
            start = at + 6
            if size == 126:
                size, start = int.from_bytes(source[at + 2 : at + 4], "big"), at + 8
            elif size == 127:
                if end - at < 14:
                    break
                size, start = int.from_bytes(source[at + 2 : at + 10], "big"), at + 14
            if opcode >= _CLOSE:
                if first < 0x80 or size > MAX_CONTROL or opcode > _PONG:
                    raise FrameError(PROTOCOL_ERROR, "a control frame is known, whole and short")
            elif opcode > _BINARY or (opcode == 0) != (self._parts is not None):
                raise FrameError(PROTOCOL_ERROR, "an opcode out of place")
            elif size + len(self._parts or b"") > self._max_message:
                raise FrameError(TOO_BIG, "the message is too big")
            if end - start < size:
                break
            at = start + size
            payload = _unmask(source[start:at], source[start - 4 : start])
            if opcode < _CLOSE and (first < 0x80 or self._parts is not None):
                opcode, payload = self._join(opcode, payload, last=first >= 0x80)
            if opcode == _TEXT and not payload.isascii():
                _check_text(payload)
            elif opcode == _CLOSE:
                _check_close(payload)
            found.append((opcode, payload))
        if end - at > 1 and source[at + 1] < 0x80:  # a whole frame without a mask may be that short
            raise FrameError(PROTOCOL_ERROR, "no mask")
        if source is data:
            self._rest = bytearray(data[at:]) if at < end else self._rest
        else:
            del self._rest[:at]
        return found

    def _join(self, opcode: int, payload: bytes, *, last: bool) -> tuple[int, bytes]:
        """A piece of a message: the whole of it with the last one."""
        if self._parts is None:
            self._parts, self._kind = bytearray(), opcode
        self._parts += payload
        if not last:
            return _CONTINUATION, b""
        whole, self._parts = bytes(self._parts), None
        return self._kind, whole


def _check_text(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise FrameError(NOT_TEXT, "text that is no UTF-8") from None


def _check_close(payload: bytes) -> None:
    """Section 5.5.1: nothing, or a code that may be sent (section 7.4) and a reason."""
    if payload:
        _check_text(payload[2:])
        code = int.from_bytes(payload[:2], "big")
        if len(payload) < 2 or not (1000 <= code <= 1014 or 3000 <= code <= 4999) or code in _NEVER_SENT:
            raise FrameError(PROTOCOL_ERROR, "no close code")


def unmask_slowly(data: bytes | bytearray | memoryview, mask: bytes | bytearray) -> bytes:
    """XOR with the mask, as one big number: the quickest way that Python has without C."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


try:
    from websockets.speedups import apply_mask as _unmask
except ImportError:  # where there was no compiler
    _unmask = unmask_slowly
