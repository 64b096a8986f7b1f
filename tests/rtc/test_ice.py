"""Candidates without waiting, from servers of every manner; consent; and strangers at the door."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from aioice import Candidate, Connection, stun
from aioice.ice import ConnectionClosed, StunProtocol, TransportPolicy

from peercli.options import IceOptions, IceServer
from peercli.rtc import ice
from peercli.rtc.ice import Agent, gather_from_servers
from tests.certificates import certificate
from tests.rtc.ice_servers import coturn, fake_stun, mapped, silence

PATIENCE = 20.0  # s until a test that hangs is told so
OUTSIDE = ("198.51.100.7", 4000)  # an address that only a server can have told (RFC 5737)


@asynccontextmanager
async def agent(
    *, controlling: bool = True, relay: bool = False, options: IceOptions | None = None
) -> AsyncIterator[Agent]:
    """An agent that has its host candidates."""
    policy = TransportPolicy.RELAY if relay else TransportPolicy.ALL
    made = Agent.adopt(Connection(ice_controlling=controlling, transport_policy=policy))
    made.options = options or IceOptions()
    try:
        async with asyncio.timeout(PATIENCE):
            await made.gather_candidates()
            yield made
    finally:
        await made.close()


@asynccontextmanager
async def joined(one: Agent, other: Agent) -> AsyncIterator[None]:
    """Two agents that have found each other."""
    for here, there in ((one, other), (other, one)):
        here.remote_username, here.remote_password = there.local_username, there.local_password
        for candidate in there.local_candidates:
            await here.add_remote_candidate(candidate)
    await asyncio.gather(one.connect(), other.connect())
    yield


def with_gibberish(request: stun.Message, source: tuple[str, int]) -> list[bytes]:
    """Whatever a bad server may say."""
    known = request.transaction_id
    header = struct.Struct("!HHI12s")

    def message(kind: int, body: bytes = b"", transaction: bytes = known) -> bytes:
        return header.pack(kind, len(body), 0x2112A442, transaction) + body

    too_short = struct.pack("!HH", 0x0020, 2) + b"\x00\x01\x00\x00"  # an address of 2 bytes
    priority = struct.pack("!HH", 0x0024, 1) + b"\x00\x00\x00\x00"  # a number of 1 byte
    return [
        b"\x00",
        os.urandom(300),
        message(0x0101)[:-1],
        message(0x0101, too_short),
        message(0x0101, priority),
        message(0x0101, struct.pack("!HH", 0x0020, 60_000)),
        message(0x0101, transaction=bytes(12)),
        message(0x0111, transaction=bytes(12)),
        message(0x0001, priority),
        message(0x0101),  # a success without an address
    ]


def refusing(request: stun.Message, source: tuple[str, int]) -> list[bytes]:
    """An error without its code."""
    return [bytes(stun.Message(request.message_method, stun.Class.ERROR, request.transaction_id))]


async def gather(asking: Agent, *servers: IceServer) -> list[Candidate]:
    found: list[Candidate] = []
    await gather_from_servers(asking, servers, found.append)
    return found


# Hosts ----------------------------------------------------------------------------------------


async def test_hosts_come_without_any_server() -> None:
    async with agent() as made:
        assert made.local_candidates
        assert {candidate.type for candidate in made.local_candidates} == {"host"}
        assert len(made.hosts) == len(made.local_candidates)


async def test_relay_means_no_hosts() -> None:
    async with agent(relay=True) as made:
        assert made.local_candidates == []
        async with fake_stun(mapped(OUTSIDE)) as good:
            assert await gather(made, good.server) == []
            assert good.requests == 0


class Adapter:
    def __init__(self, name: str, *ips: str | tuple[str, int, int]) -> None:
        self.nice_name = name
        self.ips = [type("IP", (), {"ip": ip})() for ip in ips]


LOOPBACK = Adapter("lo", "127.0.0.1", ("::1", 0, 0))
WIRED = Adapter("eth0", "192.0.2.1", ("2001:db8::1", 0, 0), ("fe80::1", 0, 3))
DOCKER = Adapter("docker0", "172.17.0.1")


@pytest.mark.parametrize(
    ("adapters", "wanted", "addresses"),
    [
        ([LOOPBACK], (), ["127.0.0.1", "::1"]),
        ([LOOPBACK, WIRED, DOCKER], (), ["192.0.2.1", "2001:db8::1"]),
        ([LOOPBACK, DOCKER], (), ["172.17.0.1"]),
        ([LOOPBACK, WIRED, DOCKER], ("*",), ["192.0.2.1", "2001:db8::1", "172.17.0.1"]),
        ([LOOPBACK, WIRED, DOCKER], ("docker*", "wlan0"), ["172.17.0.1"]),
        ([LOOPBACK, WIRED, DOCKER], ("lo",), ["127.0.0.1", "::1"]),
        ([LOOPBACK, WIRED, DOCKER], ("wlan0",), []),
    ],
    ids=["alone", "usual", "only-virtual", "all", "chosen", "loopback", "none"],
)
def test_which_addresses_are_offered(
    adapters: list[Adapter], wanted: tuple[str, ...], addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ifaddr.get_adapters", lambda: adapters)
    assert ice.host_addresses(wanted) == addresses


async def test_ports_stay_in_their_range() -> None:
    """And one that is taken is passed over."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        low = probe.getsockname()[1]
        options = IceOptions(ports=(low, low + 4))
        for _ in range(5):
            async with agent(options=options) as made:
                ports = [host.port for host in made.local_candidates if ":" not in host.host]
                assert ports
                assert all(low < port <= low + 4 for port in ports)


