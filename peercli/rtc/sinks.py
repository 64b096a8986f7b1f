"""Where the frames of a call go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av.audio.resampler import AudioResampler

from peercli.rtc.inputs import Frame
from peercli.rtc.sound import RATE, Speaker

__all__ = ["Route", "Taker", "deliver", "playing"]

Taker = Callable[[Frame], None]
"""Takes a frame, at once: what cannot keep up drops some."""

Route = tuple[MediaStreamTrack, list[Taker]]
"""A track, and what takes its frames: what `deliver` takes."""


async def deliver(track: MediaStreamTrack, takers: Sequence[Taker]) -> None:
    """Give every frame of a track to each of `takers`, until it ends."""
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        if isinstance(frame, av.AudioFrame | av.VideoFrame):
            for take in takers:
                take(frame)


def playing(speaker: Speaker) -> Taker:
    """What gives sound of any form to a speaker."""
    resampler: AudioResampler | None = None
    format: tuple[str, str, int] | None = None

    def take(frame: Frame) -> None:
        nonlocal resampler, format
        if not isinstance(frame, av.AudioFrame):
            return
        its = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or its != format:
            resampler, format = AudioResampler("s16", "stereo", RATE), its
        for piece in resampler.resample(frame):
            speaker.play(bytes(piece.planes[0])[: piece.samples * 4])

    return take
