"""A peer and its broker: who it is, whom it reaches, what becomes of it in an outage."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest

from peercli.errors import (
    BrokerError,
    Declined,
    Disconnected,
    InvalidID,
    InvalidKey,
    NegotiationFailed,
    NetworkError,
    PeerError,
    PeerUnavailable,
    ProtocolError,
    ServerError,
    SslUnavailable,
    TimedOut,
    UnavailableID,
    UsageError,
)
from peercli.options import IceOptions
from peercli.peer import peer as peer_module
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.protocol import signaling
from peercli.protocol.codecs import CLOSE
from peercli.protocol.early import MAX_EARLY_CONNECTIONS
from peercli.protocol.messages import Offer
from peercli.rtc import link
from tests.brokers import BROKERS, our_server, peerserver, port_of
from tests.peer.peers import PATIENCE, event, make, pair, payload, until, wire
from tests.rtc.links import without_candidates
from tests.server import clients

each_broker = pytest.mark.parametrize("broker", BROKERS)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Come back soon after an outage: the waiting itself is tested in virtual time."""
    monkeypatch.setattr(signaling, "FIRST_DELAY", 0.05)
    monkeypatch.setattr(signaling, "MAX_DELAY", 0.2)


# Registering ----------------------------------------------------------------------------------


@each_broker
async def test_an_id_of_ones_own(broker: str) -> None:
    async with BROKERS[broker]() as url:
        peer = make("alice", url)
        opened = asyncio.create_task(event(peer, "open"))
        await asyncio.sleep(0)
        assert (peer.open, peer.disconnected, peer.destroyed) == (False, True, False)
        async with peer:
            assert await opened == ("alice",)
            assert (peer.open, peer.disconnected, peer.destroyed) == (True, False, False)
        assert (peer.open, peer.disconnected, peer.destroyed) == (False, True, True)
        async with make(None, url) as other:
            assert other.id != "alice"


@each_broker
async def test_an_id_that_is_taken(broker: str) -> None:
    async with BROKERS[broker]() as url, make("alice", url):
        with pytest.raises(UnavailableID) as caught:
            async with make("alice", url):
                pass
        assert caught.value.hint


@each_broker
async def test_a_key_that_is_not_served(broker: str) -> None:
    async with BROKERS[broker]() as url:
        with pytest.raises(InvalidKey):
            async with make("alice", f"{url}?key=wrong"):
                pass
        # PeerServer does not look at the key of an HTTP request: it tells that it allows no list.
        with pytest.raises(InvalidKey if broker == "peercli" else ServerError):
            await make("alice", f"{url}?key=wrong").list_all_peers()


def test_an_id_that_nobody_can_have() -> None:
    with pytest.raises(InvalidID):
        Peer("a/b")
    with pytest.raises(UsageError):
        Peer("alice", server="http://")
    with pytest.raises(UsageError):
        Peer("alice", ice_servers=["stun:"])


@asynccontextmanager
async def no_broker(answer: bytes | None) -> AsyncIterator[str]:
    """A TCP server that answers anything with `answer` and closes; None: it never answers."""
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        held.append(writer)
        if answer is not None:
            writer.write(answer)
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()
        for writer in held:
            writer.transport.abort()
        await server.wait_closed()


NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
A_PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (NOT_FOUND, ServerError),
        (A_PAGE, ServerError),
        (b"\x00garbage\r\n\r\n", ServerError),
        (b"", ServerError),
    ],
)
async def test_what_is_no_broker(answer: bytes, kind: type[PeerError]) -> None:
    async with no_broker(answer) as url:
        with pytest.raises(kind):
            async with make("alice", url):
                pass
        with pytest.raises(BrokerError):
            await make("alice", url).list_all_peers()


async def test_a_broker_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        with pytest.raises(NetworkError):
            async with make("alice", url):
                pass
        with pytest.raises(NetworkError):
            await make("alice", url).list_all_peers()
    async with our_server() as plain:
        with pytest.raises(SslUnavailable):
            async with make("alice", plain.replace("http:", "https:")):
                pass
    monkeypatch.setattr("peercli.peer.broker.DIAL_TIMEOUT", 0.3)
    async with no_broker(None) as silent:
        with pytest.raises(NetworkError):
            async with make("alice", silent):
                pass


