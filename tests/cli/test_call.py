"""peercli call, both ends of it real processes: what is seen and heard at one end was sent at the other."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pexpect
import pytest
from av.error import FFmpegError

from peercli.rtc.pattern import TONE_AMPLITUDE, TONE_PITCH
from tests.cli.shell import DEVNULL, Done, Shell, fresh
from tests.clips import Recording, loudness, make_clip, make_flashes, make_tone, similarity
from tests.commands import Command
from tests.schema import check

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


@pytest.mark.timeout(SYNC_SECONDS * 2 + 120)
async def test_sound_and_picture_stay_in_step(shell: Shell, tmp_path: Path) -> None:
    """A flash and a beep at each second come together, from the first one to the last."""
    clip = make_flashes(tmp_path / "flashes.mkv", SYNC_SECONDS)
    out = tmp_path / "out.mp4"
    async with waiting(shell, "--record", str(out)) as (name, callee):
        async with shell.peercli("call", name, "--file", str(clip), stdout=DEVNULL) as caller:
            async with asyncio.timeout(SYNC_SECONDS + 60):
                assert await caller.process.wait() == 0
        assert await callee.exit_code() == 0, callee.stderr
    pairs = Recording.read(out).beeps_and_flashes()
    assert len(pairs) >= SYNC_SECONDS - 1
    assert [pair for pair in pairs if abs(pair[0] - pair[1]) > SYNC] == []


async def test_a_conversation_is_recorded(shell: Shell, tmp_path: Path) -> None:
    """Both sides are heard in it, each at its level."""
    own, out = make_tone(tmp_path / "own.wav", 1000, 4), tmp_path / "out.mkv"
    recording = ("--audio", str(own), "--record", str(out), "--record-own")
    async with waiting(shell, *recording) as (name, callee):
        caller = await shell.run("call", name, "--video", "none", "--audio", "test", input=None)
        assert (caller.code, await callee.exit_code()) == (0, 0), (caller.err, callee.stderr)
    heard = Recording.read(out)
    assert heard.codecs == {"audio": "opus"}
    assert len(heard.samples) > 3 * RATE
    tenths = [heard.samples[at : at + RATE // 10] for at in range(0, len(heard.samples), RATE // 10)]
    levels = [[loudness(tenth, pitch) for pitch in (TONE_PITCH, 1000)] for tenth in tenths]
    as_said = pytest.approx([TONE_AMPLITUDE] * 2, rel=0.1)
    # A busy machine begins late, and cuts some sound out.
    assert sum(both == as_said for both in levels) > 5, levels


async def test_what_was_recorded_outlives_kill(shell: Shell, tmp_path: Path) -> None:
    """kill -9: what was written until then can be played."""
    outs = [tmp_path / f"out.{ending}" for ending in ("mkv", "ts", "mp4")]
    await asyncio.gather(*(_record_and_kill(shell, out) for out in outs))
    for out in outs:
        marks = Recording.read(out).marks
        assert None not in marks[:20], out


async def _record_and_kill(shell: Shell, out: Path) -> None:
    """Ends the one who records as soon as there is a second of sound, and of pictures, to be played."""
    async with waiting(shell, "--record", str(out)) as (name, callee):
        arguments = ("call", name, "--video", "test", "--audio", "test", "--size", "160x120")
        async with shell.peercli(*arguments, stdout=DEVNULL) as caller:
            await asyncio.to_thread(_wait_for_a_second, out)
            callee.kill()
            await caller.process.wait()


def _wait_for_a_second(out: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(FFmpegError):  # there is no file yet, or nothing in it
            recording = Recording.read(out)
            if len(recording.pictures) > 30 and len(recording.samples) > RATE:
                return
        time.sleep(0.5)
    raise AssertionError(f"there is not a second to be played in {out}")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--file", "/nowhere/clip.mp4"), "/nowhere/clip.mp4 cannot be played: no such file"),
        (("--file", __file__), "neither audio nor video"),
        (("--video", "camera:/dev/video-none"), "the camera /dev/video-none cannot be opened"),
        (("--video", "screen"), "DISPLAY is not set"),
        (("--video", "mic"), "video cannot come from mic"),
        (("--video", "test", "--record", "/nowhere/out.mp4"), "/nowhere/out.mp4 cannot be written"),
        (("--video", "test", "--record", "out.xyz"), "tells no container"),
        (("--video", "test", "--size", "big"), "is no size"),
        (("--audio", "test", "--record-own"), "needs a recording"),
        (("--video", "test", "--view"), "needs a terminal"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
async def test_what_is_missing_is_said_before_anybody_is_rung(
    shell: Shell, options: tuple[str, ...], said: str
) -> None:
    done = await shell.run("call", "nobody-who-would-hear", *options, env={"DISPLAY": ""})
    assert (done.code, done.out) == (2, b""), done.err
    assert said in done.err
    assert "Calling" not in done.err


async def test_into_a_pipe_and_out_of_one(shell: Shell, tmp_path: Path) -> None:
    """MPEG-TS on stdin becomes Matroska on stdout; nothing else does."""
    clip, name = make_clip(tmp_path / "clip.ts", seconds=3, size=(160, 120)), fresh("callee")
    out = tmp_path / "out.mkv"
    receiving = f"peercli call --id {name} --video none --record - --json | cat >{out}"
    async with shell.script(f"set -o pipefail; {receiving}") as receiver:
        await receiver.says('"open"')
        sent = await shell.run_script(f"cat {clip} | peercli call {name} --file -")
        assert sent.code == 0, sent.err
        assert await receiver.exit_code() == 0, receiver.stderr
    recording = Recording.read(out)
    assert recording.codecs == {"video": "h264", "audio": "opus"}
    assert len(recording.pictures) > 80
    check(receiver.stderr)
    events = [json.loads(line)["event"] for line in receiver.stderr.splitlines()]
    assert {"open", "call", "answered", "route", "stats", "recorded", "close"} <= set(events)


async def test_nobody_reads_the_recording(shell: Shell) -> None:
    """The end of the pipeline is the end of the call."""
    name = fresh("callee")
    async with shell.script(
        f"peercli call --id {name} --video none --record - | head -c 1000 >/dev/null; exit ${{PIPESTATUS[0]}}"
    ) as receiver:
        await receiver.says(f"Listening as {name}")
        sent = await shell.run("call", name, "--video", "test", "--size", "160x120", input=None)
        assert sent.code == 0, sent.err
        assert await receiver.exit_code() == 141, receiver.stderr


async def test_ctrl_c_hangs_up(shell: Shell) -> None:
    """The far side ends well, and at once."""
    async with waiting(shell) as (name, callee):
        async with shell.peercli("call", name, "--audio", "test") as caller:
            await caller.says("In a call with")
            await callee.says("In a call with")  # which on that side may come a little later
            caller.process.send_signal(signal.SIGINT)
            assert await callee.exit_code() == 0, callee.stderr
            assert await caller.exit_code() == 130
        assert "has ended" in callee.stderr


async def test_listen_answers_many_with_one_source(shell: Shell, tmp_path: Path) -> None:
    """Two callers see the same pictures, and each is recorded."""
    name, ours = fresh("listener"), tmp_path / "theirs.mkv"
    options = ("--video", "test", "--size", "160x120", "--record", str(ours))
    async with shell.peercli("listen", "--id", name, "--answer", *options) as listener:
        await listener.says(f"Listening as {name}")
        outs = [tmp_path / "one.mkv", tmp_path / "two.mkv"]
        calling = ("call", name, "--audio", "test", "--duration", "3", "--record")
        done = await asyncio.gather(*(shell.run(*calling, str(out), input=None) for out in outs))
        assert [one.code for one in done] == [0, 0], [one.err for one in done]
    assert "Recorded" in listener.stderr
    one, two = ({mark for mark in Recording.read(out).marks if mark} for out in outs)
    assert len(one & two) > 20
    for recording in (ours, ours.with_name("theirs-2.mkv")):
        assert len(Recording.read(recording).samples) > RATE


async def test_listen_declines_without_answer(shell: Shell) -> None:
    name = fresh("listener")
    async with shell.peercli("listen", "--id", name) as listener:
        await listener.says(f"Listening as {name}")
        done = await shell.run("call", name, "--audio", "test")
        assert done.code == 8, done.err


async def test_asks_and_shows_at_a_terminal(shell: Shell) -> None:
    """Nobody is asked for longer than it rings; a no is a decline; after a yes the picture is drawn, with the
    numbers below it."""
    name = fresh("callee")
    arguments = ["-m", "peercli", "call", "--id", name, "--video", "none", "--view"]
    environment = shell.env | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LANG": "C.UTF-8"}
    child: pexpect.spawn[str] = pexpect.spawn(
        sys.executable, arguments, env=environment, encoding="utf-8", timeout=30, dimensions=(24, 80)
    )
    try:
        await asyncio.to_thread(child.expect, f"Listening as {name}")
        gives_up = asyncio.create_task(
            shell.run("call", name, "--video", "test", "--timeout", "4", input=None)
        )
        await asyncio.to_thread(child.expect, "Answer?")
        await asyncio.to_thread(child.expect, "\n.*has ended")
        assert (await gives_up).code == 124
        for word, code in (("n", 8), ("y", 0)):
            calling = ("call", name, "--video", "test", "--metadata", '"hi"', "--duration", "4")
            caller = asyncio.create_task(shell.run(*calling, input=None))
            await asyncio.to_thread(child.expect, r"\(hi\) is calling")
            await asyncio.to_thread(child.expect, "Answer?")
            child.sendline(word)
            if word == "y":
                await asyncio.to_thread(child.expect, "38;2;.*▀")
                await asyncio.to_thread(child.expect, r"VP8 640x480 \d+fps")
                await asyncio.to_thread(child.expect_exact, "\x1b[?1049l")
            done = await caller
            assert done.code == code, done.err
        await asyncio.to_thread(child.expect, pexpect.EOF)
    finally:
        child.close(force=True)
    assert child.exitstatus == 0
