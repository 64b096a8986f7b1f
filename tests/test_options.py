"""Ids, broker addresses and ICE addresses: what is taken, what is refused, and that nothing else happens."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.errors import InvalidID, UsageError
from peercli.options import (
    DEFAULT_BROKER,
    DEFAULT_ICE_SERVERS,
    MAX_ID_LENGTH,
    Broker,
    IceServer,
    check_id,
    parse_broker,
    parse_ice_server,
    parse_port_range,
    random_id,
    random_token,
    read_ice_servers,
)


@pytest.mark.parametrize("peer_id", ["a", "7", "alice", "a-b_c d", "A1" * 10, "x" * MAX_ID_LENGTH])
def test_ids_of_peerjs_are_taken(peer_id: str) -> None:
    assert check_id(peer_id) == peer_id


@pytest.mark.parametrize(
    "peer_id",
    [
        "",
        " ",
        "-a",
        "a-",
        "a--b",
        "a b ",
        "a/b",
        "a.b",
        "é",
        "a\n",
        "a\x00b",
        "１",
        "x" * (MAX_ID_LENGTH + 1),
    ],
)
def test_other_ids_are_refused(peer_id: str) -> None:
    with pytest.raises(InvalidID):
        check_id(peer_id)


def test_made_up_ids_are_valid_and_new() -> None:
    ids = {check_id(random_id()) for _ in range(1000)}
    assert len(ids) == 1000
    assert len({random_token() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("text", "broker"),
    [
        ("localhost", Broker("localhost", 80)),
        ("localhost:9000", Broker("localhost", 9000)),
        ("http://localhost:9000/", Broker("localhost", 9000)),
        ("https://example.org", Broker("example.org", 443, secure=True)),
        ("wss://Example.org/Peer", Broker("example.org", 443, "/Peer/", secure=True)),
        ("http://example.org//a///b//", Broker("example.org", 80, "/a/b/")),
        ("http://example.org/a b/é%2F", Broker("example.org", 80, "/a%20b/%C3%A9%2F/")),
        ("http://example.org/?key=mine", Broker("example.org", 80, key="mine")),
        ("http://example.org?key=a%26b", Broker("example.org", 80, key="a&b")),
        ("http://[::1]:9000/x", Broker("::1", 9000, "/x/")),
        ("bücher.example", Broker("bücher.example", 80)),
    ],
)
def test_broker_addresses(text: str, broker: Broker) -> None:
    assert parse_broker(text) == broker
    assert parse_broker(broker.url) == broker, "its own writing is not read back"


@pytest.mark.parametrize("path", ["myapp", "/myapp", "myapp/", "//myapp//"])
def test_a_path_is_taken_as_peerjs_takes_it(path: str) -> None:
    assert Broker("localhost", 9000, path).url == "http://localhost:9000/myapp/"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "http:///path",
        "ftp://example.org",
        "http://example.org:0",
        "http://example.org:65536",
        "http://example.org:port",
        "http://user@example.org",
        "http://user:password@example.org",
        "http://:password@example.org",
        "http://example.org/#fragment",
        "http://example.org/?kay=typo",
        "http://example.org/?key",
        "http://a..b/",
        f"http://{'x' * 64}.org/",
        "http://a b/",
        "http://a\x00b/",
        "http://example.org/\udcff",
        "http://example.org/?key=\udcff",
        "::1",
        "http://[::1",
    ],
)
def test_what_is_no_broker_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_broker(text)


def test_broker_calls() -> None:
    broker = Broker("::1", 9000, "/x/", key="a/b&c", secure=True)
    assert broker.api_url("peers") == "https://[::1]:9000/x/a%2Fb%26c/peers"
    assert broker.socket_url("my id", "t&t", "1.0") == (
        "wss://[::1]:9000/x/peerjs?key=a%2Fb%26c&id=my%20id&token=t%26t&version=1.0"
    )
    assert DEFAULT_BROKER.url == "https://0.peerjs.com:443/"


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("stun:example.org", IceServer("stun", "example.org", 3478)),
        ("stun://example.org:19302", IceServer("stun", "example.org", 19302)),
        ("stun:[2001:db8::1]:5", IceServer("stun", "2001:db8::1", 5)),
        ("turn:u:p@example.org", IceServer("turn", "example.org", 3478, "udp", "u", "p")),
        ("turn:u:p@example.org?transport=tcp", IceServer("turn", "example.org", 3478, "tcp", "u", "p")),
        ("turn:u:a:b@c@[::1]:5", IceServer("turn", "::1", 5, "udp", "u", "a:b@c")),
        ("turn:u%3A1:p%40%20@h", IceServer("turn", "h", 3478, "udp", "u:1", "p@ ")),
        ("turn::@h", IceServer("turn", "h", 3478, "udp", "", "")),
        ("turns:u:p@h", IceServer("turns", "h", 5349, "tcp", "u", "p")),
        ("turns:u:p@h:443?transport=tcp", IceServer("turns", "h", 443, "tcp", "u", "p")),
    ],
)
def test_ice_addresses(text: str, server: IceServer) -> None:
    assert parse_ice_server(text) == server


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stun:",
        "example.org",
        "http://example.org",
        "stun:a..b",
        "stun:a b",
        "stun:a\x00b",
        "stun:h\n",
        "stun:h:0",
        "stun:h:65536",
        "stun:h:٣",
        "stun:h?transport=tcp",  # RFC 7064 has none
        "stun:h/path",
        "turn:h",
        "turn:secret@h",
        "turn:u:p@",
        "turn:u:p@h?transport=sctp",
        "turns:u:p@h?transport=udp",  # DTLS to a TURN server is not spoken here
        "turn:u:p@::1",
        "stuns:h",
    ],
)
def test_what_is_no_ice_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ice_server(text)


def test_stun_over_tls_is_refused_and_what_to_write_is_told() -> None:
    with pytest.raises(UsageError, match="no address that a peer could send to") as caught:
        parse_ice_server("stuns:example.org")
    assert "stun:host" in caught.value.hint
    assert "turns:" in caught.value.hint


@pytest.mark.parametrize("text", ["turn:u:se:c@ret@h:99999", "turn:u:secret\n@h:x", "turns:u:secret@h?x"])
def test_a_password_is_never_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ice_server(text)
    assert not re.search("se:c|ret", str(caught.value) + caught.value.hint)
    server = parse_ice_server("turn:user:secret@h")
    assert "secret" not in f"{server} {server!r}"


def test_ice_servers_as_browsers_take_them() -> None:
    """PeerJS's own configuration (`lib/util.ts`), and all else that may be in the same list."""
    config: list[dict[str, Any]] = [
        {"urls": "stun:stun.l.google.com:19302"},
        {
            "urls": ["turn:eu-0.turn.peerjs.com:3478", "turn:us-0.turn.peerjs.com:3478"],
            "username": "peerjs",
            "credential": "peerjsp",
        },
    ]
    assert read_ice_servers(config) == DEFAULT_ICE_SERVERS
    odd = {"urls": "turns:example.org?transport=tcp", "username": "a:b@c", "credential": "d@e:f/g%"}
    server = IceServer("turns", "example.org", 5349, "tcp", "a:b@c", "d@e:f/g%")
    assert read_ice_servers([odd, "stun:example.org", server]) == (
        server,
        IceServer("stun", "example.org", 3478),
        server,
    )


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"urls": 3},
        {"urls": [None]},
        {"urls": "stun"},
        {"urls": "turn:example.org"},
        {"urls": "turn:example.org", "username": "u"},
        {"urls": "turn:example.org:x", "username": "u", "credential": "secret"},
        {"urls": "turn:example.org", "username": "u", "credential": {"secret": 1}},
        {"urls": "stuns:example.org"},
        None,
        7,
    ],
)
def test_what_is_no_ice_server_of_a_browser(entry: Any) -> None:
    with pytest.raises(UsageError) as caught:
        read_ice_servers([entry])
    assert "secret" not in str(caught.value)


