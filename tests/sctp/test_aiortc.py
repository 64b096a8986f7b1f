"""Our association against stock aiortc's, without ICE and DTLS between them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pytest
from aiortc import RTCDataChannel, RTCDataChannelParameters, RTCSctpCapabilities, RTCSctpTransport

from peercli.sctp.association import Association, State
from peercli.sctp.events import ChannelAcknowledged, ChannelClosed, ChannelOpened, Event, MessageReceived

PATIENCE = 30.0


class Wire:
    """Stands in for aiortc's DTLS transport, and drives our association on the event loop. Either direction
    loses packets with the probability `loss`, except the set-up's: aiortc waits 3 s for those."""

    state = "connected"

    def __init__(self, *, ours_is_client: bool, loss: float = 0.0, controller: Any = None) -> None:
        self._role = "server" if ours_is_client else "client"
        self.loss = loss
        self.random = random.Random(7)
        options = {} if controller is None else {"controller": controller}
        self.ours = Association(is_client=ours_is_client, remote_max_message_size=0, **options)
        self.theirs = RTCSctpTransport(self)  # type: ignore[arg-type]
        self.events: list[Event] = []
        self.messages: list[bytes] = []
        self.changed = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.receiver: Any = None
        self.task: asyncio.Task[None] | None = None

    # What aiortc asks of its transport.

    def _register_data_receiver(self, receiver: object) -> None:
        self.receiver = receiver

    def _unregister_data_receiver(self, receiver: object) -> None:
        self.receiver = None

    async def _send_data(self, data: bytes) -> None:
        if not self._loses():
            self.ours.receive([data], self.loop.time())
            self._pump()

    # Ours.

    def _loses(self) -> bool:
        return self.ours.state is State.ESTABLISHED and self.random.random() < self.loss

    def _pump(self) -> None:
        now = self.loop.time()
        while packets := self.ours.packets(now):
            for packet in packets:
                if not self._loses():
                    self.inbox.put_nowait(packet)
        for event in self.ours.events():
            self.events.append(event)
            if isinstance(event, MessageReceived):
                self.messages.append(event.data)
                self.ours.consume(len(event.data))
            self.changed.set()
        if self.timer is not None:
            self.timer.cancel()
        due = self.ours.timeout()
        self.timer = None if due is None else self.loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self.ours.handle_timeout(self.loop.time())
        self._pump()

    async def _deliver(self) -> None:
        while True:
            packet = await self.inbox.get()
            if self.receiver is not None:
                await self.receiver._handle_data(packet)
                self.changed.set()

    async def __aenter__(self) -> Wire:
        self.task = asyncio.create_task(self._deliver())
        await self.theirs.start(RTCSctpCapabilities(maxMessageSize=0), 5000)
        self.ours.connect(self.loop.time())
        self._pump()
        await self.until(lambda: self.ours.state is State.ESTABLISHED)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.task is not None
        self.ours.abort()
        self._pump()
        await self.theirs.stop()
        self.task.cancel()
        await asyncio.wait([self.task])
        if self.timer is not None:
            self.timer.cancel()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def count(self, kind: type[Event]) -> int:
        return sum(isinstance(event, kind) for event in self.events)

    async def send(self, channel: int, messages: list[bytes]) -> None:
        for message in messages:
            await self.until(lambda: self.ours.room(channel) > 0)
            self.ours.send(channel, message, now=self.loop.time())
            self._pump()


async def their_channel(wire: Wire, **options: Any) -> RTCDataChannel:
    """A channel that aiortc opened, once it may send on it."""
    channel = RTCDataChannel(wire.theirs, RTCDataChannelParameters(label="theirs", **options))
    await wire.until(lambda: channel.readyState == "open")
    return channel


MESSAGES = [bytes([n % 256]) * size for n, size in enumerate([0, 1, 1000, 1200, 65_536, 5, 200_000] * 3)]


