"""`peercli doctor` in networks of every kind: what it finds, what it says, and its exit code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import certificate
from tests.netlab.lab import Lab, Nat, Node, needed
from tests.netlab.servers import PASSWORD, broker
from tests.netlab.world import GIVES_UP, World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    needed()
    with Lab() as lab:
        yield World(lab)


async def examine(node: Node, *arguments: str, **options: Any) -> tuple[dict[str, list[dict[str, Any]]], int]:
    """What `doctor` finds on a machine, by area, and its exit code."""
    async with node.peercli("doctor", "--json", *arguments, **options) as command:
        code = await command.exit_code(GIVES_UP)
        found: dict[str, list[dict[str, Any]]] = {}
        for line in (await command.read()).decode().splitlines():
            event = json.loads(line)
            found.setdefault(event.get("area", event["event"]), []).append(event)
        return found, code


async def test_every_kind_of_nat(world: World) -> None:
    """With STUN alone; all are told apart, and what can be reached follows."""
    kinds = [nat for nat in Nat if nat is not Nat.UDP_BLOCKED]
    options = world.options(world.turn.stun)
    reports = await asyncio.gather(*(examine(world.host(nat, "a"), *options) for nat in kinds))
    for nat, (found, code) in zip(kinds, reports, strict=True):
        assert code == 0
        assert [finding["data"]["nat"] for finding in found["nat"]] == [nat.value]
        assert [finding["status"] for finding in found["broker"]] == ["ok"] * 3
        [verdict] = found["verdict"]
        assert verdict["status"] == "warning"
        assert "--ice turn:" in verdict["hint"]
        assert ("most homes" in verdict["message"]) is (nat is Nat.SYMMETRIC)


async def test_udp_that_is_blocked(world: World) -> None:
    host = world.host(Nat.UDP_BLOCKED, "a")
    (alone, code), (relayed, relayed_code) = await asyncio.gather(
        examine(host, *world.options(world.turn.stun)),
        examine(host, *world.options(world.turn.url("tcp"))),
    )
    assert code == 6
    assert "UDP is blocked" in alone["verdict"][0]["message"]
    assert "turns:" in alone["verdict"][0]["hint"]
    assert alone["error"][0]["exit_code"] == 6
    assert relayed_code == 0
    assert "everybody can be reached" in relayed["verdict"][0]["message"]


async def test_a_turn_server_with_a_wrong_password(world: World) -> None:
    wrong = world.turn.url("udp").replace(PASSWORD, "wrong")
    found, code = await examine(world.host(Nat.SYMMETRIC, "a"), *world.options(world.turn.stun, wrong))
    assert code == 6
    assert [finding["data"]["outcome"] for finding in found["server"]] == ["answered", "refused"]
    assert "password" in found["error"][0]["hint"]


async def test_brokers_that_do_not_work(world: World, tmp_path: Path) -> None:
    expired = certificate(tmp_path, "198.18.0.2", valid_for=timedelta(days=-1))
    secure = broker(
        world.lab.internet, "198.18.0.2", "--tls-cert", str(expired.cert), "--tls-key", str(expired.key)
    )
    host, ice = world.host(Nat.NONE, "a"), ("--ice", world.turn.stun)
    (dead, dead_code), (late, late_code), (one_of_two, good_code) = await asyncio.gather(
        examine(host, "--server", "http://198.18.0.1:9", *ice),
        examine(host, "--server", secure, *ice, env={"SSL_CERT_FILE": str(expired.cert)}),
        examine(host, "--server", "http://198.18.0.1:9", "--server", world.broker, *ice),
    )
    assert (dead_code, late_code, good_code) == (3, 3, 0)
    assert all(finding["status"] == "problem" for finding in dead["broker"])
    assert "refused" in dead["error"][0]["message"]
    assert "expired" in late["error"][0]["message"]
    assert "renew" in late["error"][0]["hint"]
    assert [finding["status"] for finding in one_of_two["broker"]] == ["problem"] * 2 + ["ok"] * 3


async def test_the_way_to_a_peer(world: World) -> None:
    here, there = world.host(Nat.PORT_RESTRICTED, "a"), world.host(Nat.SYMMETRIC, "b")
    stun = world.options(world.turn.stun, world.turn.other_stun)
    turn = world.options(world.turn.stun, world.turn.url("udp"))
    async with (
        there.peercli("listen", "--id", "strict", *stun) as strict,
        there.peercli("listen", "--id", "relayed", *turn) as relayed,
    ):
        await strict.says("Listening as")
        await relayed.says("Listening as")
        (no_way, no_code), (way, code), (nobody, nobody_code) = await asyncio.gather(
            examine(here, "strict", *stun), examine(here, "relayed", *turn), examine(here, "nobody", *stun)
        )
    assert (no_code, code, nobody_code) == (6, 0, 4)
    assert {finding["data"]["state"] for finding in no_way["pair"]} <= {"failed", "checking"}
    assert "symmetric" in no_way["peer"][0]["message"]
    assert "selected" in [finding["data"]["state"] for finding in way["pair"]]
    assert way["peer"][0]["data"]["relayed"]
    assert "nobody" in nobody["peer"][0]["message"]


async def test_words_for_people(world: World) -> None:
    """On stdout, in order, with a heading for each area; `--quiet` leaves what is amiss."""
    host, options = world.host(Nat.SYMMETRIC, "a"), world.options(world.turn.stun)
    async with host.peercli("doctor", *options) as full, host.peercli("doctor", "-q", *options) as quiet:
        assert await full.exit_code(GIVES_UP) == 0
        lines = (await full.read()).decode().splitlines()
        headings = [line for line in lines if line[0] != " "]
        assert headings == ["broker", "network", "server", "nat", "devices", "verdict"]
        assert any(line.startswith("  ! a symmetric NAT") for line in lines)
        assert lines[-1].startswith("    hint: ")
        assert await quiet.exit_code(GIVES_UP) == 0
        assert "✓" not in (await quiet.read()).decode()


async def test_bridges_of_containers_are_not_offered(world: World) -> None:
    """Unless they are asked for."""
    host = world.lab.home("docker", Nat.PORT_RESTRICTED).host()
    host.ip("link add docker0 type bridge", "addr add 172.17.0.1/16 dev docker0", "link set docker0 up")
    options = world.options(world.turn.stun)
    (usual, _), (every, _) = await asyncio.gather(
        examine(host, *options), examine(host, *options, "--interface", "*")
    )
    [hosts] = [found["data"]["hosts"] for found in usual["network"] if "hosts" in found.get("data", {})]
    assert hosts == [host.address]
    [hosts] = [found["data"]["hosts"] for found in every["network"] if "hosts" in found.get("data", {})]
    assert "172.17.0.1" in hosts