async def test_a_range_that_is_taken_leaves_no_candidate() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("0.0.0.0", 0))
        port = probe.getsockname()[1]
        async with agent(options=IceOptions(ports=(port, port))) as made:
            assert [host for host in made.local_candidates if ":" not in host.host] == []


# STUN -----------------------------------------------------------------------------------------


async def test_a_server_tells_how_we_look_from_outside() -> None:
    async with agent() as made, fake_stun(mapped(OUTSIDE)) as good:
        [candidate] = await gather(made, good.server)
        assert (candidate.type, candidate.host, candidate.port) == ("srflx", *OUTSIDE)
        bases = {(host.host, host.port) for host in made.local_candidates}
        assert (candidate.related_address, candidate.related_port) in bases
        assert candidate.priority < made.local_candidates[0].priority


async def test_a_server_tells_over_ipv6_too() -> None:
    outside = ("2001:db8::7", 4000)
    async with agent() as made, fake_stun(mapped(outside), "::1") as good:
        if any(":" in host.host for host in made.local_candidates):
            [candidate] = await gather(made, good.server)
            assert (candidate.type, candidate.host, candidate.port) == ("srflx", *outside)
            assert ":" in (candidate.related_address or "")
        else:  # and where there is none, nobody is asked
            assert await gather(made, good.server) == []


async def test_what_is_known_already_is_not_told_again() -> None:
    async with agent() as made, fake_stun(mapped()) as same, fake_stun(mapped(OUTSIDE)) as one:
        async with fake_stun(mapped(OUTSIDE)) as other:
            [candidate] = await gather(made, same.server, one.server, other.server)
        assert (candidate.host, candidate.port) == OUTSIDE
        assert min(same.requests, one.requests, other.requests) > 0


async def test_a_silent_server_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "SERVER_TIMEOUT", 3600.0)
    came = asyncio.Event()
    async with agent() as made, fake_stun(silence) as silent, fake_stun(mapped(OUTSIDE)) as good:
        gathering = asyncio.create_task(
            gather_from_servers(made, [silent.server, good.server], lambda candidate: came.set())
        )
        await came.wait()
        await silent.asked.wait()
        assert not gathering.done()
        gathering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gathering


async def test_a_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "SERVER_TIMEOUT", 0.3)
    async with agent() as made, fake_stun(silence) as silent:
        assert await gather(made, silent.server) == []
        assert silent.requests > 0