async def test_of_several_addresses_one_that_works_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the broker's name has an IPv6 address, and IPv6 leads nowhere."""
    async with our_server() as url:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            with socket.create_connection(full.getsockname()):  # its queue is full: no other is answered
                addresses = [full.getsockname(), ("127.0.0.1", port_of(url))]
                known = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
                monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: known)
                async with asyncio.timeout(PATIENCE), make("alice", "http://two-homed.test/") as alice:
                    assert alice.open


async def test_a_proxy_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with our_server() as url:
        monkeypatch.setenv("http_proxy", "ftp://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "")
        with pytest.raises(BrokerError):
            async with make("alice", url):
                pass


async def test_giving_up_while_it_registers() -> None:
    async with no_broker(None) as url:
        peer = make("alice", url)
        starting = asyncio.create_task(peer.start())
        await asyncio.sleep(0.05)
        await peer.destroy()
        with pytest.raises(Disconnected):
            await starting
        registering = asyncio.create_task(make("bob", url).__aenter__())
        await asyncio.sleep(0.05)
        registering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await registering


@each_broker
async def test_the_list_of_all_peers(broker: str) -> None:
    async with BROKERS[broker](allow_discovery=True) as url, make("alice", url) as alice, make("bob", url):
        assert sorted(await alice.list_all_peers()) == ["alice", "bob"]
    async with BROKERS[broker]() as url, make("alice", url) as alice:
        with pytest.raises(ServerError) as caught:
            await alice.list_all_peers()
        assert "--allow-discovery" in caught.value.hint


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'["a"', b"[" * 100_000, b"\xff"])
async def test_a_list_that_is_none(body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    async with no_broker(head + body) as url:
        with pytest.raises(ServerError):
            await make("alice", url).list_all_peers()


# Finding each other ---------------------------------------------------------------------------


@each_broker
async def test_connect_and_accept(broker: str) -> None:
    async with BROKERS[broker]() as url, pair(url) as (alice, bob):
        metadata = {"any": ["JSON", 1.5, None, "ünï \ud800"]}
        # Half a character: PeerServer passes it on, ours a sign for it.
        arrived = metadata if broker != "peercli" else {"any": ["JSON", 1.5, None, "ünï \ufffd"]}
        here = await alice.connect(
            "bob", label="läbel", metadata=metadata, serialization="json", reliable=False
        )
        there = await bob.accept()
        assert (here.peer, there.peer) == ("bob", "alice")
        assert (here.outgoing, there.outgoing) == (True, False)
        for connection, seen in ((here, metadata), (there, arrived)):
            assert connection.open
            assert connection.type == "data"
            assert connection.connection_id == here.connection_id
            assert (connection.label, connection.metadata) == ("läbel", seen)
            assert (connection.serialization, connection.reliable) == ("json", False)
            assert connection.route is not None
        await here.send({"hello": "bob"})
        assert await there.receive() == {"hello": "bob"}
        await there.send(["hello", "alice"])
        assert await here.receive() == ["hello", "alice"]


async def test_what_is_not_said_has_peerjs_defaults() -> None:
    async with pair() as (alice, bob):
        here = await alice.connect("bob")
        there = await bob.accept()
        assert here.connection_id.startswith("dc_")
        assert here.label == there.label == here.connection_id
        assert (there.metadata, there.serialization, there.reliable) == (None, "binary", True)


async def test_many_connections_at_once() -> None:
    async with pair() as (alice, bob):

        async def talk(number: int) -> object:
            connection = await alice.connect("bob", metadata=number)
            await connection.send(f"from {number}")
            answer = await connection.receive()
            await connection.close()
            return answer

        async def serve(connection: DataConnection) -> None:
            async for message in connection:
                await connection.send([connection.metadata, message])

        async with asyncio.TaskGroup() as tasks:
            talking = [tasks.create_task(talk(number)) for number in range(50)]
            for _ in talking:
                tasks.create_task(serve(await bob.accept()))
        assert [task.result() for task in talking] == [[n, f"from {n}"] for n in range(50)]


async def test_both_connect_to_each_other_at_once() -> None:
    async with pair() as (alice, bob):
        from_alice, from_bob = await asyncio.gather(alice.connect("bob"), bob.connect("alice"))
        at_alice, at_bob = await asyncio.gather(alice.accept(), bob.accept())
        assert from_alice.connection_id == at_bob.connection_id != from_bob.connection_id
        await asyncio.gather(from_alice.send("to bob"), from_bob.send("to alice"))
        assert (await at_bob.receive(), await at_alice.receive()) == ("to bob", "to alice")


async def test_connections_until_the_peer_is_destroyed() -> None:
    async with pair() as (alice, bob):
        met: list[str] = []

        async def meet() -> None:
            async for connection in bob.connections():
                met.append(connection.label)

        meeting = asyncio.create_task(meet())
        for label in ("one", "two"):
            await alice.connect("bob", label=label)
        await until(lambda: len(met) == 2)
        await bob.destroy()
        await meeting
        assert met == ["one", "two"]
        with pytest.raises(Disconnected):
            await bob.accept()


async def test_events_in_the_place_of_accept() -> None:
    async with pair() as (alice, bob):
        came: list[DataConnection] = []
        bob.on("connection", came.append)
        here = await alice.connect("bob", metadata="hello")
        [there] = came
        assert (there.peer, there.metadata) == ("alice", "hello")
        await there.opened()
        await here.send(1)
        assert await there.receive() == 1
        accepting = asyncio.create_task(bob.accept())
        await asyncio.sleep(0)
        assert not accepting.done()
        accepting.cancel()


async def test_connections_are_found_by_their_ids() -> None:
    async with pair() as (alice, bob):
        here = await alice.connect("bob")
        there = await bob.accept()
        assert alice.get_connection("bob", here.connection_id) is here
        assert bob.get_connection("alice", here.connection_id) is there
        assert bob.get_connection("bob", here.connection_id) is None
        assert bob.get_connection("alice", "dc_nobody") is None
        await here.close()
        await there.closed()
        await until(lambda: bob.get_connection("alice", here.connection_id) is None)


class Reversed:
    """A serialization of one's own: text, last letter first."""

    def __init__(self, name: str) -> None:
        self.name = name

    def encode(self, value: str) -> list[str]:
        return [value[::-1]]

    def decode(self, wire: bytes | str) -> list[Any]:
        return [CLOSE if wire == "" else wire[::-1]]

    def encode_close(self) -> list[str]:
        return [""]


async def test_a_serialization_of_ones_own() -> None:
    mine = {"reversed": Reversed}
    async with (
        pair(serializers=mine) as (alice, bob),
        make("carol", bob.brokers[0].url, serializers=mine) as carol,
    ):
        here = await carol.connect("bob", serialization="reversed")
        there = await bob.accept()
        assert (here.serialization, there.serialization) == ("reversed", "reversed")
        await here.send("straight")
        await here.close(flush=True)
        assert [value async for value in there] == ["straight"]
        with pytest.raises(UsageError, match="reversed"):
            await alice.connect("bob", serialization="reversed")
        with pytest.raises(Declined):
            await carol.connect("alice", serialization="reversed")


async def test_accept_can_be_cancelled() -> None:
    async with pair() as (alice, bob):
        accepting = asyncio.create_task(bob.accept())
        await asyncio.sleep(0)
        accepting.cancel()
        here = await alice.connect("bob")
        assert (await bob.accept()).connection_id == here.connection_id


# Not finding each other -----------------------------------------------------------------------


@each_broker
async def test_a_peer_that_is_not_there(broker: str) -> None:
    async with BROKERS[broker](expire_timeout=0.3) as url, pair(url) as (alice, _):
        errors: list[PeerError] = []
        alice.on("error", errors.append)
        with pytest.raises(PeerUnavailable) as caught:
            await alice.connect("nobody")
        assert "nobody" in str(caught.value)
        assert [type(error) for error in errors] == [PeerUnavailable]
        assert alice.active == 0


@each_broker
async def test_a_peer_that_declines(broker: str) -> None:
    async with BROKERS[broker](expire_timeout=60) as url:
        seen: list[Offer] = []

        def admit(offer: Offer) -> bool:
            seen.append(offer)
            return bool(offer.metadata == "please")

        async with pair(url, admit=admit) as (alice, bob):
            with pytest.raises(Declined):
                await alice.connect("bob", label="knock")
            assert [(offer.peer, offer.label) for offer in seen] == [("alice", "knock")]
            assert bob.active == 0
            await alice.connect("bob", metadata="please")


async def test_an_admission_that_fails_is_none() -> None:
    errors: list[Exception] = []

    def admit(offer: Offer) -> bool:
        raise ZeroDivisionError

    async with pair(admit=admit) as (alice, bob):
        bob.on("error", errors.append)
        with pytest.raises(Declined):
            await alice.connect("bob")
        assert [type(error) for error in errors] == [ZeroDivisionError]
        assert bob.open


async def test_a_peer_that_is_full() -> None:
    async with pair(max_connections=1) as (alice, bob):
        here = await alice.connect("bob")
        with pytest.raises(Declined):
            await alice.connect("bob")
        with pytest.raises(UsageError):
            await bob.connect("alice")
        await here.close()
        await (await bob.accept()).closed()
        await until(lambda: not bob.active)
        await alice.connect("bob")


async def test_connections_that_nobody_accepts_do_not_pile_up() -> None:
    async with pair(max_connections=3) as (alice, bob):
        for _ in range(3):
            here = await alice.connect("bob")
            await here.close()
            await until(lambda: not bob.active)
        with pytest.raises(Declined):
            await alice.connect("bob")
        await bob.accept()
        await alice.connect("bob")


async def test_a_peer_that_does_not_answer() -> None:
    async with our_server() as url, make("alice", url) as alice, clients.client(url, "mute"):
        with pytest.raises(TimedOut):
            await alice.connect("mute", timeout=0.3)
        assert alice.active == 0


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"serialization": "xml"}, UsageError),
        ({"metadata": {1, 2}}, UsageError),
        ({"metadata": float("nan")}, UsageError),
        ({"metadata": {1: 2}}, UsageError),
        ({"metadata": "x" * (1 << 20)}, ProtocolError),
        ({"label": "x" * 70_000}, UsageError),
    ],
)
async def test_what_cannot_be_offered(options: dict[str, Any], kind: type[PeerError]) -> None:
    async with pair() as (alice, _):
        deep: list[Any] = []
        for _ in range(200):
            deep = [deep]
        for given in (options, {"metadata": deep}):
            with pytest.raises(kind if given is options else UsageError):
                await alice.connect("bob", **given)
        assert alice.active == 0
        await alice.connect("bob")


