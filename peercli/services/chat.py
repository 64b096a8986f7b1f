"""connect: a message for each item that comes in, an event for each message that comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable

from peercli.errors import ConnectionClosed, ConnectionLost, PeerError
from peercli.services.events import Close, Connection, Data, Report, RouteFound
from peercli.services.lasting import Conversation

__all__ = ["announce", "converse", "say_closed"]

LOOK = 0.1  # s to see whether there was more to send when the peer closed


async def announce(connection: Conversation, report: Report) -> None:
    """Report that a connection is open, and how it goes."""
    await report(
        Connection(
            connection.peer,
            connection.connection_id,
            connection.label,
            connection.metadata,
            connection.serialization,
        )
    )
    if route := connection.route:
        await report(RouteFound.of(connection.peer, route))


async def say_closed(
    connection: Conversation, report: Report, failure: PeerError | None = None, *, raised: bool = True
) -> None:
    """Report that a connection has ended, and why.

    Args:
        failure: why, where that is not how the connection itself ended.
        raised: somebody else is told of the failure too.
    """
    error = failure or await connection.closed()
    reason = "closed" if isinstance(error, ConnectionClosed) else error.type
    message = "" if raised or isinstance(error, ConnectionClosed) else error.message
    await report(Close(connection.peer, connection.connection_id, reason, message))


async def converse(
    connection: Conversation, messages: AsyncIterable[object], report: Report, *, wait: float | None = 0.0
) -> None:
    """Send each of `messages`, report what comes, and close when all is said.

    Args:
        wait: seconds to stay for replies after the last message; None stays until the peer closes.

    Raises:
        ConnectionLost: the connection ended before all was sent, or without either side closing it.
        UsageError: the serialization cannot carry a message.
    """
    await announce(connection, report)
    speaker = _Speaker(connection)
    speaking = asyncio.create_task(speaker.speak(messages))
    hearing = asyncio.create_task(_hear(connection, report))
    failure: PeerError | None = None
    try:
        await asyncio.wait({speaking, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if speaking.done() and not speaking.exception():
            await asyncio.wait({hearing}, timeout=None if speaker.mid_message else wait)
        if not hearing.done():
            await connection.close(flush=True)
        elif not speaking.done():
            await asyncio.wait({speaking}, timeout=LOOK)
        if speaking.done():
            speaking.result()
        await hearing  # what came while we closed
        if speaker.mid_message:
            raise ConnectionLost("the peer closed the connection before everything was sent")
    except PeerError as error:
        failure = error
        raise
    finally:
        speaking.cancel()
        hearing.cancel()
        await asyncio.gather(speaking, hearing, return_exceptions=True)
        await connection.close()
        await say_closed(connection, report, failure)


class _Speaker:
    def __init__(self, connection: Conversation) -> None:
        self._connection = connection
        self.mid_message = False

    async def speak(self, messages: AsyncIterable[object]) -> None:
        async for message in messages:
            self.mid_message = True
            try:
                await self._connection.send(message)
            except (ConnectionClosed, ConnectionLost):
                return  # the hearing side says why
            self.mid_message = False


async def _hear(connection: Conversation, report: Report) -> None:
    async for message in connection:
        await report(Data(connection.peer, connection.connection_id, message))