@pytest.mark.parametrize("reply", [with_gibberish, refusing])
async def test_a_bad_server_hurts_nobody(reply: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "SERVER_TIMEOUT", 1.0)
    async with agent() as made, fake_stun(reply) as bad, fake_stun(mapped(OUTSIDE)) as good:
        bad_turn = IceServer("turn", bad.server.host, bad.server.port, username="user", password="secret")
        [candidate] = await gather(made, bad.server, bad_turn, good.server)
        assert (candidate.host, candidate.port) == OUTSIDE
        assert bad.requests > 1


async def test_servers_that_cannot_be_reached_hurt_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "SERVER_TIMEOUT", 1.0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening: it refuses
        port = taken.getsockname()[1]
        nobody = [
            IceServer("stun", "127.0.0.1", port),
            IceServer("turn", "127.0.0.1", port),
            IceServer("turn", "127.0.0.1", port, "tcp"),
            IceServer("turns", "127.0.0.1", port, "tcp"),
            IceServer("stun", "256.256.256.256", port),
            IceServer("turn", "256.256.256.256", port),
            IceServer("stun", "a\x00b", port),
        ]
        async with agent() as made, fake_stun(mapped(OUTSIDE)) as good:
            assert len(await gather(made, *nobody, good.server)) == 1


