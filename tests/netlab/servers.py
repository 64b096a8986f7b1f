"""The servers of a lab: a broker, and coturn for STUN and TURN.

Each is started on a node, listens on its addresses, and ends with the lab.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests import tools
from tests.certificates import Certificate
from tests.netlab.lab import Node

__all__ = ["PASSWORD", "Turn", "broker", "coturn"]

WITHIN = 20.0  # s for a server to start
STUN_PORT, TLS_PORT = 3478, 5349
USER, PASSWORD, REALM = "lab", "secret", "lab.example"


def broker(node: Node, address: str, *options: str) -> str:
    """Start `peercli server` on one of the node's addresses; its URL."""
    command = (sys.executable, "-m", "peercli", "server", "--host", address, *options)
    process = node.start(*command)
    assert process.stdout
    said = process.stdout.readline()
    assert said.startswith("Listening at "), said
    return said.removeprefix("Listening at ").strip()


@dataclass(frozen=True, slots=True)
class Turn:
    """coturn's addresses, as `--ice` takes them."""

    address: str
    other: str

    @property
    def stun(self) -> str:
        return f"stun:{_host(self.address)}:{STUN_PORT}"

    @property
    def other_stun(self) -> str:
        """The same server at its other address, if it has one."""
        return f"stun:{_host(self.other)}:{STUN_PORT}"

    def url(self, transport: str) -> str:
        """TURN over `udp`, `tcp` or, if it has a certificate, `tls`."""
        if transport == "tls":
            return f"turns:{USER}:{PASSWORD}@{_host(self.address)}:{TLS_PORT}"
        return f"turn:{USER}:{PASSWORD}@{_host(self.address)}:{STUN_PORT}?transport={transport}"


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def coturn(node: Node, *addresses: str, relays: Sequence[str] = (), tls: Certificate | None = None) -> Turn:
    """Start coturn on the node's addresses; with two of them it can tell kinds of NAT apart (RFC 5780).

    `relays` are the addresses that it lends; by default the first.
    """
    options = ["-n", "--no-cli", "--no-dtls", "--lt-cred-mech", f"--realm={REALM}"]
    options += [f"--cert={tls.cert}", f"--pkey={tls.key}"] if tls else ["--no-tls"]
    options += [f"--user={USER}:{PASSWORD}", "--log-file=stdout", "--simple-log", "--pidfile="]
    for address in addresses:
        options += [f"--listening-ip={address}"]
    options += [f"--relay-ip={address}" for address in relays or addresses[:1]]
    with tempfile.TemporaryFile("w+") as log:  # a pipe that nobody reads would stop it in the end
        process = node.start(tools.program("turnserver"), *options, stdout=log.fileno())
        deadline = time.monotonic() + WITHIN
        while True:
            with node.socket(socket.SOCK_STREAM) as probe:
                if probe.connect_ex((addresses[0], STUN_PORT)) == 0:
                    return Turn(addresses[0], addresses[-1])
            if process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                raise RuntimeError(f"coturn does not listen: {log.read()}")
            time.sleep(0.05)
