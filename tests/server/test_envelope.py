from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.server.envelope import MAX_FIELDS, Envelope, seal
from peercli.server.envelope import open_envelope as open_bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
SPACE = st.text(" \t\r\n", max_size=2)


def open_envelope(text: str) -> Envelope | None:
    return open_bytes(text.encode(errors="replace"))


def test_reads_what_peerjs_sends() -> None:
    text = '{"type":"CANDIDATE","payload":{"candidate":{"sdpMLineIndex":0},"type":"data"},"dst":"b"}'
    payload = '{"candidate":{"sdpMLineIndex":0},"type":"data"}'
    assert open_envelope(text) == Envelope("CANDIDATE", "b", payload.encode())
    assert open_envelope('{"type":"HEARTBEAT"}') == Envelope("HEARTBEAT", "", None)


@given(st.text(), st.text(), JSON, st.dictionaries(st.text(), JSON, max_size=MAX_FIELDS - 3), st.booleans())
def test_reads_what_json_writes(kind: str, dst: str, payload: Any, more: dict[str, Any], ascii: bool) -> None:
    message = more | {"type": kind, "dst": dst, "payload": payload}
    text = json.dumps(message, ensure_ascii=ascii)
    assert open_envelope(text) == Envelope(kind, dst, json.dumps(payload, ensure_ascii=ascii).encode())


@given(SPACE, SPACE, SPACE, SPACE, SPACE)
def test_space_between_tokens(a: str, b: str, c: str, d: str, e: str) -> None:
    text = f'{a}{{{b}"type"{c}:{d}"OFFER"{e},{a}"payload":{b}[ 1 ]{c}}}{d}'
    assert open_envelope(text) == Envelope("OFFER", "", b"[ 1 ]")


@given(st.text(st.sampled_from('{}[]":,\\ntypedstaploa1e0-. \tNI\x00é'), max_size=40) | st.text())
def test_agrees_with_json(text: str) -> None:
    """What is read is exactly what the standard library takes for an object, and nothing raises."""
    try:
        value = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    except (ValueError, pytest.fail.Exception):
        value = None
    envelope = open_envelope(text)
    usable = isinstance(value, dict) and isinstance(value.get("type"), str)
    assert (envelope is not None) == (usable and isinstance(value.get("dst"), str | None))


@given(st.text(), st.text(), st.text(), JSON | st.none())
def test_seal_writes_json(kind: str, src: str, dst: str, payload: Any) -> None:
    text = seal(kind, src=src, dst=dst, payload=None if payload is None else json.dumps(payload).encode())
    named = {"src": src, "dst": dst, "payload": payload}
    expected = {"type": kind} | {name: value for name, value in named.items() if value not in ("", None)}
    if payload == "":
        expected["payload"] = ""
    assert json.loads(text) == expected
    assert list(json.loads(text)) == [name for name in ("type", "src", "dst", "payload") if name in expected]


@pytest.mark.parametrize(
    "number", ["-0.0", "1e999", "1E-400", "9" * 5000, "0.1000000000000000055511151231257827"]
)
def test_payload_keeps_its_spelling(number: str) -> None:
    envelope = open_envelope(f'{{"type":"OFFER","dst":"b","payload":{number}}}')
    assert envelope == Envelope("OFFER", "b", number.encode())


def test_last_of_repeated_fields_counts() -> None:
    text = '{"type":"LEAVE","dst":"a","type":"OFFER","dst":"b","payload":1,"payload":2}'
    assert open_envelope(text) == Envelope("OFFER", "b", b"2")


@given(JSON, st.sampled_from(["OFFER", "LEAVE", "X"]), st.from_regex(r"\A[a-z_-]{1,9}\Z"), st.booleans())
def test_the_short_way_reads_as_the_long_one(payload: Any, kind: str, dst: str, ascii: bool) -> None:
    """The order and spacing in which PeerJS writes takes another path than any other."""
    inside = json.dumps(payload, ensure_ascii=ascii, separators=(",", ":"))
    usual = f'{{"type":"{kind}","payload":{inside},"dst":"{dst}"}}'
    assert open_envelope(usual) == open_envelope(f" {usual}") == Envelope(kind, dst, inside.encode())


@pytest.mark.parametrize(
    "inside", ['1,"dst":"x","payload":2', '1,"type":"LEAVE"', '{},"more":[]', '"\\ud800"', "1e999", "9" * 400]
)
def test_what_only_looks_usual(inside: str) -> None:
    usual = f'{{"type":"OFFER","payload":{inside},"dst":"b"}}'
    assert open_envelope(usual) == open_envelope(f" {usual}")
    assert open_envelope(usual) is not None


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"OFFER","payload":' + "[" * 500_000,
        '{"type":"OFFER","payload":' + '{"a":' * 200_000 + "0" + "}" * 200_001,
        "{" + '"a":0,' * 150_000 + '"type":"OFFER"}',
        "{" + '"a":0,' * MAX_FIELDS + '"type":"OFFER"}',
        '{"type":"OFFER"}}',
        '{"type":"OFFER"} x',
        '{"type":"OFFER","payload":NaN}',
        '{"type":"OFFER","payload":-Infinity}',
        '{"type":"OFFER","payload":"\n"}',
        '{"type":"OFFER",}',
        '{type:"OFFER"}',
        '\ufeff{"type":"OFFER"}',
    ],
    ids=lambda text: text[:40],
)
def test_refuses(text: str) -> None:
    assert open_envelope(text) is None