@pytest.mark.parametrize("target", ["", "a\nb", "a\x00", "\ud800", "x" * 2000])
async def test_whom_nobody_can_be(target: str) -> None:
    async with pair() as (alice, _):
        with pytest.raises(InvalidID):
            await alice.connect(target)
        with pytest.raises(UsageError):
            await alice.connect("alice")


async def test_relay_without_a_turn_server_fails_on_either_side() -> None:
    async with pair(relay=True) as (alice, bob):
        with pytest.raises(NegotiationFailed):
            await bob.connect("alice")
        with pytest.raises(TimedOut):  # Bob cannot answer, and there is no message to say so
            await alice.connect("bob", timeout=1.0)


async def test_cancelling_at_any_moment_leaves_nothing() -> None:
    async with pair() as (alice, bob):
        await (await alice.connect("bob")).close()
        await (await bob.accept()).closed()
        before = psutil.Process().num_fds()
        turns, connected = 0, False
        while not connected:
            connecting = asyncio.create_task(alice.connect("bob"))
            for _ in range(turns):
                if connecting.done():
                    break
                await asyncio.sleep(0.001 if turns > 20 else 0)
            connected = connecting.done()
            connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await connecting).close()
            assert alice.active == 0
            turns += 1 + turns // 4
        await bob.destroy()
        assert bob.active == 0
        assert psutil.Process().num_fds() <= before


