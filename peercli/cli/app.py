"""The command tree."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import peercli
from peercli.cli.connect import connect
from peercli.cli.demo import demo
from peercli.cli.listen import listen
from peercli.cli.peers import peers
from peercli.cli.pipe import pipe
from peercli.cli.server import server

__all__ = ["app"]


class _Command(TyperCommand):
    """A command whose usage line has `ID` for what has to be given and `[ID]` for what may be."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


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
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, metavar="", help="Show the version and exit."
        ),
    ] = False,
) -> None: ...


for _command in (listen, connect, pipe, server, peers, demo):
    # Under the options, where a reader's eye ends up, is the place for the example.
    _help, _, _example = inspect.cleandoc(_command.__doc__ or "").rpartition("\n\n")
    app.command(cls=_Command, help=_help, epilog=_example)(_command)
