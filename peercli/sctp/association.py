"""An SCTP association for WebRTC data channels (RFC 9260, RFC 8831), without I/O.

Packets go in by `receive` and come out of `packets`; `timeout` says when to call `handle_timeout`, and
`events` what has happened. Whoever drives it calls `packets` until it returns none, and then `events`, after
each call that may have changed something. Time is passed in, in seconds from any origin; randomness can be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum, auto
from typing import ClassVar

from peercli.sctp import packet
from peercli.sctp.channels import Channels
from peercli.sctp.congestion import Bbr, Controller
from peercli.sctp.cookie import COOKIE_LIFE, Cookie
from peercli.sctp.datachannel import Open
from peercli.sctp.events import Closed, Connected, Event, ProbeAcked, ProbeLost
from peercli.sctp.packet import (
    HEADER_SIZE,
    Cause,
    Chunk,
    Flag,
    Init,
    MalformedPacket,
    Param,
    cause,
    chunk,
    param,
    params,
)
from peercli.sctp.receiver import PACKETS_PER_SACK, ProtocolViolation, Receiver
from peercli.sctp.roundtrip import RTO_INITIAL, RTO_MAX
from peercli.sctp.sender import Sender

__all__ = [
    "DEFAULT_MAX_PACKET",
    "MAX_RETRANSMITS",
    "Association",
    "State",
]

DEFAULT_MAX_PACKET = 1_160
"""Bytes of a packet whose DTLS record and UDP datagram fit in 1,280 bytes of IPv6, as any path must carry."""
DEFAULT_RECEIVE_WINDOW = 8 * 1024 * 1024
DEFAULT_SEND_BUFFER = 1024 * 1024
DEFAULT_MAX_MESSAGE = 262_144

MAX_STREAMS = 65_535
PROBE_NONCE = 8
MAX_QUEUED_CONTROL = 64
"""Control chunks waiting to be sent; more are dropped, and asked for again if they matter."""
MAX_ECHO = 1_024
"""Bytes of a far side's chunk or heartbeat that are sent back to it."""
MAX_REPORTED_PARAMS = 16
MAX_REPORTED_PARAM = 64
"""Bytes of a parameter that is sent back as unrecognized."""

MAX_INIT_TRIES = 8
MAX_RETRANSMITS = 10
"""Timeouts in a row after which the far side is deemed gone (Association.Max.Retrans)."""
HEARTBEAT_INTERVAL = 30.0
SILENCE_TICK = 1.25
"""Seconds; after one without a packet the far side is asked for a sign of life, and so on."""
SILENT_TICKS = 7
"""Ticks without a packet after which the far side is deemed gone: 8.75 to 10 s."""
BURST_PACKETS_PER_SACK = 64
"""Packets after which our own kind is sent a SACK."""


class State(IntEnum):
    """RFC 9260 section 4."""

    CLOSED = auto()
    COOKIE_WAIT = auto()
    COOKIE_ECHOED = auto()
    ESTABLISHED = auto()
    SHUTDOWN_PENDING = auto()
    SHUTDOWN_SENT = auto()
    SHUTDOWN_RECEIVED = auto()
    SHUTDOWN_ACK_SENT = auto()


_RECEIVES_DATA = frozenset({State.ESTABLISHED, State.SHUTDOWN_PENDING, State.SHUTDOWN_SENT})
_SENDS_DATA = frozenset({State.ESTABLISHED, State.SHUTDOWN_PENDING, State.SHUTDOWN_RECEIVED})
_SHUTTING_DOWN = frozenset(
    {State.SHUTDOWN_PENDING, State.SHUTDOWN_SENT, State.SHUTDOWN_RECEIVED, State.SHUTDOWN_ACK_SENT}
)


