"""One Node process that runs the real peerjs-js-binarypack and PeerJS's serializers for the tests."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from peercli.protocol.values import UNDEFINED

HARNESS = Path(__file__).with_name("peerjs_harness.mjs")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class JavaScriptError(Exception):
    """What the JavaScript side threw, where Python asked for one value."""


class JavaScript(NamedTuple):
    """A value that Python has not, as the expression that makes it."""

    expression: str


class Received(NamedTuple):
    """What a PeerJS connection made of the messages it was given."""

    values: list[Any]
    closed: bool


class PeerJS:
    """Asks the harness. Numbers come back as float, equal to the ints they stand for."""

    def __init__(self, node: str, node_modules: Path) -> None:
        command = [node, str(HARNESS), str(node_modules)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | {"TZ": "UTC"},
        )

    def close(self) -> None:
        """End the process, which leaves of its own accord at the end of its input."""
        self._process.communicate(timeout=10)
        assert self._process.returncode == 0

    def pack(self, value: Any) -> bytes:
        """peerjs-js-binarypack's pack()."""
        packed: bytes = _value_of(self._ask(op="pack", value=tag(value)))
        return packed

    def unpack(self, packed: bytes) -> Any:
        """peerjs-js-binarypack's unpack()."""
        return _value_of(self._ask(op="unpack", packed=base64.b64encode(packed).decode()))

    def parse_date(self, text: str) -> int:
        """Date.parse(): milliseconds since 1970."""
        parsed: int = self._ask(op="parseDate", text=text)
        return parsed

    def send(self, serialization: str, values: list[Any], *, flush: bool = False) -> list[Any]:
        """What a PeerJS connection puts on the data channel for `values`, then for close({flush}).

        Raises:
            JavaScriptError: the type of the error that the connection emitted.
        """
        result = self._ask(op="send", serialization=serialization, values=list(map(tag, values)), flush=flush)
        if result["errors"]:
            raise JavaScriptError(result["errors"][0])
        return [untag(message) for message in result["wire"]]

    def receive(self, serialization: str, wire: list[Any]) -> Received:
        """What a PeerJS connection emits for these data channel messages."""
        result = self._ask(op="receive", serialization=serialization, wire=list(map(tag, wire)))
        assert not result["errors"]
        return Received([untag(value) for value in result["values"]], result["closed"])

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "failure" in answer:
            raise JavaScriptError(answer["failure"])
        return answer["result"]


def tag(value: Any) -> list[Any]:
    """`value` as the harness's `untag` reads it."""
    if value is None:
        return ["null"]
    if value is UNDEFINED:
        return ["undefined"]
    if isinstance(value, bool):
        return ["bool", value]
    if isinstance(value, int | float):
        return ["number", struct.pack(">d", value).hex()]
    if isinstance(value, JavaScript):
        return ["js", value.expression]
    if isinstance(value, str):
        return ["str", value]
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, datetime):
        return ["date", (value - EPOCH) // timedelta(milliseconds=1)]
    if isinstance(value, list):
        return ["list", [tag(item) for item in value]]
    return ["map", [[key, tag(item)] for key, item in value.items()]]


def untag(tagged: list[Any]) -> Any:
    """What the harness's `tag` wrote."""
    kind, value = [*tagged, None][:2]
    match kind:
        case "null":
            return None
        case "undefined":
            return UNDEFINED
        case "number":
            return struct.unpack(">d", bytes.fromhex(value))[0]
        case "bytes":
            return base64.b64decode(value)
        case "date":
            return EPOCH + timedelta(milliseconds=value)
        case "list":
            return [untag(item) for item in value]
        case "map":
            return {key: untag(item) for key, item in value}
        case _:
            return value


def _value_of(tagged: list[Any]) -> Any:
    if tagged[0] == "error":
        raise JavaScriptError(tagged[1])
    return untag(tagged)
