"""What one side of a call sends; light, so that the library's names cost no WebRTC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

__all__ = ["MediaStream"]


@dataclass(frozen=True, slots=True)
class MediaStream:
    """A picture, a sound, or both, as aiortc's tracks: `await track.recv()` gives the next frame of PyAV's.

    A track that has ended raises `aiortc.MediaStreamError`.
    """

    audio: MediaStreamTrack | None = None
    video: MediaStreamTrack | None = None

    @property
    def tracks(self) -> list[MediaStreamTrack]:
        """The tracks there are."""
        return [track for track in (self.audio, self.video) if track is not None]
