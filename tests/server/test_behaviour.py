"""What clients see of a broker, case by case, from the real PeerServer and from ours.

Every case runs against both. Where ours does better on purpose, the case says what each of them does.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import uuid
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from tests.brokers import BROKERS, BrokerFactory, port_of, socket_url
from tests.server.certificates import make_certificate
from tests.server.clients import QUIET, SOON, client, ends, get, has_left, hears_nothing, receive, send

IGNORED = [
    '{"type":"NOTHING","dst":"b"}',
    '{"type":"OPEN","dst":"b"}',
    '{"type":"ID-TAKEN","dst":"b"}',
    '{"type":"HEARTBEAT","dst":"b"}',
    '{"type":7,"dst":"b"}',
    '{"type":["OFFER"],"dst":"b"}',
    '{"dst":"b"}',
    '{"type":"OFFER"}',
    '{"type":"OFFER","dst":""}',
    '{"type":"OFFER","dst":null}',
    '{"type":"OFFER","dst":["b"]}',
    '{"type":"LEAVE","dst":7}',
    '{"type":"EXPIRE","dst":"nobody"}',
    "[]",
    "{}",
]
MALFORMED = [
    "",
    " ",
    "{",
    "null",
    "7",
    '"x"',
    '{"type":"OFFER","dst":"b",}',
    "{'a':1}",
    '{"a":NaN}',
    "[" * 99,
]
HELLO = (
    "GET /peerjs?key=peerjs&id=a&token=t HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture(params=sorted(BROKERS))
def broker(request: pytest.FixtureRequest) -> BrokerFactory:
    return BROKERS[request.param]


@pytest.fixture
def ours(broker: BrokerFactory) -> bool:
    return broker is BROKERS["peercli"]


# HTTP -----------------------------------------------------------------------------------------------


async def test_http(broker: BrokerFactory, ours: bool) -> None:
    async with broker() as url:
        status, headers, body = await get(url)
        assert status == 200
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        about = json.loads(body)
        assert about.keys() == {"name", "description", "website"}
        assert about["name"] == "PeerJS Server"

        ids = set()
        for path in ("peerjs/id", "peerjs/id?ts=1&version=1.5.5", "peerjs/id/"):
            status, headers, body = await get(url + path)
            assert status == 200
            assert headers["Content-Type"] == "text/html; charset=utf-8"
            assert uuid.UUID(body).version == 4
            ids.add(body)
        assert len(ids) == 3

        assert (await get(url + "peerjs/peers"))[0] == 401
        assert (await get(url + "peerjs/id", "HEAD"))[::2] == (200, "")
        for path in ("nothing", "peerjs", "peerjs/nothing", "peerjs/id/more"):
            assert (await get(url + path))[0] == 404
        assert (await get(url, "POST"))[0] == 404
        assert (await get(url + "peerjs/id", "DELETE"))[0] == 404

        # PeerServer never looks at the key of an HTTP request.
        assert (await get(url + "wrong/id"))[0] == (401 if ours else 200)


async def test_a_connection_serves_several_requests(broker: BrokerFactory) -> None:
    async with broker() as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        for _ in range(3):
            writer.write(b"GET /peerjs/id HTTP/1.1\r\nHost: x\r\n\r\n")
            async with asyncio.timeout(SOON):
                head = await reader.readuntil(b"\r\n\r\n")
                assert b"HTTP/1.1 200 OK" in head
                assert b"Content-Length: 36\r\n" in head
                uuid.UUID((await reader.readexactly(36)).decode())
        writer.close()


async def test_path_and_key(broker: BrokerFactory) -> None:
    async with broker(path="/some/where/", key="k-1") as url:
        assert url.endswith("/some/where/")
        assert (await get(url))[0] == 200
        assert (await get(url.rstrip("/")))[0] == 200
        assert (await get(url + "k-1/id"))[0] == 200
        assert (await get(f"http://127.0.0.1:{port_of(url)}/"))[0] == 404
        assert (await get(f"http://127.0.0.1:{port_of(url)}/somewhere"))[0] == 404
        async with connect(socket_url(url, key="k-1", id="a", token="t")) as socket:
            assert await receive(socket) == {"type": "OPEN"}


async def test_socket_elsewhere(broker: BrokerFactory, ours: bool) -> None:
    async with broker(path="/here/") as url:
        away = socket_url(url, id="a", token="t").replace("/here/", "/there/")
        with pytest.raises(InvalidStatus) as refused:
            await connect(away)
        assert refused.value.response.status_code == (404 if ours else 400)


async def test_discovery(broker: BrokerFactory, ours: bool) -> None:
    async with broker(allow_discovery=True) as url:
        status, headers, body = await get(url + "peerjs/peers")
        assert (status, body) == (200, "[]")
        assert headers["Content-Type"] == "application/json; charset=utf-8"
        async with client(url, "a"), client(url, "b"):
            assert sorted(json.loads((await get(url + "peerjs/peers"))[2])) == ["a", "b"]
            assert (await get(url + "wrong/peers"))[0] == (401 if ours else 200)
        for id in "ab":
            await has_left(url, id)


@pytest.mark.parametrize("cors", [None, ["https://a.example", "https://b.example"]])
async def test_cors(broker: BrokerFactory, cors: list[str] | None) -> None:
    options = {} if cors is None else {"cors": cors}
    async with broker(**options) as url:
        for origin in ("https://a.example", "https://b.example", "https://c.example", "null"):
            allowed = origin if cors is None or origin in cors else None
            for path in ("", "peerjs/id", "peerjs/peers", "nothing"):
                _, headers, _ = await get(url + path, Origin=origin)
                assert headers.get("Access-Control-Allow-Origin") == allowed
                assert "Origin" in headers["Vary"]

            asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            status, headers, body = await get(
                url + "peerjs/id", "OPTIONS", **asked, **{"Access-Control-Request-Headers": "x-a,x-b"}
            )
            assert (status, body) == (204, "")
            assert headers.get("Access-Control-Allow-Origin") == allowed
            assert headers["Access-Control-Allow-Headers"] == "x-a,x-b"
            assert {"GET", "HEAD"} <= set(headers["Access-Control-Allow-Methods"].split(","))

        _, headers, _ = await get(url)
        assert "Access-Control-Allow-Origin" not in headers


# The socket -----------------------------------------------------------------------------------------


async def test_tls(broker: BrokerFactory, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "localhost")
    trust = ssl.create_default_context(cafile=cert)
    async with broker(tls_cert=cert, tls_key=key) as url:
        assert url.startswith("https://")
        async with client(url.replace("127.0.0.1", "localhost"), "a", ssl=trust) as socket:
            await send(socket, "OFFER", dst="a", payload=1)
            assert (await receive(socket))["payload"] == 1


async def test_handshake(broker: BrokerFactory) -> None:
    """The first subprotocol that is offered is taken, and no compression."""
    offered = [Subprotocol("one"), Subprotocol("two")]
    async with broker() as url, client(url, "a", subprotocols=offered) as socket:
        assert socket.subprotocol == "one"
        assert socket.response is not None
        assert "Sec-WebSocket-Extensions" not in socket.response.headers


@pytest.mark.parametrize(
    ("header", "wrong", "by_ours"),
    [
        ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 99", b"426"),
        ("AAAAAAAAAAAAAAAAAAAAAA==", "short", b"400"),
        ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", "", b"400"),
    ],
    ids=["version", "short key", "no key"],
)
async def test_handshake_that_is_none(
    broker: BrokerFactory, ours: bool, header: str, wrong: str, by_ours: bytes
) -> None:
    """PeerServer answers 400 to all of them; ours to a strange version what RFC 6455 asks for."""
    async with broker() as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        writer.write(HELLO.replace(header, wrong).encode())
        async with asyncio.timeout(SOON):
            assert (await reader.readline()).split()[1] == (by_ours if ours else b"400")
        writer.close()


async def test_what_comes_with_the_handshake_is_heard(broker: BrokerFactory) -> None:
    early = Frame(Opcode.TEXT, b'{"type":"OFFER","dst":"a","payload":1}').serialize(mask=True)
    async with broker() as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        writer.write(HELLO.encode() + early)
        async with asyncio.timeout(SOON):
            await reader.readuntil(b"OPEN")
            await reader.readuntil(b'{"type":"OFFER","src":"a","dst":"a","payload":1}')
        writer.close()


@pytest.mark.parametrize(
    ("header", "wrong"),
    [
        ("GET /", "HEAD /"),
        ("GET /", "OPTIONS /"),
        ("Connection: keep-alive, Upgrade", "Connection: keep-alive"),
    ],
    ids=["HEAD", "OPTIONS", "no Upgrade"],
)
async def test_what_does_not_ask_for_a_socket_gets_none(
    broker: BrokerFactory, header: str, wrong: str
) -> None:
    async with broker(allow_discovery=True) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
        writer.write(HELLO.replace(header, wrong).encode())
        async with asyncio.timeout(SOON):
            assert (await reader.readline()).split()[1] in (b"204", b"404", b"405")
        assert (await get(url + "peerjs/peers"))[2] == "[]"
        writer.close()


async def test_a_request_names_its_host(broker: BrokerFactory) -> None:
    async with broker() as url:
        for version, status in ((b"1.0", b"200"), (b"1.1", b"400")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            writer.write(b"GET / HTTP/%b\r\n\r\n" % version)
            async with asyncio.timeout(SOON):
                assert (await reader.readline()).split()[1] == status
            writer.close()


# A client's last frames, and the code that it is answered with (RFC 6455, section 7.4.1).
LAST_FRAMES = [
    (Frame(Opcode.TEXT, b"\xff").serialize(mask=True), 1007),
    (Frame(Opcode.TEXT, b"\xc3", fin=False).serialize(mask=True) * 2, 1002),
    (Frame(Opcode.TEXT, b"{}").serialize(mask=False), 1002),
    (Frame(Opcode.TEXT, b"").serialize(mask=False), 1002),
    (b"\xc1\x80\x00\x00\x00\x00", 1002),  # compressed
    (Frame(Opcode.CLOSE, b"\x03\xe8bye").serialize(mask=True), 1000),
    (Frame(Opcode.CLOSE, b"\x0f\xa0").serialize(mask=True), 4000),
    (Frame(Opcode.CLOSE, b"\x03\xed").serialize(mask=True), 1002),  # a code that is never sent
    (Frame(Opcode.CLOSE, b"\x03\xe8\xff").serialize(mask=True), 1007),
]


async def test_how_a_socket_ends(broker: BrokerFactory) -> None:
    async with broker() as url, asyncio.timeout(SOON):
        for n, (last, code) in enumerate(LAST_FRAMES):
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(url))
            writer.write(HELLO.replace("id=a", f"id=a{n}").encode() + last)
            await reader.readuntil(b'{"type":"OPEN"}')
            opcode, size = await reader.readexactly(2)
            assert (opcode, (await reader.readexactly(size))[:2]) == (0x88, code.to_bytes(2, "big")), last
            writer.close()


async def test_binary_text_is_mended(broker: BrokerFactory) -> None:
    """What is no UTF-8 in a binary frame is replaced, as `toString()` does."""
    async with broker() as url, client(url, "a") as a:
        await a.send(b'{"type":"OFFER","dst":"a","payload":"\xff"}')
        assert (await receive(a))["payload"] == "\ufffd"


async def test_pings_are_answered(broker: BrokerFactory) -> None:
    async with broker() as url, client(url, "a") as socket, asyncio.timeout(SOON):
        await (await socket.ping(b"abc"))


async def test_a_message_in_several_frames_is_one(broker: BrokerFactory) -> None:
    async with broker() as url, client(url, "a") as a, client(url, "b") as b:
        await a.send(['{"type":"OFFER",', '"dst":"b","pay', 'load":"é😀"}'])
        assert (await receive(b))["payload"] == "é😀"


async def test_what_is_relayed_is_text(broker: BrokerFactory) -> None:
    async with broker() as url, client(url, "a") as a:
        await a.send(b'{"type":"OFFER","dst":"a"}')
        async with asyncio.timeout(SOON):
            assert isinstance(await a.recv(), str)


# Coming ---------------------------------------------------------------------------------------------


async def test_missing_parameters(broker: BrokerFactory) -> None:
    refused = {"type": "ERROR", "payload": {"msg": "No id, token, or key supplied to websocket server"}}
    incomplete: list[dict[str, str]] = [
        {},
        {"id": "a"},
        {"token": "t"},
        {"id": "a", "token": ""},
        {"id": "a", "token": "t", "key": ""},
    ]
    async with broker() as url:
        for query in incomplete:
            async with connect(socket_url(url, **query)) as socket:
                assert await receive(socket) == refused, query
                assert await ends(socket)


async def test_wrong_key(broker: BrokerFactory, ours: bool) -> None:
    """Only ours gives a reason when it closes, too."""
    async with broker() as url, connect(socket_url(url, id="a", token="t", key="other")) as socket:
        assert await receive(socket) == {"type": "ERROR", "payload": {"msg": "Invalid key provided"}}
        assert await ends(socket)
        assert (socket.close_code, socket.close_reason) == (
            (1008, "Invalid key provided") if ours else (1005, "")
        )


async def test_which_refusal_comes_first(broker: BrokerFactory, ours: bool) -> None:
    async def heard(url: str, **query: str) -> str:
        async with connect(socket_url(url, **query)) as socket:
            message = await receive(socket)
            return str(message.get("payload", {}).get("msg", message["type"]))

    async with broker(concurrent_limit=1) as url, client(url, "a"):
        assert "supplied" in await heard(url, key="wrong", id="a")
        assert "key" in await heard(url, key="wrong", id="a", token="other")
        assert "taken" in await heard(url, id="a", token="other")
        assert "limit" in await heard(url, id="b", token="other")
        if ours:  # PeerServer says nothing to who comes back
            assert await heard(url, id="a", token="token") == "OPEN"


async def test_valid_ids(broker: BrokerFactory) -> None:
    async with broker() as url:
        for id in ("a", "A-1_b c", "0", "x" * 256, "a--b", str(uuid.UUID(int=7))):
            async with client(url, id) as socket:
                await send(socket, "OFFER", dst=id)
                assert await receive(socket) == {"type": "OFFER", "src": id, "dst": id}


async def test_invalid_ids(broker: BrokerFactory, ours: bool) -> None:
    """PeerServer takes any id; PeerJS never asks for such."""
    refused = {"type": "ERROR", "payload": {"msg": "Invalid id provided"}}
    async with broker() as url:
        for id in ("-a", "a ", "a/b", "ä", "a\n", "a\nb", "<b>", "\x00", "x" * 257):
            async with connect(socket_url(url, id=id, token="t")) as socket:
                assert await receive(socket) == (refused if ours else {"type": "OPEN"}), id


async def test_last_of_repeated_parameters_counts(broker: BrokerFactory) -> None:
    async with broker() as url, connect(socket_url(url, id="a", token="t") + "&id=b") as socket:
        assert await receive(socket) == {"type": "OPEN"}
        await send(socket, "OFFER", dst="b")
        assert (await receive(socket))["src"] == "b"


async def test_id_taken(broker: BrokerFactory) -> None:
    async with broker() as url, client(url, "a", "one") as holder:
        async with connect(socket_url(url, id="a", token="two")) as other:
            assert await receive(other) == {"type": "ID-TAKEN", "payload": {"msg": "ID is taken"}}
            assert await ends(other)
        await send(holder, "OFFER", dst="a")  # …and the holder has noticed nothing
        assert (await receive(holder))["type"] == "OFFER"


async def test_id_is_free_after_leaving(broker: BrokerFactory) -> None:
    async with broker(allow_discovery=True) as url:
        for token in ("one", "two"):
            async with client(url, "a", token):
                pass
            await has_left(url, "a")


async def test_concurrent_limit(broker: BrokerFactory) -> None:
    async with broker(concurrent_limit=2) as url, client(url, "a"), client(url, "b"):
        socket = await connect(socket_url(url, id="c", token="t"))
        msg = "Server has reached its concurrent user limit"
        assert await receive(socket) == {"type": "ERROR", "payload": {"msg": msg}}
        assert await ends(socket)


async def test_coming_back_with_the_token(broker: BrokerFactory, ours: bool) -> None:
    """PeerServer gives a client that comes back no OPEN, and keeps its old socket open and heard."""
    async with broker() as url, client(url, "a") as old, client(url, "b") as other:
        new = await connect(socket_url(url, id="a", token="token"))
        if ours:
            assert await receive(new) == {"type": "OPEN"}
            assert await ends(old)
        else:
            assert await hears_nothing(new)
            assert await hears_nothing(old)
            await old.close()
        await asyncio.sleep(QUIET)  # the late close of the old socket takes the id from nobody
        await send(other, "OFFER", dst="a", payload=1)
        assert await receive(new) == {"type": "OFFER", "src": "b", "dst": "a", "payload": 1}
        await send(new, "ANSWER", dst="b", payload=2)
        assert await receive(other) == {"type": "ANSWER", "src": "a", "dst": "b", "payload": 2}
        await new.close()


# Between peers --------------------------------------------------------------------------------------


async def test_relay(broker: BrokerFactory) -> None:
    payload = {"sdp": {"type": "offer", "sdp": "v=0\r\n"}, "é": [1.5, None, "\u2028", "\x00", "😀"]}
    async with broker() as url, client(url, "a") as a, client(url, "b") as b:
        for type in ("OFFER", "ANSWER", "CANDIDATE", "LEAVE", "EXPIRE"):
            await send(a, type, dst="b", payload=payload, src="forged", extra="dropped")
            assert await receive(b) == {"type": type, "src": "a", "dst": "b", "payload": payload}
            await send(b, type, dst="a")
            assert await receive(a) == {"type": type, "src": "b", "dst": "a"}
            await a.send(json.dumps({"type": type, "dst": "b", "payload": 0}).encode())  # a binary frame
            assert await receive(b) == {"type": type, "src": "a", "dst": "b", "payload": 0}


@pytest.mark.parametrize("payload", ["null", "false", "0", "-0.5e-3", '""', "[]", "{}", '"\\u0000\\/"'])
async def test_any_json_is_a_payload(broker: BrokerFactory, payload: str) -> None:
    async with broker() as url, client(url, "a") as a:
        await a.send(f'{{"dst":"a", "payload" : {payload},\n"type":"OFFER"}}')
        expected = {"type": "OFFER", "src": "a", "dst": "a", "payload": json.loads(payload)}
        assert await receive(a) == expected


async def test_half_a_character(broker: BrokerFactory, ours: bool) -> None:
    """What JavaScript has cut inside an emoji: PeerServer passes the half on, ours a sign for it."""
    async with broker() as url, client(url, "a") as a:
        await a.send('{"type":"OFFER","dst":"a","payload":"x\\ud83d"}')
        assert ord((await receive(a))["payload"][1]) == (0xFFFD if ours else 0xD83D)


async def test_big_message(broker: BrokerFactory) -> None:
    async with broker() as url, client(url, "a") as a, client(url, "b") as b:
        await send(a, "OFFER", dst="b", payload="x" * 500_000)
        assert (await receive(b))["payload"] == "x" * 500_000


async def test_ignored(broker: BrokerFactory) -> None:
    async with broker() as url, client(url, "a") as a, client(url, "b") as b:
        for n, text in enumerate(IGNORED):
            await a.send(text)
            await send(a, "OFFER", dst="b", payload=n)
            assert (await receive(b))["payload"] == n, text


async def test_malformed(broker: BrokerFactory, ours: bool) -> None:
    """PeerServer's socket is deaf from the first message that is no JSON object; ours goes on."""
    async with broker() as url, client(url, "b") as b, AsyncExitStack() as stack:
        for n, text in enumerate(MALFORMED):
            a = await stack.enter_async_context(client(url, f"a{n}"))
            await a.send(text)
            await send(a, "OFFER", dst="b", payload=n)
            if ours:
                assert (await receive(b))["payload"] == n, text
            else:
                stack.callback(a.transport.abort)  # it would not answer the closing handshake
        assert await hears_nothing(b)


