"""How fast one reliable, ordered channel is: `python -m tests.bench loopback`.

Two processes (two tabs) on this machine, messages of 64 KB. Rounds take turns, each with processes of its
own that are warm when the clock starts. Whole commands count from the start of the receiver to the end of
both, start-up and all. Only figures of one run compare: machines drift.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.bench.files import PEERCLI, Run, by_peercli, by_wormhole, timed
from tests.bench.pairs import PAIRS
from tests.bench.wormhole import wormhole
from tests.brokers import our_server
from tests.interop.stacks.stack import MESSAGE

__all__ = ["main"]

BESIDE = "aiortc"  # what ratios are to


@dataclass(frozen=True)
class Figure:
    """Bytes a second, and CPU seconds for 1e9 bytes of the sender and the receiver, if known."""

    rate: float
    cpu: tuple[float, float] | None = None


async def measure(name: str, seconds: float) -> Figure:
    """One round of one of PAIRS, for about so long."""
    async with PAIRS[name]() as pair:
        rate = await pair.warm_up()
        size = max(round(rate * seconds / MESSAGE), 16) * MESSAGE
        before = pair.cpu()
        took = await pair.transfer(size)
        after = pair.cpu()
    cpu = None
    if before and after:
        cpu = (after[0] - before[0]) / size * 1e9, (after[1] - before[1]) / size * 1e9
    return Figure(size / took, cpu)


def by_pipe(broker: str, source: Path, folder: Path) -> Run:
    """A pair of `peercli pipe`."""
    shared = ("--server", broker, "--ice", "none", "-q")
    receive = (*PEERCLI, "pipe", "--id", "bench-pipe", "--recv-only", *shared)
    with source.open("rb") as file:
        return timed(receive, (*PEERCLI, "pipe", "bench-pipe", "--send-only", *shared), folder, stdin=file)


def _whole(run: Callable[[Path, Path], Run], source: Path) -> Figure:
    """One round of a pair of commands."""
    size = source.stat().st_size
    with tempfile.TemporaryDirectory(dir=source.parent) as folder:
        done = run(source, Path(folder) / "run")
    return Figure(size / done.seconds, (done.cpu[0] / size * 1e9, done.cpu[1] / size * 1e9))


def table(figures: dict[str, list[Figure]]) -> None:
    """Print medians and ranges, and ratios to BESIDE's median."""
    print(f"{'':24} {'MB/s':>7}  {'range':13} {'× ' + BESIDE:>9}  CPU s/GB, sender and receiver")
    beside = statistics.median(f.rate for f in figures[BESIDE]) if figures.get(BESIDE) else None
    for name, measured in figures.items():
        if not measured:
            continue
        rates = sorted(figure.rate / 1e6 for figure in measured)
        median = statistics.median(rates)
        ratio = f"{median * 1e6 / beside:9.1f}" if beside else " " * 9
        costs = [figure.cpu for figure in measured if figure.cpu]
        cpu = ""
        if costs:
            cpu = "  ".join(f"{statistics.median(side):5.2f}" for side in zip(*costs, strict=True))
        print(f"{name:24} {median:7.1f}  {f'{rates[0]:.1f} to {rates[-1]:.1f}':13} {ratio}  {cpu}")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(PAIRS)}; commands")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--megabytes", type=int, default=500, help="that whole commands carry")
    options = parser.parse_args()
    names = options.names or [*PAIRS, "commands"]
    figures: dict[str, list[Figure]] = {}
    with ExitStack() as opened:
        commands: dict[str, Callable[[Path, Path], Run]] = {}
        source = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="peercli-bench-"))) / "data"
        if "commands" in names:
            names.remove("commands")
            with source.open("wb") as file:
                for _ in range(options.megabytes):
                    file.write(os.urandom(1_000_000))
            try:
                servers = opened.enter_context(wormhole())
                commands["magic-wormhole"] = lambda source, folder: by_wormhole(servers, source, folder)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"magic-wormhole is left out: {error}")
        async with our_server() as broker:
            if source.exists():
                commands["peercli pipe"] = lambda source, folder: by_pipe(broker, source, folder)
                commands["peercli send-file"] = lambda source, folder: by_peercli(broker, source, folder)
            for _ in range(options.rounds):
                for name in list(names):
                    try:
                        figures.setdefault(name, []).append(await measure(name, options.seconds))
                    except (AssertionError, ExceptionGroup, pytest.skip.Exception) as error:
                        print(f"{name}: a round is missing: {error!r}")
                for name, run in commands.items():
                    figure = await asyncio.to_thread(_whole, run, source)
                    figures.setdefault(name, []).append(figure)
    table(figures)


if __name__ == "__main__":
    asyncio.run(main())
