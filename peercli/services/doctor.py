"""Find out what works from here and what does not: broker, STUN, TURN, kind of NAT, the way to a peer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import Any, get_args

from peercli.errors import NegotiationFailed, PeerError, TimedOut
from peercli.options import DEFAULT_ICE_SERVERS, Broker, IceOptions
from peercli.peer.checkup import ask_http, ask_socket
from peercli.peer.peer import Peer
from peercli.rtc.devices import Kind, list_devices
from peercli.rtc.diagnosis import hint_for, why_not
from peercli.rtc.ice import PairReport, ServerReport
from peercli.rtc.probe import Nat, NetworkReport, ask_servers, find_nat
from peercli.services.events import Finding, Status

__all__ = ["examine"]

MAX_SKEW = 30.0  # s that two clocks may differ before certificates and logs suffer
CERTIFICATE_SOON = 14 * 86_400.0  # s; nobody renews later than this on purpose

_NATS: dict[Nat, str] = {
    "public": "this machine has a public address",
    "firewall": "this machine has a public address, behind a firewall that lets in answers only",
    "full-cone": "a full-cone NAT: whoever knows the port it gave can send to it",
    "address-restricted": "an address-restricted NAT: whom we have sent to can send to us, from any port",
    "port-restricted": "a port-restricted NAT, as most homes have: only what answers us comes in",
    "symmetric": "a symmetric NAT: it takes a new port for every destination",
    "cone": "a NAT that keeps its ports (not a symmetric one)",
    "unknown": "the kind of NAT cannot be told: no STUN server answers",
}
_REACH: dict[Nat, str] = {
    "public": "everybody whose UDP is not blocked",
    "full-cone": "everybody whose UDP is not blocked",
    "address-restricted": "everybody whose UDP is not blocked",
    "firewall": "everybody but those behind symmetric NATs, or whose UDP is blocked",
    "port-restricted": "everybody but those behind symmetric NATs (many mobile and office networks), or "
    "whose UDP is blocked",
    "cone": "everybody but, in most cases, those behind symmetric NATs, or whose UDP is blocked",
    "symmetric": "those with a public address or an open NAT, but not most homes and offices",
    "unknown": "this network only, as far as can be told",
}


async def examine(peer: Peer, peer_id: str | None, *, timeout: float) -> AsyncGenerator[Finding, None]:
    """Look at everything from here, as `peer` (not started yet) would, then at the way to another peer.

    Args:
        timeout: seconds for that other peer to answer.

    Raises:
        BrokerError: at the end, if no broker works.
        NegotiationFailed: at the end, if peers elsewhere cannot be reached, or a server of the user's own
            choice does not work.
        PeerError: at the end, why `peer_id` cannot be reached.
    """
    failures: list[PeerError] = []
    for broker in peer.brokers:
        async for finding in _broker(broker, failures):
            yield finding
    report = await ask_servers(peer.ice)
    for finding in (*_addresses(report, peer.ice), *map(_server, report.servers)):
        yield finding
    nat = await _nat(report, peer.ice)
    if report.servers:
        yield _nat_finding(report, nat)
    for finding in await asyncio.to_thread(_devices):
        yield finding
    verdict = _verdict(report, nat)
    yield verdict
    if len(failures) == len(peer.brokers):
        raise failures[0]
    if peer_id is not None:
        async for finding in _way_to(peer, peer_id, timeout):
            yield finding
        return
    broken = [one for one in report.servers if _status_of(one) == "problem"]
    if verdict.status == "problem":
        raise NegotiationFailed(verdict.message, hint=verdict.hint)
    if broken:
        raise NegotiationFailed(f"{broken[0].server}: {why_not(broken[0])}", hint=hint_for(broken[0]))


def _ok(area: str, message: str, **data: Any) -> Finding:
    return Finding(area, "ok", message, data=data)


# Broker -----------------------------------------------------------------------------------------


async def _broker(broker: Broker, failures: list[PeerError]) -> AsyncGenerator[Finding, None]:
    try:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        if addresses != [broker.host]:
            yield _ok("broker", f"{broker.host} is {', '.join(addresses)}", addresses=addresses)
    except OSError as error:
        yield Finding("broker", "problem", f"{broker.host} has no address: {error.strerror}")
    try:
        page = await ask_http(broker)
    except PeerError as error:
        yield Finding("broker", "problem", error.message, error.hint)
    else:
        named = f" ({page.name})" if page.name else ""
        said = f"{broker.url} answers in {page.seconds * 1000:.0f} ms{named}"
        yield _ok("broker", said, url=broker.url, name=page.name, seconds=round(page.seconds, 4))
        if page.skew is not None:
            yield _clock(page.skew)
    try:
        line = await ask_socket(broker)
    except PeerError as error:
        failures.append(error)
        yield Finding("broker", "problem", error.message, error.hint)
        return
    opened, round_trip = line.opened * 1000, line.round_trip * 1000
    yield _ok(
        "broker",
        f"{broker.url} gives an id in {opened:.0f} ms, and passes a message on in {round_trip:.0f} ms",
        url=broker.url,
        opened=round(line.opened, 4),
        round_trip=round(line.round_trip, 4),
    )
    if line.certificate_left is not None:
        days = line.certificate_left / 86_400
        soon = line.certificate_left < CERTIFICATE_SOON
        yield Finding(
            "broker",
            "warning" if soon else "ok",
            f"its certificate is good for {days:.0f} days",
            "its owner should renew it" if soon else "",
            {"certificate_days": round(days, 1)},
        )


def _clock(skew: float) -> Finding:
    data = {"skew": round(skew, 1)}
    if abs(skew) <= MAX_SKEW:
        return _ok("broker", "this machine's clock agrees with the broker's", **data)
    way = "behind" if skew > 0 else "ahead of"
    return Finding(
        "broker",
        "warning",
        f"this machine's clock is {abs(skew):.0f} s {way} the broker's",
        "set the clock: certificates are checked by it",
        data,
    )


# Network ----------------------------------------------------------------------------------------


def _addresses(report: NetworkReport, ice: IceOptions) -> list[Finding]:
    if not report.hosts:
        return [
            Finding(
                "network",
                "problem",
                "this machine has no address that may be used",
                "does --interface leave none, or are all of --port-range taken?",
            )
        ]
    ipv6 = any(":" in host for host in report.hosts)
    ipv4 = not all(":" in host for host in report.hosts)
    found = [
        _ok("network", f"own addresses: {', '.join(report.hosts)}", hosts=list(report.hosts)),
        Finding("network", "info", "IPv6 is there" if ipv6 else "no IPv6 here", data={"ipv6": ipv6}),
    ]
    if not ipv4:
        said = "no IPv4 here: peers that have nothing else are reached through TURN alone"
        found.append(Finding("network", "warning", said, "a TURN server that has both is a bridge"))
    if report.reflexive:
        seen = list(report.reflexive)
        found.append(_ok("network", f"seen from outside as {', '.join(seen)}", seen=seen))
    if report.udp_blocked:
        found.append(Finding("network", "problem", "no server answers over UDP: it seems to be blocked"))
    if ice.ports is not None:
        found.append(Finding("network", "info", f"UDP ports {ice.ports[0]} to {ice.ports[1]} only"))
    return found


def _status_of(report: ServerReport) -> Status:
    if report.outcome == "answered":
        return "ok"
    return "warning" if report.server in DEFAULT_ICE_SERVERS else "problem"


def _server(report: ServerReport) -> Finding:
    status = _status_of(report)
    gives = "lends an address" if report.server.scheme.startswith("turn") else "tells our address"
    done = f"{gives} in {report.seconds * 1000:.0f} ms" if status == "ok" else why_not(report)
    return Finding(
        "server",
        status,
        f"{report.server}: {done}",
        "" if status == "ok" else hint_for(report),
        {
            "server": str(report.server),
            "outcome": report.outcome,
            "detail": report.detail,
            "seconds": round(report.seconds, 4),
        },
    )


async def _nat(report: NetworkReport, ice: IceOptions) -> Nat:
    """What servers that can tell say; else what their differing views of us say."""
    answering = [one.server for one in report.servers if one.mapped]
    for nat in await asyncio.gather(*(find_nat(server, ice) for server in answering)):
        if nat != "unknown":
            return nat
    return report.nat


def _nat_finding(report: NetworkReport, nat: Nat) -> Finding:
    if report.udp_blocked:
        return Finding("nat", "info", "its kind does not matter where UDP is blocked", data={"nat": nat})
    status: Status = "warning" if nat in ("symmetric", "unknown") else "ok"
    return Finding("nat", status, _NATS[nat], data={"nat": nat})


def _devices() -> list[Finding]:
    """What calls can be made with; the lack of it hinders nothing else."""
    found: dict[str, list[str]] = {kind: [] for kind in get_args(Kind)}
    for device in list_devices():
        found[device.kind].append(device.name)
    return [
        Finding(
            "devices", "info", f"{kind}: {', '.join(names) or 'none'}", data={"kind": kind, "names": names}
        )
        for kind, names in found.items()
    ]


def _verdict(report: NetworkReport, nat: Nat) -> Finding:
    """In plain words: what will work with whom, and what to change."""
    turn_hint = "to reach everybody, use a TURN server: --ice turn:user:password@host"
    if report.relayed:
        if report.udp_blocked:
            return _ok("verdict", "everybody can be reached, through TURN")
        directly = _REACH[nat]
        return _ok("verdict", f"everybody can be reached: {directly} directly, others through TURN")
    if report.udp_blocked:
        return Finding(
            "verdict",
            "problem",
            "only peers in this network can be reached: UDP is blocked, and no TURN server lends an address",
            "use a TURN server over TLS or TCP: --ice turns:user:password@host",
        )
    if not report.servers:
        return Finding(
            "verdict",
            "warning",
            "without STUN and TURN servers only peers in this network can be reached",
            turn_hint,
        )
    if nat == "unknown":
        return Finding("verdict", "problem", "only peers in this network can be reached", turn_hint)
    return Finding("verdict", "warning", f"can be reached directly: {_REACH[nat]}", turn_hint)


# One peer ---------------------------------------------------------------------------------------


async def _way_to(peer: Peer, peer_id: str, timeout: float) -> AsyncGenerator[Finding, None]:
    """Connect, tell how each pair of addresses did, and hang up."""
    loop = asyncio.get_running_loop()
    async with peer:
        begun = loop.time()
        connection = peer.dial(peer_id)
        failure: PeerError | None = None
        try:
            async with asyncio.timeout(timeout):
                await connection.opened()
        except PeerError as error:
            failure = error
        except TimeoutError:
            failure = TimedOut(f"the peer {peer_id} did not answer within {timeout:g} s")
        took, route, pairs = loop.time() - begun, connection.route, connection.pairs
        await connection.close()
    for pair in pairs:
        yield _pair(pair)
    if failure is not None:
        yield Finding("peer", "problem", failure.message, failure.hint)
        raise failure
    relayed = route is not None and route.relayed
    how = "through TURN" if relayed else "directly"
    said = f"{peer_id} is reached {how}, in {took:.2f} s"
    yield _ok("peer", said, peer=peer_id, seconds=round(took, 3), relayed=relayed)


_STATES: dict[str, tuple[Status, str]] = {
    "selected": ("ok", "in use"),
    "works": ("ok", "works"),
    "failed": ("info", "no answer: a NAT or a firewall drops it, or nothing leads there"),
    "checking": ("info", "no answer so far"),
    "untried": ("info", "not tried: another was quicker"),
}


def _pair(pair: PairReport) -> Finding:
    status, meaning = _STATES[pair.state]
    return Finding(
        "pair",
        status,
        f"{pair.local} ({pair.local_type}) to {pair.remote} ({pair.remote_type}): {meaning}",
        data={
            "local": pair.local,
            "local_type": pair.local_type,
            "remote": pair.remote,
            "remote_type": pair.remote_type,
            "state": pair.state,
        },
    )
