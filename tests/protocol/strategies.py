"""Messages for hypothesis, and what becomes of them on their way."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from peercli.protocol.values import UNDEFINED

SAFE = 2**53 - 1
"""The largest whole number that JavaScript tells from its neighbours."""

edges = [0, -1, -0x20, -0x21, 0x7F, 0x80, -0x80, -0x81, 0xFF, 0x100, 0x7FFF, -0x8000, -0x8001, 0xFFFF]
edges += [0x10000, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, SAFE]
big_edges = [-(2**63), -(2**31) - 1, 2**63, 2**64 - 1]

# One alphabet of both kinds would hold one surrogate in five hundred characters, and a text next to none.
_surrogates = st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3)
any_text = st.lists(st.text() | _surrogates, max_size=6).map("".join)
"""Text, with the lone surrogates that a Python str can hold."""


def joined(text: str) -> str:
    """`text` as JavaScript has it, where a pair of surrogates is one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


emoji = st.text(st.sampled_from("😀👩‍🚀🇺🇳é漢\u0000\ufeff\u2028"))
long_values = st.sampled_from(["x" * 0x10000, "漢" * 30_000, "😀" * 20_000, bytes(range(256)) * 300])

RESERVED = ("__peerData", "__proto__", "constructor", "hasOwnProperty", "BYTES_PER_ELEMENT", "$bytes")
"""Keys that mean something to PeerJS, JavaScript, its packer, or programs that read our JSON."""

# JavaScript puts keys that look like array indexes first.
keys = st.text().filter(lambda key: not key.isdecimal() and key not in RESERVED)

any_int = st.integers(-(2**63), 2**64 - 1) | st.sampled_from(edges + big_edges)
# Below -2^31 the JavaScript unpacker rounds to multiples of 2048.
safe_int = st.integers(-(2**31), SAFE) | st.sampled_from(edges)
any_float = st.floats(allow_nan=False, allow_infinity=False)
# Never whole, and far enough from powers of two that the JavaScript packer gets the last bits right.
plain_float = st.integers(-(2**40), 2**40).map(lambda n: (2 * n + 1) / 1024)


def trees(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists and maps of `leaves`."""
    return st.recursive(
        leaves,
        lambda child: st.lists(child, max_size=20) | st.dictionaries(keys, child, max_size=20),
        max_leaves=30,
    )


constants = st.sampled_from([None, UNDEFINED, True, False])
texts = st.text() | emoji
messages = trees(constants | any_int | any_float | texts | st.binary()) | long_values
"""All that BinaryPack and MsgPack carry."""

js_messages = trees(constants | safe_int | plain_float | texts | st.binary()) | long_values
"""All that JavaScript packs and unpacks without loss."""

json_messages = trees(constants | safe_int | plain_float | texts)


def without_undefined(value: Any) -> Any:
    """`value` after a journey: undefined goes out as null."""
    if value is UNDEFINED:
        return None
    if isinstance(value, list):
        return [without_undefined(item) for item in value]
    if isinstance(value, dict):
        return {key: without_undefined(item) for key, item in value.items()}
    return value