async def test_leave_without_dst(broker: BrokerFactory, ours: bool) -> None:
    """Both free the id. PeerServer goes on to relay what comes on the socket; ours closes it."""
    async with broker() as url, client(url, "a", "one") as a:
        await send(a, "LEAVE")
        if ours:
            assert await ends(a)
        async with client(url, "a", "two") as b:
            if not ours:
                await send(a, "OFFER", dst="a", payload=1)
                assert (await receive(b))["src"] == "a"


# Those who are not there ----------------------------------------------------------------------------


async def test_held_messages_come_in_order(broker: BrokerFactory) -> None:
    async with broker() as url, client(url, "a") as a, client(url, "b") as b:
        expected = []
        for n in range(10):
            sender, src = (a, "a") if n % 3 else (b, "b")
            type = ("OFFER", "CANDIDATE", "ANSWER")[n % 3]
            await send(sender, type, dst="late", payload=n)
            await send(sender, "OFFER", dst=src)  # an echo: the broker has seen the one before
            assert (await receive(sender))["src"] == src
            expected.append({"type": type, "src": src, "dst": "late", "payload": n})
        await send(a, "LEAVE", dst="late")
        async with client(url, "late") as late:
            assert [await receive(late) for _ in expected] == expected
            assert await hears_nothing(late)


