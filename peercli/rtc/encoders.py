"""The codecs of calls: pictures in real time at any bitrate, sound in stereo.

aiortc's encoders cap a picture at 1.5 or 3 Mbit/s, and begin a new stream at each change of the bitrate.
"""

from __future__ import annotations

import fractions
import re
import time
from abc import ABC, abstractmethod
from typing import Any

import av
from aiortc import RTCRtpSender, RTCRtpTransceiver, rtcrtpreceiver
from aiortc.codecs import get_decoder, get_encoder
from aiortc.codecs.base import Decoder
from aiortc.codecs.h264 import H264Decoder, H264Encoder
from aiortc.codecs.opus import SAMPLE_RATE, SAMPLES_PER_FRAME, OpusEncoder
from aiortc.codecs.vpx import Vp8Decoder, Vp8Encoder
from aiortc.mediastreams import VIDEO_TIME_BASE, convert_timebase
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtcrtpsender import RTCEncodedFrame
from av import AudioFrame, VideoFrame
from av.video.frame import PictureType

from peercli.rtc.private import needs

__all__ = [
    "ASSUMED_RATE",
    "H264",
    "MAX_PIXELS",
    "Encoder",
    "PictureEncoder",
    "Sound",
    "Vp8",
    "is_too_large",
    "make_encoder",
    "prefer_codec",
    "with_opus_parameters",
]

MAX_PIXELS = 4096 * 2304  # of a picture that is taken
ASSUMED_RATE = 30  # frames a second, where bits are shared out
FEW_BITS, MANY_BITS = 0.03, 0.16  # per pixel, from which a picture is sent in half or twice the size
MAX_HALVINGS = 2
THREADS = 1  # of a codec: libvpx's wait for each other by spinning, on a busy machine a hundred times as long
STEP_DOWN, STEP_UP = 0.85, 1.25  # of the bitrate, from which a new stream is worth its whole picture
STEP_UP_INTERVAL = 3.0  # s between such streams on the way up
AUDIO_BITRATE = 96_000  # bit/s
EXPECTED_AUDIO_LOSS = 5  # percent: how much redundancy Opus adds

needs(rtcrtpreceiver, "get_decoder")
needs(Vp8Encoder, "_packetize", "picture_id")
needs(H264Encoder, "_packetize", "_split_bitstream")
needs(OpusEncoder, "codec")


class Encoder(ABC):
    """What encodes the frames of one track."""

    @abstractmethod
    def encode(self, frame: Any, *, bitrate: int, keyframe: bool) -> list[RTCEncodedFrame]:
        """What is to be sent for a frame: nothing, or the packets of one or more."""


def _encoded(payloads: list[bytes], timestamp: int) -> RTCEncodedFrame:
    # No level: to measure it in Python costs more than it is worth.
    return RTCEncodedFrame(payloads, timestamp, None)  # type: ignore[arg-type]