async def test_a_dial_that_is_closed_at_once() -> None:
    async with pair() as (alice, _):
        for yields in range(4):
            connection = alice.dial("bob")
            for _ in range(yields):
                await asyncio.sleep(0)
            await connection.close()
            with pytest.raises(PeerError):
                await connection.opened()
        assert alice.active == 0


# Leaving and coming back ----------------------------------------------------------------------


@each_broker
async def test_disconnect_and_reconnect(broker: str) -> None:
    async with BROKERS[broker](expire_timeout=0.3, allow_discovery=True) as url, pair(url) as (alice, bob):
        here = await alice.connect("bob")
        there = await bob.accept()
        left = asyncio.create_task(event(bob, "disconnected"))
        await asyncio.sleep(0)
        bob.disconnect()
        bob.disconnect()
        assert await left == ("bob",)
        assert (bob.open, bob.disconnected, bob.destroyed) == (False, True, False)
        with pytest.raises(Disconnected):
            await bob.connect("alice")
        await here.send("still there?")
        assert await there.receive() == "still there?"
        while await alice.list_all_peers() != ["alice"]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # until then PeerServer loses what is for Bob
        with pytest.raises(PeerUnavailable):
            await alice.connect("bob")
        await bob.reconnect()
        await bob.reconnect()
        assert (bob.id, bob.open, bob.disconnected) == ("bob", True, False)
        await alice.connect("bob")
        assert (await bob.accept()).peer == "alice"


