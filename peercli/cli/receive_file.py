"""peercli receive-file."""

from __future__ import annotations

from contextlib import AsyncExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

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
    TokenOption,
    VerboseOption,
    make_console,
    make_peer,
)
from peercli.cli.run import run
from peercli.errors import UsageError

if TYPE_CHECKING:
    from peercli.services.files.events import FilesOffered

__all__ = ["OnConflict", "receive_file"]


class OnConflict(StrEnum):
    """What to do with a file that is there already."""

    resume = "resume"
    rename = "rename"
    overwrite = "overwrite"
    skip = "skip"
    fail = "fail"


def receive_file(
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
    server: ServerOption = DEFAULT_SERVER,
    id: IdOption = None,
    token: TokenOption = None,
    ice: IceOption = None,
    relay: RelayOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Wait for files, take one offer, exit.

    Nothing is written outside the folder, and nothing stands under its name before it is checked.

    Example: peercli receive-file --save-dir inbox
    """

    async def work(console: Console) -> None:
        from peercli.cli.transfers import ask, can_ask, offer_text, parse_size, transfer_view
        from peercli.services.files.receiving import Inbox, is_file_offer, receive_files
        from peercli.services.files.storage import SaveDir

        if not (yes or save_dir or output or can_ask()):
            raise UsageError("nobody can be asked here", hint="agree beforehand: -y, or --save-dir DIR")

        async def consent(offer: FilesOffered) -> bool:
            if yes or save_dir or output:
                return True
            return await ask(console, f"{offer.peer} offers {offer_text(offer)}. Save to {place.path}?")

        limit = parse_size(max_size, "--max-size")
        peer = make_peer(server=server, id=id, token=token, ice=ice, relay=relay, admit=is_file_offer)
        async with AsyncExitStack() as stack:
            view = stack.enter_context(transfer_view(console, "Receiving"))
            place = SaveDir(save_dir or ".", on_conflict=on_conflict.value)
            inbox = Inbox(place, view.report, consent=consent, max_size=limit, single=not keep_open)
            stack.push_async_callback(inbox.close)
            await receive_files(peer, inbox, keep_open=keep_open)

    run(work, make_console(json=json, quiet=quiet, verbose=verbose, payload=output == "-"))