async def test_expire_comes_once_for_each_pair(broker: BrokerFactory) -> None:
    async with broker(expire_timeout=0.5) as url, client(url, "a") as a, client(url, "b") as b:
        for dst in ("x", "y"):
            for type in ("OFFER", "CANDIDATE", "CANDIDATE"):
                await send(a, type, dst=dst, payload="p")
        await send(b, "ANSWER", dst="x")
        gone = [await receive(a), await receive(a)]
        assert sorted(message["src"] for message in gone) == ["x", "y"]
        assert all(message == {"type": "EXPIRE", "src": message["src"], "dst": "a"} for message in gone)
        assert await receive(b) == {"type": "EXPIRE", "src": "x", "dst": "b"}
        assert await hears_nothing(a)
        async with client(url, "x") as late:
            assert await hears_nothing(late)


async def test_what_a_peer_has_sent_outlasts_it(broker: BrokerFactory) -> None:
    async with broker() as url:
        async with client(url, "a") as a:
            await send(a, "OFFER", dst="late", payload=1)
            await send(a, "OFFER", dst="a")  # an echo: the broker has seen the one before
            await receive(a)
        async with client(url, "late") as late:
            assert await receive(late) == {"type": "OFFER", "src": "a", "dst": "late", "payload": 1}


async def test_expire_finds_a_sender_that_has_come_back(broker: BrokerFactory) -> None:
    async with broker(expire_timeout=3.0, allow_discovery=True) as url:
        async with client(url, "a", "t") as a:
            await send(a, "OFFER", dst="nobody")
            await send(a, "OFFER", dst="a")
            await receive(a)
        await has_left(url, "a")
        async with client(url, "a", "t") as a:
            assert await receive(a) == {"type": "EXPIRE", "src": "nobody", "dst": "a"}


