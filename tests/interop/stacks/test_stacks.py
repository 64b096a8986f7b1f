"""Our data path with each of the other stacks, whichever side offers.

A hundred megabytes at a time, by hand: `python -m tests.interop.stacks`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from tests.interop.stacks.endpoint import counted
from tests.interop.stacks.proxy import Faults, Proxy
from tests.interop.stacks.stack import STACKS, Endpoint, Stack, join, start, transfer

# libdatachannel's Python binding locks up now and then while channels come and go: it is held to by hand.
OTHERS = [stack for stack in STACKS.values() if stack.name not in {"ours", "ours-ethernet", "libdatachannel"}]
CHANNELS = 200  # opened and closed on one association
AT_ONCE = 20  # of them

others = pytest.mark.parametrize("other", OTHERS, ids=lambda stack: stack.name)


@asynccontextmanager
async def joined(
    other: Stack, *, offers: bool, ordered: bool = True, proxy: Proxy | None = None
) -> AsyncIterator[tuple[Endpoint, int, Endpoint, int]]:
    """Our endpoint with its channel, and the other's. `offers`: it is us who does."""
    async with start(STACKS["ours"]) as ours, start(other) as theirs:
        if offers:
            here, there = await join(ours, theirs, ordered=ordered, proxy=proxy)
        else:
            there, here = await join(theirs, ours, ordered=ordered, proxy=proxy)
        yield ours, here, theirs, there


def described(message: Mapping[str, str | int]) -> dict[str, str | int | bool]:
    """What `receive` is to tell of what `send` was given."""
    match message:
        case {"text": str(text)}:
            octets, is_text = text.encode(), True
        case {"bytes": int(size)}:
            octets, is_text = counted(0, size), False
        case _:
            raise ValueError(message)
    return {"text": is_text, "size": len(octets), "sha256": hashlib.sha256(octets).hexdigest()}


@pytest.mark.parametrize("offers", [True, False], ids=["we-offer", "they-offer"])
@others
async def test_messages_and_megabytes_both_ways(other: Stack, offers: bool) -> None:
    messages: list[dict[str, str | int]] = [
        {"text": "a"},
        {"text": ""},
        {"bytes": 0},
        {"text": "aé€😀\0" * 1000},
        {"bytes": 4},
        {"bytes": 1200},
        {"bytes": 65_536},
        {"text": "x" * 65_536},
        {"bytes": other.max_message},
        {"bytes": 8},
    ]
    async with joined(other, offers=offers) as (ours, here, theirs, there):
        for sender, sending, receiver, receiving in (
            (ours, here, theirs, there),
            (theirs, there, ours, here),
        ):
            sent = [
                message
                for message in messages
                if sender is ours or other.sends_empty or any(message.values())
            ]
            await sender.ask("send", channel=sending, messages=sent)
            received = await receiver.ask("receive", channel=receiving, count=len(sent))
            assert received == [described(message) for message in sent]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(transfer(ours, here, theirs, there, 10 << 20))
            tasks.create_task(transfer(theirs, there, ours, here, 10 << 20))


@others
async def test_loss_reordering_and_duplicates(other: Stack) -> None:
    with Proxy() as proxy:
        async with joined(other, offers=True, proxy=proxy) as (ours, here, theirs, there):
            proxy.faults = Faults(loss=0.02, duplication=0.01, reordering=0.02)
            await transfer(ours, here, theirs, there, 4 << 20)
            await transfer(theirs, there, ours, here, 1 << 20)
            assert proxy.lost > 20


@others
async def test_an_unordered_channel(other: Stack) -> None:
    with Proxy() as proxy:
        async with joined(other, offers=True, ordered=False, proxy=proxy) as (ours, here, theirs, there):
            proxy.faults = Faults(loss=0.01, reordering=0.02)
            await transfer(ours, here, theirs, there, 2 << 20)
            await transfer(theirs, there, ours, here, 1 << 20)


@others
async def test_channels_open_and_close(other: Stack) -> None:
    """On one association, by turns from either side."""
    async with joined(other, offers=False) as (ours, here, theirs, there):
        for round in range(CHANNELS // AT_ONCE):
            opener, accepter = (theirs, ours) if round % 2 else (ours, theirs)
            for number in range(AT_ONCE):
                label = f"{round}/{number}"
                opened, came = await asyncio.gather(
                    opener.ask("open", label=label, ordered=True), accepter.ask("accepted")
                )
                assert came["label"] == label
                message = {"text": label}
                await opener.ask("send", channel=opened, messages=[message])
                assert await accepter.ask("receive", channel=came["channel"], count=1) == [described(message)]
                await opener.ask("close", channel=opened)
                await accepter.ask("closed", channel=came["channel"])
        await transfer(ours, here, theirs, there, 1 << 20)
        await transfer(theirs, there, ours, here, 1 << 20)
