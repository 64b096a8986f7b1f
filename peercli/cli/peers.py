"""peercli peers."""

from __future__ import annotations

from peercli.cli.console import Console
from peercli.cli.options import (
    DEFAULT_SERVER,
    JsonOption,
    QuietOption,
    ServerOption,
    VerboseOption,
    make_brokers,
    make_console,
)
from peercli.cli.run import run

__all__ = ["peers"]


def peers(
    server: ServerOption = DEFAULT_SERVER,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """List the ids that a broker admits to; of several, the first that answers.

    Example: peercli peers --server http://localhost:9000
    """

    async def work(console: Console) -> None:
        brokers = make_brokers(server)
        from peercli.peer.directory import list_peers
        from peercli.services.events import Listed

        ids = await list_peers(brokers)
        if json:
            await console.report(Listed(ids))
        else:
            for peer_id in ids:
                await console.write_line(peer_id)

    run(work, make_console(json=json, quiet=quiet, verbose=verbose))
