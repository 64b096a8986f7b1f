"""Packets of a stream put in order and together into frames, without waiting longer than need be.

aiortc's own buffer gives a frame only when the next one begins, and at most one for each packet that comes:
what a loss has held up stays late for ever. It waits for a lost packet until 512 others have come, and asks
for it when the next one is lost, along with all others that ever were.
"""

from __future__ import annotations

import math

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpreceiver import NackGenerator
from aiortc.rtp import RtpPacket

__all__ = ["FrameBuffer", "Missing"]

ASK_AGAIN = 0.06  # s after which a packet is asked for once more
MAX_ASKS = 8  # for one packet

MAX_AHEAD = 2_000  # packets beyond the one that is awaited; a stream further on has begun anew
MAX_MISORDER = 200  # packets that one may come late; later, too, it is another stream


class FrameBuffer:
    """The packets of one stream.

    Args:
        patience: seconds to wait for a packet that is missing while others come.
        is_video: frames have several packets, the last one with the marker (RFC 3551 §4.1).
    """

    def __init__(self, *, patience: float, is_video: bool) -> None:
        self._patience = patience
        self._is_video = is_video
        self._packets: dict[int, RtpPacket] = {}  # by sequence number, extended beyond 16 bits
        self._next: int | None = None  # the first that is not in a frame yet
        self._highest = 0
        self._missed_since: float | None = None
        self.broken = False
        """Whether frames are missing, so that pictures are wrong until a whole one comes. To be reset."""

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        """Take a packet; the answer tells aiortc that there is nothing to be done."""
        if self._next is None:
            self._next = self._highest = packet.sequence_number
        number = self._extended(packet.sequence_number)
        if number - self._next > MAX_AHEAD or self._next - number > MAX_MISORDER:
            self._packets.clear()
            self._next = self._highest = number
            self._missed_since = None
            self.broken = True
        self._highest = max(self._highest, number)
        if number >= self._next:
            self._packets[number] = packet
        return False, None

    def _extended(self, sequence_number: int) -> int:
        offset = (sequence_number - self._highest) & 0xFFFF
        return self._highest + (offset if offset < 0x8000 else offset - 0x10000)

    def awaits(self, sequence_number: int) -> bool:
        """Whether this packet would still be of use."""
        return self._next is not None and self._extended(sequence_number) >= self._next

    def frames(self, now: float) -> list[tuple[int, JitterFrame]]:
        """The frames that are complete, each with its payload type; `now` is in seconds of any clock."""
        found: list[tuple[int, JitterFrame]] = []
        while self._next is not None and self._packets:
            if packets := self._first_frame(self._next):
                self._go_on_at(self._next + len(packets))
                data = b"".join(packet._data for packet in packets)  # type: ignore[attr-defined]
                if data:  # else it was padding
                    found.append((packets[0].payload_type, JitterFrame(data, packets[0].timestamp)))
                continue
            gap = self._gap_from(self._next)
            if gap > self._highest:
                break  # nothing is missing; the rest of the frame is on its way
            if self._missed_since is None:
                self._missed_since = now
            if now - self._missed_since < self._patience:
                break
            self._go_on_at(self._behind(gap))
        return found

    def _first_frame(self, start: int) -> list[RtpPacket]:
        """The packets of the next frame, if all are there."""
        packets: list[RtpPacket] = []
        for number in range(start, self._gap_from(start)):
            packet = self._packets[number]
            if packets and packet.timestamp != packets[0].timestamp:
                return packets
            packets.append(packet)
            if packet.marker or not self._is_video:
                return packets
        return []

    def _gap_from(self, number: int) -> int:
        """The first packet from there on that has not come."""
        while number in self._packets:
            number += 1
        return number

    def _behind(self, gap: int) -> int:
        """Where to go on when a gap stays: with the next sound, or behind the last gap with a new picture."""
        if not self._is_video:
            return min(number for number in self._packets if number > gap)
        self.broken = True
        start = self._highest
        while start - 1 in self._packets:
            start -= 1
        timestamp = self._packets[start].timestamp
        while start in self._packets and self._packets[start].timestamp == timestamp:
            start += 1  # it may have begun in the gap
        return start

    def _go_on_at(self, number: int) -> None:
        self._next = number
        self._missed_since = None
        for old in [each for each in self._packets if each < number]:
            del self._packets[old]


class Missing(NackGenerator):
    """What to ask the sender for (RFC 4585 §6.2.1)."""

    def __init__(self, buffer: FrameBuffer) -> None:
        super().__init__()
        self._buffer = buffer
        self._asked: dict[int, tuple[int, float]] = {}  # how often, and when last

    def add(self, packet: RtpPacket) -> bool:
        """Take note of a packet; the answer tells aiortc not to ask for anything."""
        super().add(packet)
        return False

    def due(self, now: float) -> list[int]:
        """The packets to ask for now; they count as asked for."""
        self.missing = {number for number in self.missing if self._buffer.awaits(number)}
        self._asked = {number: asked for number, asked in self._asked.items() if number in self.missing}
        due = []
        for number in sorted(self.missing):
            asks, last = self._asked.get(number, (0, -math.inf))
            if asks < MAX_ASKS and now - last >= ASK_AGAIN:
                self._asked[number] = asks + 1, now
                due.append(number)
        return due
