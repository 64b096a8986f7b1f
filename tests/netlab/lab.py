"""Networks to try peercli in, made of network namespaces: homes behind NATs, an internet, wires with a delay.

    with Lab() as lab:
        alice = lab.home("alice", Nat.SYMMETRIC).host()
        bob = lab.home("bob", Nat.PORT_RESTRICTED, Shape(delay=0.02, loss=0.01)).host()
        url, turn = broker(lab.internet), coturn(lab.internet)      # of tests.netlab.servers
        async with alice.peercli("pipe", "bob", "--server", url, "--ice", turn.url("udp")) as pipe:
            ...

        here, there = lab.node("here"), lab.node("there")           # or nothing but a wire
        lab.wire(here, there, Shape(delay=0.01, rate=100e6))

Packets stay in the namespaces. Leaving the block ends every process in them and removes them; what a crash
left behind is removed when the next lab is made. It takes root, on Linux.

Addresses: the internet is 198.18.0.0/15 (RFC 2544), its servers 198.18.0.1 and 198.18.0.2; in every home and
LAN the router is 192.168.1.1 and the hosts count from 192.168.1.2, so that they collide as they do in life.
Where there is IPv6, it is 2001:db8::/32 (RFC 3849), with the server 2001:db8::1 and a network for each home.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests import tools
from tests.commands import Command, peercli
from tests.netlab.shaper import Counters, Shape, enter

__all__ = ["Device", "Home", "Lab", "Nat", "Node", "Wire", "needed"]

PREFIX = "peercli-lab-"  # of a namespace's name; the owner's process id follows
NAMESPACES = Path("/run/netns")
QUEUE_PACKETS = 10_000  # in a TUN device, for bursts that its router has not read yet
REPOSITORY = Path(__file__).parents[2]

_serials = itertools.count(1)


class Nat(Enum):
    """What stands between a home and the internet (RFC 4787, RFC 3489's names)."""

    NONE = "public"
    """Nothing: the hosts have public addresses."""
    FULL_CONE = "full-cone"
    """Endpoint-independent mapping and filtering."""
    ADDRESS_RESTRICTED = "address-restricted"
    """Endpoint-independent mapping, address-dependent filtering."""
    PORT_RESTRICTED = "port-restricted"
    """Endpoint-independent mapping, address- and port-dependent filtering: what most home routers do."""
    SYMMETRIC = "symmetric"
    """Address- and port-dependent mapping and filtering."""
    UDP_BLOCKED = "udp-blocked"
    """Port-restricted for TCP, and no UDP passes at all."""


# Linux keeps a source port where it can, so a plain masquerade maps independently of the far end; its
# filter is the connection table. What comes uninvited is dropped before it makes an entry there: that entry
# would take the port from the connection on its way out, and nothing could be punched through.
_RULES = """
table ip lab {{
    map mapped {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; }}
    set sent_to {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; }}
    chain in {{
        type nat hook prerouting priority dstnat;
        {dnat}
    }}
    chain out {{
        type nat hook postrouting priority srcnat;
        oifname "wan" meta l4proto udp update @mapped {{ udp sport : ip saddr . udp sport }}
        oifname "wan" meta l4proto udp update @sent_to {{ ip daddr . udp sport }}
        oifname "wan" masquerade {masquerade}
    }}
    chain forward {{
        type filter hook forward priority filter;
        {forward}
    }}
    chain input {{
        type filter hook input priority filter;
        iifname "wan" ct state new drop
    }}
}}
"""
_DNAT = {
    Nat.FULL_CONE: 'iifname "wan" dnat ip to udp dport map @mapped',
    Nat.ADDRESS_RESTRICTED: 'iifname "wan" ip saddr . udp dport @sent_to dnat ip to udp dport map @mapped',
}


# What home routers do to IPv6 (RFC 6092): no translation, and nothing comes in uninvited.
_FIREWALL6 = """
table ip6 lab {
    chain forward {
        type filter hook forward priority filter;
        iifname "wan" ct state new drop
    }
}
"""


def _rules(nat: Nat) -> str:
    return _RULES.format(
        dnat=_DNAT.get(nat, ""),
        masquerade="random,fully-random" if nat is Nat.SYMMETRIC else "",
        forward="meta l4proto udp drop" if nat is Nat.UDP_BLOCKED else "",
    )


def needed() -> None:
    """Skip the test where no lab can be made; in CI, fail it."""
    if os.geteuid() != 0:
        tools.missing("root, for network namespaces")
    for name in ("ip", "nft", "sysctl"):
        tools.program(name)
    if not Path("/dev/net/tun").exists():
        tools.missing("/dev/net/tun")
    probe = f"{PREFIX}{os.getpid()}-0-probe"
    try:
        _ip("netns", "add", probe)
        _ip("netns", "del", probe)
    except subprocess.CalledProcessError as error:
        tools.missing(f"network namespaces ({error.stderr.strip()})")


class Lab:
    """Namespaces, wires between them, and the processes in them, until the block is left."""

    def __init__(self) -> None:
        _remove_stale()
        self._prefix = f"{PREFIX}{os.getpid()}-{next(_serials)}-"
        self._undo = contextlib.ExitStack()
        self._homes = 0
        self._internet: Node | None = None
        self._has_ipv6 = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process in the lab, and remove it."""
        self._undo.close()

    def node(self, name: str) -> Node:
        """A machine with no connection to anything yet."""
        node = Node(self._prefix + name)
        self._undo.callback(node.close)
        return node

    @property
    def internet(self) -> Node:
        """Where the servers are, and what every home's packets go through."""
        if self._internet is None:
            self._internet = self.node("internet")
            self._internet.forward()
            self._internet.ip("addr add 198.18.0.1/32 dev lo", "addr add 198.18.0.2/32 dev lo")
            # What is sent to nowhere vanishes on its way, and is no error of the sender's.
            self._internet.ip(
                *("link add away type veth peer name nowhere", "link set nowhere up"),
                *("link set away arp off", "link set away up", "route add default dev away"),
            )
        return self._internet

    def internet6(self) -> Node:
        """The internet, from now on with IPv6, too."""
        internet = self.internet
        if not self._has_ipv6:
            self._has_ipv6 = True
            internet.speak_ipv6(forward=True)
            internet.ip("addr add 2001:db8::1/128 dev lo nodad")
        return internet

    def home(
        self,
        name: str,
        nat: Nat,
        up: Shape | None = None,
        down: Shape | None = None,
        *,
        ipv4: bool = True,
        ipv6: bool = False,
    ) -> Home:
        """A home with a router on the internet, by a wire that does `up` to its packets, and `down` (or the
        same) to those that come; without either, by a cable that does nothing to them.

        `nat` is what IPv4 goes through; IPv6 has a firewall that lets in answers only.
        """
        self._homes += 1
        number, internet = self._homes, self.internet
        home = Home(self, name, f"198.19.{number}" if nat is Nat.NONE else "192.168.1")
        ends = (home.router, "wan"), (internet, f"home{number}")
        if up or down:
            home.wire = self._wire(*ends, up or Shape(), down or up)
        else:
            self.cable(*ends)
        home.router.ip(f"addr add 198.18.{number}.2/24 dev wan", f"route add default via 198.18.{number}.1")
        home.router.forward()
        internet.ip(f"addr add 198.18.{number}.1/24 dev home{number}")
        if nat is Nat.NONE:
            internet.ip(f"route add {home.network}.0/24 via 198.18.{number}.2")
        else:
            home.router.run("nft", "-f", "-", input=_rules(nat))
        home.ipv4 = ipv4
        if ipv6:
            self._give_ipv6(home, number)
        return home

    def _give_ipv6(self, home: Home, number: int) -> None:
        internet, between = self.internet6(), f"2001:db8:{number}"
        home.network6 = f"{between}:1"
        internet.ip(f"addr add {between}::1/64 dev home{number} nodad")
        home.router.speak_ipv6(forward=True)
        home.router.ip(
            f"addr add {between}::2/64 dev wan nodad",
            f"addr add {home.network6}::1/64 dev lan nodad",
            f"route add default via {between}::1",
        )
        internet.ip(f"route add {home.network6}::/64 via {between}::2")
        home.router.run("nft", "-f", "-", input=_FIREWALL6)

    def lan(self, name: str) -> Home:
        """A network with no way out."""
        return Home(self, name, "192.168.1")

    def wire(self, here: Node, there: Node, shape: Shape, back: Shape | None = None) -> Wire:
        """Join two nodes by a wire that does `shape` to packets from `here`, and `back` (or the same) to
        those from `there`. They become 10.N.0.1 and 10.N.0.2."""
        number = next(_serials) % 256
        device = f"wire{number}"
        wire = self._wire((here, device), (there, device), shape, back)
        for node, last in ((here, 1), (there, 2)):
            node.address = node.address or f"10.{number}.0.{last}"
            node.ip(f"addr add 10.{number}.0.{last}/24 dev {device}")
        return wire

    def _wire(self, here: Device, there: Device, shape: Shape, back: Shape | None) -> Wire:
        wire = Wire(here, there)
        self._undo.callback(wire.close)
        wire.reshape(shape, back)
        return wire

    def cable(self, here: Device, there: Device) -> None:
        """Join two nodes by new devices, without addresses, as quick as the machine."""
        (node, device), (other_node, other_device) = here, there
        _ip(
            *("link", "add", device, "netns", node.namespace, "type", "veth"),
            *("peer", "name", other_device, "netns", other_node.namespace),
        )
        for node, device in (here, there):
            node.ip(f"link set {device} up")


class Node:
    """A machine: a network namespace, and the processes in it.

    Attributes:
        namespace: its name for `ip netns`.
        address: its own, if it has one; that of its first wire, if it has several.
        address6: its own of IPv6, if it has one.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.address = self.address6 = ""
        self._processes: list[subprocess.Popen[str]] = []
        _ip("netns", "add", namespace)
        # IPv6's link-local chatter would be packets that no test sent.
        self.run("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
        self.ip("link set lo up")

    def ip(self, *commands: str) -> None:
        """Run `ip` commands here: `node.ip("link set lo up", …)`."""
        _ip("-n", self.namespace, "-batch", "-", input="\n".join(commands))

    def inside(self, *command: str) -> tuple[str, ...]:
        """The command line that runs a command here."""
        return ("ip", "netns", "exec", self.namespace, *command)

    def run(self, *command: str, input: str | None = None) -> str:
        """Run a command here to its end; its stdout.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        return _run(*self.inside(*command), input=input)

    def start(self, *command: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start a command here, its stderr with its stdout; it ends with the lab."""
        process = subprocess.Popen(
            self.inside(*command),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=REPOSITORY,
        )
        self._processes.append(process)
        return process

    @asynccontextmanager
    async def peercli(self, *arguments: str, **options: Any) -> AsyncIterator[Command]:
        """`tests.commands.peercli`, run here."""
        async with peercli(*arguments, within=self.inside(), **options) as command:
            yield command

    def socket(self, kind: socket.SocketKind, address: str = "", port: int = 0) -> socket.socket:
        """A socket of this machine's, bound, for the test itself to use."""
        made: list[socket.socket] = []

        def make() -> None:
            enter(self.namespace)
            made.append(socket.socket(socket.AF_INET, kind))

        thread = threading.Thread(target=make)  # the namespace is the thread's, and ends with it
        thread.start()
        thread.join()
        made[0].bind((address, port))
        return made[0]

    @property
    def processes(self) -> list[subprocess.Popen[str]]:
        """Those that were started here, the latest last."""
        return self._processes

    def forward(self) -> None:
        """Be a router from now on."""
        self.run("sysctl", "-qw", "net.ipv4.ip_forward=1")

    def speak_ipv6(self, *, forward: bool = False) -> None:
        """Know IPv6 from now on; with `forward` be a router for it."""
        conf = "net.ipv6.conf"
        self.run("sysctl", "-qw", f"{conf}.all.disable_ipv6=0", f"{conf}.default.disable_ipv6=0")
        self.run("sysctl", "-qw", f"{conf}.all.forwarding={int(forward)}")

    def close(self) -> None:
        """End what runs here, and remove the namespace."""
        _remove(self.namespace)
        for process in self._processes:
            process.wait()
            if process.stdout:
                process.stdout.close()


Device = tuple[Node, str]
"""A network device: whose, and its name."""


class Home:
    """A router, and the hosts behind it.

    Attributes:
        network: the first three bytes of its hosts' addresses.
        network6: the first half of those of IPv6, if it has that.
        ipv4: whether its hosts have IPv4.
        wire: to the internet, if it is one whose shape can change.
    """

    def __init__(self, lab: Lab, name: str, network: str) -> None:
        self.router = lab.node(f"{name}-router")
        self.network = network
        self.network6 = ""
        self.ipv4 = True
        self.wire: Wire | None = None
        self._lab = lab
        self._name = name
        self._hosts = 1
        self.router.ip("link add lan type bridge", f"addr add {network}.1/24 dev lan", "link set lan up")

    def host(self) -> Node:
        """One more machine at home."""
        self._hosts += 1
        port = f"port{self._hosts}"
        node = self._lab.node(f"{self._name}-{self._hosts}")
        self._lab.cable((self.router, port), (node, "eth0"))
        self.router.ip(f"link set {port} master lan")
        if self.ipv4:
            node.address = f"{self.network}.{self._hosts}"
            node.ip(f"addr add {node.address}/24 dev eth0", f"route add default via {self.network}.1")
        if self.network6:
            node.speak_ipv6()
            node.address6 = f"{self.network6}::{self._hosts}"
            node.ip(
                f"addr add {node.address6}/64 dev eth0 nodad", f"route add default via {self.network6}::1"
            )
        return node


class Wire:
    """A wire whose shape can change at any time; at first it does nothing to packets."""

    def __init__(self, here: Device, there: Device) -> None:
        devices = [text for node, device in (here, there) for text in (node.namespace, device)]
        self._process = subprocess.Popen(
            (sys.executable, "-m", "tests.netlab.shaper", *devices),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        self._answer()
        for node, device in (here, there):
            node.ip(f"link set {device} txqueuelen {QUEUE_PACKETS} up")

    def reshape(self, shape: Shape, back: Shape | None = None) -> tuple[Counters, Counters]:
        """From now on do `shape` to packets one way, and `back` (or the same) to the others; the counters."""
        return self._ask([asdict(shape), asdict(back or shape)])

    def counters(self) -> tuple[Counters, Counters]:
        """What went each way so far."""
        return self._ask([])

    def close(self) -> None:
        """Cut it."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, shapes: list[dict[str, float]]) -> tuple[Counters, Counters]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(shapes) + "\n")
        self._process.stdin.flush()
        here, there = (Counters(**counters) for counters in json.loads(self._answer()))
        return here, there

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, "the wire's process has ended"
        return line


def _remove_stale() -> None:
    """Remove what labs of processes that are gone have left."""
    for path in NAMESPACES.glob(PREFIX + "*") if NAMESPACES.exists() else ():
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            _remove(path.name)


def _remove(namespace: str) -> None:
    for pid in _run("ip", "netns", "pids", namespace).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "del", namespace)


def _ip(*arguments: str, input: str | None = None) -> None:
    _run("ip", *arguments, input=input)


def _run(*command: str, input: str | None = None) -> str:
    done = subprocess.run(command, input=input, capture_output=True, text=True, check=False)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        error.add_note(done.stderr)
        raise error
    return done.stdout