async def test_messages_wait_between_two_sockets_of_a_peer(broker: BrokerFactory) -> None:
    async with broker(allow_discovery=True) as url, client(url, "a") as a:
        async with client(url, "b"):
            pass
        await has_left(url, "b")
        await send(a, "OFFER", dst="b", payload=1)
        async with client(url, "b") as b:
            assert await receive(b) == {"type": "OFFER", "src": "a", "dst": "b", "payload": 1}


async def test_only_heartbeats_keep_a_client(broker: BrokerFactory) -> None:
    async with broker(alive_timeout=3.0) as url, client(url, "beating") as beating:

        async def beat() -> None:
            while True:
                await send(beating, "HEARTBEAT")
                await asyncio.sleep(0.2)

        async def chat(socket: ClientConnection) -> None:
            while True:
                await send(socket, "OFFER", dst="beating")
                await asyncio.sleep(0.2)

        beats = asyncio.create_task(beat())
        async with client(url, "chatty") as chatty:
            with pytest.raises(ConnectionClosed):
                await chat(chatty)
        await send(beating, "OFFER", dst="beating")
        heard = [(await receive(beating))["src"]]
        while heard[-1] != "beating":
            heard.append((await receive(beating))["src"])
        assert heard.count("chatty") > 1
        beats.cancel()


async def test_coming_back_counts_as_life(broker: BrokerFactory, ours: bool) -> None:
    """PeerServer drops a client that has come back as if it had been silent all the while."""
    async with broker(alive_timeout=6.0) as url, client(url, "a") as old:
        await asyncio.sleep(4.0)
        async with connect(socket_url(url, id="a", token="token")) as new:
            if ours:
                assert await receive(new) == {"type": "OPEN"}
            await asyncio.sleep(2.5)  # after the old socket's time, before the new one's
            if ours:
                assert await hears_nothing(new)
            else:
                assert await ends(new)
        await old.close()


async def test_same_port_again(broker: BrokerFactory) -> None:
    async with broker() as url, client(url, "a"):
        pass
    async with broker(port=port_of(url)) as again:
        assert again == url
        async with client(url, "a", "another"):
            pass
