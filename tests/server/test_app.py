"""What our broker alone promises: its limits, its care for sockets, TLS, proxies, and its end."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from peercli.errors import UsageError
from peercli.server.app import SWEEP_INTERVAL, Server
from peercli.server.http import MAX_HEAD
from peercli.server.listening import open_ports
from peercli.server.options import Limits, ServerOptions
from peercli.server.realm import MAX_ID_LENGTH
from peercli.server.sessions import MESSAGE_UNIT
from tests.brokers import port_of, socket_url
from tests.generated import ROOT
from tests.server.certificates import make_certificate
from tests.server.clients import QUIET, SOON, client, ends, get, hears_nothing, mute_client, receive, send


def serve(limits: Limits | None = None, **options: Any) -> Server:
    return Server(ServerOptions(port=0, limits=limits or Limits(), **options))


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the broker has no event for every change


# Options --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "path"), [("/", "/"), ("", "/"), ("a", "/a/"), ("/a", "/a/"), ("//a/b/", "/a/b/")]
)
def test_path_is_normalised(given: str, path: str) -> None:
    assert ServerOptions(path=given).path == path


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": -1},
        {"port": 65536},
        {"key": ""},
        {"key": "a/b"},
        {"expire_timeout": 0},
        {"alive_timeout": -1.0},
        {"expire_timeout": float("nan")},
        {"alive_timeout": float("inf")},
        {"turn_lifetime": float("inf")},
        {"concurrent_limit": 0},
        {"tls_cert": Path("cert.pem")},
        {"tls_key": Path("key.pem")},
        {"proxied": -1},
        {"turn_lifetime": 0.5},
        {"drain": -1.0},
    ],
)
def test_impossible_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ServerOptions(**wrong)


def test_what_is_held_for_a_peer_fits_in_its_outbox() -> None:
    limits = Limits()
    assert limits.max_message < limits.max_held_per_peer < limits.max_outbox


def test_the_manual_tells_the_limits() -> None:
    limits, told = Limits(), (ROOT / "man/parts/peercli-server.1.mdoc").read_text().replace("\n", " ")
    for figure in (
        f"has {limits.max_message >> 20} MiB at most",
        f"{limits.max_outbox >> 20} MiB wait for a client",
        f"{limits.max_held_per_peer >> 20} MiB wait for an absent peer, {limits.max_held >> 20} MiB for all",
        f"{limits.max_connections} connections at once",
        f"{limits.request_rate:g} requests and new sockets a second, {limits.request_burst:g} at once",
        f"{limits.message_rate:g} messages a second, {limits.message_burst:g} at once",
        f"each {MESSAGE_UNIT >> 10} KiB counts",
        f"{limits.http_idle:g} s and {MAX_HEAD >> 10} KiB",
        f"pinged after {limits.ping_interval:g} s",
        f"is always {SWEEP_INTERVAL * 1000:g} ms",
        f"up to {MAX_ID_LENGTH} letters",
    ):
        assert figure in told


# Listening ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "[::1]"),
        ("::", "[::1]"),
        ("", "127.0.0.1"),
        ("*", "127.0.0.1"),
        ("localhost", "localhost"),
    ],
)
async def test_url(host: str, shown: str) -> None:
    async with serve(host=host, path="é x") as server:
        assert server.url == f"http://{shown}:{server.port}/%C3%A9%20x/"
        assert (await get(server.url))[0] == 200


async def test_everywhere_is_both_kinds_of_address() -> None:
    """As with PeerServer, whose default is `::`; for limits, who comes by IPv4 is who he is."""
    for host in ("", "*", "::"):
        async with serve(Limits(max_connections=1), host=host) as server:
            assert (await get(f"http://127.0.0.1:{server.port}/"))[0] == 200
            assert (await get(f"http://[::1]:{server.port}/"))[0] == 200
            async with client(f"http://127.0.0.1:{server.port}/", "a"):
                assert server.door.connections("127.0.0.1") == 1


async def test_a_name_with_addresses_of_which_one_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """As localhost often is where IPv6 is switched off; and one port is for all."""

    def resolve(host: str, *_: object, type: int) -> list[tuple[Any, ...]]:
        assert host == "several.example"
        return [(socket.AF_INET, type, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    addresses = ["127.0.0.1", "203.0.113.1", "127.0.0.2", "127.0.0.1"]
    ports = open_ports("several.example", 0, share=False)
    names = [port.getsockname() for port in ports]
    for port in ports:
        port.close()
    assert [address for address, _ in names] == ["127.0.0.1", "127.0.0.2"]
    assert len({number for _, number in names}) == 1
    addresses = ["203.0.113.1"]
    with pytest.raises(UsageError, match="Cannot assign requested address"):
        open_ports("several.example", 0, share=False)


async def test_port_in_use() -> None:
    async with serve() as server:
        with pytest.raises(UsageError, match=f"127.0.0.1 port {server.port}: Address already in") as refused:
            async with Server(ServerOptions(port=server.port)):
                pytest.fail("it listens")
        assert "Another program" in refused.value.hint


@pytest.mark.parametrize("host", ["203.0.113.1", "2001:db8::1", "nobody.invalid", "x" * 99])
async def test_address_that_is_not_ours(host: str) -> None:
    with pytest.raises(UsageError, match=f"cannot listen on {re.escape(host)} port 0"):
        async with serve(host=host):
            pytest.fail("it listens")


def test_as_many_connections_as_the_system_allows() -> None:
    """…not only the 1024 that many shells give."""
    script = (
        "import resource; from peercli.server.listening import lift_file_limit as lift;"
        "limit = resource.RLIMIT_NOFILE; most = resource.getrlimit(limit)[1];"
        "resource.setrlimit(limit, (64, most)); lift(); assert resource.getrlimit(limit) == (most, most)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


async def test_peers() -> None:
    async with serve() as server, client(server.url, "a"), client(server.url, "b"):
        assert server.peers == ["a", "b"]


async def test_serve_until() -> None:
    stop = asyncio.Event()
    async with serve() as server:
        serving = asyncio.create_task(server.serve_until(stop))
        async with client(server.url, "a"):
            assert not serving.done()
            stop.set()
            await serving


# The end --------------------------------------------------------------------------------------------


async def test_sockets_are_told_of_the_end() -> None:
    async with serve() as server:
        url = server.url
        sockets = [await connect(socket_url(url, id=id, token="t")) for id in "abc"]
        for socket in sockets:
            assert await receive(socket) == {"type": "OPEN"}
        idle = await asyncio.open_connection("127.0.0.1", server.port)
    for socket in sockets:
        assert await ends(socket)
        assert socket.close_code == 1001
    assert await idle[0].read() == b""
    idle[1].close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port_of(url))


async def test_the_end_does_not_wait_for_those_who_do_not_answer() -> None:
    limits = Limits(close_timeout=0.2, probe_timeout=60.0)
    async with AsyncExitStack() as clients, asyncio.timeout(SOON):
        async with serve(limits) as server:
            await clients.enter_async_context(mute_client(server.url, "a"))
            asking = socket_url(server.url, id="a", token="other")
            newcomer = await clients.enter_async_context(connect(asking))
        assert server.peers == []
        with pytest.raises(ConnectionClosed):
            await newcomer.recv()


# Sockets --------------------------------------------------------------------------------------------


async def test_vanished_holder_gives_way() -> None:
    """Somebody else asks for an id whose holder does not answer any more: a page that was loaded again."""
    async with (
        serve(Limits(probe_timeout=0.3)) as server,
        mute_client(server.url, "a"),
        client(server.url, "a", "other") as socket,
    ):
        await send(socket, "OFFER", dst="a")
        assert (await receive(socket))["src"] == "a"


async def test_living_holder_stays() -> None:
    async with serve(Limits(probe_timeout=60.0)) as server, client(server.url, "a") as holder:
        for _ in range(3):
            async with connect(socket_url(server.url, id="a", token="other")) as other:
                assert (await receive(other))["type"] == "ID-TAKEN"
        assert await hears_nothing(holder)


async def test_holder_that_leaves_while_asked_gives_way() -> None:
    async with (
        serve(Limits(probe_timeout=60.0)) as server,
        mute_client(server.url, "a") as holder,
        connect(socket_url(server.url, id="a", token="other")) as newcomer,
    ):
        assert await hears_nothing(newcomer)
        holder.transport.abort()
        assert await receive(newcomer) == {"type": "OPEN"}


async def test_silent_socket_is_dropped() -> None:
    """…long before its heartbeats are missed, and its id is free; one that answers pings stays."""
    limits = Limits(ping_interval=0.1, ping_timeout=0.4)
    async with serve(limits) as server, client(server.url, "quiet") as quiet, mute_client(server.url, "gone"):
        await becomes(lambda: server.peers == ["quiet"])
        assert await hears_nothing(quiet)
        await send(quiet, "OFFER", dst="quiet")
        assert (await receive(quiet))["src"] == "quiet"


async def test_nobody_is_dropped_when_the_machine_stood_still() -> None:
    """…asleep, or busy with something else: it is not the clients that were silent."""
    limits = Limits(ping_interval=0.2, ping_timeout=0.5)
    async with serve(limits) as server, client(server.url, "a") as a:
        for _ in range(3):
            time.sleep(1.0)  # noqa: ASYNC251
            assert await hears_nothing(a)


async def test_pings_are_answered() -> None:
    async with serve() as server, client(server.url, "a") as socket:
        async with asyncio.timeout(SOON):
            await (await socket.ping(b"abc"))


async def test_slow_reader_is_dropped_and_its_messages_expire() -> None:
    limits = Limits(max_outbox=200_000, max_held_per_peer=100_000)
    async with (
        serve(limits, expire_timeout=0.3) as server,
        client(server.url, "a") as a,
        client(server.url, "b") as b,
        mute_client(server.url, "slow"),
    ):
        for _ in range(1000):
            await send(a, "OFFER", dst="slow", payload="x" * 50_000)
            if "slow" not in server.peers:
                break
            await asyncio.sleep(0)
        await send(b, "OFFER", dst="slow")
        assert await receive(b) == {"type": "EXPIRE", "src": "slow", "dst": "b"}
        assert sorted(server.peers) == ["a", "b"]


async def test_too_big_a_message_ends_its_socket() -> None:
    async with serve(Limits(max_message=10_000)) as server, client(server.url, "b") as b:
        async with client(server.url, "a") as a:
            await send(a, "OFFER", dst="b", payload="x" * 9_000)
            assert (await receive(b))["src"] == "a"
            await send(a, "OFFER", dst="b", payload="x" * 10_000)
            assert await ends(a)
            assert a.close_code == 1009
        await becomes(lambda: server.peers == ["b"])
        assert await hears_nothing(b)


async def test_who_was_told_goodbye_holds_nothing() -> None:
    """The id is free, and its messages wait for who comes next, however long the old socket takes to end."""
    async with serve(Limits(close_timeout=60.0)) as server, client(server.url, "a") as a:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HELLO + b"\x81\x00")  # not masked
        async with asyncio.timeout(SOON):
            await reader.readuntil(b"no mask")
        await send(a, "OFFER", dst="evil", payload=1)
        async with client(server.url, "evil", "another") as next_one:
            assert (await receive(next_one))["payload"] == 1
        assert len(server.sessions.sockets) >= 2
        writer.transport.abort()


async def test_held_messages_are_bounded() -> None:
    async with serve(Limits(max_held=5_000)) as server, client(server.url, "a") as a:
        for n in range(4):
            await send(a, "OFFER", dst=f"x{n}", payload="x" * 1_000)
        assert await receive(a) == {"type": "EXPIRE", "src": "x3", "dst": "a"}


HELLO = (
    b"GET /peerjs?key=peerjs&id=evil&token=t HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
        b"\x00" * 1000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /%ff%fe%00?%ff=%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nOrigin: x\r\n\r\n",
        b"GET http://elsewhere/peerjs/id HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT elsewhere:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /peerjs/id HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nabc",
        b"GET /peerjs?key=peerjs&id=a&token=\xff HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n",
        HELLO.replace(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Version: 99"),
        HELLO.replace(b"AAAAAAAAAAAAAAAAAAAAAA==", b"!"),
        HELLO.replace(b"Host: x", b"Sec-WebSocket-Protocol: \x1b[31mred"),
        HELLO.replace(b"token=t", b"token=%ff%fe"),
        HELLO + b"\x81\x05hello",  # not masked
        HELLO + b"\xf1\x80\x00\x00\x00\x00",  # reserved bits
        HELLO + b"\x83\x80\x00\x00\x00\x00",  # an opcode that nobody has defined
        HELLO + b"\x80\x80\x00\x00\x00\x00",  # a continuation of nothing
        HELLO + b"\x81\x82\x00\x00\x00\x00\xff\xfe",  # text that is no UTF-8
        HELLO + b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",  # 2^63 bytes to come
        HELLO + b"\x88\x81\x00\x00\x00\x00\x00",  # half a close code
        HELLO + b"\x89\xfe\x00\x7e\x00\x00\x00\x00",  # a ping of 126 bytes
        HELLO + b"\x01\x80\x00\x00\x00\x00" * 2,  # a message inside another
        HELLO + b"\x89\x80\x00\x00\x00\x00" * 2000,  # pings
    ],
    ids=lambda garbage: str(garbage.removeprefix(HELLO)[:24]),
)
async def test_garbage_harms_nobody(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serve() as server, client(server.url, "a") as a:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(garbage)
        async with asyncio.timeout(SOON):
            answer = await reader.read(1)
            writer.write_eof()
            answer += await reader.read()
        writer.close()
        assert b" 500 " not in answer
        await becomes(lambda: server.peers == ["a"])
        await send(a, "OFFER", dst="a")
        assert (await receive(a))["src"] == "a"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_request_that_never_ends_is_dropped() -> None:
    async with serve(Limits(http_idle=0.2)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        async with asyncio.timeout(SOON):
            assert await reader.read() == b""
        writer.close()


async def test_answers_that_are_not_read_do_not_pile_up() -> None:
    """…since who does not read them is not listened to; and nothing that was asked is forgotten."""
    ask = b"GET /peerjs/id HTTP/1.1\r\nHost: x\r\nPadding: " + b"x" * 500 + b"\r\n\r\n"
    asked = 1

    async def go_on_asking() -> None:
        nonlocal asked
        while True:
            writer.write(100 * ask)
            asked += 100
            await writer.drain()

    async with serve() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        asking = asyncio.create_task(go_on_asking())
        await becomes(lambda: not all(transport.is_reading() for transport in server.door.http))
        asking.cancel()
        writer.write(ask.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        async with asyncio.timeout(SOON):
            assert (await reader.read()).count(b"HTTP/1.1 ") == asked
        writer.close()


async def test_too_many_connections_from_one_address() -> None:
    limits = Limits(max_connections=3)
    async with serve(limits) as server, client(server.url, "a"), client(server.url, "b"):
        idle = await asyncio.open_connection("127.0.0.1", server.port)
        assert (await get(server.url))[0] == 503
        async with client(server.url, "c", local_addr=("127.0.0.2", 0)):
            pass
        idle[1].close()
        await becomes(lambda: server.door.connections("127.0.0.1") == 2)
        async with client(server.url, "d"):
            pass


async def test_too_many_sockets_behind_a_proxy() -> None:
    async with serve(Limits(max_connections=1), proxied=1) as server:
        one, other = ({"X-Forwarded-For": f"192.0.2.{n}"} for n in (1, 2))
        async with (
            client(server.url, "a", additional_headers=one),
            client(server.url, "b", additional_headers=other),
            connect(socket_url(server.url, id="c", token="t"), additional_headers=one) as refused,
        ):
            assert "Too many" in (await receive(refused))["payload"]["msg"]
        assert (await get(server.url))[0] == 200


async def test_under_attack_the_others_are_served() -> None:
    """Everything at once from some addresses: two clients elsewhere notice nothing of it."""
    limits = Limits(max_connections=40, message_burst=50, message_rate=50, request_burst=60, http_idle=1.0)
    big = b"\x81\xff" + (10 << 20).to_bytes(8, "big") + bytes(4)
    deep = json.dumps({"type": "OFFER", "dst": "a", "payload": 0}).replace("0", "[" * 5000 + "]" * 5000)

    async def attack(n: int, url: str, port: int) -> None:
        address = (f"127.0.1.{n}", 0)
        while True:
            with suppress(OSError, WebSocketException, TimeoutError):
                match n:
                    case 1:  # requests that never end
                        _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=address)
                        writers.append(writer)
                        writer.write(b"GET / HTTP/1.1\r\nX: ")
                    case 2:  # 10 MB messages
                        _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=address)
                        writers.append(writer)
                        writer.write(HELLO + big + bytes(1 << 20))
                        await asyncio.sleep(0.01)
                    case 3:  # deep JSON, as quick as can be
                        socket = await connect(socket_url(url, id="deep", token="t"), local_addr=address)
                        sockets.append(socket)
                        for _ in range(1000):
                            await socket.send(deep)
                    case 4:  # ids, as many as can be had
                        name = f"x{len(sockets)}"
                        sockets.append(await connect(socket_url(url, id=name, token="t"), local_addr=address))
                    case 5:  # a flood to those who are not there
                        socket = await connect(socket_url(url, id="flood", token="t"), local_addr=address)
                        sockets.append(socket)
                        for number in range(100_000):
                            await send(socket, "OFFER", dst=f"y{number}", payload="x" * 10_000)
            await asyncio.sleep(0.005)

    sockets: list[ClientConnection] = []
    writers: list[asyncio.StreamWriter] = []
    async with serve(limits) as server, client(server.url, "a") as a, client(server.url, "b") as b:
        attacks = [asyncio.create_task(attack(n, server.url, server.port)) for n in range(1, 6)]
        for n in range(40):
            await send(a, "OFFER", dst="b", payload=n)
            assert (await receive(b))["payload"] == n
            await asyncio.sleep(0.05)
        assert server.door.most() <= 40
        assert len(server.peers) <= 2 + 40 + 3
        for task in attacks:
            task.cancel()
        await asyncio.gather(*attacks, return_exceptions=True)
        for end in (socket.transport for socket in sockets):
            end.abort()
        for writer in writers:
            writer.transport.abort()


# Rates ----------------------------------------------------------------------------------------------

SLOW = 0.001  # a second: nothing more comes within a test


async def test_too_many_requests() -> None:
    async with serve(Limits(request_burst=4, request_rate=SLOW)) as server, client(server.url, "a") as a:
        for _ in range(3):
            assert (await get(server.url))[0] == 200
        status, headers, _ = await get(server.url, Origin="https://page.example")
        assert status == 429
        assert headers["Retry-After"] == "1"
        assert headers["Access-Control-Allow-Origin"] == "https://page.example"
        with pytest.raises(InvalidStatus) as refused:
            await connect(socket_url(server.url, id="b", token="t"))
        assert refused.value.response.status_code == 429

        # …but another address is served, and who is in already has noticed nothing.
        async with client(server.url, "c", local_addr=("127.0.0.2", 0)):
            await send(a, "OFFER", dst="c")
            assert await hears_nothing(a)


async def test_flood_is_slowed_down_and_nothing_of_it_lost() -> None:
    """The flooder's own connection fills up; another address is not kept waiting."""
    limits = Limits(message_burst=20, message_rate=200)
    async with (
        serve(limits) as server,
        client(server.url, "flooder", local_addr=("127.0.0.2", 0)) as flooder,
        client(server.url, "other", local_addr=("127.0.0.3", 0)) as other,
    ):
        for n in range(60):
            await send(flooder, "OFFER", dst="other", payload=n)
        for _ in range(15):
            await send(other, "OFFER", dst="other", payload="mine")
        heard = [(await receive(other))["payload"] for _ in range(75)]
        assert [n for n in heard if n != "mine"] == list(range(60))
        assert heard[-1] == 59


