"""Candidates that overtake their offer: kept for it, for its peer alone, within limits."""

from __future__ import annotations

from peercli.protocol.early import MAX_EARLY, MAX_EARLY_CONNECTIONS, EarlyCandidates
from peercli.protocol.messages import Candidate, Offer


def candidate(connection: str, text: str = "", *, peer: str = "alice") -> Candidate:
    return Candidate(peer, connection, "data", text, "0", 0)


def offer(connection: str) -> Offer:
    return Offer("alice", connection, "data", "")


def test_they_are_kept_in_order_for_their_offer() -> None:
    early = EarlyCandidates()
    came = [candidate("one", "a"), candidate("two", "b"), candidate("one", "c")]
    for each in came:
        early.keep(each)
    assert early.take(offer("one")) == [came[0], came[2]]
    assert early.take(offer("one")) == []
    assert len(early) == 1


def test_those_of_somebody_else_are_dropped() -> None:
    early = EarlyCandidates()
    early.keep(candidate("one", "a", peer="mallory"))
    early.keep(candidate("one", "b"))
    assert [each.candidate for each in early.take(offer("one"))] == ["b"]


def test_a_connection_has_so_many() -> None:
    early = EarlyCandidates()
    for number in range(MAX_EARLY + 1):
        early.keep(candidate("one", str(number)))
    kept = [each.candidate for each in early.take(offer("one"))]
    assert kept == [str(number) for number in range(MAX_EARLY)]


def test_the_oldest_connections_go_first() -> None:
    early = EarlyCandidates()
    for number in range(MAX_EARLY_CONNECTIONS + 1):
        early.keep(candidate(str(number)))
    assert len(early) == MAX_EARLY_CONNECTIONS
    assert not early.take(offer("0"))
    assert early.take(offer("1"))
