"""peercli listen."""

from __future__ import annotations

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
    TokenOption,
    VerboseOption,
    at_least,
    make_console,
    make_peer,
)
from peercli.cli.run import run
from peercli.errors import UsageError

__all__ = ["listen"]


def listen(
    once: Annotated[bool, typer.Option("--once", help="Exit with the first connection's outcome.")] = False,
    echo: Annotated[bool, typer.Option("--echo", help="Send every message back as it came.")] = False,
    exec_command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            help="Run a shell command for each connection, its stdin and stdout joined to the peer.",
            show_default=False,
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow", metavar="ID", help="Let in only this peer; repeat for more.", show_default=False
        ),
    ] = None,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Let everybody who knows the id run the --exec command.")
    ] = False,
    max_peers: Annotated[
        int | None,
        typer.Option(
            "--max-peers",
            metavar="N",
            callback=lambda most: most if most is None else at_least(1, most),
            help="Decline more than N at once.",
            show_default=False,
        ),
    ] = None,
    server: ServerOption = DEFAULT_SERVER,
    id: IdOption = None,
    token: TokenOption = None,
    ice: IceOption = None,
    relay: RelayOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Wait for peers: print their messages, take their streams.

    A message is a line: text as it comes, anything else as JSON. Stays through outages of the broker,
    until Ctrl-C.

    Example: peercli listen --id my-server-7 --echo
    """

    async def work(console: Console) -> None:
        if exec_command is not None and not (allow or allow_anyone):
            raise UsageError(
                "--exec would let anybody who knows the id run the command",
                hint="name who may with --allow ID, or say --allow-anyone",
            )
        from peercli.services.listen import Listener

        listener = Listener(
            report=console.report,
            output=console.stdout,
            echo=echo,
            command=exec_command,
            once=once,
            allow=allow or None,
        )
        async with make_peer(
            server=server,
            id=id,
            token=token,
            ice=ice,
            relay=relay,
            admit=listener.admit,
            max_connections=1 if once else max_peers,
        ) as peer:
            await listener.run(peer)

    run(work, make_console(json=json, quiet=quiet, verbose=verbose))
