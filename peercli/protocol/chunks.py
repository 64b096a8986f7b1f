"""BinaryPack messages too long for one data channel message (peerjs, dataconnection/binaryPackChunker.ts).

A chunk is the map `{"__peerData": id, "n": index, "data": bytes, "total": count}`, packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from peercli.errors import ProtocolError
from peercli.protocol.binarypack import pack
from peercli.protocol.values import MAX_MESSAGE_BYTES

__all__ = ["CHUNK_SIZE", "MAX_PARTIAL", "MAX_PIECES", "ChunkError", "Reassembler", "split"]

CHUNK_SIZE = 16_300
"""Bytes of a message in each chunk but the last; messages up to this long are not cut."""

MAX_PARTIAL = 1024
"""Unfinished messages at a time: on an unordered channel one lost packet leaves its message behind."""

MAX_PIECES = 1 << 16
"""Chunks kept at a time, of all unfinished messages: a tiny one still costs its object and its place."""


class ChunkError(ProtocolError):
    """A chunk that fits no message, or a message beyond the limits; what was kept of it is dropped."""


def split(packed: bytes, chunk_id: int) -> Iterator[bytes]:
    """Cut a packed message into packed chunks, each made when it is asked for."""
    view = memoryview(packed)
    total = -(-len(packed) // CHUNK_SIZE)
    for n in range(total):
        data = view[n * CHUNK_SIZE : (n + 1) * CHUNK_SIZE]
        yield pack({"__peerData": chunk_id, "n": n, "data": data, "total": total})


@dataclass(slots=True)
class _Partial:
    """A message of which some chunks are missing."""

    total: int
    size: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)


class Reassembler:
    """Puts messages together from chunks that come in any order.

    Args:
        max_message_bytes: the longest message; all unfinished ones together may hold twice as much.
        max_partial: unfinished messages at a time.
    """

    def __init__(self, *, max_message_bytes: int = MAX_MESSAGE_BYTES, max_partial: int = MAX_PARTIAL) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_partial = max_partial
        self._partials: dict[int, _Partial] = {}
        self._bytes = 0
        self._pieces = 0

    def add(self, chunk: Mapping[str, Any]) -> bytes | None:
        """Take one unpacked chunk; return the packed message when it was the last one missing.

        A message that broke a rule is forgotten, the others are kept; but what the far side sends can no
        longer be trusted, so close the connection.

        Raises:
            ChunkError: a field of the wrong type, an index out of range or seen before, another total
                than before, or a limit of this module.
        """
        chunk_id = _integer(chunk, "__peerData")
        try:
            partial = self._place(chunk_id, chunk)
        except ChunkError:
            self._forget(chunk_id)
            raise
        if len(partial.pieces) < partial.total:
            return None
        self._forget(chunk_id)
        return b"".join(partial.pieces[n] for n in range(partial.total))

    def _place(self, chunk_id: int, chunk: Mapping[str, Any]) -> _Partial:
        n, total, data = _integer(chunk, "n"), _integer(chunk, "total"), chunk.get("data")
        if not isinstance(data, bytes) or not data:
            raise ChunkError("a chunk has no data")
        if not 0 <= n < total:
            raise ChunkError("a chunk's index is not below its total")
        if chunk_id not in self._partials and len(self._partials) >= self._max_partial:
            raise ChunkError(f"more than {self._max_partial} messages are unfinished")
        partial = self._partials.setdefault(chunk_id, _Partial(total))
        if total != partial.total:
            raise ChunkError("two chunks of a message differ in its total")
        if n in partial.pieces:
            raise ChunkError("a chunk came twice")
        partial.pieces[n] = data
        partial.size += len(data)
        self._bytes += len(data)
        self._pieces += 1
        # A chunk has a byte at least, so the total alone can tell that the message will be too long.
        if max(total, partial.size) > self._max_message_bytes:
            raise ChunkError(f"a message is bigger than {self._max_message_bytes} bytes")
        if self._bytes > 2 * self._max_message_bytes or self._pieces > MAX_PIECES:
            raise ChunkError("the unfinished messages hold too many chunks")
        return partial

    def _forget(self, chunk_id: int) -> None:
        if partial := self._partials.pop(chunk_id, None):
            self._bytes -= partial.size
            self._pieces -= len(partial.pieces)


def _integer(chunk: Mapping[str, Any], name: str) -> int:
    value = chunk.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ChunkError(f"a chunk's {name} is not an integer")
    return value
