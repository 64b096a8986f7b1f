"""peercli config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from peercli.cli.command import Command, Configured, Group, as_given, read_config
from peercli.cli.options import ConfigOption, ProfileOption
from peercli.errors import UsageError

if TYPE_CHECKING:
    from peercli.config import Setting

__all__ = ["config"]

SECRETS = {"token", "secret"}

config = typer.Typer(
    cls=Group,
    help="Say where the configuration file is, what it sets, and whether it is good.",
    add_completion=False,
    epilog="Example: peercli config show listen",
)


@config.command(cls=Command, epilog="Example: peercli config path")
def path() -> None:
    """Print where the file is, whether or not there is one."""
    from peercli.config import config_path

    typer.echo(config_path())


@config.command(cls=Command, epilog="Example: peercli config check")
def check(ctx: typer.Context, file: ConfigOption = None) -> None:
    """Read the file, and say what is wrong with it and in which line. Exit code 2 if anything is."""
    found = read_config(_tree(ctx), file)
    for profile in found.settings:
        for name, command in _configured(ctx).items():
            known = command.settable
            for setting in found.for_command(name, profile).values():
                if setting.option in known:
                    _try(command, known[setting.option], setting)
    typer.echo(
        f"{found.path} is good." if found.path.exists() else f"There is no {found.path}: all is default."
    )


@config.command(cls=Command, epilog="Example: peercli config show listen --profile work")
def show(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="COMMAND", help="Whose options to show; by default those of listen.")
    ] = "listen",
    file: ConfigOption = None,
    profile: ProfileOption = None,
) -> None:
    """Print what a command's options are set to, and where each value comes from. Secrets are not shown."""
    command = _configured(ctx).get(name)
    if command is None:
        raise UsageError(f"there is no command {name!r} that the file could set something for")
    settings = read_config(_tree(ctx), file).for_command(name, profile or "")
    for option, parameter in command.settable.items():
        value, source = _value(parameter, settings.get(option), ctx)
        typer.echo(f"{option} = {_shown(option, value)}  # {source}")


def _tree(ctx: Any) -> Any:
    return ctx.parent.parent.command


def _configured(ctx: Any) -> dict[str, Configured]:
    return {name: each for name, each in _tree(ctx).commands.items() if isinstance(each, Configured)}


def _value(parameter: Any, setting: Any, ctx: Any) -> tuple[Any, str]:
    if (value := parameter.value_from_envvar(ctx)) is not None:
        return value, str(parameter.envvar)
    if setting is not None:
        return as_given(parameter, setting.value), setting.place
    return parameter.get_default(ctx), "default"


def _shown(option: str, value: Any) -> str:
    from peercli.cli.console import printable
    from peercli.options import parse_ice_server

    if value is None:
        return "-"
    if option in SECRETS:
        return "…"
    if option == "ice":
        return " ".join("none" if url == "none" else str(parse_ice_server(url)) for url in value)
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return printable(str(getattr(value, "value", value)))


def _try(command: Configured, parameter: Any, setting: Setting) -> None:
    try:
        parameter.process_value(
            command.make_context(command.name, [], resilient_parsing=True), as_given(parameter, setting.value)
        )
    except Exception as error:  # noqa: BLE001  whichever class it has in the version of typer
        message = getattr(error, "message", str(error)).rstrip(".")
        raise UsageError(f"{setting.place}: {setting.option}: {message}") from None
