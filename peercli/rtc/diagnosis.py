"""Why there is no path to a peer, in words, from what was seen while looking for one."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

from aioice import Candidate

from peercli.errors import NegotiationFailed
from peercli.options import IceOptions, IceServer
from peercli.rtc.ice import Agent, Outcome, ServerReport

__all__ = ["SILENCE_HINT", "hint_for", "is_symmetric", "no_path", "no_relay", "udp_is_blocked", "why_not"]

TURN_HINT = "a TURN server helps, on either side: --ice turn:user:password@host"
SILENCE_HINT = "nothing comes from it any more: has it lost its network, gone to sleep, or crashed?"
TURN_TCP_HINT = "a TURN server over TLS or TCP helps: --ice turns:user:password@host"

_OUTCOMES: dict[Outcome, str] = {
    "address": "its name has no address",
    "silent": "it does not answer",
    "unreachable": "it cannot be reached",
    "untrusted": "its certificate is not trusted",
    "refused": "it refuses the user or the password",
    "failed": "it failed",
}
_HINTS: dict[Outcome, str] = {
    "address": "check the host name in --ice, and this machine's name servers",
    "silent": "check the host and the port in --ice, and the firewalls on the way",
    "unreachable": "check the host and the port in --ice; is the server running?",
    "untrusted": "check the host name in --ice, the server's certificate and this machine's clock",
    "refused": "check the user and the password in --ice turn:user:password@host",
    "failed": "check the --ice address; is it a TURN server?",
}


def why_not(report: ServerReport) -> str:
    """What is wrong with a server, as the rest of a sentence."""
    detail = f" ({report.detail})" if report.detail else ""
    return f"{_OUTCOMES[report.outcome]}{detail}"


def hint_for(report: ServerReport) -> str:
    """What can be done about it."""
    return _HINTS.get(report.outcome, "")


def udp_is_blocked(reports: Collection[ServerReport]) -> bool:
    """Whether not one server was heard over UDP, while their names could be looked up."""
    asked = [report for report in reports if report.server.transport == "udp" and report.outcome != "address"]
    return bool(asked) and all(report.outcome == "silent" and not report.mapped for report in asked)


def is_symmetric(reports: Iterable[ServerReport]) -> bool:
    """Whether two servers see one of our sockets at different addresses (RFC 4787 §4.1)."""
    seen: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for report in reports:
        for base, mapped in report.mapped.items():
            seen.setdefault(base, set()).add(mapped)
    return any(len(addresses) > 1 for addresses in seen.values())


def _looks_symmetric(candidates: Iterable[Candidate]) -> bool:
    """The same of the far side, from what it signals: one socket with two reflexive addresses."""
    seen: dict[tuple[str | None, int | None], set[tuple[str, int]]] = {}
    for candidate in candidates:
        if candidate.type == "srflx":
            base = (candidate.related_address, candidate.related_port)
            seen.setdefault(base, set()).add((candidate.host, candidate.port))
    # Browsers hide the base.
    return any(len(addresses) > 1 for (_, port), addresses in seen.items() if port)


def _is_public(candidate: Candidate) -> bool:
    """Whether somebody outside the far side's network might reach it there."""
    if candidate.type != "host":
        return True
    try:
        return ipaddress.ip_address(candidate.host).is_global
    except ValueError:  # a browser's, hidden behind a name
        return False


def _ip_versions(candidates: Iterable[Candidate]) -> set[str]:
    """Which a side has; browsers hide it behind names."""
    hosts = [candidate.host for candidate in candidates if not candidate.host.endswith(".local")]
    return {"IPv6" if ":" in host else "IPv4" for host in hosts}


def no_relay(reports: Iterable[ServerReport]) -> NegotiationFailed:
    """Only TURN was allowed, and no server gave an address."""
    turn = [
        report
        for report in reports
        if report.server.scheme.startswith("turn") and report.outcome != "answered"
    ]
    if not turn:
        return NegotiationFailed("only TURN is allowed, and no TURN server is known", hint=TURN_HINT)
    reasons = "; ".join(f"{report.server}: {why_not(report)}" for report in turn)
    return NegotiationFailed(
        f"no TURN server gave a relayed address ({reasons})", hint=_HINTS.get(turn[0].outcome, TURN_HINT)
    )


def no_path(agent: Agent, options: IceOptions) -> NegotiationFailed:
    """Both peers spoke, and not one pair of candidates works."""
    reports = list(agent.reports.values())
    ours = {candidate.type for candidate in agent.local_candidates}
    if any(report.mapped for report in reports):
        ours.add("srflx")
    theirs = {candidate.type for candidate in agent.remote_candidates}
    relayed = "relay" in ours | theirs
    both = agent.local_candidates, agent.remote_candidates
    why, hint = _cause(reports, options.servers, *both, relayed=relayed)
    kinds = [", ".join(sorted(kinds)) or "none" for kinds in (ours, theirs)]
    return NegotiationFailed(
        f"no path to the peer worked: {why} (candidates of ours: {kinds[0]}; of the far side: {kinds[1]})",
        hint=hint,
    )


def _cause(
    reports: Collection[ServerReport],
    servers: Collection[IceServer],
    ours: Collection[Candidate],
    theirs: Collection[Candidate],
    *,
    relayed: bool,
) -> tuple[str, str]:
    """What stands in the way, most certain first, and what helps."""
    turn = [report for report in reports if report.server.scheme.startswith("turn")]
    broken = next((report for report in turn if report.outcome in ("refused", "untrusted", "address")), None)
    symmetric, theirs_symmetric = is_symmetric(reports), _looks_symmetric(theirs)
    if relayed:
        return "not even through TURN", "does a firewall at the TURN server block its relayed ports?"
    if broken:
        return f"the TURN server {broken.server} gave no address, {why_not(broken)}", hint_for(broken)
    if udp_is_blocked(reports):
        return "no server answers over UDP, so it seems to be blocked here", TURN_TCP_HINT
    versions, their_versions = _ip_versions(ours), _ip_versions(theirs)
    if versions and their_versions and versions.isdisjoint(their_versions):
        here, there = (" and ".join(sorted(each)) for each in (versions, their_versions))
        return f"this side has {here} alone, the far side {there}", TURN_HINT
    if not servers:
        return "without STUN and TURN servers only a local network can be crossed", TURN_HINT
    if symmetric and theirs_symmetric:
        return "both sides are behind symmetric NATs, which take a new port for every destination", TURN_HINT
    if symmetric or theirs_symmetric:
        where = "this side" if symmetric else "the far side"
        return f"{where} is behind a symmetric NAT, which takes a new port for every destination", TURN_HINT
    if not any(map(_is_public, theirs)):
        return "the far side knows no public address of its own; UDP may be blocked there", TURN_TCP_HINT
    return "both sides may be behind strict NATs or firewalls", TURN_HINT
