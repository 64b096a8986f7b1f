"""The broker's messages: what PeerJS writes is read, what we write comes back, hostile JSON is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.errors import ProtocolError
from peercli.protocol import messages
from peercli.protocol.messages import (
    Answer,
    BrokerError,
    BrokerMessage,
    Candidate,
    Expire,
    Heartbeat,
    IdTaken,
    InvalidKey,
    Leave,
    Offer,
    Open,
    PeerMessage,
    decode,
    encode,
)
from tests.protocol import strategies

ADDRESS = "candidate:1 1 udp 2113937151 1b2.local 50000 typ host generation 0 ufrag x network-cost 999"
PEERJS_CANDIDATE = {
    "candidate": ADDRESS,
    "sdpMid": "0",
    "sdpMLineIndex": 0,
    "usernameFragment": "x",
}
# Texts as PeerServer 1.0.2 passes them on from PeerJS 1.5.5.
SPOKEN: list[tuple[dict[str, Any], BrokerMessage]] = [
    ({"type": "OPEN"}, Open()),
    ({"type": "ID-TAKEN", "payload": {"msg": "ID is taken"}}, IdTaken()),
    ({"type": "INVALID-KEY", "payload": {"msg": "API KEY 'x' is invalid"}}, InvalidKey()),
    ({"type": "ERROR", "payload": {"msg": "Invalid key provided"}}, InvalidKey()),
    (
        {"type": "ERROR", "payload": {"msg": "Server has reached its limit"}},
        BrokerError("Server has reached its limit"),
    ),
    ({"type": "ERROR"}, BrokerError("no reason given")),
    ({"type": "LEAVE", "src": "bob", "dst": "alice"}, Leave("bob")),
    ({"type": "EXPIRE", "src": "bob", "dst": "alice"}, Expire("bob")),
    (
        {
            "type": "EXPIRE",
            "src": "bob",
            "dst": "alice",
            "payload": {"connectionId": "dc_1", "declined": True},
        },
        Expire("bob", "dc_1", declined=True),
    ),
    (
        {
            "type": "OFFER",
            "src": "bob",
            "dst": "alice",
            "payload": {
                "sdp": {"type": "offer", "sdp": "v=0\r\n"},
                "type": "data",
                "connectionId": "dc_1",
                "metadata": {"a": [1, None]},
                "label": "dc_1",
                "reliable": False,
                "serialization": "binary",
            },
        },
        Offer("bob", "dc_1", "data", "v=0\r\n", {"a": [1, None]}, "dc_1", False, "binary"),
    ),
    (
        {
            "type": "OFFER",
            "src": "bob",
            "payload": {"sdp": {"type": "offer", "sdp": "v=0\r\n"}, "type": "media", "connectionId": "mc_1"},
        },
        Offer("bob", "mc_1", "media", "v=0\r\n"),
    ),
    (
        {
            "type": "OFFER",
            "src": "bob",
            "payload": {
                "sdp": {"type": "offer", "sdp": "v=0\r\n"},
                "type": "data",
                "connectionId": "dc_1",
                "metadata": None,
                "label": None,
                "reliable": None,
                "serialization": None,
            },
        },
        Offer("bob", "dc_1", "data", "v=0\r\n"),
    ),
    (
        {
            "type": "OFFER",
            "src": "bob",
            "payload": {
                "sdp": {"type": "offer", "sdp": "v=0\r\n"},
                "type": "data",
                "connectionId": "dc_1",
                "serialization": "none",  # PeerJS 1.4.7
                "browser": "chrome",
            },
        },
        Offer("bob", "dc_1", "data", "v=0\r\n", serialization="raw"),
    ),
    (
        {
            "type": "ANSWER",
            "src": "bob",
            "payload": {"sdp": {"type": "answer", "sdp": "v=0\r\n"}, "type": "data", "connectionId": "dc_1"},
        },
        Answer("bob", "dc_1", "data", "v=0\r\n"),
    ),
    (
        {
            "type": "CANDIDATE",
            "src": "bob",
            "payload": {"candidate": PEERJS_CANDIDATE, "type": "media", "connectionId": "mc_1"},
        },
        Candidate("bob", "mc_1", "media", ADDRESS, "0", 0, "x"),
    ),
    (
        {
            "type": "CANDIDATE",
            "src": "bob",
            "payload": {
                "candidate": {"candidate": "candidate:1", "sdpMid": None, "sdpMLineIndex": None},
                "type": "data",
                "connectionId": "dc_1",
            },
        },
        Candidate("bob", "dc_1", "data", "candidate:1"),
    ),
]


@pytest.mark.parametrize(("spoken", "message"), SPOKEN)
def test_what_is_spoken_is_read(spoken: dict[str, Any], message: BrokerMessage) -> None:
    assert decode(json.dumps(spoken)) == message
    assert decode(json.dumps(spoken, ensure_ascii=False).encode()) == message
    assert decode(json.dumps({"payload": None} | spoken | {"more": 1})) == message


def test_unknown_types_are_passed_over() -> None:
    for text in (
        "{}",
        '{"type":null}',
        '{"type":"NEWS","src":1}',
        '{"type":["OPEN"]}',
        '{"type":{"OPEN":1}}',
    ):
        assert decode(text) is None


_TEXT = strategies.any_text.map(strategies.joined)
_IDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
_KINDS = st.sampled_from(["data", "media"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=8,
)
_SENT: st.SearchStrategy[BrokerMessage] = st.one_of(
    st.builds(Leave, _IDS),
    st.builds(Expire, _IDS, st.none() | _IDS, st.booleans(), st.booleans()),
    st.builds(Offer, _IDS, _IDS, st.just("data"), _TEXT, _JSON, _TEXT, st.booleans(), _TEXT, st.booleans()),
    st.builds(Offer, _IDS, _IDS, st.just("data"), _TEXT, session=_IDS, resumes=st.booleans()),
    st.builds(Offer, _IDS, _IDS, st.just("media"), _TEXT, _JSON, auth=st.booleans()),
    st.builds(Answer, _IDS, _IDS, _KINDS, _TEXT, st.booleans(), st.none() | _IDS),
    st.builds(
        Candidate,
        _IDS,
        _IDS,
        _KINDS,
        _TEXT,
        st.none() | _TEXT,
        st.none() | st.integers(0, 9),
        st.none() | _TEXT,
    ),
)


def _passed_on(text: str) -> str:
    """As a broker hands it to the target, where `dst` had been the sender."""
    message = json.loads(text)
    message["src"] = message["dst"]
    return json.dumps(message)


@given(_SENT)
def test_what_we_send_is_read_back(message: BrokerMessage) -> None:
    text = encode(message)
    text.encode("ascii")
    assert decode(_passed_on(text)) == message


@given(_SENT)
def test_we_write_what_peerjs_writes(message: BrokerMessage) -> None:
    """The keys and types of a PeerJS message (peerjs `lib/negotiator.ts`), none missing."""
    written = json.loads(encode(message))
    assert written["type"] == type(message).__name__.upper()
    assert set(written) <= {"type", "dst", "payload"}
    if not isinstance(message, PeerMessage):
        return
    payload = written["payload"]
    assert (payload["connectionId"], payload["type"]) == (message.connection_id, message.kind)
    if isinstance(message, Candidate):
        assert set(payload["candidate"]) == set(PEERJS_CANDIDATE)
        return
    assert payload["sdp"] == {"type": written["type"].lower(), "sdp": message.sdp}
    if isinstance(message, Offer) and message.kind == "data":
        assert {"label", "reliable", "serialization"} <= set(payload)


def test_a_heartbeat_is_what_peerjs_sends() -> None:
    assert json.loads(encode(Heartbeat())) == {"type": "HEARTBEAT"}


def test_what_only_a_broker_says_is_not_sent() -> None:
    for message in (Open(), IdTaken(), InvalidKey(), BrokerError("")):
        with pytest.raises(ValueError, match="never sends"):
            encode(message)


def _broken(of: BrokerMessage, *path: str, value: object) -> str:
    message: Any = next(json.loads(json.dumps(spoken)) for spoken, known in SPOKEN if known == of)
    inner = message
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return json.dumps(message)


DATA_OFFER = next(message for _, message in SPOKEN if isinstance(message, Offer) and message.metadata)
DATA_ANSWER = next(message for _, message in SPOKEN if isinstance(message, Answer))
A_CANDIDATE = next(message for _, message in SPOKEN if isinstance(message, Candidate))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"OPEN"',
        "{",
        '{"type":"OPEN"',
        b"\xff\xfe\xfd",
        b'{"type":"\xff"}',
        '{"type":NaN}',
        '{"type":' + "1" * 5000 + "}",
        '{"type":"LEAVE"}',
        '{"type":"LEAVE","src":1}',
        '{"type":"LEAVE","src":""}',
        '{"type":"LEAVE","src":"a\\nb"}',
        '{"type":"LEAVE","src":"a\\u0000b"}',
        '{"type":"LEAVE","src":"\\u202egnp.exe"}',
        '{"type":"LEAVE","src":"\\ud800"}',
        '{"type":"LEAVE","src":"' + "x" * (messages.MAX_ID_LENGTH + 1) + '"}',
        '{"type":"OFFER","src":"a"}',
        '{"type":"OFFER","src":"a","payload":[]}',
        _broken(DATA_OFFER, "src", value=None),
        _broken(DATA_OFFER, "payload", "connectionId", value=""),
        _broken(DATA_OFFER, "payload", "connectionId", value=["x"]),
        _broken(DATA_OFFER, "payload", "type", value="text"),
        _broken(DATA_OFFER, "payload", "type", value=["data"]),
        _broken(DATA_OFFER, "payload", "sdp", value="v=0"),
        _broken(DATA_OFFER, "payload", "sdp", value={"type": "offer"}),
        _broken(DATA_OFFER, "payload", "sdp", value={"type": "offer", "sdp": 1}),
        _broken(DATA_OFFER, "payload", "label", value=1),
        _broken(DATA_OFFER, "payload", "label", value="x" * (messages.MAX_LABEL_LENGTH + 1)),
        _broken(DATA_OFFER, "payload", "serialization", value={}),
        _broken(DATA_OFFER, "payload", "metadata", value=[[[]] * 3] * 400_000),
        _broken(DATA_ANSWER, "payload", "sdp", value=None),
        _broken(A_CANDIDATE, "payload", "candidate", value="candidate:1"),
        _broken(A_CANDIDATE, "payload", "candidate", "candidate", value=None),
        _broken(A_CANDIDATE, "payload", "candidate", "candidate", value="x" * 5000),
        _broken(A_CANDIDATE, "payload", "candidate", "sdpMid", value="x" * 5000),
        _broken(A_CANDIDATE, "payload", "candidate", "usernameFragment", value="x" * 5000),
        '{"type":"NEWS","payload":"' + "x" * messages.MAX_MESSAGE_LENGTH + '"}',
    ],
)
def test_what_breaks_the_protocol_is_refused(text: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(text)


def test_the_longest() -> None:
    longest = "x" * messages.MAX_ID_LENGTH
    assert decode(json.dumps({"type": "LEAVE", "src": longest})) == Leave(longest)
    full = '{"type":"OPEN"}'.ljust(messages.MAX_MESSAGE_LENGTH)
    assert decode(full) == Open()
    with pytest.raises(ProtocolError, match="of length"):
        decode(full + " ")


def _paths(value: object, *above: str) -> Iterator[tuple[str, ...]]:
    """The way to every field of a message."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*above, key)
            yield from _paths(inner, *above, key)


