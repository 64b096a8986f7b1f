"""Two ends of a connection in one process, joined by hand instead of by a broker."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from peercli.options import IceOptions, IceServer
from peercli.rtc.channel import Channel
from peercli.rtc.link import Link, Trickle

__all__ = ["End", "both", "connected", "ends", "join", "without_candidates"]

PATIENCE = 30.0  # s until a test that hangs is told so


class End:
    """A link, and what it wants the far side to be told."""

    def __init__(self, servers: Sequence[IceServer] = (), *, relay: bool = False) -> None:
        self.link = Link(IceOptions(tuple(servers), relay), on_candidate=self._trickle)
        self.trickled: asyncio.Queue[Trickle] = asyncio.Queue()
        self.tell: Callable[[Trickle], None] = self.trickled.put_nowait

    def _trickle(self, candidate: Trickle) -> None:
        self.tell(candidate)


@asynccontextmanager
async def ends(servers: Sequence[IceServer] = (), *, relay: bool = False) -> AsyncIterator[tuple[End, End]]:
    """Two links that know nothing of each other yet; closed at the end."""
    one, other = End(servers, relay=relay), End(servers, relay=relay)
    try:
        async with asyncio.timeout(PATIENCE):
            yield one, other
    finally:
        await asyncio.gather(one.link.close(), other.link.close())


async def join(
    one: End, other: End, *, label: str = "label", ordered: bool = True
) -> tuple[Channel, Channel]:
    """Offer, answer, and pass on what is trickled; both ends of the channel, once it is open."""
    one.tell = lambda candidate: other.link.add_candidate(candidate.candidate)
    other.tell = lambda candidate: one.link.add_candidate(candidate.candidate)
    offer = await one.link.offer(label, ordered=ordered)
    one.link.accept(await other.link.answer(offer))
    return await both(one, other)


async def both(one: End, other: End) -> tuple[Channel, Channel]:
    """Both ends of the channel, once it is open."""
    here, there = await asyncio.gather(one.link.channel(), other.link.channel())
    return here, there


@asynccontextmanager
async def connected(
    servers: Sequence[IceServer] = (), *, relay: bool = False
) -> AsyncIterator[tuple[End, End, Channel, Channel]]:
    """Two links with an open channel between them."""
    async with ends(servers, relay=relay) as (one, other):
        here, there = await join(one, other)
        yield one, other, here, there


def without_candidates(sdp: str) -> tuple[str, list[str]]:
    """A description without its candidates, and these, as they would be trickled."""
    candidates = re.findall(r"^a=(candidate:.*?)\r?$", sdp, re.MULTILINE)
    return re.sub(r"^a=(candidate:.*|end-of-candidates)\r?\n", "", sdp, flags=re.MULTILINE), candidates
