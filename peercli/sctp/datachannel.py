"""Data channels on an association: the messages that open them (RFC 8832) and what each one is (RFC 8831)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto

__all__ = ["ACK", "MAX_LABEL_SIZE", "Channel", "ChannelState", "Open", "Ppid"]

MAX_LABEL_SIZE = 65_535
"""Bytes of a label, or of a protocol name, in UTF-8."""

_OPEN = struct.Struct("!BBHLHH")
_MESSAGE_ACK = 2
_MESSAGE_OPEN = 3
_UNORDERED = 0x80
_RELIABLE, _LIMITED_RETRANSMITS, _LIMITED_LIFETIME = 0, 1, 2

ACK = bytes([_MESSAGE_ACK])


class Ppid(IntEnum):
    """Payload protocol identifiers (RFC 8831 section 8). The empty ones carry a single byte, as DATA must."""

    DCEP = 50
    STRING = 51
    BINARY = 53
    STRING_EMPTY = 56
    BINARY_EMPTY = 57


@dataclass(frozen=True, slots=True)
class Open:
    """DATA_CHANNEL_OPEN (RFC 8832 section 5.1). At most one of the limits is given; the lifetime is in ms."""

    label: str = ""
    protocol: str = ""
    ordered: bool = True
    max_retransmits: int | None = None
    max_packet_life_time: int | None = None
    priority: int = 256

    def pack(self) -> bytes:
        """Raises ValueError if a name is too long, or both limits are given, or one does not fit 32 bits."""
        label, protocol = _encoded(self.label), _encoded(self.protocol)
        if len(label) > MAX_LABEL_SIZE or len(protocol) > MAX_LABEL_SIZE:
            raise ValueError("a data channel's label is too long")
        if self.max_retransmits is not None and self.max_packet_life_time is not None:
            raise ValueError("a data channel is limited by retransmits or by lifetime, not by both")
        kind, limit = _RELIABLE, 0
        if self.max_retransmits is not None:
            kind, limit = _LIMITED_RETRANSMITS, self.max_retransmits
        elif self.max_packet_life_time is not None:
            kind, limit = _LIMITED_LIFETIME, self.max_packet_life_time
        if not 0 <= limit <= 0xFFFFFFFF:
            raise ValueError("a data channel's limit is out of range")
        kind |= 0 if self.ordered else _UNORDERED
        header = _OPEN.pack(_MESSAGE_OPEN, kind, self.priority, limit, len(label), len(protocol))
        return header + label + protocol

    @classmethod
    def unpack(cls, message: bytes) -> Open | None:
        """The message, or None if it is another one or malformed."""
        if len(message) < _OPEN.size or message[0] != _MESSAGE_OPEN:
            return None
        _, kind, priority, limit, label_size, protocol_size = _OPEN.unpack_from(message)
        if _OPEN.size + label_size + protocol_size > len(message):
            return None
        middle = _OPEN.size + label_size
        reliability = kind & ~_UNORDERED
        return cls(
            label=message[_OPEN.size : middle].decode(errors="replace"),
            protocol=message[middle : middle + protocol_size].decode(errors="replace"),
            ordered=not kind & _UNORDERED,
            max_retransmits=limit if reliability == _LIMITED_RETRANSMITS else None,
            max_packet_life_time=limit if reliability == _LIMITED_LIFETIME else None,
            priority=priority,
        )


def _encoded(name: str) -> bytes:
    """As a browser has it (W3C USVString): half of a surrogate pair becomes U+FFFD."""
    return name.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


class ChannelState(Enum):
    OPENING = auto()  # our OPEN has not been answered
    OPEN = auto()
    CLOSING = auto()  # one of the two directions is being reset, or both


@dataclass(slots=True)
class Channel:
    """A channel in use. It is gone once the streams of both directions were reset (RFC 8831 section 6.7)."""

    id: int
    opening: Open
    state: ChannelState
    refused: bool = False  # closed by us: what still arrives is dropped
    reset_requested: bool = False
    incoming_reset: bool = False
    outgoing_reset: bool = False
    reported: bool = False  # ChannelClosed was told
    lifetime: float = field(init=False)

    def __post_init__(self) -> None:
        life = self.opening.max_packet_life_time
        self.lifetime = math.inf if life is None else life / 1000
