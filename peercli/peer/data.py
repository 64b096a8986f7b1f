"""DataConnection: typed messages to one peer, with the names and manners of PeerJS's."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from peercli.errors import ConnectionClosed, NotOpenYet, PeerError
from peercli.options import IceOptions
from peercli.peer.auth import Gate
from peercli.peer.connection import Connection, Signal
from peercli.peer.emitter import Listener
from peercli.protocol.codecs import CLOSE, Codec, make_codec
from peercli.protocol.messages import Answer, Candidate, Offer

if TYPE_CHECKING:
    from peercli.rtc.channel import Channel, Wire

__all__ = ["DataConnection"]

logger = logging.getLogger(__name__)

MAX_UNREAD = 64  # messages decoded ahead of the reader
MAX_UNREAD_BYTES = 4 << 20  # that these may have been on the wire; one message may be more
FLUSH_CLOSE_TIMEOUT = 5.0  # s the far side has to act on a flush-close
FLUSH_TIMEOUT = 30.0  # s without any progress until what was sent is given up, on the way to closing


class DataConnection(Connection):
    """A connection to one peer (peerjs `lib/dataconnection/DataConnection.ts`).

    Get one from `Peer.connect` or `Peer.connections`. Read it by iterating, or by `on("data", …)`. With
    `async with` it is closed at the end, when all that was sent has arrived; after an exception, at once.

    Events: `open` (), `data` (value), `close` (), `error` (PeerError), `iceStateChanged` (str).

    Attributes:
        label: given by the side that connected; its connection id, if it gave none.
        reliable: whether messages keep their order. (They all arrive, either way.)
        serialization: how values become messages: binary, binary-utf8, json, raw, MsgPack, or one of the
            peer's `serializers`.
        session: what it can be resumed by (`peercli.protocol.resume`), once both sides have agreed on it.
        resumes: whether it goes on with that session, and does not begin it.
    """

    type: Literal["data"] = "data"

    def __init__(
        self,
        offer: Offer,
        *,
        outgoing: bool,
        ice: IceOptions,
        signal: Signal,
        gate: Gate | None,
        serializers: Mapping[str, Callable[[str], Codec]] | None = None,
    ) -> None:
        self.session = None if outgoing else offer.session
        self.resumes = offer.resumes
        self._codec = make_codec(offer.serialization, serializers)
        reliable = offer.reliable or offer.serialization == "MsgPack"  # a stream needs order
        super().__init__(
            replace(offer, label=offer.label or offer.connection_id, reliable=reliable),
            outgoing=outgoing,
            ice=ice,
            signal=signal,
            gate=gate,
        )
        self.label = self._offer.label
        self.serialization = offer.serialization
        self.reliable = reliable
        self._channel: Channel | None = None
        self._unread: asyncio.Queue[tuple[Any, int]] = asyncio.Queue()  # with bytes on the wire
        self._unread_bytes = 0
        self._room = asyncio.Event()
        self._sending = asyncio.Lock()
        self._begun: deque[Wire | memoryview] = deque()  # the rest of a message whose `send` was cancelled
        self._discard = False

    # Life -------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._channel is not None and not self._channel.closed

    async def close(self, *, flush: bool = False) -> None:
        """End the connection; with `flush`, only after all that was sent has arrived.

        Flushing works as PeerJS does it: the far side is told to close, and does. A far side that does
        not is left after 5 s, and one that takes nothing of what was sent after 30 s. What has come
        already can still be read.
        """
        if flush:
            goodbye = list(self._codec.encode_close())
            if await self._drain(goodbye) and goodbye:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._link.ended(), FLUSH_CLOSE_TIMEOUT)
        self._discard = True
        self._room.set()
        await super().close()

    async def _drain(self, goodbye: Sequence[Wire] = ()) -> bool:
        if self._channel is None:
            return False
        delivery = asyncio.create_task(self._send_and_flush(self._channel, goodbye))
        try:
            left = -1
            while not delivery.done() and left != self.buffer_size:  # a slow far side is not a dead one
                left = self.buffer_size
                await asyncio.wait({delivery}, timeout=FLUSH_TIMEOUT)
        finally:
            delivery.cancel()
            await asyncio.wait({delivery})
        return not delivery.cancelled() and delivery.result()

    async def _send_and_flush(self, channel: Channel, goodbye: Sequence[Wire]) -> bool:
        try:
            await self._send_all(channel, lambda: goodbye)
            await channel.flush()
        except PeerError as error:
            logger.info("%s: not flushed: %s", self.connection_id, error)
            return False
        return True

    # Messages ---------------------------------------------------------------------------------

    @property
    def buffer_size(self) -> int:
        """Bytes accepted by `send` that are not on their way yet."""
        return self._channel.buffered_amount if self._channel else 0

    @property
    def max_message(self) -> int:
        """Bytes that the far side takes in one message of the channel, once the connection is open.

        With serialization raw, a value is one message, and a bigger one cannot be sent. The others cut theirs
        into smaller ones, or have limits of their own.

        Raises:
            NotOpenYet: before `open`.
        """
        return self._usable().max_message

    async def send(self, value: Any) -> None:
        """Send a value; waits while the path or the far side is slower than the caller.

        Cancelled, it has sent nothing, or will send the rest with the next value: half of one would break
        the stream.

        Raises:
            NotOpenYet: before `open`.
            MessageTooBig: json from 16,300 bytes on (PeerJS's own limit), raw beyond `max_message`.
            UsageError: the serialization cannot carry this value.
            PeerError: why the connection has ended.
        """
        await self._send_all(self._usable(), lambda: self._codec.encode(value))

    async def _send_all(self, channel: Channel, encode: Callable[[], Iterable[Wire | memoryview]]) -> None:
        async with self._sending:
            while self._begun:
                await channel.send(self._begun[0])
                self._begun.popleft()
            wires = iter(encode())
            begun = False
            for wire in wires:
                try:
                    await channel.send(wire)
                except asyncio.CancelledError:
                    if begun:
                        self._begun.extend((wire, *wires))
                    raise
                begun = True

    async def flush(self) -> None:
        """Return when the far side has acknowledged everything sent so far.

        Raises:
            PeerError: why the connection ended before that.
        """
        await self._usable().flush()

    def _usable(self) -> Channel:
        if self._channel is not None:
            return self._channel
        if self._opening.done():
            self._opening.result()
        raise NotOpenYet("the connection is not open yet")

    async def receive(self) -> Any:
        """The next value. May be cancelled without losing one.

        Raises:
            PeerError: why the connection has ended; what came before is returned first.
        """
        await self.opened()
        value, size = await self._unread.get()
        if isinstance(value, _End):
            self._unread.put_nowait((value, size))
            raise value.error
        self._unread_bytes -= size
        self._room.set()
        return value

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Each value until either side closes; raises only if the connection was lost."""
        while True:
            try:
                value = await self.receive()
            except ConnectionClosed:
                return
            yield value

    # For Peer ---------------------------------------------------------------------------------

    async def _live(self) -> None:
        if self.outgoing:
            offer = self._announced()
            sdp = await self._link.offer(offer.label, ordered=self.reliable)
            self._signal(replace(offer, sdp=sdp))
        else:
            sdp = await self._link.answer(self._offer.sdp)
            auth = self._gate is not None
            self._signal(Answer(self.peer, self.connection_id, "data", sdp, auth=auth, session=self.session))
        channel = await self._link.channel()
        await self._prove(channel)
        if self.proven is not None and not self.outgoing:
            self.label = self.proven.label
        self._channel = channel
        self._opening.set_result(None)
        self.emit("open")
        await self._read(channel)

    def _ended(self, error: PeerError) -> None:
        self._unread.put_nowait((_End(error), 0))

    async def _read(self, channel: Channel) -> None:
        size = 0
        async for wire in channel:
            size += len(wire)
            for value in self._codec.decode(wire):
                if value is CLOSE:
                    return
                while self._is_full() and not self._discard:
                    self._room.clear()
                    await self._room.wait()
                self._unread.put_nowait((value, size))
                self._unread_bytes += size
                size = 0
                self._deliver()

    def _is_full(self) -> bool:
        """Whether the reader, or the listeners to `data` that are coroutines, must be waited for."""
        waiting = max(self._unread.qsize(), len(self._running))
        return waiting >= MAX_UNREAD or self._unread_bytes >= MAX_UNREAD_BYTES

    def _deliver(self) -> None:
        """Give to the listeners of `data` what is unread."""
        while self.listeners("data") and not self._unread.empty():
            value, size = self._unread.get_nowait()
            if isinstance(value, _End):
                self._unread.put_nowait((value, size))
                return
            self._unread_bytes -= size
            self.emit("data", value)

    def _add(self, event: str, listener: Listener | None, *, once: bool) -> Any:
        result = super()._add(event, listener, once=once)
        if event == "data" and not self._unread.empty():  # what came before there was a listener
            asyncio.get_running_loop().call_soon(self._catch_up)
        return result

    def _catch_up(self) -> None:
        self._deliver()
        self._room.set()

    def _listener_ended(self, task: asyncio.Task[None]) -> None:
        super()._listener_ended(task)
        self._room.set()

    def _handle(self, message: Answer | Candidate) -> None:
        if isinstance(message, Answer) and self.outgoing and message.session == self._offer.session:
            self.session = message.session
        super()._handle(message)


@dataclass(frozen=True, slots=True)
class _End:
    """What stands in the queue after the last value."""

    error: PeerError
