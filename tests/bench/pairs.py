"""Two ends of one data channel on this machine, each in a process of its own, to be measured."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import psutil

from tests.brokers import our_server
from tests.interop.browsers import Browsers, Page
from tests.interop.stacks.stack import MESSAGE, STACKS, Endpoint, join, start

__all__ = ["PAIRS", "Pair", "StackPair"]

WITHIN = 600.0  # s; for one transfer
WARM_UP = 0.7  # s
PIECE = 2 << 20  # bytes of the first transfer; each that follows is twice as large
PAGE_SCRIPT = Path(__file__).parent / "page.js"


class Pair(ABC):
    """A channel that stands."""

    @abstractmethod
    async def transfer(self, size: int) -> float:
        """Send `size` bytes, a multiple of MESSAGE, in messages of that; seconds until they were there."""

    def cpu(self) -> tuple[float, float] | None:
        """CPU seconds that sender and receiver have used so far, if that can be told."""
        return None

    async def warm_up(self) -> float:
        """Transfer until the path is known and the code warm; the bytes a second of the last transfer."""
        size, seconds = PIECE, 0.0
        while seconds < WARM_UP:
            seconds = await self.transfer(size)
            size *= 2
        return size / 2 / seconds


class StackPair(Pair):
    """Two endpoints of tests/interop/stacks."""

    def __init__(self, sender: Endpoint, sending: int, receiver: Endpoint, receiving: int) -> None:
        self.sender, self.sending = sender, sending
        self.receiver, self.receiving = receiver, receiving

    async def transfer(self, size: int) -> float:
        return await self.send(size // MESSAGE, MESSAGE)

    async def send(self, count: int, size: int) -> float:
        """Send `count` messages of `size` bytes; the seconds until they were there."""
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(
                self.receiver.ask(
                    "sink", channel=self.receiving, size=count * size, digest=False, within=WITHIN
                )
            )
            tasks.create_task(
                self.sender.ask(
                    "pump", channel=self.sending, count=count, size=size, counting=False, within=WITHIN
                )
            )
        return time.perf_counter() - began

    def cpu(self) -> tuple[float, float]:
        return _cpu(self.sender.process.pid), _cpu(self.receiver.process.pid)


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


class PagePair(Pair):
    """Two tabs of one browser with a PeerJS connection."""

    def __init__(self, here: Page, there: Page) -> None:
        self._here, self._there = here, there

    async def transfer(self, size: int) -> float:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._there.evaluate(f"bench.sink({size})"))
            tasks.create_task(self._here.evaluate(f"bench.pump({size // MESSAGE}, {MESSAGE})"))
        return time.perf_counter() - began


@asynccontextmanager
async def _stacks(name: str) -> AsyncIterator[Pair]:
    async with start(STACKS[name]) as sender, start(STACKS[name]) as receiver:
        yield StackPair(sender, *await _numbered(sender, receiver))


async def _numbered(sender: Endpoint, receiver: Endpoint) -> tuple[int, Endpoint, int]:
    here, there = await join(sender, receiver)
    return here, receiver, there


@asynccontextmanager
async def _pages(serialization: str) -> AsyncIterator[Pair]:
    script = PAGE_SCRIPT.read_text()
    with (
        Browsers() as browsers,
        browsers.launch("chromium") as browser,
        browser.open() as here,
        browser.open() as there,
    ):
        async with our_server() as broker:
            for page, id in ((there, "there"), (here, "here")):
                await page.evaluate(script)
                await page.evaluate(f"bench.open({id!r}, {broker!r})")
            await here.evaluate(f"bench.connect('there', {serialization!r})")
            yield PagePair(here, there)


PAIRS: dict[str, Callable[[], AbstractAsyncContextManager[Pair]]] = {
    "ours": partial(_stacks, "ours"),
    "ours, 1,432 B packets": partial(_stacks, "ours-ethernet"),
    "aiortc": partial(_stacks, "aiortc"),
    "@roamhq/wrtc": partial(_stacks, "wrtc"),
    "libdatachannel": partial(_stacks, "libdatachannel"),
    "Pion": partial(_stacks, "pion"),
    "werift": partial(_stacks, "werift"),
    "PeerJS binary": partial(_pages, "binary"),
    "PeerJS raw": partial(_pages, "raw"),
}
"""What can be measured, by the names of the tables."""
