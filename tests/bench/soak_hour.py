"""`listen` for an hour, while peers of every kind come, do their work, and go or are killed.

`python -m tests.bench soak_hour [--minutes 60] [--connections 1000]` prints once a minute what the broker, a
`listen` that echoes and saves files, and a `listen --exec` have; in the end it waits until those who were
killed are given up, and prints of which types there are more than after the first minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from asyncio.subprocess import DEVNULL
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from peercli.options import random_id
from peercli.services.files.receiving import PATIENCE
from tests.bench.watched import Inside
from tests.commands import Command, peercli

__all__: list[str] = []

AT_ONCE = 6  # visitors: a busy machine has them come later, and not all together
SAMPLE_EVERY = 60.0  # s
SETTLED_AFTER = 5  # samples; by then all has been imported and used once
ANSWER = 30.0  # s for a process to say what it has
SPARE = 20.0  # s over PATIENCE, which is longest with files, for those who were killed to be given up
PIECE = 1 << 20  # bytes of a file, or of a pipe
SLOW = "100k"  # bytes/s: who sends like that is killed in the middle


class Watched:
    """A process, seen from outside and from inside."""

    def __init__(self, name: str, command: Command, path: Path) -> None:
        self.name = name
        self.command = command
        self._path = path
        self._process = psutil.Process(command.process.pid)

    async def inside(self, *, collect: bool = False) -> Inside:
        """What it says of itself."""
        told = len(self._lines())
        self._process.send_signal(signal.SIGUSR2 if collect else signal.SIGUSR1)
        async with asyncio.timeout(ANSWER):
            while len(lines := self._lines()) == told:  # noqa: ASYNC110  it is a file
                await asyncio.sleep(0.1)
        return Inside(**json.loads(lines[-1]))

    def _lines(self) -> list[str]:
        return [line for line in self._path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def __str__(self) -> str:
        process = self._process
        return (
            f"{self.name:7} {process.memory_info().rss / 1e6:6.1f} MB {process.num_fds():4} descriptors "
            f"{process.num_threads():3} threads"
        )

    async def line(self) -> str:
        """Both, in a line."""
        inside = await self.inside()
        return (
            f"{self} {inside.tasks:4} tasks {inside.objects:7} objects {inside.blocks:8} blocks, malloc: "
            f"{inside.used / 1e6:5.1f} MB used, {inside.free / 1e6:5.1f} MB free"
        )


@asynccontextmanager
async def watched(name: str, folder: Path, *arguments: str) -> AsyncIterator[Watched]:
    """A peercli that can be looked into."""
    path = folder / f"{name}.inside"
    path.touch()
    module = ("tests.bench.watched", str(path))
    async with peercli(*arguments, stdout=DEVNULL, module=module) as command:
        yield Watched(name, command, path)


# Those who come ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where they come to, and what they bring."""

    options: tuple[str, ...]
    content: bytes
    folder: Path


async def _talk(place: Place, to: str, *options: str, killed: bool = False) -> None:
    async with peercli("connect", to, *place.options, *options) as visitor:
        await visitor.write("hello\n")
        assert await visitor.line() == "hello"
        if killed:
            visitor.kill()
            return
        visitor.end_input()
        assert await visitor.exit_code() == 0, visitor.stderr


async def _pipe(place: Place, to: str, *options: str, killed: bool = False) -> None:
    async with peercli("pipe", to, *place.options, *options) as visitor:
        await visitor.write(place.content)
        if killed:
            assert await visitor.read(1)
            visitor.kill()
            return
        visitor.end_input()
        if "--send-only" not in options:
            assert await visitor.read() == place.content
        assert await visitor.exit_code() == 0, visitor.stderr


