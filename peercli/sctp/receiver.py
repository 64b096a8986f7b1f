"""The receiving half of an association: which TSNs arrived, messages put together, the window, and SACKs.

`take` is the fast path: packets that hold nothing but the next DATA chunks. All else comes chunk by chunk
to `on_data` and `on_forward_tsn`.

The window is driven by the reader. What arrives counts against it until `consume` is told that the
application took it; with each message counts an overhead, so that many tiny ones fill it as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

from google_crc32c import extend, value

from peercli.sctp.packet import (
    DATA_HEADER,
    DATA_KEY,
    HEADER_SIZE,
    IDATA_HEADER,
    IDATA_KEY,
    Chunk,
    Flag,
    sack,
)
from peercli.sctp.ranges import Ranges, unwrap

__all__ = ["MAX_RANGES", "MESSAGE_OVERHEAD", "PACKETS_PER_SACK", "ProtocolViolation", "Receiver"]

MESSAGE_OVERHEAD = 64
"""Bytes that each message counts against the window besides its own, until it is consumed."""
MAX_RANGES = 4_096
"""Separate ranges of TSNs kept beyond the first gap; chunks that would make more are dropped."""
MAX_TSNS_AHEAD = 65_535
"""TSNs beyond the cumulative one that a SACK can tell of; what lies beyond is dropped."""
MAX_PARTIAL_MESSAGES = 4_096
"""Interleaved messages under way at once."""
MAX_DUPLICATES = 32
"""Duplicate TSNs reported in one SACK."""
MAX_BLOCKS_REPORTED = 240
"""Gap blocks in one SACK, so that with the duplicates it fits the smallest packet."""
OVERRUN = 2
"""Times the window that may be held at the worst: a far side counts its bytes differently, and gaps must be
filled even when the window is full."""
WORTH_A_VIEW = 1_000
"""Bytes from which on a fragment waits as a view of its packet, which it keeps, if it is most of that."""
SMALLEST_WINDOW = 1_500
"""A window smaller than this is told as closed: no silly windows (RFC 1122 section 4.2.3.3)."""
WINDOW_UPDATE = 256 * 1024
"""Bytes by which a small window must have grown to be worth a SACK of its own."""

SACK_DELAY = 0.02
"""Seconds that a single packet waits for company before it is acknowledged."""
PACKETS_PER_SACK = 4
"""Packets after which a SACK must go: libwebrtc sends at most this many for a SACK."""

_MASK = 0xFFFFFFFF
_DATA, _IDATA = Chunk.DATA.value, Chunk.I_DATA.value
_BEGIN, _END = Flag.BEGIN.value, Flag.END.value
_UNORDERED, _IMMEDIATE = Flag.UNORDERED.value, Flag.IMMEDIATE.value


class ProtocolViolation(Exception):
    """The far side breaks the protocol in a way that the association cannot survive."""


class _Partial:
    """Consecutive fragments of a message: of DATA by TSN, of I-DATA by FSN from 0 on.

    `begun` and `ended` are DATA's: its first and its last fragment are there. `later` and `total` are
    I-DATA's: fragments that came early, and the number of all, once known.
    """

    __slots__ = (
        "begun",
        "end",
        "ended",
        "key",
        "later",
        "parts",
        "ppid",
        "size",
        "start",
        "total",
        "unordered",
    )

    def __init__(self, key: bytes, unordered: int, ppid: int) -> None:
        self.key = key
        self.unordered = unordered  # the flag, or 0
        self.ppid = ppid
        self.parts: deque[bytes | memoryview] = deque()
        self.size = 0
        self.begun = self.ended = False
        self.start = self.end = 0
        self.later: dict[int, bytes] = {}
        self.total = -1


class Receiver:
    """`tsn` is the first that the far side will use; `head` is how every packet for us begins (8 bytes)."""

    def __init__(
        self,
        *,
        tsn: int,
        head: bytes,
        window: int,
        max_message: int,
        interleaving: bool,
        zero_checksum: bool,
        packets_per_sack: int = PACKETS_PER_SACK,
    ) -> None:
        self.interleaving = interleaving
        self.window = window
        self.max_message = max_message
        self.packets_per_sack = packets_per_sack
        self._head = head
        self._seed: int = value(head + bytes(4))
        self._zero_checksum = zero_checksum
        self.header = IDATA_HEADER if interleaving else DATA_HEADER
        self._number_mask = _MASK if interleaving else 0xFFFF

        self.cum = tsn + (1 << 32) - 1
        self._ahead = Ranges()
        self._duplicates: list[int] = []
        self.held = 0  # bytes that count against the window
        self._advertised = window

        self.messages: list[tuple[int, int, bytes]] = []
        """Complete messages in order of delivery: (stream, PPID, data). The association takes them out."""
        self._next_number: dict[int, int] = {}  # stream -> SSN or MID to be delivered next
        self._first_unordered: dict[int, int] = {}  # I-DATA: stream -> MID before which all were given up
        self._ready: dict[int, dict[int, tuple[int, bytes]]] = {}  # stream -> complete, but not yet due
        # The message that the last TSN in order belonged to, if it goes on. It is in none of the two below.
        self._current: _Partial | None = None
        self._starting: dict[int, _Partial] = {}  # DATA: first TSN -> fragments
        self._ending: dict[int, _Partial] = {}  # DATA: last TSN + 1 -> fragments
        self._partials: dict[tuple[bytes, int], _Partial] = {}  # I-DATA: (key, unordered) -> fragments

        self._unacknowledged = 0  # packets
        self._sack_now = False
        self._sack_at: float | None = None
        self._waiting_sacks: list[bytes] = []

        self.packets_received = 0
        self.bytes_received = 0
        self.duplicates_received = 0
        self.chunks_dropped = 0

    # Acknowledging ------------------------------------------------------------------------

    def timeout(self) -> float | None:
        """When a SACK is due that waits for company."""
        return self._sack_at

    def end_packet(self) -> None:
        """A packet with data was taken in."""
        self.packets_received += 1
        self._unacknowledged += 1
        if self._unacknowledged >= self.packets_per_sack:
            self._waiting_sacks.append(self.sack())

    def end_batch(self, now: float) -> None:
        """All packets that had arrived are taken in."""
        if self._unacknowledged >= 2:
            self._sack_now = True
        elif self._unacknowledged and self._sack_at is None:
            self._sack_at = now + SACK_DELAY

    def sacks(self, now: float, *, piggyback: bool) -> list[bytes]:
        """The SACKs that are due, or with `piggyback` those worth adding to a packet that goes anyway.

        Each belongs in a packet of its own: the far side may count them.
        """
        if self._sack_now or (self._sack_at is not None and (piggyback or now >= self._sack_at)):
            self._waiting_sacks.append(self.sack())
        sacks, self._waiting_sacks = self._waiting_sacks, []
        return sacks

    def sack(self) -> bytes:
        """A SACK of what is here now."""
        self._unacknowledged = 0
        self._sack_now = False
        self._sack_at = None
        free = self.window - self.held
        self._advertised = free if free >= SMALLEST_WINDOW else 0
        duplicates, self._duplicates = self._duplicates, []
        cum = self.cum
        starts, ends = self._ahead.starts[:MAX_BLOCKS_REPORTED], self._ahead.ends[:MAX_BLOCKS_REPORTED]
        blocks = [0] * (2 * len(starts))
        blocks[::2] = [start - cum for start in starts]
        blocks[1::2] = [end - cum - 1 for end in ends]
        return sack(cum & _MASK, self._advertised, blocks, duplicates)

    def consume(self, size: int) -> None:
        """The application took a message of `size` bytes. A SACK may then be due, to tell of the window."""
        self.held = max(0, self.held - size - MESSAGE_OVERHEAD)
        grown = self.window - self.held - self._advertised
        if self._advertised < self.window // 2 and grown >= min(WINDOW_UPDATE, self.window // 4):
            self._sack_now = True

    def shrink(self, size: int) -> None:
        """A message turned out to be `size` bytes shorter than it arrived."""
        self.held -= size

    # The fast path ------------------------------------------------------------------------

    def take(self, packets: Sequence[bytes], index: int) -> tuple[int, int]:
        """Take in packets from `index` on, as long as they hold the next data and nothing else.

        Returns the index of the packet, and the offset in it of the chunk, that is for someone else. Offset 0
        means that nothing in that packet was looked at, its header neither. Raises ProtocolViolation.
        """
        if self._ahead:
            return index, 0
        head, seed, total = self._head, self._seed, len(packets)
        kind_wanted = _IDATA if self.interleaving else _DATA
        unpack, header_size = self.header.unpack_from, self.header.size
        expected = (self.cum + 1) & _MASK
        while index < total:
            packet = packets[index]
            size = len(packet)
            if size <= HEADER_SIZE + header_size or packet[HEADER_SIZE] != kind_wanted or packet[:8] != head:
                return index, 0
            checksum = int.from_bytes(packet[8:12], "little")
            if (checksum or not self._zero_checksum) and extend(seed, packet[HEADER_SIZE:]) != checksum:
                return index, 0
            offset = HEADER_SIZE
            while offset < size:
                if offset + header_size >= size or self.held > self.window:
                    return index, offset
                kind, flags, length, tsn, key, number = unpack(packet, offset)
                end = offset + length
                if tsn != expected or kind != kind_wanted or length <= header_size or end > size:
                    return index, offset
                self.cum += 1
                expected = (expected + 1) & _MASK
                self.held += length
                current = self._current
                if current is not None and flags == current.unordered and key == current.key:
                    start = offset + header_size
                    large = length > WORTH_A_VIEW and 2 * length > size
                    current.parts.append(memoryview(packet)[start:end] if large else packet[start:end])
                    current.size += length - header_size
                    if current.size > self.max_message:
                        raise ProtocolViolation("a message is too large")
                else:
                    self._continue(flags, key, number, packet[offset + header_size : end])
                offset = end + (-length & 3)
            self.bytes_received += size
            index += 1
            self.end_packet()
        return index, 0

    def _continue(self, flags: int, key: bytes, number: int, payload: bytes) -> None:
        """Take in the next chunk in order, already counted as held, that begins or ends something."""
        if flags & _IMMEDIATE:
            self._sack_now = True
        if self.interleaving:
            self._current = self._add_fragment(flags, key, number, payload)
            return
        current = self._current
        if flags & _BEGIN:
            if current is not None:
                self._release(current)  # it was abandoned
            current = self._current = _Partial(key, flags & _UNORDERED, number)
            current.begun = True
        elif current is None or key != current.key or flags & _UNORDERED != current.unordered:
            self.held -= DATA_HEADER.size + len(payload)  # the rest of what was abandoned
            if current is not None:
                self._release(current)
                self._current = None
            return
        current.parts.append(payload)
        current.size += len(payload)
        if current.size > self.max_message:
            raise ProtocolViolation("a message is too large")
        if flags & _END:
            self._current = None
            self._complete(current)

    # Chunk by chunk -----------------------------------------------------------------------

    def on_data(self, flags: int, tsn: int, key: bytes, number: int, payload: bytes) -> None:
        """Take in a DATA or I-DATA chunk, wherever it belongs. Raises ProtocolViolation."""
        cum, ahead = self.cum, self._ahead
        tsn = unwrap(tsn, cum)
        if tsn <= cum or tsn in ahead:
            self._sack_now = True
            self.duplicates_received += 1
            if len(self._duplicates) < MAX_DUPLICATES:
                self._duplicates.append(tsn & _MASK)
            return
        if not self._has_room_for(tsn):
            self._sack_now = True
            self.chunks_dropped += 1
            return
        size = self.header.size + len(payload)
        self.held += size
        if tsn == cum + 1 and not ahead:
            self.cum = tsn
            self._continue(flags, key, number, payload)
            return

        self._sack_now = True  # there is a gap, or there was (RFC 9260 section 6.7)
        if tsn == cum + 1:
            self.cum = tsn
            self._advance()
        else:
            ahead.add(tsn, tsn + 1)
        if self.interleaving:
            self._current = None
            self._add_fragment(flags, key, number, payload)
        else:
            self._set_current_aside(cum)
            self._add_by_tsn(flags, tsn, key, number, payload)
            self._find_current()

    def _has_room_for(self, tsn: int) -> bool:
        ahead, cum = self._ahead, self.cum
        if tsn - cum > MAX_TSNS_AHEAD or self.held >= OVERRUN * self.window:
            return False
        highest = ahead.ends[-1] - 1 if ahead else cum
        if self.held >= self.window and tsn > highest:
            return False
        if tsn == cum + 1 or len(ahead) < MAX_RANGES:
            return True
        return tsn - 1 in ahead or tsn + 1 in ahead

    def _advance(self) -> None:
        """Move the cumulative TSN over what came ahead of it."""
        ahead = self._ahead
        ahead.drop_below(self.cum + 1)
        if ahead and ahead.starts[0] == self.cum + 1:
            self.cum = ahead.ends[0] - 1
            ahead.drop_below(self.cum + 1)

    def _set_current_aside(self, cum: int) -> None:
        """Keep the current message with the others, as chunks now come out of order."""
        current, self._current = self._current, None
        if current is not None:
            current.start, current.end = cum + 1 - len(current.parts), cum + 1
            self._starting[current.start] = self._ending[current.end] = current

    def _find_current(self) -> None:
        """Once no gap is left: the message that ends with the last TSN goes on, and any other never will."""
        if self._ahead or not self._starting:
            return
        last = self._ending.get(self.cum + 1)
        self._current = last if last is not None and last.begun and not last.ended else None
        for partial in self._starting.values():
            if partial is not self._current:
                self._release(partial)
        self._starting.clear()
        self._ending.clear()

    def _add_by_tsn(self, flags: int, tsn: int, key: bytes, ppid: int, payload: bytes) -> None:
        """Join a fragment with its neighbours: those of one message have consecutive TSNs."""
        left, right = self._ending.get(tsn), self._starting.get(tsn + 1)
        if left is not None and (flags & _BEGIN or left.ended or left.key != key):
            left = None
        if right is not None and (flags & _END or right.begun or right.key != key):
            right = None
        if left is None:
            left = _Partial(key, flags & _UNORDERED, ppid)
            left.start = tsn
            left.begun = bool(flags & _BEGIN)
        else:
            del self._ending[tsn]
        left.parts.append(payload)
        left.size += len(payload)
        left.end = tsn + 1
        left.ended = bool(flags & _END)
        if right is not None:
            del self._starting[right.start]
            if len(left.parts) < len(right.parts):
                right.parts.extendleft(reversed(left.parts))
                left.parts = right.parts
            else:
                left.parts.extend(right.parts)
            left.size += right.size
            left.end = right.end
            left.ended = right.ended
        if left.size > self.max_message:
            raise ProtocolViolation("a message is too large")
        if left.begun and left.ended:
            self._starting.pop(left.start, None)
            self._ending.pop(left.end, None)
            self._complete(left)
        else:
            self._starting[left.start] = self._ending[left.end] = left

    def _add_fragment(self, flags: int, key: bytes, number: int, payload: bytes) -> _Partial | None:
        """Add a fragment of I-DATA to its message. Returns the message if it goes on after this."""
        name = (key, flags & _UNORDERED)
        partial = self._partials.get(name)
        if partial is None:
            if self._is_past(flags & _UNORDERED, *IDATA_KEY.unpack(key)):
                self.held -= IDATA_HEADER.size + len(payload)
                return None
            if len(self._partials) >= MAX_PARTIAL_MESSAGES:
                raise ProtocolViolation("too many messages at once")
            partial = self._partials[name] = _Partial(key, flags & _UNORDERED, 0)
        partial.size += len(payload)
        if partial.size > self.max_message:
            raise ProtocolViolation("a message is too large")
        fsn = 0 if flags & _BEGIN else number
        if flags & _BEGIN:
            partial.ppid = number
        if flags & _END:
            partial.total = fsn + 1
        if fsn == len(partial.parts):
            partial.parts.append(payload)
            while partial.later and (following := partial.later.pop(len(partial.parts), None)) is not None:
                partial.parts.append(following)
        elif fsn < len(partial.parts) or fsn in partial.later:
            raise ProtocolViolation("a fragment came twice under different TSNs")
        else:
            partial.later[fsn] = payload
        if len(partial.parts) != partial.total:
            return partial
        del self._partials[name]
        self._complete(partial)
        return None

    def _is_past(self, unordered: int, stream: int, number: int) -> bool:
        following = (self._first_unordered if unordered else self._next_number).get(stream)
        if following is None:
            following = number if unordered else 0
        behind = (following - number) & self._number_mask
        return 0 < behind <= self._number_mask >> 1

    def _release(self, partial: _Partial) -> None:
        """Drop a message that will never be complete."""
        count = len(partial.parts) + len(partial.later)
        self.held -= partial.size + self.header.size * count

    # Messages -----------------------------------------------------------------------------

    def _complete(self, partial: _Partial) -> None:
        parts = partial.parts
        self.held += MESSAGE_OVERHEAD - self.header.size * len(parts)
        data = b"".join(parts)
        stream, number = (IDATA_KEY if self.interleaving else DATA_KEY).unpack(partial.key)
        if partial.unordered:
            self.messages.append((stream, partial.ppid, data))
        elif number == self._next_number.get(stream, 0):
            self.messages.append((stream, partial.ppid, data))
            self._next_number[stream] = (number + 1) & self._number_mask
            if stream in self._ready:
                self._deliver_ready(stream)
        elif self._is_past(0, stream, number) or number in self._ready.get(stream, ()):
            self.held -= len(data) + MESSAGE_OVERHEAD
        else:
            self._ready.setdefault(stream, {})[number] = (partial.ppid, data)

    def _deliver_ready(self, stream: int) -> None:
        """Deliver what waited for its turn."""
        ready = self._ready[stream]
        number = self._next_number[stream]
        while (message := ready.pop(number, None)) is not None:
            self.messages.append((stream, *message))
            number = (number + 1) & self._number_mask
        self._next_number[stream] = number
        if not ready:
            del self._ready[stream]

    # Skipping and resetting ---------------------------------------------------------------

    def on_forward_tsn(self, tsn: int, skipped: Iterable[tuple[int, bool, int]]) -> None:
        """The far side gave up all up to `tsn` that is not here (RFC 3758 section 3.6).

        `skipped` tells the last SSN or MID given up: (stream, unordered, number).
        """
        self._sack_now = True
        tsn = unwrap(tsn, self.cum)
        if tsn <= self.cum or tsn - self.cum > MAX_TSNS_AHEAD:
            return
        before, self.cum = self.cum, tsn
        self._advance()
        if not self.interleaving:
            self._set_current_aside(before)
            for partial in [partial for partial in self._starting.values() if partial.start <= tsn]:
                del self._starting[partial.start], self._ending[partial.end]
                self._release(partial)
            self._find_current()
        last = {(stream, unordered): number for stream, unordered, number in skipped}
        self._drop_partials(lambda stream, unordered, mid: self._reaches(last.get((stream, unordered)), mid))
        for (stream, unordered), number in last.items():
            self._skip(stream, unordered, number)

    def _reaches(self, last: int | None, number: int) -> bool:
        """Whether all up to `last`, if any, is given up, and `number` with it."""
        return last is not None and (last - number) & self._number_mask <= self._number_mask >> 1

    def _skip(self, stream: int, unordered: bool, number: int) -> None:
        mask = self._number_mask
        if self._is_past(unordered, stream, number):
            return
        if unordered:
            self._first_unordered[stream] = (number + 1) & mask
            return
        if ready := self._ready.get(stream):
            first = self._next_number.get(stream, 0)
            count = ((number - first) & mask) + 1
            # Whichever is less to look at: a far side may skip one of many, or many of few.
            waiting = sorted((ahead - first) & mask for ahead in ready) if len(ready) < count else None
            for step in waiting or range(count):
                skipped = (first + step) & mask
                if step < count and skipped in ready:
                    self.messages.append((stream, *ready.pop(skipped)))
        self._next_number[stream] = (number + 1) & mask
        if ready is not None:
            self._deliver_ready(stream)

    def reset(self, streams: Collection[int]) -> None:
        """The far side starts these streams' numbers over (RFC 6525 section 5.2.2)."""
        self._drop_partials(lambda stream, unordered, mid: stream in streams)
        for stream in streams:
            self._next_number.pop(stream, None)
            self._first_unordered.pop(stream, None)
            for _, data in self._ready.pop(stream, {}).values():
                self.held -= len(data) + MESSAGE_OVERHEAD

    def _drop_partials(self, is_dropped: Callable[[int, bool, int], bool]) -> None:
        """Drop the interleaved messages under way of which that holds: by stream, unordered and MID."""
        if not self.interleaving:
            return
        self._current = None
        for name, partial in list(self._partials.items()):
            stream, mid = IDATA_KEY.unpack(partial.key)
            if is_dropped(stream, bool(partial.unordered), mid):
                del self._partials[name]
                self._release(partial)
