"""Messages as JSON text, for programs to read and write: bytes are `{"$bytes": "<base64>"}`, both ways."""

from __future__ import annotations

import base64
import json
import math
from datetime import datetime
from typing import Any

__all__ = ["from_json", "to_json"]


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
    try:
        return json.loads(text, object_hook=_bytes, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _bytes(value: dict[str, Any]) -> Any:
    match value:
        case {"$bytes": str(encoded)} if len(value) == 1:
            return base64.b64decode(encoded, validate=True)
        case _:
            return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
