"""libdatachannel's end, by way of its Python binding.

The binding makes ordered channels only, does not tell whether one is ordered, nor what is buffered; so
`send` never waits.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Callable
from typing import Any

from tests.interop.stacks.endpoint import Connection, End, Wire, main

rtc: Any = importlib.import_module("pylibdatachannel")


class LibEnd(End):
    def __init__(self, channel: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self.label, self.ordered = channel.label, True
        self._inbox: asyncio.Queue[Wire] = asyncio.Queue()
        self._open, self._closed = asyncio.Event(), asyncio.Event()
        channel.on_open(_in_loop(self._open.set, loop))
        channel.on_message(_in_loop(self._inbox.put_nowait, loop))
        channel.on_closed(_in_loop(self._closed.set, loop))
        if channel.is_open:
            self._open.set()

    async def opened(self) -> None:
        await self._open.wait()

    async def send(self, data: Wire) -> None:
        self._channel.send(data)
        await asyncio.sleep(0)

    async def receive(self) -> Wire:
        return await self._inbox.get()

    async def close(self) -> None:
        self._channel.close()

    async def closed(self) -> None:
        await self._closed.wait()


class LibConnection(Connection):
    def __init__(self) -> None:
        super().__init__()
        self._gathered = asyncio.Event()
        self._pc = rtc.PeerConnection(rtc.Configuration([]))
        loop = self._loop = asyncio.get_running_loop()
        add = _in_loop(self.came.put_nowait, loop)
        # In libdatachannel's own thread: from ours, callbacks set while one is under way can lock both up.
        self._pc.on_data_channel(lambda channel: add(LibEnd(channel, loop)))
        self._pc.on_gathering_state_change(_in_loop(self._gathering, loop))

    def _gathering(self, state: Any) -> None:
        if state == rtc.GatheringState.COMPLETE:
            self._gathered.set()

    async def _described(self) -> str:
        await self._gathered.wait()
        sdp: str = self._pc.local_description.description
        return sdp

    async def offer(self, label: str, ordered: bool) -> tuple[str, End]:
        end = await self.open(label, ordered)
        return await self._described(), end

    async def answer(self, sdp: str) -> str:
        self._pc.set_remote_description(rtc.Description(sdp, rtc.DescriptionType.OFFER))
        return await self._described()

    async def accept(self, sdp: str) -> None:
        self._pc.set_remote_description(rtc.Description(sdp, rtc.DescriptionType.ANSWER))

    async def open(self, label: str, ordered: bool) -> End:
        assert ordered
        return LibEnd(self._pc.create_data_channel(label), self._loop)

    async def close(self) -> None:
        self._pc.close()
        os._exit(0)  # its threads do not end well with the interpreter


def _in_loop(function: Callable[..., object], loop: asyncio.AbstractEventLoop) -> Callable[..., object]:
    """`function` for a thread of libdatachannel's to call."""
    return lambda *arguments: loop.call_soon_threadsafe(function, *arguments)


if __name__ == "__main__":
    main(LibConnection)
