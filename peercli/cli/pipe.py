"""peercli pipe."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack
from typing import Annotated

import typer

from peercli.cli.console import Console
from peercli.cli.options import (
    DEFAULT_SERVER,
    IceOption,
    IdOption,
    JsonOption,
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
from peercli.errors import UsageError

__all__ = ["pipe"]


def pipe(
    peer_id: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="The peer to join; without, wait for one.", show_default=False),
    ] = None,
    recv_only: Annotated[bool, typer.Option("--recv-only", help="Do not read stdin.")] = False,
    send_only: Annotated[bool, typer.Option("--send-only", help="Do not write stdout.")] = False,
    progress: Annotated[
        bool, typer.Option("--progress", help="Show bytes, time and rate on stderr.")
    ] = False,
    server: ServerOption = DEFAULT_SERVER,
    id: IdOption = None,
    token: TokenOption = None,
    ice: IceOption = None,
    relay: RelayOption = False,
    timeout: TimeoutOption = 30.0,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Join stdin and stdout to a peer: every byte, both ways, until both directions have ended.

    A slow reader slows the writer. Works against pipe, listen, listen --exec and a PeerJS page.

    Example: tar c folder | peercli pipe my-server-7
    """

    async def work(console: Console) -> None:
        if recv_only and send_only:
            raise UsageError("--recv-only and --send-only leave nothing to do")
        from peercli.services.chat import announce, say_closed
        from peercli.services.events import Open
        from peercli.services.pipe import Pipe, dial_pipe
        from peercli.services.streams import FdSource

        async with AsyncExitStack() as stack:
            peer = await stack.enter_async_context(
                make_peer(server=server, id=id, token=token, ice=ice, relay=relay, max_connections=1)
            )
            if peer_id is not None:
                connection = await dial_pipe(peer, peer_id, timeout=timeout)
            else:
                await console.report(Open(peer.id))
                connection = await peer.accept()
            await announce(connection, console.report)
            source = FdSource(0)
            stack.push_async_callback(source.close)
            joined = Pipe(
                connection,
                None if recv_only else source,
                None if send_only else console.stdout,
                on_peer_end=lambda: _say_end(console, waiting=not recv_only),
            )
            async with console.metered(joined, show=progress):
                await joined.run()
            await say_closed(connection, console.report)

    run(work, make_console(json=json, quiet=quiet, verbose=verbose, payload=True))


def _say_end(console: Console, *, waiting: bool) -> None:
    if waiting and sys.stdin.isatty():
        console.status("The peer has sent all it had; Ctrl-D ends your side too.")
