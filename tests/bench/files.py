"""send-file beside magic-wormhole: `python -m tests.bench.files`.

Wall time of the whole command pair, from the start of the receiver, which comes first, to the end of
both; with its peak memory and CPU. One big file, and a tree of many small ones; rounds take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import filecmp
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import IO, TypeVar

from tests.bench.wormhole import Wormhole, wormhole
from tests.brokers import our_server

T = TypeVar("T")

PEERCLI = (sys.executable, "-m", "peercli")


@dataclass(frozen=True)
class Run:
    """One transfer: seconds in all; MiB at most and CPU seconds of the sender and the receiver."""

    seconds: float
    memory: tuple[float, float]
    cpu: tuple[float, float]


def timed(
    receive: Sequence[str], send: Sequence[str], folder: Path, *, stdin: IO[bytes] | int = DEVNULL
) -> Run:
    """Run both commands in `folder`, the receiver first, the sender with `stdin`."""
    folder.mkdir()
    started = time.perf_counter()
    processes = [
        subprocess.Popen(command, cwd=folder, stdin=given, stdout=DEVNULL, stderr=DEVNULL)
        for command, given in ((receive, DEVNULL), (send, stdin))
    ]
    usages = []
    for process in processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, process.args
        usages.append(usage)
    seconds = time.perf_counter() - started
    receiver, sender = usages
    return Run(
        seconds,
        (sender.ru_maxrss / 1024, receiver.ru_maxrss / 1024),
        (sender.ru_utime + sender.ru_stime, receiver.ru_utime + receiver.ru_stime),
    )


def by_peercli(broker: str, source: Path, folder: Path) -> Run:
    """`receive-file` and `send-file`."""
    shared = ("--server", broker, "--ice", "none", "-q")
    receive = (*PEERCLI, "receive-file", "--id", "bench-box", "--save-dir", "in", *shared)
    run = timed(receive, (*PEERCLI, "send-file", "bench-box", str(source), *shared), folder)
    _check(source, folder / "in" / source.name)
    return run


def by_wormhole(servers: Wormhole, source: Path, folder: Path) -> Run:
    """`wormhole receive` and `wormhole send`."""
    code = f"{os.getpid()}-bench-{folder.name}"
    receive = servers.command("receive", "--accept-file", "--hide-progress", code)
    send = servers.command("send", "--hide-progress", "--code", code, str(source))
    run = timed(receive, send, folder)
    _check(source, folder / source.name)
    return run


def _check(source: Path, copy: Path) -> None:
    if source.is_file():
        assert filecmp.cmp(source, copy, shallow=False)
        return
    names = [str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()]
    _, mismatch, errors = filecmp.cmpfiles(source, copy, names, shallow=False)
    assert not mismatch
    assert not errors


def _make_big(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(1_000_000))


def _make_tree(path: Path, files: int) -> None:
    for number in range(files):
        folder = path / f"{number // 200}"
        if number % 200 == 0:
            folder.mkdir(parents=True)
        (folder / f"{number}.dat").write_bytes(os.urandom(200 + number % 4000))


def _print(what: str, program: str, runs: Sequence[Run], beside: Sequence[Run] | None) -> None:
    seconds = sorted(run.seconds for run in runs)
    ratio = ""
    if beside:
        ratios = [run.seconds / other.seconds for run, other in zip(runs, beside, strict=True)]
        ratio = f"  {statistics.median(ratios):.2f} of wormhole's ({min(ratios):.2f} to {max(ratios):.2f})"
    memory = max(run.memory[0] for run in runs), max(run.memory[1] for run in runs)
    cpu = statistics.median(run.cpu[0] for run in runs), statistics.median(run.cpu[1] for run in runs)
    print(
        f"{what:22} {program:10} {statistics.median(seconds):7.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f})"
        f"  {memory[0]:.0f}/{memory[1]:.0f} MiB  {cpu[0]:.1f}/{cpu[1]:.1f} s CPU{ratio}"
    )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--alone", action="store_true", help="without magic-wormhole")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="peercli-bench-") as name:
        base = Path(name)
        _make_big(base / "big", options.megabytes)
        _make_tree(base / "tree", options.files)
        async with our_server() as broker:
            await asyncio.to_thread(_compare, base, broker, options)


def _compare(base: Path, broker: str, options: argparse.Namespace) -> None:
    sources = {f"{options.megabytes} MB file": base / "big", f"{options.files} small files": base / "tree"}
    with nullcontext() if options.alone else wormhole() as servers:
        for what, source in sources.items():
            ours, theirs = [], []
            for number in range(options.rounds):
                ours.append(_once(by_peercli, broker, source, base / f"{source.name}-{number}-ours"))
                if servers is not None:
                    folder = base / f"{source.name}-{number}-theirs"
                    theirs.append(_once(by_wormhole, servers, source, folder))
            _print(what, "peercli", ours, theirs)
            if theirs:
                _print(what, "wormhole", theirs, None)


def _once(run: Callable[[T, Path, Path], Run], servers: T, source: Path, folder: Path) -> Run:
    """Small files stay until the end: ext4 goes around what was deleted lately, file by file, for minutes."""
    try:
        return run(servers, source, folder)
    finally:
        if source.is_file():
            shutil.rmtree(folder)


if __name__ == "__main__":
    asyncio.run(main())
