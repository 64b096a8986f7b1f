"""The page about the library, made from the docstrings of its public names."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import peercli
from peercli import errors
from peercli.cli.roff import head, literal, prose

__all__ = ["described", "library", "members"]

_FIRST = ("Peer", "DataConnection", "MediaConnection", "MediaStream")
_EVENTS = {"on", "once", "emit", "listeners", "remove_listener"}  # told of once, under Peer
_OF_SERVER = {"url", "port", "peers", "serve_until", "reload"}  # the others are for the broker's own parts
_WRAPPER = textwrap.TextWrapper(
    76, subsequent_indent="    ", replace_whitespace=False, break_on_hyphens=False
)
_SECTION = re.compile(r"(Args|Attributes|Raises)[^:]*:")


def described() -> list[str]:
    """The public names that the page describes, in its order."""
    rest = [name for name in peercli.__all__ if name not in (*_FIRST, "PeerError", "__version__")]
    return [*_FIRST, *rest, "PeerError"]


def library() -> str:
    """The page, but for what is written by hand."""
    chapters = "".join(f".Ss {name}\n{_chapter(name, getattr(peercli, name))}" for name in described())
    return (
        head("peercli-library", 3, "peers, connections and brokers for asyncio programs")
        + ".Sh SYNOPSIS\n"
        + _code(f"from peercli import {', '.join(described())}")
        + f".Sh DESCRIPTION\n{chapters}.Ss Errors\n{_errors()}"
    )


def members(name: str, kind: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, as far as the page tells of them."""
    for member, value in inspect.getmembers(kind):
        told = inspect.isfunction(value) or isinstance(value, property)
        hidden = (member in _EVENTS and name != "Peer") or (name == "Server" and member not in _OF_SERVER)
        if told and not hidden and not member.startswith("_"):
            yield member, value


def _chapter(name: str, value: Any) -> str:
    if not inspect.isclass(value):
        return _docstring(inspect.getdoc(type(value)) or "")
    made = _code(f"{name}{_signature(inspect.signature(value), 'self')}") if _takes_arguments(value) else ""
    made += _docstring(inspect.getdoc(value) or "")
    items = "".join(_member(member, each) for member, each in members(name, value))
    return made + (f".Bl -tag -width Ds\n{items}.El\n" if items else "")


def _takes_arguments(kind: type) -> bool:
    return is_dataclass(kind) or "__init__" in vars(kind)


def _member(name: str, value: Any) -> str:
    if isinstance(value, property):
        kept = inspect.signature(value.fget).return_annotation if value.fget else ""
        line = f"{name}: {kept}"
    else:
        word = "await " if inspect.iscoroutinefunction(value) else ""
        line = f"{word}{name}{_signature(inspect.signature(value))}"
    return f".It Xo\n.Li {_quoted(line)}\n.Xc\n{_docstring(inspect.getdoc(value) or '')}"


def _signature(signature: inspect.Signature, *left_out: str) -> str:
    """As Python shows it, with annotations as they are written: `(id: str | None = None) -> None`."""
    shown, bare = [], False
    for parameter in list(signature.parameters.values()):
        if parameter.name in ("self", *left_out):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not bare:
            shown.append("*")
            bare = True
        kind = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
        default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
        stars = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        bare = bare or bool(stars)
        shown.append(f"{stars}{parameter.name}{kind}{default}")
    result = signature.return_annotation
    return f"({', '.join(shown)})" + ("" if result in (signature.empty, None, "None") else f" -> {result}")


def _default(value: Any) -> str:
    return "..." if repr(value).startswith("<") else repr(value)


def _errors() -> str:
    names = [name for name in errors.__all__ if name != "PeerError"]
    items = "".join(_error(getattr(errors, name)) for name in names)
    return f"In\n.Li peercli.errors ,\nwith their types.\n.Bl -tag -width Ds\n{items}.El\n"


def _error(kind: Any) -> str:
    base = kind.__mro__[1].__name__
    return f".It Li {kind.__name__} ({base}, {kind.type})\n{_docstring(inspect.getdoc(kind) or '')}"


def _docstring(text: str) -> str:
    """Paragraphs, code, and lists of arguments, attributes and errors."""
    made = ""
    for block in text.split("\n\n"):
        lines = block.split("\n")
        if _SECTION.fullmatch(lines[0]):
            made += f".Pp\n{prose(lines[0])}\n.Bl -tag -width Ds -compact\n{_entries(lines[1:])}.El\n"
        elif lines[0].startswith("    "):
            made += _code(textwrap.dedent(block))
        else:
            made += f".Pp\n{prose(' '.join(lines))}\n"
    return made.removeprefix(".Pp\n")


def _entries(lines: list[str]) -> str:
    entries = re.split(r"\n(?! )", textwrap.dedent("\n".join(lines)))
    pairs = (entry.partition(": ") for entry in entries)
    return "".join(f".It Li {_quoted(name)}\n{prose(' '.join(text.split()))}\n" for name, _, text in pairs)


def _code(text: str) -> str:
    lines = [piece for line in text.split("\n") for piece in _WRAPPER.wrap(line) or [""]]
    return ".Bd -literal -offset indent\n" + "\n".join(map(literal, lines)) + "\n.Ed\n"


def _quoted(text: str) -> str:
    """An argument of a macro, taken as it is."""
    escaped = literal(text).replace('"', '""')
    return f'"{escaped}"'
