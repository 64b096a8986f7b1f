"""peercli call, both ends of it real processes: what is seen and heard at one end was sent at the other."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from peercli.rtc.pattern import TONE_AMPLITUDE, TONE_PITCH
from tests.cli.shell import Done, Shell, fresh
from tests.clips import Recording, loudness, make_clip, similarity
from tests.commands import Command

RATE = 48_000  # samples/s
SYNC = 0.060  # s that sound and picture may be apart
SYNC_SECONDS = int(os.environ.get("PEERCLI_TEST_SYNC_SECONDS", "6"))  # by hand: 600


@asynccontextmanager
async def waiting(shell: Shell, *arguments: str) -> AsyncIterator[tuple[str, Command]]:
    """Somebody who answers, and sends nothing unless told to."""
    name = fresh("callee")
    options = arguments if "--video" in arguments else ("--video", "none", *arguments)
    async with shell.peercli("call", "--id", name, *options) as command:
        await command.says(f"Listening as {name}")
        yield name, command


async def recorded(shell: Shell, out: Path, *arguments: str) -> tuple[Done, Command]:
    """Call with `arguments` somebody who records to `out`, until the end."""
    async with waiting(shell, "--record", str(out)) as (name, callee):
        caller = await shell.run("call", name, *arguments, input=None)
        assert await callee.exit_code() == 0, callee.stderr
        return caller, callee


@pytest.mark.timeout(180)
async def test_a_clip_arrives_as_it_was(shell: Shell, tmp_path: Path) -> None:
    """720p: the pictures that were sent, each once and well to be seen; the tone at its pitch and level.

    Few of them, so that a busy machine can code them all.
    """
    clip = make_clip(tmp_path / "clip.mkv", seconds=5, size=(1280, 720), fps=5)
    out = tmp_path / "out.mkv"
    caller, _ = await recorded(shell, out, "--file", str(clip), "--bitrate", "6M")
    assert caller.code == 0, caller.err
    sent, got = Recording.read(clip), Recording.read(out)

    numbers = [mark.counter for mark in got.marks if mark is not None]
    assert len(numbers) == len(got.pictures)
    assert numbers == sorted(set(numbers))
    # The very last picture stays in aiortc's jitter buffer, which waits for the next one.
    assert len(sent.pictures) - len(numbers) <= 0.02 * len(sent.pictures) + 1, numbers
    originals = [sent.pictures[number][1] for number in numbers]
    alike = similarity(originals, [frame for _, frame in got.pictures])
    assert sum(alike) / len(alike) >= 0.95
    assert min(alike) > 0.85

    assert 4.8 <= len(got.samples) / RATE <= 5.2
    middle = got.samples[2 * RATE : 3 * RATE]
    assert loudness(middle, TONE_PITCH) == pytest.approx(TONE_AMPLITUDE, rel=0.1)
    assert loudness(middle, TONE_PITCH * 1.03) < TONE_AMPLITUDE / 20
