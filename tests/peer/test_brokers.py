"""Several brokers: peers with one in common meet, whichever of them lives, dies or comes back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from peercli.errors import Declined, NetworkError, PeerUnavailable, UnavailableID, UsageError
from peercli.peer import brokers
from peercli.peer.peer import Peer
from tests.brokers import our_server, peerserver, port_of
from tests.peer.peers import PATIENCE, make, until, wire


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The address of a broker that is not there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


def at(id: str, *urls: str) -> Peer:
    return Peer(id, server=urls, ice_servers=())


async def talk(alice: Peer, bob: Peer) -> None:
    here = await alice.connect(bob.id)
    there = await bob.accept()
    await here.send("hello")
    assert await there.receive() == "hello"
    await asyncio.gather(here.close(), there.close())
    assert alice.active == bob.active == 0


@pytest.mark.parametrize(
    ("hers", "his"),
    [("AB", "AB"), ("AB", "BA"), ("AB", "B"), ("A", "BA"), ("XAB", "BX")],
)
async def test_peers_with_a_broker_in_common_meet(hers: str, his: str, nowhere: str) -> None:
    async with asyncio.timeout(PATIENCE), our_server() as a, peerserver() as b:
        urls = {"A": a, "B": b, "X": nowhere}
        hers_of, his_of = ([urls[name] for name in names] for names in (hers, his))
        async with at("alice", *hers_of) as alice, at("bob", *his_of) as bob:
            await talk(alice, bob)
            await talk(bob, alice)


async def test_a_peer_that_nobody_knows() -> None:
    async with (
        asyncio.timeout(PATIENCE),
        our_server(expire_timeout=0.2) as a,
        our_server(expire_timeout=0.2) as b,
        at("alice", a, b) as alice,
    ):
        with pytest.raises(PeerUnavailable, match=r"no peer nobody answers at .* or .*"):
            await alice.connect("nobody")


async def test_nobody_waits_for_a_broker_that_is_not_there(nowhere: str) -> None:
    async with (
        asyncio.timeout(PATIENCE),
        our_server(expire_timeout=0.2) as a,
        at("alice", nowhere, a) as alice,
    ):
        with pytest.raises(PeerUnavailable):
            await alice.connect("nobody")


async def test_none_of_them_can_be_reached(nowhere: str) -> None:
    with pytest.raises(NetworkError, match="no broker can be had"):
        await at("alice", nowhere, nowhere.replace("127.0.0.1", "localhost")).start()


async def test_a_peer_wants_a_broker() -> None:
    with pytest.raises(UsageError):
        at("alice")


async def test_declined_once_is_declined() -> None:
    async with (
        asyncio.timeout(PATIENCE),
        our_server() as a,
        our_server() as b,
        at("alice", a, b) as alice,
        Peer("bob", server=[b, a], ice_servers=(), admit=lambda offer: False),
    ):
        with pytest.raises(Declined):
            await alice.connect("bob")


async def test_an_id_that_is_taken() -> None:
    async with asyncio.timeout(PATIENCE), our_server() as a, make("alice", a):
        with pytest.raises(UnavailableID) as caught:
            await make("alice", a).start()
        assert "--token" in caught.value.hint, "how to take it over"
        assert "within a minute" in caught.value.hint, "when it is freed"


async def test_an_id_that_is_taken_at_one_of_them() -> None:
    async with asyncio.timeout(PATIENCE), our_server() as a, our_server() as b, make("alice", b):
        peer = at("alice", a, b)
        try:
            await peer.start()
            await until(lambda: peer.disconnected)  # where the other was quicker to say yes
        except UnavailableID:
            pass
        finally:
            await peer.destroy()


def open_at(number: int, *peers: Peer) -> bool:
    return all(number in peer._require_socket()._open for peer in peers)


async def test_a_broker_dies_and_comes_back() -> None:
    """Nobody notices the death of one, nor, when it is back, the death of the other."""
    lost: list[str] = []
    async with (
        asyncio.timeout(PATIENCE),
        our_server() as a,
        our_server() as b,
        wire(a) as (first, to_a),
        wire(b) as (relay, to_b),
        at("alice", to_a, to_b) as alice,
        at("bob", to_a, to_b) as bob,
    ):
        alice.on("disconnected", lost.append)
        await until(lambda: open_at(0, alice, bob) and open_at(1, alice, bob))
        await talk(alice, bob)
        await first.stop()
        await talk(alice, bob)
        await first.start(port_of(to_a))
        await until(lambda: open_at(0, alice, bob))
        await relay.stop()
        await talk(alice, bob)
        assert not lost


async def test_a_broker_that_comes_late_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brokers, "RETRY_DELAY", 0.2)
    async with our_server() as late:
        pass
    async with (
        asyncio.timeout(PATIENCE),
        our_server() as a,
        our_server() as b,
        at("alice", a, late) as alice,
        at("bob", b, late) as bob,
        our_server(port=port_of(late)),
    ):
        await until(lambda: open_at(1, alice, bob))
        await talk(alice, bob)
