"""pipe: standard input and output joined to a peer's (the protocol is in `peercli.protocol.pipe`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from peercli.errors import ConnectionClosed, ConnectionLost, PeerError, ProtocolError
from peercli.protocol.pipe import (
    HELLO_TIMEOUT,
    METADATA,
    PIECE,
    WINDOW,
    Abort,
    Ack,
    Control,
    End,
    Hello,
    Receiver,
    Sender,
    Stop,
    decode,
    encode,
    greeting,
    is_pipe,
)
from peercli.services.lasting import Conversation, LastingConnection
from peercli.services.streams import Sink, Source

__all__ = ["PIPE", "Pipe"]

PIPE: dict[str, Any] = {"label": "pipe", "metadata": METADATA, "serialization": "raw", "reliable": True}
"""How a connection for a pipe is opened, in the words of `Peer.connect`."""

LARGE_PIECE = 1 << 18  # bytes in a message to a peercli that takes them
WRITE = 1 << 20  # bytes given to the sink at once, if they are there: it has a thread to wake each time
ABORT_TIMEOUT = 1.0  # s to tell the peer that we give up


class Pipe:
    """Two streams joined to a peer's, until both have ended.

    Args:
        source: where the bytes for the peer come from; None sends nothing.
        sink: where the peer's bytes go; None wants nothing. It is closed when the peer's stream ends.
        sink_over: waits until the sink wants no more, which is fine; it raises if that is a failure. The pipe
            does not end before.
        on_peer_end: called when the peer has sent all it had.

    Attributes:
        sent, received: bytes so far, at any time.
    """

    def __init__(
        self,
        connection: Conversation,
        source: Source | None,
        sink: Sink | None,
        *,
        sink_over: Callable[[], Awaitable[None]] | None = None,
        on_peer_end: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._source = source
        self._sink = sink
        self._sink_over = sink_over
        self._on_peer_end = on_peer_end
        self._out = Sender()
        self._in = Receiver()
        called_plainly = not connection.outgoing and not is_pipe(
            connection.metadata, connection.serialization
        )
        self._plain = True if called_plainly else None  # None: not known yet
        self._greeted = called_plainly  # what the peer's first message says, or no hello is expected
        self._introduced = False
        self._wanted = True  # by the peer
        self._pumping: asyncio.Task[None] | None = None
        self._mid_send = False
        self._news = asyncio.Event()  # from the peer
        self._arrivals: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: the end

    @property
    def sent(self) -> int:
        return self._out.sent

    @property
    def received(self) -> int:
        return self._in.taken

    async def run(self) -> None:
        """Carry bytes until both directions have ended, then close the connection.

        Neither direction waits for the other: a peer whose bytes nobody takes can still be written to.

        Raises:
            ConnectionLost: the connection, or the peer's interest, ended before that. What had come until
                then is with the sink.
            ProtocolError: the peer broke the protocol.
            PeerError, OSError: the source or the sink failed; the peer is told.
        """
        writing = asyncio.create_task(self._write())
        heeding = asyncio.create_task(self._heed_sink())
        waiting = tasks = {
            writing,
            heeding,
            asyncio.create_task(self._send()),
            asyncio.create_task(self._receive()),
        }
        try:
            while not (writing.done() and heeding.done() and (self._plain or self._out.complete)):
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            if self._plain and self._mid_send:
                raise ConnectionLost("the peer closed the connection before it had everything")
            with contextlib.suppress(ConnectionClosed, ConnectionLost):  # the peer may be quicker to close
                await self._connection.flush()
        except ConnectionLost:
            raise
        except BaseException as error:
            await self._stop(tasks)
            await self._abort(str(error) or "interrupted")
            raise
        finally:
            await self._stop(tasks)
            await self._connection.close()

    async def _stop(self, tasks: set[asyncio.Task[None]]) -> None:
        running = tasks | ({self._pumping} if self._pumping is not None else set())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _abort(self, reason: str) -> None:
        if self._introduced and not self._plain:
            with contextlib.suppress(PeerError, TimeoutError):
                await asyncio.wait_for(self._say_and_flush(Abort(reason)), ABORT_TIMEOUT)

    async def _say_and_flush(self, control: Control) -> None:
        await self._say(control)
        await self._connection.flush()

    async def _say(self, control: Control) -> None:
        await self._connection.send(encode(control))

    # Out --------------------------------------------------------------------------------------

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionClosed, ConnectionLost):  # the receiving direction says why
            await self._introduce()
            if self._source is not None and self._wanted:
                await self._pump_while_wanted(self._source)
            if not self._plain:
                self._out.ended = True
                await self._say(End(self._out.sent))
                await self._until(lambda: self._out.complete)
            elif self._source is not None and (self._out.sent or self._connection.outgoing):
                await self._connection.flush()
                await self._connection.close()

    async def _introduce(self) -> None:
        if self._plain is None:
            await self._say(Hello(WINDOW, receives=self._sink is not None))
            self._introduced = True
            with contextlib.suppress(TimeoutError):
                lasting = isinstance(self._connection, LastingConnection)  # no plain page
                async with asyncio.timeout(None if lasting else HELLO_TIMEOUT):
                    await self._until(lambda: self._greeted)
            if self._plain is None:
                self._plain = True
                self._news.set()

    async def _pump_while_wanted(self, source: Source) -> None:
        self._pumping = asyncio.create_task(self._pump(source))
        await asyncio.wait({self._pumping})
        if not self._pumping.cancelled():
            self._pumping.result()

    async def _pump(self, source: Source) -> None:
        while self._wanted and (data := await source.read()):
            self._mid_send = True
            await self._send_bytes(data)
            self._mid_send = False

    async def _send_bytes(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            await self._until(lambda: self._plain or self._out.room > 0 or not self._wanted)
            if not self._wanted:
                return
            # A message costs something whatever its size: as large as the far side takes.
            size = PIECE if self._plain else min(self._connection.max_message, LARGE_PIECE, self._out.room)
            piece = data[start : start + size]
            start += len(piece)
            self._out.sent += len(piece)
            await self._connection.send(piece)

    async def _until(self, reached: Callable[[], object]) -> None:
        while not reached():
            self._news.clear()
            await self._news.wait()

    # In ---------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        """Take messages as they come; the window bounds what can pile up before a slow sink."""
        try:
            async for message in self._connection:
                self._take(message)
                self._news.set()
                if self._plain:
                    await self._arrivals.join()
            if self._plain:
                self._arrivals.put_nowait(None)
            elif not self._in.ended:
                raise ConnectionLost("the peer closed the connection before the end of its stream")
            elif not self._out.complete:
                raise ConnectionLost("the peer closed the connection before it had everything")
        except PeerError:
            await self._arrivals.join()  # what came before is the reader's
            raise

    def _take(self, message: object) -> None:
        if not self._greeted:
            self._greeted = True
            hello = greeting(message)
            self._plain = hello is None
            if hello is not None:
                self._out.hello(hello)
                self._wanted = hello.receives
                return
        if isinstance(message, str) and not self._plain:
            self._control(decode(message))
        else:
            data = _as_bytes(message)
            if not self._plain:
                self._in.arrive(len(data))
            if data:  # else it would cost nothing of the window, and could pile up without end
                self._arrivals.put_nowait(data)

    def _control(self, control: Control | None) -> None:
        match control:
            case Ack():
                self._out.ack(control)
            case End():
                self._in.end(control)
                self._arrivals.put_nowait(None)
            case Stop():
                self._wanted = False
                if self._pumping is not None and not self._mid_send:  # it reads, which may last
                    self._pumping.cancel()
            case Abort(reason):
                raise ConnectionLost(f"the peer gave up: {reason}")

    async def _write(self) -> None:
        while arrived := await self._arrived():
            data = b"".join(arrived)
            if self._sink is not None:
                await self._sink.write(data)
            await self._acknowledge(self._in.take(len(data)))
            for _ in arrived:
                self._arrivals.task_done()
        if self._sink is not None:
            await self._sink.close()
        if self._sink_over is not None:
            await self._sink_over()  # only then is it known that all is well
        await self._acknowledge(self._in.finish())
        self._arrivals.task_done()
        if self._on_peer_end is not None:
            self._on_peer_end()

    async def _arrived(self) -> list[bytes]:
        """What has arrived, as much as one write should take; nothing after the end."""
        arrived: list[bytes] = []
        size = 0
        while not arrived or (size < WRITE and not self._arrivals.empty()):
            data = await self._arrivals.get()
            if data is None:
                if arrived:
                    self._arrivals.put_nowait(None)  # for the next time
                    self._arrivals.task_done()
                break
            arrived.append(data)
            size += len(data)
        return arrived

    async def _heed_sink(self) -> None:
        if self._sink_over is None:
            return
        await self._sink_over()
        self._sink = None
        await self._until(lambda: self._plain is not None)
        if not self._plain and not self._in.ended:
            with contextlib.suppress(ConnectionClosed, ConnectionLost):
                await self._say(Stop())

    async def _acknowledge(self, ack: Ack | None) -> None:
        if ack is not None and not self._plain:
            with contextlib.suppress(ConnectionClosed, ConnectionLost):  # the receiving direction says why
                await self._say(ack)


def _as_bytes(message: object) -> bytes:
    match message:
        case bytes():
            return message
        case str():
            return message.encode(errors="replace")
        case _:
            raise ProtocolError(f"the peer sent a {type(message).__name__}, and a pipe carries bytes")
