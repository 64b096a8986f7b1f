"""How soon, how often and for how long a peer is dialled that was lost."""

from __future__ import annotations

import random
from typing import Any

from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer

__all__ = ["RETRIES", "pause", "redial"]

ATTEMPT_TIMEOUT = 10.0  # s for one attempt: who was there a moment ago answers soon, or not at all
FIRST_PAUSE, LAST_PAUSE = 0.25, 4.0  # s before an attempt; doubling in between
RETRIES = 40  # attempts in a row: some two minutes, even if each fails at once


def pause(attempt: int) -> float:
    """Seconds to wait before an attempt, counted from 1; half of them by chance, lest all come at once."""
    return min(FIRST_PAUSE * 2.0 ** min(attempt - 1, 10), LAST_PAUSE) * random.uniform(0.5, 1.0)


async def redial(
    peer: Peer, peer_id: str, *, timeout: float = ATTEMPT_TIMEOUT, **options: Any
) -> DataConnection:
    """One attempt to connect to a peer again.

    Args:
        timeout: seconds at most, and no more than ATTEMPT_TIMEOUT.
        options: as `Peer.connect` takes them.

    Raises:
        PeerError: as `Peer.check` and `Peer.connect` raise.
    """
    await peer.check()  # what took the connection may have taken the broker's, too
    return await peer.connect(peer_id, timeout=min(timeout, ATTEMPT_TIMEOUT), **options)
