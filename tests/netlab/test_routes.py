"""peercli between networks of every kind: connected or not, direct or relayed, as RFC 8445 allows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from tests.netlab.impatient import CONSENT_TIMEOUT
from tests.netlab.lab import Lab, Nat, needed
from tests.netlab.matrix import machine
from tests.netlab.servers import PASSWORD, broker
from tests.netlab.shaper import Shape
from tests.netlab.world import GIVES_UP, World, goes_direct, relayed, serial, talk

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


@dataclass(frozen=True)
class NoWay:
    """Why two peers cannot meet, and what helps."""

    here: Nat
    there: Nat
    ice: Sequence[str]
    why: str
    hint: str
    relay: bool = False


async def test_no_way(world: World) -> None:
    """The message and the hint name what was seen; all at once, for each takes its time to be sure."""
    two = (world.turn.stun, world.turn.other_stun)
    turn = world.turn.url("udp")
    wrong = turn.replace(PASSWORD, "wrong")
    cases = [
        NoWay(Nat.SYMMETRIC, Nat.SYMMETRIC, two, "both sides are behind symmetric NATs", "TURN"),
        NoWay(Nat.PORT_RESTRICTED, Nat.SYMMETRIC, two, "the far side is behind a symmetric NAT", "TURN"),
        NoWay(Nat.UDP_BLOCKED, Nat.PORT_RESTRICTED, two, "blocked here", "turns:"),
        NoWay(Nat.PORT_RESTRICTED, Nat.UDP_BLOCKED, two, "blocked there", "turns:"),
        NoWay(Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED, (), "without STUN", "TURN"),
        NoWay(Nat.SYMMETRIC, Nat.SYMMETRIC, [wrong], "refuses the user or the password", "--ice"),
        NoWay(Nat.NONE, Nat.NONE, [wrong], "refuses the user or the password", "--ice", relay=True),
        NoWay(Nat.NONE, Nat.NONE, two, "no TURN server is known", "--ice", relay=True),
        NoWay(Nat.UDP_BLOCKED, Nat.NONE, [turn], "does not answer", "firewall", relay=True),
    ]
    async with AsyncExitStack() as stack:
        sides = {(case.here, "a") for case in cases} | {(case.there, "b") for case in cases}
        machines = {
            side: await stack.enter_async_context(machine(world.host(*side)))
            for side in sorted(sides, key=str)
        }

        async def fails(case: NoWay) -> None:
            caller, called = f"peer-{next(serial)}", f"peer-{next(serial)}"
            start = {"do": "start", "server": world.broker, "ice": list(case.ice)}
            here, there = machines[case.here, "a"], machines[case.there, "b"]
            await there.ask(id=called, **start)
            await here.ask(id=caller, relay=case.relay, **start)
            cell = await here.ask(do="connect", id=caller, to=called)
            assert cell.outcome == "negotiation-failed", (case, cell)
            assert case.why in cell.message, (case, cell)
            assert case.hint in cell.hint, (case, cell)

        await asyncio.gather(*map(fails, cases))


async def test_no_way_in_a_shell(world: World) -> None:
    """Exit code 6, and the hint on a line of its own."""
    options = [*world.options(world.turn.stun), "--relay"]
    async with world.host(Nat.NONE, "b").peercli("listen", "--id", "shell", *options) as listen:
        await listen.says("Listening as")
        async with world.host(Nat.NONE, "a").peercli("connect", "shell", *options) as connect:
            assert await connect.exit_code(GIVES_UP) == 6
            assert "no TURN server is known" in connect.stderr
            assert "--ice turn:" in connect.stderr.partition("\nhint: ")[2]


async def test_consent_over_a_round_trip_of_a_second(world: World) -> None:
    """An idle connection lives on for longer than consent lasts that nobody gives."""
    slow = world.lab.home("slow", Nat.PORT_RESTRICTED, Shape(delay=0.5)).host()
    options, module = [*world.options(world.turn.stun), "--no-reconnect"], ("tests.netlab.impatient",)
    async with world.host(Nat.NONE, "b").peercli(
        "listen", "--id", "afar", "--echo", *options, module=module
    ) as listen:
        await listen.says("Listening as")
        async with slow.peercli("connect", "afar", "--timeout", "60", *options, module=module) as connect:
            await connect.write("before\n")
            assert await connect.line() == "before"
            await asyncio.sleep(CONSENT_TIMEOUT + 3)
            await connect.write("after\n")
            assert await connect.line() == "after"
            connect.end_input()
            assert await connect.exit_code() == 0, connect.stderr