async def test_disconnecting_ends_what_is_not_open_yet() -> None:
    async with our_server() as url, make("alice", url) as alice, clients.client(url, "mute"):
        connecting = asyncio.create_task(alice.connect("mute"))
        await asyncio.sleep(0.1)
        alice.disconnect()
        with pytest.raises(Disconnected):
            await connecting


async def test_destroy_is_the_end() -> None:
    async with pair() as (alice, bob):
        here = await alice.connect("bob")
        there = await bob.accept()
        connecting = asyncio.create_task(alice.connect("bob"))
        closed = asyncio.create_task(event(alice, "close"))
        await asyncio.sleep(0)
        await alice.destroy()
        await alice.destroy()
        assert await closed == ()
        assert alice.destroyed
        assert not here.open
        await there.closed()
        with pytest.raises(PeerError):
            await connecting
        for work in (alice.start(), alice.reconnect(), alice.connect("bob"), alice.accept()):
            with pytest.raises(Disconnected):
                await work


async def test_leaving_loses_nothing_that_was_sent() -> None:
    async with our_server() as url, make("bob", url) as bob:
        async with make("alice", url) as alice:
            connections = [await alice.connect("bob") for _ in range(3)]
            for connection in connections:
                for number in range(10):
                    await connection.send([number] * 5000)
        for _ in connections:
            accepted = await bob.accept()
            assert [value async for value in accepted] == [[number] * 5000 for number in range(10)]


async def test_a_listener_may_destroy_its_peer() -> None:
    async with pair() as (alice, bob):
        began = asyncio.Event()

        @bob.on("connection")
        async def meet(connection: DataConnection) -> None:
            await connection.opened()
            began.set()
            await bob.destroy()

        here = await alice.connect("bob")
        await began.wait()
        await bob.destroy()
        assert bob.active == 0
        await here.closed()


