"""Both ends of a stream of sound or pictures: aiortc's, extended to the quality that the path allows.

The sender's bitrate follows what the far side reports. The receiver asks for what is lost, and drops frames
rather than delays them. What aiortc has is otherwise used as it is: packets, reports, SRTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiortc import RTCDtlsTransport, RTCRtpReceiver, RTCRtpSender
from aiortc.codecs import is_rtx
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters, RTCRtpReceiveParameters, RTCRtpSendParameters
from aiortc.rtcrtpreceiver import RemoteStreamTrack, StreamStatistics, TimestampMapper
from aiortc.rtcrtpsender import RTCEncodedFrame
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTP_HISTORY_SIZE,
    AnyRtcpPacket,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpSrPacket,
    RtpPacket,
    unpack_remb_fci,
)
from av import VideoFrame
from av.frame import Frame

from peercli.rtc.bitrate import Bitrate, Meter
from peercli.rtc.encoders import ASSUMED_RATE, Encoder, is_too_large, make_encoder
from peercli.rtc.jitter import FrameBuffer, Missing
from peercli.rtc.private import needs

__all__ = ["MAX_FRAMES", "Flow", "Receiver", "Sender"]

BITS_PER_PIXEL = 0.1  # of video, where no limit is given: 2.8 Mbit/s for 1280x720 at 30 frames a second
PACING = 2.5  # of the bitrate, at which the packets of one picture leave (as Chromium has it) …
BURST = 8_000  # bytes … beyond these, which leave at once
RESEND_WAIT = 0.05  # s within which no packet is sent again twice, while the round trip is not known
MAX_RESENT = 0.5  # of the bitrate, for packets that are sent again
MAX_AGE = 5.0  # s of a frame that is sent
MAX_EARLY = 1000  # packets that are kept until `start`; the oldest go first
VIDEO_PATIENCE = 0.7  # s to wait for a packet that may be sent again, before going on without it
AUDIO_PATIENCE = 0.06  # s to wait for one that may only have been overtaken
MAX_UNDECODED = 60  # encoded frames; more means that this machine is too slow
MAX_WAITING_PIXELS = 50_000_000  # the same
MAX_FRAMES = {"audio": 100, "video": 30}  # decoded and not taken yet; the oldest go first

needs(
    RTCRtpSender,
    "_RTCRtpSender__rtp_history",
    "_RTCRtpSender__rtt",
    "_handle_rtcp_packet",
    "_next_encoded_frame",
    "_retransmit",
    "_send_keyframe",
    "_ssrc",
)
needs(
    RTCRtpReceiver,
    "_RTCRtpReceiver__decoder_queue",
    "_RTCRtpReceiver__jitter_buffer",
    "_RTCRtpReceiver__kind",
    "_RTCRtpReceiver__nack_generator",
    "_RTCRtpReceiver__remote_streams",
    "_RTCRtpReceiver__timestamp_mapper",
    "_handle_rtcp_packet",
    "_handle_rtp_packet",
    "_send_rtcp_nack",
    "_send_rtcp_pli",
    "_track",
)
needs(RemoteStreamTrack, "_queue")


@dataclass(frozen=True, slots=True)
class Flow:
    """One kind of media on its way in one direction.

    Attributes:
        codec: VP8, H264, opus, …
        width, height: of the last picture; 0 for sound.
        rate: frames a second, over the last two; of sound: packets.
        bitrate: bit/s, over the last two seconds.
        packets: so far.
        lost: packets so far, as the receiving side counts them.
    """

    codec: str
    width: int
    height: int
    rate: float
    bitrate: float
    packets: int
    lost: int


class _Age:
    """How long ago the last frame was seen or heard: as long as it took more than the quickest one."""

    def __init__(self) -> None:
        self._zero = float("inf")
        self._time = 0.0

    def note(self, time_of_frame: float) -> None:
        """A frame has come, with this time on its track's clock, in seconds."""
        self._time = time_of_frame
        self._zero = min(self._zero, time.monotonic() - time_of_frame)
        if self.seconds > MAX_AGE:  # the track's clock has been set back
            self._zero = time.monotonic() - time_of_frame

    @property
    def seconds(self) -> float:
        """Until now."""
        return max(0.0, time.monotonic() - self._zero - self._time)


