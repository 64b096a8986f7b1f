"""The command tree."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import peercli
from peercli.cli.connect import connect
from peercli.cli.demo import demo
from peercli.cli.listen import listen
from peercli.cli.peers import peers
from peercli.cli.pipe import pipe
from peercli.cli.receive_file import receive_file
from peercli.cli.send_file import send_file
from peercli.cli.server import server

__all__ = ["app"]


class _Plain:
    """Help without the noise: no type where there is no value, no braces around what must be given."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False) and parameter.metavar is None:
                parameter.metavar = ""
        return parameters

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.strip("{}") for piece in pieces]


class _Command(_Plain, TyperCommand):
    pass


class _Group(_Plain, TyperGroup):
    pass


app = typer.Typer(
    cls=_Group,
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


for _command in (listen, connect, send_file, receive_file, pipe, server, peers, demo):
    _paragraphs = [" ".join(text.split()) for text in (_command.__doc__ or "").split("\n\n")]
    # Under the options, where a reader's eye ends up, is the place for the example.
    *_paragraphs, _example = filter(None, _paragraphs)
    app.command(
        _command.__name__.replace("_", "-"), cls=_Command, help="\n\n".join(_paragraphs), epilog=_example
    )(_command)
