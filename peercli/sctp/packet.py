"""SCTP's wire format: packets, chunks and parameters (RFC 9260 section 3 and the extensions of WebRTC).

Nothing here knows what an association is. Chunks are built as `bytes`, already padded, and read in place.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from google_crc32c import extend, value

__all__ = [
    "DATA_HEADER",
    "DATA_KEY",
    "HEADER_SIZE",
    "IDATA_HEADER",
    "IDATA_KEY",
    "SACK_HEADER",
    "Cause",
    "Chunk",
    "Flag",
    "Init",
    "MalformedPacket",
    "Param",
    "cause",
    "checksum_is_right",
    "chunk",
    "chunks",
    "forward_tsn",
    "head",
    "iforward_tsn",
    "param",
    "params",
    "ports",
    "read_forward_tsn",
    "read_iforward_tsn",
    "read_sack",
    "sack",
    "sealer",
]

HEADER_SIZE = 12
"""Bytes of the common header: ports, verification tag and checksum."""

_HEADER = struct.Struct("!HHL")
_CHUNK = struct.Struct("!BBH")
_PARAM = struct.Struct("!HH")
_INIT = struct.Struct("!LLHHL")

DATA_HEADER = struct.Struct("!BBHL4sL")
"""DATA (RFC 9260 section 3.3.1): type, flags, length, TSN, stream and SSN as one key, PPID."""
IDATA_HEADER = struct.Struct("!BBHL8sL")
"""I-DATA (RFC 8260 section 2.1): type, flags, length, TSN, stream and MID as one key, PPID or FSN."""
DATA_KEY = struct.Struct("!HH")
IDATA_KEY = struct.Struct("!HxxL")
SACK_HEADER = struct.Struct("!LLHH")
"""A SACK chunk's body: cumulative TSN, a_rwnd, number of gap blocks, number of duplicates."""


class MalformedPacket(Exception):
    """What was received is no SCTP packet, or a chunk in it lies about its length."""


class Chunk(IntEnum):
    DATA = 0
    INIT = 1
    INIT_ACK = 2
    SACK = 3
    HEARTBEAT = 4
    HEARTBEAT_ACK = 5
    ABORT = 6
    SHUTDOWN = 7
    SHUTDOWN_ACK = 8
    ERROR = 9
    COOKIE_ECHO = 10
    COOKIE_ACK = 11
    SHUTDOWN_COMPLETE = 14
    I_DATA = 64
    RE_CONFIG = 130
    PAD = 132
    FORWARD_TSN = 192
    I_FORWARD_TSN = 194


class Flag(IntEnum):
    """Flags of DATA and I-DATA; TAG_REFLECTED is the T bit of ABORT and SHUTDOWN COMPLETE."""

    END = 1
    BEGIN = 2
    UNORDERED = 4
    IMMEDIATE = 8
    TAG_REFLECTED = 1


class Param(IntEnum):
    HEARTBEAT_INFO = 1
    STATE_COOKIE = 7
    UNRECOGNIZED = 8
    OUTGOING_RESET_REQUEST = 13
    INCOMING_RESET_REQUEST = 14
    TSN_RESET_REQUEST = 15
    RECONFIG_RESPONSE = 16
    ADD_OUTGOING_STREAMS = 17
    ADD_INCOMING_STREAMS = 18
    ZERO_CHECKSUM = 0x8001
    SUPPORTED_EXTENSIONS = 0x8008
    FORWARD_TSN_SUPPORTED = 0xC000


class Cause(IntEnum):
    INVALID_STREAM = 1
    STALE_COOKIE = 3
    OUT_OF_RESOURCE = 4
    UNRECOGNIZED_CHUNK = 6
    INVALID_MANDATORY_PARAM = 7
    NO_USER_DATA = 9
    USER_INITIATED = 12
    PROTOCOL_VIOLATION = 13


# Packets --------------------------------------------------------------------------------------


def ports(source: int, destination: int) -> bytes:
    """The first 4 bytes of a packet."""
    return struct.pack("!HH", source, destination)


def head(source: int, destination: int, tag: int) -> bytes:
    """The first 8 bytes of a packet, before the checksum."""
    return _HEADER.pack(source, destination, tag)


