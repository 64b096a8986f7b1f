"""What a broker tells of itself: metrics, health, logs; and what its process does on signals, with TLS."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from peercli.server.app import Server
from peercli.server.options import Limits, ServerOptions
from tests.brokers import redis_server, socket_url
from tests.commands import peercli
from tests.server.certificates import make_certificate
from tests.server.clients import SOON, client, ends, get, receive, send


def serve(limits: Limits | None = None, **options: Any) -> Server:
    return Server(ServerOptions(port=0, limits=limits or Limits(), **options))


async def scrape(url: str) -> dict[str, float]:
    status, headers, body = await get(url + "metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


async def test_metrics() -> None:
    async with serve() as server, client(server.url, "a") as a, client(server.url, "b") as b:
        for type in ("OFFER", "CANDIDATE", "CANDIDATE", "NONSENSE"):
            await send(a, type, dst="b")
        await send(a, "OFFER", dst="nobody", payload="x" * 100)
        await send(a, "OFFER", dst="b")
        for _ in range(4):
            await receive(b)
        async with connect(socket_url(server.url, id="c", token="t", key="wrong")) as refused:
            await receive(refused)
        found = await scrape(server.url)
        assert found["peercli_clients peerjs"] == 2
        assert found["peercli_sockets_opened_total"] == 3
        assert found["peercli_messages_total OFFER"] == 3
        assert found["peercli_messages_total CANDIDATE"] == 2
        assert found["peercli_messages_total other"] == 1
        assert found["peercli_rejected_total Invalid key provided"] == 1
        assert found["peercli_held_peers"] == 1
        assert found["peercli_held_bytes"] > 100
        assert found["peercli_message_seconds_bucket +Inf"] == found["peercli_message_seconds_count"] >= 6
        assert "peercli_redis_up" not in found


async def test_metrics_are_for_this_machine_unless_told_otherwise() -> None:
    async with serve() as server:
        assert (await get(server.url + "metrics", **{"X-Forwarded-For": "192.0.2.1"}))[0] == 404
    async with serve(metrics=True) as server:
        assert (await get(server.url + "metrics", **{"X-Forwarded-For": "192.0.2.1"}))[0] == 200


async def test_health(tmp_path: Path) -> None:
    async with serve() as server:
        assert (await get(server.url + "healthz"))[0] == 200
    async with redis_server(tmp_path) as url, serve(redis=url) as server:
        assert (await get(server.url + "healthz"))[0] == 200
        assert (await scrape(server.url))["peercli_redis_up"] == 1
    async with serve(redis=f"unix://{tmp_path}/none") as server:
        assert (await get(server.url + "healthz"))[0] == 503
        assert (await scrape(server.url))["peercli_redis_up"] == 0


async def test_clients_leave_one_after_the_other() -> None:
    async with serve(drain=0.6) as server:
        url = server.url
        sockets = [await connect(socket_url(url, id=id, token="t")) for id in "abcd"]
        for socket in sockets:
            await receive(socket)
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        assert await ends(sockets[0])
        await send(sockets[3], "OFFER", dst="c")  # the rest go on meanwhile
        assert (await receive(sockets[2]))["src"] == "d"
        with pytest.raises(ConnectionRefusedError):
            await connect(socket_url(url, id="e", token="t"))
        for socket in sockets[1:]:
            assert await ends(socket)
            assert socket.close_code == 1001
        await leaving
        server._stopping = True


# The process ----------------------------------------------------------------------------------------


async def test_tls_and_reload(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "one")
    options = ("--tls-cert", str(cert), "--tls-key", str(key), "--log-format", "json")
    async with peercli("server", "--json", "--port", "0", *options) as broker:
        url = json.loads(await broker.line())["url"]
        assert url.startswith("https://")
        url = url.replace("127.0.0.1", "localhost")

        async def meet(authority: Path) -> None:
            trust = ssl.create_default_context(cafile=authority)
            async with client(url, "a", ssl=trust) as socket:
                await send(socket, "OFFER", dst="a")
                assert (await receive(socket))["src"] == "a"

        await meet(cert)
        make_certificate(tmp_path, "one")  # a new one in the same place
        broker.process.send_signal(signal.SIGHUP)
        await broker.says("read again")
        await meet(cert)
        cert.write_text("nonsense")
        broker.process.send_signal(signal.SIGHUP)
        await broker.says("nothing was reloaded")
    for line in broker.stderr.splitlines():
        record = json.loads(line)
        assert record.keys() >= {"time", "level", "logger", "message"}
        assert "id" not in record


async def test_closing_its_terminal_ends_it() -> None:
    """…though SIGHUP has another meaning for it while the terminal is there."""
    ours, its = os.openpty()
    command = (sys.executable, "-m", "peercli", "server", "--port", "0", "--log-format", "text")
    process = await asyncio.create_subprocess_exec(
        "setsid", "--ctty", *command, stdin=its, stdout=its, stderr=its
    )
    os.close(its)
    try:
        async with asyncio.timeout(3 * SOON):
            await asyncio.to_thread(read_until, ours, b"Listening at")
            process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(read_until, ours, b"read again")
            os.close(ours)
            assert await process.wait() == 143
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def read_until(terminal: int, text: bytes) -> None:
    shown = b""
    while text not in shown:
        shown += os.read(terminal, 1024)


@pytest.mark.parametrize("named", [False, True])
async def test_logs_name_nobody_unless_asked_to(named: bool) -> None:
    options = ["--log-format", "text", *(["--log-ids"] if named else [])]
    async with peercli("server", "--json", "--port", "0", *options) as broker:
        url = json.loads(await broker.line())["url"]
        async with client(url, "somebody") as socket:
            await send(socket, "OFFER", dst="nobody", payload={"sdp": "v=0"})
            await broker.says("a client has come")
        await broker.says("a client has gone")
    assert ("somebody" in broker.stderr) == named
    assert "v=0" not in broker.stderr


async def test_sigterm_says_goodbye() -> None:
    async with peercli("server", "--json", "--port", "0") as broker:
        url = json.loads(await broker.line())["url"]
        async with client(url, "a") as socket:
            broker.process.terminate()
            assert await ends(socket)
            assert socket.close_code == 1001
        assert await broker.exit_code() == 143


async def test_two_on_one_port(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        options = ("--json", "--redis", redis, "--share-port")
        async with peercli("server", *options, "--port", "0") as one:
            url = json.loads(await one.line())["url"]
            port = url.rstrip("/").rpartition(":")[2]
            async with peercli("server", *options, "--port", port) as two:
                assert json.loads(await two.line())["url"] == url
                async with client(url, "a") as a, client(url, "b") as b:
                    await send(a, "OFFER", dst="b")
                    assert (await receive(b))["src"] == "a"


async def test_a_shared_port_needs_redis() -> None:
    async with peercli("server", "--port", "0", "--share-port") as broker:
        assert await broker.exit_code() == 2
        assert "--redis" in broker.stderr
