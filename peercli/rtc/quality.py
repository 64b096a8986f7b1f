"""How calls look and sound: encoders, a bitrate that follows the path, whole pictures when they are needed.

aiortc sends and receives RTP; its encoders, which cap a picture at 1.5 or 3 Mbit/s and begin a new stream at
each change of the bitrate, its unbounded queues of frames and its statistics are replaced here.

All that is used here of aiortc's private parts is looked for when this module is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import math
import queue
import re
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import av
from aiortc import RTCDtlsTransport, RTCRtpReceiver, RTCRtpSender, RTCRtpTransceiver, rtcrtpreceiver
from aiortc.codecs import get_decoder, get_encoder, is_rtx
from aiortc.codecs.base import Decoder
from aiortc.codecs.h264 import H264Decoder, H264Encoder
from aiortc.codecs.opus import SAMPLE_RATE, SAMPLES_PER_FRAME, OpusEncoder
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.mediastreams import VIDEO_TIME_BASE, convert_timebase
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
from av import AudioFrame, VideoFrame
from av.frame import Frame
from av.video.frame import PictureType

from peercli.rtc.jitter import FrameBuffer, Missing
from peercli.rtc.private import needs

__all__ = ["Bitrate", "Flow", "Receiver", "Sender", "prefer_codec", "with_opus_parameters"]

MIN_BITRATE = 150_000  # bit/s of video, however bad the path
START_BITRATE = 2_000_000  # bit/s of video before anything is known of the path
BITS_PER_PIXEL = 0.1  # of video, where no limit is given: 2.8 Mbit/s for 1280x720 at 30 frames a second
FEW_BITS, MANY_BITS = 0.03, 0.16  # per pixel, from which a picture is sent in half or twice the size
MAX_HALVINGS = 2
THREADS = 1  # of a codec: libvpx's wait for each other by spinning, on a busy machine a hundred times as long
ASSUMED_RATE = 30  # frames a second, for the limit
LITTLE_LOSS, MUCH_LOSS = (
    0.02,
    0.10,
)  # below and above which the bitrate grows and shrinks (as Chromium has it)
GROWTH = 1.15  # of the bitrate, a second without loss
STEP_DOWN, STEP_UP = (
    0.85,
    1.25,
)  # of the bitrate, from which VP8 is worth a new stream, with its whole picture
STEP_UP_INTERVAL = 3.0  # s between such streams on the way up
AUDIO_BITRATE = 96_000  # bit/s
EXPECTED_AUDIO_LOSS = 5  # percent: how much redundancy Opus adds
MAX_FRAMES = {"audio": 100, "video": 30}  # decoded and not taken yet; the oldest go first
MAX_EARLY = 1000  # packets that are kept until `start`; the oldest go first
MAX_AGE = 5.0  # s of a frame that is sent
MAX_UNDECODED = 60  # encoded frames; more means that this machine is too slow
VIDEO_PATIENCE = 0.7  # s to wait for a packet that may be sent again, before going on without it
AUDIO_PATIENCE = 0.06  # s to wait for one that may only have been overtaken
PACING = 2.5  # of the bitrate, at which the packets of one picture leave (as Chromium has it) …
BURST = 8_000  # bytes … beyond these, which leave at once
RESEND_WAIT = 0.05  # s within which no packet is sent again twice, while the round trip is not known
MAX_RESENT = 0.5  # of the bitrate, for packets that are sent again
RATE_WINDOW = 2.0  # s over which rates are measured

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
needs(rtcrtpreceiver, "get_decoder")
needs(Vp8Encoder, "_packetize", "picture_id")
needs(H264Encoder, "_packetize", "_split_bitstream")
needs(OpusEncoder, "codec")


# What is said of it ---------------------------------------------------------------------------


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


class Meter:
    """A rate over the last seconds."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, int]] = deque()

    def add(self, amount: int) -> None:
        """Count `amount`, now."""
        now = time.monotonic()
        self._events.append((now, amount))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._events and self._events[0][0] < now - RATE_WINDOW:
            self._events.popleft()

    def rate(self) -> float:
        """How much a second."""
        now = time.monotonic()
        self._forget(now)
        if not self._events:
            return 0.0
        return sum(amount for _, amount in self._events) / max(now - self._events[0][0], 0.5)