class PictureEncoder(Encoder):
    """A picture in real time, at a bitrate that may change with every frame."""

    def __init__(self) -> None:
        self._codec: av.VideoCodecContext | None = None
        self._halvings = 0
        self._opened = (0.0, 0)  # when, and with which bitrate

    def _fit(self, width: int, height: int, bitrate: int) -> tuple[int, int]:
        """The size in which a picture is still worth looking at: half of it, or a quarter, on a bad path."""
        per_pixel = bitrate / (width * height * ASSUMED_RATE) * 4**self._halvings
        if per_pixel < FEW_BITS and self._halvings < MAX_HALVINGS:
            self._halvings += 1
        elif per_pixel > MANY_BITS and self._halvings > 0:
            self._halvings -= 1
        return max(width >> self._halvings & ~1, 2), max(height >> self._halvings & ~1, 2)

    def encode(self, frame: VideoFrame, *, bitrate: int, keyframe: bool) -> list[RTCEncodedFrame]:
        width, height = self._fit(frame.width, frame.height, bitrate)
        if (frame.format.name, frame.width, frame.height) != ("yuv420p", width, height):
            frame = frame.reformat(width, height, "yuv420p")
        # A decoded file's own kinds of picture are not to be repeated.
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        codec = self._codec
        if (
            codec is None
            or (codec.width, codec.height) != (frame.width, frame.height)
            or self._is_outgrown(codec, bitrate)
        ):
            self._codec = codec = self._open(frame.width, frame.height, bitrate)
            self._opened = time.monotonic(), bitrate
        data = b"".join(bytes(packet) for packet in codec.encode(frame))
        if not data:
            return []
        assert frame.pts is not None
        assert frame.time_base is not None
        timestamp = convert_timebase(frame.pts, frame.time_base, VIDEO_TIME_BASE)
        return [_encoded(self._packetize(data), timestamp)]

    @abstractmethod
    def _open(self, width: int, height: int, bitrate: int) -> av.VideoCodecContext: ...

    def _is_outgrown(self, codec: av.VideoCodecContext, bitrate: int) -> bool:
        """Whether this bitrate takes a new stream, with a whole picture; if not, `codec` goes on with it."""
        opened, opened_with = self._opened
        return bitrate > opened_with * STEP_UP and time.monotonic() - opened > STEP_UP_INTERVAL

    @abstractmethod
    def _packetize(self, data: bytes) -> list[bytes]: ...


class Vp8(PictureEncoder):
    """VP8 by libvpx, whose bitrate FFmpeg cannot change: a new stream does, and costs a whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self._packetizer = Vp8Encoder()

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
        return codec

    def _is_outgrown(self, codec: av.VideoCodecContext, bitrate: int) -> bool:
        return bitrate < self._opened[1] * STEP_DOWN or super()._is_outgrown(codec, bitrate)

    def _packetize(self, data: bytes) -> list[bytes]:
        packetizer = self._packetizer
        packetizer.picture_id = (packetizer.picture_id + 1) % (1 << 15)
        return packetizer._packetize(data, packetizer.picture_id)


class H264(PictureEncoder):
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

    def _is_outgrown(self, codec: av.VideoCodecContext, bitrate: int) -> bool:
        codec.bit_rate = bitrate  # FFmpeg tells x264, which goes no higher than it was opened with
        return super()._is_outgrown(codec, bitrate)

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


class Sound(Encoder):
    """Opus in stereo; whatever is said by other codecs, by aiortc's encoders."""

    def __init__(self, codec: RTCRtpCodecParameters) -> None:
        self._encoder = get_encoder(codec)
        if isinstance(self._encoder, OpusEncoder):
            self._encoder.codec.bit_rate = AUDIO_BITRATE
            # No DTX: at this rate it saves nothing; a packet of silence has 3 bytes as it is.
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


def make_encoder(codec: RTCRtpCodecParameters) -> Encoder:
    """An encoder for a codec that was negotiated."""
    match codec.mimeType.lower():
        case "video/vp8":
            return Vp8()
        case "video/h264":
            return H264()
        case _:
            return Sound(codec)


def is_too_large(codec: RTCRtpCodecParameters, data: bytes) -> bool:
    """Whether libvpx would make room for a picture beyond all reason (RFC 6386 §9.1)."""
    if codec.mimeType.lower() != "video/vp8" or len(data) < 10 or data[0] & 1:
        return False
    width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width * height > MAX_PIXELS


def _get_decoder(codec: RTCRtpCodecParameters) -> Decoder:
    decoder = get_decoder(codec)
    if isinstance(decoder, Vp8Decoder | H264Decoder):
        decoder.codec.thread_count = THREADS  # more would also delay each picture of H.264 by one
        decoder.codec.options = {"max_pixels": str(MAX_PIXELS)}
    return decoder


# The only way to the decoders: aiortc's thread makes them.
rtcrtpreceiver.get_decoder = _get_decoder  # type: ignore[attr-defined]


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
