"""A broker that is not on our side: it hands out messages as it likes, and puts itself in the middle.

async with hostile(Mallory()) as (mallory, url): ...

`Broker` only relays; a subclass says in `meddle` what becomes of each message. `Mallory` answers every offer
itself and makes one of its own to whom it was for, so that two honest peers have a WebRTC session with it
each, and carries what they say from one to the other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve

from peercli.errors import PeerError
from peercli.options import IceOptions
from peercli.rtc.channel import Channel
from peercli.rtc.link import Link

__all__ = ["Broker", "Mallory", "hostile"]

B = TypeVar("B", bound="Broker")


class Broker:
    """Relays what peers say, as PeerServer does.

    Attributes:
        heard: all of it.
    """

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self._sockets: dict[str, ServerConnection] = {}

    def meddle(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What to hand out instead of `message`, which has `src` and `dst`."""
        yield message

    async def serve(self, socket: ServerConnection) -> None:
        """One peer's socket."""
        assert socket.request is not None
        peer = parse_qs(urlsplit(socket.request.path).query)["id"][0]
        self._sockets[peer] = socket
        await socket.send('{"type":"OPEN"}')
        async for text in socket:
            message = json.loads(text) | {"src": peer}
            if "dst" not in message:
                continue
            self.heard.append(message)
            for instead in self.meddle(message):
                await self.deliver(instead)

    async def deliver(self, message: dict[str, Any]) -> None:
        """Hand a message out, if whom it is for is here."""
        if socket := self._sockets.get(message["dst"]):
            await socket.send(json.dumps(message))

    async def close(self) -> None:
        """Let go of what it holds."""


class Mallory(Broker):
    """The man in the middle, who swaps the sessions (and so the fingerprints) but keeps all else as it was.

    Attributes:
        seen: what came over both sessions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bytes | str] = []
        self._links: dict[tuple[str, str], Link] = {}  # by whom it is with, and the connection
        self._tasks: set[asyncio.Task[None]] = set()

    def meddle(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        key = message["src"], message["payload"].get("connectionId")
        match message["type"]:
            case "OFFER":
                task = asyncio.create_task(self._between(message))
                self._tasks.add(task)
            case "ANSWER":
                self._links[key].accept(message["payload"]["sdp"]["sdp"])
            case "CANDIDATE":
                if key in self._links:
                    self._links[key].add_candidate(message["payload"]["candidate"]["candidate"])
            case _:
                yield message

    async def _between(self, offer: dict[str, Any]) -> None:
        caller, callee, payload = offer["src"], offer["dst"], offer["payload"]
        near, far = (Link(IceOptions(), on_candidate=lambda candidate: None) for _ in range(2))
        self._links[caller, payload["connectionId"]] = near
        self._links[callee, payload["connectionId"]] = far
        sdp = await far.offer(payload["label"], ordered=payload["reliable"])
        await self.deliver(offer | {"payload": payload | {"sdp": {"type": "offer", "sdp": sdp}}})
        sdp = await near.answer(payload["sdp"]["sdp"])
        answer = {
            "type": "data",
            "connectionId": payload["connectionId"],
            "sdp": {"type": "answer", "sdp": sdp},
        }
        answer |= {"auth": payload["auth"]} if "auth" in payload else {}
        await self.deliver({"type": "ANSWER", "src": callee, "dst": caller, "payload": answer})
        try:
            channels = await near.channel(), await far.channel()
            await asyncio.gather(self.carry(caller, *channels), self.carry(callee, *reversed(channels)))
        except PeerError:
            pass

    async def carry(self, source: str, here: Channel, there: Channel) -> None:
        """Carry what `source` says to the other one."""
        async for message in here:
            self.seen.append(message)
            for instead in self.change(source, message):
                await there.send(instead)
        await there.close()

    def change(self, source: str, message: bytes | str) -> Iterator[bytes | str]:
        """What to say instead."""
        yield message

    async def close(self) -> None:
        for link in self._links.values():
            await link.close()
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def hostile(broker: B) -> AsyncIterator[tuple[B, str]]:
    """A broker at work, and its URL."""
    async with serve(broker.serve, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        try:
            yield broker, f"http://127.0.0.1:{port}/"
        finally:
            await broker.close()
