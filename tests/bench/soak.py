"""`listen` while connections come and go: what it takes a minute, what it keeps, how many it holds at once.

`python -m tests.bench soak --connections 1000`
"""

from __future__ import annotations

import argparse
import asyncio
import time
from asyncio.subprocess import DEVNULL
from dataclasses import dataclass

import psutil

from peercli.peer.peer import Peer
from peercli.services.events import Event
from peercli.services.lasting import connect
from tests.commands import Command, peercli

__all__ = ["Sample", "soak"]

AT_ONCE = 10  # connections in the making
SETTLING = 30.0  # s for what has ended to be gone


@dataclass(frozen=True)
class Sample:
    """What a process has at a moment, between connections."""

    memory: int
    """Bytes."""
    files: int
    threads: int

    def __str__(self) -> str:
        return f"{self.memory / 1e6:7.1f} MB, {self.files:4} descriptors, {self.threads:3} threads"


def sample(command: Command) -> Sample:
    process = psutil.Process(command.process.pid)
    return Sample(process.memory_info().rss, process.num_fds(), process.num_threads())


async def settled(command: Command, files: int) -> Sample:
    """The figures once there are no more than so many descriptors, or after a while."""
    deadline = time.monotonic() + SETTLING
    while (now := sample(command)).files > files and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return now


async def ignore(event: Event) -> None:
    """What a conversation has to tell does not matter here."""


async def visit(peer: Peer, number: int) -> None:
    """Connect, say something, hear it, and leave in one of the ways there are."""
    connection = await connect(peer, "soak", ignore, timeout=60, reconnect=number % 2 == 0)
    try:
        await connection.send(f"hello {number}")
        assert await connection.receive() == f"hello {number}"
    finally:
        await connection.close(flush=number % 3 == 0)


async def visits(peer: Peer, count: int) -> None:
    numbers = iter(range(count))

    async def some() -> None:
        for number in numbers:
            await visit(peer, number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(AT_ONCE, count)):
            tasks.create_task(some())


async def soak(connections: int, hold: int = 0, *, rounds: int = 5) -> list[Sample]:
    """Make and drop connections to `listen --echo`, in rounds; what it has before the first and after each.

    Args:
        hold: connections that are open at once, afterwards.
    """
    async with peercli("server", "--port", "0") as broker:
        server = await broker.says("Listening at ")
        options = ("--server", server, "--ice", "none", "--id", "soak", "--echo", "--max-peers", "2000")
        async with (
            peercli("listen", *options, stdout=DEVNULL) as listen,
            Peer("visitor", server=server, ice_servers=(), max_connections=2000) as peer,
        ):
            await listen.says("Listening as")
            samples = [sample(listen)]
            print(f"{'at first':24} {samples[0]}")
            for number in range(1, rounds + 1):
                begun = time.monotonic()
                await visits(peer, connections // rounds)
                rate = connections // rounds / (time.monotonic() - begun) * 60
                samples.append(await settled(listen, samples[0].files))
                print(f"{f'after {number * connections // rounds}':24} {samples[-1]}, {rate:.0f} a minute")
            if hold:
                before = samples[-1]
                open_now = []
                for start in range(0, hold, AT_ONCE):
                    some = range(start, min(start + AT_ONCE, hold))
                    open_now += await asyncio.gather(
                        *(connect(peer, "soak", ignore, timeout=60, reconnect=True) for _ in some)
                    )
                await asyncio.gather(*(connection.send("still there?") for connection in open_now))
                for connection in open_now:
                    assert await connection.receive() == "still there?"
                held = sample(listen)
                each = (held.memory - before.memory) / hold / 1e3
                print(f"{f'{hold} open at once':24} {held}, {each:.0f} kB each")
                await asyncio.gather(*(connection.close() for connection in open_now))
            return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--hold", type=int, default=200, help="open at once, at the end")
    options = parser.parse_args()
    asyncio.run(soak(options.connections, options.hold))


if __name__ == "__main__":
    main()
