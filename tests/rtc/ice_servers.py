"""STUN and TURN servers for tests: fakes that behave as told, and the real coturn.

    async with fake_stun(answer=("198.51.100.7", 4000)) as server: ...
    async with coturn(tmp_path) as turn: ...  turn.server(transport="tcp")

All listen on loopback.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from aioice import stun

from peercli.options import IceServer
from tests import tools
from tests.certificates import Certificate

__all__ = ["Coturn", "FakeStun", "coturn", "fake_stun", "mapped", "silence"]

Reply = Callable[[stun.Message, tuple[str, int]], list[bytes]]
"""What a fake server sends back for a request and its source."""

START_TIMEOUT = 20.0  # s for coturn to listen


def silence(request: stun.Message, source: tuple[str, int]) -> list[bytes]:
    """No reply at all."""
    return []


def mapped(address: tuple[str, int] | None = None) -> Reply:
    """The reply of a good server that sees its client at `address`; by default, where it is."""

    def reply(request: stun.Message, source: tuple[str, int]) -> list[bytes]:
        response = stun.Message(request.message_method, stun.Class.RESPONSE, request.transaction_id)
        response.attributes["XOR-MAPPED-ADDRESS"] = address or source
        return [bytes(response)]

    return reply


class FakeStun(asyncio.DatagramProtocol):
    """A UDP server that answers as `reply` says, and counts who asked."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.requests = 0
        self.asked = asyncio.Event()
        self.server = IceServer("stun", "127.0.0.1", 0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)
        host, port = transport.get_extra_info("sockname")[:2]
        self.server = IceServer("stun", host, port)

    def datagram_received(self, data: bytes, source: tuple[str | Any, int]) -> None:
        self.requests += 1
        self.asked.set()
        for answer in self._reply(stun.parse_message(data), source[:2]):
            self._transport.sendto(answer, source)


@asynccontextmanager
async def fake_stun(reply: Reply, address: str = "127.0.0.1") -> AsyncIterator[FakeStun]:
    """A fake STUN server on loopback."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: FakeStun(reply), local_addr=(address, 0)
    )
    try:
        yield protocol
    finally:
        transport.close()


@dataclass
class Coturn:
    """A running coturn with one user."""

    process: asyncio.subprocess.Process
    address: str
    port: int
    tls_port: int

    def server(
        self,
        *,
        transport: Literal["udp", "tcp", "tls"] = "udp",
        username: str = "user",
        password: str = "secret",
    ) -> IceServer:
        if transport == "tls":
            return IceServer("turns", self.address, self.tls_port, "tcp", username, password)
        return IceServer("turn", self.address, self.port, transport, username, password)

    def freeze(self) -> None:
        """Let it hold its sockets and say nothing more."""
        self.process.send_signal(signal.SIGSTOP)


_ONE_USER = ("--lt-cred-mech", "--user=user:secret")


@asynccontextmanager
async def coturn(
    folder: Path, address: str = "127.0.0.1", tls: Certificate | None = None, secret: str | None = None
) -> AsyncIterator[Coturn]:
    """The real TURN server, over UDP and TCP, on request TLS too; its files go to `folder`.

    Args:
        secret: lets in whoever has credentials signed by it, instead of the one user.
    """
    program = tools.program("turnserver")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        socket.create_server((address, 0), family=family) as probe,
        socket.create_server((address, 0), family=family) as tls_probe,
    ):
        port, tls_port = probe.getsockname()[1], tls_probe.getsockname()[1]
    secure = (f"--cert={tls.cert}", f"--pkey={tls.key}", f"--tls-listening-port={tls_port}") if tls else ()
    process = await asyncio.create_subprocess_exec(
        program,
        *("-n", "--no-cli", "--no-dtls", "--fingerprint", "--no-rfc5780"),
        *("--realm=test", "--allow-loopback-peers"),
        *(("--use-auth-secret", f"--static-auth-secret={secret}") if secret else _ONE_USER),
        *(secure or ("--no-tls",)),
        *(f"--listening-ip={address}", f"--relay-ip={address}", f"--listening-port={port}"),
        *(f"--userdb={folder / 'turndb'}", f"--pidfile={folder / 'pid'}", "--log-file=stdout"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"]},
        cwd=folder,
    )
    try:
        async with asyncio.timeout(START_TIMEOUT):
            for listening in (port, tls_port) if tls else (port,):
                await _listening(process, address, listening)
        yield Coturn(process, address, port, tls_port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _listening(process: asyncio.subprocess.Process, address: str, port: int) -> None:
    while True:
        assert process.returncode is None, "coturn did not start"
        try:
            _, writer = await asyncio.open_connection(address, port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        await writer.wait_closed()
        return
