"""Our own end: `peercli.rtc.link.Link`, and its association for more channels than the one it makes.

`python -m tests.interop.stacks.ours 1432` sends packets of at most that many bytes, as over Ethernet.
"""

from __future__ import annotations

import sys

from peercli.errors import ConnectionClosed
from peercli.options import IceOptions
from peercli.rtc import datapath
from peercli.rtc.channel import Channel
from peercli.rtc.datapath import SctpTransport
from peercli.rtc.link import Link
from tests.interop.stacks.endpoint import Connection, End, Wire, main


class OurEnd(End):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.label, self.ordered = channel.label, channel.ordered

    async def opened(self) -> None:
        await self._channel.opened()

    async def send(self, data: Wire) -> None:
        await self._channel.send(data)

    async def receive(self) -> Wire:
        return await self._channel.receive()

    async def close(self) -> None:
        await self._channel.close()

    async def closed(self) -> None:
        try:
            while True:
                await self._channel.receive()
        except ConnectionClosed:
            return


class _Link(Link):
    """A link that also tells of the channels that it has no use for."""

    def __init__(self, ours: OurConnection) -> None:
        super().__init__(IceOptions(), on_candidate=lambda _: None)
        self._ours = ours

    def _adopt(self, channel: Channel) -> None:
        super()._adopt(channel)
        self._ours.adopted(channel)


class OurConnection(Connection):
    def __init__(self) -> None:
        super().__init__()
        self._link = _Link(self)
        self._offered: OurEnd | None = None
        self._offering = False

    def adopted(self, channel: Channel) -> None:
        if self._offering:
            self._offered, self._offering = OurEnd(channel), False
        else:
            self.came.put_nowait(OurEnd(channel))

    async def offer(self, label: str, ordered: bool) -> tuple[str, End]:
        self._offering = True
        sdp = await self._link.offer(label, ordered=ordered)
        assert self._offered is not None
        return sdp, self._offered

    async def answer(self, sdp: str) -> str:
        return await self._link.answer(sdp)

    async def accept(self, sdp: str) -> None:
        self._link.accept(sdp)

    async def open(self, label: str, ordered: bool) -> End:
        transport: object = self._link._pc.sctp  # ours, whatever aiortc says
        assert isinstance(transport, SctpTransport)
        return OurEnd(transport.open_channel(label, ordered=ordered))

    async def close(self) -> None:
        await self._link.close()


if __name__ == "__main__":
    for most in sys.argv[1:]:
        datapath.MAX_PACKET = int(most)
    main(OurConnection)