async def test_flood_is_stopped_at_its_source() -> None:
    async def flood(socket: ClientConnection) -> None:
        while True:
            await send(socket, "OFFER", dst="nobody", payload="x" * 100_000)

    limits = Limits(message_burst=1, message_rate=SLOW)
    async with serve(limits) as server, client(server.url, "flooder") as flooder:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(flood(flooder), 2 * QUIET)
        flooder.transport.abort()


async def test_pieces_of_messages_are_paid_for() -> None:
    """A message that never ends costs its sender as much as many that do."""
    piece = b"\x00\x80\x00\x00\x00\x00"
    async with serve(Limits(message_burst=100, message_rate=SLOW)) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HELLO + b"\x01" + piece[1:] + piece * 1000)
        await becomes(lambda: any(socket.paused for socket in server.sessions.sockets))
        writer.transport.abort()


async def test_client_that_is_slowed_down_is_not_taken_for_gone() -> None:
    limits = Limits(
        message_burst=1, message_rate=SLOW, probe_timeout=0.1, ping_interval=0.1, ping_timeout=0.1
    )
    async with serve(limits) as server, client(server.url, "a") as slowed:
        await send(slowed, "OFFER", dst="a")
        await send(slowed, "OFFER", dst="a")
        assert (await receive(slowed))["src"] == "a"
        assert await hears_nothing(slowed)
        async with connect(socket_url(server.url, id="a", token="other")) as other:
            assert (await receive(other))["type"] == "ID-TAKEN"
        slowed.transport.abort()


