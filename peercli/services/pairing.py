"""pair: a connection that is only there for what it proves."""

from __future__ import annotations

from peercli.errors import AuthenticationFailed
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.services.dial import dialled, first_of
from peercli.services.events import Report

__all__ = ["await_pairing", "pair_with"]


async def pair_with(peer: Peer, peer_id: str, *, timeout: float) -> None:
    """Prove what `peer` has to prove to `peer_id`, and leave.

    Raises:
        AuthenticationFailed: the far side has not told its key.
        PeerError: as `dialled` raises.
    """
    async with dialled(peer, peer_id, timeout=timeout) as connection:
        await connection.close(flush=True)
        _check_told(connection)


async def await_pairing(peer: Peer, report: Report) -> None:
    """Wait for somebody to do so with us, and to leave.

    Raises:
        AuthenticationFailed: the far side has not told its key.
        PeerError: as `first_of` raises.
    """
    async with peer:
        connection = await first_of(peer, report)
        await connection.closed()
        _check_told(connection)


def _check_told(connection: DataConnection) -> None:
    if connection.proven is None or connection.proven.key is None:
        raise AuthenticationFailed(
            f"{connection.peer} has not told its key", hint="it needs pair, or --remember NAME"
        )
