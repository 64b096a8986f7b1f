"""The command tree. A command is imported when it is asked for, so that the others cost nothing."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
import typer.main

import peercli
from peercli.cli.bundles import spread
from peercli.cli.command import Command, Configured, Group
from peercli.cli.shells import Shell

__all__ = ["app"]

_NETWORKED = (
    *("listen", "connect", "send-file", "receive-file", "pipe", "call"),
    *("pair", "server", "peers", "doctor"),
)
_NAMES = (*_NETWORKED, "demo", "id", "config")


class _Commands(Mapping[str, Any]):
    """The commands by name: `send-file` is `send_file` of `peercli.cli.send_file`."""

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)

    def __getitem__(self, name: str) -> Any:
        if name not in _NAMES:
            raise KeyError(name)
        return _command(name)


@functools.cache
def _command(name: str) -> Any:
    attribute = name.replace("-", "_")
    made = getattr(importlib.import_module(f"peercli.cli.{attribute}"), attribute)
    if not isinstance(made, typer.Typer):
        made = _alone(name, made)
    command = typer.main.get_command(made)
    command.name = name
    return command


def _alone(name: str, function: Any) -> typer.Typer:
    """An app of one command."""
    paragraphs = [" ".join(text.split()) for text in function.__doc__.split("\n\n")]
    # Under the options, where a reader's eye ends up, is the place for the example.
    *paragraphs, example = filter(None, paragraphs)
    configured = name in _NETWORKED
    alone = typer.Typer(add_completion=False)
    alone.command(
        name,
        cls=Configured if configured else Command,
        help="\n\n".join(paragraphs),
        epilog=example,
    )(spread(function, *[_configuration()] * configured))
    return alone


def _configuration() -> type:
    from peercli.cli.options import Configuration

    return Configuration


class _Root(Group):
    """The program itself."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = _Commands()


app = typer.Typer(
    cls=_Root,
    help="PeerJS for the shell: join two machines, or a machine and a browser page, directly over WebRTC.",
    epilog="Example: peercli demo",
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
        from peercli.cli.install import install, this_shell

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
