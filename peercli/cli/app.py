"""The command tree."""

from __future__ import annotations

from typing import Annotated

import typer

import peercli
from peercli.cli.bundles import spread
from peercli.cli.call import call
from peercli.cli.command import Command, Configured, Group
from peercli.cli.completion import Shell, complete
from peercli.cli.config import config
from peercli.cli.connect import connect
from peercli.cli.demo import demo
from peercli.cli.doctor import doctor
from peercli.cli.id import id_group
from peercli.cli.listen import listen
from peercli.cli.options import Configuration
from peercli.cli.pair import pair
from peercli.cli.peers import peers
from peercli.cli.pipe import pipe
from peercli.cli.receive_file import receive_file
from peercli.cli.send_file import send_file
from peercli.cli.server import server

__all__ = ["app"]


app = typer.Typer(
    cls=Group,
    help="PeerJS for the shell: join two machines, or a machine and a browser page, directly over WebRTC.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"peercli {peercli.__version__}")
        raise typer.Exit


def _install_completion(wanted: bool) -> None:
    if wanted:
        from peercli.cli.completion import install, this_shell

        typer.echo(f"{install(this_shell())} is in place: a new shell completes peercli.")
        raise typer.Exit


def _show_completion(shell: str | None) -> None:
    if shell is not None:
        from peercli.cli.completion import script

        typer.echo(script(Shell(shell)), nl=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    install_completion: Annotated[
        bool,
        typer.Option(
            "--install-completion",
            callback=_install_completion,
            is_eager=True,
            help="Have this shell complete peercli.",
        ),
    ] = False,
    show_completion: Annotated[
        Shell | None,
        typer.Option(
            "--show-completion",
            callback=_show_completion,
            is_eager=True,
            metavar="SHELL",
            help="Print the completion of bash, zsh, fish or powershell.",
            show_default=False,
        ),
    ] = None,
) -> None: ...


for _command in (listen, connect, send_file, receive_file, pipe, call, pair, server, peers, doctor, demo):
    _paragraphs = [" ".join(text.split()) for text in (_command.__doc__ or "").split("\n\n")]
    # Under the options, where a reader's eye ends up, is the place for the example.
    *_paragraphs, _example = filter(None, _paragraphs)
    _named = app.command(
        _command.__name__.replace("_", "-"),
        cls=Command if _command is demo else Configured,
        help="\n\n".join(_paragraphs),
        epilog=_example,
    )
    _named(spread(_command) if _command is demo else spread(_command, Configuration))
app.add_typer(id_group, name="id")
app.add_typer(config, name="config")
app.command("complete", hidden=True)(complete)