async def test_proxied() -> None:
    async def status(server: Server, forwarded: str | None) -> int:
        return (await get(server.url, **({"X-Forwarded-For": forwarded} if forwarded else {})))[0]

    limits = Limits(request_burst=2, request_rate=SLOW)
    async with serve(limits, proxied=True) as server:
        assert [await status(server, "192.0.2.1") for _ in range(3)] == [200, 200, 429]
        assert await status(server, "192.0.2.9, 192.0.2.1") == 429  # what it says of itself does not count
        assert await status(server, "192.0.2.1, 192.0.2.2") == 200
        assert await status(server, "2001:db8::1") == 200
        assert await status(server, "2001:db8::2") == 200
        assert await status(server, "2001:db8::3") == 429
        assert [await status(server, "nonsense") for _ in range(3)] == [200, 200, 429]
        assert await status(server, None) == 429  # nonsense counted for the proxy itself
    async with serve(limits, proxied=2) as server:
        assert [await status(server, f"192.0.2.7, 192.0.2.{n}") for n in range(3)] == [200, 200, 429]
    async with serve(limits) as server:  # nobody is believed
        assert [await status(server, f"192.0.2.{n}") for n in range(3)] == [200, 200, 429]


# TLS ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"), "localhost")


async def test_tls(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    trust = ssl.create_default_context(cafile=cert)
    async with serve(host="localhost", tls_cert=cert, tls_key=key) as server:
        assert server.url == f"https://localhost:{server.port}/"
        async with client(server.url, "a", ssl=trust) as socket:
            await send(socket, "OFFER", dst="a", payload=1)
            assert (await receive(socket))["payload"] == 1
        async with mute_client(server.url, "b", ssl=trust):
            pass
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(socket_url(server.url, id="a", token="t"))
        reader, writer = await asyncio.open_connection("localhost", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # plain HTTP
        async with asyncio.timeout(SOON):
            assert b"200" not in await reader.read()
        writer.close()


async def test_tls_handshake_that_never_ends_is_dropped(certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    async with serve(Limits(http_idle=0.2), tls_cert=cert, tls_key=key) as server:
        for begun in (b"", b"\x16\x03\x01\x02\x00\x01\x00"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(begun)
            async with asyncio.timeout(SOON):
                assert await reader.read() == b""
            writer.close()


async def test_tls_that_cannot_be(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    cert, key = certificate
    _, other = make_certificate(tmp_path, "other")
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        serialization.load_pem_private_key(key.read_bytes(), None).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    for pair, why in {
        (key, cert): "cannot use the TLS certificate",
        (cert, other): "mismatch",
        (tmp_path / "none", key): f"cannot read {tmp_path}/none: No such file",
        (cert, tmp_path): f"cannot read {tmp_path}: Is a directory",
        (cert, locked): "protected by a password",
    }.items():
        with pytest.raises(UsageError, match=why):
            async with serve(tls_cert=pair[0], tls_key=pair[1]):
                pytest.fail("it listens")
