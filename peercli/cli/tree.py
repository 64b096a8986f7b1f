"""The command tree as plain data, for what is made from it: help, completions and manual pages."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args

import typer.main

__all__ = ["Argument", "Node", "Option", "node_of", "tree"]

_KINDS = {
    "ID": "ids",
    "CODE": "ids",
    "DIR": "folders",
    "FILE": "files",
    "OUT": "files",
    "SRC": "files",
}
_ARGUMENT_KINDS = _KINDS | {"PATH": "files"}


@dataclass(frozen=True, slots=True)
class Option:
    """An option.

    Attributes:
        names: long and short, with their dashes; the long one first.
        metavar: what its value is called; empty for a flag.
        values: all that it takes, if it can be told.
        default: as help shows it; empty where there is none.
    """

    names: tuple[str, ...]
    metavar: str
    help: str
    values: tuple[str, ...]
    repeats: bool
    panel: str
    default: str
    environment: str

    @property
    def kind(self) -> str:
        """What its value is, for completion: ids, profiles, files, folders, or nothing known."""
        return "profiles" if "--profile" in self.names else _KINDS.get(self.metavar, "")

    @property
    def explained(self) -> str:
        """Its help, with the values that it takes if the help does not name them."""
        told = not self.values or self.values[0] in self.help
        return self.help if told else f"One of {', '.join(self.values)}. {self.help}"


@dataclass(frozen=True, slots=True)
class Argument:
    """A positional argument."""

    metavar: str
    help: str
    required: bool
    repeats: bool

    @property
    def kind(self) -> str:
        """As an option's."""
        return _ARGUMENT_KINDS.get(self.metavar, "")

    @property
    def usage(self) -> str:
        """`ID`, `[ID]`, `PATH...` or `[PATH...]`."""
        word = self.metavar + "..." * self.repeats
        return word if self.required else f"[{word}]"


@dataclass(frozen=True, slots=True)
class Node:
    """A command, or a group of them.

    Attributes:
        path: its words, without the program's own name; none for the program itself.
        help: its paragraphs.
        example: a command line, or nothing.
    """

    path: tuple[str, ...]
    help: tuple[str, ...]
    example: str
    arguments: tuple[Argument, ...]
    options: tuple[Option, ...]
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def summary(self) -> str:
        """Its first sentence, without the full stop."""
        return self.help[0].split(". ")[0].rstrip(".") if self.help else ""

    def walk(self) -> Iterator[Node]:
        """This one, and all below it."""
        yield self
        for node in self.nodes:
            yield from node.walk()


def tree() -> Node:
    """The whole tree, without what is hidden."""
    from peercli.cli.app import app

    return node_of(typer.main.get_command(app), ())


def node_of(command: Any, path: tuple[str, ...]) -> Node:
    """A command of typer's, which stands at `path`, and what is below it."""
    hints = _annotations(command.callback)
    shown = [each for each in command.params if not getattr(each, "hidden", False)]
    nodes = [each for each in getattr(command, "commands", {}).values() if not each.hidden]
    return Node(
        path,
        tuple(" ".join(text.split()) for text in (command.help or "").split("\n\n")),
        (command.epilog or "").removeprefix("Example: "),
        tuple(_argument(each) for each in shown if each.param_type_name == "argument"),
        (
            *(_option(each, hints.get(each.name)) for each in shown if each.param_type_name == "option"),
            Option(("--help", "-h"), "", "Show this message and exit.", (), False, "", "", ""),
        ),
        tuple(node_of(each, (*path, each.name)) for each in nodes),
    )


def _argument(parameter: Any) -> Argument:
    # A metavar with marks of its own knows better: what is an ID is told by what follows it.
    metavar = parameter.metavar or parameter.name.upper()
    bare = metavar.strip("[].")
    required = not metavar.startswith("[") if metavar != bare else parameter.required
    return Argument(bare, parameter.help or "", required, parameter.nargs != 1)


def _annotations(function: Any) -> dict[str, Any]:
    if function is None:
        return {}
    parameters = inspect.signature(function, eval_str=True).parameters
    return {name: parameter.annotation for name, parameter in parameters.items()}


def _option(parameter: Any, annotation: Any) -> Option:
    names = tuple(sorted(parameter.opts, key=lambda name: not name.startswith("--")))
    is_flag = parameter.is_flag or parameter.count
    default = "" if is_flag or not parameter.show_default else _text(parameter.default)
    metavar = "" if is_flag else parameter.metavar or names[0].lstrip("-").upper()
    return Option(
        names,
        metavar,
        parameter.help or "",
        tuple(each.value for each in _enum(annotation)),
        bool(parameter.multiple),
        parameter.rich_help_panel or "",
        default,
        parameter.envvar if isinstance(parameter.envvar, str) else "",
    )


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return "" if value is None or callable(value) else str(getattr(value, "value", value))


def _enum(annotation: Any) -> Any:
    """The enumeration in an annotation such as `Annotated[Kind | None, …]`, or nothing."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, Enum) else ()
    return next(filter(None, map(_enum, get_args(annotation))), ())
