"""peercli peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peercli.cli.options import Brokers, Display, TimeoutOption

if TYPE_CHECKING:
    from peercli.cli.console import Console

__all__ = ["peers"]


def peers(
    brokers: Brokers,
    timeout: TimeoutOption = 30,
    *,
    display: Display,
) -> None:
    """List the ids that a broker admits to; of several, the first that answers.

    Example: peercli peers --server http://localhost:9000
    """

    async def work(console: Console) -> None:
        asked = brokers.brokers()
        from peercli.peer.directory import list_peers
        from peercli.services.events import Listed

        ids = await list_peers(asked, timeout=timeout)
        if console.json:
            await console.report(Listed(ids))
        else:
            for peer_id in ids:
                await console.write_line(peer_id)

    display.run(work)
