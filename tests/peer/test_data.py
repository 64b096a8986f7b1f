"""A data connection: values there and back, pressure, and every way to end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import pytest

from peercli.errors import (
    ConnectionClosed,
    MessageTooBig,
    NotOpenYet,
    PeerError,
    ProtocolError,
    UsageError,
    WebRTCError,
)
from peercli.peer import data
from peercli.peer.data import MAX_UNREAD, DataConnection
from peercli.protocol.codecs import SERIALIZATIONS
from peercli.rtc.channel import Wire
from tests.peer.peers import event, linked, pair, until

A_VALUE = {"text": "ünï", "list": [1, -1, 1.5, None, True], "nested": {"": {}}}


def values(serialization: str) -> list[Any]:
    """Some of what a serialization carries, small and big."""
    match serialization:
        case "raw":
            return ["", "text", b"", b"bytes", "x" * 100_000, b"x" * 100_000]
        case "json":
            return [A_VALUE, "x" * 16_000]
        case _:
            return [A_VALUE, b"bytes", "x" * 100_000, [b"x" * 1_000_000, 1]]


# Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
@pytest.mark.parametrize("reliable", [True, False])
async def test_values_go_both_ways(serialization: str, reliable: bool) -> None:
    async with linked(serialization=serialization, reliable=reliable) as (here, there):
        assert there.reliable == (reliable or serialization == "MsgPack")
        for value in values(serialization):
            for sender, receiver in ((here, there), (there, here)):
                sending = asyncio.create_task(sender.send(value))
                assert await receiver.receive() == value
                await sending


async def test_order_is_kept() -> None:
    async with linked() as (here, there), asyncio.TaskGroup() as tasks:
        for number in range(200):
            tasks.create_task(here.send([number, b"x" * (number * 331)]))
        for number in range(200):
            assert (await there.receive())[0] == number


@pytest.mark.parametrize(
    ("serialization", "value", "kind"),
    [
        ("json", "x" * 20_000, MessageTooBig),
        ("json", {1, 2}, UsageError),
        ("raw", 1, UsageError),
        ("binary", object(), UsageError),
        ("binary", {"__peerData": 1}, UsageError),
    ],
)
async def test_what_cannot_be_sent_harms_nothing(
    serialization: str, value: object, kind: type[PeerError]
) -> None:
    async with linked(serialization=serialization) as (here, there):
        with pytest.raises(kind):
            await here.send(value)
        await here.send("fine")
        assert await there.receive() == "fine"


async def test_nothing_can_be_sent_before_it_is_open() -> None:
    async with pair() as (alice, _):
        connection = alice.dial("bob")
        assert not connection.open
        assert connection.buffer_size == 0
        for work in (connection.send(1), connection.flush()):
            with pytest.raises(NotOpenYet):
                await work
        with pytest.raises(NotOpenYet):
            _ = connection.max_message
        await connection.opened()
        assert connection.max_message == 262_144
        await connection.send(1)


async def test_values_wait_for_their_reader() -> None:
    async with pair() as (alice, bob):
        here = await alice.connect("bob")
        for number in range(10):
            await here.send(number)
        await here.close(flush=True)
        there = await bob.accept()
        assert [value async for value in there] == list(range(10))


async def test_receiving_can_be_cancelled() -> None:
    async with linked() as (here, there):
        for _ in range(20):
            receiving = asyncio.create_task(there.receive())
            await asyncio.sleep(0)
            receiving.cancel()
        for number in range(50):
            await here.send(number)
        received: list[int] = []
        while len(received) < 50:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.001):
                    received.append(await there.receive())
        assert received == list(range(50))


@pytest.mark.parametrize("serialization", ["binary", "MsgPack"])
async def test_sending_can_be_cancelled_in_the_middle_of_a_value(
    serialization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with linked(serialization=serialization) as (here, there):
        channel = here._channel
        assert channel is not None
        send, sent = channel.send, 0
        gate = asyncio.Event()

        async def through_the_gate(wire: bytes | str) -> None:
            nonlocal sent
            if sent == 3:
                await gate.wait()
            await send(wire)
            sent += 1

        monkeypatch.setattr(channel, "send", through_the_gate)
        for _ in range(3):
            sending = asyncio.create_task(here.send(b"x" * 200_000))
            await until(lambda: sent == 3)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        gate.set()
        sending = asyncio.create_task(here.send("the next"))
        assert await there.receive() == b"x" * 200_000, "begun, so it is sent; the other two were not"
        assert await there.receive() == "the next"
        await sending


# Events ---------------------------------------------------------------------------------------


async def test_events_of_a_connection() -> None:
    async with pair() as (alice, bob):
        heard: list[Any] = []

        @bob.on("connection")
        def meet(connection: DataConnection) -> None:
            connection.on("open", lambda: heard.append("open"))
            connection.on("data", heard.append)
            connection.on("error", heard.append)
            connection.on("close", lambda: heard.append("close"))

        here = alice.dial("bob")
        await event(here, "open")
        for number in range(100):
            await here.send(number)
        closed = asyncio.create_task(event(here, "close"))
        await here.close(flush=True)
        assert await closed == ()
        await until(lambda: "close" in heard)
        assert heard == ["open", *range(100), "close"]


async def test_the_state_of_ice_is_told() -> None:
    async with pair() as (alice, _):
        here = alice.dial("bob")
        states: list[str] = []
        here.on("iceStateChanged", states.append)
        await here.opened()
        await here.close()
        assert states == ["checking", "completed", "closed"]


async def test_a_listener_that_comes_late_misses_nothing() -> None:
    async with linked() as (here, there):
        for number in range(2 * MAX_UNREAD):
            await here.send(number)
        await here.flush()
        heard: list[int] = []
        there.once("data", heard.append)
        await until(lambda: bool(heard))
        assert heard == [0]
        assert await there.receive() == 1
        there.on("data", heard.append)
        for number in range(2 * MAX_UNREAD, 200):
            await here.send(number)
        await until(lambda: len(heard) == 199)
        assert heard == [0, *range(2, 200)]


async def test_a_listener_that_comes_after_the_end_hears_all() -> None:
    async with linked() as (here, there):
        for number in range(10):
            await here.send(number)
        await here.close(flush=True)
        assert isinstance(await there.closed(), ConnectionClosed)
        heard: list[int] = []
        there.on("data", heard.append)
        await until(lambda: len(heard) == 10)
        with pytest.raises(ConnectionClosed):
            await there.receive()


async def test_a_listener_may_close_its_connection() -> None:
    async with linked() as (here, there):

        @there.on("data")
        async def part(value: object) -> None:
            await there.close()

        await here.send("go away")
        assert isinstance(await here.closed(), ConnectionClosed)


# Pressure -------------------------------------------------------------------------------------


STALL = 0.3  # s without progress; were it only slow, what is asserted afterwards would hold all the same


async def sent_until_nothing_moves(here: DataConnection, value: object, most: int) -> asyncio.Task[int]:
    """Send up to `most` values, until the far side takes no more; the task that goes on with it."""
    sent = 0

    async def send() -> int:
        nonlocal sent
        for _ in range(most):
            await here.send(value)
            sent += 1
        return sent

    sending = asyncio.create_task(send())
    so_far = -1
    while so_far != sent or not here.buffer_size:
        so_far = sent
        await asyncio.sleep(STALL)
    assert not sending.done(), "the sender was never stopped"
    return sending


@pytest.mark.parametrize(("size", "count", "unread"), [(60_000, 1000, MAX_UNREAD), (1_000_000, 40, 5)])
async def test_a_reader_that_does_not_read_stops_the_sender(size: int, count: int, unread: int) -> None:
    """So many messages wait to be read: fewer if they are big."""
    async with linked() as (here, there):
        sending = await sent_until_nothing_moves(here, b"x" * size, count)
        await until(lambda: there._unread.qsize() == unread)
        for _ in range(count):
            assert len(await there.receive()) == size
        assert await sending == count
        await here.flush()
        assert here.buffer_size == 0


async def test_listeners_that_are_slow_stop_the_sender() -> None:
    async with linked() as (here, there):
        gate = asyncio.Event()
        running = most = done = 0

        @there.on("data")
        async def listen(value: object) -> None:
            nonlocal running, most, done
            running += 1
            most = max(most, running)
            await gate.wait()
            running -= 1
            done += 1

        sending = await sent_until_nothing_moves(here, b"x" * 60_000, 1000)
        await until(lambda: most == MAX_UNREAD)
        gate.set()
        await sending
        await until(lambda: done == 1000)
        assert most == MAX_UNREAD


async def test_a_stopped_sender_is_freed_by_the_end() -> None:
    async with linked() as (here, there):
        sending = await sent_until_nothing_moves(here, b"x" * 60_000, 1000)
        await there.close()
        with pytest.raises(ConnectionClosed):
            await sending


# The end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("outgoing", [True, False])
@pytest.mark.parametrize("flush", [True, False])
async def test_either_side_closes(outgoing: bool, flush: bool) -> None:
    async with linked() as (here, there):
        closing, seeing = (here, there) if outgoing else (there, here)
        ended = asyncio.create_task(event(seeing, "close"))
        await asyncio.sleep(0)
        await closing.close(flush=flush)
        await ended
        for connection in (closing, seeing):
            assert not connection.open
            assert isinstance(await connection.closed(), ConnectionClosed)
            with pytest.raises(ConnectionClosed):
                await connection.send("too late")
            with pytest.raises(ConnectionClosed):
                await connection.receive()
            with pytest.raises(ConnectionClosed):
                await connection.flush()
            assert [value async for value in connection] == []
            await connection.close(flush=True)


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
async def test_closing_with_flush_loses_nothing(serialization: str) -> None:
    async with linked(serialization=serialization) as (here, there):
        value = values(serialization)[-1]
        received: list[Any] = []

        async def read() -> None:
            async for item in there:
                received.append(item)

        reading = asyncio.create_task(read())
        for _ in range(20):
            await here.send(value)
        await here.close(flush=True)
        await reading
        assert received == [value] * 20


@pytest.mark.parametrize("serialization", ["binary", "raw"])
async def test_leaving_a_connection_loses_nothing(serialization: str) -> None:
    async with linked(serialization=serialization) as (here, there):
        async with here:
            for number in range(20):
                await here.send(f"{number} " * 1000)
        assert [value async for value in there] == [f"{number} " * 1000 for number in range(20)]
        assert isinstance(await here.closed(), ConnectionClosed)


async def test_an_exception_ends_a_connection_at_once() -> None:
    async with linked() as (here, _):
        sending = await sent_until_nothing_moves(here, b"x" * 60_000, 1000)
        with pytest.raises(ZeroDivisionError):
            async with here:
                raise ZeroDivisionError  # nobody reads: it would wait
        with pytest.raises(ConnectionClosed):
            await sending


async def test_both_close_at_once() -> None:
    async with linked() as (here, there):
        await asyncio.gather(here.close(flush=True), there.close(flush=True), here.close(), there.close())
        assert isinstance(await here.closed(), ConnectionClosed)
        assert isinstance(await there.closed(), ConnectionClosed)


async def test_a_far_side_that_does_not_close_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FLUSH_CLOSE_TIMEOUT", 0.2)
    async with linked() as (here, there):
        monkeypatch.setattr(there._codec, "decode", lambda wire: [])
        await here.close(flush=True)
        await there.closed()


async def test_a_far_side_that_does_not_read_cannot_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(data, "FLUSH_TIMEOUT", 0.2)
    async with linked() as (here, _):
        sending = await sent_until_nothing_moves(here, b"x" * 60_000, 1000)
        await here.close(flush=True)
        with pytest.raises(ConnectionClosed):
            await sending


async def test_a_far_side_that_reads_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "FLUSH_TIMEOUT", 0.01)
    looks = 0

    def less_and_less(connection: DataConnection) -> int:
        nonlocal looks
        looks += 1
        return 1_000_000 - looks

    async with linked() as (here, there):
        encoded = 0
        encode = here._codec.encode

        def count(value: object) -> Iterable[Wire | memoryview]:
            nonlocal encoded
            encoded += 1
            return encode(value)

        monkeypatch.setattr(here._codec, "encode", count)
        sending = await sent_until_nothing_moves(here, b"x" * 60_000, 1000)
        sending.cancel()  # perhaps in the middle of a value: then the rest of it is still to come
        monkeypatch.setattr(DataConnection, "buffer_size", property(less_and_less))
        closing = asyncio.create_task(here.close(flush=True))
        await until(lambda: looks > 10)
        assert not closing.done()
        received = [value async for value in there]
        assert {len(value) for value in received} == {60_000}
        assert len(received) in (encoded - 1, encoded)
        await closing


async def test_a_far_side_that_greets_and_goes_is_still_heard() -> None:
    async with pair() as (alice, bob):

        async def greet() -> None:
            connection = await bob.accept()
            await connection.send("hello and goodbye")
            await connection.close(flush=True)

        greeting = asyncio.create_task(greet())
        here = await alice.connect("bob")
        await greeting
        assert [value async for value in here] == ["hello and goodbye"]


async def test_nonsense_ends_the_connection_and_says_so() -> None:
    async with linked() as (here, there):
        errors: list[PeerError] = []
        there.on("error", errors.append)
        assert here._channel is not None
        await here._channel.send(b"\xc1\xff" * 10 + b"\xdf\xff\xff\xff\xff")
        with pytest.raises(ProtocolError):
            _ = [value async for value in there]
        assert isinstance(await there.closed(), ProtocolError)
        assert isinstance(await here.closed(), ConnectionClosed)
        assert errors == [await there.closed()]


async def test_a_fault_of_ours_ends_the_connection_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with linked() as (here, there):

        def decode(wire: bytes | str) -> list[Any]:
            raise ZeroDivisionError("a mistake")

        monkeypatch.setattr(there._codec, "decode", decode)
        await here.send(1)
        with pytest.raises(WebRTCError) as caught:
            await there.receive()
        assert "a mistake" in str(caught.value)
        assert isinstance(await here.closed(), ConnectionClosed)
