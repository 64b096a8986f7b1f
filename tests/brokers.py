"""The brokers that tests run against: the real PeerServer from npm, and ours, started alike.

    async with peerserver(expire_timeout=1) as url: ...
    async with our_server(expire_timeout=1) as url: ...

Both take PeerServer's options, with times in seconds, listen on 127.0.0.1, and give their base URL. Leaving
the block ends the broker: PeerServer is killed, ours takes its leave; `our_process`, which is ours too, is
killed. To come back at the same place, enter another one with `port=port_of(url)`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from peercli.server.app import Server
from peercli.server.options import ServerOptions
from tests import tools
from tests.commands import peercli

__all__ = [
    "BROKERS",
    "BrokerFactory",
    "our_process",
    "our_server",
    "peerserver",
    "port_of",
    "redis_server",
    "socket_url",
]

BrokerFactory = Callable[..., AbstractAsyncContextManager[str]]

_MILLISECONDS = {"expire_timeout", "alive_timeout"}
_NAMES = {"tls_cert": "sslcert", "tls_key": "sslkey"}


def port_of(url: str) -> int:
    """The port in a broker's URL."""
    port = urlsplit(url).port
    assert port is not None
    return port


def socket_url(url: str, **query: str) -> str:
    """The signalling socket of the broker at `url`: `ws://…/peerjs?key=peerjs&…`."""
    return f"ws{url.removeprefix('http')}peerjs?{urlencode({'key': 'peerjs'} | query)}"


@asynccontextmanager
async def peerserver(*, port: int = 0, path: str = "/", **options: Any) -> AsyncIterator[str]:
    """The real PeerServer (npm `peer`), as a process of its own."""
    script = tools.node_modules() / "peer" / "dist" / "bin" / "peerjs.js"
    arguments = [f"--port={port}", f"--path={path}", "--host=127.0.0.1"]
    for name, value in options.items():
        given = round(value * 1000) if name in _MILLISECONDS else value
        for one in given if isinstance(given, list | tuple) else [given]:
            text = str(one).lower() if isinstance(one, bool) else str(one)
            arguments.append(f"--{_NAMES.get(name, name)}={text}")
    process = await asyncio.create_subprocess_exec(
        tools.program("node"),
        str(script),
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PORT": str(port)},  # the only way in which PeerServer takes port 0
    )
    assert process.stdout is not None
    output = process.stdout
    try:
        said = b""
        while (line := await output.readline()) and b"port: " not in line:
            said += line
        assert line, f"PeerServer did not start: {said.decode()}"
        found = int(line.partition(b"port: ")[2].partition(b",")[0])
        drain = asyncio.create_task(output.read())  # a full pipe would stop it
        try:
            scheme = "https" if "tls_cert" in options else "http"
            yield f"{scheme}://127.0.0.1:{found}{path}"
        finally:
            process.kill()  # on SIGTERM it waits for its clients to leave
            await drain
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def our_server(*, port: int = 0, **options: Any) -> AsyncIterator[str]:
    """Ours, in this event loop."""
    for name in ("tls_cert", "tls_key"):
        if name in options:
            options[name] = Path(options[name])
    async with Server(ServerOptions(port=port, **options)) as server:
        yield server.url


@asynccontextmanager
async def our_process(*, port: int = 0, **options: Any) -> AsyncIterator[str]:
    """`peercli server`, as a shell runs it."""
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    async with peercli("server", f"--port={port}", *given, stdout=DEVNULL) as server:
        yield await server.says("Listening at ")
        server.kill()


@asynccontextmanager
async def redis_server(folder: Path, *options: str) -> AsyncIterator[str]:
    """A real Redis that keeps nothing on disk, at a socket in `folder`: its URL. `options` are its own.

    Leaving the block kills it. Another one in the same folder is one that has lost its memory.
    """
    socket = folder / "redis.sock"
    socket.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        tools.program("redis-server"),
        *("--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder), *options),
        stdout=subprocess.DEVNULL,
    )
    try:
        while not await _listens(socket):
            assert process.returncode is None, "redis-server did not start"
            await asyncio.sleep(0.01)
        yield f"unix://{socket}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listens(socket: Path) -> bool:
    """Whether somebody takes connections there: the file is there a moment before."""
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


BROKERS: dict[str, BrokerFactory] = {"peerserver": peerserver, "peercli": our_server}
