"""Several brokers that are one realm, at a real Redis; for speed they share this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from peercli.errors import UsageError
from peercli.server import cluster
from peercli.server.app import Server
from peercli.server.options import Limits, ServerOptions
from tests.brokers import redis_server, socket_url
from tests.server.clients import SOON, client, ends, get, hears_nothing, mute_client, receive, send
from tests.server.wire import Wire


def broker(redis: str, **options: Any) -> Server:
    limits = options.pop("limits", Limits())
    return Server(ServerOptions(port=0, redis=redis, limits=limits, **options))


@asynccontextmanager
async def brokers(folder: Path, count: int = 3, **options: Any) -> AsyncIterator[list[Server]]:
    async with redis_server(folder) as url, AsyncExitStack() as stack:
        yield [await stack.enter_async_context(broker(url, **options)) for _ in range(count)]


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(4 * SOON):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def up(server: Server) -> bool:
    return server.sessions.cluster is not None and server.sessions.cluster.up


async def test_a_message_finds_its_peer_wherever_it_is(tmp_path: Path) -> None:
    async with (
        brokers(tmp_path) as (one, two, three),
        client(one.url, "a") as a,
        client(two.url, "b") as b,
        client(three.url, "c") as c,
    ):
        for type in ("OFFER", "ANSWER", "CANDIDATE", "LEAVE", "EXPIRE"):
            for dst, socket in (("b", b), ("c", c)):
                await send(a, type, dst=dst, payload={"é": "\u2028\x00😀"})
                message = {"type": type, "src": "a", "dst": dst, "payload": {"é": "\u2028\x00😀"}}
                assert await receive(socket) == message
        for n in range(300):
            await send(b, "CANDIDATE", dst="c", payload=n)
        assert [(await receive(c))["payload"] for _ in range(300)] == list(range(300))
        await send(c, "LEAVE", dst="b")
        await send(c, "LEAVE", dst="b")
        assert [(await receive(b))["type"] for _ in range(2)] == ["LEAVE", "LEAVE"]
        for server in (one, two, three):
            joined = server.sessions.cluster
            assert joined is not None
            await becomes(lambda joined=joined: joined.under_way == 0)  # type: ignore[misc]


async def test_an_id_is_unique_and_moves_with_its_token(tmp_path: Path) -> None:
    async with brokers(tmp_path, 2, allow_discovery=True) as (one, two), client(one.url, "b") as b:
        async with client(one.url, "a", "t") as a:
            async with connect(socket_url(two.url, id="a", token="other")) as other:
                assert (await receive(other))["type"] == "ID-TAKEN"
                assert await ends(other)
            assert sorted(json.loads((await get(two.url + "peerjs/peers"))[2])) == ["a", "b"]
            async with client(two.url, "a", "t") as moved:
                assert await ends(a)
                await send(b, "OFFER", dst="a", payload=1)
                assert (await receive(moved))["payload"] == 1
        await becomes(lambda: two.peers == [])
        await asyncio.sleep(0.2)
        async with client(one.url, "a", "other"):
            pass


async def test_a_key_s_limit_counts_everywhere(tmp_path: Path) -> None:
    async with (
        brokers(tmp_path, 2, concurrent_limit=1) as (one, two),
        client(one.url, "a"),
        connect(socket_url(two.url, id="b", token="t")) as refused,
    ):
        assert "limit" in (await receive(refused))["payload"]["msg"]


async def test_what_waits_finds_a_peer_that_comes_elsewhere_and_expires_once(tmp_path: Path) -> None:
    async with (
        brokers(tmp_path, expire_timeout=1.0) as (one, two, three),
        client(one.url, "a") as a,
        client(two.url, "b") as b,
    ):
        for n in range(6):
            sender, src = (a, "a") if n % 2 else (b, "b")
            await send(sender, "CANDIDATE", dst="late", payload=n)
            await asyncio.sleep(0.03)  # for their order between brokers
            await send(sender, "OFFER", dst="never", payload=src)
        async with client(three.url, "late") as late:
            assert [(await receive(late))["payload"] for _ in range(6)] == list(range(6))
            assert await receive(a) == {"type": "EXPIRE", "src": "never", "dst": "a"}
            assert await receive(b) == {"type": "EXPIRE", "src": "never", "dst": "b"}
            assert await hears_nothing(late)
        await asyncio.sleep(1.2)
        assert await hears_nothing(a)
        assert await hears_nothing(b)


async def test_held_messages_are_bounded(tmp_path: Path) -> None:
    async with (
        brokers(tmp_path, 1, limits=Limits(max_held_per_peer=3000)) as (one,),
        client(one.url, "a") as a,
    ):
        for _ in range(3):
            await send(a, "OFFER", dst="x", payload="x" * 1000)
        assert await receive(a) == {"type": "EXPIRE", "src": "x", "dst": "a"}
        assert await hears_nothing(a)


async def test_a_holder_that_vanished_at_another_broker_gives_way(tmp_path: Path) -> None:
    async with (
        brokers(tmp_path, 2, limits=Limits(probe_timeout=0.3)) as (one, two),
        mute_client(one.url, "a"),
    ):
        async with connect(socket_url(two.url, id="a", token="other")) as other:
            assert (await receive(other))["type"] == "ID-TAKEN"
        await becomes(lambda: one.peers == [])
        await asyncio.sleep(0.2)
        async with client(two.url, "a", "other"):
            pass


async def test_without_redis(tmp_path: Path) -> None:
    """Those at one broker go on, nobody new comes, others' messages expire; and all heals by itself."""
    async with AsyncExitStack() as stack:
        async with redis_server(tmp_path) as url:
            options: dict[str, Any] = {"expire_timeout": 0.5, "alive_timeout": 2.0}
            one = await stack.enter_async_context(broker(url, **options))
            two = await stack.enter_async_context(broker(url, **options))
            a = await stack.enter_async_context(client(one.url, "a"))
            b = await stack.enter_async_context(client(one.url, "b"))
            c = await stack.enter_async_context(client(two.url, "c"))
        await becomes(lambda: not up(one) and not up(two))
        await send(a, "OFFER", dst="b", payload=1)
        assert (await receive(b))["payload"] == 1
        await send(a, "OFFER", dst="c")
        assert await receive(a) == {"type": "EXPIRE", "src": "c", "dst": "a"}
        async with connect(socket_url(one.url, id="d", token="t")) as refused:
            assert "try again" in (await receive(refused))["payload"]["msg"]
        async with redis_server(tmp_path):
            for socket in (a, b, c):
                await send(socket, "HEARTBEAT")
            await becomes(lambda: up(one) and up(two))
            await send(a, "OFFER", dst="c", payload=2)
            assert (await receive(c))["payload"] == 2
            async with client(one.url, "d"):
                pass


