"""What cameras, microphones and screens are called here, and how FFmpeg opens them.

Linux has v4l2, alsa and x11grab, macOS avfoundation, Windows dshow and gdigrab (FFmpeg, "Input devices").
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from peercli.errors import UsageError

__all__ = ["DEVICES_HINT", "Device", "Driver", "Kind", "driver_for", "list_devices"]

Kind = Literal["camera", "mic", "screen", "speaker"]

DEVICES_HINT = "--list-devices tells what there is; --video and --audio choose, test and none among it"
SCREEN_FPS = 15.0  # unless told otherwise: text does not move much
CAMERA_FPS = 30.0


class Device(NamedTuple):
    """Something that `--list-devices` shows: `name` is what stands after the colon of a source."""

    kind: Kind
    name: str
    description: str


@dataclass(frozen=True)
class Driver:
    """What PyAV's `open` is told.

    Attributes:
        format: FFmpeg's name of the driver.
        target: what it opens.
        options: its options.
        wishes: more of them, which a device may refuse.
    """

    format: str
    target: str
    options: dict[str, str] = field(default_factory=dict)
    wishes: dict[str, str] = field(default_factory=dict)


def driver_for(kind: Kind, name: str, size: tuple[int, int] | None, fps: float | None) -> Driver:
    """How a camera, a microphone (without PortAudio) or a screen is opened; an empty `name` is the default.

    Raises:
        UsageError: there is no such thing here.
    """
    wishes = {"framerate": f"{fps or (SCREEN_FPS if kind == 'screen' else CAMERA_FPS):g}"}
    if size is not None and kind == "camera":
        wishes["video_size"] = f"{size[0]}x{size[1]}"
    match sys.platform, kind:
        case "darwin", "mic":
            return Driver("avfoundation", f":{name or 'default'}")
        case "darwin", "camera":
            return Driver("avfoundation", f"{name or 'default'}:none", wishes=wishes)
        case "darwin", "screen":
            return Driver(
                "avfoundation", f"{name or 'Capture screen 0'}:none", {"capture_cursor": "1"}, wishes
            )
        case "win32", "screen":
            return Driver("gdigrab", name or "desktop", wishes)
        case "win32", _:
            media = "audio" if kind == "mic" else "video"
            return Driver(
                "dshow", f"{media}={name or _first(kind)}", wishes=wishes if kind == "camera" else {}
            )
        case _, "mic":
            return Driver("alsa", name or "default")
        case _, "screen":
            display = name or os.environ.get("DISPLAY", "")
            if not display:
                raise UsageError(
                    "there is no screen to show: DISPLAY is not set",
                    hint="a screen is taken from X11; --video screen:NAME names another display",
                )
            return Driver("x11grab", display, wishes)
        case _:
            return Driver("v4l2", _v4l2_path(name), wishes=wishes)


def _v4l2_path(name: str) -> str:
    """A device file for a path, a number, or a part of what the camera calls itself."""
    if name.startswith("/"):
        return name
    if not name or name.isdecimal():
        return f"/dev/video{name or 0}"
    for device in _v4l2():
        if name.lower() in device.description.lower():
            return device.name
    raise UsageError(f"there is no camera {name}", hint=DEVICES_HINT)


def _first(kind: Kind) -> str:
    for device in list_devices():
        if device.kind == kind:
            return device.name
    raise UsageError(f"there is no {kind} here", hint=DEVICES_HINT)


def list_devices() -> list[Device]:
    """What there is to see and to hear with, as far as it can be listed here."""
    match sys.platform:
        case "darwin":
            pictures = [*_enumerated("avfoundation")]
        case "win32":
            pictures = [*_enumerated("dshow"), Device("screen", "desktop", "the whole desktop")]
        case _:
            display = os.environ.get("DISPLAY")
            pictures = [*_v4l2(), *([Device("screen", display, "X11")] if display else [])]
    return [*pictures, *_sound()]


def _v4l2() -> Iterator[Device]:
    for folder in sorted(Path("/sys/class/video4linux").glob("video*")):
        with suppress(OSError):
            if (folder / "index").read_text().strip() == "0":  # the others carry metadata
                yield Device("camera", f"/dev/{folder.name}", (folder / "name").read_text().strip())


def _enumerated(format: str) -> Iterator[Device]:
    from av.device import enumerate_input_devices

    for device in enumerate_input_devices(format):
        name = device.description or device.name
        if "Capture screen" in name:
            yield Device("screen", name, "")
        elif "video" in device.media_types:
            yield Device("camera", name, "")


def _sound() -> Iterator[Device]:
    from peercli.rtc.sound import list_sound_devices

    for name, inputs, outputs in list_sound_devices():
        if inputs:
            yield Device("mic", name, f"{inputs} channels" if inputs > 1 else "1 channel")
        if outputs:
            yield Device("speaker", name, f"{outputs} channels" if outputs > 1 else "1 channel")
