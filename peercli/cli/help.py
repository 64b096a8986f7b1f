"""What `--help` shows of a command: plain text, the same in a terminal and a pipe but for bold headings."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator

from peercli.cli.tree import Node, Option

__all__ = ["help_text", "shown"]

MAX_WIDTH = 100  # columns; longer lines are hard to read
MIN_WIDTH = 40
LEFT = 26  # columns of a name and its value; what is longer has its text below


def shown(node: Node) -> str:
    """The help of a command, for the terminal or whatever reads stdout."""
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return help_text(node, width=shutil.get_terminal_size().columns, bold=bold)


def help_text(node: Node, *, width: int, bold: bool = False) -> str:
    """The help of a command.

    Args:
        width: columns of a line, within reason; an example is not broken.
        bold: headings by the terminal's bold.
    """
    width = min(max(width, MIN_WIDTH), MAX_WIDTH)
    usage = " ".join(
        ["peercli", *node.path, "[OPTIONS]", *(each.usage for each in node.arguments)]
        + ["COMMAND ..."] * bool(node.nodes)
    )
    lines = [_heading("Usage:", bold) + f" {usage}", ""]
    for paragraph in node.help:
        lines += [*textwrap.wrap(paragraph, width), ""]
    for title, entries in _sections(node):
        lines += [_heading(f"{title}:", bold), *_entries(entries, width), ""]
    lines += [_heading("Example:", bold), f"  {node.example}"]
    return "\n".join(lines)


def _sections(node: Node) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    if node.arguments:
        yield "Arguments", [(each.metavar, each.help) for each in node.arguments]
    if node.nodes:
        yield "Commands", [(each.name, f"{each.summary}.") for each in node.nodes]
    for panel in sorted({option.panel: None for option in node.options}, key=bool):  # what has none is first
        yield panel or "Options", [_option(each) for each in node.options if each.panel == panel]


def _option(option: Option) -> tuple[str, str]:
    *short, long = reversed(option.names)
    names = f"{', '.join([*short, ''])}{long}" if short else f"    {long}"
    notes = [f"[default: {option.default}]"] * bool(option.default)
    notes += [f"[env: {option.environment}]"] * bool(option.environment)
    return f"{names} {option.metavar}".rstrip(), " ".join([option.explained, *notes])


def _entries(entries: list[tuple[str, str]], width: int) -> Iterator[str]:
    column = 4 + min(LEFT, max(len(left) for left, _ in entries))
    for left, text in entries:
        right = textwrap.wrap(text, width - column, break_on_hyphens=False)
        if len(left) + 4 > column:
            yield f"  {left}"
        else:
            yield f"  {left}".ljust(column) + right.pop(0)
        yield from (" " * column + line for line in right)


def _heading(text: str, bold: bool) -> str:
    return f"\x1b[1m{text}\x1b[0m" if bold else text
