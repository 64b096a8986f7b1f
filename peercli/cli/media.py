"""What is sent in a call and what becomes of what comes: the options that `call` and `listen` share."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from peercli.cli.options import at_least
from peercli.errors import UsageError

if TYPE_CHECKING:
    from peercli.services.call import MediaOptions

__all__ = ["MediaChoice"]

_SEND, _TAKE = "What is sent", "What comes"


class VideoCodec(StrEnum):
    vp8 = "vp8"
    h264 = "h264"


@dataclass(frozen=True, kw_only=True)
class MediaChoice:
    """The options of what is sent in a call, and what becomes of what comes."""

    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            metavar="PATH|URL|-",
            help="Send what is in a file, at a URL, or on stdin.",
            show_default=False,
            rich_help_panel=_SEND,
        ),
    ] = None
    video: Annotated[
        str | None,
        typer.Option(
            "--video",
            metavar="SRC",
            help="camera[:NAME], screen[:NAME], test, none, or as --file.",
            show_default=False,
            rich_help_panel=_SEND,
        ),
    ] = None
    audio: Annotated[
        str | None,
        typer.Option(
            "--audio",
            metavar="SRC",
            help="mic[:NAME], test, none, or as --file.",
            show_default=False,
            rich_help_panel=_SEND,
        ),
    ] = None
    loop: Annotated[bool, typer.Option("--loop", help="Send files over and over.", rich_help_panel=_SEND)] = (
        False
    )
    size: Annotated[
        str | None,
        typer.Option(
            "--size",
            metavar="WxH",
            help="Pictures of this size, or as fits in it.",
            show_default=False,
            rich_help_panel=_SEND,
        ),
    ] = None
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            metavar="N",
            callback=lambda fps: fps if fps is None else at_least(0.1, fps),
            help="Pictures a second, at most.",
            show_default=False,
            rich_help_panel=_SEND,
        ),
    ] = None
    video_codec: Annotated[
        VideoCodec | None,
        typer.Option(
            "--video-codec",
            metavar="NAME",
            help="vp8 or h264, where the far side has it.",
            show_default=False,
            rich_help_panel=_SEND,
        ),
    ] = None
    bitrate: Annotated[
        str | None,
        typer.Option(
            "--bitrate",
            metavar="BITS",
            help="Bits a second of video, at most: 800k, 4M.",
            show_default=False,
            rich_help_panel=_SEND,
        ),
    ] = None
    record: Annotated[
        str | None,
        typer.Option(
            "--record",
            metavar="OUT",
            help="Record it: .mp4 .mov .mkv .webm .ts .wav .flac .ogg .mp3, or - for stdout, as Matroska.",
            show_default=False,
            rich_help_panel=_TAKE,
        ),
    ] = None
    record_own: Annotated[
        bool,
        typer.Option("--record-own", help="Record our own sound, too.", rich_help_panel=_TAKE),
    ] = False
    play: Annotated[
        bool,
        typer.Option("--play", help="Play it by the speaker. Wear headphones.", rich_help_panel=_TAKE),
    ] = False
    view: Annotated[
        bool, typer.Option("--view", help="Show it, here in the terminal.", rich_help_panel=_TAKE)
    ] = False

    @property
    def made(self) -> bool:
        """Whether any of them asks for something."""
        return any((self.file, self.video, self.audio, self.record, self.play, self.view))

    def options(self, *, default: tuple[str, str] | None = None) -> MediaOptions:
        """What they ask for.

        Args:
            default: the video and the audio where none of `file`, `video` and `audio` is given.

        Raises:
            UsageError: one of them cannot be read.
        """
        video, audio = self.video, self.audio
        if default is not None and self.file is None and video is None and audio is None:
            video, audio = default
        if self.loop and "-" in (self.file, video, audio):
            raise UsageError("--loop cannot wind stdin back")
        if self.record_own and self.record is None:
            raise UsageError("--record-own needs a recording to go to", hint="add --record OUT")
        if self.view and not os.isatty(2):
            raise UsageError("--view needs a terminal to show it in")
        from peercli.services.call import MediaOptions

        return MediaOptions(
            file=self.file,
            video=video,
            audio=audio,
            loop=self.loop,
            size=_size(self.size),
            fps=self.fps,
            video_codec=None if self.video_codec is None else self.video_codec.value,
            bitrate=_bitrate(self.bitrate),
            record=self.record,
            record_own=self.record_own,
            play=self.play,
            view=self.view,
        )


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{2,4})[x×](\d{2,4})", text)
    if match is None:
        raise UsageError(f"--size {text!r} is no size", hint="write 1280x720")
    return int(match[1]), int(match[2])


def _bitrate(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", text)
    bits = float(match[1]) * {"": 1, "k": 1e3, "m": 1e6}[match[2].lower()] if match else 0
    if not 1e4 <= bits <= 1e9:
        raise UsageError(f"--bitrate {text!r} is no bitrate", hint="write 800k or 4M")
    return int(bits)
