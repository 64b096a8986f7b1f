"""Messages as JSON text: what programs read is JSON, and what they write is the message again."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.protocol.jsontext import from_json, parse, to_json
from peercli.protocol.values import UNDEFINED
from tests.protocol import strategies


@given(strategies.messages)
def test_every_message_comes_back(value: Any) -> None:
    text = to_json(value)
    assert "\n" not in text
    assert from_json(text) == strategies.without_undefined(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 1.5, None, True, "é"]}, '{"a": [1, 1.5, null, true, "é"]}'),
        ([b"\0\xff", bytearray(b"")], '[{"$bytes": "AP8="}, {"$bytes": ""}]'),
        ([UNDEFINED, {"a": math.nan}, (math.inf, b"")], '[null, {"a": null}, [null, {"$bytes": ""}]]'),
        (datetime(2025, 9, 9, 12, 34, 56, tzinfo=UTC), '"2025-09-09T12:34:56+00:00"'),
    ],
    ids=["plain", "bytes", "what JSON has not", "date"],
)
def test_what_is_written(value: Any, text: str) -> None:
    assert to_json(value) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"$bytes": ""}', b""),
        ('{"$bytes": "AP8=", "more": 1}', {"$bytes": "AP8=", "more": 1}),
        ('{"$bytes": 1}', {"$bytes": 1}),
        ('{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_what_is_read(text: str, value: Any) -> None:
    assert from_json(text) == value


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", "[-Infinity]", '{"$bytes": "?"}', '{"$bytes": "é"}', "9" * 5000, "[" * 100_000]
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - all that is promised
        from_json(text)


@given(st.text() | st.binary())
def test_any_text_is_parsed_or_a_value_error(text: str | bytes) -> None:
    try:
        value = parse(text)
    except ValueError:
        return
    assert json.loads(text) == value