async def test_a_name_server_that_is_silent_delays_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even those who wait for a thread of the event loop's, nor the loop's own end."""
    answer = threading.Event()
    lookup = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".test"):
            answer.wait()
        return lookup(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(ice, "SERVER_TIMEOUT", 1.0)
    nobody = [IceServer("stun", f"stun{number}.test", 3478) for number in range(50)]
    nobody += [IceServer("turn", f"turn{number}.test", 3478) for number in range(50)]
    try:
        async with agent() as made, fake_stun(mapped(OUTSIDE)) as good:
            gathering = asyncio.create_task(gather(made, *nobody, good.server))
            await good.asked.wait()
            assert await asyncio.to_thread(lambda: "here") == "here"
            assert len(await gathering) == 1
    finally:
        answer.set()


async def test_closing_in_the_middle_leaves_nothing() -> None:
    async with fake_stun(silence) as silent:
        silent_turn = IceServer("turn", silent.server.host, silent.server.port)
        async with agent() as made:
            gathering = asyncio.create_task(gather(made, silent.server, silent_turn))
            await silent.asked.wait()
            gathering.cancel()
            await asyncio.wait({gathering})


# TURN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_two_agents_meet_at_a_turn_server(transport: Literal["udp", "tcp"], tmp_path: Path) -> None:
    async with (
        coturn(tmp_path) as turn,
        agent(relay=True) as one,
        agent(relay=True, controlling=False) as other,
    ):
        for side in (one, other):
            [candidate] = await gather(side, turn.server(transport=transport))
            assert (candidate.type, candidate.related_address) == ("relay", "0.0.0.0"), (
                "no address is given away"
            )
        async with joined(one, other):
            assert one.selected is not None
            assert one.selected.local_candidate.type == "relay"
            await one.send(b"\xffto the other side")
            assert await other.recv() == b"\xffto the other side"


async def test_a_wrong_password_gets_no_relay(tmp_path: Path) -> None:
    async with coturn(tmp_path) as turn, agent() as made:
        wrong, nobody = turn.server(password="wrong"), turn.server(username="nobody")
        assert await gather(made, wrong, nobody) == []
        assert [made.reports[server].outcome for server in (wrong, nobody)] == ["refused", "refused"]


async def test_turn_over_tls_wants_a_certificate_that_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = certificate(tmp_path)
    async with coturn(tmp_path, tls=tls) as turn:
        server = turn.server(transport="tls")
        async with agent(relay=True) as made:
            assert await gather(made, server) == []
            assert made.reports[server].outcome == "untrusted"
        monkeypatch.setenv("SSL_CERT_FILE", str(tls.cert))
        async with agent(relay=True) as one, agent(relay=True, controlling=False) as other:
            for side in (one, other):
                assert [candidate.type for candidate in await gather(side, server)] == ["relay"]
            async with joined(one, other):
                await one.send(b"\xffto the other side")
                assert await other.recv() == b"\xffto the other side"


async def test_relays_over_ipv6(tmp_path: Path) -> None:
    """The server has nothing else; asked in the usual way it would give an IPv4 address."""
    async with (
        coturn(tmp_path, "::1") as turn,
        agent(relay=True) as one,
        agent(relay=True, controlling=False) as other,
    ):
        for side in (one, other):
            [candidate] = await gather(side, turn.server())
            assert (candidate.type, candidate.host) == ("relay", "::1")
        async with joined(one, other):
            await one.send(b"\xffto the other side")
            assert await other.recv() == b"\xffto the other side"


async def test_a_turn_server_tells_how_we_look_too(tmp_path: Path) -> None:
    async with coturn(tmp_path) as turn, agent() as made:
        server = turn.server()
        await gather(made, server)
        assert set(made.reports[server].mapped) <= {(host.host, host.port) for host in made.local_candidates}
        assert made.reports[server].outcome == "answered"


async def test_a_relay_that_comes_late_is_still_paired(tmp_path: Path) -> None:
    """The hosts of both sides cannot reach each other; the relay is known only once the checks run."""
    async with coturn(tmp_path) as turn, agent() as one, agent(relay=True, controlling=False) as other:
        one.remote_username, one.remote_password = other.local_username, other.local_password
        other.remote_username, other.remote_password = one.local_username, one.local_password
        [relay] = await gather(other, turn.server())
        connecting = asyncio.gather(one.connect(), other.connect())
        for host in one.local_candidates:
            await other.add_remote_candidate(host)
        [reflexive_or_relay] = [c for c in await gather(one, turn.server()) if c.type == "relay"]
        await other.add_remote_candidate(reflexive_or_relay)
        await one.add_remote_candidate(relay)
        await connecting
        assert one.selected is not None


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_turn_server_that_is_gone_does_not_hold_up_the_end(
    transport: Literal["udp", "tcp"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice, "FAREWELL_TIMEOUT", 0.1)
    async with coturn(tmp_path) as turn, agent() as made:
        assert await gather(made, turn.server(transport=transport))
        made._protocols[-1].transport.sendto(b"waits for a channel", ("127.0.0.1", 9))
        turn.freeze()
        await asyncio.wait_for(made.close(), PATIENCE)


# Checks and consent ---------------------------------------------------------------------------


async def test_an_agent_closed_while_it_opens_its_sockets_leaves_none() -> None:
    before = psutil.Process().num_fds()
    for turns in range(12):
        made = Agent.adopt(Connection(ice_controlling=True))
        gathering = asyncio.create_task(made.gather_candidates())
        for _ in range(turns):
            await asyncio.sleep(0)
        if turns % 2:
            gathering.cancel()
        await made.close()
        await asyncio.wait({gathering})
    for _ in range(3):
        await asyncio.sleep(0)
    assert psutil.Process().num_fds() == before


async def test_a_path_is_used_as_soon_as_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the time of a next check, when the first one has found a path."""
    monkeypatch.setattr(ice, "CHECK_INTERVAL", 3600.0)
    async with agent() as one, agent(controlling=False) as other, joined(one, other):
        assert None not in (one.selected, other.selected)


async def test_consent_outlives_a_long_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.8 s from a check to its answer, which is more than aioice alone gives it."""
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 0.05)
    async with agent() as one, agent(controlling=False) as other, joined(one, other):
        send, loop = StunProtocol.send_stun, asyncio.get_running_loop()
        late: list[asyncio.TimerHandle] = []
        delayed = asyncio.Event()

        def send_late(protocol: StunProtocol, message: stun.Message, address: tuple[str, int]) -> None:
            late.append(loop.call_later(0.4, send, protocol, message, address))
            if len(late) > 12:
                delayed.set()

        monkeypatch.setattr(StunProtocol, "send_stun", send_late)
        await delayed.wait()
        for handle in late:
            handle.cancel()
        assert one.selected is not None
        assert other.selected is not None


async def test_consent_outlives_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks go on through it, and one answer is enough."""
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 0.05)
    monkeypatch.setattr(ice, "CONSENT_TIMEOUT", 5.0)
    async with agent() as one, agent(controlling=False) as other, joined(one, other):
        send, lost, passed = StunProtocol.send_stun, 0, 0
        over = asyncio.Event()

        def send_or_lose(protocol: StunProtocol, message: stun.Message, address: tuple[str, int]) -> None:
            nonlocal lost, passed
            if lost < 20:
                lost += 1
                return
            send(protocol, message, address)
            passed += 1
            if passed > 100:
                over.set()

        monkeypatch.setattr(StunProtocol, "send_stun", send_or_lose)
        await over.wait()
        assert one.selected is not None
        assert other.selected is not None


