"""The far side of a link as a process of its own, so that it can be killed.

Takes an offer, and gives an answer, as a line of JSON each; then it says back what it is told.
"""

from __future__ import annotations

import asyncio
import json
import sys

from peercli.options import IceOptions
from peercli.rtc.link import Link, Trickle

__all__: list[str] = []


def _ignore(candidate: Trickle) -> None:
    """There are no servers that could tell of more than the answer holds."""


async def main() -> None:
    link = Link(IceOptions(), on_candidate=_ignore)
    try:
        print(json.dumps(await link.answer(json.loads(sys.stdin.readline()))), flush=True)
        channel = await link.channel()
        async for message in channel:
            await channel.send(message)
    finally:
        await link.close()


if __name__ == "__main__":
    asyncio.run(main())
