"""Microphone and speaker by PortAudio, where the extra `sound` and the library are installed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from av import AudioFrame

from peercli.errors import UsageError
from peercli.rtc.devices import DEVICES_HINT

__all__ = ["RATE", "Microphone", "Speaker", "has_portaudio", "list_sound_devices"]

RATE = 48_000  # samples/s
BLOCK = 960  # samples: 20 ms, as long as an Opus packet
FRAME_BYTES = 4  # of a sample of both channels
HEADROOM = 0.06  # s that a speaker waits for before it plays, against jitter
MOST = 0.25  # s that may wait to be played; what is more is dropped rather than delayed
PATIENCE = 0.2  # s between looks at whether to stop

_INSTALL = "pip install 'peercli[sound]', and on Debian: apt install libportaudio2 libasound2-plugins"


def _portaudio() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError):  # the package, or the library that it loads
        return None
    return sounddevice


def has_portaudio() -> bool:
    """Whether sound can go by PortAudio here."""
    return _portaudio() is not None


def list_sound_devices() -> Iterator[tuple[str, int, int]]:
    """Names, with how many channels each takes in and gives out."""
    portaudio = _portaudio()
    for device in portaudio.query_devices() if portaudio else ():
        yield device["name"], device["max_input_channels"], device["max_output_channels"]


class Microphone:
    """Frames of 20 ms, 48 kHz, 16 bits, from a microphone; an empty `name` is the default one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._blocks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stream: Any = None
        self._channels = 1

    def open(self) -> None:
        """Start to listen.

        Raises:
            UsageError: there is no such microphone, or something else has it.
        """
        portaudio = _portaudio()
        try:
            device = portaudio.query_devices(self._name or None, "input")
            self._channels = min(2, device["max_input_channels"])
            self._stream = portaudio.RawInputStream(
                samplerate=RATE,
                blocksize=BLOCK,
                device=self._name or None,
                channels=self._channels,
                dtype="int16",
                callback=lambda data, *_: self._blocks.put(bytes(data)),
                finished_callback=lambda: self._blocks.put(None),
            )
            self._stream.start()
        except (portaudio.PortAudioError, ValueError) as error:
            raise UsageError(
                f"the microphone {self._name or '(default)'} cannot be opened: {_reason(error)}",
                hint=DEVICES_HINT,
            ) from None

    def blocks(self, stopped: threading.Event) -> Iterator[AudioFrame]:
        """What is heard, until `stopped`, or until the device goes away."""
        samples = 0
        while not stopped.is_set():
            try:
                data = self._blocks.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            if data is None:
                return
            frame = AudioFrame("s16", "mono" if self._channels == 1 else "stereo", BLOCK)
            frame.planes[0].update(data)
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), samples
            samples += BLOCK
            yield frame

    def close(self) -> None:
        """Listen no more."""
        if self._stream is not None:
            self._stream.close()


class Speaker:
    """Plays sound: 48 kHz, 16 bits, stereo.

    It starts when there is some in store, so that jitter is not heard, and drops what would make it late.

    Raises:
        UsageError: there is no PortAudio, or no speaker.
    """

    def __init__(self) -> None:
        portaudio = _portaudio()
        if portaudio is None:
            raise UsageError("sound cannot be played: PortAudio is not installed", hint=_INSTALL)
        self._store = bytearray()
        self._turn = threading.Lock()
        self._filling = True
        self.dropped = 0
        """Samples that came too fast to be played."""
        try:
            self._stream = portaudio.RawOutputStream(
                samplerate=RATE, blocksize=BLOCK, channels=2, dtype="int16", callback=self._fill
            )
            self._stream.start()
        except (portaudio.PortAudioError, ValueError) as error:
            raise UsageError(f"no speaker can be opened: {_reason(error)}") from None

    def play(self, pcm: bytes) -> None:
        """Add sound to what is played."""
        most = int(MOST * RATE) * FRAME_BYTES
        with self._turn:
            self._store += pcm
            if (excess := len(self._store) - most) > 0:
                self.dropped += excess // FRAME_BYTES
                del self._store[:excess]

    def _fill(self, out: Any, frames: int, time: Any, status: Any) -> None:
        wanted = frames * FRAME_BYTES
        with self._turn:
            if self._filling and len(self._store) < max(wanted, int(HEADROOM * RATE) * FRAME_BYTES):
                data = b""
            else:
                data = bytes(self._store[:wanted])
                del self._store[:wanted]
            self._filling = len(data) < wanted
        out[:] = data + bytes(wanted - len(data))

    def close(self) -> None:
        """Play no more."""
        self._stream.close()


def _reason(error: Exception) -> str:
    return str(error.args[0] if error.args else error).removesuffix(".")