class Bitrate:
    """How many bits a second a path takes, as its far end reports (as in draft-ietf-rmcat-gcc §6)."""

    def __init__(self) -> None:
        self.limit = START_BITRATE
        """bit/s, never to be exceeded."""
        self._by_delay = float("inf")
        self._by_loss = float(START_BITRATE)
        self._reported: float | None = None

    @property
    def target(self) -> int:
        """bit/s to send."""
        return int(max(min(self._by_delay, self._by_loss, self.limit), MIN_BITRATE))

    def estimated(self, bitrate: int) -> None:
        """The receiver's estimate has come (REMB)."""
        self._by_delay = bitrate

    def reported(self, lost: float, now: float) -> None:
        """A receiver report has come: this fraction of the packets since the last one is lost."""
        elapsed = min(now - self._reported, 2.0) if self._reported is not None else 1.0
        self._reported = now
        if lost > MUCH_LOSS:
            self._by_loss = self.target * (1 - lost / 2)
        elif lost < LITTLE_LOSS:
            # From what is sent in fact: what another limit holds down has not been tried.
            self._by_loss = max(self._by_loss, self.target * GROWTH**elapsed)


# Encoders: they run in threads, one frame at a time -------------------------------------------


class _Encoder(ABC):
    """What encodes the frames of one track."""

    @abstractmethod
    def encode(self, frame: Any, *, bitrate: int, keyframe: bool) -> list[RTCEncodedFrame]:
        """What is to be sent for a frame: nothing, or the packets of one or more."""


def _encoded(payloads: list[bytes], timestamp: int) -> RTCEncodedFrame:
    # No level: to measure it in Python costs more than it is worth.
    return RTCEncodedFrame(payloads, timestamp, None)  # type: ignore[arg-type]


class _PictureEncoder(_Encoder):
    """A picture in real time, at a bitrate that may change with every frame."""

    def __init__(self) -> None:
        self._codec: av.VideoCodecContext | None = None
        self._halvings = 0

    def _fit(self, width: int, height: int, bitrate: int) -> tuple[int, int]:
        """The size in which a picture is still worth looking at: half of it, or a quarter, on a bad path."""
        per_pixel = bitrate / (width * height * ASSUMED_RATE) * 4**self._halvings
        if per_pixel < FEW_BITS and self._halvings < MAX_HALVINGS:
            self._halvings += 1
        elif per_pixel > MANY_BITS and self._halvings > 0:
            self._halvings -= 1
        if not self._halvings:
            return width, height
        return max(width >> self._halvings & ~1, 2), max(height >> self._halvings & ~1, 2)

    def encode(self, frame: VideoFrame, *, bitrate: int, keyframe: bool) -> list[RTCEncodedFrame]:
        width, height = self._fit(frame.width, frame.height, bitrate)
        if (frame.format.name, frame.width, frame.height) != ("yuv420p", width, height):
            frame = frame.reformat(width, height, "yuv420p")
        # A decoded file's own kinds of picture are not to be repeated.
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        if self._codec is None or (self._codec.width, self._codec.height) != (frame.width, frame.height):
            self._codec = self._open(frame.width, frame.height, bitrate)
        else:
            self._codec = self._adapt(self._codec, bitrate)
        data = b"".join(bytes(packet) for packet in self._codec.encode(frame))
        if not data:
            return []
        assert frame.pts is not None
        assert frame.time_base is not None
        timestamp = convert_timebase(frame.pts, frame.time_base, VIDEO_TIME_BASE)
        return [_encoded(self._packetize(data), timestamp)]

    @abstractmethod
    def _open(self, width: int, height: int, bitrate: int) -> av.VideoCodecContext: ...

    @abstractmethod
    def _adapt(self, codec: av.VideoCodecContext, bitrate: int) -> av.VideoCodecContext:
        """The codec to go on with at this bitrate: this one, changed, or a new one."""

    @abstractmethod
    def _packetize(self, data: bytes) -> list[bytes]: ...


