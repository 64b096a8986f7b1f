"""Who is connected, and what waits for whom: the broker's state, as a function of `now`.

PURE: a client's socket is an opaque `Link`, and every call answers with the effects for the shell to carry
out. Nothing here costs more than the clients and messages it is about: both are kept in the order in which
they expire.
"""

from __future__ import annotations

import hmac
import json
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import msgspec

from peercli.server.envelope import NO_PAYLOAD, open_envelope, seal

__all__ = [
    "HELD_OVERHEAD",
    "ID_TAKEN",
    "INVALID_ID",
    "INVALID_KEY",
    "INVALID_TOKEN",
    "LIMIT_EXCEEDED",
    "MAX_ID_LENGTH",
    "MAX_TOKEN_LENGTH",
    "MISSING_PARAMETERS",
    "NORMAL_CLOSURE",
    "POLICY_VIOLATION",
    "Close",
    "Effects",
    "Elsewhere",
    "Realm",
    "Send",
    "is_id",
    "refusal",
    "unfit",
]

MAX_ID_LENGTH = 256
MAX_TOKEN_LENGTH = 1024
HELD_OVERHEAD = 512  # bytes that a held message costs beyond its own

# PeerServer's words (`enums.ts`, `webSocketServer/index.ts`); it never makes the last two refusals.
MISSING_PARAMETERS = "No id, token, or key supplied to websocket server"
INVALID_KEY = "Invalid key provided"
LIMIT_EXCEEDED = "Server has reached its concurrent user limit"
ID_TAKEN = "ID is taken"
INVALID_TOKEN = "Invalid token provided"
INVALID_ID = "Invalid id provided"

# WebSocket close codes (RFC 6455, section 7.4.1)
NORMAL_CLOSURE = 1000
POLICY_VIOLATION = 1008

# PeerJS allows one separator at a time; PeerServer anything at all. This is what is safe to show and to log.
_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 _-]*[A-Za-z0-9])?")
_OPEN = seal("OPEN")
_HELD_TYPES = frozenset({"OFFER", "ANSWER", "CANDIDATE"})
_RELAYED_TYPES = _HELD_TYPES | {"LEAVE", "EXPIRE"}
_KNOWN_TYPES = _RELAYED_TYPES | {"HEARTBEAT"}

Link = TypeVar("Link", bound=Hashable)


class Send(msgspec.Struct, Generic[Link], gc=False):
    """Send this text (UTF-8) on the link."""

    link: Link
    data: bytes


class Close(NamedTuple, Generic[Link]):
    """Close the link, after what was sent on it."""

    link: Link
    code: int
    reason: str


def _octets(token: str) -> bytes:
    return token.encode(errors="surrogatepass")  # a URL can spell what UTF-8 cannot


class Elsewhere(NamedTuple):
    """The message is for a peer that is not here but may be at another broker; else `hold` it."""

    src: str
    dst: str
    data: bytes
    held: bool
    """Whether it waits for its peer at all."""


Effects = list[Send[Link] | Close[Link] | Elsewhere]


def refusal(link: Link, reason: str, kind: str = "ERROR") -> Effects[Link]:
    """Tell a newcomer why it cannot come in, and close its link."""
    payload = json.dumps({"msg": reason}, separators=(",", ":")).encode()
    return [Send(link, seal(kind, payload=payload)), Close(link, POLICY_VIOLATION, reason)]


def is_id(text: str) -> bool:
    """May a client be called so?"""
    return len(text) <= MAX_ID_LENGTH and _ID.fullmatch(text) is not None


def unfit(peer_id: str, token: str) -> str | None:
    """Why nobody can come in by this id and token, whatever the state of the realm."""
    if not is_id(peer_id):
        return INVALID_ID
    return INVALID_TOKEN if not token or len(token) > MAX_TOKEN_LENGTH else None


@dataclass(slots=True)
class _Client(Generic[Link]):
    id: str
    token: str
    link: Link
    heartbeat: float  # when the last one came


