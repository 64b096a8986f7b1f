"""The lab is what it says: wires do as asked, NATs as RFC 4787 has it, and nothing stays behind."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import socket
import subprocess
import sys
import time

import pytest

from tests.netlab.lab import NAMESPACES, PREFIX, Lab, Nat
from tests.netlab.shaper import HOLD, Direction, Shape

UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM
SOON = 0.3  # s after which what has not arrived in the namespaces of one machine will not
PACKET = 1_000  # bytes


# A direction, in a time of its own ----------------------------------------------------------------


def carried(shape: Shape, count: int, every: float = 0.001) -> list[tuple[int, float]]:
    """Send `count` packets, one `every` so many seconds from 0 on; (number, time) of those that arrive."""
    direction = Direction(shape, seed=1)
    arrivals: list[tuple[int, float]] = []

    def take_out(until: float) -> None:
        while (due := direction.next_due) <= until and due < math.inf:
            arrivals.extend((int.from_bytes(packet[:4], "big"), due) for packet in direction.due(due))

    for number in range(count):
        take_out(number * every)
        direction.take(number.to_bytes(4, "big").ljust(PACKET, b"."), number * every)
    take_out(math.inf)
    return arrivals


def test_nothing_asked() -> None:
    assert carried(Shape(), 3, 1.0) == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_delay() -> None:
    assert carried(Shape(delay=0.25), 3, 1.0) == [(0, 0.25), (1, 1.25), (2, 2.25)]


def test_jitter_keeps_the_order() -> None:
    arrivals = carried(Shape(delay=0.1, jitter=0.05), 1000)
    delays = [at - number * 0.001 for number, at in arrivals]
    assert [number for number, _ in arrivals] == list(range(1000))
    assert min(delays) >= 0.1
    assert max(delays) <= 0.15
    assert max(delays) - min(delays) > 0.02


def test_rate() -> None:
    arrivals = carried(Shape(rate=1e6), 100, every=0.0)
    assert [at for _, at in arrivals] == pytest.approx([8e-3 * (n + 1) for n in range(100)])


def test_rate_leaves_a_slower_sender_alone() -> None:
    arrivals = carried(Shape(rate=1e6), 10, every=1.0)
    assert [at for _, at in arrivals] == pytest.approx([n + 8e-3 for n in range(10)])


def test_a_full_queue_drops_what_comes_last() -> None:
    shape = Shape(rate=1e6, queue=5 * PACKET)
    assert [number for number, _ in carried(shape, 100, every=0.0)] == [0, 1, 2, 3, 4]
    # One leaves every 8 ms, so one of eight finds room after that.
    assert len(carried(shape, 800, every=0.001)) == pytest.approx(104, abs=1)


def test_loss() -> None:
    assert len(carried(Shape(loss=0.1), 10_000)) == pytest.approx(9_000, abs=120)
    assert carried(Shape(loss=1.0), 100) == []


def test_reordering() -> None:
    numbers = [number for number, _ in carried(Shape(reorder=0.1), 10_000)]
    assert sorted(numbers) == list(range(10_000))
    late = [number for before, number in itertools.pairwise(numbers) if number < before]
    assert len(late) == pytest.approx(1_000, abs=120)
    assert max(numbers.index(number) - number for number in late) <= HOLD / 0.001


def test_duplicates() -> None:
    numbers = [number for number, _ in carried(Shape(duplicate=0.1), 10_000)]
    assert sorted(set(numbers)) == list(range(10_000))
    assert len(numbers) == pytest.approx(11_000, abs=120)


# Wires --------------------------------------------------------------------------------------------


def test_a_wire_carries_packets_no_sooner_than_asked(lab: Lab) -> None:
    here, there = lab.node("here"), lab.node("there")
    lab.wire(here, there, Shape(delay=0.05), Shape(delay=0.1))
    with there.socket(UDP, there.address) as far, here.socket(UDP, here.address) as near:
        for end in (near, far):
            end.settimeout(10)
        started = time.monotonic()
        near.sendto(b"ping", far.getsockname())
        assert far.recvfrom(10) == (b"ping", near.getsockname())
        assert time.monotonic() - started >= 0.05
        far.sendto(b"pong", near.getsockname())
        assert near.recvfrom(10) == (b"pong", far.getsockname())
        assert time.monotonic() - started >= 0.15


def test_a_wire_carries_no_more_than_asked(lab: Lab) -> None:
    here, there = lab.node("here"), lab.node("there")
    wire = lab.wire(here, there, Shape(rate=10e6))
    with there.socket(TCP, there.address) as server, here.socket(TCP) as near:
        server.listen()
        near.connect(server.getsockname())
        far, _ = server.accept()
        with far:
            started = time.monotonic()
            near.sendall(bytes(100_000))
            left = 100_000
            while left:
                left -= len(far.recv(left))
            assert time.monotonic() - started >= 100_000 * 8 / 10e6
    assert wire.counters()[0].bytes > 100_000


def test_a_wire_can_be_reshaped(lab: Lab) -> None:
    here, there = lab.node("here"), lab.node("there")
    wire = lab.wire(here, there, Shape())
    with there.socket(UDP, there.address) as far, here.socket(UDP, here.address) as near:
        far.settimeout(10)
        wire.reshape(Shape(loss=1.0))
        near.sendto(b"lost", far.getsockname())
        while not wire.counters()[0].lost:
            time.sleep(0.01)
        wire.reshape(Shape(duplicate=1.0))
        near.sendto(b"twice", far.getsockname())
        assert [far.recv(10), far.recv(10)] == [b"twice", b"twice"]


# NATs ---------------------------------------------------------------------------------------------


class Server:
    """A socket on the internet."""

    def __init__(self, lab: Lab, address: str) -> None:
        self.socket = lab.internet.socket(UDP, address)
        self.socket.settimeout(SOON)

    def hears(self, client: socket.socket) -> tuple[str, int] | None:
        """Where a datagram of the client's seems to come from; None if it does not arrive."""
        client.sendto(b"hello", self.socket.getsockname())
        with contextlib.suppress(TimeoutError):
            return self.socket.recvfrom(10)[1]  # type: ignore[no-any-return]
        return None

    def reaches(self, client: socket.socket, seen_at: tuple[str, int]) -> bool:
        """Whether a datagram to there arrives at the client."""
        text = os.urandom(8)
        self.socket.sendto(text, seen_at)
        with contextlib.suppress(TimeoutError):
            return client.recv(10) == text
        return False


