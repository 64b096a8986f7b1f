"""peercli pair."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from peercli.cli.console import Console
from peercli.cli.options import (
    DEFAULT_SERVER,
    IceOption,
    IdOption,
    InterfaceOption,
    JsonOption,
    PortRangeOption,
    QuietOption,
    RelayOption,
    ServerOption,
    TimeoutOption,
    TokenOption,
    VerboseOption,
    make_console,
    make_peer,
)
from peercli.cli.run import run
from peercli.cli.trust import NO_TRUST, Trust
from peercli.errors import UsageError

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
    server: ServerOption = DEFAULT_SERVER,
    id: IdOption = None,
    token: TokenOption = None,
    ice: IceOption = None,
    relay: RelayOption = False,
    port_range: PortRangeOption = None,
    interface: InterfaceOption = None,
    trust: Trust = NO_TRUST,
    timeout: TimeoutOption = 30,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
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

        make = partial(
            make_peer,
            server=server,
            id=id,
            token=token,
            ice=ice,
            relay=relay,
            port_range=port_range,
            interface=interface,
        )
        if peer_id is not None:
            peer, far_id = trust.reach(console, peer_id, make)
            await pair_with(peer, far_id, timeout=timeout)
        elif trust.asks and not trust.code:
            await await_pairing(await trust.wait(console, make, type_there=""), console.report)
        else:
            type_there = "pair CODE --remember NAME"
            peer = await trust.wait_with_code(console, make, type_there=type_there)
            await await_pairing(peer, console.report)

    run(work, make_console(json=json, quiet=quiet, verbose=verbose))