@pytest.mark.parametrize("ours_is_client", [False, True])
@pytest.mark.parametrize("loss", [0.0, 0.02])
async def test_messages_from_us_arrive(ours_is_client: bool, loss: float) -> None:
    async with Wire(ours_is_client=ours_is_client, loss=loss) as wire:
        got: list[object] = []

        @wire.theirs.on("datachannel")
        def on_channel(channel: RTCDataChannel) -> None:
            channel.on("message", got.append)

        channel = wire.ours.open_channel("ours")
        await wire.send(channel, MESSAGES)
        await wire.until(lambda: len(got) == len(MESSAGES))
        assert got == MESSAGES
        assert wire.count(ChannelAcknowledged) == 1


@pytest.mark.parametrize("ours_is_client", [False, True])
@pytest.mark.parametrize("loss", [0.0, 0.01])
async def test_messages_from_them_arrive(ours_is_client: bool, loss: float) -> None:
    async with Wire(ours_is_client=ours_is_client, loss=loss) as wire:
        channel = await their_channel(wire)
        for message in MESSAGES:
            channel.send(message)
        await wire.until(lambda: len(wire.messages) == len(MESSAGES))
        assert wire.messages == MESSAGES
        (opened,) = [event for event in wire.events if isinstance(event, ChannelOpened)]
        assert (opened.label, opened.ordered, opened.max_retransmits) == ("theirs", True, None)


@pytest.mark.parametrize("limits", [{"maxRetransmits": 0}, {"maxPacketLifeTime": 50}])
@pytest.mark.parametrize("ordered", [False, True])
async def test_limited_messages_from_them_come_or_are_given_up(ordered: bool, limits: dict[str, int]) -> None:
    async with Wire(ours_is_client=True) as wire:
        channel = await their_channel(wire, ordered=ordered, **limits)
        channel.send(b"first")
        await wire.until(lambda: wire.messages == [b"first"])
        wire.loss = 0.2
        for n in range(60):
            channel.send(b"%03d" % n * 1000)
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.3)
        wire.loss = 0.0
        channel.send(b"last")
        await wire.until(lambda: wire.messages[-1] == b"last")
        assert len(wire.messages) < 62
        assert len(set(wire.messages)) == len(wire.messages)
        if ordered:
            assert wire.messages[1:-1] == sorted(wire.messages[1:-1])
        assert wire.ours.receiver is not None
        assert wire.ours.receiver.held == 0


async def test_limited_messages_from_us_come_or_are_given_up() -> None:
    async with Wire(ours_is_client=True) as wire:
        got: list[bytes] = []

        @wire.theirs.on("datachannel")
        def on_channel(channel: RTCDataChannel) -> None:
            channel.on("message", got.append)

        channel = wire.ours.open_channel("ours", max_retransmits=0)
        await wire.send(channel, [b"first"])
        await wire.until(lambda: got == [b"first"])
        wire.loss = 0.2
        for n in range(60):
            await wire.send(channel, [b"%03d" % n * 1000])
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.3)
        wire.loss = 0.0
        await wire.send(channel, [b"last"])
        await wire.until(lambda: got[-1] == b"last")
        assert 10 < len(got) < 62
        assert got[1:-1] == sorted(set(got[1:-1]))


async def test_channels_open_and_close_again_and_again() -> None:
    async with Wire(ours_is_client=False) as wire:
        for n in range(100):
            if n % 2:
                theirs = await their_channel(wire)
                theirs.send(b"hello")
                await wire.until(lambda: bool(wire.messages))
                wire.messages.clear()
                if n % 4 == 1:
                    theirs.close()
                else:
                    assert theirs.id is not None
                    wire.ours.close_channel(theirs.id)
            else:
                channel = wire.ours.open_channel("ours")
                wire._pump()
                await wire.until(lambda: channel in wire.theirs._data_channels)  # noqa: B023
                if n % 4:
                    wire.theirs._data_channels[channel].close()
                else:
                    wire.ours.close_channel(channel)
            wire._pump()
            await wire.until(lambda: wire.count(ChannelClosed) == n + 1)  # noqa: B023
            await wire.until(lambda: not wire.theirs._data_channels)
        assert wire.ours._channels.known == {}


async def test_they_hear_that_we_are_gone() -> None:
    async with Wire(ours_is_client=True) as wire:
        wire.ours.abort("enough")
        wire._pump()
        await wire.until(lambda: wire.theirs.state == "closed")
