"""The command tree."""

from __future__ import annotations

from typing import Annotated

import typer

import peercli
from peercli.cli.connect import connect
from peercli.cli.demo import demo
from peercli.cli.listen import listen
from peercli.cli.peers import peers
from peercli.cli.pipe import pipe
from peercli.cli.server import server

__all__ = ["app"]

app = typer.Typer(
    help="PeerJS for the shell: join two machines, or a machine and a browser page, directly over WebRTC.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"peercli {peercli.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


for _command in (listen, connect, pipe, server, peers, demo):
    app.command()(_command)
