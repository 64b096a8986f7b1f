"""What every command of the tree has in common: its help, and defaults from the configuration file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

from peercli.cli.exits import Exit
from peercli.errors import UsageError
from peercli.options import did_you_mean

if TYPE_CHECKING:
    from peercli.config import Config, Setting

__all__ = ["Command", "Configured", "Group", "as_given", "read_config"]

NOT_CONFIGURABLE = {"config", "profile", "help", "version"}
NAMES = {"peer_id", "allow"}  # parameters that take ids of peers, and so the names of contacts


class _Explained:
    """Help of our own making."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from peercli.cli.help import shown
        from peercli.cli.tree import node_of

        formatter.write(shown(node_of(self, tuple(ctx.command_path.split()[1:]))))


class Group(_Explained, TyperGroup):
    """A command that has commands."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            typer.echo(self.get_help(ctx), err=True)
            raise typer.Exit(Exit.USAGE)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not args[0].startswith("-"):
            shown = [name for name, command in self.commands.items() if not command.hidden]
            raise UsageError(
                f"there is no command {args[0]!r}",
                hint=did_you_mean(args[0], shown) or f"{ctx.command_path} --help tells what there is",
            )
        return super().resolve_command(ctx, args)


class Command(_Explained, TyperCommand):
    """A command."""


class Configured(Command):
    """A command with defaults from the configuration file, whose contacts stand for ids of peers."""

    @property
    def settable(self) -> dict[str, Any]:
        """What the file can set: the parameters, by the long name of their option without its dashes."""
        return {
            name: parameter
            for parameter in self.params
            for name in _long(parameter)
            if name not in NOT_CONFIGURABLE
        }

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = self.make_parser(ctx).parse_args(args=list(args))[0]
        if ctx.resilient_parsing or given.get("help"):
            return super().parse_args(ctx, args)
        config = read_config(ctx.parent.command, given.get("config"))
        settings = config.for_command(str(ctx.info_name), given.get("profile") or _environment("PROFILE"))
        known = self.settable
        ctx.default_map = {
            known[name].name: as_given(known[name], setting.value)
            for name, setting in settings.items()
            if name in known
        }
        try:
            rest = super().parse_args(ctx, args)
        except Exception as error:
            if refused := _refused(error, ctx, settings):
                raise refused from None
            raise
        contacts = _without_keys(config.contacts) if config.contacts else {}
        for name in NAMES & ctx.params.keys():
            ctx.params[name] = _resolve(ctx.params[name], contacts)
        return rest


def _long(parameter: Any) -> list[str]:
    """The long names of an option, without dashes; none of an argument."""
    return [name[2:] for name in parameter.opts if name.startswith("--")]


class _Settable(Mapping[str, set[str]]):
    """By command, the options that a configuration file can set; each is looked at when it is asked for."""

    def __init__(self, commands: Mapping[str, Any]) -> None:
        self._commands = commands

    def __iter__(self) -> Iterator[str]:
        return (name for name, command in self._commands.items() if isinstance(command, Configured))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> set[str]:
        command = self._commands[name]
        if not isinstance(command, Configured):
            raise KeyError(name)
        return set(command.settable)


def read_config(group: Any, path: str | None) -> Config:
    """The file that `--config`, `PEERCLI_CONFIG` or the platform names; only the last one may be missing.

    Raises:
        UsageError: it cannot be used; says in which line.
    """
    from peercli.config import config_path, read  # for those who come so far

    return read(config_path(path), _Settable(group.commands), required=bool(path or _environment("CONFIG")))


def _environment(name: str) -> str:
    return os.environ.get(f"PEERCLI_{name}", "")


def as_given(parameter: Any, value: Any) -> Any:
    """A value of the file as an option takes it: a list where it can be repeated, `~` for the home."""
    given = [
        os.path.expanduser(each) if isinstance(each, str) and each.startswith("~/") else each
        for each in (value if isinstance(value, list) else [value])
    ]
    if parameter.multiple:
        return given
    return ",".join(map(str, given)) if isinstance(value, list) else given[0]


def _refused(error: Exception, ctx: Any, settings: dict[str, Setting]) -> UsageError | None:
    """What a value of the file is refused for, with its place; None if it is not the file's."""
    parameter = getattr(error, "param", None)
    source = ctx.get_parameter_source(parameter.name) if parameter is not None else None
    if parameter is None or source is None or source.name != "DEFAULT_MAP":
        return None
    place = next(settings[name].place for name in _long(parameter) if name in settings)
    message = getattr(error, "message", str(error)).rstrip(".")
    return UsageError(f"{place}: {_long(parameter)[0]}: {message}")


def _without_keys(contacts: Any) -> dict[str, str]:
    """The contacts that are mere ids: one whose key is remembered is not to be found by less."""
    from peercli.services.keyring import Keyring

    remembered = Keyring().known()
    return {name: id for name, id in contacts.items() if name not in remembered}


def _resolve(value: Any, contacts: Any) -> Any:
    if isinstance(value, list):
        return [_resolve(each, contacts) for each in value]
    name, colon, rest = value.partition(":") if isinstance(value, str) else (value, "", "")
    return f"{contacts[name]}{colon}{rest}" if name in contacts else value
