"""Files from one who waits to one who comes: with a code, it is the sender who waits."""

from __future__ import annotations

import asyncio

from peercli.errors import ConnectionClosed, ConnectionLost, PeerError
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.services.chat import announce, say_closed
from peercli.services.dial import dialled, first_of
from peercli.services.files.events import Resuming
from peercli.services.files.receiving import PATIENCE, Inbox
from peercli.services.files.sending import FILES, Sending
from peercli.services.redial import RETRIES, pause, redial

__all__ = ["fetch_files", "hand_over_files"]


async def hand_over_files(peer: Peer, sending: Sending, *, patience: float = PATIENCE) -> None:
    """Send to the first who comes, by a peer that waits, and go on when that one comes back.

    Args:
        patience: seconds to wait for that, after a lost connection.

    Raises:
        PeerError: as `send_files` raises, and `first_of`.
    """
    async with peer:
        connection = await first_of(peer, sending.report)
        while True:
            try:
                await announce(connection, sending.report)
                await sending.over(connection)
                break
            except (ConnectionLost, ConnectionClosed) as error:
                if sending.settled:
                    break
                lost = error
                await sending.report(Resuming(connection.peer, 1, 0.0, error.message))
            finally:
                await connection.close()
            try:
                async with asyncio.timeout(patience):
                    connection = await peer.accept()
            except TimeoutError:
                raise lost from None
        await sending.conclude(connection.peer)


async def fetch_files(
    peer: Peer, peer_id: str, inbox: Inbox, *, timeout: float, retries: int = RETRIES
) -> None:
    """Take the files that `peer_id` waits with, by a peer that is not started yet, and go on when cut off.

    Raises:
        PeerError: as `Inbox.serve` raises, and `dialled`.
    """
    attempt = 0
    async with dialled(peer, peer_id, timeout=timeout, **FILES) as first:
        connection: DataConnection | None = first
        while True:
            failure: PeerError | None = None
            try:
                if connection is None:
                    connection = await redial(peer, peer_id, timeout=timeout, **FILES)
                await announce(connection, inbox.report)
                await inbox.serve(connection)
                return
            except PeerError as error:
                failure = error
                attempt += 1
                if not inbox.unfinished or attempt > retries:
                    raise
                delay = pause(attempt)
                await inbox.report(Resuming(peer_id, attempt, delay, error.message))
            finally:
                if connection is not None:
                    await connection.close()
                    await say_closed(connection, inbox.report, failure)
            connection = None
            await asyncio.sleep(delay)
