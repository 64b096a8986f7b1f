"""Small messages and waiting times: `python -m tests.bench small`.

For each stack, two processes on this machine: 100-byte messages a second; the time that one byte takes there
and back on a channel of its own, while nothing else goes on, and while another channel is kept busy with
64 KB messages.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics

import pytest

from tests.bench.pairs import PAIRS, StackPair

__all__ = ["main"]

SMALL = 100  # bytes
PINGS = 300
WARM = 2_000  # messages
RUNS_FOR = 2.0  # s, about, of small messages
LOAD = 1000  # messages of 64 KB, while pings go; asked for again until they are done


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
    load = asyncio.create_task(pair.send(LOAD, 65_536))
    times = []
    while not load.done():
        times += await pair.sender.ask("ping", channel=number, count=5)
    await load
    return times


async def measure(name: str) -> str:
    async with PAIRS[name]() as pair:
        assert isinstance(pair, StackPair)
        rate = await small_messages(pair)
        idle = await round_trips(pair, busy=False)
        busy = await round_trips(pair, busy=True)
    return f"{name:16} {rate:10.0f} {_milliseconds(idle):>22} {_milliseconds(busy):>22}"


def _milliseconds(times: list[float]) -> str:
    percentiles = statistics.quantiles(times, n=20) if len(times) > 1 else times
    return f"{statistics.median(times) * 1000:.2f} / {percentiles[-1] * 1000:.2f}"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    print(f"{'':16} {'100 B a second':>10} {'idle ms, 50 / 95 %':>22} {'busy ms, 50 / 95 %':>22}")
    for name in options.names or [name for name in PAIRS if not name.startswith("PeerJS")]:
        try:
            print(await measure(name), flush=True)
        except (AssertionError, ExceptionGroup, pytest.skip.Exception) as error:
            print(f"{name}: {error!r}")


if __name__ == "__main__":
    asyncio.run(main())