def sealer(source: int, destination: int, tag: int, *, checksum: bool = True) -> Callable[..., bytes]:
    """A function that makes a packet of chunks, given in one piece or several.

    Without `checksum` it leaves a zero in its place (RFC 9653). The CRC of the header, whose checksum field
    counts as zero, is the same for every packet, so only the chunks are gone over.
    """
    begin = head(source, destination, tag)
    blank = begin + bytes(4)
    seed = value(blank)

    def seal(*pieces: bytes | memoryview) -> bytes:
        if not checksum:
            return b"".join((blank, *pieces))
        body = b"".join(pieces)
        crc: int = extend(seed, body)
        return begin + crc.to_bytes(4, "little") + body

    return seal


def checksum_is_right(packet: bytes) -> bool:
    """Whether the CRC32c holds. The packet must be at least a header long."""
    crc: int = extend(value(packet[:8] + bytes(4)), packet[HEADER_SIZE:])
    return crc == int.from_bytes(packet[8:12], "little")


def chunks(packet: bytes, offset: int = HEADER_SIZE) -> Iterator[tuple[int, int, int, int]]:
    """The chunks of a packet from `offset` on, as (type, flags, start of the value, end of the value).

    Raises MalformedPacket at the first chunk that is shorter than its header or longer than the packet.
    """
    size = len(packet)
    while offset < size:
        if offset + 4 > size:
            raise MalformedPacket("a chunk is cut short")
        kind, flags, length = _CHUNK.unpack_from(packet, offset)
        end = offset + length
        if length < 4 or end > size:
            raise MalformedPacket("a chunk lies about its length")
        yield kind, flags, offset + 4, end
        offset = end + (-length & 3)


# Chunks ---------------------------------------------------------------------------------------


def chunk(kind: int, flags: int = 0, value: bytes = b"") -> bytes:
    return _CHUNK.pack(kind, flags, 4 + len(value)) + value + bytes(-len(value) & 3)


def param(kind: int, value: bytes = b"") -> bytes:
    """A parameter or an error cause: they share their form. Padded."""
    return _PARAM.pack(kind, 4 + len(value)) + value + bytes(-len(value) & 3)


cause = param


def params(value: bytes) -> Iterator[tuple[int, bytes]]:
    """The parameters or causes in a chunk's value. Raises MalformedPacket."""
    offset, size = 0, len(value)
    while offset < size:
        if offset + 4 > size:
            raise MalformedPacket("a parameter is cut short")
        kind, length = _PARAM.unpack_from(value, offset)
        if length < 4 or offset + length > size:
            raise MalformedPacket("a parameter lies about its length")
        yield kind, value[offset + 4 : offset + length]
        offset += length + (-length & 3)


def sack(cumulative: int, window: int, blocks: Sequence[int], duplicates: Sequence[int]) -> bytes:
    """A SACK (RFC 9260 section 3.3.4); `blocks` are starts and ends in turn, relative to `cumulative`."""
    length = 16 + 2 * len(blocks) + 4 * len(duplicates)
    return struct.pack(
        f"!BBHLLHH{len(blocks)}H{len(duplicates)}L",
        Chunk.SACK,
        0,
        length,
        cumulative,
        window,
        len(blocks) // 2,
        len(duplicates),
        *blocks,
        *duplicates,
    )


def read_sack(value: bytes) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    """Cumulative TSN, window, gap blocks as `sack` takes them, and duplicates. Raises MalformedPacket."""
    if len(value) < SACK_HEADER.size:
        raise MalformedPacket("a SACK is cut short")
    cumulative, window, blocks, duplicates = SACK_HEADER.unpack_from(value)
    if len(value) < SACK_HEADER.size + 4 * (blocks + duplicates):
        raise MalformedPacket("a SACK lies about its counts")
    if not blocks and not duplicates:
        return cumulative, window, (), ()
    numbers = struct.unpack_from(f"!{2 * blocks}H{duplicates}L", value, SACK_HEADER.size)
    return cumulative, window, numbers[: 2 * blocks], numbers[2 * blocks :]


def forward_tsn(cumulative: int, skipped: Iterable[tuple[int, int]]) -> bytes:
    """FORWARD-TSN (RFC 3758 section 3.2): the new cumulative TSN, and (stream, last SSN skipped)."""
    body = cumulative.to_bytes(4, "big") + b"".join(_PARAM.pack(*pair) for pair in skipped)
    return chunk(Chunk.FORWARD_TSN, 0, body)


