"""listen: take what peers bring, many at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import NoReturn

from peercli.errors import ConnectionClosed, PeerError
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.protocol.messages import Offer
from peercli.protocol.pipe import is_pipe
from peercli.services.chat import announce, say_closed
from peercli.services.events import Data, Event, Open, Reconnecting, Report, Stream
from peercli.services.pipe import Pipe
from peercli.services.streams import ProcessSink, ProcessSource, Sink

__all__ = ["Listener"]

MAX_LINE = 1 << 20  # bytes of a command's output that are one message
PROCESS_PATIENCE = 5.0  # s a command has to end after its standard input did


@dataclass(kw_only=True)
class Listener:
    """What to do with connections.

    Args:
        report: where messages and events go.
        output: where byte streams go, one after the other.
        echo: send every message back as it came.
        command: a shell command to run for each connection, its stdin and stdout joined to the peer.
        once: end with the first connection.
        allow: ids that are let in; None lets in everybody.
    """

    report: Report
    output: Sink
    echo: bool = False
    command: str | None = None
    once: bool = False
    allow: Collection[str] | None = None

    _stream_turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def run(self, peer: Peer) -> None:
        """Serve a started peer until cancelled, or with `once` until the first connection has ended.

        Raises:
            IdentityRefused: after an outage, the broker did not take us back.
            PeerError: with `once`, how that connection failed.
            OSError: the output cannot be written any more.
        """
        tasks: set[asyncio.Task[DataConnection | None]] = {
            asyncio.create_task(peer.accept()),
            asyncio.create_task(self._tell(peer)),
        }
        try:
            while tasks:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    connection = task.result()
                    if connection is not None:
                        tasks |= {
                            asyncio.create_task(self._serve(connection)),
                            asyncio.create_task(peer.accept()),
                        }
                    elif self.once:
                        return
        finally:
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    def admit(self, offer: Offer) -> bool:
        """Whether to let in who offers a connection: give this to the `Peer`."""
        return self.allow is None or offer.peer in self.allow

    async def _tell(self, peer: Peer) -> NoReturn:
        """Report how the peer fares with its broker."""
        news: asyncio.Queue[Event] = asyncio.Queue()
        if peer.open:
            news.put_nowait(Open(peer.id))
        peer.on("open", lambda id: news.put_nowait(Open(id)))
        peer.on("reconnecting", lambda attempt, delay: news.put_nowait(Reconnecting(attempt, delay)))
        while True:
            await self.report(await news.get())

    async def _serve(self, connection: DataConnection) -> None:
        try:
            await announce(connection, self.report)
            if self.command is not None:
                await self._run_command(connection, self.command)
            elif is_pipe(connection.metadata, connection.serialization):
                await self._take_stream(connection)
            else:
                await self._take_messages(connection)
        except PeerError:
            if self.once:
                raise
        finally:
            await connection.close()
            await say_closed(connection, self.report)

    async def _take_messages(self, connection: DataConnection) -> None:
        async for message in connection:
            await self.report(Data(connection.peer, connection.connection_id, message))
            if self.echo:
                with contextlib.suppress(ConnectionClosed):
                    await connection.send(message)

    async def _take_stream(self, connection: DataConnection) -> None:
        async with self._stream_turn:  # two streams on one output would be neither
            pipe = Pipe(connection, None, _Unclosed(self.output))
            try:
                await pipe.run()
            finally:
                await self.report(Stream(connection.peer, connection.connection_id, pipe.received))

    async def _run_command(self, connection: DataConnection, command: str) -> None:
        metadata = "" if connection.metadata is None else json.dumps(connection.metadata)
        process = await asyncio.create_subprocess_shell(
            command,
            stdin=PIPE,
            stdout=PIPE,
            limit=MAX_LINE,
            env=os.environ
            | {
                "PEERCLI_PEER": connection.peer,
                "PEERCLI_LABEL": connection.label,
                "PEERCLI_METADATA": metadata,
            },
        )
        try:
            if is_pipe(connection.metadata, connection.serialization):
                await Pipe(connection, ProcessSource(process), ProcessSink(process)).run()
            else:
                await _chat_with(process, connection)
        except BrokenPipeError:
            pass  # a command may stop reading when it has seen enough
        finally:
            await _end(process)


class _Unclosed:
    """A sink that outlives the streams written to it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    async def write(self, data: bytes) -> None:
        await self._sink.write(data)

    async def close(self) -> None:
        pass


async def _chat_with(process: Process, connection: DataConnection) -> None:
    """A line in for each message, a message out for each line."""
    assert process.stdin is not None
    sink = ProcessSink(process)

    async def feed() -> None:
        async for message in connection:
            text = message if isinstance(message, str) else json.dumps(message, default=repr)
            await sink.write(text.encode() + b"\n")
        await sink.close()

    async def answer() -> None:
        async for line in _lines(process):
            await connection.send(line)

    feeding, answering = asyncio.create_task(feed()), asyncio.create_task(answer())
    try:
        await asyncio.wait({feeding, answering}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():  # the command has said all
            answering.result()
            await connection.close(flush=True)
        else:
            feeding.result()
            await asyncio.wait({answering}, timeout=PROCESS_PATIENCE)
    finally:
        for task in (feeding, answering):
            task.cancel()
        await asyncio.wait({feeding, answering})


async def _lines(process: Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    async for line in process.stdout:
        yield line.decode(errors="replace").rstrip("\n")


async def _end(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        async with asyncio.timeout(PROCESS_PATIENCE):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