@pytest.mark.parametrize(
    ("nat", "one_mapping", "lets_in_address", "lets_in_port"),
    [
        (Nat.NONE, True, True, True),
        (Nat.FULL_CONE, True, True, True),
        (Nat.ADDRESS_RESTRICTED, True, False, True),
        (Nat.PORT_RESTRICTED, True, False, False),
        (Nat.SYMMETRIC, False, False, False),
    ],
    ids=lambda value: value.value if isinstance(value, Nat) else "",
)
def test_nat(lab: Lab, nat: Nat, one_mapping: bool, lets_in_address: bool, lets_in_port: bool) -> None:
    """RFC 4787 sections 4.1 (mapping) and 5 (filtering)."""
    home = lab.home("home", nat)
    host = home.host()
    first, other_port, other_address = (
        Server(lab, address) for address in ("198.18.0.1", "198.18.0.1", "198.18.0.2")
    )
    with (
        host.socket(UDP, host.address) as client,
        first.socket,
        other_port.socket,
        other_address.socket,
    ):
        client.settimeout(SOON)
        outside = (host.address if nat is Nat.NONE else "198.18.1.2", client.getsockname()[1])
        if nat is not Nat.NONE:
            assert not first.reaches(client, outside), "let in before anything went out"
        seen = first.hears(client)
        assert seen
        assert seen[0] == outside[0]
        assert first.reaches(client, seen)
        assert other_port.reaches(client, seen) is lets_in_port
        assert other_address.reaches(client, seen) is lets_in_address
        for server in (other_port, other_address):
            assert (server.hears(client) == seen) is one_mapping


def test_udp_blocked(lab: Lab) -> None:
    host = lab.home("home", Nat.UDP_BLOCKED).host()
    server = Server(lab, "198.18.0.1")
    with host.socket(UDP, host.address) as client, server.socket:
        assert server.hears(client) is None
    with lab.internet.socket(TCP, "198.18.0.1") as listening, host.socket(TCP) as client:
        listening.listen()
        client.settimeout(10)
        client.connect(listening.getsockname())
        accepted, source = listening.accept()
        accepted.close()
        assert source[0] == "198.18.1.2"


@pytest.mark.parametrize("first_out", ["here", "there"])
def test_a_hole_is_punched_whoever_comes_first(lab: Lab, first_out: str) -> None:
    """What arrives too early must not cost the mapping that lets the next in (RFC 5128 section 3.3)."""
    here, there = (lab.home(name, Nat.PORT_RESTRICTED).host() for name in ("here", "there"))
    with here.socket(UDP, here.address) as a, there.socket(UDP, there.address) as b:
        seen = {a: ("198.18.1.2", a.getsockname()[1]), b: ("198.18.2.2", b.getsockname()[1])}
        early, late = (a, b) if first_out == "here" else (b, a)
        for end in (a, b):
            end.settimeout(SOON)
        early.sendto(b"1", seen[late])
        with pytest.raises(TimeoutError):
            late.recv(10)
        late.sendto(b"2", seen[early])
        assert early.recvfrom(10) == (b"2", seen[late])
        early.sendto(b"3", seen[late])
        assert late.recvfrom(10) == (b"3", seen[early])


def test_a_lan_has_no_way_out(lab: Lab) -> None:
    lan = lab.lan("cabin")
    one, other = lan.host(), lan.host()
    with one.socket(UDP, one.address) as a, other.socket(UDP, other.address) as b:
        b.settimeout(10)
        a.sendto(b"hello", b.getsockname())
        assert b.recvfrom(10) == (b"hello", a.getsockname())
        with contextlib.suppress(OSError):  # an ICMP answer, if the router is quick to give it
            a.sendto(b"hello", ("198.18.0.1", 9))
            a.settimeout(SOON)
            assert not a.recv(10)


# What is left -------------------------------------------------------------------------------------


def namespaces(prefix: str) -> list[str]:
    return [path.name for path in NAMESPACES.glob(prefix + "*")]


def test_nothing_is_left(lab: Lab) -> None:
    with Lab() as inner:
        here, there = inner.node("here"), inner.node("there")
        inner.wire(here, there, Shape(delay=1))
        sleeper = here.start("sleep", "1000")
        assert namespaces(here.namespace)
    assert sleeper.returncode is not None
    assert not namespaces(here.namespace)
    assert not namespaces(there.namespace)


def test_what_a_crash_left_is_removed(lab: Lab) -> None:
    crash = """if True:
        import os
        from tests.netlab.lab import Lab
        Lab().node("x").start("sleep", "1000", stdout=1)
        os._exit(0)
    """
    with subprocess.Popen([sys.executable, "-c", crash], stdout=subprocess.PIPE) as process:
        process.wait()
        prefix = f"{PREFIX}{process.pid}-"
        assert namespaces(prefix)
        with Lab():
            assert not namespaces(prefix)
        assert process.stdout
        assert process.stdout.read() == b"", "not before sleep has ended, too"