def read_forward_tsn(value: bytes) -> tuple[int, list[tuple[int, int]]]:
    """The cumulative TSN and the (stream, SSN) pairs. Raises MalformedPacket."""
    if len(value) % 4 or not value:
        raise MalformedPacket("a FORWARD-TSN of an odd length")
    return int.from_bytes(value[:4], "big"), list(struct.iter_unpack("!HH", value[4:]))


def iforward_tsn(cumulative: int, skipped: Iterable[tuple[int, bool, int]]) -> bytes:
    """I-FORWARD-TSN (RFC 8260 section 2.3.1): (stream, unordered, last MID skipped)."""
    body = b"".join(struct.pack("!HHL", stream, unordered, mid) for stream, unordered, mid in skipped)
    return chunk(Chunk.I_FORWARD_TSN, 0, cumulative.to_bytes(4, "big") + body)


def read_iforward_tsn(value: bytes) -> tuple[int, list[tuple[int, bool, int]]]:
    """The cumulative TSN and the (stream, unordered, MID) triples. Raises MalformedPacket."""
    if len(value) % 8 != 4:
        raise MalformedPacket("an I-FORWARD-TSN of an odd length")
    skipped = [(stream, bool(flags & 1), mid) for stream, flags, mid in struct.iter_unpack("!HHL", value[4:])]
    return int.from_bytes(value[:4], "big"), skipped


@dataclass(slots=True)
class Init:
    """What INIT and INIT ACK say (RFC 9260 sections 3.3.2 and 3.3.3)."""

    tag: int
    window: int
    outbound_streams: int
    inbound_streams: int
    tsn: int
    extensions: frozenset[int] = frozenset()
    """Chunk types of RFC 5061's Supported Extensions, FORWARD_TSN also if told by RFC 3758's parameter."""
    zero_checksum: bool = False
    cookie: bytes = b""
    unrecognized: list[bytes] = field(default_factory=list)
    """Unknown parameters whose type asks for a report."""

    def pack(self) -> bytes:
        """The chunk's value."""
        parts = [_INIT.pack(self.tag, self.window, self.outbound_streams, self.inbound_streams, self.tsn)]
        if self.cookie:
            parts.append(param(Param.STATE_COOKIE, self.cookie))
        if Chunk.FORWARD_TSN in self.extensions:
            parts.append(param(Param.FORWARD_TSN_SUPPORTED))
        if self.extensions:
            parts.append(param(Param.SUPPORTED_EXTENSIONS, bytes(sorted(self.extensions))))
        if self.zero_checksum:
            parts.append(param(Param.ZERO_CHECKSUM, DTLS_ERROR_DETECTION))
        parts += [param(Param.UNRECOGNIZED, unknown) for unknown in self.unrecognized]
        return b"".join(parts)

    @classmethod
    def unpack(cls, value: bytes) -> Init:
        """Read a chunk's value. Raises MalformedPacket."""
        if len(value) < _INIT.size:
            raise MalformedPacket("an INIT is cut short")
        init = cls(*_INIT.unpack_from(value))
        for kind, body in params(value[_INIT.size :]):
            if kind == Param.STATE_COOKIE:
                init.cookie = body
            elif kind == Param.SUPPORTED_EXTENSIONS:
                init.extensions |= frozenset(body)
            elif kind == Param.FORWARD_TSN_SUPPORTED:
                init.extensions |= {Chunk.FORWARD_TSN}
            elif kind == Param.ZERO_CHECKSUM:
                init.zero_checksum = body == DTLS_ERROR_DETECTION
            elif kind not in _IGNORED_PARAMS:
                # The two highest bits say what to do with what is unknown (section 3.2.1).
                if kind & 0x4000:
                    init.unrecognized.append(param(kind, body))
                if not kind & 0x8000:
                    break
        return init


DTLS_ERROR_DETECTION = (1).to_bytes(4, "big")
_IGNORED_PARAMS = frozenset({5, 6, 9, 11, 12, Param.UNRECOGNIZED, 0x8000, 0x8002, 0x8003, 0x8004, 0xC006})
"""Known, and of no use here: addresses, cookie preservative, ECN, authentication, adaptation."""
