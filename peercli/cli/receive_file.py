"""peercli receive-file."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from peercli.cli.options import Display, Network, TimeoutOption
from peercli.cli.trust import AllowOption, Trust, make_admission
from peercli.errors import UsageError

if TYPE_CHECKING:
    from peercli.cli.console import Console
    from peercli.protocol.messages import Offer

__all__ = ["OnConflict", "receive_file"]


class OnConflict(StrEnum):
    """What to do with a file that is there already."""

    resume = "resume"
    rename = "rename"
    overwrite = "overwrite"
    skip = "skip"
    fail = "fail"


def receive_file(
    told: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE",
            help="What the sender was told; without it, wait for one.",
            show_default=False,
        ),
    ] = None,
    save_dir: Annotated[
        str | None,
        typer.Option("--save-dir", metavar="DIR", help="Where to, without asking.", show_default="."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="A single file, to here; - is stdout.", show_default=False
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    on_conflict: Annotated[
        OnConflict, typer.Option("--on-conflict", help="What to do with files that are there.")
    ] = OnConflict.resume,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Decline more than this: 500M.", show_default=False),
    ] = None,
    keep_open: Annotated[bool, typer.Option("--keep-open", help="Wait for more, until Ctrl-C.")] = False,
    *,
    network: Network,
    timeout: TimeoutOption = 30,
    allow: AllowOption = None,
    trust: Trust,
    display: Display,
) -> None:
    """Wait for files, take one offer, exit.

    Nothing is written outside the folder, and nothing stands under its name before it is checked.

    Example: peercli receive-file 417-bagpipe-zucchini
    """

    async def work(console: Console) -> None:
        from peercli.cli.transfers import inbox_for, parse_size, transfer_view
        from peercli.services.files.meeting import fetch_files
        from peercli.services.files.outlet import Outlet, single_file
        from peercli.services.files.receiving import is_file_offer, receive_files

        if output and (save_dir or keep_open):
            raise UsageError("-o takes one file, to one place: without --save-dir and --keep-open")
        place = Outlet(1) if output == "-" else output and single_file(output, on_conflict=on_conflict.value)
        limit = parse_size(max_size, "--max-size")
        with transfer_view(console, "Receiving") as view:
            inbox = inbox_for(
                view,
                save_dir,
                yes=yes,
                place=place or None,
                single=not keep_open,
                on_conflict=on_conflict.value,
                max_size=limit,
            )
            if inbox is None:
                raise UsageError("nobody can be asked here", hint="agree beforehand: -y, or --save-dir DIR")
            try:
                if told is not None:
                    peer, far_id = trust.reach(console, told, network.make_peer)
                    await fetch_files(peer, far_id, inbox, timeout=timeout)
                else:
                    admission = make_admission(allow)

                    def admit(offer: Offer) -> bool:
                        return is_file_offer(offer) and (admission is None or admission.admits(offer))

                    make = partial(network.make_peer, admit=admit)
                    peer = await trust.wait(console, make, admission, type_there="send-file CODE PATH...")
                    await receive_files(peer, inbox, keep_open=keep_open)
            finally:
                await inbox.close()

    display.run(work, payload=output == "-")
