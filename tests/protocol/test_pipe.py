"""The pipe protocol, pure: it reads what it says, refuses what breaks it, and keeps to its windows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.errors import ProtocolError
from peercli.protocol.pipe import (
    METADATA,
    Abort,
    Ack,
    End,
    Hello,
    Receiver,
    Sender,
    Stop,
    decode,
    encode,
    greeting,
    is_pipe,
)

counts = st.integers(0, 2**53)
controls = st.one_of(
    st.builds(Hello, counts, st.booleans()),
    st.builds(Ack, counts),
    st.builds(End, counts),
    st.just(Stop()),
    st.builds(Abort, st.text(max_size=200)),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children) | st.dictionaries(st.text(max_size=10), children),
    max_leaves=10,
)


@given(controls)
def test_controls_are_read_back(control: Hello | Ack | End | Stop | Abort) -> None:
    assert decode(encode(control)) == control


@given(
    st.text(max_size=100)
    | JSON.map(json.dumps)
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["hello", "ack", "end", "stop", "abort", "later"]) | JSON},
        optional={"version": st.just(1) | JSON, "window": JSON, "bytes": JSON, "reason": JSON},
    ).map(json.dumps)
)
def test_garbage_is_refused(text: str) -> None:
    """Nothing but the documented error comes out, whatever goes in; and a greeting reads as decode does."""
    for read in (decode, greeting):
        try:
            control = read(text)
        except ProtocolError:
            continue
        assert control is None or decode(encode(control)) == control


@pytest.mark.parametrize(
    "text",
    [
        "[" * 4096,
        "x" * 5000,
        '{"type": "ack"}',
        '{"type": "ack", "bytes": -1}',
        '{"type": "ack", "bytes": true}',
        '{"type": "end", "bytes": 9007199254740993}',
        '{"type": "hello", "version": 2, "window": 1}',
        '{"type": 1}',
        "{}",
        "1",
    ],
)
def test_what_is_no_control(text: str) -> None:
    with pytest.raises(ProtocolError):
        decode(text)


def test_what_is_left_open() -> None:
    """Types and members of later versions are passed over."""
    assert decode('{"type": "later", "x": 1}') is None
    assert decode('{"type": "ack", "bytes": 1, "later": {}}') == Ack(1)
    assert decode('{"type": "ack", "bytes": 1, "end": true}') == Ack(1, end=True)
    assert decode('{"type": "hello", "version": 1, "window": 5}') == Hello(5, receives=True)


@pytest.mark.parametrize(
    "message", ["text", "{}", '{"type": "ack", "bytes": 0}', b"bytes", 1, None, "[" * 4096]
)
def test_a_plain_page_greets_with_anything(message: object) -> None:
    assert greeting(message) is None


def test_a_greeting_of_another_version_is_no_data() -> None:
    with pytest.raises(ProtocolError, match="version 2"):
        greeting('{"type": "hello", "version": 2, "window": 1}')


def test_is_pipe() -> None:
    assert is_pipe(METADATA, "raw")
    assert is_pipe({"peercli": {"service": "pipe", "version": 7}, "more": 1}, "raw")
    for metadata, serialization in ((METADATA, "binary"), (None, "raw"), ({"peercli": "pipe"}, "raw")):
        assert not is_pipe(metadata, serialization)


@given(st.integers(1, 1000), st.lists(st.integers(1, 400)), st.data())
def test_a_stream_under_its_window(window: int, sizes: list[int], data: st.DataObject) -> None:
    """However the reader dawdles, all goes, nothing beyond the window, and each side knows the end."""
    sender, receiver = Sender(), Receiver(window)
    sender.hello(Hello(window, receives=True))
    untaken: list[int] = []
    left = sum(sizes)
    while left or untaken:
        if left and sender.room and data.draw(st.booleans()):
            size = min(left, sender.room, *sizes)
            sender.sent += size
            receiver.arrive(size)
            untaken.append(size)
            left -= size
        elif untaken and (ack := receiver.take(untaken.pop(0))):
            sender.ack(ack)
        assert receiver.arrived - receiver.taken <= window
        assert not sender.complete
    sender.ended = True
    receiver.end(End(sender.sent))
    before = sender.complete  # an empty stream, too, is complete only when the other side says so
    sender.ack(receiver.finish())
    assert (before, sender.complete) == (False, True)
    assert receiver.taken == receiver.arrived == sum(sizes)


def test_who_breaks_the_window_is_refused() -> None:
    receiver = Receiver(10)
    receiver.arrive(10)
    with pytest.raises(ProtocolError, match="window"):
        receiver.arrive(1)
    assert receiver.take(10) == Ack(10)
    receiver.arrive(1)
    with pytest.raises(ProtocolError, match="ended after 11"):
        receiver.end(End(12))
    receiver.end(End(11))
    with pytest.raises(ProtocolError, match="after the end"):
        receiver.arrive(0)


def test_false_acknowledgements_are_refused() -> None:
    sender = Sender()
    sender.hello(Hello(100, receives=True))
    sender.sent = 50
    for count in (51, 2**53):
        with pytest.raises(ProtocolError):
            sender.ack(Ack(count))
    sender.ack(Ack(20))
    with pytest.raises(ProtocolError):
        sender.ack(Ack(19))
    with pytest.raises(ProtocolError, match="has not ended"):
        sender.ack(Ack(50, end=True))
    assert sender.room == 70


def test_a_late_hello_is_good_while_its_window_holds() -> None:
    sender = Sender()
    sender.sent = 100
    with pytest.raises(ProtocolError, match="said hello only after 100 bytes"):
        sender.hello(Hello(99, receives=True))
    sender.hello(Hello(100, receives=True))
    assert sender.room == 0
