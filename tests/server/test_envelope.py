from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.server.envelope import NO_PAYLOAD, open_envelope, seal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
SPACE = st.text(" \t\r\n", max_size=2)


def read(text: str) -> tuple[str, str | None, str | None] | None:
    """Type, dst and payload, as the text that they stand in."""
    envelope = open_envelope(text.encode(errors="replace"))
    if envelope is None:
        return None
    payload = envelope.payload
    return envelope.type, envelope.dst, None if payload is NO_PAYLOAD else bytes(payload).decode()


def test_reads_what_peerjs_sends() -> None:
    payload = '{"candidate":{"sdpMLineIndex":0},"type":"data"}'
    assert read(f'{{"type":"CANDIDATE","payload":{payload},"dst":"b"}}') == ("CANDIDATE", "b", payload)
    assert read('{"type":"HEARTBEAT"}') == ("HEARTBEAT", None, None)
    assert read('{"type":"LEAVE","dst":null}') == ("LEAVE", None, None)


@given(st.text(), st.text(), JSON, st.dictionaries(st.text(), JSON), st.booleans())
def test_reads_what_json_writes(kind: str, dst: str, payload: Any, more: dict[str, Any], ascii: bool) -> None:
    message = more | {"type": kind, "dst": dst, "payload": payload}
    text = json.dumps(message, ensure_ascii=ascii)
    assert read(text) == (kind, dst, json.dumps(payload, ensure_ascii=ascii))


@given(SPACE, SPACE, SPACE, SPACE, SPACE)
def test_space_between_tokens(a: str, b: str, c: str, d: str, e: str) -> None:
    text = f'{a}{{{b}"type"{c}:{d}"OFFER"{e},{a}"payload":{b}[ 1 ]{c}}}{d}'
    assert read(text) == ("OFFER", None, "[ 1 ]")


@given(st.text(st.sampled_from('{}[]":,\\ntypedstaploa1e0-. \tNI\x00é'), max_size=40) | st.text())
def test_agrees_with_json(text: str) -> None:
    """What is read is exactly what the standard library takes for an object, and nothing raises."""
    try:
        value = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    except (ValueError, pytest.fail.Exception):
        value = None
    usable = isinstance(value, dict) and isinstance(value.get("type"), str)
    assert (read(text) is not None) == (usable and isinstance(value.get("dst"), str | None))


@given(st.text(), st.text(), st.text(), JSON | st.none())
def test_seal_writes_json(kind: str, src: str, dst: str, payload: Any) -> None:
    inside = NO_PAYLOAD if payload is None else json.dumps(payload).encode()
    text = seal(kind, src=src, dst=dst, payload=inside)
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
    assert read(f'{{"type":"OFFER","dst":"b","payload":{number}}}') == ("OFFER", "b", number)


def test_last_of_repeated_fields_counts() -> None:
    text = '{"type":"LEAVE","dst":"a","type":"OFFER","dst":"b","payload":1,"payload":2}'
    assert read(text) == ("OFFER", "b", "2")


@pytest.mark.parametrize(
    ("sent", "relayed"),
    [
        ("\\ud83d\\ude00", "\\ud83d\\ude00"),
        ("x\\ud83d", "x\\ufffd"),
        ("\\uDE00x", "\\ufffdx"),
        ("\\ud83d\\ud83d\\ude00\\ude00", "\\ufffd\\ud83d\\ude00\\ufffd"),
    ],
)
def test_half_a_character_harms_nothing(sent: str, relayed: str) -> None:
    """JavaScript writes such when it has cut a string in the middle of an emoji."""
    assert read(f'{{"type":"OFFER","dst":"b","payload":"{sent}"}}') == ("OFFER", "b", f'"{relayed}"')


def test_bytes_that_are_no_text_are_made_so() -> None:
    envelope = open_envelope(b'{"type":"OFFER","dst":"b","payload":"\xff"}')
    assert envelope is not None
    assert bytes(envelope.payload) == '"\ufffd"'.encode()


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"OFFER","payload":' + "[" * 500_000,
        '{"type":"OFFER","payload":' + '{"a":' * 200_000 + "0" + "}" * 200_001,
        '{"type":"OFFER"}}',
        '{"type":"OFFER"} x',
        '{"type":"OFFER","payload":NaN}',
        '{"type":"OFFER","payload":-Infinity}',
        '{"type":"OFFER","payload":"\n"}',
        '{"type":"OFFER","payload":"\\ud83d"',
        '{"type":"OFFER",}',
        '{type:"OFFER"}',
        '\ufeff{"type":"OFFER"}',
    ],
    ids=lambda text: text[:40],
)
def test_refuses(text: str) -> None:
    assert read(text) is None