async def test_listeners_end_with_their_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "LISTENER_TIMEOUT", 0.1)
    ended: list[str] = []

    async def linger(*_: object) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cancelled")

    async def part() -> None:
        await asyncio.sleep(0.01)
        ended.append("in peace")

    async with pair() as (alice, bob):
        bob.on("connection", linger)
        bob.on("close", part)
        here = await alice.connect("bob")
        here.on("close", linger)
        await here.close()
    assert sorted(ended) == ["cancelled", "cancelled", "in peace"]


# Outages --------------------------------------------------------------------------------------


@each_broker
async def test_a_broker_that_is_killed_and_comes_back(broker: str) -> None:
    """Connections live on, the id is taken back, new connections are possible, messages wait."""
    factory = BROKERS[broker]
    async with contextlib.AsyncExitStack() as stack:
        async with factory() as url:
            alice, bob = make("alice", url), make("bob", url)
            for peer in (alice, bob):
                await stack.enter_async_context(peer)
            here = await alice.connect("bob")
            there = await bob.accept()
            gone = [asyncio.create_task(event(peer, "disconnected")) for peer in (alice, bob)]
            waiting = asyncio.create_task(event(alice, "reconnecting"))
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            assert [await left for left in gone] == [("alice",), ("bob",)]
            attempt, delay = await waiting
            assert (attempt, delay <= 0.05) == (1, True)
            assert (alice.open, alice.disconnected) == (False, False)
            await here.send("without a broker")
            assert await there.receive() == "without a broker"
            connecting = asyncio.create_task(alice.connect("bob"))
            back = [asyncio.create_task(event(peer, "open")) for peer in (alice, bob)]
            await asyncio.sleep(0.3)
            async with factory(port=port_of(url)):
                assert [await opened for opened in back] == [("alice",), ("bob",)]
                new = await connecting
                assert (await bob.accept()).connection_id == new.connection_id
                assert (await bob.connect("alice")).open
                await there.send("and with one")
                assert await here.receive() == "and with one"
                for peer in (alice, bob):
                    await peer.destroy()


async def test_a_socket_that_is_cut_under_peerserver(monkeypatch: pytest.MonkeyPatch) -> None:
    """PeerServer 1.0.2 takes the same token back without a word: no OPEN, and we go on all the same."""
    monkeypatch.setattr(signaling, "REATTACH_GRACE", 0.3)
    async with (
        peerserver() as url,
        wire(url) as (line, near),
        make("bob", near) as bob,
        make("alice", url) as alice,
    ):
        here = await alice.connect("bob")
        there = await bob.accept()
        line.from_broker = line.to_broker = b""
        again = asyncio.create_task(event(bob, "open"))
        await asyncio.sleep(0)
        line.cut(unnoticed=True)
        assert await again == ("bob",)
        assert b"OPEN" not in line.from_broker
        assert line.to_broker.count(f"token={bob.token}".encode()) == 1
        await here.send("still here")
        assert await there.receive() == "still here"
        new = await alice.connect("bob")
        assert (await bob.accept()).connection_id == new.connection_id
        assert (await bob.connect("alice")).open


async def test_a_socket_that_is_cut_under_our_broker() -> None:
    async with (
        our_server() as url,
        wire(url) as (line, near),
        make("bob", near) as bob,
        make("alice", url) as alice,
    ):
        for _ in range(3):
            again = asyncio.create_task(event(bob, "open"))
            await asyncio.sleep(0)
            line.cut()
            await again
            await alice.connect("bob")


OFFER_SIZE = 500  # bytes that an offer has at least; a heartbeat has fewer


@each_broker
async def test_an_offer_that_dies_with_the_broker_is_made_again(broker: str) -> None:
    async with (
        BROKERS[broker]() as url,
        wire(url) as (line, near),
        make("bob", url) as bob,
        make("alice", near) as alice,
    ):
        line.swallows, line.to_broker = True, b""
        connecting = asyncio.create_task(alice.connect("bob"))
        await until(lambda: len(line.to_broker) > OFFER_SIZE)
        line.swallows = False
        line.cut()
        here = await connecting
        assert (await bob.accept()).connection_id == here.connection_id


