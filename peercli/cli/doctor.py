"""peercli doctor."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from peercli.cli.options import Display, Network, TimeoutOption
from peercli.cli.trust import Trust

if TYPE_CHECKING:
    from peercli.cli.console import Console

__all__ = ["doctor"]


def doctor(
    peer_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="Try to reach this peer, too.", show_default=False),
    ] = None,
    *,
    network: Network,
    trust: Trust,
    timeout: TimeoutOption = 30,
    display: Display,
) -> None:
    """Say what works and what does not: broker, STUN, TURN, kind of NAT, devices.

    Every server is asked, and the verdict says in plain words who can be reached from here. With an ID that
    peer is connected to, and every pair of addresses that was tried is told of. The exit code is 0 when all
    is well, 3 when no broker works, 6 when a path, or a server named with --ice, cannot be had.

    Example: peercli doctor
    """

    async def work(console: Console) -> None:
        if peer_id is None:
            peer, far_id = network.make_peer(), None
        else:
            peer, far_id = trust.reach(console, peer_id, network.make_peer)
        from peercli.cli.findings import FindingView
        from peercli.services.doctor import examine

        view = FindingView(console)
        async with aclosing(examine(peer, far_id, timeout=timeout)) as findings:
            async for finding in findings:
                await view.report(finding)

    display.run(work)
