"""Microphone, speaker and screen without hardware: PulseAudio's null sink and its monitor, and Xvfb."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from peercli.rtc.pattern import TONE_PITCH
from tests import tools
from tests.cli.shell import Shell, fresh
from tests.clips import Recording, loudness

RATE = 48_000  # samples/s
TO_PULSE = "pcm.!default pulse\nctl.!default pulse\n"


@asynccontextmanager
async def pulseaudio(folder: Path) -> AsyncIterator[dict[str, str]]:
    """A sound system whose microphone hears what its speaker plays, as the environment that leads there."""
    home, socket = folder / "home", folder / "pulse.sock"
    home.mkdir()
    (home / ".asoundrc").write_text(TO_PULSE)
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PULSE_SERVER": f"unix:{socket}"}
    server = await asyncio.create_subprocess_exec(
        tools.program("pulseaudio"),
        *("--daemonize=no", "--exit-idle-time=-1", "--use-pid-file=no", "-n"),
        *("-L", f"module-native-protocol-unix socket={socket} auth-anonymous=1"),
        *("-L", "module-null-sink sink_name=nothing"),
        env=os.environ | environment,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _until(socket.exists)
        pactl = [tools.program("pactl"), "set-default-source", "nothing.monitor"]
        setting = await asyncio.create_subprocess_exec(*pactl, env=os.environ | environment)
        assert await setting.wait() == 0
        yield environment
    finally:
        server.terminate()
        await server.wait()


@asynccontextmanager
async def xvfb() -> AsyncIterator[str]:
    """A screen of 320×240 that nobody sees, by its name."""
    reading, writing = os.pipe()
    server = await asyncio.create_subprocess_exec(
        tools.program("Xvfb"),
        *("-displayfd", str(writing), "-screen", "0", "320x240x24", "-nolisten", "tcp", "-noreset"),
        pass_fds=[writing],
        stderr=asyncio.subprocess.DEVNULL,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as said:
            number = (await asyncio.to_thread(said.readline)).strip()
        assert number, "Xvfb did not start"
        yield f":{number}"
    finally:
        server.terminate()
        await server.wait()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  nothing tells when a file is there
            await asyncio.sleep(0.05)


@pytest.mark.timeout(150)
async def test_the_microphone_hears_what_the_speaker_plays(shell: Shell, tmp_path: Path) -> None:
    """The tone that is sent is played there, heard there, sent back, and recorded here."""
    name, out = fresh("callee"), tmp_path / "echo.wav"
    async with (
        pulseaudio(tmp_path) as environment,
        shell.peercli(
            "call", "--id", name, "--video", "none", "--audio", "mic", "--play", env=environment
        ) as callee,
    ):
        await callee.says(f"Listening as {name}")
        arguments = ("call", name, "--audio", "test", "--record", str(out), "--duration", "5")
        done = await shell.run(*arguments, input=None)
        assert done.code == 0, done.err
        assert await callee.exit_code() == 0, callee.stderr
        listed = await shell.run("call", "--list-devices", env=environment)
        assert listed.code == 0, listed.err
        assert {"mic\tdefault", "speaker\tdefault"} <= {
            line.rpartition("\t")[0] for line in listed.out.decode().splitlines()
        }
    samples = Recording.read(out).samples
    heard = [
        (loudness(second, TONE_PITCH), loudness(second, TONE_PITCH * 1.1))
        for start in range(0, len(samples) - RATE, RATE // 2)
        if (second := samples[start : start + RATE])
    ]
    tone, other = max(heard)
    assert tone > 0.1
    assert other < tone / 5


async def test_no_sound_system(shell: Shell, tmp_path: Path) -> None:
    """Said before anybody is rung; on a machine with a sound card, too."""
    (tmp_path / ".asoundrc").write_text(TO_PULSE)
    environment = {
        "HOME": str(tmp_path),
        "PULSE_SERVER": f"unix:{tmp_path}/none",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    for options, said in ((("--audio", "mic"), "mic"), (("--video", "test", "--play"), "speaker")):
        done = await shell.run("call", "nobody-who-would-hear", *options, env=environment)
        assert done.code == 2, done.err
        assert said in done.err
        assert "Calling" not in done.err


@pytest.mark.timeout(150)
async def test_the_screen_is_seen(shell: Shell, tmp_path: Path) -> None:
    """Its colour is the colour of the recording."""
    name, out = fresh("callee"), tmp_path / "screen.mkv"
    async with (
        xvfb() as display,
        shell.peercli("call", "--id", name, "--video", "none", "--record", str(out)) as callee,
    ):
        await callee.says(f"Listening as {name}")
        root = await asyncio.create_subprocess_exec(
            tools.program("xsetroot"), "-display", display, "-solid", "#20c020"
        )
        assert await root.wait() == 0
        arguments = ("call", name, "--video", "screen", "--duration", "3")
        done = await shell.run(*arguments, input=None, env={"DISPLAY": display})
        assert done.code == 0, done.err
        assert await callee.exit_code() == 0, callee.stderr
    pictures = Recording.read(out).pictures
    assert len(pictures) > 10
    frame = pictures[-1][1].reformat(format="rgb24")
    assert (frame.width, frame.height) == (320, 240)
    plane = frame.planes[0]
    corner = 60 * plane.line_size + 80 * 3  # the pointer is in the middle
    red, green, blue = bytes(plane)[corner : corner + 3]
    assert green > 150
    assert max(red, blue) < 80