def test_peerjs_servers_are_the_default() -> None:
    assert [str(server) for server in DEFAULT_ICE_SERVERS] == [
        "stun:stun.l.google.com:19302",
        "turn:eu-0.turn.peerjs.com:3478?transport=udp",
        "turn:us-0.turn.peerjs.com:3478?transport=udp",
    ]
    assert {(server.username, server.password) for server in DEFAULT_ICE_SERVERS[1:]} == {
        ("peerjs", "peerjsp")
    }


_ADDRESS = st.lists(st.sampled_from(["http", "stun", "turn", *":/@?[]a%1=. ", "key=", "\udc80"])).map("".join)


@given(st.text() | _ADDRESS | _ADDRESS.map("stun:".__add__) | _ADDRESS.map("turn:u:p@".__add__))
def test_nothing_else_is_raised(text: str) -> None:
    for parse in (check_id, parse_broker, parse_ice_server):
        try:
            result = parse(text)
        except (InvalidID, UsageError):
            continue
        if isinstance(result, Broker):
            assert parse_broker(result.url) == result
            result.api_url("id").encode("ascii" if result.host.isascii() else "utf-8")
            result.socket_url("id", "token", "1").encode("ascii" if result.host.isascii() else "utf-8")


@pytest.mark.parametrize(
    ("text", "ports"), [("1-65535", (1, 65535)), ("40000", (40000, 40000)), ("7-7", (7, 7))]
)
def test_port_ranges(text: str, ports: tuple[int, int]) -> None:
    assert parse_port_range(text) == ports


@pytest.mark.parametrize(
    "text", ["", "-", "1-", "-1", "0-9", "9-1", "1-65536", "1,2", " 1-2", "１-2", "1-2-3"]
)
def test_what_is_no_port_range(text: str) -> None:
    with pytest.raises(UsageError, match="port range"):
        parse_port_range(text)