class _Pacer:
    """Stands before a DTLS transport, and lets a big picture out no faster than the path may take it."""

    def __init__(self, transport: RTCDtlsTransport, bitrate: Bitrate) -> None:
        self._transport = transport
        self._bitrate = bitrate
        self._free_at = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def _send_rtp(self, data: bytes) -> None:
        rate = self._bitrate.target * PACING / 8
        now = time.monotonic()
        self._free_at = max(self._free_at, now - BURST / rate) + len(data) / rate
        if self._free_at > now:
            await asyncio.sleep(self._free_at - now)
        await self._transport._send_rtp(data)


class Sender(RTCRtpSender):
    """aiortc's, with encoders of ours, at the bitrate that the path takes."""

    @classmethod
    def adopt(cls, sender: RTCRtpSender, limit: int | None) -> Sender:
        """Turn one of aiortc's into one of ours.

        Args:
            limit: bit/s of video at most; by default what its size asks for.
        """
        sender.__class__ = cls
        assert isinstance(sender, cls)
        sender._limit = limit
        sender._codec = ""
        sender._encoder = None
        sender._bitrate = Bitrate()
        sender._pacer = None
        sender._resent = {}
        sender._resent_bytes = Meter()
        sender._encoded = deque()
        sender._keyframe = False
        sender._bytes, sender._frames = Meter(), Meter()
        sender._packets = sender._lost = 0
        sender._size = (0, 0)
        sender.round_trip = None
        sender._age = _Age()
        sender._reported_at = 0
        return sender

    _RTCRtpSender__rtp_history: dict[int, RtpPacket]
    _RTCRtpSender__rtt: float | None
    _limit: int | None
    _codec: str
    _encoder: Encoder | None
    _bitrate: Bitrate
    _pacer: _Pacer | None
    _resent: dict[int, float]
    _resent_bytes: Meter
    _encoded: deque[RTCEncodedFrame]
    _keyframe: bool
    _bytes: Meter
    _frames: Meter
    _packets: int
    _lost: int
    _size: tuple[int, int]
    _age: _Age
    _reported_at: int

    @property
    def _RTCRtpSender__ntp_timestamp(self) -> int:
        """What sender reports say of the last frame: when it was seen or heard, in 1/2^32 s since 1900."""
        return self._reported_at

    @_RTCRtpSender__ntp_timestamp.setter
    def _RTCRtpSender__ntp_timestamp(self, sent: int) -> None:
        # aiortc takes the time of sending, by which pictures, slow to encode, would lag behind their sound.
        self._reported_at = sent - int(self._age.seconds * (1 << 32))

    round_trip: float | None
    """Seconds to the far side and back, once a report has told."""

    async def send(self, parameters: RTCRtpSendParameters) -> None:
        self._codec = parameters.codecs[0].name
        self._encoder = self._encoder or make_encoder(parameters.codecs[0])
        await super().send(parameters)

    @property
    def transport(self) -> Any:
        """Where `_run_rtp` sends."""
        transport = super().transport
        if self.kind != "video":
            return transport
        if self._pacer is None or self._pacer._transport is not transport:
            self._pacer = _Pacer(transport, self._bitrate)
        return self._pacer

    async def _next_encoded_frame(self, codec: RTCRtpCodecParameters) -> RTCEncodedFrame | None:
        if not self._encoded:
            frame = await self.track.recv()
            if self._enabled and isinstance(frame, Frame):
                self._age.note(float(frame.time or 0))
                await self._encode(frame)
        if not self._encoded:
            return None
        encoded = self._encoded.popleft()
        self._frames.add(1)
        self._packets += len(encoded.payloads)
        self._bytes.add(sum(map(len, encoded.payloads)))
        return encoded

    async def _encode(self, frame: Frame) -> None:
        assert self._encoder is not None
        if isinstance(frame, VideoFrame):
            self._size = frame.width, frame.height
            self._bitrate.limit = self._limit or int(
                frame.width * frame.height * ASSUMED_RATE * BITS_PER_PIXEL
            )
        keyframe, self._keyframe = self._keyframe, False
        work = partial(self._encoder.encode, frame, bitrate=self._bitrate.target, keyframe=keyframe)
        self._encoded.extend(await asyncio.get_running_loop().run_in_executor(None, work))

    def _send_keyframe(self) -> None:
        self._keyframe = True

    async def _retransmit(self, sequence_number: int) -> None:
        """Send a packet again, unless that has just been done, or would take too much of the path."""
        now = time.monotonic()
        wait = self.round_trip if self.round_trip is not None else RESEND_WAIT
        packet = self._RTCRtpSender__rtp_history.get(sequence_number % RTP_HISTORY_SIZE)
        if (
            packet is None
            or now - self._resent.get(sequence_number, -math.inf) < wait
            or self._resent_bytes.rate() * 8 > self._bitrate.target * MAX_RESENT
        ):
            return
        self._resent = {number: when for number, when in self._resent.items() if now - when < wait}
        self._resent[sequence_number] = now
        self._resent_bytes.add(len(packet.payload))
        await super()._retransmit(sequence_number)

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        if isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP:
            with contextlib.suppress(ValueError):  # some other application's
                bitrate, ssrcs = unpack_remb_fci(packet.fci)
                if self._ssrc in ssrcs:
                    self._bitrate.estimated(bitrate)
            return
        await super()._handle_rtcp_packet(packet)
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            self.round_trip = self._RTCRtpSender__rtt
            for report in packet.reports:
                if report.ssrc == self._ssrc:
                    self._lost = report.packets_lost
                    self._bitrate.reported(report.fraction_lost / 256, time.monotonic())

    def flow(self) -> Flow | None:
        """How it goes; None before there was a frame."""
        if not self._packets:
            return None
        return Flow(
            self._codec, *self._size, self._frames.rate(), self._bytes.rate() * 8, self._packets, self._lost
        )


