"""The configuration file: defaults for options, profiles of them, and contacts; TOML, checked when read.

server = "https://peers.example.org/"     # a default, for every command that has --server

[listen]                                  # and for one command only
save-dir = "~/Drop"

[allow]                                   # who may do what, for every command that has --allow
laptop = ["file", "message"]

[profiles.work]                           # what --profile work puts before that, in the same shape
server = "https://peers.work.example/"

[contacts]                                # names that stand for ids
laptop = "my-laptop-7"
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peercli.errors import InvalidID, UsageError
from peercli.options import check_id, did_you_mean

__all__ = ["Config", "Setting", "config_path", "default_path", "read"]

MAX_BYTES = 1 << 20  # of a configuration file
RULES = "allow"  # the option that may be a table, too: of names, and lists of what these may do
_TABLES = {"profiles", "contacts"}


def default_path() -> Path:
    """Where the file is unless `--config` says otherwise: the platform's place for it."""
    from peercli.folders import folder_for  # only commands that read it pay for it

    return folder_for("config") / "config.toml"


def config_path(named: str | None = None) -> Path:
    """Where the file is: as `named` by `--config`, by `PEERCLI_CONFIG`, or in the platform's place."""
    chosen = named or os.environ.get("PEERCLI_CONFIG")
    return Path(chosen) if chosen else default_path()


@dataclass(frozen=True, slots=True)
class Setting:
    """A value, and where in the file it stands."""

    option: str  # its long name, without the dashes
    value: Any
    path: Path
    line: int

    @property
    def place(self) -> str:
        """`file:line`, as compilers say it."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration file that was read.

    Attributes:
        settings: by profile ("" without one), then by command ("" for all of them), then by option.
        contacts: names, and the ids they stand for.
    """

    path: Path
    settings: Mapping[str, Mapping[str, Mapping[str, Setting]]] = field(default_factory=dict)
    contacts: Mapping[str, str] = field(default_factory=dict)

    def for_command(self, command: str, profile: str = "") -> dict[str, Setting]:
        """What holds for a command: the profile's own words come before the rest, the command's before all's.

        Raises:
            UsageError: there is no such profile.
        """
        if profile and profile not in self.settings:
            known = sorted(filter(None, self.settings))
            raise UsageError(
                f"{self.path} has no profile {profile!r}",
                hint=f"it has {', '.join(known)}" if known else f"write a table [profiles.{profile}]",
            )
        merged: dict[str, Setting] = {}
        for of in dict.fromkeys(("", profile)):
            for scope in ("", command):
                merged |= self.settings.get(of, {}).get(scope, {})
        return merged


def read(path: Path, options: Mapping[str, set[str]] | None = None, *, required: bool) -> Config:
    """Read a configuration file; one that is not there is an empty one, unless it is required.

    Args:
        options: by command, the long names of the options that can be set; None checks no names.

    Raises:
        UsageError: it cannot be read, is no TOML, or sets what does not exist; says in which line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is too long for a configuration file")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise UsageError(f"there is no file {path}") from None
        return Config(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8") from None
    import tomllib  # only who has a file pays for it

    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: {_lower(str(error))}") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply") from None
    return _Reader(path, text, options).config(tree)


class _Reader:
    """Turns a parsed file into a `Config`, and names the line of whatever is wrong."""

    def __init__(self, path: Path, text: str, options: Mapping[str, set[str]] | None) -> None:
        self._path = path
        self._options = options
        self._lines = dict(_lines(text))

    def config(self, tree: dict[str, Any]) -> Config:
        contacts, profiles = self._table(tree, "contacts"), self._table(tree, "profiles")
        settings = {"": self._profile((), {k: v for k, v in tree.items() if k not in _TABLES})}
        for name in profiles:
            settings[name] = self._profile(("profiles", name), self._table(profiles, name, "profiles"))
        return Config(self._path, settings, {name: self._contact(name, id) for name, id in contacts.items()})

    def _table(self, tree: dict[str, Any], name: str, *above: str) -> dict[str, Any]:
        table = tree.get(name, {})
        if not isinstance(table, dict):
            raise self._wrong((*above, name), f"{name} is a table: write [{'.'.join((*above, name))}]")
        return table

    def _profile(self, above: tuple[str, ...], tree: dict[str, Any]) -> dict[str, dict[str, Setting]]:
        commands: dict[str, dict[str, Setting]] = {"": {}}
        for name, value in tree.items():
            if isinstance(value, dict) and name != RULES:
                if self._options is not None and name not in self._options:
                    raise self._wrong((*above, name), f"there is no command {name!r}", name, self._options)
                commands[name] = {
                    option: self._setting((*above, name, option), each, [name])
                    for option, each in value.items()
                }
            else:
                commands[""][name] = self._setting((*above, name), value, self._options or ())
        return commands

    def _setting(self, keys: tuple[str, ...], value: Any, commands: Iterable[str]) -> Setting:
        """A value of an option that one of `commands` has."""
        option, options = keys[-1], self._options
        if options is not None and not any(option in options[name] for name in commands):
            known = set().union(*(options[name] for name in commands))
            raise self._wrong(keys, f"there is no option {option!r}", option, known)
        if option == RULES and isinstance(value, dict):
            value = [self._rule((*keys, name), what) for name, what in value.items()]
        plain = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str | bool | int | float) for each in plain):
            raise self._wrong(keys, f"{option} cannot be set to this")
        return Setting(option, value, self._path, self._line(keys))

    def _rule(self, keys: tuple[str, ...], what: Any) -> str:
        """What `--allow` takes, from a name and a list of what it may do."""
        if not isinstance(what, list) or not all(isinstance(each, str) for each in what):
            raise self._wrong(keys, f'what {keys[-1]} may do is a list: {keys[-1]} = ["file"]')
        return f"{keys[-1]}:{','.join(what)}"

    def _contact(self, name: str, id: Any) -> str:
        try:
            if not isinstance(id, str):
                raise self._wrong(("contacts", name), f"the contact {name!r} needs an id, in quotes")
            return check_id(id)
        except InvalidID as error:
            raise self._wrong(("contacts", name), str(error)) from None

    def _wrong(
        self, keys: tuple[str, ...], what: str, name: str = "", known: Iterable[str] = ()
    ) -> UsageError:
        return UsageError(f"{self._path}:{self._line(keys)}: {what}", hint=did_you_mean(name, known))

    def _line(self, keys: tuple[str, ...]) -> int:
        """The line that sets `keys`, or opens the innermost of its tables that can be found."""
        while keys and keys not in self._lines:
            keys = keys[:-1]
        return self._lines.get(keys, 1)


_HEADER = re.compile(r"\s*\[(?P<keys>[^\[\]]+)\]")
_ENTRY = re.compile(r"\s*(?P<keys>[\w.\"' -]+?)\s*=")


def _lines(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Keys and the lines they stand in. tomllib does not tell; for a message this is near enough."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _keys(header["keys"])
            yield table, number
        elif entry := _ENTRY.match(line):
            yield (*table, *_keys(entry["keys"])), number


def _keys(text: str) -> tuple[str, ...]:
    return tuple(key.strip().strip("\"'") for key in text.split("."))


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
