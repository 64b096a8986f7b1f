"""Codes to be spoken: `417-bagpipe-zucchini` is a meeting place and a secret in one.

Its number gives the id at which one side waits; the whole is the secret that both prove to know, once.
Whoever guesses has one try; of two words, one guess in 1,677,025 is right.
"""

from __future__ import annotations

import difflib
import re
import secrets
from functools import cache
from importlib.resources import files

from peercli.errors import UsageError

__all__ = ["WORDS", "complete", "is_code", "make_code", "meeting_id", "parse_code", "spoken", "words"]

WORDS = 2  # of a code, unless told otherwise
MIN_WORDS, MAX_WORDS = 2, 16  # with one, ids would look like codes
_SHAPE = re.compile(r"([0-9]{1,9})((?:-[a-z]+){2,})")


@cache
def words() -> tuple[str, ...]:
    """The words of codes, in order; no two begin with the same three letters."""
    text = files("peercli.protocol").joinpath("words.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def make_code(length: int = WORDS, *, most: int = 999) -> str:
    """A fresh code of `length` words, whose number is at most `most`.

    Raises:
        UsageError: codes have 2 to 16 words.
    """
    if not MIN_WORDS <= length <= MAX_WORDS:
        raise UsageError(f"a code has {MIN_WORDS} to {MAX_WORDS} words")
    number = 1 + secrets.randbelow(most)
    return "-".join([str(number), *(secrets.choice(words()) for _ in range(length))])


def is_code(text: str) -> bool:
    """Whether `text` is a code, and so not an id or a path: a number and words of the list."""
    try:
        parse_code(text)
    except UsageError:
        return False
    return True


def parse_code(text: str) -> str:
    """The code that somebody typed, perhaps in capitals or with spaces between.

    Raises:
        UsageError: it is none; says which word is wrong.
    """
    code = "-".join(text.lower().split())
    match = _SHAPE.fullmatch(code)
    if match is None:
        raise UsageError(f"{text[:80]!r} is no code", hint="codes are like 417-bagpipe-zucchini")
    for word in match[2][1:].split("-"):
        if word not in words():
            close = difflib.get_close_matches(word, words(), 1)
            raise UsageError(
                f"{word[:80]!r} is no word of a code", hint=f"is it {close[0]}?" if close else "compare it"
            )
    return code


def meeting_id(code: str) -> str:
    """The id at which the side waits that made `code`."""
    return f"peercli-code-{code.partition('-')[0]}"


def complete(typed: str) -> list[str]:
    """What `typed` can become, by the word that is being typed; nothing before the first dash."""
    before, dash, word = typed.rpartition("-")
    if not dash or not before[:1].isdigit():
        return []
    return [f"{before}-{each}" for each in words() if each.startswith(word)]


def spoken(secret: bytes, count: int = 4) -> str:
    """`count` words that stand for `secret`, for two people to compare."""
    number = int.from_bytes(secret, "big")
    chosen = []
    for _ in range(count):
        number, index = divmod(number, len(words()))
        chosen.append(words()[index])
    return " ".join(chosen)
