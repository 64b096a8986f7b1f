"""What a message may be made of, whatever its serialization: the limits, `undefined`, dates, text.

A message is None, a bool, an int, a float, a str, bytes, or a list or a dict (keys: str) of messages.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import Enum
from typing import Any, Final

from peercli.errors import UsageError

__all__ = [
    "MAX_DEPTH",
    "MAX_MESSAGE_BYTES",
    "MAX_VALUES",
    "UNDEFINED",
    "Undefined",
    "check_shape",
    "in_utc",
    "shape_fault",
    "well_formed",
]

MAX_DEPTH = 100
"""Lists and maps inside one another; @msgpack/msgpack refuses to send more than this."""

MAX_VALUES = 1 << 20
"""Items of all lists, keys and values of all maps of a message: one byte on the wire costs up to 72 here."""

MAX_MESSAGE_BYTES = 64 << 20
"""Packed bytes of one message."""


class Undefined(Enum):
    """The type of `UNDEFINED`."""

    UNDEFINED = "undefined"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "UNDEFINED"

    __str__ = __repr__


UNDEFINED: Final = Undefined.UNDEFINED
"""JavaScript's `undefined`. It can be received; sent, it becomes null, as PeerJS has it."""

_CONTAINERS = (list, tuple, dict)


def shape_fault(value: object) -> str:
    """Why the lists and maps of `value` break the limits of a message, or "" when they do not."""
    containers = [value] if isinstance(value, _CONTAINERS) else []
    count = 0
    for _ in range(MAX_DEPTH):
        if not containers:
            return ""
        children: list[object] = []
        for container in containers:
            keyed = isinstance(container, dict)
            # Counted before it is walked: a list that holds itself twice doubles at every level.
            count += 2 * len(container) if keyed else len(container)
            if count > MAX_VALUES:
                return f"it has more than {MAX_VALUES} values"
            if isinstance(container, dict):
                if not all(isinstance(key, str) for key in container):
                    return "a map has a key that is not a string"
                children.extend(container.values())
            else:
                children.extend(container)
        containers = [child for child in children if isinstance(child, _CONTAINERS)]
    return f"it is nested more than {MAX_DEPTH} deep" if containers else ""


def check_shape(value: Any) -> None:
    """Refuse what no peer would take back.

    Raises:
        UsageError: a map key is not a string, or there are too many levels or values.
    """
    if fault := shape_fault(value):
        raise UsageError(f"this value cannot be sent: {fault}")


def in_utc(value: datetime) -> datetime:
    """The same moment in UTC.

    Raises:
        UsageError: `value` has no time zone, so it names no moment.
    """
    if value.utcoffset() is None:
        raise UsageError("a datetime without a time zone cannot be sent", hint="use datetime.now(UTC)")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise UsageError("this datetime lies outside the years 1 to 9999 in UTC") from None


def well_formed(text: str) -> str:
    """`text` as JavaScript's TextEncoder sees it: surrogate pairs joined, lone surrogates as U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
