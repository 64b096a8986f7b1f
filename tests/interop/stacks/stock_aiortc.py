"""Stock aiortc's end."""

from __future__ import annotations

import asyncio

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from tests.interop.stacks.endpoint import Connection, End, Wire, main

BUFFERED_HIGH, BUFFERED_LOW = 1 << 20, 1 << 18  # bytes


class StockEnd(End):
    def __init__(self, channel: RTCDataChannel) -> None:
        self._channel = channel
        self.label, self.ordered = channel.label, channel.ordered
        self._inbox: asyncio.Queue[Wire] = asyncio.Queue()
        self._open, self._closed, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        channel.bufferedAmountLowThreshold = BUFFERED_LOW
        channel.on("message", self._inbox.put_nowait)
        channel.on("open", self._open.set)
        channel.on("close", self._closed.set)
        channel.on("bufferedamountlow", self._room.set)
        if channel.readyState == "open":
            self._open.set()

    async def opened(self) -> None:
        await self._open.wait()

    async def send(self, data: Wire) -> None:
        while self._channel.bufferedAmount > BUFFERED_HIGH:
            self._room.clear()
            await self._room.wait()
        self._channel.send(data)

    async def receive(self) -> Wire:
        return await self._inbox.get()

    async def close(self) -> None:
        self._channel.close()

    async def closed(self) -> None:
        await self._closed.wait()


class StockConnection(Connection):
    def __init__(self) -> None:
        super().__init__()
        self._pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._pc.on("datachannel", lambda channel: self.came.put_nowait(StockEnd(channel)))

    async def _described(self) -> str:
        await self._pc.setLocalDescription()
        return self._pc.localDescription.sdp

    async def offer(self, label: str, ordered: bool) -> tuple[str, End]:
        end = await self.open(label, ordered)
        return await self._described(), end

    async def answer(self, sdp: str) -> str:
        await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        return await self._described()

    async def accept(self, sdp: str) -> None:
        await self._pc.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def open(self, label: str, ordered: bool) -> End:
        return StockEnd(self._pc.createDataChannel(label, ordered=ordered))

    async def close(self) -> None:
        await self._pc.close()


if __name__ == "__main__":
    main(StockConnection)
