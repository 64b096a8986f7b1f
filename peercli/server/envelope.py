"""The outside of a message between peers: who it is for, and what is inside, unopened.

The broker reads `type` and `dst`, writes `src`, and passes the payload on as the very text that came:
numbers keep their spelling, and nothing is serialized twice.
"""

from __future__ import annotations

import json
import re
from json.encoder import encode_basestring_ascii as _quote
from typing import NamedTuple, NoReturn

import orjson

__all__ = ["MAX_FIELDS", "Envelope", "open_envelope", "seal"]

MAX_FIELDS = 32  # PeerJS sends three; each costs a turn of a Python loop


class Envelope(NamedTuple):
    """A message as its sender wrote it. `dst` is empty when it is for the broker; `payload` is JSON text."""

    type: str
    dst: str
    payload: bytes | None


def open_envelope(data: bytes) -> Envelope | None:
    """Read a client's message; None for what is no JSON object or has no usable `type` and `dst`.

    Of a field given twice the last counts, as in JavaScript. Fields that PeerServer does not relay are
    dropped.
    """
    if (usual := _usual(data)) is not None:
        kind, payload, dst = usual.groups()
        try:
            orjson.loads(payload)
        except orjson.JSONDecodeError:
            pass  # there are fields in what looked like the payload, or it is strange, or wrong
        else:
            return Envelope(kind.decode(), dst.decode(), payload)
    try:
        fields = _read_object(data.decode(errors="replace"))
    except (ValueError, IndexError, RecursionError):
        return None
    kind, _ = fields.get("type", (None, ""))
    dst, _ = fields.get("dst", (None, ""))
    if not isinstance(kind, str) or not isinstance(dst, str | None):
        return None
    source = fields["payload"][1].encode() if "payload" in fields else None
    return Envelope(kind, dst or "", source)


def seal(kind: str, *, src: str = "", dst: str = "", payload: bytes | None = None) -> bytes:
    """The UTF-8 JSON text of a message, in PeerServer's order of fields; empty ones are left out."""
    head = f'{{"type":{_quote(kind)}'
    if src:
        head += f',"src":{_quote(src)}'
    if dst:
        head += f',"dst":{_quote(dst)}'
    if payload is None:
        return f"{head}}}".encode()
    return b'%b,"payload":%b}' % (head.encode(), payload)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers are only walked over: as floats they cost no more than their digits.
_decode = json.JSONDecoder(parse_int=float, parse_constant=_refuse_constant).raw_decode
# What PeerJS writes, and nearly all that comes. If what stands between is one JSON value, this is the whole
# object; so it is read by one pass in C.
_usual = re.compile(
    rb'\{"type":"([A-Z-]{1,16})","payload":(.+),"dst":"([A-Za-z0-9 _-]{1,256})"\}', re.DOTALL
).fullmatch
_space = re.compile(r"[ \t\n\r]*").match
_WANTED = frozenset({"type", "dst", "payload"})


def _skip(text: str, at: int) -> int:
    if text[at : at + 1] > " ":  # as always from JavaScript, and cheaper to see than to match
        return at
    found = _space(text, at)
    assert found is not None  # the pattern matches nothing, too
    return found.end()


def _read_object(text: str) -> dict[str, tuple[object, str]]:
    """The wanted fields of a JSON object: their values and their source text.

    Raises:
        ValueError, IndexError: not one JSON object, or more than MAX_FIELDS fields.
        RecursionError: nested too deeply.
    """
    fields: dict[str, tuple[object, str]] = {}
    at = _skip(text, 0)
    if text[at] != "{":
        raise ValueError("no object")
    at = _skip(text, at + 1)
    if text[at] == "}":
        return fields
    for _ in range(MAX_FIELDS):
        if text[at] != '"':
            raise ValueError("no field name")
        name, at = _decode(text, at)
        at = _skip(text, at)
        if text[at] != ":":
            raise ValueError("no colon")
        start = _skip(text, at + 1)
        value, end = _decode(text, start)
        if name in _WANTED:
            fields[name] = value, text[start:end]
        at = _skip(text, end)
        if text[at] == "}":
            if _skip(text, at + 1) != len(text):
                raise ValueError("text after the object")
            return fields
        if text[at] != ",":
            raise ValueError("no comma")
        at = _skip(text, at + 1)
    raise ValueError("too many fields")
