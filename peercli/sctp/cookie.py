"""State cookies: what must be remembered between INIT ACK and COOKIE ECHO, kept by the far side
(RFC 9260 section 5.1.3)."""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from hashlib import sha256

from peercli.sctp.packet import Init

__all__ = ["COOKIE_LIFE", "Cookie"]

COOKIE_LIFE = 60.0
"""Seconds for which a cookie is good."""

_COOKIE = struct.Struct("!dLLLLLLHHL?")
_MAC_SIZE = 32


@dataclass(frozen=True, slots=True)
class Cookie:
    """`tie_tags` are the tags of the association that was there when the cookie was made, or zeros."""

    created: float
    local_tag: int
    local_tsn: int
    tie_tags: tuple[int, int]
    peer: Init

    def seal(self, key: bytes) -> bytes:
        peer = self.peer
        body = _COOKIE.pack(
            self.created,
            self.local_tag,
            self.local_tsn,
            *self.tie_tags,
            peer.tag,
            peer.window,
            peer.outbound_streams,
            peer.inbound_streams,
            peer.tsn,
            peer.zero_checksum,
        ) + bytes(sorted(peer.extensions))
        return body + hmac.digest(key, body, sha256)

    @classmethod
    def open(cls, key: bytes, sealed: bytes) -> Cookie | None:
        """Read a cookie back. None if it is not one of ours; whether it is stale the caller must check."""
        body, mac = sealed[:-_MAC_SIZE], sealed[-_MAC_SIZE:]
        if len(body) < _COOKIE.size or not hmac.compare_digest(hmac.digest(key, body, sha256), mac):
            return None
        fields = _COOKIE.unpack_from(body)
        created, local_tag, local_tsn, local_tie, peer_tie = fields[:5]
        tag, window, outbound, inbound, tsn, zero_checksum = fields[5:]
        peer = Init(tag, window, outbound, inbound, tsn, frozenset(body[_COOKIE.size :]), zero_checksum)
        return cls(created, local_tag, local_tsn, (local_tie, peer_tie), peer)
