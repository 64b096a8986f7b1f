"""A call for some seconds, beside aiortc's own doing the same: `python -m tests.bench calls`.

Two processes on this machine. In the first two rows they send pictures that have the time in them, and take
them without keeping them; in the others they send a test picture and record what comes. The age of a frame is
from when it is given to be encoded until it is there, decoded. The processor's share is that of one core, of
the whole process from its start to its end, with the making of the picture.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import av

__all__ = ["main"]

SIZES = ("640x480", "1280x720")
WITHIN = 60.0  # s; a call that takes longer to end has failed
TEST = ("--video", "test", "--audio", "test")


@dataclass(frozen=True, slots=True)
class Result:
    """What was measured: of frames a second, seconds, and a processor's share."""

    sent: float | None
    came: float
    age: float | None
    sending: float
    receiving: float

    def __str__(self) -> str:
        sent = f"{self.sent:.1f}" if self.sent is not None else ""
        age = f"{self.age * 1000:.0f}" if self.age is not None else ""
        return f"{sent:>6} | {self.came:5.1f} | {age:>7} | {self.sending:7.0%} | {self.receiving:7.0%}"


class Process:
    """A process whose lines and whose processor time are wanted."""

    def __init__(self, *command: str) -> None:
        self.started = time.monotonic()
        self.child = subprocess.Popen(
            (sys.executable, "-m", *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> dict[str, Any]:
        """The next line."""
        assert self.child.stdout
        facts: dict[str, Any] = json.loads(self.child.stdout.readline())
        return facts

    def tell(self, facts: dict[str, Any]) -> None:
        """Give it a line."""
        assert self.child.stdin
        self.child.stdin.write(json.dumps(facts) + "\n")
        self.child.stdin.flush()

    def until(self, event: str) -> None:
        """Read on to an event of peercli's."""
        while self.line()["event"] != event:
            pass

    def end(self) -> tuple[list[dict[str, Any]], float]:
        """Its other lines, and the processor's share that it took."""
        assert self.child.stdout
        assert self.child.stdin
        lines = [json.loads(line) for line in self.child.stdout]
        _, status, used = os.wait4(self.child.pid, 0)
        self.child.returncode = os.waitstatus_to_exitcode(status)
        if self.child.returncode:
            raise RuntimeError(f"a process ended with {self.child.returncode}")
        for pipe in (self.child.stdin, self.child.stdout):
            pipe.close()
        return lines, (used.ru_utime + used.ru_stime) / (time.monotonic() - self.started)


def transported(url: str, size: str, seconds: float, *, stock: bool) -> Result:
    """Pictures with the time in them, that nobody keeps."""
    options = ("--size", size, "--seconds", str(seconds), *(["--stock"] if stock else []))
    callee = Process("tests.call_end", "answer", url, *options)
    if not stock:
        callee.line()
    caller = Process("tests.call_end", "call", url, *options)
    if stock:
        callee.tell(caller.line())
        caller.tell(callee.line())
    return _watched(caller, callee)


def _watched(caller: Process, callee: Process) -> Result:
    (sent, *_), sending = caller.end()
    lines, receiving = callee.end()
    whole = [line for line in lines if "frames" in line][1:]  # in the first second there is the set-up
    return Result(
        sent["sent"],
        statistics.median(line["frames"] for line in whole),
        statistics.median(line["age"] for line in whole if line["age"] is not None),
        sending,
        receiving,
    )


def by_command(url: str, size: str, seconds: float, record: str) -> Result:
    """`peercli call` to `peercli call --record`."""
    common = ("--server", url, "--ice", "none", "--json")
    nothing = ("--video", "none", "--audio", "none")
    callee = Process("peercli", "call", "--id", "callee", *nothing, "--record", record, *common)
    callee.until("open")
    caller = Process("peercli", "call", "callee", *TEST, "--size", size, "--duration", str(seconds), *common)
    return _recorded(caller, callee, record)


def by_player(url: str, size: str, seconds: float, record: str) -> Result:
    """aiortc's MediaPlayer to aiortc's MediaRecorder."""
    options = ("--size", size, "--seconds", str(seconds), "--stock")
    callee = Process("tests.call_end", "answer", url, "--record", record, *options)
    caller = Process("tests.call_end", "call", url, "--player", *options)
    callee.tell(caller.line())
    caller.tell(callee.line())
    return _recorded(caller, callee, record)


def _recorded(caller: Process, callee: Process, record: str) -> Result:
    _, sending = caller.end()
    _, receiving = callee.end()
    return Result(None, frames_a_second(record), None, sending, receiving)


def frames_a_second(path: str) -> float:
    """Of the pictures in a file."""
    with av.open(path) as file:
        times = [float(frame.time or 0) for frame in file.decode(video=0)]
    return (len(times) - 1) / (times[-1] - times[0])


@contextmanager
def broker() -> Iterator[str]:
    """A broker, in a process of its own."""
    command = (sys.executable, "-m", "peercli", "server", "--port", "0")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr
            yield server.stderr.readline().split()[-1]
        finally:
            server.terminate()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--size", action="append", help=f"by default {' and '.join(SIZES)}")
    options = parser.parse_args(arguments)
    with broker() as url, tempfile.TemporaryDirectory() as folder:
        for size in options.size or SIZES:
            print(f"{size}, 30 frames a second")
            print(f"{'':38} |   sent |  came | age, ms | sending | receiving")
            seconds = options.seconds
            rows: dict[str, Callable[[], Result]] = {
                "peercli, the library": partial(transported, url, size, seconds, stock=False),
                "aiortc": partial(transported, url, size, seconds, stock=True),
                "peercli call, recorded": partial(
                    by_command, url, size, seconds, f"{folder}/ours-{size}.mp4"
                ),
                "aiortc's MediaPlayer, MediaRecorder": partial(
                    by_player, url, size, seconds, f"{folder}/stock-{size}.mp4"
                ),
            }
            for name, measure in rows.items():
                print(f"{name:38} | {measure()}", flush=True)


if __name__ == "__main__":
    main()