async def test_a_broker_that_does_not_answer_the_goodbye() -> None:
    async with our_server() as url, wire(url) as (line, near):
        async with make("alice", near):
            line.swallows = True
        assert "keepalive" not in repr(asyncio.all_tasks())


@each_broker
async def test_an_answer_that_dies_with_the_line_is_given_again(broker: str) -> None:
    async with (
        BROKERS[broker]() as url,
        wire(url) as (line, near),
        make("bob", url) as bob,
        make("alice", near) as alice,
    ):
        offers: list[DataConnection] = []
        bob.on("connection", offers.append)
        bob.once("connection", lambda _: setattr(line, "swallows", True))
        connecting = asyncio.create_task(alice.connect("bob"))
        await until(lambda: b"ANSWER" in line.from_broker)
        line.swallows = False
        line.cut()
        here = await connecting
        assert [connection.connection_id for connection in offers] == [here.connection_id]
        await until(lambda: offers[0].open)


async def test_an_id_that_another_has_taken_while_we_were_away() -> None:
    async with our_server() as url, make("bob", url) as bob:
        accepting = asyncio.create_task(bob.accept())
        bob.disconnect()
        async with make("bob", url):
            with pytest.raises(UnavailableID):
                await bob.reconnect()
        assert (bob.open, bob.disconnected) == (False, True)
        assert not accepting.done(), "we left on purpose, and may come back"
        await bob.reconnect()
        async with make("alice", url) as alice:
            here = await alice.connect("bob")
            assert (await accepting).connection_id == here.connection_id


async def test_an_id_that_is_lost_in_an_outage_is_told_to_who_accepts() -> None:
    async with our_server() as url, wire(url) as (line, near), make("bob", near) as bob:
        await line.stop()
        async with make("bob", url):
            await line.start(port_of(near))
            for _ in range(2):
                with pytest.raises(UnavailableID):
                    await bob.accept()
            assert bob.disconnected
        await bob.reconnect()
        async with make("alice", url) as alice:
            here = await alice.connect("bob")
            assert (await bob.accept()).connection_id == here.connection_id


async def test_what_was_given_up_in_an_outage_is_not_offered_afterwards() -> None:
    async with our_server() as url, wire(url) as (line, near), make("bob", url) as bob:
        offers: list[DataConnection] = []
        bob.on("connection", offers.append)
        async with make("alice", near) as alice:
            lost = asyncio.create_task(event(alice, "disconnected"))
            await asyncio.sleep(0)
            await line.stop()
            await lost
            with pytest.raises(TimedOut):
                await alice.connect("bob", timeout=0.2)
            again = asyncio.create_task(event(alice, "open"))
            await line.start(port_of(near))
            await again
            here = await alice.connect("bob")
            assert [connection.connection_id for connection in offers] == [here.connection_id]


# Strangers ------------------------------------------------------------------------------------


async def test_a_stranger_who_speaks_nonsense() -> None:
    async with our_server() as url, pair(url) as (alice, bob), clients.client(url, "mallory") as mallory:
        bad_payloads: list[Any] = [
            None,
            [],
            {},
            {"type": "data"},
            payload("", ""),
            payload("\ud800", "v=0"),
            payload("a\nb", "v=0"),
            payload("dc_1", "v=0\r\n", serialization="xml"),
            payload("dc_2", "garbage"),
            payload("dc_3", "v=0\r\n", metadata=[[[[[]]]]], label=None),
            payload("dc_4", "v=0\r\n", type="media"),
            payload("dc_5", "v=0\r\n", type="fantasy"),
            {"candidate": {"candidate": "candidate:garbage"}, "type": "data", "connectionId": "dc_2"},
            {"candidate": {"candidate": "x" * 100_000}, "type": "data", "connectionId": "dc_2"},
            {"sdp": {"sdp": "v=0"}, "type": "data", "connectionId": "dc_nobody"},
            {"connectionId": "dc_nobody", "declined": True},
        ]
        for kind in ("OFFER", "ANSWER", "CANDIDATE", "LEAVE", "EXPIRE", "OPEN", "NEWS"):
            for bad in bad_payloads:
                await mallory.send(json.dumps({"type": kind, "dst": "bob", "payload": bad}))
        here = await alice.connect("bob")
        there = await bob.accept()
        await here.send("unharmed")
        assert (there.peer, await there.receive()) == ("alice", "unharmed")
        await until(lambda: bob.active == 1)