def _is_a(value: object, annotation: Any) -> bool:
    if annotation is Any:
        return True
    if get_origin(annotation) is Literal:
        return value in get_args(annotation)
    return isinstance(value, annotation) and not (annotation is int and isinstance(value, bool))


@pytest.mark.parametrize(
    "wrong",
    [None, True, 0, -1, 10**4000, 1.5, 1e999, "", "\ud800", "x" * 70_000, [], ["data"], {}, {"sdp": {}}],
    ids=lambda wrong: f"{type(wrong).__name__} {str(wrong)[:8]!r}" if wrong != 10**4000 else "huge",
)
def test_every_field_with_every_wrong_value(wrong: object) -> None:
    for spoken, known in SPOKEN:
        for path in _paths(spoken):
            try:
                message = decode(_broken(known, *path, value=wrong).replace("Infinity", "1e999"))
            except ProtocolError:
                continue
            for field in fields(message) if message is not None else ():
                annotation = get_type_hints(type(message))[field.name]
                assert _is_a(getattr(message, field.name), annotation), (path, field.name)


def test_deep_nesting_is_refused_wherever_it_is() -> None:
    places = [
        "%s",
        '{"type":%s}',
        '{"type":"LEAVE","src":%s}',
        '{"type":"OFFER","src":"a","payload":{"connectionId":"c","type":%s}}',
        '{"type":"OFFER","src":"a","payload":{"connectionId":"c","type":"data","sdp":{"sdp":""},"metadata":%s}}',
    ]
    for place in places:
        for depth in (*range(110, 1000, 10), 100_000):
            try:
                message = decode(place % ("[" * depth + "]" * depth))
            except ProtocolError:
                continue
            assert message is None  # an unknown type


_KEYS = [
    "type",
    "src",
    "dst",
    "payload",
    "sdp",
    "connectionId",
    "candidate",
    "metadata",
    "label",
    "msg",
    "sdpMid",
]
_VALUES = [
    "OFFER",
    "ANSWER",
    "CANDIDATE",
    "EXPIRE",
    "LEAVE",
    "ERROR",
    "OPEN",
    "ID-TAKEN",
    "data",
    "media",
    "a",
]
_HOSTILE = st.recursive(
    st.sampled_from([*_VALUES, None, True, 0, 1.5]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=6),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(_KEYS), _HOSTILE, max_size=6).map(json.dumps) | st.text() | st.binary()
)
def test_hostile_json_raises_nothing_else(text: str | bytes) -> None:
    try:
        message = decode(text)
    except ProtocolError:
        return
    assert message is None or isinstance(message, get_args(BrokerMessage))
