"""A cluster under chaos: `python -m tests.bench chaos --clients 500`.

Real broker processes at a real Redis, while clients keep sending each other numbered offers. In turns a
broker is killed, Redis stopped, a broker cut off from Redis; each comes back. Clients whose socket ends come
back at another broker, with their token. At the end every offer has to be accounted for: delivered once, to
whom it was for; or its sender was told EXPIRE, or saw its own socket end after it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from tests.brokers import redis_server, socket_url
from tests.server.wire import Wire

__all__ = ["Account", "run"]

EXPIRE, ALIVE = 2.0, 4.0  # seconds
SETTLE = EXPIRE + ALIVE + 8.0  # seconds in which everything that is owed has come


@dataclass
class Account:
    """What became of every offer."""

    sent: dict[int, tuple[str, str, float]] = field(default_factory=dict)  # number: from, to, when
    delivered: Counter[int] = field(default_factory=Counter)
    misdelivered: int = 0
    expired: dict[tuple[str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    ended: dict[str, list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )  # whose socket ended, when
    refused: Counter[str] = field(default_factory=Counter)
    blows: Counter[str] = field(default_factory=Counter)

    def lost_silently(self) -> list[int]:
        """Offers that nobody got, and of whose loss nothing told their sender."""
        return [
            number
            for number, (src, dst, when) in self.sent.items()
            if not self.delivered[number]
            and not any(told >= when for told in self.expired[src, dst])
            and not any(ended >= when for ended in self.ended[src])
        ]

    def twice(self) -> list[int]:
        """Offers that were delivered more than once."""
        return [number for number, times in self.delivered.items() if times > 1]

    def __str__(self) -> str:
        return (
            f"{len(self.sent)} sent, {len(self.delivered)} delivered, {len(self.twice())} twice, "
            f"{self.misdelivered} to the wrong peer, {sum(map(len, self.expired.values()))} EXPIRE, "
            f"{sum(map(len, self.ended.values()))} sockets ended, {len(self.lost_silently())} lost without a "
            f"word; blows {dict(self.blows)}, refused {dict(self.refused)}"
        )


class Node:
    """A broker process that can be killed, at a Redis that it can be cut off from."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.url = ""

    async def start(self) -> None:
        port = self.url.rstrip("/").rpartition(":")[2] or "0"
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "peercli", "server", "--json", "--port", port, "--redis", self.wire.url),
            *("--expire-timeout", str(EXPIRE), "--alive-timeout", str(ALIVE)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout
        self.url = json.loads(await self.process.stdout.readline())["url"]

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


@dataclass
class Client:
    """Comes in wherever there is a broker, and sends offers to the others while `talking`."""

    name: str
    nodes: list[Node]
    names: list[str]
    pace: float
    account: Account
    talking: bool = True

    async def live(self) -> None:
        self._chance = random.Random(self.name)
        while True:
            url = socket_url(self._chance.choice(self.nodes).url, id=self.name, token=f"token of {self.name}")
            try:
                async with connect(url, open_timeout=5) as socket:
                    await self._meet(socket)
            except* (OSError, WebSocketException, TimeoutError):
                self.account.ended[self.name].append(time.monotonic())
            await asyncio.sleep(self._chance.uniform(0.05, 0.5))

    async def _meet(self, socket: ClientConnection) -> None:
        opened = json.loads(await socket.recv())
        if opened["type"] != "OPEN":
            self.account.refused[opened["type"]] += 1
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._talk(socket))
            tasks.create_task(self._listen(socket))

    async def _talk(self, socket: ClientConnection) -> None:
        while True:
            await socket.send('{"type":"HEARTBEAT"}')
            if self.talking:
                number, dst = len(self.account.sent), self._chance.choice(self.names)
                self.account.sent[number] = self.name, dst, time.monotonic()
                payload = {"number": number, "to": dst}
                await socket.send(json.dumps({"type": "OFFER", "payload": payload, "dst": dst}))
            await asyncio.sleep(self._chance.uniform(0, 2 * self.pace))

    async def _listen(self, socket: ClientConnection) -> None:
        while True:
            message = json.loads(await socket.recv())
            if message["type"] == "EXPIRE":
                self.account.expired[self.name, message["src"]].append(time.monotonic())
            else:
                self.account.delivered[message["payload"]["number"]] += 1
                self.account.misdelivered += message["payload"]["to"] != self.name


async def run(count: int, seconds: float, pace: float, blow_every: float = 3.0) -> Account:
    """`count` clients send an offer each `pace` seconds for `seconds`; what became of all that was sent.

    It takes longer if by then there has not been a blow of each kind.
    """
    account = Account()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with AsyncExitStack() as stack:
            redis = AsyncExitStack()
            url = await redis.enter_async_context(redis_server(folder))
            stack.push_async_callback(redis.aclose)
            nodes = []
            for n in range(3):
                wire = await stack.enter_async_context(Wire(url, folder / f"wire{n}"))
                node = Node(wire)
                await node.start()
                stack.push_async_callback(node.kill)
                nodes.append(node)
            names = [f"c{n}" for n in range(count)]
            clients = [Client(name, nodes, names, pace, account) for name in names]
            tasks = [asyncio.create_task(client.live()) for client in clients]
            until = time.monotonic() + seconds
            blow = 0
            while time.monotonic() < until or blow < 3:  # each kind once, on a busy machine, too
                await asyncio.sleep(blow_every)
                match blow % 3:
                    case 0:
                        account.blows["killed a broker"] += 1
                        victim = nodes[blow // 3 % 3]
                        await victim.kill()
                        await asyncio.sleep(blow_every / 2)
                        await victim.start()
                    case 1:
                        account.blows["stopped Redis"] += 1
                        await redis.aclose()
                        await asyncio.sleep(blow_every / 2)
                        await redis.enter_async_context(redis_server(folder))
                    case 2:
                        account.blows["cut a broker off"] += 1
                        wire = nodes[(blow // 3 + 1) % 3].wire
                        wire.cut()
                        await asyncio.sleep(blow_every * (1 + blow // 3 % 2))  # now and then past its lease
                        wire.mend()
                blow += 1
            for client in clients:
                client.talking = False
            await _settle(tasks, account)
    return account


async def _settle(tasks: list[asyncio.Task[None]], account: Account) -> None:
    """Wait for what is owed, then end the clients."""
    until = time.monotonic() + SETTLE
    while time.monotonic() < until and account.lost_silently():  # noqa: ASYNC110
        await asyncio.sleep(0.5)
    await asyncio.sleep(1.0)  # what should not come would come now
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pace", type=float, default=1.0, help="seconds between the offers of one client")
    options = parser.parse_args()
    account = asyncio.run(run(options.clients, options.seconds, options.pace))
    print(account)
    sys.exit(bool(account.twice() or account.misdelivered or account.lost_silently()))


if __name__ == "__main__":
    main()
