"""The outside of a message between peers: who it is for, and what is inside, unopened.

The broker reads `type` and `dst`, writes `src`, and passes the payload on as the very text that came:
numbers keep their spelling, and nothing is serialized twice. Only half a character, which is no Unicode, is
replaced by the sign for that (U+FFFD); PeerServer passes it on.
"""

from __future__ import annotations

import re
from json.encoder import encode_basestring_ascii as _quote

import msgspec

__all__ = ["NO_PAYLOAD", "Envelope", "open_envelope", "seal"]

NO_PAYLOAD = msgspec.Raw()


class Envelope(msgspec.Struct, gc=False):
    """A message as its sender wrote it. Without `dst` it is for the broker; `payload` is JSON text."""

    type: str
    dst: str | None = None
    payload: msgspec.Raw = NO_PAYLOAD


_decode = msgspec.json.Decoder(Envelope).decode
# Half of a surrogate pair: a string that JavaScript has cut in the middle of a character.
_half = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)


def open_envelope(data: bytes) -> Envelope | None:
    """Read a client's message; None for what is no JSON object, nests too deeply, or has no usable fields.

    The payload is checked to be JSON without any of it being kept. Of a field given twice the last counts, as
    in JavaScript. Fields that PeerServer does not relay are dropped.
    """
    if not data.isascii():
        data = data.decode(errors="replace").encode()
    try:
        try:
            return _decode(data)
        except msgspec.DecodeError:
            return _decode(_half.sub(rb"\\ufffd", data))
    except (msgspec.DecodeError, RecursionError):
        return None


def seal(kind: str, *, src: str = "", dst: str = "", payload: bytes | msgspec.Raw = NO_PAYLOAD) -> bytes:
    """The UTF-8 JSON text of a message, in PeerServer's order of fields; empty ones are left out."""
    head = f'{{"type":{_quote(kind)}'
    if src:
        head += f',"src":{_quote(src)}'
    if dst:
        head += f',"dst":{_quote(dst)}'
    if payload is NO_PAYLOAD:
        return f"{head}}}".encode()
    return b'%b,"payload":%b}' % (head.encode(), payload)
