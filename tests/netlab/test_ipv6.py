"""peercli where there is IPv6, with IPv4 or without: what goes direct, what goes by TURN, and what cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.netlab.lab import Lab, Nat, Node, needed
from tests.netlab.servers import Turn, broker, coturn
from tests.netlab.world import GIVES_UP, relayed, serial, talk

SERVER, SERVER6 = "198.18.0.1", "2001:db8::1"
PORT = 9000


class World:
    """An internet whose servers have both, and hosts with either, or both, behind what homes have."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        internet = lab.internet6()
        broker(internet, "", "--port", str(PORT))  # at every address
        coturn(internet, SERVER, SERVER6, relays=(SERVER, SERVER6))

    def host(self, *, ipv4: bool = True, ipv6: bool = True) -> Node:
        return self.lab.home(f"home{next(serial)}", Nat.SYMMETRIC, ipv4=ipv4, ipv6=ipv6).host()


OLD = Turn(SERVER, SERVER)
NEW = Turn(SERVER6, SERVER6)


def old(*ice: str) -> list[str]:
    """Options of a peer that reaches its servers by IPv4."""
    return ["--server", f"http://{SERVER}:{PORT}/", *(word for url in ice for word in ("--ice", url))]


def new(*ice: str) -> list[str]:
    """The same by IPv6."""
    return ["--server", f"http://[{SERVER6}]:{PORT}/", *(word for url in ice for word in ("--ice", url))]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    needed()
    with Lab() as lab:
        yield World(lab)


async def test_two_networks_with_nothing_else(world: World) -> None:
    """Through both firewalls, and neither address is translated."""
    here, there = world.host(ipv4=False), world.host(ipv4=False)
    ours, theirs = await talk(here, there, new(NEW.stun))
    assert not relayed((ours, theirs))
    assert (ours["local"], ours["remote"]) == (theirs["remote"], theirs["local"])
    assert ours["local"].startswith(f"[{here.address6}]:")
    assert ours["remote"].startswith(f"[{there.address6}]:")
    assert (ours["local_type"], theirs["local_type"]) == ("host", "host")


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_two_networks_with_nothing_else_and_a_relay(world: World, transport: str) -> None:
    here, there = world.host(ipv4=False), world.host(ipv4=False)
    routes = await talk(here, there, [*new(NEW.url(transport)), "--relay"])
    assert all(route["relayed"] for route in routes)


async def test_what_ipv4_cannot_do_ipv6_does(world: World) -> None:
    """Both have both, and their NATs are symmetric."""
    here, there = world.host(), world.host()
    ours, theirs = await talk(here, there, old(OLD.stun, NEW.stun))
    assert not relayed((ours, theirs))
    assert ours["local"].startswith(f"[{here.address6}]:")
    assert ours["remote"].startswith(f"[{there.address6}]:")


async def test_from_the_one_to_the_other(world: World) -> None:
    """A TURN server that has both is a bridge; without one there is no way."""
    here, there = world.host(ipv4=False), world.host(ipv6=False)

    async def by_turn() -> None:
        assert relayed(await talk(here, there, new(NEW.url("udp")), old(OLD.url("udp"))))

    async def by_stun() -> None:
        name = f"peer-{next(serial)}"
        async with there.peercli("listen", "--id", name, *old(OLD.stun)) as listen:
            await listen.says("Listening as")
            async with here.peercli("connect", name, *new(NEW.stun)) as connect:
                assert await connect.exit_code(GIVES_UP) == 6
                assert "this side has IPv6 alone, the far side IPv4" in connect.stderr
                assert "TURN" in connect.stderr.partition("hint: ")[2]

    await asyncio.gather(by_turn(), by_stun())


async def test_doctor_without_ipv4(world: World) -> None:
    async with world.host(ipv4=False).peercli("doctor", "--json", *new(NEW.url("udp"))) as doctor:
        assert await doctor.exit_code(GIVES_UP) == 0, doctor.stderr
        said = (await doctor.read()).decode()
    assert "IPv6 is there" in said
    assert "no IPv4 here" in said
    assert "everybody can be reached" in said
