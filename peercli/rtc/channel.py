"""A data channel as `await send()` and `async for`, whichever SCTP carries it."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator

from aiortc import RTCDataChannel

from peercli.errors import ConnectionClosed, MessageTooBig, PeerError

__all__ = ["UNLIMITED", "Channel", "StockChannel", "Wire"]

UNLIMITED = sys.maxsize
"""A `max_message` of those who take messages of any size (`a=max-message-size:0`, RFC 8841 §6)."""

Wire = bytes | str
"""A message as the channel carries it: binary, or text (RFC 8831 §6.6)."""


class Channel(ABC):
    """One end of a data channel (RFC 8831).

    The receiving side is here: a transport calls `_opened`, `_arrived` and `_ended`, in this order and
    from the event loop, and learns by `_taken` what the reader has consumed. Sending is the transport's.
    """

    def __init__(self, label: str, *, ordered: bool) -> None:
        self.label = label
        self.ordered = ordered
        self._inbox: deque[tuple[Wire, int]] = deque()  # each with its bytes on the wire
        self._reader: asyncio.Future[None] | None = None
        self._open: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end: PeerError | None = None

    # For the application ----------------------------------------------------------------------

    async def opened(self) -> None:
        """Return once messages can be sent.

        Raises:
            PeerError: why the channel ended before it opened.
        """
        await asyncio.shield(self._open)

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._end is not None

    @property
    @abstractmethod
    def max_message(self) -> int:
        """Bytes that the far side takes in one message (W3C `maxMessageSize`), once the channel is open.

        `UNLIMITED` if it sets no bound.
        """

    @property
    @abstractmethod
    def buffered_amount(self) -> int:
        """Bytes accepted by `send` that are not on their way yet (W3C `bufferedAmount`)."""

    @abstractmethod
    async def send(self, data: Wire | memoryview) -> None:
        """Send a message; waits for room in the send buffer, so a slow path slows the caller.

        Nothing of it is copied before it goes out: what a view shows must not change.

        Raises:
            MessageTooBig: it has more than `max_message` bytes; nothing was sent.
            PeerError: why the channel has ended.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Return when the far side has acknowledged everything sent.

        Raises:
            PeerError: why the channel ended before that.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the channel (RFC 8831 §6.7). What has not been flushed may be lost."""

    async def receive(self) -> Wire:
        """The next message. May be cancelled without losing one; one caller at a time.

        Raises:
            PeerError: why the channel has ended; `ConnectionClosed` when the far side closed it. Messages
                that came before are returned first.
        """
        while not self._inbox:
            if self._end is not None:
                raise self._end
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data, size = self._inbox.popleft()
        self._taken(size)
        return data

    async def __aiter__(self) -> AsyncIterator[Wire]:
        """Each message until the far side closes the channel; raises only if the channel was lost."""
        while True:
            try:
                yield await self.receive()
            except ConnectionClosed:
                return

    def _check_size(self, size: int) -> None:
        if size > self.max_message:
            raise MessageTooBig(
                f"the far side takes messages of at most {self.max_message} bytes, not {size}"
            )

    # For the transport ------------------------------------------------------------------------

    def _opened(self) -> None:
        if not self._open.done():
            self._open.set_result(None)

    def _arrived(self, data: Wire, size: int = 0) -> None:
        self._inbox.append((data, size))
        self._wake()

    def _ended(self, error: PeerError | None = None) -> None:
        if self._end is not None:
            return
        self._end = error or ConnectionClosed("the far side closed the connection")
        if not self._open.done():
            self._open.set_exception(self._end)
            self._open.exception()  # whoever waits gets it; nobody need wait
        self._wake()

    def _taken(self, size: int) -> None:  # noqa: B027
        """The reader has consumed a message of `size` bytes: a transport's window opens by as much."""

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


class StockChannel(Channel):
    """A channel over aiortc's own SCTP: the fallback. It has no backpressure from the reader."""

    SEND_BUFFER = 1 << 20  # bytes that `send` lets pile up
    FLUSH_POLL = 0.01  # s; aiortc does not tell when the last byte was acknowledged

    def __init__(self, channel: RTCDataChannel) -> None:
        super().__init__(channel.label, ordered=channel.ordered)
        self._channel = channel
        self._room = asyncio.Event()
        channel.bufferedAmountLowThreshold = self.SEND_BUFFER // 2
        channel.on("open", self._opened)
        channel.on("message", self._arrived)
        channel.on("close", self._ended)
        channel.on("bufferedamountlow", self._room.set)
        if channel.readyState == "open":
            self._opened()

    @property
    def max_message(self) -> int:
        return self._channel.transport._remote_max_message_size or UNLIMITED

    @property
    def buffered_amount(self) -> int:
        return self._channel.bufferedAmount

    async def send(self, data: Wire | memoryview) -> None:
        await self.opened()
        while self._end is None and self._channel.bufferedAmount > self.SEND_BUFFER:
            self._room.clear()
            await self._room.wait()
        if self._end is not None:
            raise self._end
        data = data if isinstance(data, str) else bytes(data)
        self._check_size(len(data.encode() if isinstance(data, str) else data))
        self._channel.send(data)

    async def flush(self) -> None:
        sctp = self._channel.transport
        while self._end is None and (  # noqa: ASYNC110
            self._channel.bufferedAmount or sctp._outbound_queue or sctp._sent_queue
        ):
            await asyncio.sleep(self.FLUSH_POLL)
        if self._end is not None:
            raise self._end

    async def close(self) -> None:
        self._ended(ConnectionClosed("the connection is closed"))
        if self._channel.readyState in ("connecting", "open"):
            self._channel.close()

    def _ended(self, error: PeerError | None = None) -> None:
        super()._ended(error)
        self._room.set()