class _Vp8(_PictureEncoder):
    """VP8 by libvpx, whose bitrate FFmpeg cannot change: a new stream does, and costs a whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self._packetizer = Vp8Encoder()
        self._opened = 0.0

    def _open(self, width: int, height: int, bitrate: int) -> av.VideoCodecContext:
        codec = _context("libvpx", width, height, bitrate)
        codec.gop_size = 3000  # whole pictures when they are asked for
        codec.qmin, codec.qmax = 2, 56
        codec.options = {
            "deadline": "realtime",
            "cpu-used": "-8",
            "lag-in-frames": "0",
            "minrate": str(bitrate),  # these two make it CBR, …
            "maxrate": str(bitrate),
            "bufsize": str(bitrate),  # … with a second's buffer
            "undershoot-pct": "100",
            "overshoot-pct": "15",
            "static-thresh": "1",
        }
        self._opened = time.monotonic()
        return codec

    def _adapt(self, codec: av.VideoCodecContext, bitrate: int) -> av.VideoCodecContext:
        step = bitrate / (codec.bit_rate or 1)
        if step < STEP_DOWN or (step > STEP_UP and time.monotonic() - self._opened > STEP_UP_INTERVAL):
            return self._open(codec.width, codec.height, bitrate)
        return codec

    def _packetize(self, data: bytes) -> list[bytes]:
        packetizer = self._packetizer
        packetizer.picture_id = (packetizer.picture_id + 1) % (1 << 15)
        return packetizer._packetize(data, packetizer.picture_id)


class _H264(_PictureEncoder):
    """H.264 by x264."""

    def _open(self, width: int, height: int, bitrate: int) -> av.VideoCodecContext:
        codec = _context("libx264", width, height, bitrate)
        codec.gop_size = 3000
        codec.profile = "Baseline"
        codec.options = {
            "preset": "veryfast",
            "tune": "zerolatency",
            "maxrate": str(bitrate),
            "bufsize": str(bitrate // 2),
        }
        return codec

    def _adapt(self, codec: av.VideoCodecContext, bitrate: int) -> av.VideoCodecContext:
        codec.bit_rate = bitrate  # FFmpeg tells x264
        return codec

    def _packetize(self, data: bytes) -> list[bytes]:
        return H264Encoder._packetize(H264Encoder._split_bitstream(data))


def _context(name: str, width: int, height: int, bitrate: int) -> av.VideoCodecContext:
    codec = av.CodecContext.create(name, "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.width, codec.height = width, height
    codec.pix_fmt = "yuv420p"
    codec.bit_rate = bitrate
    codec.time_base = VIDEO_TIME_BASE
    codec.framerate = fractions.Fraction(ASSUMED_RATE)
    codec.thread_count = THREADS
    return codec


class _Sound(_Encoder):
    """Opus in stereo; whatever is said by other codecs, by aiortc's encoders."""

    def __init__(self, codec: RTCRtpCodecParameters) -> None:
        self._encoder = get_encoder(codec)
        if isinstance(self._encoder, OpusEncoder):
            self._encoder.codec.bit_rate = AUDIO_BITRATE
            self._encoder.codec.options = {
                "application": "audio",
                "fec": "1",
                "packet_loss": str(EXPECTED_AUDIO_LOSS),
            }
        self._resampler = av.AudioResampler(
            format="s16", layout="stereo", rate=SAMPLE_RATE, frame_size=SAMPLES_PER_FRAME
        )

    def encode(self, frame: AudioFrame, *, bitrate: int, keyframe: bool) -> list[RTCEncodedFrame]:
        # Of one packet's length each: aiortc would send all of a longer frame with one timestamp.
        encoded = (self._encoder.encode(piece) for piece in self._resampler.resample(frame))
        return [_encoded(payloads, timestamp) for payloads, timestamp in encoded if payloads]


def _make_encoder(codec: RTCRtpCodecParameters) -> _Encoder:
    match codec.mimeType.lower():
        case "video/vp8":
            return _Vp8()
        case "video/h264":
            return _H264()
        case _:
            return _Sound(codec)


def _get_decoder(codec: RTCRtpCodecParameters) -> Decoder:
    decoder = get_decoder(codec)
    if isinstance(decoder, Vp8Decoder | H264Decoder):
        decoder.codec.thread_count = THREADS  # more would also delay each picture of H.264 by one
    return decoder


# The only way to the decoders: aiortc's thread makes them.
rtcrtpreceiver.get_decoder = _get_decoder  # type: ignore[attr-defined]


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


# Both ends of a stream ------------------------------------------------------------------------


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
    _encoder: _Encoder | None
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
        self._encoder = self._encoder or _make_encoder(parameters.codecs[0])
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
            if isinstance(frame, VideoFrame):
                self.size = frame.width, frame.height
            while self.qsize() >= self._most:
                self.get_nowait()
        self.put_nowait(frame)


# What is negotiated ---------------------------------------------------------------------------


def prefer_codec(transceiver: RTCRtpTransceiver, name: str) -> None:
    """Put a codec first (`vp8`, `h264`), the others after it."""
    codecs = RTCRtpSender.getCapabilities(transceiver.kind).codecs
    transceiver.setCodecPreferences(sorted(codecs, key=lambda codec: codec.name.lower() != name))


def with_opus_parameters(sdp: str) -> str:
    """A description that asks for Opus in stereo, with redundancy (RFC 7587 §6.1)."""
    match = re.search(r"^a=rtpmap:(\d+) opus/48000/2\r?$", sdp, re.MULTILINE | re.IGNORECASE)
    if match is None or f"a=fmtp:{match[1]} " in sdp:
        return sdp
    parameters = "minptime=10;useinbandfec=1;stereo=1;sprop-stereo=1"
    return f"{sdp[: match.end()]}\na=fmtp:{match[1]} {parameters}\r{sdp[match.end() :]}"
