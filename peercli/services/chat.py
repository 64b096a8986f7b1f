"""connect: a message for each item that comes in, an event for each message that comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable

from peercli.errors import ConnectionClosed
from peercli.peer.data import DataConnection
from peercli.services.events import Close, Connection, Data, Report, RouteFound

__all__ = ["announce", "converse", "say_closed"]


async def announce(connection: DataConnection, report: Report) -> None:
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
        await report(RouteFound(connection.peer, route.local, route.remote, route.relayed))


async def say_closed(connection: DataConnection, report: Report) -> None:
    """Report that a connection has ended, and why."""
    error = await connection.closed()
    reason = "closed" if isinstance(error, ConnectionClosed) else error.type
    await report(Close(connection.peer, connection.connection_id, reason))


async def converse(
    connection: DataConnection, messages: AsyncIterable[object], report: Report, *, wait: float | None = 0.0
) -> None:
    """Send each of `messages`, report what comes, and close when all is said.

    Args:
        wait: seconds to stay for replies after the last message; None stays until the peer closes.

    Raises:
        ConnectionLost: the connection ended without either side closing it.
        UsageError: the serialization cannot carry a message.
    """
    await announce(connection, report)
    speaking = asyncio.create_task(_speak(connection, messages))
    hearing = asyncio.create_task(_hear(connection, report))
    try:
        await asyncio.wait({speaking, hearing}, return_when=asyncio.FIRST_COMPLETED)
        if speaking.done() and not speaking.exception():
            await asyncio.wait({hearing}, timeout=wait)
        if hearing.done():
            hearing.result()
        else:
            await connection.close(flush=True)
        if speaking.done():
            with contextlib.suppress(ConnectionClosed):
                speaking.result()
    finally:
        speaking.cancel()
        hearing.cancel()
        await asyncio.wait({speaking, hearing})
        await connection.close()
        await say_closed(connection, report)


async def _speak(connection: DataConnection, messages: AsyncIterable[object]) -> None:
    async for message in messages:
        await connection.send(message)


async def _hear(connection: DataConnection, report: Report) -> None:
    async for message in connection:
        await report(Data(connection.peer, connection.connection_id, message))