class Receiver(RTCRtpReceiver):
    """aiortc's, whose frames are dropped rather than delayed when nobody takes them."""

    @classmethod
    def adopt(cls, receiver: RTCRtpReceiver) -> Receiver:
        """Turn one of aiortc's into one of ours; it passes nothing on until `start`."""
        receiver.__class__ = cls
        assert isinstance(receiver, cls)
        receiver._started = False
        receiver._keyframe = False
        receiver._frames_queue = None
        is_video = receiver._RTCRtpReceiver__kind == "video"
        patience = VIDEO_PATIENCE if is_video else AUDIO_PATIENCE
        receiver._buffer = FrameBuffer(patience=patience, is_video=is_video)
        receiver._RTCRtpReceiver__jitter_buffer = receiver._buffer
        if is_video:
            receiver._missing = Missing(receiver._buffer)
            receiver._RTCRtpReceiver__nack_generator = receiver._missing
        else:
            receiver._missing = None
        receiver._ssrc = 0
        receiver._codecs = {}
        receiver._codec = ""
        receiver._bytes = Meter()
        receiver._early = deque(maxlen=MAX_EARLY)
        receiver.clock_offset = None
        return receiver

    _RTCRtpReceiver__decoder_queue: queue.Queue[Any]
    _RTCRtpReceiver__jitter_buffer: FrameBuffer
    _RTCRtpReceiver__kind: str
    _RTCRtpReceiver__nack_generator: Missing | None
    _RTCRtpReceiver__timestamp_mapper: TimestampMapper
    _RTCRtpReceiver__remote_streams: dict[int, StreamStatistics]
    _started: bool
    _keyframe: bool
    _buffer: FrameBuffer
    _missing: Missing | None
    _ssrc: int
    _frames_queue: _Frames | None
    _codecs: dict[int, RTCRtpCodecParameters]
    _codec: str
    _bytes: Meter
    _early: deque[tuple[RtpPacket, int]]

    clock_offset: float | None
    """Seconds from the time of a frame to the clock that the far side's sound and pictures share, once a
    sender report has told (RFC 3550 §6.4.1)."""

    async def _handle_rtcp_packet(self, packet: AnyRtcpPacket) -> None:
        origin = self._RTCRtpReceiver__timestamp_mapper._origin
        if isinstance(packet, RtcpSrPacket) and origin is not None and self._codecs:
            ticks = (packet.sender_info.rtp_timestamp - origin + (1 << 31)) % (1 << 32) - (1 << 31)
            clock_rate = next(iter(self._codecs.values())).clockRate
            offset = packet.sender_info.ntp_timestamp / (1 << 32) - ticks / clock_rate
            # A report is made when a frame is sent: some time after it was due, and never before.
            self.clock_offset = min(offset, self.clock_offset or offset)
        await super()._handle_rtcp_packet(packet)

    def start(self) -> None:
        """Pass on what comes, and what has come already: the far side may be quicker than we are."""
        self._started = True
        self.request_keyframe()

    def request_keyframe(self) -> None:
        """Ask for a whole picture when the next packet comes."""
        self._keyframe = True

    async def receive(self, parameters: RTCRtpReceiveParameters) -> None:
        if self._frames_queue is None:
            assert self._track is not None
            self._codecs = {codec.payloadType or 0: codec for codec in parameters.codecs}
            self._frames_queue = _Frames(MAX_FRAMES[self.track.kind])
            self._track._queue = self._frames_queue
        await super().receive(parameters)

    async def _handle_rtp_packet(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        if not self._started:
            self._early.append((packet, arrival_time_ms))
            return
        while self._early:
            await self._take(*self._early.popleft())
        await self._take(packet, arrival_time_ms)

    async def _take(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        self._bytes.add(len(packet.payload))
        codec = self._codecs.get(packet.payload_type)
        if codec is not None and not is_rtx(codec):
            self._ssrc = packet.ssrc
        await super()._handle_rtp_packet(packet, arrival_time_ms)
        now = time.monotonic()
        self._decode(self._buffer.frames(now))
        if self._missing is not None:
            await self._ask(self._missing, now)

    def _decode(self, frames: list[tuple[int, JitterFrame]]) -> None:
        waiting = self._RTCRtpReceiver__decoder_queue
        if waiting.qsize() > MAX_UNDECODED:
            self._drop_undecoded()
            self._keyframe = True
        for payload_type, frame in frames:
            codec = self._codecs[payload_type]
            if is_too_large(codec, frame.data):
                continue
            self._codec = codec.name
            frame.timestamp = self._RTCRtpReceiver__timestamp_mapper.map(frame.timestamp)
            waiting.put((codec, frame))

    async def _ask(self, missing: Missing, now: float) -> None:
        """Ask for a whole picture when one is needed, and for packets that stay away."""
        if self._buffer.broken or self._keyframe:
            self._buffer.broken = self._keyframe = False
            await self._send_rtcp_pli(self._ssrc)
        if due := missing.due(now):
            await self._send_rtcp_nack(self._ssrc, due)

    async def stop(self) -> None:
        self._drop_undecoded()  # whose decoding would be waited for
        await super().stop()

    def _drop_undecoded(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._RTCRtpReceiver__decoder_queue.get_nowait()

    def flow(self) -> Flow | None:
        """How it goes; None before there was a frame."""
        frames = self._frames_queue
        streams = self._RTCRtpReceiver__remote_streams.values()
        if frames is None or not streams:
            return None
        return Flow(
            self._codec,
            *frames.size,
            frames.meter.rate(),
            self._bytes.rate() * 8,
            sum(stream.packets_received for stream in streams),
            sum(stream.packets_lost for stream in streams),
        )


class _Frames(asyncio.Queue[Frame | None]):
    """Decoded frames on their way to who takes them; the oldest go when there are too many."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self.meter = Meter()
        self.size = (0, 0)

    async def put(self, frame: Frame | None) -> None:
        if frame is not None:
            self.meter.add(1)
            most = self._most
            if isinstance(frame, VideoFrame):
                self.size = frame.width, frame.height
                most = max(min(most, MAX_WAITING_PIXELS // (frame.width * frame.height)), 2)
            while self.qsize() >= most:
                self.get_nowait()
        self.put_nowait(frame)
