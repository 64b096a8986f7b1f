"""DTLS in batches: the session that aiortc has set up, many records at a time."""

from __future__ import annotations

from collections.abc import Sequence

from aiortc import RTCDtlsParameters, RTCDtlsTransport, RTCIceTransport
from aiortc.rtcdtlstransport import State
from OpenSSL import SSL
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

from peercli.rtc.ice import Agent
from peercli.rtc.private import needs

__all__ = ["OVERHEAD", "DtlsTransport", "Session", "SessionFailed", "cut"]

OVERHEAD = 37  # bytes of an AES-GCM record beyond its content
BIO_BYTES = 15_000  # bytes of records handed to OpenSSL at once: its own buffer holds one big record
FINGERPRINTS = ("sha-256", "sha-384", "sha-512")

_RECORD_BYTES = 17_000  # of the largest record's content (2^14), with room to spare
_BATCH_BYTES = 1 << 17  # of the records that a batch becomes
_STUN_TYPES = range(4)  # first bytes of datagrams (RFC 7983 section 7)
_DTLS_TYPES = bytes(range(20, 64))

needs(SSL.Connection, "_raise_ssl_error", "_ssl", "_into_ssl", "_from_ssl")
needs(_lib, "SSL_read", "SSL_write", "BIO_read", "BIO_write")
needs(RTCIceTransport, "_connection")
needs(
    RTCDtlsTransport,
    *("_register_data_receiver", "_unregister_data_receiver", "_set_state", "_validate_peer_identity"),
    *("_ssl", "_role", "_rx_srtp", "_tx_srtp"),
)


class SessionFailed(Exception):
    """OpenSSL will encrypt no more."""


class Session:
    """A DTLS session, a batch of records at a time.

    OpenSSL keeps the keys, the replay window and the alerts. It is called through pyOpenSSL's own binding,
    with buffers that are used again: that halves the cost of a packet.

    Attributes:
        closed: whether the far side has said goodbye, or there is nothing that can be gone on with.
    """

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self._ssl = connection._ssl
        self._in = connection._into_ssl
        self._out = connection._from_ssl
        self._plain = _ffi.new("char[]", _RECORD_BYTES)
        self._sealed = _ffi.new("char[]", _BATCH_BYTES)
        self._sealed_view = memoryview(_ffi.buffer(self._sealed))
        self.closed = False

    def open(self, records: bytes | memoryview) -> list[bytes]:
        """Decrypt whole records: at most `BIO_BYTES`, or a single datagram."""
        _lib.BIO_write(self._in, _ffi.from_buffer(records), len(records))
        read, ssl, plain, size, view = _lib.SSL_read, self._ssl, self._plain, _RECORD_BYTES, _ffi.buffer
        packets: list[bytes] = []
        alone = len(records) == _length(records, 0)  # to hear that there is no more costs as much as a record
        while (count := read(ssl, plain, size)) > 0:
            packets.append(view(plain, count)[:])
            if alone:
                return packets
        try:
            self._connection._raise_ssl_error(ssl, count)
        except SSL.WantReadError:
            pass
        except SSL.Error:
            self.closed = True
        return packets

    def seal(self, packets: Sequence[bytes]) -> memoryview:
        """Encrypt packets; the records, one after the other, until the next call.

        Raises:
            SessionFailed: OpenSSL would not.
        """
        write, ssl = _lib.SSL_write, self._ssl
        for packet in packets:
            if (count := write(ssl, packet, len(packet))) <= 0:
                try:
                    self._connection._raise_ssl_error(ssl, count)
                except SSL.Error as error:
                    raise SessionFailed from error
        return self.pending()

    def pending(self) -> memoryview:
        """What OpenSSL wants sent of its own accord, if anything."""
        count = _lib.BIO_read(self._out, self._sealed, _BATCH_BYTES)
        return self._sealed_view[: max(count, 0)]


def cut(glued: bytes | memoryview, segment: int) -> tuple[list[memoryview], list[bytes]]:
    """Tell datagrams apart that the kernel has glued together, all of one size but for a shorter last one.

    With `segment` 0 that size is not known, and each says itself how long it is; but SRTP does not.

    Returns:
        Whole records of DTLS, in pieces that OpenSSL's buffer holds; and every other datagram.
    """
    view = memoryview(glued)
    if segment and not bytes(view[::segment]).translate(None, _DTLS_TYPES):  # all begin as DTLS does
        step = max(BIO_BYTES // segment, 1) * segment
        return [view[start : start + step] for start in range(0, len(view), step)], []
    pieces: list[memoryview] = []
    others: list[bytes] = []
    start = begun = 0  # of the datagram, and of the piece that it may be the next of
    while start < len(view):
        end = min(start + (segment or _length(view, start)), len(view))
        is_dtls = view[start] in _DTLS_TYPES
        if begun < start and (not is_dtls or end - begun > BIO_BYTES):
            pieces.append(view[begun:start])
            begun = start
        if not is_dtls:
            others.append(bytes(view[start:end]))
            begun = end
        start = end
    if begun < start:
        pieces.append(view[begun:start])
    return pieces, others


def _length(view: bytes | memoryview, start: int) -> int:
    """The length of the record or message there, header and all; of anything else, all that is left."""
    if view[start] in _DTLS_TYPES:  # RFC 6347 section 4.1
        return 13 + int.from_bytes(view[start + 11 : start + 13], "big")
    if view[start] in _STUN_TYPES:  # RFC 8489 section 5
        return 20 + int.from_bytes(view[start + 2 : start + 4], "big")
    return len(view) - start


class DtlsTransport(RTCDtlsTransport):
    """aiortc's, with our ICE agent below it, and one difference: it takes any certificate that OpenSSL takes.

    aiortc has the far side's certificate parsed by `cryptography`, which refuses libdatachannel's for its
    version number. Nothing in it matters to WebRTC but its digest. Adds behaviour and no state.
    """

    @staticmethod
    def adopt(transport: RTCDtlsTransport) -> DtlsTransport:
        transport.__class__ = DtlsTransport
        assert isinstance(transport, DtlsTransport)
        Agent.adopt(transport.transport._connection)
        return transport

    @property
    def agent(self) -> Agent:
        agent = self.transport._connection
        assert isinstance(agent, Agent)
        return agent

    @property
    def is_client(self) -> bool:
        """Whether this side began the handshake, once that is settled."""
        return bool(self._role == "client")

    def session(self) -> Session:
        """What encrypts, once the handshake is done. Nobody else may go on with it."""
        assert self._ssl is not None
        return Session(self._ssl)

    def release(self) -> None:
        """Free what OpenSSL and libsrtp keep for a session that is over.

        aiortc's objects refer to each other: without this it would stay until Python looks for cycles.
        """
        self._ssl = None
        self._rx_srtp = self._tx_srtp = None  # type: ignore[assignment]  # as aiortc does

    def _validate_peer_identity(self, parameters: RTCDtlsParameters) -> None:
        """Hold the certificate against the description's fingerprints (RFC 8122 §5): each of a known kind."""
        assert self._ssl is not None
        certificate = self._ssl.get_peer_certificate()
        known = [each for each in parameters.fingerprints if each.algorithm.lower() in FINGERPRINTS]
        if (
            certificate is None
            or not known
            or any(
                certificate.digest(each.algorithm.replace("-", "")).decode() != each.value.upper()
                for each in known
            )
        ):
            self._set_state(State.FAILED)
