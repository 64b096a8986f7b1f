"""The JSON Schema of what `--json` prints, made from the events themselves, and lines checked against it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

import peercli.services
from peercli.services.events import Event

__all__ = ["check", "schema"]

ERROR = {
    "type": "object",
    "title": "Error",
    "description": "Why the command ends with `exit_code`.",
    "properties": {
        "event": {"const": "error"},
        "type": {"type": "string"},
        "message": {"type": "string"},
        "exit_code": {"type": "integer"},
        "hint": {"type": "string"},
    },
    "required": ["event", "type", "message", "exit_code"],
    "additionalProperties": False,
}


def schema() -> dict[str, Any]:
    """The schema of a line."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(peercli.services.__path__, "peercli.services.")
    ]
    kinds = {
        each.__name__: each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Event) and each is not Event
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of peercli --json",
        "description": 'Bytes are {"$bytes": "<base64>"}, wherever there may be any value.',
        "anyOf": [*(_of(kinds[name]) for name in sorted(kinds)), ERROR],
    }


def _of(kind: type[Event]) -> dict[str, Any]:
    members = TypeAdapter(kind).json_schema()["properties"]
    for member in members.values():
        member.pop("title", None)
    return {
        "type": "object",
        "title": kind.__name__,
        "description": " ".join((kind.__doc__ or "").split()),
        "properties": {"event": {"const": kind.event}} | members,
        "required": ["event", *(field.name for field in dataclasses.fields(kind))],
        "additionalProperties": False,
    }


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(schema())


def check(text: str) -> None:
    """Fail where an event in the lines of `text` is not as the schema says; other lines are no events."""
    for line in text.splitlines():
        if line.startswith('{"event": '):
            assert _validator().is_valid(json.loads(line)), f"an event that the schema does not know: {line}"
