"""What waits to be sent: messages in streams, and whose turn it is."""

from __future__ import annotations

import math
from collections import deque

from peercli.sctp.packet import DATA_KEY, IDATA_KEY, Flag

__all__ = ["Message", "SendQueue", "Stream"]


class Message:
    """One message on its way out. Its bytes are never copied before they are cut into packets."""

    __slots__ = (
        "data",
        "end_tsn",
        "expires",
        "first_tsn",
        "flags",
        "fsn",
        "key",
        "max_retransmits",
        "number",
        "ppid",
        "sent",
        "stream",
    )

    def __init__(
        self,
        stream: Stream,
        data: bytes | memoryview,
        ppid: int,
        *,
        unordered: bool = False,
        expires: float = math.inf,
        max_retransmits: int | None = None,
    ) -> None:
        self.stream = stream
        self.data = data
        self.ppid = ppid
        self.flags = Flag.UNORDERED.value if unordered else 0
        self.expires = expires
        self.max_retransmits = max_retransmits
        self.sent = 0  # bytes that have a TSN
        self.fsn = 0
        self.number = -1  # SSN or MID, given with the first TSN
        self.key = b""
        self.first_tsn = self.end_tsn = 0

    @property
    def limited(self) -> bool:
        """Whether it may be abandoned (RFC 3758)."""
        return self.max_retransmits is not None or self.expires != math.inf


class Stream:
    """One outgoing stream."""

    __slots__ = ("buffered", "id", "messages", "next_ordered", "next_unordered")

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.messages: deque[Message] = deque()
        self.buffered = 0  # bytes that have no TSN yet
        self.next_ordered = 0
        self.next_unordered = 0


class SendQueue:
    """Streams that have something to send, taking turns.

    With interleaving (RFC 8260) the turn passes with every packet. Without it the fragments of a message must
    have consecutive TSNs, so the turn passes with every message.
    """

    def __init__(self) -> None:
        self.interleaving = False
        self.streams: dict[int, Stream] = {}
        self._turns: deque[Stream] = deque()

    def __bool__(self) -> bool:
        return bool(self._turns)

    def stream(self, stream_id: int) -> Stream:
        stream = self.streams.get(stream_id)
        if stream is None:
            stream = self.streams[stream_id] = Stream(stream_id)
        return stream

    @property
    def contended(self) -> bool:
        return len(self._turns) > 1

    def push(self, message: Message) -> None:
        stream = message.stream
        if not stream.messages:
            self._turns.append(stream)
        stream.messages.append(message)
        stream.buffered += len(message.data)

    def head(self) -> Message | None:
        """The message whose turn it is."""
        return self._turns[0].messages[0] if self._turns else None

    def begin(self, message: Message) -> None:
        """Number a message, as its first fragment is about to be sent."""
        stream = message.stream
        if self.interleaving:
            if message.flags:
                message.number, stream.next_unordered = stream.next_unordered, stream.next_unordered + 1
            else:
                message.number, stream.next_ordered = stream.next_ordered, stream.next_ordered + 1
            message.number &= 0xFFFFFFFF
            message.key = IDATA_KEY.pack(stream.id, message.number)
            return
        if message.flags:
            message.number = 0
        else:
            message.number = stream.next_ordered & 0xFFFF
            stream.next_ordered += 1
        message.key = DATA_KEY.pack(stream.id, message.number)

    def pass_turn(self) -> None:
        self._turns.rotate(-1)

    def finish(self, message: Message) -> None:
        """The message is done with: sent to its last byte, or given up. It must be its stream's first."""
        stream = message.stream
        stream.buffered -= len(message.data) - message.sent
        stream.messages.popleft()
        if self._turns and self._turns[0] is stream:
            self._turns.popleft()
            if stream.messages:
                self._turns.append(stream)
        elif not stream.messages:
            self._forget_turn(stream)

    def discard(self, stream: Stream) -> None:
        """Drop the messages of a stream that were not begun; one that was begun stays."""
        while stream.messages and stream.messages[-1].number < 0:
            stream.buffered -= len(stream.messages.pop().data)
        if not stream.messages:
            self._forget_turn(stream)

    def _forget_turn(self, stream: Stream) -> None:
        if stream in self._turns:
            self._turns.remove(stream)
