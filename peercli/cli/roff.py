"""Roff's mdoc, as far as the manual needs it."""

from __future__ import annotations

import re
import textwrap

__all__ = ["head", "literal", "prose"]

DATE = "November 23, 2026"


def head(name: str, section: int, what: str) -> str:
    """The beginning of a page, up to its name and what it is about."""
    return (
        f'.\\" Made by python -m tests.generated. Do not edit: see man/parts.\n'
        f".Dd {DATE}\n.Dt {name.upper()} {section}\n.Os\n.Sh NAME\n.Nm {name}\n.Nd {prose(what)}\n"
    )


def prose(text: str) -> str:
    """Prose in roff: a sentence a line, and nothing at the start of one that is taken for a command."""
    sentences = re.split(r"(?<=[.:;!?)]) +(?=[A-Z0-9~-])", text.replace("`", ""))
    lines = [line for sentence in sentences for line in _wrap(sentence)]
    return "\n".join(map(literal, lines))


def _wrap(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, 78, break_long_words=False, break_on_hyphens=False)


def literal(line: str) -> str:
    """A line that roff shows as it is."""
    line = re.sub(r"(?<![\w-])--(?=\w)", r"\\-\\-", line.replace("\\", "\\e"))
    return re.sub(r"^([.'])", r"\\&\1", line)
