"""pair: a connection that is only there for what it proves."""

from __future__ import annotations

from peercli.peer.peer import Peer
from peercli.services.dial import dialled, first_of
from peercli.services.events import Report

__all__ = ["await_pairing", "pair_with"]


async def pair_with(peer: Peer, peer_id: str, *, timeout: float) -> None:
    """Prove what `peer` has to prove to `peer_id`, and leave; raises as `dialled`."""
    async with dialled(peer, peer_id, timeout=timeout) as connection:
        await connection.close(flush=True)


async def await_pairing(peer: Peer, report: Report) -> None:
    """Wait for somebody to do so with us, and to leave; raises as `first_of`."""
    async with peer:
        connection = await first_of(peer, report)
        await connection.closed()
