"""What a secret adds to the time until a connection is open, both ends in one process, over loopback."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from tests.brokers import our_server
from tests.peer.peers import make

__all__ = ["main"]


async def _opening(secret: str | None, times: int) -> list[float]:
    """Milliseconds, each time."""
    taken = []
    async with (
        our_server() as url,
        make("alice", url, secret=secret) as alice,
        make("bob", url, secret=secret) as bob,
    ):
        for _ in range(times):
            started = time.perf_counter()
            connection = await alice.connect("bob")
            await bob.accept()
            taken.append((time.perf_counter() - started) * 1e3)
            await connection.close()
    return taken


async def main(times: int) -> None:
    """Print both, and the difference."""
    await _opening(None, 3)  # what is imported and cached at first use
    without, with_one = await _opening(None, times), await _opening("a secret", times)
    for name, taken in (("without", without), ("with a secret", with_one)):
        print(f"{name:14} {statistics.median(taken):6.1f} ms (median of {times}; least {min(taken):.1f} ms)")
    print(f"{'added':14} {statistics.median(with_one) - statistics.median(without):6.1f} ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("times", nargs="?", type=int, default=20)
    asyncio.run(main(parser.parse_args().times))
