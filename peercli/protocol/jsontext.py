"""JSON as it is read everywhere, and messages as JSON text for programs to read and write.

There, bytes are `{"$bytes": "<base64>"}`, both ways.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

__all__ = ["from_json", "parse", "to_json"]


def parse(text: str | bytes, *, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of a JSON text (RFC 8259), which has no NaN; of equal keys in an object the last wins.

    Raises:
        ValueError: it is no JSON, or it is nested too deep to be read.
    """
    try:
        return json.loads(text, object_hook=object_hook, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def to_json(value: Any) -> str:
    """JSON on one line. What JSON has not becomes what JavaScript makes of it.

    NaN, infinities and `UNDEFINED` become null, a datetime its ISO 8601 text.
    """
    try:
        return _dump(value)
    except ValueError:  # a float that is no number
        return _dump(_finite(value))


def _dump(value: Any) -> str:
    return json.dumps(value, default=_plain, separators=(", ", ": "), ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    match value:
        case bytes() | bytearray() | memoryview():
            return {"$bytes": base64.b64encode(value).decode()}
        case datetime():
            return value.isoformat()
        case _ if not value:  # UNDEFINED
            return None
        case _:
            return str(value)


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case list() | tuple():
            return [_finite(item) for item in value]
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case _:
            return value


def from_json(text: str) -> Any:
    """The value of JSON with `{"$bytes": …}` in it.

    Raises:
        ValueError: it is no JSON, or its bytes are no base64.
    """
    return parse(text, object_hook=_bytes)


def _bytes(value: dict[str, Any]) -> Any:
    match value:
        case {"$bytes": str(encoded)} if len(value) == 1:
            return base64.b64decode(encoded, validate=True)
        case _:
            return value
