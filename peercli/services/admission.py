"""Who may do what: rules by the name of a remembered peer, which is held to its key, or by a mere id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from peercli.errors import UsageError
from peercli.protocol.messages import Offer
from peercli.protocol.pipe import is_pipe
from peercli.protocol.transfer import is_files

__all__ = ["CAPABILITIES", "Admission", "capability_of", "parse_rules"]

CAPABILITIES = ("message", "pipe", "file", "call", "exec", "forward")


def parse_rules(texts: Iterable[str]) -> dict[str, frozenset[str]]:
    """What each may do, from `NAME` for everything or `NAME:capability,capability`.

    Raises:
        UsageError: there is no such capability.
    """
    rules: dict[str, frozenset[str]] = {}
    for text in texts:
        name, colon, listed = text.partition(":")
        wanted = frozenset(filter(None, listed.split(","))) if colon else frozenset(CAPABILITIES)
        if unknown := wanted.difference(CAPABILITIES):
            raise UsageError(
                f"{text!r}: there is nothing called {min(unknown)!r} to allow",
                hint=f"there are {', '.join(CAPABILITIES)}",
            )
        rules[name] = rules.get(name, frozenset()) | wanted
    return rules


def capability_of(offer: Offer) -> str:
    """What it takes to be allowed a connection."""
    if offer.kind == "media":
        return "call"
    if is_files(offer.metadata, offer.serialization):
        return "file"
    return "pipe" if is_pipe(offer.metadata, offer.serialization) else "message"


@dataclass(frozen=True, slots=True)
class Admission:
    """Rules, and the keys of those in them that are remembered: these are let in by key alone.

    Attributes:
        rules: capabilities by name or id.
        known: public keys by name.
    """

    rules: Mapping[str, frozenset[str]]
    known: Mapping[str, bytes]

    @property
    def strict(self) -> bool:
        """Whether everybody has to prove to own a key."""
        return self.known.keys() == self.rules.keys()

    def admits(self, offer: Offer, capability: str = "") -> bool:
        """Whether whoever makes this offer may; `capability` if it takes another than meets the eye."""
        name = offer.known_as
        if not name and offer.peer not in self.known:  # the id of a stranger may well be a name
            name = offer.peer
        return (capability or capability_of(offer)) in self.rules.get(name, ())
