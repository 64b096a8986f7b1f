"""The data path: UDP socket, DTLS and our SCTP association, in batches and without queues between.

aiortc gives the ICE and DTLS transports. Once they are connected this module takes the datagrams from the
ICE agent (`Agent.tap`), drains the socket of what else is there, decrypts all of it in one go, hands the
packets to `peercli.sctp`, and sends what that answers in as few system calls as the kernel allows. STUN goes
on to aioice, SRTP to aiortc.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from aioice.ice import StunProtocol
from aiortc import RTCDtlsTransport, RTCSctpCapabilities

from peercli.errors import ConnectionClosed, ConnectionLost, PeerError
from peercli.rtc import dtls
from peercli.rtc.channel import UNLIMITED, Channel, Wire
from peercli.rtc.diagnosis import SILENCE_HINT
from peercli.rtc.dtls import DtlsTransport, Session, SessionFailed
from peercli.rtc.path_mtu import LADDER, PathMtu
from peercli.rtc.udp import GSO_BYTES, UdpSocket
from peercli.sctp import events
from peercli.sctp.association import Association, State

__all__ = ["AssociationChannel", "SctpTransport"]

logger = logging.getLogger(__name__)

MAX_MESSAGE = 262_144  # bytes we take in one message (what aiortc and libwebrtc announce, too)
DEFAULT_MAX_MESSAGE = 65_536  # bytes a far side takes that does not say (RFC 8841 §6.1)
RECEIVE_WINDOW = 16 << 20  # bytes; 100 Mbit/s over 600 ms, doubled
SEND_BUFFER = 4 << 20  # bytes of a channel before `send` waits
BATCH_PACKETS = 54  # packets made in one go: 1,200-byte ones fill a GSO call, …
BATCH_BYTES = 200_000  # … and large ones some, but leave the processor's cache to the rest
BATCHES_A_TURN = 8  # batches sent before others get their turn
DRAIN_BYTES = 1 << 20  # bytes read from a socket before others get their turn
MAX_PACKET = LADDER[-1]  # bytes of SCTP, to a far side like this one
MAX_STRANGERS_PACKET = 1_404  # bytes; a larger one ends Pion, and aiortc takes the rest for another packet
MAX_EARLY = 64  # packets kept that come before the association is made; an INIT is enough
PROBE_FROM = 16_000  # bytes in flight from which larger packets are worth a search
BLACK_HOLE_TIMEOUTS = 2  # in a row, after which large packets are deemed lost for their size


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

    async def send(self, data: Wire | memoryview) -> None:
        await self.opened()
        text = isinstance(data, str)
        payload = data.encode() if isinstance(data, str) else data
        self._check_size(len(payload))
        while self._end is None and not self._transport.send(self, payload, text=text):
            await self._wait()
        if self._end is not None:
            raise self._end

    async def flush(self) -> None:
        while self._end is None and not self._transport.is_flushed(self):
            self._transport.flushing.add(self)
            await self._wait()
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
        has_media: tells whether SRTP shares the socket.
    """

    port = 5000
    _bundled = False
    _outbound_streams_count = 65_535

    def __init__(
        self,
        transport: RTCDtlsTransport,
        *,
        on_channel: Callable[[AssociationChannel], None],
        on_end: Callable[[PeerError], None],
        has_media: Callable[[], bool],
    ) -> None:
        assert isinstance(transport, DtlsTransport)
        self.transport = transport
        self.mid: str | None = None
        self.remote_max_message = 0
        self._on_channel = on_channel
        self._on_end = on_end
        self._has_media = has_media
        self._loop = asyncio.get_running_loop()
        self._association: Association | None = None
        self._session: Session | None = None
        self._path: StunProtocol | None = None  # ICE's, of the pair that was selected last
        self._udp: UdpSocket | None = None  # its socket, unless a TURN server is in the way
        self._address: tuple[str, int] = ("", 0)  # of the far side
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled: asyncio.Handle | None = None
        self._unsent: deque[tuple[bytes, int]] = deque()  # records the socket had no room for, their size
        self._mtu = PathMtu()
        self._early: list[bytes] = []
        self._opening: list[AssociationChannel] = []
        self._channels: dict[int, AssociationChannel] = {}
        self._over = False
        self.flushing: set[AssociationChannel] = set()  # those to be told when `is_flushed`
        transport._register_data_receiver(self)

    # For RTCPeerConnection --------------------------------------------------------------------

    @classmethod
    def getCapabilities(cls) -> RTCSctpCapabilities:
        return RTCSctpCapabilities(maxMessageSize=MAX_MESSAGE)

    def setTransport(self, transport: RTCDtlsTransport) -> None:
        assert isinstance(transport, DtlsTransport)
        self.transport._unregister_data_receiver(self)
        self.transport = transport
        transport._register_data_receiver(self)

    async def start(self, remote: RTCSctpCapabilities | None, remote_port: int) -> None:
        """Take the path over, and set the association up. aiortc calls this once DTLS is connected.

        `remote` is None when the far side's description does not tell how large its messages may be.
        """
        if self._association is not None or self._over:
            return
        self.remote_max_message = DEFAULT_MAX_MESSAGE if remote is None else remote.maxMessageSize
        self._session = self.transport.session()
        self._association = Association(
            is_client=self.transport.is_client,
            local_port=self.port,
            remote_port=remote_port,
            max_packet=self._mtu.size,
            receive_window=RECEIVE_WINDOW,
            send_buffer=SEND_BUFFER,
            remote_max_message_size=self.remote_max_message,
            local_max_message_size=MAX_MESSAGE,
            keepalive=True,
        )
        self._association.connect(self._loop.time())
        for channel in self._opening:
            self._open(channel)
        self._opening.clear()
        self.transport.agent.tap = self._datagrams_came
        early, self._early = self._early, []
        self._take(early)

    async def stop(self) -> None:
        """End the association; the far side is told."""
        if self._association is not None and not self._over:
            self._association.abort("closed")
            self._advance()
        self._end(ConnectionClosed("the connection is closed"))
        # Much memory, and aiortc's objects refer to each other: it would stay until Python looks for cycles.
        self._association = self._session = None
        self._unsent.clear()

    async def _handle_data(self, data: bytes) -> None:
        """A packet that aiortc decrypted, before the path was taken over."""
        if self._association is not None:
            self._take([data])
        elif len(self._early) < MAX_EARLY:
            self._early.append(data)

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

    def send(self, channel: AssociationChannel, data: bytes | memoryview, *, text: bool) -> bool:
        """Queue a message; False, and nothing is done, if there is no room."""
        association = self._association
        if association is None or channel.number is None or not association.room(channel.number):
            return False
        try:
            association.send(channel.number, data, text=text, now=self._loop.time())
        except KeyError:  # the far side has closed it; that this is done is told once both directions are
            channel._ended()
            return False
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

    def _datagrams_came(self, data: bytes | memoryview) -> None:
        """Datagrams from aioice: take them, and what else waits in their socket."""
        session = self._session
        assert session is not None
        pieces, others = dtls.cut(data, 0)
        if not pieces and len(others) == 1:
            return  # no more than aioice has seen, and could do nothing with
        packets: list[bytes] = []
        udp = self._follow_path()
        address: tuple[Any, ...] = self._address
        taken = len(data)
        while True:
            for piece in pieces:
                packets += session.open(piece)
            if udp is None:
                break
            for other in others:
                udp.protocol.datagram_received(other, address)
            if taken >= DRAIN_BYTES or (arrival := udp.receive()) is None:
                break
            data, segment, address = arrival
            taken += len(data) or DRAIN_BYTES
            pieces, others = dtls.cut(data, segment)
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
        batch = min(BATCH_PACKETS, BATCH_BYTES // self._mtu.size)
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
        for channel in [channel for channel in self.flushing if self.is_flushed(channel)]:
            self.flushing.discard(channel)
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
        if self._udp is None or not self._udp.can_probe or association.in_flight < PROBE_FROM:
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
            probing = size == self._mtu.probing
            if not probing:  # for that goes alone: it must not be cut by IP
                most = min(len(packets), start + max(GSO_BYTES // (size + dtls.OVERHEAD), 1))
                while end < most and len(packets[end]) == size:
                    end += 1
                if end < most and len(packets[end]) < size:
                    end += 1  # GSO takes a shorter one at the end
            try:
                records = self._session.seal(packets[start:end])
            except SessionFailed:
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
        if udp.stranded:
            self._end(
                ConnectionLost(
                    "the connection to the peer was lost: this machine's address has changed",
                    hint="connect again, from the new one",
                )
            )
        elif sent < len(records):
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
        pair = self.transport.agent.selected
        if pair is None:
            return
        for start in range(0, len(records), size):
            pair.protocol.transport.sendto(bytes(records[start : start + size]), pair.remote_addr)

    def _follow_path(self) -> UdpSocket | None:
        """The socket of the pair that ICE has selected, which may change; None when that is a TURN server."""
        pair = self.transport.agent.selected
        if pair is None:
            return self._udp
        self._address = pair.remote_addr
        if pair.protocol is self._path:
            return self._udp
        self._leave_path()
        self._path = pair.protocol
        self._restart_mtu()
        if pair.local_candidate.type != "relay":
            # SRTP does not say how long it is: once glued, its packets could not be told apart again.
            self._udp = UdpSocket(pair.protocol, coalesce=not self._has_media())
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
                    else ConnectionLost(f"the connection to the peer was lost: {error}", hint=SILENCE_HINT)
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
            self.transport.agent.tap = None
        for channel in (*self._channels.values(), *self._opening):
            channel._ended(error)
        self._channels.clear()
        self.flushing.clear()
        self._on_end(error)
