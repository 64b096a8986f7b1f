"""pipe: standard input and output joined to a peer's (the protocol is in `peercli.protocol.pipe`)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from peercli.errors import ConnectionClosed, ConnectionLost, PeerError, ProtocolError
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
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
    decode,
    encode,
)
from peercli.services.streams import Sink, Source

__all__ = ["Pipe", "dial_pipe"]

ABORT_TIMEOUT = 1.0  # s to tell the far side that we give up


async def dial_pipe(peer: Peer, peer_id: str, *, timeout: float) -> DataConnection:
    """Open a connection for a pipe; raises as `Peer.connect` does."""
    return await peer.connect(
        peer_id, label="pipe", metadata=METADATA, serialization="raw", reliable=True, timeout=timeout
    )


class Pipe:
    """Two streams joined to a peer's, until both have ended.

    Args:
        source: where the bytes for the peer come from; None sends nothing.
        sink: where the peer's bytes go; None wants nothing. It is closed when the peer's stream ends.
        on_peer_end: called when the peer has sent all it had.

    Attributes:
        sent, received: bytes so far, at any time.
    """

    def __init__(
        self,
        connection: DataConnection,
        source: Source | None,
        sink: Sink | None,
        *,
        on_peer_end: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._source = source
        self._sink = sink
        self._on_peer_end = on_peer_end
        self._out = Sender()
        self._in = Receiver()
        loop = asyncio.get_running_loop()
        self._greeting: asyncio.Future[Hello | None] = loop.create_future()  # None: a plain page
        self._done: asyncio.Future[None] = loop.create_future()
        self._acked = asyncio.Event()

    @property
    def sent(self) -> int:
        return self._out.sent

    @property
    def received(self) -> int:
        return self._in.taken

    async def run(self) -> None:
        """Carry bytes until both directions have ended, then close the connection.

        Raises:
            ConnectionLost: the connection, or the far side's interest, ended before that.
            ProtocolError: the far side broke the protocol.
            OSError: the source or the sink failed; the far side is told.
        """
        tasks = {asyncio.create_task(self._receive()), asyncio.create_task(self._send())}
        try:
            await self._say(Hello(WINDOW, receives=self._sink is not None))
            waiting: set[asyncio.Future[None]] = {self._done, *tasks}
            while not self._done.done():
                finished, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in finished:
                    future.result()
            with contextlib.suppress(ConnectionClosed):  # the far side may be quicker to close
                await self._connection.flush()
        except (OSError, ProtocolError, asyncio.CancelledError) as error:
            await self._abort(str(error) or "interrupted")
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._connection.close()

    async def _abort(self, reason: str) -> None:
        with contextlib.suppress(PeerError, TimeoutError):
            async with asyncio.timeout(ABORT_TIMEOUT):
                if self._greeting.done() and self._greeting.result():
                    await self._say(Abort(reason))
                    await self._connection.flush()

    async def _say(self, control: Control) -> None:
        await self._connection.send(encode(control))

    def _maybe_done(self) -> None:
        if self._out.complete and self._in.complete and not self._done.done():
            self._done.set_result(None)

    # Out --------------------------------------------------------------------------------------

    async def _send(self) -> None:
        hello = await self._greeted()
        if hello is None:
            await self._send_plainly()
            return
        source = self._source if hello.receives else None
        while source is not None and (data := await source.read()):
            for start in range(0, len(data), PIECE):
                piece = data[start : start + PIECE]
                while self._out.room < len(piece):
                    self._acked.clear()
                    await self._acked.wait()
                self._out.sent += len(piece)
                await self._connection.send(piece)
        self._out.ended = True
        await self._say(End(self._out.sent))
        self._maybe_done()

    async def _send_plainly(self) -> None:
        """A plain page knows no acknowledgement, and no end but the connection's."""
        if self._source is None:
            return
        while data := await self._source.read():
            for start in range(0, len(data), PIECE):
                piece = data[start : start + PIECE]
                await self._connection.send(piece)
                self._out.sent += len(piece)
        await self._connection.flush()
        self._done.set_result(None)

    async def _greeted(self) -> Hello | None:
        await asyncio.wait({self._greeting}, timeout=HELLO_TIMEOUT)
        if not self._greeting.done():
            self._greeting.set_result(None)
        return self._greeting.result()

    # In ---------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        async for message in self._connection:
            if not self._greeting.done():
                hello = _hello(message)
                self._greeting.set_result(hello)
                if hello is not None:
                    self._out.hello(hello)
                    continue
            if self._greeting.result() is None:
                await self._take(message.encode() if isinstance(message, str) else message)
            elif isinstance(message, str):
                await self._control(decode(message))
            else:
                self._in.check(len(message))
                if ack := await self._take(message):
                    await self._say(ack)
        if self._greeting.done() and self._greeting.result() is None:
            await self._end_sink()
        else:
            raise ConnectionLost("the peer closed the connection before the end of the stream")
        if not self._done.done():
            self._done.set_result(None)

    async def _control(self, control: Control | None) -> None:
        match control:
            case Ack():
                self._out.ack(control)
                self._acked.set()
            case End():
                await self._say(self._in.end(control))
                await self._end_sink()
            case Abort(reason):
                raise ConnectionLost(f"the far side gave up: {reason}")
            case _:
                return
        self._maybe_done()

    async def _take(self, data: bytes) -> Ack | None:
        if self._sink is not None:
            await self._sink.write(data)
        return self._in.take(len(data))

    async def _end_sink(self) -> None:
        if self._sink is not None:
            await self._sink.close()
        if self._on_peer_end is not None:
            self._on_peer_end()


def _hello(message: object) -> Hello | None:
    """The greeting, if this first message is one; anything else comes from a plain page."""
    if not isinstance(message, str):
        return None
    with contextlib.suppress(ProtocolError):
        control = decode(message)
        return control if isinstance(control, Hello) else None
    return None
