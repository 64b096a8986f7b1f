"""What this machine's network lets through, found out without a peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

from aioice import Candidate, Connection, stun

from peercli.options import IceOptions, IceServer
from peercli.rtc.diagnosis import is_symmetric, udp_is_blocked
from peercli.rtc.ice import Address, Agent, Port, ServerReport, gather_from_servers, resolve

__all__ = ["Nat", "NetworkReport", "ask_servers", "find_nat"]

ANSWER_TIMEOUT = 2.0  # s for an answer that a NAT may not let in
CHANGE_ADDRESS, CHANGE_PORT = 0x04, 0x02  # of CHANGE-REQUEST (RFC 5780 §7.2)

Nat = Literal[
    "public", "firewall", "full-cone", "address-restricted", "port-restricted", "symmetric", "cone", "unknown"
]
"""What stands between this machine and the internet: nothing, a filter alone, or a NAT of a kind (RFC 3489
§5). `cone` is one that is not symmetric, where no server helped to tell more."""


@dataclass(frozen=True, slots=True)
class NetworkReport:
    """What every server said, and what follows.

    Attributes:
        hosts: this machine's addresses.
        reflexive: how servers see it.
        relayed: the addresses that TURN servers lent.
        udp_blocked: no server answered over UDP.
        nat: as far as this tells it: `symmetric`, `cone`, `public` or `unknown`.
    """

    hosts: tuple[str, ...]
    reflexive: tuple[str, ...]
    relayed: tuple[str, ...]
    servers: tuple[ServerReport, ...]
    udp_blocked: bool
    nat: Nat


@asynccontextmanager
async def _agent(options: IceOptions) -> AsyncIterator[Agent]:
    agent = Agent.adopt(Connection(ice_controlling=True))
    agent.options = options
    try:
        await agent.gather_candidates()
        yield agent
    finally:
        await agent.close()


async def ask_servers(options: IceOptions) -> NetworkReport:
    """Ask every STUN and TURN server for addresses, all at once; those of TURN are given back."""
    found: list[Candidate] = []
    async with _agent(options) as agent:
        hosts = tuple(candidate.host for candidate in agent.local_candidates)
        await gather_from_servers(agent, options.servers, found.append)
        reports = tuple(agent.reports.values())
    mapped = {pair for report in reports for pair in report.mapped.items()}
    nat: Nat = "unknown"
    if is_symmetric(reports):
        nat = "symmetric"
    elif mapped:
        nat = "public" if all(base == seen for base, seen in mapped) else "cone"
    return NetworkReport(
        hosts,
        tuple(sorted({seen[0] for _, seen in mapped})),
        tuple(candidate.host for candidate in found if candidate.type == "relay"),
        reports,
        udp_is_blocked(reports),
        nat,
    )


async def find_nat(server: IceServer, options: IceOptions) -> Nat:
    """The kind of NAT, by a STUN server that can answer from elsewhere (RFC 5780); else `unknown`."""
    addresses = dict(await resolve(server))
    if 4 not in addresses:
        return "unknown"
    async with _agent(options) as mapping, _agent(options) as filtering:
        # What has sent to the server's other address would be let in from there: so, two sockets.
        sender, receiver = _ipv4(mapping), _ipv4(filtering)
        if sender is None or receiver is None:
            return "unknown"
        first = await _ask(sender, addresses[4])
        if first is None or (other := first.other) is None:
            return "unknown"
        if await _ask(receiver, addresses[4]) is None:
            return "unknown"
        second, from_elsewhere, from_other_port = await asyncio.gather(
            _ask(sender, other),
            _ask(receiver, addresses[4], CHANGE_ADDRESS | CHANGE_PORT),
            _ask(receiver, addresses[4], CHANGE_PORT),
        )
        if second is None:
            return "unknown"
        if first.mapped == (sender.local_candidate.host, sender.local_candidate.port):
            return "public" if from_elsewhere else "firewall"
        if first.mapped != second.mapped:
            return "symmetric"
        if from_elsewhere:
            return "full-cone"
        return "address-restricted" if from_other_port else "port-restricted"


def _ipv4(agent: Agent) -> Port | None:
    return next((port for port in agent.hosts if ":" not in port.local_candidate.host), None)


@dataclass(frozen=True, slots=True)
class _Answer:
    mapped: Address
    other: Address | None


async def _ask(port: Port, server: Address, change: int = 0) -> _Answer | None:
    request = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    if change:
        request.attributes["CHANGE-REQUEST"] = change
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            response, _ = await port.request(request, server)
    except (stun.TransactionError, TimeoutError):
        return None
    mapped = response.attributes.get("XOR-MAPPED-ADDRESS")
    return _Answer(mapped, response.attributes.get("OTHER-ADDRESS")) if mapped else None
