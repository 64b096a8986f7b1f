"""peercli pipe."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from peercli.cli.options import Display, Network, NoReconnectOption, TimeoutOption
from peercli.cli.trust import AllowOption, Trust, make_admission
from peercli.errors import UsageError

if TYPE_CHECKING:
    from peercli.cli.console import Console
    from peercli.protocol.messages import Offer

__all__ = ["pipe"]


def pipe(
    peer_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="The peer to join; without it, wait for one.", show_default=False),
    ] = None,
    recv_only: Annotated[bool, typer.Option("--recv-only", help="Do not read stdin.")] = False,
    send_only: Annotated[bool, typer.Option("--send-only", help="Do not write stdout.")] = False,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show bytes, time and rate on stderr.")
    ] = False,
    *,
    network: Network,
    allow: AllowOption = None,
    trust: Trust,
    timeout: TimeoutOption = 30,
    no_reconnect: NoReconnectOption = False,
    display: Display,
) -> None:
    """Join stdin and stdout to a peer: bytes, both ways.

    It ends when both directions have. A slow reader slows the writer. The peer may be peercli pipe, listen
    or listen --exec, or a PeerJS page.

    Example: tar c folder | peercli pipe my-server-7
    """

    async def work(console: Console) -> None:
        if recv_only and send_only:
            raise UsageError("--recv-only and --send-only leave nothing to do")
        from peercli.services.chat import announce, say_closed
        from peercli.services.dial import called, joined
        from peercli.services.lasting import Sessions
        from peercli.services.pipe import PIPE, Pipe
        from peercli.services.streams import FdSource

        sessions = Sessions(console.report)
        make = partial(
            network.make_peer,
            max_connections=1,
            lasting=not no_reconnect,
        )
        if peer_id is None:
            admission = make_admission(allow)

            def admit(offer: Offer) -> bool:
                return (admission is None or admission.admits(offer)) and sessions.admit(offer)

            peer = await trust.wait(console, partial(make, admit=admit), admission, type_there="pipe CODE")
            meeting = called(peer, sessions, console.report, timeout=timeout)
        else:
            peer, far_id = trust.reach(console, peer_id, make)
            meeting = joined(
                peer, far_id, console.report, timeout=timeout, reconnect=not no_reconnect, **PIPE
            )
        async with meeting as connection, FdSource(0) as stdin:
            await announce(connection, console.report)
            carrying = Pipe(
                connection,
                None if recv_only else stdin,
                None if send_only else console.stdout,
                on_peer_end=lambda: _say_end(console, waiting=not recv_only),
            )
            async with console.metered(carrying, show=progress):
                await carrying.run()
            await say_closed(connection, console.report)

    display.run(work, payload=True)


def _say_end(console: Console, *, waiting: bool) -> None:
    if waiting and os.isatty(0):
        console.status("The peer has sent all it had; Ctrl-D ends your side too.")
