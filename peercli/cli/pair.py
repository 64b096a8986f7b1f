"""peercli pair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from peercli.cli.options import Display, Network, TimeoutOption
from peercli.cli.trust import Trust
from peercli.errors import UsageError

if TYPE_CHECKING:
    from peercli.cli.console import Console

__all__ = ["pair"]


def pair(
    peer_id: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE",
            help="What the other side was told, or an ID with --secret; without it, a code is made.",
            show_default=False,
        ),
    ] = None,
    *,
    network: Network,
    trust: Trust,
    timeout: TimeoutOption = 30,
    display: Display,
) -> None:
    """Get to know a peer: each side keeps the other's key, under the name that it gives with --remember.

    From then on the name stands for the peer, wherever an ID does, and --allow lets it in, without a code;
    whoever has another key is refused.

    Example: peercli pair --remember laptop
    """

    async def work(console: Console) -> None:
        if not trust.remember:
            raise UsageError("what shall the peer be called?", hint="--remember NAME")
        from peercli.services.pairing import await_pairing, pair_with

        if peer_id is not None:
            peer, far_id = trust.reach(console, peer_id, network.make_peer)
            await pair_with(peer, far_id, timeout=timeout)
        elif trust.asks and not trust.code:
            await await_pairing(await trust.wait(console, network.make_peer, type_there=""), console.report)
        else:
            type_there = "pair CODE --remember NAME"
            peer = await trust.wait_with_code(console, network.make_peer, type_there=type_there)
            await await_pairing(peer, console.report)

    display.run(work)
