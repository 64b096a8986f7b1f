"""One end of a call in a process of its own, to be put into a network, or measured.

`python -m tests.call_end call|answer URL [OPTIONS]`: a call between the peers `caller` and `callee` of the
broker at URL. The caller sends a picture that moves and has the time in it; the callee takes it, and prints a
JSON object a second. Both end with the call, which the caller ends after `--seconds`. With `--stock`, aiortc
does it alone, and the descriptions go by stdin and stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.contrib.media import MediaPlayer, MediaRecorder
from aiortc.mediastreams import MediaStreamError

from peercli import MediaConnection, MediaStream, Peer
from tests.tracks import Stamped, Tone, age

__all__ = ["main"]

WITHIN = 30.0  # s until there is a call


class Screen:
    """Takes pictures as they come, and tells of them."""

    def __init__(self, call: MediaConnection | None, width: int) -> None:
        self._call = call
        self._width = width
        self._frames = 0
        self._ages: list[float] = []
        self._longest = 0.0
        self._last = time.monotonic()

    async def watch(self, track: MediaStreamTrack) -> None:
        """Take what comes until it ends."""
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            now = time.monotonic()
            self._longest = max(self._longest, now - self._last)
            self._last = now
            self._frames += 1
            self._ages.append(age(frame, self._width))

    async def report(self) -> None:
        """Print what came in each second, for ever."""
        while True:
            await asyncio.sleep(1)
            self._longest = max(self._longest, time.monotonic() - self._last)
            facts: dict[str, Any] = {
                "frames": self._frames,
                "age": round(statistics.median(self._ages), 3) if self._ages else None,
                "longest_wait": round(self._longest, 3),
            }
            if self._call is not None and (flow := self._call.stats().video_received):
                facts |= asdict(flow)
            say(facts)
            self._frames, self._ages, self._longest = 0, [], 0.0


async def listen(track: MediaStreamTrack) -> None:
    """Take sound until it ends."""
    try:
        while True:
            await track.recv()
    except MediaStreamError:
        pass


def say(facts: dict[str, Any]) -> None:
    """Print a line."""
    print(json.dumps(facts), flush=True)


def width_of(options: argparse.Namespace) -> int:
    """Of what the caller sends."""
    return int(options.size.split("x")[0])


def to_send(options: argparse.Namespace) -> MediaStream:
    """What the caller sends."""
    width, height = map(int, options.size.split("x"))
    return MediaStream(Tone(), Stamped(width, height))


async def take(stream: MediaStream, call: MediaConnection | None, width: int) -> None:
    """Take a stream until it ends, and print what there is to tell of it."""
    assert stream.audio is not None
    assert stream.video is not None
    screen = Screen(call, width)
    reporting = asyncio.create_task(screen.report())
    await asyncio.gather(screen.watch(stream.video), listen(stream.audio))
    reporting.cancel()


async def ours(options: argparse.Namespace) -> None:
    """A call of the library's."""
    calls = options.role == "call"
    id = "caller" if calls else "callee"
    async with Peer(id, server=options.url, ice_servers=(), take_calls=not calls) as peer:
        if calls:
            call = await peer.call(
                "callee", to_send(options), video_codec=options.codec, bitrate=options.bitrate, timeout=WITHIN
            )
            await send_for(options.seconds, call.local_stream.video)
            await call.close()
        else:
            say({"listening": id})
            call = await peer.accept_call()
            call.answer()
            await call.opened()
            await take(call.remote_stream, call, width_of(options))
            await call.closed()


async def stock(options: argparse.Namespace) -> None:
    """The same by aiortc alone."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    tracks: dict[str, MediaStreamTrack] = {}
    pc.on("track", lambda track: tracks.update({track.kind: track}))
    if options.role == "call":
        stream = played(options) if options.player else to_send(options)
        for track in stream.tracks:
            pc.addTrack(track)
        await pc.setLocalDescription()
        say({"sdp": pc.localDescription.sdp})
        await pc.setRemoteDescription(await described("answer"))
        await send_for(options.seconds, stream.video)
    else:
        await pc.setRemoteDescription(await described("offer"))
        await pc.setLocalDescription()
        say({"sdp": pc.localDescription.sdp})
        stream = MediaStream(tracks["audio"], tracks["video"])
        if options.record:
            await record(stream, options.record)
        else:
            await take(stream, None, width_of(options))
    await pc.close()


def played(options: argparse.Namespace) -> MediaStream:
    """What aiortc's own player sends."""
    picture = MediaPlayer(f"testsrc2=size={options.size}:rate=30", format="lavfi")
    sound = MediaPlayer("sine=frequency=440:sample_rate=48000", format="lavfi")
    return MediaStream(sound.audio, picture.video)


async def record(stream: MediaStream, path: str) -> None:
    """Let aiortc's own recorder take the picture until it ends; beside a sound, it would leave it out."""
    assert stream.audio is not None
    assert stream.video is not None
    recorder = MediaRecorder(path)
    recorder.addTrack(stream.video)
    await recorder.start()
    await listen(stream.audio)
    await recorder.stop()


async def send_for(seconds: float, track: MediaStreamTrack | None) -> None:
    """Let a track be sent for so long, and print how many frames a second it gave."""
    await asyncio.sleep(seconds)
    if isinstance(track, Stamped):
        say({"sent": track.rate})


async def described(kind: str) -> RTCSessionDescription:
    """The far side's description, from stdin."""
    line = await asyncio.to_thread(sys.stdin.readline)
    return RTCSessionDescription(json.loads(line)["sdp"], kind)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("call", "answer"))
    parser.add_argument("url", nargs="?")
    parser.add_argument("--stock", action="store_true")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--codec", choices=("vp8", "h264"))
    parser.add_argument("--bitrate", type=int)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--player", action="store_true", help="with --stock: send by aiortc's own player")
    parser.add_argument("--record", metavar="FILE", help="with --stock: take by aiortc's own recorder")
    options = parser.parse_args(arguments)
    asyncio.run(stock(options) if options.stock else ours(options))


if __name__ == "__main__":
    main()
