"""magic-wormhole on loopback, to be measured against: installed into a virtual environment of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Wormhole", "wormhole"]

PACKAGES = (
    "magic-wormhole",
    "magic-wormhole-mailbox-server",
    "magic-wormhole-transit-relay",
    "setuptools<81",
)
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peercli-bench" / "wormhole"
STARTS_WITHIN = 20.0  # s


@dataclass(frozen=True)
class Wormhole:
    """Where its servers are."""

    mailbox: int
    relay: int

    def command(self, *arguments: str) -> Sequence[str]:
        """A wormhole command that knows nothing but loopback."""
        return (
            str(CACHE / "bin" / "wormhole"),
            "--relay-url",
            f"ws://127.0.0.1:{self.mailbox}/v1",
            "--transit-helper",
            f"tcp:127.0.0.1:{self.relay}",
            *arguments,
        )


@contextmanager
def wormhole() -> Iterator[Wormhole]:
    """Its mailbox server and transit relay, running; installed at first use."""
    if not (CACHE / "bin" / "wormhole").exists():
        subprocess.run([sys.executable, "-m", "venv", CACHE], check=True)
        subprocess.run([CACHE / "bin" / "pip", "install", "--quiet", *PACKAGES], check=True)
    twist = str(CACHE / "bin" / "twist")
    ports = [_free_port(), _free_port()]
    servers = [
        subprocess.Popen([twist, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=CACHE)
        for arguments in (
            ("wormhole-mailbox", "--port", f"tcp:{ports[0]}:interface=127.0.0.1"),
            ("transitrelay", "--port", f"tcp:{ports[1]}:interface=127.0.0.1"),
        )
    ]
    try:
        for port in ports:
            _await_port(port)
        yield Wormhole(*ports)
    finally:
        for server in servers:
            server.terminate()
            server.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
