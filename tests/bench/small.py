"""Small messages and waiting times: `python -m tests.bench small`.

For each stack, two processes on this machine: 100-byte messages a second; the time that one byte takes there
and back on a channel of its own, while nothing else goes on, and while another channel is kept busy with
64 KB messages. Rounds take turns, each with processes of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from dataclasses import dataclass, field

import pytest

from tests.bench.loopback import BESIDE
from tests.bench.pairs import PAIRS, StackPair

__all__ = ["main"]

LEFT_OUT = ("PeerJS", "werift")  # unless asked for: there is nobody to ask, and it takes minutes
SMALL = 100  # bytes
PINGS = 300
WARM = 2_000  # messages
RUNS_FOR = 2.0  # s, about, of small messages
BUSY_FOR = 2.0  # s, about, of load while pings go
LOAD = 50  # messages of 64 KB, sent again and again


async def small_messages(pair: StackPair) -> float:
    """100-byte messages a second."""
    count, seconds = WARM, 0.0
    while seconds < RUNS_FOR / 2:
        seconds = await pair.send(count, SMALL)
        count *= 2
    return count / 2 / seconds


async def round_trips(pair: StackPair, *, busy: bool) -> list[float]:
    """Seconds for one byte there and back."""
    number, came = await asyncio.gather(
        pair.sender.ask("open", label="ping", ordered=True), pair.receiver.ask("accepted")
    )
    await pair.receiver.ask("echo", channel=came["channel"])
    if not busy:
        times: list[float] = await pair.sender.ask("ping", channel=number, count=PINGS)
        return times
    load = asyncio.create_task(_load(pair))
    times = []
    while not load.done():
        times += await pair.sender.ask("ping", channel=number, count=5)
    await load
    return times


async def _load(pair: StackPair) -> None:
    until = time.monotonic() + BUSY_FOR
    while time.monotonic() < until:
        await pair.send(LOAD, 65_536)


@dataclass
class Figures:
    """Of one stack: messages a second, a figure a round; and the seconds of all round trips."""

    rates: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)

    async def measure(self, name: str) -> None:
        """One round, with processes of its own."""
        async with PAIRS[name]() as pair:
            assert isinstance(pair, StackPair)
            self.rates.append(await small_messages(pair))
            self.idle += await round_trips(pair, busy=False)
            self.busy += await round_trips(pair, busy=True)


def table(figures: dict[str, Figures]) -> None:
    """Print medians and ranges, and ratios to BESIDE's median."""
    print(f"{'':24} {'100 B a second':>15}  {'range':17} {'× ' + BESIDE:>9} {'idle ms':>14} {'busy ms':>14}")
    print(f"{'':69} {'50 / 95 of 100':>14} {'50 / 95 of 100':>14}")
    beside = figures.get(BESIDE)
    for name, measured in figures.items():
        if not measured.rates:
            continue
        median = statistics.median(measured.rates)
        ratio = f"{median / statistics.median(beside.rates):9.1f}" if beside and beside.rates else " " * 9
        span = f"{min(measured.rates):.0f} to {max(measured.rates):.0f}"
        times = f"{_milliseconds(measured.idle):>14} {_milliseconds(measured.busy):>14}"
        print(f"{name:24} {median:15.0f}  {span:17} {ratio} {times}")


def _milliseconds(times: list[float]) -> str:
    percentiles = statistics.quantiles(times, n=20) if len(times) > 1 else times
    return f"{statistics.median(times) * 1000:.2f} / {percentiles[-1] * 1000:.2f}"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = options.names or [name for name in PAIRS if not name.startswith(LEFT_OUT)]
    figures = {name: Figures() for name in names}
    for _ in range(options.rounds):
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            try:
                await figures[name].measure(name)
            except (AssertionError, ExceptionGroup, pytest.skip.Exception) as error:
                print(f"{name}: a round is missing: {error!r}", flush=True)
    table(figures)


if __name__ == "__main__":
    asyncio.run(main())
