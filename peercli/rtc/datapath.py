"""The data path: UDP socket, DTLS and our SCTP association, in batches and without queues between.

aiortc gives the ICE and DTLS transports. Once they are connected this module takes the datagrams from the
ICE agent (`Agent.tap`), drains the socket of what else is there, decrypts all of it in one go, hands the
packets to `peercli.sctp`, and sends what that answers in as few system calls as the kernel allows: with UDP
segmentation (GSO) and coalescing (GRO) where it has them. STUN goes on to aioice, SRTP to aiortc.

All that is used here of aiortc's and pyOpenSSL's private parts is looked for when this module is imported.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from aioice.ice import StunProtocol
from aiortc import (
    RTCConfiguration,
    RTCDataChannel,
    RTCDtlsParameters,
    RTCDtlsTransport,
    RTCPeerConnection,
    RTCSctpCapabilities,
)
from aiortc.rtcdtlstransport import State as DtlsState
from OpenSSL import SSL
from OpenSSL._util import ffi as _ffi
from OpenSSL._util import lib as _lib

from peercli.errors import ConnectionClosed, ConnectionLost, NegotiationFailed, PeerError
from peercli.rtc.channel import UNLIMITED, Channel, StockChannel, Wire
from peercli.rtc.ice import Agent
from peercli.rtc.path_mtu import LADDER, PathMtu
from peercli.sctp import events
from peercli.sctp.association import Association, State

__all__ = ["PeerConnection", "SctpTransport"]

logger = logging.getLogger(__name__)

DTLS_OVERHEAD = 37  # bytes of an AES-GCM record beyond its content
MAX_MESSAGE = 262_144  # bytes we take in one message (what aiortc and libwebrtc announce, too)
DEFAULT_MAX_MESSAGE = 65_536  # bytes a far side takes that does not say (RFC 8841 §6.1)
RECEIVE_WINDOW = 16 << 20  # bytes; 100 Mbit/s over 600 ms, doubled
SEND_BUFFER = 4 << 20  # bytes of all channels together before `send` waits
SOCKET_BUFFER = 4 << 20  # bytes asked of the kernel, which gives what it will
BATCH_PACKETS = 54  # packets encrypted and sent in one go: 1,200-byte ones fill a GSO call; of larger …
GSO_BYTES = 65_000  # … ones as many as fit in this: bytes in one GSO call, …
GSO_SEGMENTS = 64  # … and datagrams
MAX_PACKET = LADDER[-1]  # bytes of SCTP, to a far side like this one
MAX_STRANGERS_PACKET = 1_404  # bytes; a larger one ends Pion, and aiortc takes the rest for another packet
PROBE_FROM = 16_000  # bytes in flight from which larger packets are worth a search
BLACK_HOLE_TIMEOUTS = 2  # in a row, after which large packets are deemed lost for their size
DRAIN_BYTES = 1 << 20  # bytes read from a socket before others get their turn
BIO_BYTES = 15_000  # bytes of records handed to OpenSSL at once: its own buffer holds one big record
BATCHES_A_TURN = 8  # batches sent before others get their turn

FINGERPRINTS = ("sha-256", "sha-384", "sha-512")

_SOL_UDP, _UDP_SEGMENT, _UDP_GRO = 17, 103, 104
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_DONT, _PMTUDISC_PROBE = 0, 3
_SEGMENT_SIZE = struct.Struct("=H")
_INT = struct.Struct("=i")

for _owner, _names in (
    (SSL.Connection, ("_raise_ssl_error",)),
    (_lib, ("SSL_read", "SSL_write", "BIO_read", "BIO_write")),
    (RTCDtlsTransport, ("_register_data_receiver", "_set_state", "_validate_peer_identity")),
    (
        RTCPeerConnection,
        (
            "_RTCPeerConnection__connect",
            "_RTCPeerConnection__createDtlsTransport",
            "_RTCPeerConnection__createSctpTransport",
        ),
    ),
):
    for _name in _names:
        if not hasattr(_owner, _name):
            raise ImportError(f"{_owner} has changed: {_name} is gone, and peercli.rtc.datapath relies on it")


class _Dtls:
    """A DTLS session that aiortc has set up, a batch of records at a time.

    OpenSSL keeps the keys, the replay window and the alerts. It is called through pyOpenSSL's own binding,
    with buffers that are used again: that halves the cost of a packet.
    """

    def __init__(self, connection: SSL.Connection) -> None:
        self._connection = connection
        self._ssl = connection._ssl
        self._in = connection._into_ssl
        self._out = connection._from_ssl
        self._plain = _ffi.new("char[]", 17_000)
        self._sealed = _ffi.new("char[]", 1 << 17)
        self._sealed_view = memoryview(_ffi.buffer(self._sealed))
        self.closed = False

    def open(self, records: bytes | memoryview) -> list[bytes]:
        """Decrypt whole records, at most `BIO_BYTES` or a single datagram."""
        _lib.BIO_write(self._in, _ffi.from_buffer(records), len(records))
        read, ssl, plain, size, view = _lib.SSL_read, self._ssl, self._plain, 17_000, _ffi.buffer
        packets: list[bytes] = []
        while (count := read(ssl, plain, size)) > 0:
            packets.append(view(plain, count)[:])
        try:
            self._connection._raise_ssl_error(ssl, count)
        except SSL.WantReadError:
            pass
        except SSL.Error:  # the far side's goodbye, or nothing that can be gone on with
            self.closed = True
        return packets

    def seal(self, packets: Sequence[bytes]) -> memoryview:
        """Encrypt packets; the records, one after the other, until the next call."""
        write, ssl = _lib.SSL_write, self._ssl
        for packet in packets:
            if (count := write(ssl, packet, len(packet))) <= 0:
                self._connection._raise_ssl_error(ssl, count)
        return self.pending()

    def pending(self) -> memoryview:
        """What OpenSSL wants sent of its own accord, if anything."""
        count = _lib.BIO_read(self._out, self._sealed, len(self._sealed_view))
        return self._sealed_view[: max(count, 0)]


class _Udp:
    """A UDP socket of the ICE agent's, read and written past asyncio."""

    def __init__(self, protocol: StunProtocol, *, coalesce: bool) -> None:
        self.protocol = protocol
        self._socket: socket.socket = protocol.transport.get_extra_info("socket").dup()
        self._socket.setblocking(False)
        self._buffer = bytearray(1 << 16)
        self._ancillary = socket.CMSG_SPACE(_INT.size)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        self.probes = self._may_fragment(True)
        """Whether datagrams can be sent that are lost where they do not fit."""
        self._segments = self._try_option(_SOL_UDP, _UDP_SEGMENT, 0)
        if coalesce:
            self._try_option(_SOL_UDP, _UDP_GRO, 1)

    def _try_option(self, level: int, option: int, value: int) -> bool:
        try:
            self._socket.setsockopt(level, option, value)
        except OSError:
            return False
        return True

    def _may_fragment(self, allowed: bool) -> bool:
        """Allow what follows to be cut by IP, or forbid it. False where that is not known how to do.

        SCTP gives a chunk its number once and for all: what was sent when the path took more goes out in
        fragments now, or never.
        """
        if sys.platform != "linux":
            return False
        discovery = _PMTUDISC_DONT if allowed else _PMTUDISC_PROBE
        if self._socket.family == socket.AF_INET6:
            return self._try_option(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, discovery)
        return self._try_option(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discovery)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> tuple[bytes, int, tuple[Any, ...]] | None:
        """What is waiting: bytes, the size of the datagrams in them, and their source. None: nothing."""
        try:
            count, ancillary, _, address = self._socket.recvmsg_into([self._buffer], self._ancillary)
        except BlockingIOError:
            return None
        except OSError:  # an ICMP error for something sent before
            return b"", 0, ()
        segment = count
        for level, kind, value in ancillary:
            if level == _SOL_UDP and kind == _UDP_GRO:
                segment = _INT.unpack(value[: _INT.size])[0]
        return bytes(memoryview(self._buffer)[:count]), segment, address

    def send(self, datagrams: memoryview, size: int, address: tuple[str, int]) -> int:
        """Send datagrams of `size` bytes, the last one perhaps shorter; how many bytes went.

        Datagrams that the path cannot take at all count as sent, and are lost.
        """
        if self._segments and len(datagrams) > size:
            limit = min(GSO_BYTES // size, GSO_SEGMENTS) * size
            option = [(_SOL_UDP, _UDP_SEGMENT, _SEGMENT_SIZE.pack(size))]
            for start in range(0, len(datagrams), limit):
                try:
                    self._socket.sendmsg([datagrams[start : start + limit]], option, 0, address)
                except BlockingIOError:
                    return start
                except OSError as error:
                    if error.errno == errno.EIO:  # the interface cannot, after all
                        self._segments = False
                    if error.errno in (errno.EIO, errno.EMSGSIZE, errno.EINVAL):  # too large for it, by now
                        return start + self._send_singly(datagrams[start:], size, address)
            return len(datagrams)
        return self._send_singly(datagrams, size, address)

    def _send_singly(self, datagrams: memoryview, size: int, address: tuple[str, int]) -> int:
        for start in range(0, len(datagrams), size):
            try:
                self._socket.sendto(datagrams[start : start + size], address)
            except BlockingIOError:
                return start
            except OSError as error:
                logger.debug("a datagram of %d bytes to %s: %s", size, address, error)
        return len(datagrams)

    def probe(self, datagram: memoryview, address: tuple[str, int]) -> None:
        """Send a datagram that is lost if it does not fit the path."""
        self._may_fragment(False)
        try:
            self._socket.sendto(datagram, address)
        except OSError:
            logger.debug("a probe of %d bytes to %s does not leave this machine", len(datagram), address)
        self._may_fragment(True)


class AssociationChannel(Channel):
    """A channel on our own association: its reader drives the window, `send` waits for room."""

    def __init__(self, transport: SctpTransport, label: str, *, ordered: bool) -> None:
        super().__init__(label, ordered=ordered)
        self._transport = transport
        self.number: int | None = None  # the stream, once the association gave one
        self._news = asyncio.Event()

    @property
    def max_message(self) -> int:
        return self._transport.remote_max_message or UNLIMITED

    @property
    def buffered_amount(self) -> int:
        return self._transport.buffered_amount(self)

    async def send(self, data: Wire) -> None:
        await self.opened()
        text = isinstance(data, str)
        payload = data.encode() if isinstance(data, str) else data
        self._check_size(len(payload))
        while self._end is None and not self._transport.send(self, payload, text=text):
            await self._wait()
        if self._end is not None:
            raise self._end

    async def flush(self) -> None:
        self._transport.flushing.add(self)
        try:
            while self._end is None and not self._transport.is_flushed(self):
                await self._wait()
        finally:
            self._transport.flushing.discard(self)
        if self._end is not None:
            raise self._end

    async def close(self) -> None:
        self._ended(ConnectionClosed("the connection is closed"))
        self._transport.close_channel(self)

    async def _wait(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _taken(self, size: int) -> None:
        self._transport.consume(size)

    def _ended(self, error: PeerError | None = None) -> None:
        super()._ended(error)
        self._news.set()


class SctpTransport:
    """SCTP over a DTLS transport: what RTCPeerConnection sees in the place of aiortc's own.

    Args:
        on_channel: called with each channel that the far side opens.
        on_end: called once, when the association is over.
    """

    port = 5000
    _bundled = False
    _outbound_streams_count = 65_535

    def __init__(
        self,
        dtls: RTCDtlsTransport,
        *,
        on_channel: Callable[[AssociationChannel], None],
        on_end: Callable[[PeerError], None],
    ) -> None:
        self.transport = dtls
        self.mid: str | None = None
        self.remote_max_message = 0
        self._on_channel = on_channel
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._association: Association | None = None
        self._session: _Dtls | None = None
        self._udp: _Udp | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled: asyncio.Handle | None = None
        self._unsent: deque[tuple[bytes, int]] = deque()  # records the socket had no room for, their size
        self._mtu = PathMtu()
        self._early: list[bytes] = []
        self._opening: list[AssociationChannel] = []
        self._channels: dict[int, AssociationChannel] = {}
        self._over = False
        self.flushing: set[AssociationChannel] = set()  # those who wait for `is_flushed`
        dtls._register_data_receiver(self)

    # For RTCPeerConnection --------------------------------------------------------------------

    @classmethod
    def getCapabilities(cls) -> RTCSctpCapabilities:
        return RTCSctpCapabilities(maxMessageSize=MAX_MESSAGE)

    def setTransport(self, dtls: RTCDtlsTransport) -> None:
        self.transport._unregister_data_receiver(self)
        self.transport = dtls
        dtls._register_data_receiver(self)

    async def start(self, remote: RTCSctpCapabilities | None, remote_port: int) -> None:
        """Take the path over, and set the association up. aiortc calls this once DTLS is connected.

        `remote` is None when the far side's description does not tell how large its messages may be.
        """
        if self._association is not None or self._over:
            return
        self.remote_max_message = DEFAULT_MAX_MESSAGE if remote is None else remote.maxMessageSize
        assert self.transport._ssl is not None
        self._session = _Dtls(self.transport._ssl)
        self._association = Association(
            is_client=self.transport._role == "client",
            local_port=self.port,
            remote_port=remote_port,
            max_packet=self._mtu.size,
            receive_window=RECEIVE_WINDOW,
            send_buffer=SEND_BUFFER,
            remote_max_message_size=self.remote_max_message,
            local_max_message_size=MAX_MESSAGE,
        )
        self._association.connect(self._loop.time())
        for channel in self._opening:
            self._open(channel)
        self._opening.clear()
        self._agent.tap = self._datagram_came
        early, self._early = self._early, []
        self._take(early)

    async def stop(self) -> None:
        """End the association; the far side is told."""
        if self._association is not None and not self._over:
            self._association.abort("closed")
            self._advance()
        self._end(ConnectionClosed("the connection is closed"))

    async def _handle_data(self, data: bytes) -> None:
        """A packet that aiortc decrypted, before the path was taken over."""
        if self._association is None:
            self._early.append(data)
        else:
            self._take([data])

    # For channels -----------------------------------------------------------------------------

    def open_channel(self, label: str, *, ordered: bool) -> AssociationChannel:
        """Open a channel as soon as the association stands."""
        channel = AssociationChannel(self, label, ordered=ordered)
        if self._association is None:
            self._opening.append(channel)
        else:
            self._open(channel)
            self._soon()
        return channel

    def send(self, channel: AssociationChannel, data: bytes, *, text: bool) -> bool:
        """Queue a message; False, and nothing is done, if there is no room."""
        association = self._association
        if association is None or channel.number is None or not association.room(channel.number):
            return False
        association.send(channel.number, data, text=text, now=self._loop.time())
        self._soon()
        return True

    def buffered_amount(self, channel: AssociationChannel) -> int:
        if self._association is None or channel.number is None:
            return 0
        return self._association.buffered_amount(channel.number)

    def is_flushed(self, channel: AssociationChannel) -> bool:
        """Whether the far side has acknowledged all that was sent, on this channel and any other."""
        if self._association is None or self._association.sender is None:
            return False
        return not self.buffered_amount(channel) and not self._association.sender.outstanding

    def consume(self, size: int) -> None:
        """The application has taken a message of `size` bytes: the window opens by as much."""
        if self._association is not None and not self._over:
            self._association.consume(size)
            self._soon()

    def close_channel(self, channel: AssociationChannel) -> None:
        if self._association is not None and channel.number is not None and not self._over:
            self._association.close_channel(channel.number)
            self._soon()

    # In ---------------------------------------------------------------------------------------

    def _datagram_came(self, data: bytes) -> None:
        """A DTLS datagram, from aioice: take it, and what else waits in its socket."""
        session = self._session
        assert session is not None
        packets = _open_all(session, data, 0)
        udp = self._follow_path()
        taken = len(data)
        while udp is not None and taken < DRAIN_BYTES and (arrival := udp.receive()) is not None:
            data, segment, address = arrival
            taken += len(data) or DRAIN_BYTES
            if data and _is_dtls(data):
                packets += _open_all(session, data, segment)
            else:
                for start in range(0, len(data), segment or 1):
                    udp.protocol.datagram_received(data[start : start + segment], address)
        if pending := session.pending():
            self._transmit(pending, len(pending))
        if packets:
            self._take(packets)
        if session.closed:
            self._end(ConnectionClosed("the far side closed the connection"))

    @property
    def _is_far_side_ours(self) -> bool:
        """Whether the far side goes on without a SACK for every few packets, as Chromium does not."""
        receiver = self._association.receiver if self._association is not None else None
        return receiver is not None and receiver.packets_per_sack > BATCH_PACKETS

    def _take(self, packets: list[bytes]) -> None:
        assert self._association is not None
        self._association.receive(packets, self._loop.time())
        if len(packets) == 1:
            self._tell(self._association)
            self._soon()  # what the application answers takes the SACK along
        else:
            self._advance()

    # Out --------------------------------------------------------------------------------------

    def _soon(self) -> None:
        """Advance once what is running now has queued all it wants to."""
        if self._scheduled is None and not self._over:
            self._scheduled = self._loop.call_soon(self._advance)

    def _advance(self) -> None:
        """Send what is due, tell what has happened, and set the timer for what comes next."""
        association = self._association
        if association is None or self._over:
            return
        if self._scheduled is not None:
            self._scheduled.cancel()
            self._scheduled = None
        self._probe_path(association)
        batch = min(BATCH_PACKETS, GSO_BYTES // (self._mtu.size + DTLS_OVERHEAD))
        for _ in range(BATCHES_A_TURN):
            if self._unsent:
                break
            packets = association.packets(self._loop.time(), batch)
            if not packets:
                break
            self._send(packets)
        else:
            self._soon()
        self._tell(association)
        self._set_timer(association)

    def _tell(self, association: Association) -> None:
        """Tell whom it concerns what has happened."""
        for event in association.events():
            self._handle(event)
        for channel in self.flushing:
            if self.is_flushed(channel):
                channel._news.set()

    def _set_timer(self, association: Association) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._over and self._scheduled is None and (due := association.timeout()) is not None:
            self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._association is not None and not self._over:
            now = self._loop.time()
            self._association.handle_timeout(now)
            sender = self._association.sender
            if sender is not None and sender.backoff >= BLACK_HOLE_TIMEOUTS and self._mtu.fall_back(now):
                logger.info("the path seems to take no large packets any more")
                self._set_max_packet()
            self._advance()

    def _probe_path(self, association: Association) -> None:
        """See whether the path takes larger packets, once enough is sent for that to pay."""
        if self._udp is None or not self._udp.probes or association.in_flight < PROBE_FROM:
            return
        now = self._loop.time()
        if size := self._mtu.next_probe(now):
            association.probe(size, now)

    def _send(self, packets: list[bytes]) -> None:
        """Encrypt and send packets, those of equal size together."""
        assert self._session is not None
        start = 0
        while start < len(packets):
            size, end = len(packets[start]), start + 1
            most = start + max(GSO_BYTES // (size + DTLS_OVERHEAD), 1)
            probing = size == self._mtu.probing  # alone, for it must not be cut by IP
            while not probing and end < min(len(packets), most) and len(packets[end]) == size:
                end += 1
            if not probing and end < min(len(packets), most) and len(packets[end]) < size:
                end += 1  # GSO takes a shorter one at the end
            try:
                records = self._session.seal(packets[start:end])
            except SSL.Error:
                self._end(ConnectionLost("the encrypted session with the peer has failed"))
                return
            # What else OpenSSL had to say would stand before them, and is rare enough to go out alone.
            overhead = (len(records) - sum(map(len, packets[start:end]))) // (end - start)
            if probing and self._udp is not None:
                self._udp.probe(records, self._address)
            else:
                self._transmit(records, size + overhead)
            start = end

    def _transmit(self, records: memoryview, size: int) -> None:
        if self._unsent:
            self._unsent.append((bytes(records), size))
            return
        udp = self._follow_path()
        if udp is None:
            self._transmit_slowly(records, size)
            return
        sent = udp.send(records, size, self._address)
        if sent < len(records):
            self._unsent.append((bytes(records[sent:]), size))
            self._loop.add_writer(udp.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        assert self._udp is not None
        while self._unsent:
            records, size = self._unsent[0]
            sent = self._udp.send(memoryview(records), size, self._address)
            if sent < len(records):
                self._unsent[0] = records[sent:], size
                return
            self._unsent.popleft()
        self._loop.remove_writer(self._udp.fileno())
        self._advance()

    def _transmit_slowly(self, records: memoryview, size: int) -> None:
        """By way of a TURN server: aioice wraps and sends each datagram."""
        pair = self._agent.selected
        if pair is None:
            return
        for start in range(0, len(records), size):
            pair.protocol.transport.sendto(bytes(records[start : start + size]), pair.remote_addr)

    @property
    def _agent(self) -> Agent:
        agent = self.transport.transport._connection
        assert isinstance(agent, Agent)
        return agent

    def _follow_path(self) -> _Udp | None:
        """The socket of the pair that ICE has selected, which may change; None when that is a TURN server."""
        pair = self._agent.selected
        if pair is None:
            return self._udp
        self._address = pair.remote_addr
        if self._udp is not None and self._udp.protocol is pair.protocol:
            return self._udp
        self._leave_path()
        self._restart_mtu()
        if pair.local_candidate.type != "relay":
            # Where media shares the socket, aiortc must get its datagrams one by one.
            self._udp = _Udp(pair.protocol, coalesce=not self.transport._rtp_router.receivers)
        return self._udp

    def _restart_mtu(self) -> None:
        """Begin anew with packets that any path takes."""
        self._mtu = PathMtu(MAX_PACKET if self._is_far_side_ours else MAX_STRANGERS_PACKET)
        self._set_max_packet()

    def _set_max_packet(self) -> None:
        if self._association is not None:
            self._association.set_max_packet(self._mtu.size)

    def _leave_path(self) -> None:
        if self._udp is not None:
            self._loop.remove_writer(self._udp.fileno())
            self._udp.close()
            self._udp = None
        self._unsent.clear()

    # Events -----------------------------------------------------------------------------------

    def _open(self, channel: AssociationChannel) -> None:
        assert self._association is not None
        channel.number = self._association.open_channel(channel.label, ordered=channel.ordered)
        self._channels[channel.number] = channel
        if self._association.state is State.ESTABLISHED:
            channel._opened()

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.MessageReceived(number, data, text):
                if channel := self._channels.get(number):
                    channel._arrived(data.decode(errors="replace") if text else data, len(data))
                else:
                    self.consume(len(data))
            case events.Connected():
                self._restart_mtu()
                for channel in self._channels.values():
                    channel._opened()
            case events.ProbeAcked(size):
                self._mtu.acked(size, self._loop.time())
                self._set_max_packet()
            case events.ProbeLost(size):
                self._mtu.lost(size, self._loop.time())
            case events.ChannelOpened(number, label, ordered=ordered):
                channel = AssociationChannel(self, label, ordered=ordered)
                channel.number = number
                self._channels[number] = channel
                channel._opened()
                self._on_channel(channel)
            case events.RoomAvailable(number):
                if channel := self._channels.get(number):
                    channel._news.set()
            case events.ChannelClosed(number):
                if channel := self._channels.pop(number, None):
                    channel._ended()
            case events.Closed(error):
                orderly = not error or error.startswith("aborted by the far side")
                self._end(
                    ConnectionClosed("the far side closed the connection")
                    if orderly
                    else ConnectionLost(f"the connection to the peer was lost: {error}")
                )

    def _end(self, error: PeerError) -> None:
        if self._over:
            return
        self._over = True
        for handle in (self._timer, self._scheduled):
            if handle is not None:
                handle.cancel()
        self._leave_path()
        if self._association is not None:
            self._agent.tap = None
        for channel in (*self._channels.values(), *self._opening):
            channel._ended(error)
        self._channels.clear()
        self._on_end(error)


def _is_dtls(datagram: bytes) -> bool:
    return 19 < datagram[0] < 64


def _open_all(session: _Dtls, datagrams: bytes, segment: int) -> list[bytes]:
    """Decrypt glued datagrams of `segment` bytes each, in pieces that OpenSSL's buffer can hold.

    With `segment` 0 their size is not known, and they are told apart by their records.
    """
    if len(datagrams) <= BIO_BYTES:
        return session.open(datagrams)
    packets: list[bytes] = []
    view = memoryview(datagrams)
    start = 0
    while start < len(view):
        if segment:
            end = start + max(BIO_BYTES // segment, 1) * segment
        else:
            end = start + _record(view, start)
            while end < len(view) and end + _record(view, end) - start <= BIO_BYTES:
                end += _record(view, end)
        packets += session.open(view[start:end])
        start = end
    return packets


def _record(view: memoryview, start: int) -> int:
    """The length of the DTLS record there, header and all (RFC 6347 §4.1)."""
    return 13 + int.from_bytes(view[start + 11 : start + 13], "big")


class _DtlsTransport(RTCDtlsTransport):
    """aiortc's, but for one thing: it takes any certificate that OpenSSL takes.

    aiortc has the far side's certificate parsed by `cryptography`, which refuses libdatachannel's for its
    version number. Nothing in it matters to WebRTC but its digest. Adds behaviour and no state.
    """

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
            self._set_state(DtlsState.FAILED)


class PeerConnection(RTCPeerConnection):
    """aiortc's RTCPeerConnection with our ICE agent and our data path under it.

    With `PEERCLI_DATAPATH=aiortc` in the environment, aiortc's own SCTP carries the data: the fallback.

    Args:
        on_channel: called with each channel that the far side opens.
        on_end: called when the association is over.
    """

    def __init__(
        self,
        configuration: RTCConfiguration,
        *,
        on_channel: Callable[[Channel], None],
        on_end: Callable[[PeerError], None],
    ) -> None:
        super().__init__(configuration)
        self._on_channel = on_channel
        self._on_end = on_end
        self._connecting: set[asyncio.Task[None]] = set()
        self._stock = os.environ.get("PEERCLI_DATAPATH") == "aiortc"
        self.on("datachannel", self._stock_channel_came)

    def open_channel(self, label: str, *, ordered: bool) -> Channel:
        """What createDataChannel is to aiortc."""
        if self._stock:
            return StockChannel(self.createDataChannel(label, ordered=ordered))
        if self.sctp is None:
            self._RTCPeerConnection__createSctpTransport()
        transport: object = self.sctp  # ours, whatever aiortc says
        assert isinstance(transport, SctpTransport)
        return transport.open_channel(label, ordered=ordered)

    def _stock_channel_came(self, channel: RTCDataChannel) -> None:
        self._on_channel(StockChannel(channel))

    async def close(self) -> None:
        await super().close()
        if self._connecting:
            await asyncio.wait(self._connecting)

    async def _RTCPeerConnection__connect(self) -> None:
        """Run by aiortc in a task that it does not look after."""
        task = asyncio.current_task()
        assert task is not None
        self._connecting.add(task)
        try:
            await super()._RTCPeerConnection__connect()  # type: ignore[misc]
        except Exception as error:  # noqa: BLE001  whatever the far side's description leads aiortc to
            logger.info("the connection could not be set up: %r", error)
            self._on_end(NegotiationFailed("the encrypted session with the peer could not be set up"))
        finally:
            self._connecting.discard(task)

    def _RTCPeerConnection__createDtlsTransport(self) -> RTCDtlsTransport:
        dtls: RTCDtlsTransport = super()._RTCPeerConnection__createDtlsTransport()  # type: ignore[misc]
        dtls.__class__ = _DtlsTransport
        Agent.adopt(dtls.transport._connection)
        return dtls

    def _RTCPeerConnection__createSctpTransport(self) -> None:
        super()._RTCPeerConnection__createSctpTransport()  # type: ignore[misc]
        if self._stock:
            return
        stock = self.sctp
        assert stock is not None
        ours = SctpTransport(stock.transport, on_channel=self._on_channel, on_end=self._on_end)
        ours._bundled = stock._bundled
        self._RTCPeerConnection__sctp = ours
