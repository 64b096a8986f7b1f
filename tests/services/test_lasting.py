"""Conversations that outlast their connections: whatever happens to these, each message comes once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from peercli.errors import ConnectionClosed, ConnectionLost, Declined, MessageTooBig
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.protocol.resume import WINDOW, Challenge, Proof, decode, encode
from peercli.services import lasting
from peercli.services.events import Event, Interrupted, Redialling, Resumed
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


async def test_a_slow_reader_stops_the_writer() -> None:
    """No more than the window is sent ahead of who reads, over however many connections."""
    async with conversation(serialization="raw") as pair:
        piece, ahead = bytes(1 << 17), WINDOW >> 17
        count = 3 * ahead
        sending = asyncio.create_task(send_all(pair.here, [piece] * count))
        await until(lambda: pair.there._session.arrived == ahead)
        await pair.lose()
        await until(lambda: pair.resumptions() == 2)
        assert pair.there._session.arrived == ahead
        assert not sending.done()
        assert await take(pair.there, count) == [piece] * count
        await sending


async def send_all(end: LastingConnection, values: list[object]) -> None:
    for value in values:
        await end.send(value)


async def test_echo_does_not_wait_for_itself() -> None:
    """Who sends while it reads gets on, although far more is under way than the window."""
    async with conversation(serialization="raw") as pair:
        piece, count = bytes(1 << 18), 5 * (WINDOW >> 18)

        async def echo() -> None:
            for _ in range(count):
                await pair.there.send(await pair.there.receive())

        echoing = asyncio.create_task(echo())
        sending = asyncio.create_task(send_all(pair.here, [piece] * count))
        assert await take(pair.here, count) == [piece] * count
        await asyncio.gather(echoing, sending)


async def test_nobody_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides wait for a while, then say so; what has come before can still be read."""
    monkeypatch.setattr(lasting, "PATIENCE", 1.0)
    async with conversation() as pair:
        await pair.here.send("before")
        await until(lambda: bool(pair.there._session.arrived))
        pair.alice.disconnect()
        await pair.lose()
        assert await pair.there.receive() == "before"
        for end, why in ((pair.here, "cannot be resumed"), (pair.there, "did not come back within 1 s")):
            with pytest.raises(ConnectionLost, match=why):
                await end.receive()
            with pytest.raises(ConnectionLost, match=why):
                await end.send("too late")


async def test_the_far_side_has_forgotten() -> None:
    """Who was started anew under the same id does not know the conversation, and says so at once."""
    async with conversation() as pair:
        await pair.there.close()
        await until(lambda: not pair.here.open)
        assert isinstance(await pair.here.closed(), ConnectionClosed)
    async with conversation() as pair:
        pair.there._end(ConnectionClosed("a crash"))  # its farewell does not arrive
        pair.there._session.over = True
        with pytest.raises(ConnectionLost, match="cannot be resumed: the peer bob declined"):
            await pair.here.receive()


async def test_nobody_else_takes_over() -> None:
    """Who has taken the id, and knows the session's, but not its secret, gets nothing and disturbs nobody."""
    async with conversation() as pair:
        session = pair.here._connection.session
        assert session is not None
        thief = await pair.alice.connect("bob", session=session, resumes=True)
        assert control(await thief.receive()) == "challenge"
        await thief.send(encode(Challenge("mine")))
        assert control(await thief.receive()) == "proof"
        await thief.send(encode(Proof("0" * 64)))
        assert isinstance(await thief.closed(), ConnectionClosed)
        await pair.here.send("undisturbed")
        assert await pair.there.receive() == "undisturbed"
        with pytest.raises(Declined):
            await pair.alice.connect("bob", session="unheard-of", resumes=True)
        with pytest.raises(Declined):
            await pair.alice.connect("bob", session=session)  # begins what has begun
        assert pair.resumptions() == 0


def control(message: object) -> str:
    """The type of a control."""
    assert isinstance(message, str)
    return type(decode(message)).__name__.lower()


async def test_what_cannot_be_sent() -> None:
    """It ends the conversation with the reason, after what came before it."""
    async with conversation(serialization="json") as pair:
        await pair.here.send("before")
        await pair.here.send("x" * 20_000)
        assert await pair.there.receive() == "before"
        with pytest.raises(MessageTooBig):
            await pair.here.receive()
        with pytest.raises(ConnectionClosed):
            await pair.there.receive()


async def test_with_those_who_cannot() -> None:
    """A far side that takes no part, or a user who does not wish it, has an ordinary connection."""

    async def report(event: Event) -> None:
        raise AssertionError(event)

    async with our_server() as url, make("alice", url) as alice, make("bob", url) as bob:
        for reconnect, reliable in ((True, True), (False, True), (True, False)):
            here = await connect(alice, "bob", report, timeout=30, reconnect=reconnect, reliable=reliable)
            there = await Sessions(report).accept(bob)
            assert isinstance(here, DataConnection)
            assert isinstance(there, DataConnection)
            await here.send("\x10hello")
            assert await there.receive() == "\x10hello"
            await here.close()


async def test_closing_in_the_middle_of_a_loss() -> None:
    """Whoever closes does not wait for the connection to come back."""
    async with conversation() as pair:
        await pair.lose()
        await until(lambda: any(isinstance(event, Interrupted) for event in pair.events))
        await pair.here.close()
        with pytest.raises(ConnectionClosed):
            await pair.here.receive()
        pair.there._end(ConnectionClosed("tired of waiting"))
