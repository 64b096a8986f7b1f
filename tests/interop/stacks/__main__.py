"""A hundred megabytes each way between our data path and other stacks, with a digest.

python -m tests.interop.stacks [STACK …] [--megabytes N] [--loss PERCENT] [--duplication PERCENT]
    [--reordering PERCENT] [--they-offer]
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack

import pytest

from tests.interop.stacks.proxy import Faults, Proxy
from tests.interop.stacks.stack import MESSAGE, STACKS, Stack, join, start, transfer

WITHIN = 1800.0  # s; for one direction


async def both_ways(other: Stack, size: int, faults: Faults, they_offer: bool) -> None:
    async with AsyncExitStack() as opened:
        proxy = opened.enter_context(Proxy()) if faults != Faults() else None
        ours = await opened.enter_async_context(start(STACKS["ours"]))
        theirs = await opened.enter_async_context(start(other))
        if they_offer:
            there, here = await join(theirs, ours, proxy=proxy)
        else:
            here, there = await join(ours, theirs, proxy=proxy)
        if proxy:
            proxy.faults = faults
        for name, ends in (
            (f"ours to {other.name}", (ours, here, theirs, there)),
            (f"{other.name} to ours", (theirs, there, ours, here)),
        ):
            seconds = await transfer(*ends, size, within=WITHIN)
            lost = f", {proxy.lost} datagrams lost so far" if proxy else ""
            print(f"{name:24} {size / 1e6:.0f} MB, digest right, {size / 1e6 / seconds:.1f} MB/s{lost}")


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stacks", nargs="*", metavar="STACK", help=", ".join(STACKS))
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--loss", type=float, default=0, metavar="PERCENT")
    parser.add_argument("--duplication", type=float, default=0, metavar="PERCENT")
    parser.add_argument("--reordering", type=float, default=0, metavar="PERCENT")
    parser.add_argument("--they-offer", action="store_true")
    options = parser.parse_args()
    faults = Faults(options.loss / 100, options.duplication / 100, options.reordering / 100)
    size = round(options.megabytes * 1e6 / MESSAGE) * MESSAGE
    for name in options.stacks or STACKS:
        try:
            await both_ways(STACKS[name], size, faults, options.they_offer)
        except (AssertionError, ExceptionGroup, pytest.skip.Exception) as error:
            print(f"{name}: {error!r}")


if __name__ == "__main__":
    asyncio.run(main())