class Association:
    """One association; see the module.

    `is_client` is the side's role in DTLS, which decides the ids of the channels that it opens.
    `receive_window` bounds what is received and not consumed; `send_buffer` what a channel may queue.
    `remote_max_message_size` is the far side's `a=max-message-size`, 0 for no limit.
    `keepalive` asks a silent far side for a sign of life, and ends the association when there is none.
    `controller` makes a congestion controller for packets of the size it is given.
    `random` returns that many random bytes.
    """

    def __init__(
        self,
        *,
        is_client: bool,
        local_port: int = 5000,
        remote_port: int = 5000,
        max_packet: int = DEFAULT_MAX_PACKET,
        receive_window: int = DEFAULT_RECEIVE_WINDOW,
        send_buffer: int = DEFAULT_SEND_BUFFER,
        remote_max_message_size: int = 65_536,
        local_max_message_size: int = DEFAULT_MAX_MESSAGE,
        interleaving: bool = True,
        zero_checksum: bool = True,
        keepalive: bool = False,
        controller: Callable[[int], Controller] = Bbr,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not 0 < local_max_message_size <= receive_window // 2:
            raise ValueError("a message must fit in half of the receive window")
        self.is_client = is_client
        self.state = State.CLOSED
        self._ports = (local_port, remote_port)
        self._max_packet = max_packet
        self._window = receive_window
        self._max_message = local_max_message_size
        self._interleaving = interleaving
        self._zero_checksum = zero_checksum
        self._keepalive = keepalive
        self._make_controller = controller
        self._random = random
        self._cookie_key = random(32)

        self._local_tag = 0
        self._local_tsn = 0
        self._peer_tag = 0
        self._peer: Init | None = None
        self._cookie_echo = b""
        self._sender: Sender | None = None
        self._receiver: Receiver | None = None

        self._events: list[Event] = []
        self._channels = Channels(
            is_client=is_client,
            send_buffer=send_buffer,
            max_message=remote_max_message_size,
            tell=self._events.append,
        )
        self._control: list[bytes] = []  # chunks
        self._raw: list[bytes] = []  # whole packets
        self._sacked = False  # a SACK came in this batch
        self._ended = False

        # The timer of set-up and shutdown (T1, T2): what it sends again, and how often it did.
        self._timer: float | None = None
        self._tries = 0
        self._echoed_at = 0.0  # when the COOKIE ECHO was sent first
        self._errors = 0  # timeouts in a row
        self._heartbeat_at: float | None = None
        self._heartbeat: tuple[bytes, float] | None = None  # what is unanswered: nonce, sent at
        self._probe: tuple[bytes, int, float] | None = None  # nonce, size, deadline
        self._tick_at: float | None = None
        self._heard = 0  # packets, at the last tick
        self._silent_ticks = 0

        self.packets_sent = 0
        self.packets_received = 0
        self.packets_discarded = 0

    # For the application ------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Start the set-up. Both sides may; the one that does not answers the other's INIT."""
        if self.state is not State.CLOSED or self._ended:
            return
        self._local_tag = self._new_tag()
        self._local_tsn = int.from_bytes(self._random(4), "big")
        self.state = State.COOKIE_WAIT
        self._tries = 0
        self._send_init(now)

    def open_channel(
        self,
        label: str,
        protocol: str = "",
        *,
        ordered: bool = True,
        max_retransmits: int | None = None,
        max_packet_life_time: int | None = None,
    ) -> int:
        """Open a channel, and return its id. Messages may be sent at once, even before the set-up is done.

        `max_packet_life_time` is in milliseconds. Raises ValueError for limits that make no sense, and
        RuntimeError if no more channels can be had.
        """
        return self._channels.open(Open(label, protocol, ordered, max_retransmits, max_packet_life_time))

    def send(self, channel_id: int, data: bytes | memoryview, *, text: bool = False, now: float) -> None:
        """Queue a message. `data` is not copied and must not change.

        Raises KeyError if the channel is not open, MessageTooBig, and BufferError if `room` is 0: a caller
        that has more to send waits for RoomAvailable.
        """
        if self._ended or self.state in _SHUTTING_DOWN:
            raise KeyError(channel_id)
        self._channels.send(channel_id, data, text, now)

    def buffered_amount(self, channel_id: int) -> int:
        """Bytes queued on a channel that were not sent yet."""
        return self._channels.buffered_amount(channel_id)

    def room(self, channel_id: int) -> int:
        """Bytes that a channel's buffer can take; a message may go beyond. After a 0, RoomAvailable comes."""
        return self._channels.room(channel_id)

    def consume(self, size: int) -> None:
        """The application took a message of `size` bytes, or dropped it. Once for every MessageReceived."""
        if self._receiver is not None:
            self._receiver.consume(size)

    def close_channel(self, channel_id: int) -> None:
        """Close a channel once what is queued on it was sent. What still arrives on it is dropped."""
        self._channels.close(channel_id)

    def shutdown(self, now: float) -> None:
        """End the association once all that is queued was acknowledged."""
        if self.state is State.ESTABLISHED:
            self.state = State.SHUTDOWN_PENDING
            self._go_on_shutting_down(now)
        elif self.state in (State.COOKIE_WAIT, State.COOKIE_ECHOED):
            self.abort("closed before it was open")
        elif self.state is State.CLOSED:
            self._end("")

    def abort(self, reason: str = "") -> None:
        """End the association at once. The ABORT that `packets` returns next tells the far side."""
        if self._peer is not None and not self._ended:
            self._abort_for(Cause.USER_INITIATED, reason)
        self._end(reason)

    def set_max_packet(self, size: int) -> None:
        """Make packets of at most `size` bytes from now on."""
        self._max_packet = size
        if self._sender is not None:
            self._sender.set_max_packet(size)

    @property
    def max_packet(self) -> int:
        return self._max_packet

    def probe(self, size: int, now: float) -> None:
        """Send a packet of `size` bytes to see whether the path carries it (RFC 8899).

        ProbeAcked or ProbeLost will tell. It is not sent again, and its loss is no sign of congestion. While
        one is under way, or before the set-up is done, this does nothing.

        A far side that does not claim to know PAD (RFC 4820), which some fail on, gets a long HEARTBEAT, and
        answers with one as long: then the path back must carry it, too.
        """
        if (
            self._probe is not None
            or self._sender is None
            or self._peer is None
            or self.state is not State.ESTABLISHED
        ):
            return
        nonce = self._random(PROBE_NONCE)
        beat = chunk(Chunk.HEARTBEAT, 0, param(Param.HEARTBEAT_INFO, nonce))
        rest = (size & ~3) - HEADER_SIZE - len(beat)
        if Chunk.PAD in self._peer.extensions:
            whole = beat + chunk(Chunk.PAD, 0, bytes(max(0, rest - 4)))
        else:
            whole = chunk(Chunk.HEARTBEAT, 0, param(Param.HEARTBEAT_INFO, nonce + bytes(max(0, rest))))
        self._push(self._peer_tag, whole)
        self._probe = (nonce, size, now + self._sender.rtt.rto)

    @property
    def srtt(self) -> float | None:
        return None if self._sender is None else self._sender.rtt.srtt

    @property
    def in_flight(self) -> int:
        return 0 if self._sender is None else self._sender.in_flight

    @property
    def sender(self) -> Sender | None:
        """For reading: outstanding, backoff, and the counters bytes_sent, retransmits, timeouts."""
        return self._sender

    @property
    def receiver(self) -> Receiver | None:
        """For reading: held, packets_per_sack, and the counters *_received and chunks_dropped."""
        return self._receiver

    def events(self) -> list[Event]:
        """What happened since the last call."""
        happened = self._events.copy()
        self._events.clear()
        return happened

    # For the network ----------------------------------------------------------------------

    def receive(self, packets: Sequence[bytes], now: float) -> None:
        """Take in all packets that have arrived; the more at once, the cheaper. None of them can raise."""
        index, total = 0, len(packets)
        self.packets_received += total
        try:
            while index < total:
                offset = 0
                if self._receiver is not None and self.state in _RECEIVES_DATA:
                    index, offset = self._receiver.take(packets, index)
                    if index == total:
                        break
                self._receive_packet(packets[index], offset, now)
                index += 1
        except ProtocolViolation as violation:
            self._abort_for(Cause.PROTOCOL_VIOLATION, str(violation))
        self._end_batch(now)

    def packets(self, now: float, limit: int = 64) -> list[bytes]:
        """Packets to be sent now, about `limit` at most; call again until there are none.

        Those of one call are of equal size but for the last, as far as what is sent allows.
        """
        raw, self._raw = self._raw, []
        sender, receiver = self._sender, self._receiver
        if sender is None or receiver is None or self.state is State.CLOSED:
            self.packets_sent += len(raw)
            return raw
        control, self._control = self._control, []
        reset = self._channels.due(now, sender.last_tsn, sender.rtt.rto)
        if reset is not None:
            control.append(reset)
        sending = self.state in _SENDS_DATA
        sacks = receiver.sacks(now, piggyback=bool(control) or (sending and sender.may_send(now)))
        raw += [sender.seal(sack) for sack in sacks[:-1]]
        lead = control + sacks[-1:]
        if sending:
            raw += sender.transmit(now, max(1, limit - len(raw)), lead)
            self._channels.tell_of_room()
        elif lead:
            raw += sender.transmit_control(lead)
        if self.state is not State.ESTABLISHED:
            self._go_on_shutting_down(now)
        self.packets_sent += len(raw)
        return raw

    def timeout(self) -> float | None:
        """When to call `handle_timeout` at the latest, and then `packets`; None if nothing is waited for."""
        if self._ended:
            return None
        times: list[float | None] = [self._timer]
        if self._sender is not None and self._receiver is not None:
            times += (
                self._sender.timeout() if self.state in _SENDS_DATA else None,
                self._receiver.timeout(),
                self._channels.timeout(),
                self._heartbeat_at,
                self._tick_at,
                None if self._probe is None else self._probe[2],
            )
        return min((at for at in times if at is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Let the timers that are due run."""
        if self._timer is not None and now >= self._timer:
            self._handle_handshake_timeout(now)
        sender = self._sender
        if sender is None or self._ended:
            return
        if self.state in _SENDS_DATA and sender.handle_timeout(now):
            self._count_error()
        self._channels.handle_timeout(now)
        if self._probe is not None and now >= self._probe[2]:
            self._events.append(ProbeLost(self._probe[1]))
            self._probe = None
        if self._heartbeat_at is not None and now >= self._heartbeat_at:
            self._handle_heartbeat_timeout(now)
        if self._tick_at is not None and now >= self._tick_at:
            self._handle_tick(now)

    # Set-up -------------------------------------------------------------------------------

    def _new_tag(self) -> int:
        return int.from_bytes(self._random(4), "big") or 1

    def _extensions(self) -> frozenset[int]:
        extensions = {Chunk.RE_CONFIG.value, Chunk.FORWARD_TSN.value, Chunk.PAD.value}
        if self._interleaving:
            extensions |= {Chunk.I_DATA.value, Chunk.I_FORWARD_TSN.value}
        return frozenset(extensions)

    def _own_init(self, tag: int, tsn: int) -> Init:
        return Init(tag, self._window, MAX_STREAMS, MAX_STREAMS, tsn, self._extensions())

    def _send_init(self, now: float) -> None:
        init = self._own_init(self._local_tag, self._local_tsn)
        # Some stacks fail on parameters that they do not know, so what is optional is asked for once.
        init.zero_checksum = self._zero_checksum and self._tries == 0
        self._push(0, chunk(Chunk.INIT, 0, init.pack()))
        self._wait_for_answer(now)

    def _send_cookie_echo(self, now: float) -> None:
        self._push(self._peer_tag, chunk(Chunk.COOKIE_ECHO, 0, self._cookie_echo))
        self._wait_for_answer(now)

    def _wait_for_answer(self, now: float) -> None:
        self._timer = now + min(RTO_INITIAL * 2**self._tries, RTO_MAX)
        self._tries += 1

    def _handle_handshake_timeout(self, now: float) -> None:
        state = self.state
        setting_up = state in (State.COOKIE_WAIT, State.COOKIE_ECHOED)
        if self._tries > (MAX_INIT_TRIES if setting_up else MAX_RETRANSMITS):
            self._end("no answer")
        elif state is State.COOKIE_WAIT:
            self._send_init(now)
        elif state is State.COOKIE_ECHOED:
            self._send_cookie_echo(now)
        elif state is State.SHUTDOWN_SENT:
            self._send_shutdown(now)
        elif state is State.SHUTDOWN_ACK_SENT:
            self._send_shutdown_ack(now)
        else:
            self._timer = None

    def _on_init(self, value: bytes, now: float) -> None:
        init = Init.unpack(value)
        if not init.tag or not init.outbound_streams or not init.inbound_streams:
            if init.tag:
                self._push(init.tag, chunk(Chunk.ABORT, 0, cause(Cause.INVALID_MANDATORY_PARAM)))
            return
        if self._ended or self.state is State.SHUTDOWN_ACK_SENT:
            return
        tag, tsn, ties = self._new_tag(), int.from_bytes(self._random(4), "big"), (0, 0)
        if self.state in (State.COOKIE_WAIT, State.COOKIE_ECHOED):
            # Both sides have sent an INIT (section 5.2.1): the answer tells the same as ours.
            tag, tsn = self._local_tag, self._local_tsn
            if self.state is State.COOKIE_ECHOED:
                ties = (self._local_tag, self._peer_tag)
        elif self.state is not State.CLOSED:
            ties = (self._local_tag, self._peer_tag)  # a restart (section 5.2.2)
        answer = self._own_init(tag, tsn)
        answer.zero_checksum = self._zero_checksum and init.zero_checksum
        short = [unknown for unknown in init.unrecognized if len(unknown) <= MAX_REPORTED_PARAM]
        answer.unrecognized = short[:MAX_REPORTED_PARAMS]
        answer.cookie = Cookie(now, tag, tsn, ties, init).seal(self._cookie_key)
        self._push(init.tag, chunk(Chunk.INIT_ACK, 0, answer.pack()))

    def _on_init_ack(self, flags: int, value: bytes, now: float) -> None:
        if self.state is not State.COOKIE_WAIT:
            return
        init = Init.unpack(value)
        if not init.cookie or not init.tag or not init.outbound_streams or not init.inbound_streams:
            self._end("the far side answered with a malformed INIT ACK")
            return
        self._peer = init
        self._peer_tag = init.tag
        self._cookie_echo = init.cookie
        self.state = State.COOKIE_ECHOED
        self._tries = 0
        self._echoed_at = now
        self._send_cookie_echo(now)

    def _on_cookie_echo(self, tag: int, value: bytes, now: float) -> bool:
        """Take in a COOKIE ECHO (sections 5.1.5 and 5.2.4). True if what follows in its packet counts."""
        cookie = Cookie.open(self._cookie_key, value)
        if cookie is None or tag != cookie.local_tag or self._ended:
            return False
        known = cookie.local_tag == self._local_tag and cookie.peer.tag == self._peer_tag
        if now - cookie.created > COOKIE_LIFE and not (known and self._sender is not None):
            staleness = int((now - cookie.created - COOKIE_LIFE) * 1e6)
            error = cause(Cause.STALE_COOKIE, min(staleness, 0xFFFFFFFF).to_bytes(4, "big"))
            self._push(cookie.peer.tag, chunk(Chunk.ERROR, 0, error))
            return False
        if self.state in (State.CLOSED, State.COOKIE_WAIT, State.COOKIE_ECHOED):
            if self.state is not State.CLOSED and cookie.local_tag != self._local_tag:
                return False  # action C: an echo that is late
            self._establish(cookie, now)
        elif known:
            pass  # action D: our COOKIE ACK was lost
        elif cookie.tie_tags == (self._local_tag, self._peer_tag) and cookie.local_tag != self._local_tag:
            if self.state in (State.SHUTDOWN_SENT, State.SHUTDOWN_ACK_SENT):
                return False
            self._restart(cookie, now)  # action A
        else:
            return False
        self._push_control(chunk(Chunk.COOKIE_ACK))
        return True

    def _on_cookie_ack(self, flags: int, value: bytes, now: float) -> None:
        if self.state is State.COOKIE_ECHOED and self._peer is not None:
            self._start(self._peer, now, answered=self._echoed_at)

    def _establish(self, cookie: Cookie, now: float) -> None:
        self._local_tag, self._local_tsn = cookie.local_tag, cookie.local_tsn
        self._peer_tag = cookie.peer.tag
        self._start(cookie.peer, now, answered=cookie.created)

    def _restart(self, cookie: Cookie, now: float) -> None:
        """The far side lost its state and has begun anew: so do we, without the channels."""
        self._channels.clear()
        self._control.clear()
        self._establish(cookie, now)

    def _start(self, peer: Init, now: float, *, answered: float | None = None) -> None:
        """Both sides agree: from now on data flows. `answered`: when that was sent which is answered now."""
        self._peer = peer
        extensions = peer.extensions
        interleaving = self._interleaving and Chunk.I_DATA in extensions
        skip = Chunk.I_FORWARD_TSN if interleaving else Chunk.FORWARD_TSN
        local_port, remote_port = self._ports
        # The far side's zero checksum is no checksum of ours: each side tells what it accepts (RFC 9653).
        checksum = not (self._zero_checksum and peer.zero_checksum)
        seal = packet.sealer(local_port, remote_port, self._peer_tag, checksum=checksum)
        self._channels.queue.interleaving = interleaving
        self._sender = Sender(
            tsn=self._local_tsn,
            peer_window=peer.window,
            max_packet=self._max_packet,
            seal=seal,
            queue=self._channels.queue,
            controller=self._make_controller(self._max_packet),
            partial_reliability=skip in extensions,
            now=now,
        )
        # The first round trip (section 6.3.1), unless it is the answer to what was sent again.
        if answered is not None and now - answered < RTO_INITIAL:
            self._sender.rtt.sample(now - answered, now)
        # Our own far side sends in large bursts, and does not need many SACKs to go on.
        bursts = interleaving and peer.zero_checksum
        self._receiver = Receiver(
            tsn=peer.tsn,
            head=packet.head(remote_port, local_port, self._local_tag),
            window=self._window,
            max_message=self._max_message,
            interleaving=interleaving,
            zero_checksum=self._zero_checksum,
            packets_per_sack=BURST_PACKETS_PER_SACK if bursts else PACKETS_PER_SACK,
        )
        self.state = State.ESTABLISHED
        self._timer = None
        self._errors = 0
        self._heartbeat_at = now + HEARTBEAT_INTERVAL
        self._heartbeat = self._probe = None
        if self._keepalive:
            self._tick_at = now + SILENCE_TICK
        self._events.append(Connected())
        self._channels.start(self._local_tsn, peer, self._receiver)

    # Packets ------------------------------------------------------------------------------

    def _receive_packet(self, data: bytes, offset: int, now: float) -> None:
        """Take in one packet from the chunk at `offset` on, or from its very beginning if that is 0."""
        if not offset and not self._accepts(data):
            self.packets_discarded += 1
            return
        tag = int.from_bytes(data[4:8], "big")
        receiver = self._receiver
        got_data = offset > HEADER_SIZE
        try:
            for kind, flags, start, end in packet.chunks(data, offset or HEADER_SIZE):
                if kind == Chunk.DATA or kind == Chunk.I_DATA:
                    if self.state is State.COOKIE_ECHOED and self._peer is not None:
                        self._start(self._peer, now)  # the COOKIE ACK that must have come before was lost
                        receiver = self._receiver
                    if receiver is not None and self.state in _RECEIVES_DATA:
                        got_data = True
                        self._on_data(receiver, kind, flags, data, start, end)
                elif kind == Chunk.COOKIE_ECHO:
                    if not self._on_cookie_echo(tag, data[start:end], now):
                        break
                    receiver = self._receiver
                elif kind == Chunk.INIT:
                    self._on_init(data[start:end], now)
                    break
                else:
                    handler = self._HANDLERS.get(kind)
                    if handler is not None:
                        handler(self, flags, data[start:end], now)
                    elif not self._on_unknown(kind, data[start - 4 : end]):
                        break
        except MalformedPacket:
            self.packets_discarded += 1
        if got_data and receiver is not None:
            receiver.bytes_received += len(data)
            receiver.end_packet()

    def _accepts(self, data: bytes) -> bool:
        """Whether a packet is one of this association: ports, checksum and tag (sections 6.8 and 8.5)."""
        size = len(data)
        if size < HEADER_SIZE + 4:
            return False
        local_port, remote_port = self._ports
        if data[:4] != packet.ports(remote_port, local_port):
            return False
        kind, flags = data[HEADER_SIZE], data[HEADER_SIZE + 1]
        tag = int.from_bytes(data[4:8], "big")
        if kind == Chunk.INIT:
            right_tag = not tag and HEADER_SIZE + int.from_bytes(data[14:16], "big") >= size - 3
        elif kind == Chunk.COOKIE_ECHO:
            right_tag = True  # the cookie tells which
        elif kind in (Chunk.ABORT, Chunk.SHUTDOWN_COMPLETE) and flags & Flag.TAG_REFLECTED:
            right_tag = bool(tag) and tag == self._peer_tag
        else:
            over = self.state is State.CLOSED and kind != Chunk.SHUTDOWN_ACK
            right_tag = bool(tag) and tag == self._local_tag and not over
        if not right_tag:
            return False
        if data[8:12] == bytes(4) and self._zero_checksum and kind not in (Chunk.INIT, Chunk.COOKIE_ECHO):
            return True
        return packet.checksum_is_right(data)

    def _on_unknown(self, kind: int, whole: bytes) -> bool:
        """Do with an unknown chunk as its two highest bits say (section 3.2). True if the packet goes on."""
        if kind & 0x40:
            self._push_control(chunk(Chunk.ERROR, 0, cause(Cause.UNRECOGNIZED_CHUNK, whole[:MAX_ECHO])))
        return bool(kind & 0x80)

    def _on_data(self, receiver: Receiver, kind: int, flags: int, data: bytes, start: int, end: int) -> None:
        if (kind == Chunk.I_DATA) != receiver.interleaving:
            raise ProtocolViolation("DATA of the kind that was not agreed on")
        header = receiver.header
        offset = start - 4
        if end - offset < header.size:
            raise MalformedPacket("a DATA chunk is cut short")
        if end - offset == header.size:
            raise ProtocolViolation("a DATA chunk without data")
        _, _, _, tsn, key, number = header.unpack_from(data, offset)
        receiver.on_data(flags, tsn, key, number, data[offset + header.size : end])

    def _on_sack(self, flags: int, value: bytes, now: float) -> None:
        sender = self._sender
        if sender is None or self.state not in _SENDS_DATA | {State.SHUTDOWN_SENT}:
            return
        cumulative, window, blocks, duplicates = packet.read_sack(value)
        if sender.on_sack(cumulative, window, blocks, duplicates, now):
            self._sacked = True
            self._errors = 0

    def _on_heartbeat(self, flags: int, value: bytes, now: float) -> None:
        if self.state is not State.CLOSED and len(value) <= MAX_ECHO:
            self._push_control(chunk(Chunk.HEARTBEAT_ACK, 0, value))

    def _on_heartbeat_ack(self, flags: int, value: bytes, now: float) -> None:
        for kind, nonce in params(value):
            if kind != Param.HEARTBEAT_INFO:
                continue
            if self._probe is not None and nonce[:PROBE_NONCE] == self._probe[0]:
                self._events.append(ProbeAcked(self._probe[1]))
                self._probe = None
                self._errors = 0
            elif self._heartbeat is not None and nonce == self._heartbeat[0] and self._sender is not None:
                self._sender.rtt.sample(now - self._heartbeat[1], now)
                self._heartbeat = None
                self._heartbeat_at = now + HEARTBEAT_INTERVAL
                self._errors = 0

    def _handle_heartbeat_timeout(self, now: float) -> None:
        sender = self._sender
        if sender is None or self.state not in _SENDS_DATA:
            self._heartbeat_at = None
            return
        if self._heartbeat is not None:
            self._heartbeat = None
            if self._count_error():
                return
        if sender.outstanding:
            self._heartbeat_at = now + HEARTBEAT_INTERVAL  # data does a heartbeat's work
            return
        nonce = self._random(8)
        self._heartbeat = (nonce, now)
        self._heartbeat_at = now + min(sender.rtt.rto * 2**self._errors, RTO_MAX)
        self._push_control(chunk(Chunk.HEARTBEAT, 0, param(Param.HEARTBEAT_INFO, nonce)))

    def _handle_tick(self, now: float) -> None:
        """See whether the far side is silent, and ask it to say something. Any packet will do.

        Ticks are counted, not seconds: a machine that slept has not listened meanwhile.
        """
        self._tick_at = now + SILENCE_TICK
        if self.packets_received != self._heard:
            self._heard = self.packets_received
            self._silent_ticks = 0
            return
        self._silent_ticks += 1
        if self._silent_ticks >= SILENT_TICKS:
            self._end("the far side is silent")
        else:
            self._push_control(chunk(Chunk.HEARTBEAT, 0, param(Param.HEARTBEAT_INFO, b"still there?")))

    def _on_abort(self, flags: int, value: bytes, now: float) -> None:
        if flags & Flag.TAG_REFLECTED and self.state is State.CLOSED:
            return
        reason = "aborted by the far side"
        with suppress(MalformedPacket):  # it is over, however badly that is put
            for kind, detail in params(value):
                if kind in (Cause.USER_INITIATED, Cause.PROTOCOL_VIOLATION) and detail:
                    reason += ": " + detail[:MAX_ECHO].decode(errors="replace")
                    break
        self._end(reason)

    def _on_error(self, flags: int, value: bytes, now: float) -> None:
        if self.state is State.COOKIE_ECHOED and any(kind == Cause.STALE_COOKIE for kind, _ in params(value)):
            self.state = State.COOKIE_WAIT
            self._send_init(now)

    def _on_forward_tsn(self, flags: int, value: bytes, now: float) -> None:
        receiver = self._receiver
        if receiver is None or receiver.interleaving or self.state not in _RECEIVES_DATA:
            return
        tsn, skipped = packet.read_forward_tsn(value)
        receiver.on_forward_tsn(tsn, [(stream, False, ssn) for stream, ssn in skipped])

    def _on_iforward_tsn(self, flags: int, value: bytes, now: float) -> None:
        receiver = self._receiver
        if receiver is not None and receiver.interleaving and self.state in _RECEIVES_DATA:
            receiver.on_forward_tsn(*packet.read_iforward_tsn(value))

    def _on_reconfig(self, flags: int, value: bytes, now: float) -> None:
        if self._sender is not None:
            for answer in self._channels.on_reconfig(value, now, self._sender.rtt.rto):
                self._push_control(answer)

    def _push(self, tag: int, chunks: bytes) -> None:
        """Send chunks in a packet of their own."""
        if len(self._raw) < MAX_QUEUED_CONTROL:
            self._raw.append(packet.sealer(*self._ports, tag)(chunks))

    def _push_control(self, value: bytes) -> None:
        """Send a chunk in any packet."""
        if len(self._control) < MAX_QUEUED_CONTROL:
            self._control.append(value)

    def _end_batch(self, now: float) -> None:
        """What the packets of a batch brought is looked at together."""
        sender, receiver = self._sender, self._receiver
        if sender is None or receiver is None or self._ended:
            return
        receiver.end_batch(now)
        if self._silent_ticks:
            self._silent_ticks = 0
            sender.try_again(now)
        self._channels.deliver()
        answer = self._channels.perform_deferred()
        if answer is not None:
            self._push_control(answer)
        if self._sacked:
            self._sacked = False
            sender.finish_batch(now)
        if self.state is not State.ESTABLISHED:
            self._go_on_shutting_down(now)

    # The end ------------------------------------------------------------------------------

    def _count_error(self) -> bool:
        """Count a timeout without a sign of life. True if it was one too many."""
        self._errors += 1
        if self._errors <= MAX_RETRANSMITS:
            return False
        self._end("the far side does not answer any more")
        return True

    def _abort_for(self, why: Cause, detail: str) -> None:
        self._push(self._peer_tag, chunk(Chunk.ABORT, 0, cause(why, detail.encode()[:MAX_ECHO])))
        self._end(detail)

    def _end(self, error: str) -> None:
        if self._ended:
            return
        self._channels.deliver()  # what came before, in this batch
        self._ended = True
        self.state = State.CLOSED
        self._timer = self._heartbeat_at = self._tick_at = None
        self._control.clear()
        self._events.append(Closed(error))

    def _go_on_shutting_down(self, now: float) -> None:
        if self._sender is None or not self._sender.idle:
            return
        if self.state is State.SHUTDOWN_PENDING:
            self.state = State.SHUTDOWN_SENT
            self._tries = 0
            self._send_shutdown(now)
        elif self.state is State.SHUTDOWN_RECEIVED:
            self.state = State.SHUTDOWN_ACK_SENT
            self._tries = 0
            self._send_shutdown_ack(now)

    def _send_shutdown(self, now: float) -> None:
        if self._receiver is not None:
            cum = self._receiver.cum & 0xFFFFFFFF
            self._push(self._peer_tag, chunk(Chunk.SHUTDOWN, 0, cum.to_bytes(4, "big")))
            self._wait_for_answer(now)

    def _send_shutdown_ack(self, now: float) -> None:
        self._push(self._peer_tag, chunk(Chunk.SHUTDOWN_ACK))
        self._wait_for_answer(now)

    def _on_shutdown(self, flags: int, value: bytes, now: float) -> None:
        sender = self._sender
        if sender is None or len(value) < 4:
            return
        if sender.on_sack(int.from_bytes(value[:4], "big"), sender.peer_window, (), (), now):
            self._sacked = True
        if self.state in (State.ESTABLISHED, State.SHUTDOWN_PENDING):
            self.state = State.SHUTDOWN_RECEIVED
        elif self.state is State.SHUTDOWN_SENT:
            self.state = State.SHUTDOWN_ACK_SENT
            self._tries = 0
            self._send_shutdown_ack(now)

    def _on_shutdown_ack(self, flags: int, value: bytes, now: float) -> None:
        if self._ended or self.state in (State.SHUTDOWN_SENT, State.SHUTDOWN_ACK_SENT):
            self._push(self._peer_tag, chunk(Chunk.SHUTDOWN_COMPLETE))
            self._end("")

    def _on_shutdown_complete(self, flags: int, value: bytes, now: float) -> None:
        if self.state is State.SHUTDOWN_ACK_SENT:
            self._end("")

    _HANDLERS: ClassVar[dict[int, Callable[[Association, int, bytes, float], None]]] = {
        Chunk.INIT_ACK: _on_init_ack,
        Chunk.SACK: _on_sack,
        Chunk.HEARTBEAT: _on_heartbeat,
        Chunk.HEARTBEAT_ACK: _on_heartbeat_ack,
        Chunk.ABORT: _on_abort,
        Chunk.SHUTDOWN: _on_shutdown,
        Chunk.SHUTDOWN_ACK: _on_shutdown_ack,
        Chunk.SHUTDOWN_COMPLETE: _on_shutdown_complete,
        Chunk.ERROR: _on_error,
        Chunk.COOKIE_ACK: _on_cookie_ack,
        Chunk.RE_CONFIG: _on_reconfig,
        Chunk.PAD: lambda *_: None,
        Chunk.FORWARD_TSN: _on_forward_tsn,
        Chunk.I_FORWARD_TSN: _on_iforward_tsn,
    }
