"""listen: take what peers bring, many at once."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from peercli.errors import ConnectionClosed, PeerError, StorageFailed
from peercli.peer.peer import Peer
from peercli.protocol.jsontext import to_json
from peercli.protocol.messages import Offer
from peercli.protocol.pipe import is_pipe
from peercli.protocol.transfer import is_files
from peercli.services.admission import Admission
from peercli.services.call import Studio, answer_calls
from peercli.services.chat import announce, say_closed
from peercli.services.command import Command
from peercli.services.dial import tell
from peercli.services.events import Data, Report, Stream
from peercli.services.files.receiving import Inbox, is_file_offer
from peercli.services.lasting import Conversation, LastingConnection, Sessions
from peercli.services.pipe import Pipe
from peercli.services.streams import Sink, lines

__all__ = ["Listener"]

COMMAND_PATIENCE = 5.0  # s a command has to end after its peer has closed


@dataclass(kw_only=True)
class Listener:
    """What to do with connections.

    Args:
        report: where messages and events go.
        output: where byte streams go, one after the other; None reports them as messages, piece by piece.
        echo: send every message back as it came.
        command: a shell command to run for each connection but those with files, its stdin and stdout joined
            to the peer.
        once: end with the first connection.
        admission: who is let in, and what for; None lets in everybody.
        inbox: takes files; without one they are declined.
        studio: answers calls; without one the `Peer` declines them.
    """

    report: Report
    output: Sink | None
    echo: bool = False
    command: str | None = None
    once: bool = False
    admission: Admission | None = None
    inbox: Inbox | None = None
    studio: Studio | None = None

    _stream_turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        self._sessions = Sessions(self.report)

    async def run(self, peer: Peer) -> None:
        """Serve a started peer until cancelled, or with `once` until the first connection has ended.

        Raises:
            IdentityRefused: after an outage, the broker did not take us back.
            PeerError: with `once`, how that connection failed.
            BrokenPipeError, StorageFailed: the output cannot be written any more.
        """
        tasks: set[asyncio.Task[Conversation | None]] = {
            asyncio.create_task(self._sessions.accept(peer)),
            asyncio.create_task(tell(peer, self.report, once=self.once)),
        }
        if self.studio is not None:
            tasks.add(asyncio.create_task(answer_calls(peer, self.studio, once=self.once)))
        try:
            while True:
                done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    connection = task.result()
                    if connection is not None:
                        tasks |= {
                            asyncio.create_task(self._serve(connection)),
                            asyncio.create_task(self._sessions.accept(peer)),
                        }
                    elif self.once:
                        return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def admit(self, offer: Offer) -> bool:
        """Whether to let in who offers a connection: give this to the `Peer`."""
        files = is_files(offer.metadata, offer.serialization)
        # Files resume in a way of their own: one that has a session is not what it says, and shall not get
        # with the right to send files what takes another one.
        if files and (self.inbox is None or not is_file_offer(offer) or offer.session is not None):
            return False
        capability = "exec" if self.command is not None and offer.kind == "data" and not files else ""
        allowed = self.admission is None or self.admission.admits(offer, capability)
        return allowed and self._sessions.admit(offer)

    async def _serve(self, connection: Conversation) -> None:
        await announce(connection, self.report)
        failure: PeerError | None = None
        try:
            if is_files(connection.metadata, connection.serialization):
                assert self.inbox is not None  # else `admit` has declined it, and if it has a session
                assert not isinstance(connection, LastingConnection)
                await self.inbox.serve(connection)
            elif self.command is not None:
                await self._run_command(connection, self.command)
            elif is_pipe(connection.metadata, connection.serialization):
                await self._take_stream(connection)
            else:
                await self._take_messages(connection)
        except PeerError as error:
            failure = error
            if self._is_fatal(error):
                raise
        finally:
            await connection.close()
            raised = failure is not None and self._is_fatal(failure)
            await say_closed(connection, self.report, failure, raised=raised)

    def _is_fatal(self, error: PeerError) -> bool:
        """Whether a connection's failure is the end of all: if nothing can be printed any more, it is."""
        return self.once or (self.command is None and isinstance(error, StorageFailed))

    async def _take_messages(self, connection: Conversation) -> None:
        async for message in connection:
            await self.report(Data(connection.peer, connection.connection_id, message))
            if self.echo:
                with contextlib.suppress(ConnectionClosed):
                    await connection.send(message)

    async def _take_stream(self, connection: Conversation) -> None:
        sink = (
            _Reported(connection, self.report)
            if self.output is None
            else _InTurn(self.output, self._stream_turn)
        )
        pipe = Pipe(connection, None, sink)
        try:
            await pipe.run()
        finally:
            await sink.close()
            await self.report(Stream(connection.peer, connection.connection_id, pipe.received))

    async def _run_command(self, connection: Conversation, text: str) -> None:
        environment = {
            "PEERCLI_PEER": connection.peer,
            "PEERCLI_LABEL": connection.label,
            "PEERCLI_METADATA": "" if connection.metadata is None else to_json(connection.metadata),
        }
        command = await Command.start(text, environment)
        try:
            if is_pipe(connection.metadata, connection.serialization):
                await Pipe(connection, command, command, sink_over=command.ended).run()
            else:
                await _chat(connection, command)
        finally:
            await command.stop()


class _Reported:
    """A sink that reports each piece as a message."""

    def __init__(self, connection: Conversation, report: Report) -> None:
        self._connection = connection
        self._report = report

    async def write(self, data: bytes) -> None:
        await self._report(Data(self._connection.peer, self._connection.connection_id, data))

    async def close(self) -> None:
        pass


class _InTurn:
    """A sink that streams share, one after the other: two at once would be neither. It outlives them."""

    def __init__(self, sink: Sink, turn: asyncio.Lock) -> None:
        self._sink = sink
        self._turn = turn
        self._ours = False

    async def write(self, data: bytes) -> None:
        if not self._ours:
            await self._turn.acquire()
            self._ours = True
        await self._sink.write(data)

    async def close(self) -> None:
        if self._ours:
            self._ours = False
            self._turn.release()


async def _chat(connection: Conversation, command: Command) -> None:
    """A line in for each message, a message out for each line, until one of them has no more."""

    async def feed() -> None:
        async for message in connection:
            text = message if isinstance(message, str) else to_json(message)
            await command.write(text.encode(errors="replace") + b"\n")
        await command.close()

    async def answer() -> None:
        async for line in lines(command):
            with contextlib.suppress(ConnectionClosed):
                await connection.send(line)
        await command.ended()

    feeding, answering = asyncio.create_task(feed()), asyncio.create_task(answer())
    try:
        await asyncio.wait({feeding, answering}, return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            feeding.result()
            await asyncio.wait({answering}, timeout=COMMAND_PATIENCE)
        if answering.done():
            answering.result()
            await connection.close(flush=True)
    finally:
        for task in (feeding, answering):
            task.cancel()
        await asyncio.gather(feeding, answering, return_exceptions=True)