async def test_a_path_that_is_dead_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 0.05)
    monkeypatch.setattr(ice, "CONSENT_TIMEOUT", 0.3)
    async with agent() as one, agent(controlling=False) as other, joined(one, other):
        monkeypatch.setattr(StunProtocol, "send_stun", lambda *_: None)
        for event in await asyncio.gather(one.get_event(), other.get_event()):
            assert isinstance(event, ConnectionClosed)
        assert one.selected is None


async def test_strangers_are_not_listened_to() -> None:
    """Whatever comes to the sockets from elsewhere, the agent goes on."""
    chance = random.Random(1)
    async with agent() as one, agent(controlling=False) as other, joined(one, other):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            target = next(c for c in one.local_candidates if ipaddress.ip_address(c.host).version == 4)
            request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
            for datagram in [
                b"",
                *(chance.randbytes(chance.randrange(1, 100)) for _ in range(50)),
                *with_gibberish(request, ("", 0)),
                bytes(request),
            ]:
                stranger.sendto(datagram, (target.host, target.port))
        await other.send(b"\xffstill here")
        while await one.recv() != b"\xffstill here":
            pass


def signed(to: Agent, **attributes: Any) -> bytes:
    """A check that only the far side could have sent."""
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    request.attributes["USERNAME"] = f"{to.local_username}:{to.remote_username}"
    request.attributes.update({"PRIORITY": 1, "ICE-CONTROLLED": 1} | attributes)
    if attributes.get("PRIORITY", 1) is None:
        del request.attributes["PRIORITY"]
    request.add_message_integrity(to.local_password.encode())
    return bytes(request)


async def test_a_far_side_cannot_make_the_agent_grow() -> None:
    async with agent() as one, agent(controlling=False) as other, joined(one, other):
        target = next(c for c in one.local_candidates if ipaddress.ip_address(c.host).version == 4)
        for number in range(2 * ice.MAX_REMOTE_CANDIDATES):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
                port.sendto(signed(one, PRIORITY=None if number % 2 else 1), (target.host, target.port))
        await other.send(b"\xffstill here")
        assert await one.recv() == b"\xffstill here"
        assert len(one.remote_candidates) <= ice.MAX_REMOTE_CANDIDATES
        for number in range(2 * ice.MAX_REMOTE_CANDIDATES):
            await one.add_remote_candidate(Candidate("1", 1, "udp", 1, "192.0.2.99", 1000 + number, "host"))
        assert len(one.remote_candidates) <= ice.MAX_REMOTE_CANDIDATES


async def test_a_name_that_cannot_be_asked_for_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Browsers hide their addresses behind multicast names; not every machine can look these up."""

    async def taken(subscriber: object) -> None:
        raise OSError(errno.EADDRINUSE, "port 5353 is taken")

    monkeypatch.setattr("aioice.ice.get_or_create_mdns_protocol", taken)
    async with agent() as one:
        await one.add_remote_candidate(Candidate("1", 1, "udp", 1, "a-browser.local", 5000, "host"))
        assert one.remote_candidates == []


async def test_another_component_is_passed_over() -> None:
    async with agent() as one, agent(controlling=False) as other:
        for host in other.local_candidates:
            await one.add_remote_candidate(Candidate("1", 2, "udp", 1, host.host, host.port, "host"))
        assert one.remote_candidates == []
        async with joined(one, other):
            assert one.selected is not None
