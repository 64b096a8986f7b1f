"""The data channels of one association: opening, sending, delivering, closing (RFC 8831, RFC 8832)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from peercli.errors import MessageTooBig
from peercli.sctp import datachannel, events
from peercli.sctp.datachannel import Channel, ChannelState, Open, Ppid
from peercli.sctp.packet import Chunk, Init, Param, params
from peercli.sctp.receiver import Receiver
from peercli.sctp.reset import PERFORMED, Request, StreamResets
from peercli.sctp.streams import Message, SendQueue

__all__ = ["CLOSE_PATIENCE", "MAX_CHANNELS", "MAX_NAMES", "Channels"]

MAX_CHANNELS = 1_024
"""Of both sides together. Ids are below it as well: libwebrtc takes no higher ones."""
MAX_NAMES = 1024 * 1024
"""Bytes that the labels and protocols of all channels may take together."""
CLOSE_PATIENCE = 5.0
"""Seconds to wait for the far side to close its direction of a channel that we closed."""


class Channels:
    """`tell` takes events. `send_buffer` is what a channel may queue, `max_message` what the far side takes
    in one message, 0 for anything."""

    def __init__(
        self, *, is_client: bool, send_buffer: int, max_message: int, tell: Callable[[events.Event], None]
    ) -> None:
        self.queue = SendQueue()
        self.max_message = max_message
        self.send_buffer = send_buffer
        self.known: dict[int, Channel] = {}
        self._next_id = 0 if is_client else 1  # even for the client (RFC 8832 section 6)
        self._tell = tell
        self._closing: dict[int, float | None] = {}  # channel -> when to wait no longer for the far side
        self._full: set[int] = set()  # channels whose room was asked for when they had none
        # Known once the association stands.
        self._receiver: Receiver | None = None
        self._resets: StreamResets | None = None
        self._can_reset = False
        self._max_id = MAX_CHANNELS - 1

    def start(self, local_tsn: int, peer: Init, receiver: Receiver) -> None:
        """The association stands."""
        self._receiver = receiver
        self._resets = StreamResets(local_tsn, peer.tsn)
        self._can_reset = Chunk.RE_CONFIG in peer.extensions
        self._max_id = min(MAX_CHANNELS, peer.inbound_streams) - 1
        for channel in [channel for channel in self.known.values() if channel.id > self._max_id]:
            self.queue.discard(self.queue.stream(channel.id))
            self._remove(channel)

    def clear(self) -> None:
        """The far side has forgotten all channels."""
        for channel in list(self.known.values()):
            self._remove(channel)
        self.queue = SendQueue()

    # Sending ------------------------------------------------------------------------------

    def open(self, opening: Open) -> int:
        """The id of a new channel. Raises ValueError for nonsense, and RuntimeError if no id is left."""
        message = opening.pack()
        # An id rests as long as possible before it is used again: the far side may not be done with it.
        span = MAX_CHANNELS // 2
        candidates = ((self._next_id + 2 * step) % MAX_CHANNELS for step in range(span))
        free = (number for number in candidates if number not in self.known and number <= self._max_id)
        channel_id = next(free, None)
        if channel_id is None or len(self.known) >= MAX_CHANNELS:
            raise RuntimeError("too many data channels")
        self._next_id = channel_id + 2
        self.known[channel_id] = Channel(channel_id, opening, ChannelState.OPENING)
        self.queue.push(Message(self.queue.stream(channel_id), message, Ppid.DCEP))
        return channel_id

    def send(self, channel_id: int, data: bytes | memoryview, text: bool, now: float) -> None:
        """See `Association.send`."""
        channel = self.known[channel_id]
        if channel.state is ChannelState.CLOSING:
            raise KeyError(channel_id)
        if 0 < self.max_message < len(data):
            raise MessageTooBig(
                f"a message of {len(data)} bytes is more than the far side takes ({self.max_message})"
            )
        if not self.room(channel_id):
            raise BufferError("the channel's buffer is full")
        if data:
            ppid = Ppid.STRING if text else Ppid.BINARY
        else:
            data, ppid = b"\0", Ppid.STRING_EMPTY if text else Ppid.BINARY_EMPTY
        opening = channel.opening
        self.queue.push(
            Message(
                self.queue.stream(channel_id),
                data,
                ppid,
                # Until the far side knows the channel, order keeps its OPEN first (RFC 8832 section 6).
                unordered=not opening.ordered and channel.state is ChannelState.OPEN,
                expires=now + channel.lifetime,
                max_retransmits=opening.max_retransmits,
            )
        )

    def buffered_amount(self, channel_id: int) -> int:
        stream = self.queue.streams.get(channel_id)
        return 0 if stream is None else stream.buffered

    def room(self, channel_id: int) -> int:
        """See `Association.room`."""
        room = self.send_buffer - self.buffered_amount(channel_id)
        if room > 0:
            return room
        self._full.add(channel_id)
        return 0

    def tell_of_room(self) -> None:
        """Something was sent: tell of the channels that have room again."""
        for channel_id in [full for full in self._full if 2 * self.buffered_amount(full) <= self.send_buffer]:
            self._full.discard(channel_id)
            self._tell(events.RoomAvailable(channel_id))

    # Receiving ----------------------------------------------------------------------------

    def deliver(self) -> None:
        """Tell of the messages that are complete."""
        receiver = self._receiver
        if receiver is None or not receiver.messages:
            return
        messages, receiver.messages = receiver.messages, []
        for stream, ppid, data in messages:
            channel = self.known.get(stream)
            if ppid == Ppid.DCEP:
                receiver.consume(len(data))
                self._on_dcep(stream, channel, data)
            elif channel is None or channel.refused:
                receiver.consume(len(data))
            elif ppid == Ppid.BINARY or ppid == Ppid.STRING:
                self._tell(events.MessageReceived(stream, data, ppid == Ppid.STRING))
            elif ppid == Ppid.BINARY_EMPTY or ppid == Ppid.STRING_EMPTY:
                receiver.shrink(len(data))
                self._tell(events.MessageReceived(stream, b"", ppid == Ppid.STRING_EMPTY))
            else:
                receiver.consume(len(data))

    def _on_dcep(self, stream: int, channel: Channel | None, message: bytes) -> None:
        if message == datachannel.ACK:
            if channel is not None and channel.state is ChannelState.OPENING:
                channel.state = ChannelState.OPEN
                self._tell(events.ChannelAcknowledged(stream))
            return
        opening = Open.unpack(message)
        if opening is None or self._resets is None:
            return
        if channel is not None:
            if not (channel.incoming_reset and channel.reset_requested):
                return
            # It closed this one and uses its id again: our reset was performed, though the answer was lost.
            self._resets.forget(stream)
            self._remove(channel)
        names = sum(len(known.opening.label) + len(known.opening.protocol) for known in self.known.values())
        if len(self.known) >= MAX_CHANNELS or names + len(message) > MAX_NAMES or stream > self._max_id:
            self._resets.want(stream)  # refuse it
            return
        self.known[stream] = Channel(stream, opening, ChannelState.OPEN)
        self.queue.push(Message(self.queue.stream(stream), datachannel.ACK, Ppid.DCEP))
        self._tell(
            events.ChannelOpened(
                stream,
                opening.label,
                opening.protocol,
                opening.ordered,
                opening.max_retransmits,
                opening.max_packet_life_time,
            )
        )

    # Closing (RFC 8831 section 6.7, RFC 6525) ---------------------------------------------

    def close(self, channel_id: int) -> None:
        """See `Association.close_channel`."""
        channel = self.known.get(channel_id)
        if channel is not None and channel.state is not ChannelState.CLOSING:
            channel.state = ChannelState.CLOSING
            channel.refused = True
            self._closing[channel_id] = None

    def due(self, now: float, last_tsn: int, rto: float) -> bytes | None:
        """The request to reset streams that is to be sent now. `last_tsn` is the last that was given out."""
        if self._resets is None:
            return None
        for channel_id in [waiting for waiting in self._closing if not self.known[waiting].reset_requested]:
            channel = self.known[channel_id]
            if self.queue.stream(channel_id).messages:
                continue  # they go first
            channel.reset_requested = True
            if self._can_reset:
                self._resets.want(channel_id)
            else:
                self._report_closed(channel)  # its id cannot be used again
        return self._resets.due(now, last_tsn, rto)

    def timeout(self) -> float | None:
        times = [self._resets.timeout() if self._resets is not None else None, *self._closing.values()]
        return min((at for at in times if at is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        if self._resets is not None:
            self._on_outgoing_reset(self._resets.given_up(), now)
        for channel_id, deadline in list(self._closing.items()):
            if deadline is not None and now >= deadline:
                self._report_closed(self.known[channel_id])

    def on_reconfig(self, value: bytes, now: float, rto: float) -> list[bytes]:
        """Take in a RE-CONFIG; returns the chunks that answer it. Raises MalformedPacket."""
        answers = []
        for kind, body in params(value):
            answer = None
            if self._receiver is None or self._resets is None:
                break
            if kind == Param.OUTGOING_RESET_REQUEST:
                request, answer = self._resets.on_request(body, self._receiver.cum)
                if request is not None:
                    self._perform(request)
            elif kind == Param.RECONFIG_RESPONSE:
                self._on_outgoing_reset(self._resets.on_response(body, now, rto), now)
            elif Param.INCOMING_RESET_REQUEST <= kind <= Param.ADD_INCOMING_STREAMS:
                answer = self._resets.refuse(body)
            if answer is not None:
                answers.append(answer)
        return answers

    def perform_deferred(self) -> bytes | None:
        """Perform the far side's reset that waited for data, if that has come; returns the answer."""
        if self._receiver is None or self._resets is None:
            return None
        request = self._resets.performable(self._receiver.cum)
        if request is None:
            return None
        self._perform(request)
        return self._resets.response(request.sequence, PERFORMED)

    def _perform(self, request: Request) -> None:
        """The far side closed channels; our direction must close as well."""
        self.deliver()  # what came before
        streams = dict.fromkeys(request.streams or self.known)
        if self._receiver is not None:
            self._receiver.reset(streams)
        for stream_id in streams:
            channel = self.known.get(stream_id)
            if channel is None:
                continue
            channel.incoming_reset = True
            if channel.outgoing_reset:
                self._remove(channel)
            elif channel.state is not ChannelState.CLOSING:
                channel.state = ChannelState.CLOSING
                self._closing[stream_id] = None
                self.queue.discard(self.queue.stream(stream_id))

    def _on_outgoing_reset(self, streams: Iterable[int], now: float) -> None:
        """The far side has reset these, or never will."""
        for stream_id in streams:
            channel = self.known.get(stream_id)
            if channel is None:
                continue  # one that was refused
            channel.outgoing_reset = True
            if channel.incoming_reset:
                self._remove(channel)
            elif stream_id in self._closing:
                self._closing[stream_id] = now + CLOSE_PATIENCE

    def _report_closed(self, channel: Channel) -> None:
        """Tell that a channel is closed, although its id may not be free."""
        self._closing.pop(channel.id, None)
        self._full.discard(channel.id)
        if not channel.reported:
            channel.reported = True
            self._tell(events.ChannelClosed(channel.id))

    def _remove(self, channel: Channel) -> None:
        """Both directions of a channel are closed: its id is free."""
        self._report_closed(channel)
        self.queue.streams.pop(channel.id, None)
        del self.known[channel.id]
