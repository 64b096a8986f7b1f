"""Candidates that overtook the offer of their connection."""

from __future__ import annotations

from collections import OrderedDict

from peercli.protocol.messages import Candidate, Offer

__all__ = ["MAX_EARLY", "MAX_EARLY_CONNECTIONS", "EarlyCandidates"]

MAX_EARLY = 64  # candidates kept for one connection; later ones are dropped
MAX_EARLY_CONNECTIONS = 256  # such connections; the oldest go first


class EarlyCandidates:
    """Keeps candidates until their offer comes, and no more of them than the limits say."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, list[Candidate]] = OrderedDict()  # by connection

    def __len__(self) -> int:
        """For how many connections there are some."""
        return len(self._kept)

    def keep(self, candidate: Candidate) -> None:
        """Hold a candidate of a connection that nobody has offered yet."""
        kept = self._kept.setdefault(candidate.connection_id, [])
        if len(kept) < MAX_EARLY:
            kept.append(candidate)
        if len(self._kept) > MAX_EARLY_CONNECTIONS:
            self._kept.popitem(last=False)

    def take(self, offer: Offer) -> list[Candidate]:
        """Those that belong to an offer: of its connection, and from its peer."""
        kept = self._kept.pop(offer.connection_id, [])
        return [candidate for candidate in kept if candidate.peer == offer.peer]
