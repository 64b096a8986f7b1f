"""Which WebSocket library should a broker be built on? `python -m tests.bench sockets`.

The same small relay, which knows nothing but ids, on each of them and uvloop, under the load of the broker's
bench. picows is needed by this alone: `pip install picows`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

from peercli.server.envelope import open_envelope, seal
from tests.bench.broker import BURST, Relayed, Traffic, relay

__all__ = ["main"]

OPEN = seal("OPEN")


class Relay:
    """Who is here, and how to send to them."""

    def __init__(self) -> None:
        self.clients: dict[str, Callable[[bytes], Any]] = {}

    def received(self, src: str, data: bytes) -> Any:
        message = open_envelope(data)
        if message is not None and message.dst in self.clients:
            sealed = seal(message.type, src=src, dst=message.dst, payload=message.payload)
            return self.clients[message.dst](sealed)
        return None


def id_in(target: str) -> str:
    return parse_qs(urlsplit(target).query)["id"][0]


async def ours(relay: Relay) -> int:
    from peercli.server.http import HttpConnection, Request, Response, accept_upgrade
    from peercli.server.options import Limits
    from peercli.server.websocket import Socket

    class Site:
        limits = Limits()

        def joined(self, transport: asyncio.Transport) -> bool:
            return True

        def parted(self, transport: asyncio.Transport) -> None: ...
        def unsent(self, socket: Socket) -> None:
            loop.call_soon(socket.flush)

        def handled(self, count: int, begun: float) -> None: ...
        def leaving(self, socket: Socket) -> None: ...
        def lost(self, socket: Socket) -> None: ...
        def start(self, work: Any) -> None: ...

        def answer(self, request: Request, transport: asyncio.Transport) -> Response:
            return accept_upgrade(request)

        def upgrade(self, request: Request, transport: asyncio.Transport, early: bytes) -> None:
            name = request.query["id"]
            socket = Socket(self, loop, transport, "", name)
            transport.set_protocol(socket)
            relay.clients[name] = socket.send
            socket.send(OPEN)

        def pay(self, socket: Socket, count: int, size: int) -> bool:
            return True

        def charge(self, socket: Socket, size: int) -> float:
            return 0.0

        def received(self, socket: Socket, data: bytes) -> None:
            relay.received(socket.name, data)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpConnection(Site(), loop), "127.0.0.1", 0, backlog=1000)
    return int(server.sockets[0].getsockname()[1])


def picows(corked: bool) -> Callable[[Relay], Any]:
    async def serve(relay: Relay) -> int:
        from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

        from peercli.server.frames import frame

        class Client(WSListener):  # type: ignore[misc]
            def __init__(self, request: WSUpgradeRequest) -> None:
                self.name = id_in(request.path.decode())
                self.unsent: list[bytes] = []

            def on_ws_connected(self, transport: WSTransport) -> None:
                self.transport = transport
                relay.clients[self.name] = self.cork if corked else self.send
                self.send(OPEN)

            def send(self, data: bytes) -> None:
                self.transport.send(WSMsgType.TEXT, data)

            def cork(self, data: bytes) -> None:
                if not self.unsent:
                    loop.call_soon(self.flush)
                self.unsent.append(frame(1, data))

            def flush(self) -> None:
                self.transport.underlying_transport.write(b"".join(self.unsent))
                self.unsent.clear()

            def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
                relay.received(self.name, frame.get_payload_as_bytes())

        loop = asyncio.get_running_loop()
        server = await ws_create_server(Client, "127.0.0.1", 0, backlog=1000)
        return int(server.sockets[0].getsockname()[1])

    return serve


async def websockets(relay: Relay) -> int:
    from websockets.asyncio.server import ServerConnection, serve

    async def meet(socket: ServerConnection) -> None:
        assert socket.request is not None
        name = id_in(socket.request.path)

        async def send(data: bytes) -> None:
            await socket.send(data, text=True)

        await send(OPEN)
        relay.clients[name] = send
        async for data in socket:
            assert isinstance(data, str)
            if (sending := relay.received(name, data.encode())) is not None:
                await sending

    server = await serve(meet, "127.0.0.1", 0, compression=None, backlog=1000)
    return int(next(iter(server.sockets)).getsockname()[1])


async def aiohttp(relay: Relay) -> int:
    from aiohttp import web

    async def meet(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        name = request.query["id"]

        async def send(data: bytes) -> None:
            await socket.send_frame(data, web.WSMsgType.TEXT)

        await send(OPEN)
        relay.clients[name] = send
        async for message in socket:
            if (sending := relay.received(name, message.data.encode())) is not None:
                await sending
        return socket

    app = web.Application()
    app.router.add_get("/peerjs", meet)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1000)
    await site.start()
    return int(runner.addresses[0][1])


LIBRARIES: dict[str, Callable[[Relay], Any]] = {
    "ours": ours,
    "picows": picows(corked=False),
    "picows, writes gathered": picows(corked=True),
    "websockets": websockets,
    "aiohttp": aiohttp,
}


def serve(name: str) -> None:
    """In the child: say the port, and relay until killed."""
    import uvloop

    async def run() -> None:
        print(await LIBRARIES[name](Relay()), flush=True)
        await asyncio.Event().wait()

    with suppress(KeyboardInterrupt):
        uvloop.run(run())


@contextmanager
def running(name: str) -> Iterator[tuple[int, int]]:
    command = [sys.executable, "-m", "tests.bench", "sockets", "--serve", name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, {0})
            yield int(process.stdout.readline()), process.pid
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--serve", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if hasattr(os, "sched_setaffinity") and (cores := len(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(0, {cores - 1})
    found = {(name, burst): Relayed() for name in LIBRARIES for burst in (BURST, 1)}
    for _ in range(options.rounds):
        for name in LIBRARIES:
            with running(name) as (port, pid):
                traffic = Traffic([port], 0)
                for burst in (BURST, 1):
                    relay(traffic, options.seconds, {pid: found[name, burst]}, burst)
                traffic.close()
    for (name, burst), relayed in found.items():
        print(f"{name}, {burst} at a time: relayed/s {relayed}")


if __name__ == "__main__":
    main()
