"""Conversations that outlast their connections: whatever happens to these, each message comes once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from peercli.errors import ConnectionClosed
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.services.events import Event, Redialling, Resumed
from peercli.services.lasting import Conversation, LastingConnection, Sessions, connect
from tests.brokers import our_server
from tests.peer.peers import PATIENCE, make, until


class Pair:
    """Both ends of a conversation, and what they are made of."""

    def __init__(self, alice: Peer, bob: Peer, here: LastingConnection, there: LastingConnection) -> None:
        self.alice, self.bob, self.here, self.there = alice, bob, here, there
        self.events: list[Event] = []

    def resumptions(self) -> int:
        """How often either end has told that it goes on."""
        return sum(isinstance(event, Resumed) for event in self.events)

    async def lose(self, *, noticed_by: str = "both") -> None:
        """Break the connection under them."""
        for name, end in (("here", self.here), ("there", self.there)):
            if noticed_by in (name, "both"):
                break_off(end._connection)
        await asyncio.sleep(0)


def break_off(connection: DataConnection) -> None:
    """End a connection on this side as silence does: the other side hears nothing of it."""
    transport = connection._link._pc.sctp
    assert transport is not None
    transport._association._end("silence")  # type: ignore[attr-defined]
    transport._advance()  # type: ignore[attr-defined]


@asynccontextmanager
async def conversation(**options: object) -> AsyncIterator[Pair]:
    events: list[Event] = []

    async def report(event: Event) -> None:
        events.append(event)

    sessions = Sessions(report)
    async with (
        asyncio.timeout(PATIENCE),
        our_server() as url,
        make("alice", url) as alice,
        make("bob", url, lasting=True, admit=sessions.admit, max_connections=1) as bob,
    ):
        here = await connect(alice, "bob", report, timeout=30, reconnect=True, **options)
        there = await sessions.accept(bob)
        assert isinstance(here, LastingConnection)
        assert isinstance(there, LastingConnection)
        pair = Pair(alice, bob, here, there)
        pair.events = events
        accepting = asyncio.create_task(sessions.accept(bob))
        try:
            yield pair
        finally:
            await here.close()
            await there.close()
            accepting.cancel()
            await asyncio.wait({accepting})


async def take(end: Conversation, count: int) -> list[object]:
    return [await end.receive() for _ in range(count)]


@pytest.mark.parametrize("noticed_by", ["here", "there", "both"])
@pytest.mark.parametrize("serialization", ["binary", "raw", "json", "MsgPack"])
async def test_every_message_once(noticed_by: str, serialization: str) -> None:
    """However often the connection is lost, and whoever notices, all arrives, once, in order, both ways."""
    count = 300
    async with conversation(serialization=serialization) as pair:

        async def talk(end: LastingConnection) -> None:
            for number in range(count):
                await end.send(f"\x10{number}")
                if number % 10 == 0:
                    await asyncio.sleep(0.002)

        async def disturb() -> None:
            for times in (1, 2, 3):
                await until(lambda times=times: pair.there._session.arrived >= 60 * times)  # type: ignore[misc]
                await pair.lose(noticed_by=noticed_by)
                await until(lambda times=times: pair.resumptions() == 2 * times)  # type: ignore[misc]

        heard = await asyncio.gather(
            take(pair.here, count), take(pair.there, count), talk(pair.here), talk(pair.there), disturb()
        )
        expected = [f"\x10{number}" for number in range(count)]
        assert (heard[0], heard[1]) == (expected, expected)
        assert any(isinstance(event, Redialling) for event in pair.events)
        await pair.here.close(flush=True)
        assert isinstance(await pair.there.closed(), ConnectionClosed)
