"""Resetting streams, which is how data channels close (RFC 6525, RFC 8831 section 6.7)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import islice

from peercli.sctp.packet import Chunk, Param, chunk, param
from peercli.sctp.ranges import unwrap

__all__ = ["PERFORMED", "Request", "StreamResets"]

NOTHING_TO_DO, PERFORMED, DENIED, BAD_SEQUENCE, IN_PROGRESS = 0, 1, 2, 5, 6
"""Results of a request (RFC 6525 section 4.4)."""

MAX_STREAMS_A_REQUEST = 128
MAX_TRIES = 10

_REQUEST = struct.Struct("!LLL")
_RESPONSE = struct.Struct("!LL")
_MASK = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Request:
    """Outgoing SSN Reset Request. No streams means all of them."""

    sequence: int
    last_tsn: int
    streams: tuple[int, ...]


class StreamResets:
    """Both directions of one association. One request at a time is under way in each."""

    def __init__(self, local_tsn: int, peer_tsn: int) -> None:
        # Ours.
        self._wanted: dict[int, None] = {}  # in order
        self._request: Request | None = None
        self._forgotten: set[int] = set()  # streams of the request whose answer is of no interest any more
        self._next_sequence = local_tsn
        self._response_sequence = (peer_tsn - 1) & _MASK
        self._tries = 0
        self._at: float | None = None
        # Theirs.
        self._expected = peer_tsn
        self._result = NOTHING_TO_DO  # of the last request
        self._deferred: Request | None = None  # until all data sent before it has come

    def timeout(self) -> float | None:
        return self._at

    def want(self, stream: int) -> None:
        """Reset an outgoing stream, on which nothing is sent until that is answered."""
        self._wanted[stream] = None

    def due(self, now: float, last_tsn: int, rto: float) -> bytes | None:
        """The request to send now, new or again. `last_tsn` is the last that was given out."""
        if self._request is None:
            if not self._wanted:
                return None
            streams = tuple(islice(self._wanted, MAX_STREAMS_A_REQUEST))
            for stream in streams:
                del self._wanted[stream]
            self._request = Request(self._next_sequence, last_tsn & _MASK, streams)
            self._next_sequence = (self._next_sequence + 1) & _MASK
            self._tries = 0
        elif self._at is None or now < self._at:
            return None
        self._at = now + rto * 2 ** min(self._tries, 6)
        self._tries += 1
        request = self._request
        body = _REQUEST.pack(request.sequence, self._response_sequence, request.last_tsn)
        body += struct.pack(f"!{len(request.streams)}H", *request.streams)
        return chunk(Chunk.RE_CONFIG, 0, param(Param.OUTGOING_RESET_REQUEST, body))

    def forget(self, stream: int) -> None:
        """A stream turned out to be reset: no answer needs to say so."""
        if self._request is not None and stream in self._request.streams:
            self._forgotten.add(stream)

    def given_up(self) -> list[int]:
        """The streams of a request that was never answered."""
        if self._request is None or self._tries <= MAX_TRIES:
            return []
        return self._settle(self._request)

    def _settle(self, request: Request) -> list[int]:
        streams = [stream for stream in request.streams if stream not in self._forgotten]
        self._request = self._at = None
        self._forgotten.clear()
        return streams

    def on_response(self, value: bytes, now: float, rto: float) -> list[int]:
        """Take in a response. Returns the streams that are settled: reset, or refused."""
        if len(value) < _RESPONSE.size or self._request is None:
            return []
        sequence, result = _RESPONSE.unpack_from(value)
        if sequence != self._request.sequence:
            return []
        if result == IN_PROGRESS:
            self._at = now + rto
            self._tries = 1
            return []
        return self._settle(self._request)

    def on_request(self, value: bytes, cum: int) -> tuple[Request | None, bytes | None]:
        """Take in an Outgoing SSN Reset Request: the request if it is to be performed now, and the answer."""
        if len(value) < _REQUEST.size or len(value) % 2:
            return None, None
        sequence, _, last_tsn = _REQUEST.unpack_from(value)
        streams = struct.unpack(f"!{(len(value) - _REQUEST.size) // 2}H", value[_REQUEST.size :])
        if sequence == self._expected:
            self._expected = (self._expected + 1) & _MASK
            self._response_sequence = sequence
            self._deferred = Request(sequence, last_tsn, streams)
            request = self.performable(cum)
            if request is not None:
                return request, self.response(sequence, PERFORMED)
            return None, None  # answered once it is performed, or asked for again
        if sequence == (self._expected - 1) & _MASK:
            return None, self.response(sequence, self._result if self._deferred is None else IN_PROGRESS)
        return None, self.response(sequence, BAD_SEQUENCE)

    def performable(self, cum: int) -> Request | None:
        """The request that waited for data, if all up to the cumulative TSN `cum` is enough for it."""
        request = self._deferred
        if request is None or unwrap(request.last_tsn, cum) > cum:
            return None
        self._deferred = None
        self._result = PERFORMED
        return request

    def refuse(self, value: bytes) -> bytes | None:
        """The answer to a request of a kind that data channels have no use for."""
        if len(value) < 4:
            return None
        sequence = int.from_bytes(value[:4], "big")
        if sequence == self._expected:
            self._expected = (self._expected + 1) & _MASK
            self._response_sequence = sequence
            self._result = DENIED
        return self.response(sequence, DENIED)

    @staticmethod
    def response(sequence: int, result: int) -> bytes:
        return chunk(Chunk.RE_CONFIG, 0, param(Param.RECONFIG_RESPONSE, _RESPONSE.pack(sequence, result)))