@dataclass(slots=True)
class _Mailbox:
    """What waits for one absent peer: by sender, each message with its place in the order of arrival."""

    size: int = 0
    senders: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)


class Realm(Generic[Link]):
    """The clients of one broker, and the messages for those who have not come yet.

    A client is alive for `alive_timeout` seconds after it came, came back, or sent HEARTBEAT; no other
    message counts. Messages for an absent peer wait `expire_timeout` seconds, counted from the first of each
    sender, and then the sender hears EXPIRE once. At most `max_held` bytes wait in all, `max_held_per_peer`
    for one peer: a sender beyond them hears EXPIRE at once, and nothing of it is kept for that peer.

    Where the realm is `shared` with other brokers, messages for those who are not here are handed out instead
    (`Elsewhere`). `gone` is called with the id, the token and the link of each client that has lost its link,
    by whatever way.
    """

    def __init__(
        self,
        *,
        expire_timeout: float,
        alive_timeout: float,
        concurrent_limit: int,
        max_held: int,
        max_held_per_peer: int,
        shared: bool = False,
        gone: Callable[[str, str, Link], None] = lambda peer_id, token, link: None,
    ) -> None:
        self._expire_timeout = expire_timeout
        self._alive_timeout = alive_timeout
        self.concurrent_limit = concurrent_limit
        self._max_held = max_held
        self._max_held_per_peer = max_held_per_peer
        self._shared = shared
        self._gone = gone
        self.counts: Counter[str] = Counter()
        """Messages received, by type."""
        self._clients: OrderedDict[str, _Client[Link]] = OrderedDict()  # by id; oldest heartbeat first
        self._links: dict[Link, _Client[Link]] = {}
        self._mailboxes: dict[str, _Mailbox] = {}  # by the absent peer's id
        self._expiries: OrderedDict[tuple[str, str], float] = OrderedDict()  # (dst, src): when; soonest first
        self._held = 0
        self._arrivals = 0

    @property
    def ids(self) -> list[str]:
        """The ids of all clients."""
        return list(self._clients)

    @property
    def held(self) -> int:
        """Bytes that wait for absent peers, HELD_OVERHEAD for each message included."""
        return self._held

    @property
    def awaited(self) -> int:
        """How many absent peers something waits for."""
        return len(self._mailboxes)

    def contested(self, peer_id: str, token: str) -> Link | None:
        """The link that holds `peer_id` under another token, if one does."""
        holder = self._clients.get(peer_id)
        if holder is None or hmac.compare_digest(_octets(holder.token), _octets(token)):
            return None
        return holder.link

    def attach(self, link: Link, peer_id: str, token: str, now: float) -> Effects[Link]:
        """A client comes: OPEN and what waited for it, or a refusal and the end of its link.

        With the token of the present holder it takes the id over, and the holder's link is closed.
        """
        if (reason := unfit(peer_id, token)) is not None:
            return refusal(link, reason)
        if self.contested(peer_id, token) is not None:
            return refusal(link, ID_TAKEN, "ID-TAKEN")
        effects: Effects[Link] = []
        if (former := self._clients.get(peer_id)) is not None:
            self._remove(former)
            effects.append(Close(former.link, NORMAL_CLOSURE, "replaced by a newer socket"))
        elif len(self._clients) >= self.concurrent_limit:
            return refusal(link, LIMIT_EXCEEDED)
        self._clients[peer_id] = self._links[link] = _Client(peer_id, token, link, now)
        effects.append(Send(link, _OPEN))
        effects.extend(Send(link, data) for data in self._collect(peer_id))
        return effects

    def detach(self, link: Link) -> None:
        """The link is gone, and its id free; nothing if the id has moved to another link since."""
        if (client := self._links.get(link)) is not None:
            self._remove(client)

    def receive(self, link: Link, data: bytes, now: float) -> Effects[Link]:
        """A message came on the link. What cannot be understood, or names no peer, is ignored."""
        client = self._links.get(link)
        message = open_envelope(data)
        if client is None or message is None:
            return []
        kind, dst, payload = message.type, message.dst, message.payload
        self.counts[kind if kind in _KNOWN_TYPES else "other"] += 1
        if kind == "HEARTBEAT":
            client.heartbeat = now
            self._clients.move_to_end(client.id)
        elif kind == "LEAVE" and not dst:
            self._remove(client)
            return [Close(link, NORMAL_CLOSURE, "left")]
        elif kind in _RELAYED_TYPES and dst:
            receiver = self._clients.get(dst)
            if receiver is not None and payload is not NO_PAYLOAD:
                # The usual: nothing in it needs to be quoted.
                head = f'{{"type":"{kind}","src":"{client.id}","dst":"{dst}","payload":'
                return [Send(receiver.link, b"".join((head.encode(), payload, b"}")))]
            relayed = seal(kind, src=client.id, dst=dst, payload=payload)
            if receiver is not None:
                return [Send(receiver.link, relayed)]
            held = kind in _HELD_TYPES
            if self._shared and is_id(dst):
                return [Elsewhere(client.id, dst, relayed, held)]
            if held:
                return self.hold(client.id, dst, relayed, now)
        return []

    def deliver(self, dst: str, data: bytes) -> Effects[Link]:
        """A message from another broker; nothing if the peer is not here."""
        client = self._clients.get(dst)
        return [] if client is None else [Send(client.link, data)]

    def link_of(self, peer_id: str) -> Link | None:
        """The link of a client, if it is here."""
        client = self._clients.get(peer_id)
        return None if client is None else client.link

    def clients(self) -> list[tuple[str, str, Link]]:
        """Id, token and link of all clients."""
        return [(client.id, client.token, client.link) for client in self._clients.values()]

    def expire(self, now: float) -> Effects[Link]:
        """What has run out by `now`: EXPIRE for senders of held messages, the end for silent clients."""
        effects: Effects[Link] = []
        while self._expiries:
            (dst, src), due = next(iter(self._expiries.items()))
            if due > now:
                break
            effects += self._give_up(src, dst)
        while self._clients:
            client = next(iter(self._clients.values()))
            if client.heartbeat + self._alive_timeout > now:
                break
            self._remove(client)
            effects.append(Close(client.link, NORMAL_CLOSURE, "no heartbeat"))
        return effects

    def _remove(self, client: _Client[Link]) -> None:
        del self._clients[client.id]
        del self._links[client.link]
        self._gone(client.id, client.token, client.link)

    def hold(self, src: str, dst: str, data: bytes, now: float) -> Effects[Link]:
        """Keep a message for an absent peer."""
        size = len(data) + HELD_OVERHEAD
        mailbox = self._mailboxes.setdefault(dst, _Mailbox())
        if mailbox.size + size > self._max_held_per_peer or self._held + size > self._max_held:
            return self._give_up(src, dst)
        mailbox.senders.setdefault(src, []).append((self._arrivals, data))
        mailbox.size += size
        self._held += size
        self._arrivals += 1
        self._expiries.setdefault((dst, src), now + self._expire_timeout)
        return []

    def _give_up(self, src: str, dst: str) -> Effects[Link]:
        """Throw away what `src` has waiting for `dst`, and tell it, if it is still here."""
        mailbox = self._mailboxes[dst]
        size = sum(len(data) + HELD_OVERHEAD for _, data in mailbox.senders.pop(src, ()))
        mailbox.size -= size
        self._held -= size
        self._expiries.pop((dst, src), None)
        if not mailbox.senders:
            del self._mailboxes[dst]
        sender = self._clients.get(src)
        return [] if sender is None else [Send(sender.link, seal("EXPIRE", src=dst, dst=src))]

    def _collect(self, dst: str) -> list[bytes]:
        """Take what waits for `dst` out of the realm, in the order in which it came."""
        mailbox = self._mailboxes.pop(dst, None)
        if mailbox is None:
            return []
        self._held -= mailbox.size
        for src in mailbox.senders:
            del self._expiries[dst, src]
        return [data for _, data in sorted(message for sent in mailbox.senders.values() for message in sent)]