async def _file(place: Place, *options: str, killed: bool = False) -> None:
    file = place.folder / f"{random_id()}.bin"
    await asyncio.to_thread(file.write_bytes, place.content)
    try:
        async with peercli("send-file", "soak", str(file), "--json", *place.options, *options) as visitor:
            if killed:
                while json.loads(await visitor.line())["event"] != "progress":
                    pass
                visitor.kill()
                return
            await visitor.read()
            assert await visitor.exit_code() == 0, visitor.stderr
    finally:
        file.unlink()


KINDS: dict[str, Callable[[Place], Awaitable[None]]] = {
    "connect": lambda place: _talk(place, "soak"),
    "connect, not to resume": lambda place: _talk(place, "soak", "--no-reconnect"),
    "connect to a command": lambda place: _talk(place, "soak-exec"),
    "connect, killed": lambda place: _talk(place, "soak", killed=True),
    "pipe": lambda place: _pipe(place, "soak", "--send-only"),
    "pipe through a command": lambda place: _pipe(place, "soak-exec"),
    "pipe through a command, killed": lambda place: _pipe(place, "soak-exec", killed=True),
    "file": _file,
    "file, killed": lambda place: _file(place, "--limit-rate", SLOW, killed=True),
}


async def soak(minutes: float, connections: int) -> None:
    """See the module."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            broker = await stack.enter_async_context(watched("broker", folder, "server", "--port", "0"))
            options = ("--server", await broker.command.says("Listening at "), "--ice", "none")
            saving = ("--echo", "--save-dir", str(folder / "saved"))
            running = ("--exec", "cat", "--allow-anyone")
            listens = [
                await stack.enter_async_context(watched(name, folder, "listen", "--id", id, *options, *more))
                for name, id, more in (("listen", "soak", saving), ("exec", "soak-exec", running))
            ]
            for listen in listens:
                await listen.command.says("Listening as")
            place = Place((*options, "--timeout", "60"), os.urandom(PIECE), folder)
            await _soak([broker, *listens], place, minutes * 60, connections)


async def _soak(processes: list[Watched], place: Place, seconds: float, connections: int) -> None:
    begun = time.monotonic()
    done: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    turns = asyncio.Semaphore(AT_ONCE)

    async def visit(kind: str) -> None:
        try:
            async with turns:
                await KINDS[kind](place)
        except (AssertionError, OSError) as error:
            failed[kind] += 1
            print(f"{kind}: {error}", flush=True)
        else:
            done[kind] += 1

    async def tell() -> None:
        print(f"{(time.monotonic() - begun) / 60:.0f} minutes, {done.total()} done, {failed.total()} failed")
        for process in processes:
            print(f"  {await process.line()}", flush=True)

    async def sample() -> None:
        for number in range(int(seconds / SAMPLE_EVERY) + 1):
            await asyncio.sleep(begun + number * SAMPLE_EVERY - time.monotonic())
            await tell()
            if number == SETTLED_AFTER:
                early.extend([await process.inside(collect=True) for process in processes])

    early: list[Inside] = []
    sampling = asyncio.create_task(sample())
    async with asyncio.TaskGroup() as visits:
        for number in range(connections):
            await asyncio.sleep(begun + number * seconds / connections - time.monotonic())
            visits.create_task(visit(list(KINDS)[number % len(KINDS)]))
    await sampling
    print(f"done: {dict(done)}; failed: {dict(failed)}", flush=True)
    await asyncio.sleep(PATIENCE + SPARE)
    await tell()
    for process, before in zip(processes, early, strict=False):
        after = await process.inside(collect=True)
        more = {
            name: count - before.types.get(name, 0)
            for name, count in after.types.items()
            if name in before.types and count > before.types[name]
        }
        print(
            f"{process}, collected: {before.objects} objects, now {after.objects}; of malloc's "
            f"{before.used / 1e6:.1f} MB, now {after.used / 1e6:.1f}; more of: {more}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--connections", type=int, default=1000)
    options = parser.parse_args()
    asyncio.run(soak(options.minutes, options.connections))


if __name__ == "__main__":
    main()
