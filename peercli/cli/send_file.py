"""peercli send-file."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from peercli.cli.options import Display, Network, TimeoutOption, at_least
from peercli.cli.trust import Trust

if TYPE_CHECKING:
    from peercli.cli.console import Console

__all__ = ["send_file"]


def send_file(
    peer_id: Annotated[
        str,
        typer.Argument(
            metavar="[ID]",
            help="Who shall get them, or a code. Without it (one PATH, or --code) a code is made.",
            show_default=False,
        ),
    ],
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Files and folders; - is stdin.", show_default=False),
    ] = None,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call stdin.")] = "stdin",
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="GLOB",
            help="Leave these out; with a slash, by path below a folder. Repeat for more.",
            show_default=False,
        ),
    ] = None,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Send what links in folders lead to, not the links.")
    ] = False,
    limit_rate: Annotated[
        str | None,
        typer.Option(
            "--limit-rate", metavar="RATE", help="Bytes a second at most: 500k, 5M.", show_default=False
        ),
    ] = None,
    retry: Annotated[
        int,
        typer.Option(
            "--retry",
            metavar="N",
            callback=lambda count: int(at_least(0, count)),
            help="Attempts in a row to go on after a lost connection.",
        ),
    ] = 40,
    *,
    network: Network,
    trust: Trust,
    timeout: TimeoutOption = 30,
    display: Display,
) -> None:
    """Send files and folders, checked end to end.

    What was interrupted goes on where it stopped: by itself after a lost connection, and when the same
    command is run again.

    Example: peercli send-file report.pdf
    """

    async def work(console: Console) -> None:
        from peercli.cli.transfers import parse_size, transfer_view
        from peercli.services.files.meeting import hand_over_files
        from peercli.services.files.outgoing import select_files
        from peercli.services.files.receiving import is_file_offer
        from peercli.services.files.sending import Sending, send_files

        rate = parse_size(limit_rate, "--limit-rate")
        # An id is one only where something follows it, so that neither can be taken for the other.
        far_id = peer_id if paths and not trust.code else None
        files = [*([] if far_id else [peer_id]), *(paths or ())]
        selection = select_files(files, exclude=exclude or (), follow_symlinks=follow_symlinks, name=name)
        with (
            transfer_view(console, "Sending") as view,
            closing(Sending(selection, view.report, limit_rate=rate)) as sending,
        ):
            if far_id is None:
                peer = await trust.wait_with_code(
                    console, partial(network.make_peer, admit=is_file_offer), type_there="receive-file CODE"
                )
                await hand_over_files(peer, sending)
            else:
                peer, reached = trust.reach(console, far_id, network.make_peer)
                await send_files(peer, reached, sending, timeout=timeout, retries=retry)

    display.run(work)