async def test_without_redis_clients_come_back_with_their_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """…to where they were: the id cannot have become another's while the broker's lease lasts."""
    monkeypatch.setattr(cluster, "MAX_LEASE", 60.0)

    async def refused(url: str, id: str, token: str) -> str:
        async with connect(socket_url(url, id=id, token=token)) as socket:
            message = await receive(socket)
            assert await ends(socket)
            return f"{message['type']}: {message['payload']['msg']}"

    async with (
        redis_server(tmp_path) as url,
        Wire(url, tmp_path / "wire") as wire,
        broker(url) as one,
        broker(wire.url) as two,
        client(one.url, "far") as far,
        client(two.url, "near") as near,
        client(two.url, "stays", "t") as stays,
    ):
        async with client(two.url, "leaves", "t"), client(two.url, "gone", "t"):
            wire.cut()
            await becomes(lambda: not up(two))
        await becomes(lambda: two.peers == ["near", "stays"])
        assert "try again" in await refused(two.url, "leaves", "another")
        assert "try again" in await refused(two.url, "new", "t")
        async with client(two.url, "stays", "t") as again, client(two.url, "leaves", "t") as back:
            assert await ends(stays)
            for dst, socket in (("stays", again), ("leaves", back)):
                await send(near, "OFFER", dst=dst)
                assert (await receive(socket))["src"] == "near"
            assert "ID-TAKEN" in await refused(one.url, "leaves", "another")
            wire.mend()
            await becomes(lambda: up(two))
            for dst, socket in (("stays", again), ("leaves", back)):
                await send(far, "OFFER", dst=dst)
                assert (await receive(socket))["src"] == "far"
            assert "ID-TAKEN" in await refused(one.url, "stays", "another")

        wire.cut()
        await becomes(lambda: not up(two))
        assert two.sessions.cluster is not None
        two.sessions.cluster._lease_ends = 0.0  # as time would
        assert "try again" in await refused(two.url, "gone", "t")
        await becomes(lambda: two.peers == ["near"])
        assert "try again" in await refused(two.url, "leaves", "t")


async def test_a_redis_cluster_is_refused(tmp_path: Path) -> None:
    async with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", "0") as url:
        with pytest.raises(UsageError, match="Redis Cluster"):
            async with broker(url):
                pytest.fail("it listens")


async def test_a_broker_that_is_cut_off(tmp_path: Path) -> None:
    """…loses its ids to whoever asks elsewhere after the lease, and what was for its clients expires."""
    async with redis_server(tmp_path) as url, Wire(url, tmp_path / "wire") as wire, AsyncExitStack() as stack:
        options: dict[str, Any] = {"expire_timeout": 0.5, "alive_timeout": 1.5}
        one = await stack.enter_async_context(broker(url, expire_timeout=0.5))
        two = await stack.enter_async_context(broker(wire.url, **options))
        a = await stack.enter_async_context(client(one.url, "a"))
        b = await stack.enter_async_context(client(two.url, "b"))
        c = await stack.enter_async_context(client(two.url, "c"))

        async def live() -> None:
            while True:
                for socket in (b, c):
                    await send(socket, "HEARTBEAT")
                await asyncio.sleep(0.3)

        beating = asyncio.create_task(live())
        wire.cut()
        await send(a, "OFFER", dst="b")
        assert await receive(a) == {"type": "EXPIRE", "src": "b", "dst": "a"}
        async with client(one.url, "c", "other") as robber:
            wire.mend()
            await becomes(lambda: up(two))
            beating.cancel()
            assert await ends(c)
            await send(a, "OFFER", dst="b", payload="again")
            assert (await receive(b))["payload"] == "again"
            await send(b, "OFFER", dst="c", payload="to whom?")
            assert (await receive(robber))["payload"] == "to whom?"


async def test_a_broker_that_leaves_frees_its_ids(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as url, broker(url) as one:
        async with broker(url) as two, client(two.url, "a"):
            pass
        async with client(one.url, "a", "other"):
            pass


async def test_redis_that_is_not_there(tmp_path: Path) -> None:
    async with (
        broker(f"unix://{tmp_path}/none") as server,
        connect(socket_url(server.url, id="a", token="t")) as socket,
    ):
        assert "try again" in (await receive(socket))["payload"]["msg"]
    with pytest.raises(UsageError, match="Redis"):
        async with broker("ftp://x"):
            pytest.fail("it listens")