async def test_a_stranger_cannot_speak_for_another() -> None:
    async with our_server() as url, pair(url) as (alice, bob), clients.client(url, "mallory") as mallory:
        connection = alice.dial("bob")
        for spoken in (
            {"type": "EXPIRE", "payload": {"connectionId": connection.connection_id, "declined": True}},
            {"type": "EXPIRE", "src": "bob"},
            {"type": "LEAVE", "src": "bob"},
            {
                "type": "ANSWER",
                "src": "bob",
                "payload": {"sdp": {"sdp": ""}, "type": "data", "connectionId": connection.connection_id},
            },
        ):
            await mallory.send(json.dumps({"dst": "alice"} | spoken))
        await connection.opened()
        assert (await bob.accept()).connection_id == connection.connection_id


async def test_a_stranger_is_told_what_is_declined() -> None:
    async with our_server() as url, make("bob", url) as bob, clients.client(url, "page") as page:
        for number, odd in enumerate(({"serialization": "xml"}, {"type": "media"})):
            offer = payload(f"dc_{number}", "v=0\r\n", **odd)
            await clients.send(page, "OFFER", dst="bob", payload=offer)
            answer = await clients.receive(page)
            assert (answer["type"], answer["src"]) == ("EXPIRE", "bob")
            assert answer["payload"] == {"connectionId": f"dc_{number}", "declined": True}
        assert bob.active == 0


async def test_candidates_that_come_before_their_offer() -> None:
    """The offer is held up on its way; what overtakes it must not be lost."""
    async with our_server() as url, make("bob", url) as bob, clients.client(url, "page") as page:
        far_side = link.Link(IceOptions(), on_candidate=lambda _: None)
        sdp = await far_side.offer("label", ordered=True)
        bare, candidates = without_candidates(sdp)
        for candidate in candidates:
            early = {"candidate": {"candidate": candidate}, "type": "data", "connectionId": "dc_early"}
            await clients.send(page, "CANDIDATE", dst="bob", payload=early)
        await clients.send(page, "OFFER", dst="bob", payload=payload("dc_early", bare))
        answer = await clients.receive(page)
        # Without Bob's candidates only those that came early can join the two.
        far_side.accept(without_candidates(answer["payload"]["sdp"]["sdp"])[0])
        channel = await far_side.channel()
        there = await bob.accept()
        await there.send("found you")
        assert await channel.receive()
        await far_side.close()


async def test_candidates_for_nobody_do_not_pile_up() -> None:
    async with our_server() as url, pair(url) as (alice, bob), clients.client(url, "mallory") as mallory:
        candidate = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host"}
        for number in range(2 * MAX_EARLY_CONNECTIONS):
            for _ in range(2):
                flood = {"candidate": candidate, "type": "data", "connectionId": f"dc_{number}"}
                await clients.send(mallory, "CANDIDATE", dst="bob", payload=flood)
        await alice.connect("bob")
        assert len(bob._early) == MAX_EARLY_CONNECTIONS


async def test_a_page_that_offers_and_vanishes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CANDIDATE_TIMEOUT", 0.3)
    async with our_server() as url, make("bob", url) as bob, clients.client(url, "page") as page:
        far_side = link.Link(IceOptions(), on_candidate=lambda _: None)
        sdp = await far_side.offer("label", ordered=True)
        await far_side.close()
        errors: list[PeerError] = []
        bob.on("connection", lambda connection: connection.on("error", errors.append))
        await clients.send(page, "OFFER", dst="bob", payload=payload("dc_1", sdp))
        await clients.receive(page)
        await until(lambda: not bob.active)
        assert [type(error) for error in errors] == [NegotiationFailed]
