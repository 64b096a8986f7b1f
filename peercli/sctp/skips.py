"""Giving up messages that are too old or were sent too often, and telling the far side (RFC 3758)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import takewhile
from operator import attrgetter

from peercli.sctp import packet
from peercli.sctp.outstanding import Missing, Outstanding
from peercli.sctp.streams import Message

__all__ = ["Skips"]

_MASK = 0xFFFFFFFF


class Skips:
    """Which outstanding TSNs belong to messages that may be given up, and which messages were."""

    def __init__(self, outstanding: Outstanding) -> None:
        self._outstanding = outstanding
        self._limited: dict[int, Message] = {}  # TSN -> its message
        self._messages: list[Message] = []  # given up, and not yet behind the cumulative TSN
        self._advanced = outstanding.cum  # RFC 3758's Advanced.Peer.Ack.Point
        self._told_at = -math.inf
        self.due = False
        """The far side is to be told again, whenever it was told last."""

    def watch(self, message: Message, tsns: Iterable[int]) -> None:
        """These TSNs were given to a message that may be given up."""
        for tsn in tsns:
            self._limited[tsn] = message

    def acknowledge_below(self, end: int) -> None:
        for tsn in list(takewhile(lambda tsn: tsn < end, self._limited)):  # they are in order
            del self._limited[tsn]
        if self._messages:
            self._messages = [message for message in self._messages if message.end_tsn > end]

    def overdue(self, lost: Iterable[Missing], now: float) -> list[Message]:
        """The messages to be given up, as chunks of theirs were lost."""
        if not self._limited:
            return []
        found: dict[Message, None] = {}
        for missing in lost:
            message = self._limited.get(missing.tsn)
            if message is not None and missing.tsn not in self._outstanding.given_up:
                often = message.max_retransmits
                if now >= message.expires or (often is not None and missing.resends >= often):
                    found[message] = None
        return list(found)

    def give_up(self, message: Message) -> None:
        """Give up a message, all of which has TSNs."""
        for tsn in range(max(message.first_tsn, self._outstanding.cum + 1), message.end_tsn):
            if self._limited.get(tsn) is message:  # between them are others', if interleaved
                self._outstanding.given_up.add(tsn)
        self._messages.append(message)

    def forward_tsn(self, now: float, size: int, patience: float, *, interleaving: bool) -> bytes | None:
        """A FORWARD-TSN of up to `size` bytes, if the far side can skip something and was not just told."""
        due, self.due = self.due, False
        given_up, cum = self._outstanding.given_up, self._outstanding.cum
        if not given_up:
            return None
        advanced = max(self._advanced, cum)
        while advanced + 1 in given_up:
            advanced += 1
        due = due or advanced > self._advanced or now - self._told_at > patience
        if advanced <= cum or not due:
            return None
        # What is skipped may be but a part of an interleaved message; the rest of it is of no use either.
        latest: dict[tuple[int, bool], int] = {}
        most = (size - 8) // (8 if interleaving else 4)
        for message in sorted(self._messages, key=attrgetter("first_tsn")):
            unordered = bool(message.flags)
            if message.first_tsn > advanced or (unordered and not interleaving):
                continue
            key = (message.stream.id, unordered)
            if key not in latest and len(latest) == most:
                advanced = message.first_tsn - 1
                break
            latest[key] = message.number
        self._advanced = advanced
        self._told_at = now
        if interleaving:
            triples = [(stream, unordered, mid) for (stream, unordered), mid in latest.items()]
            return packet.iforward_tsn(advanced & _MASK, triples)
        return packet.forward_tsn(advanced & _MASK, [(stream, ssn) for (stream, _), ssn in latest.items()])
