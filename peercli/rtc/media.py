"""The audio and video of one connection: what is offered, what is sent, and what comes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiortc import RTCPeerConnection, RTCRtpTransceiver

from peercli.errors import ProtocolError
from peercli.rtc.encoders import prefer_codec, with_opus_parameters
from peercli.rtc.rtp import Flow, Receiver, Sender
from peercli.rtc.stream import MediaStream

__all__ = ["KINDS", "Media", "MediaStats", "MediaStream"]

KINDS = ("audio", "video")
MAX_SECTIONS = 16  # of one description; each that is for media costs the thread of a decoder


@dataclass(frozen=True, slots=True)
class MediaStats:
    """How a call goes just now; None for what does not flow.

    Attributes:
        round_trip: seconds to the far side and back, once a report has told.
    """

    audio_sent: Flow | None = None
    video_sent: Flow | None = None
    audio_received: Flow | None = None
    video_received: Flow | None = None
    round_trip: float | None = None


class Media:
    """What a `Link` needs to know about a call.

    Nothing is sent and nothing is decoded until `start`, however early the far side is.
    """

    def __init__(self) -> None:
        self.local = MediaStream()
        self.video_codec: str | None = None  # vp8 or h264, where the far side has it
        self.bitrate: int | None = None  # bit/s of video at most
        self.sdp_transform: Callable[[str], str] | None = None
        self._sections: list[_Section] = []

    # For Link ---------------------------------------------------------------------------------

    def offer(self, pc: RTCPeerConnection) -> None:
        """Add a section for either kind: without a track of ours, one that asks for the far side's."""
        for kind in KINDS:
            direction = "sendrecv" if getattr(self.local, kind) else "recvonly"
            self._adopt(pc.addTransceiver(kind, direction=direction))

    def check(self, sdp: str) -> None:
        """Look at a description before aiortc does.

        Raises:
            ProtocolError: it asks for too much.
        """
        if sum(line.startswith("m=") for line in sdp.splitlines()) > MAX_SECTIONS:
            raise ProtocolError("the far side describes too many streams")

    def answer(self, pc: RTCPeerConnection) -> None:
        """Say yes to one section of either kind, and no to those that nobody asked for."""
        seen: set[str] = set()
        for transceiver in pc.getTransceivers():
            if transceiver.kind in seen:
                transceiver.direction = "inactive"
            else:
                transceiver.direction = "sendrecv" if getattr(self.local, transceiver.kind) else "recvonly"
                self._adopt(transceiver)
            seen.add(transceiver.kind)

    def shape(self, sdp: str) -> str:
        """Our own description as it is to be."""
        sdp = with_opus_parameters(sdp)
        return (self.sdp_transform(sdp) or sdp) if self.sdp_transform else sdp

    def _adopt(self, transceiver: RTCRtpTransceiver) -> None:
        if transceiver.kind == "video" and self.video_codec:
            prefer_codec(transceiver, self.video_codec)
        self._sections.append(
            _Section(
                transceiver,
                Sender.adopt(transceiver.sender, self.bitrate),
                Receiver.adopt(transceiver.receiver),
            )
        )

    # For MediaConnection ----------------------------------------------------------------------

    def start(self) -> None:
        """Let the frames flow, both ways."""
        for section in self._sections:
            if track := getattr(self.local, section.kind):
                section.sender.replaceTrack(track)
            section.receiver.start()

    @property
    def remote(self) -> MediaStream:
        """What the far side sends."""
        receiving = [each for each in self._sections if each.receives]
        return MediaStream(**{section.kind: section.receiver.track for section in receiving})

    def stats(self) -> MediaStats:
        """How it goes just now."""
        flows: dict[str, Flow | None] = {}
        for section in self._sections:
            flows[f"{section.kind}_sent"] = section.sender.flow()
            flows[f"{section.kind}_received"] = section.receiver.flow()
        trips = [each.sender.round_trip for each in self._sections if each.sender.round_trip is not None]
        return MediaStats(**flows, round_trip=min(trips, default=None))

    def clock_offset(self, kind: str) -> float | None:
        """Seconds from the time of a frame to the clock that the far side's sound and pictures share."""
        offsets = (each.receiver.clock_offset for each in self._sections if each.kind == kind)
        return next(offsets, None)

    def request_keyframe(self) -> None:
        """Ask the far side for a whole picture (RFC 4585 §6.3.1)."""
        for section in self._sections:
            section.receiver.request_keyframe()


@dataclass(frozen=True, slots=True)
class _Section:
    """One kind of media, both ways."""

    transceiver: RTCRtpTransceiver
    sender: Sender
    receiver: Receiver

    @property
    def kind(self) -> str:
        return str(self.transceiver.kind)

    @property
    def receives(self) -> bool:
        return self.transceiver.currentDirection in ("recvonly", "sendrecv")
