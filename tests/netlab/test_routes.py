"""peercli between networks of every kind: connected or not, direct or relayed, as RFC 8445 allows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.netlab.lab import Lab, Nat, needed
from tests.netlab.servers import PASSWORD, broker
from tests.netlab.shaper import Shape
from tests.netlab.world import World, goes_direct, relayed, serial, talk

FAR = Shape(delay=0.05)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    needed()
    with Lab() as lab:
        yield World(lab)


async def test_a_lan_without_internet(lab: Lab) -> None:
    lan = lab.lan("cabin")
    here, there = lan.host(), lan.host()
    url = broker(there, there.address)
    # The servers of the defaults cannot even be looked up here.
    routes = await talk(here, there, ["--server", url])
    assert [route["local"].split(":")[0] for route in routes] == [here.address, there.address]
    assert not relayed(routes)


async def test_two_hosts_of_one_home(world: World) -> None:
    home = world.lab.home("flat", Nat.SYMMETRIC)
    here, there = home.host(), home.host()
    options = [*world.options(world.turn.stun), "--port-range", "40000-40003"]
    routes = await talk(here, there, options)
    assert [route["remote"].split(":")[0] for route in routes] == [there.address, here.address]
    assert all(40_000 <= int(route["local"].split(":")[1]) <= 40_003 for route in routes)


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED),
        (Nat.FULL_CONE, Nat.PORT_RESTRICTED),
        (Nat.ADDRESS_RESTRICTED, Nat.SYMMETRIC),
        (Nat.SYMMETRIC, Nat.NONE),
    ],
    ids=lambda nat: nat.value,
)
async def test_with_stun(world: World, here: Nat, there: Nat) -> None:
    assert goes_direct(here, there)
    routes = await talk(world.host(here, "a"), world.host(there, "b"), world.options(world.turn.stun))
    assert not relayed(routes)
    ours, theirs = routes
    assert (ours["local"], ours["remote"]) == (theirs["remote"], theirs["local"]), "as the other side sees it"
    assert (ours["local_type"] == "host") is (here is Nat.NONE)
    assert (ours["remote_type"] == "host") is (there is Nat.NONE)


@pytest.mark.parametrize(
    ("here", "there", "transport"),
    [
        (Nat.SYMMETRIC, Nat.SYMMETRIC, "udp"),
        (Nat.SYMMETRIC, Nat.PORT_RESTRICTED, "udp"),
        (Nat.UDP_BLOCKED, Nat.PORT_RESTRICTED, "tcp"),
        (Nat.UDP_BLOCKED, Nat.UDP_BLOCKED, "tcp"),
    ],
    ids=lambda value: value.value if isinstance(value, Nat) else value,
)
async def test_with_turn(world: World, here: Nat, there: Nat, transport: str) -> None:
    options = world.options(world.turn.stun, world.turn.url(transport))
    routes = await talk(world.host(here, "a"), world.host(there, "b"), options)
    assert relayed(routes) is not goes_direct(here, there)


async def test_a_direct_way_is_preferred(world: World) -> None:
    """Although, from afar, both first checks are dropped by the other's NAT, and a relay works at once."""
    here, there = (world.lab.home(name, Nat.PORT_RESTRICTED, FAR).host() for name in ("far-a", "far-b"))
    routes = await talk(here, there, world.options(world.turn.stun, world.turn.url("udp")))
    assert not relayed(routes)


async def test_relay_where_there_is_a_direct_way(world: World) -> None:
    options = [*world.options(world.turn.stun, world.turn.url("udp")), "--relay"]
    routes = await talk(world.host(Nat.NONE, "a"), world.host(Nat.NONE, "b"), options)
    assert all(route["relayed"] for route in routes)
    assert all(route["local"].startswith("198.18.0.1:") for route in routes)


async def test_no_way(world: World) -> None:
    """Exit code 6, and a hint that names what was seen."""
    two = (world.turn.stun, world.turn.other_stun)
    wrong = world.turn.url("udp").replace(PASSWORD, "wrong")

    async def fails(here: Nat, there: Nat, why: str, hint: str, *ice: str, relay: bool = False) -> None:
        name, options = f"peer-{next(serial)}", world.options(*ice)
        async with world.host(there, "b").peercli("listen", "--id", name, *options) as listen:
            await listen.says("Listening as")
            relay_option = ["--relay"] if relay else []
            async with world.host(here, "a").peercli("connect", name, *options, *relay_option) as connect:
                assert await connect.exit_code() == 6
                assert why in connect.stderr
                assert hint in connect.stderr.partition("hint: ")[2]

    await asyncio.gather(
        fails(Nat.SYMMETRIC, Nat.SYMMETRIC, "both sides are behind symmetric NATs", "TURN", *two),
        fails(Nat.PORT_RESTRICTED, Nat.SYMMETRIC, "the far side is behind a symmetric NAT", "TURN", *two),
        fails(Nat.UDP_BLOCKED, Nat.PORT_RESTRICTED, "blocked here", "turns:", *two),
        fails(Nat.PORT_RESTRICTED, Nat.UDP_BLOCKED, "blocked there", "turns:", *two),
        fails(Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED, "without STUN", "TURN"),
    )
    await asyncio.gather(
        fails(Nat.SYMMETRIC, Nat.SYMMETRIC, "refuses the user or the password", "--ice", wrong),
        fails(Nat.NONE, Nat.NONE, "refuses the user or the password", "--ice", wrong, relay=True),
        fails(Nat.NONE, Nat.NONE, "no TURN server is known", "--ice", *two, relay=True),
        fails(Nat.UDP_BLOCKED, Nat.NONE, "does not answer", "firewall", world.turn.url("udp"), relay=True),
    )
