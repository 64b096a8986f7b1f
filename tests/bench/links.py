"""A pipe over links with a delay, beside the kernel's TCP on the same link: `python -m tests.bench.links`.

The links are wires of tests/netlab with a queue of one round trip. Goodput is what arrives within so many
seconds of the connection's opening, start-up phase and all; iperf3 counts alike. Shares are those of flows
that start together on one link, without the first seconds; the round trip beside them is that of datagrams
of the bench's own. It takes root, as tests/netlab does.

The kernel's TCP hardly minds what else the machine does, a process does: on one that is busy with other work,
`--realtime` lets the peerclis run before it, to see what the protocol can do.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from tests.netlab.lab import Lab, Node
from tests.netlab.servers import broker
from tests.netlab.shaper import Shape

__all__ = ["LINKS", "Ends", "Flow", "Link", "main", "pipe", "tcp"]

PING_INTERVAL = 0.02  # s
IPERF3_TRIES = 3  # now and then it loses its own control connection
SETTLING = 3.0  # s of flows side by side before their shares count
MEGABIT = 1e6 / 8  # bytes
PIECE = bytes(1 << 17)

Flow = Callable[[], int]
"""Tells how many bytes have arrived so far."""


@dataclass(frozen=True, slots=True)
class Link:
    """Round trip in seconds, Mbit/s, and the fraction of packets that is lost, each way."""

    rtt: float
    rate: float
    loss: float = 0.0

    def __str__(self) -> str:
        loss = f", {self.loss:.1%} loss" if self.loss else ""
        return f"{self.rtt * 1000:.0f} ms, {self.rate:.0f} Mbit/s{loss}"

    @property
    def shape(self) -> Shape:
        queue = self.rtt * self.rate * MEGABIT
        return Shape(delay=self.rtt / 2, rate=self.rate * 1e6, queue=queue, loss=self.loss)


LINKS = (Link(0.02, 100), Link(0.02, 100, 0.01), Link(0.1, 100, 0.001), Link(0.3, 20))
SHARED = Link(0.02, 50)
SIDE_BY_SIDE = (
    *(("pipe",), ("bbr",), ("cubic",)),
    *(("pipe", "pipe"), ("pipe", "cubic"), ("pipe", "bbr"), ("cubic", "bbr")),
)


class Ends:
    """Two nodes joined by a link, with a broker and an iperf3 server at the far end."""

    def __init__(self, lab: Lab, link: Link, *, realtime: bool) -> None:
        self.before = ("chrt", "--rr", "1") if realtime else ()  # what starts a peercli
        self.here, self.there = lab.node("here"), lab.node("there")
        self.wire = lab.wire(self.here, self.there, link.shape)
        self.broker = broker(self.there, self.there.address)
        self.there.start("iperf3", "--server", stdout=subprocess.DEVNULL)
        self.serial = itertools.count(1)


@contextmanager
def pipe(ends: Ends) -> Iterator[Flow]:
    """Zeros through `peercli pipe` from here to there, from the moment the connection is open."""
    common = ("--server", ends.broker, "--ice", "none", "--json")
    name = f"pipe-{next(ends.serial)}"
    with ExitStack() as stack:
        receiver = _peercli(ends, ends.there, "pipe", "--id", name, "--recv-only", *common)
        stack.enter_context(receiver)
        stack.callback(receiver.kill)
        _await_event(receiver, "open")
        with open("/dev/zero", "rb") as zeros:
            sender = _peercli(ends, ends.here, "pipe", name, "--send-only", *common, stdin=zeros.fileno())
        stack.enter_context(sender)
        stack.callback(sender.kill)
        arrived = _Counter(lambda: len(receiver.stdout.read1(1 << 20)))  # type: ignore[union-attr]
        _await_event(sender, "connection")
        yield arrived.count


def _peercli(
    ends: Ends, node: Node, *arguments: str, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        node.inside(*ends.before, sys.executable, "-m", "peercli", *arguments),
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _await_event(process: subprocess.Popen[bytes], name: str) -> None:
    assert process.stderr
    for line in process.stderr:
        if json.loads(line)["event"] == name:
            return
    raise RuntimeError(f"peercli has ended before {name!r}")


@contextmanager
def tcp(ends: Ends, congestion: str) -> Iterator[Flow]:
    """Zeros through a connection of the kernel's from here to there."""
    with (
        ends.there.socket(socket.SOCK_STREAM, ends.there.address) as server,
        ends.here.socket(socket.SOCK_STREAM) as here,
    ):
        server.listen()
        here.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
        here.connect(server.getsockname())
        there, _ = server.accept()
        with there:
            buffer = bytearray(1 << 20)
            arrived = _Counter(lambda: there.recv_into(buffer))
            sent = _Counter(lambda: here.send(PIECE))
            yield arrived.count
            for end in (here, there):
                end.shutdown(socket.SHUT_RDWR)
            arrived.join()
            sent.join()


class _Counter(threading.Thread):
    """Calls a function over and over, and adds up what it returns, until that is 0 or it fails."""

    def __init__(self, step: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._step = step
        self._total = 0
        self.start()

    def run(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while count := self._step():
                self._total += count

    def count(self) -> int:
        return self._total


def goodput(flow: AbstractContextManager[Flow], seconds: float) -> float:
    """Mbit/s of a flow in its first seconds."""
    with flow as arrived:
        time.sleep(seconds)
        return arrived() / seconds / MEGABIT


def iperf3(ends: Ends, congestion: str, seconds: int) -> float:
    """Mbit/s as iperf3's receiving end counts them."""
    arguments = ("--client", ends.there.address, "--congestion", congestion, "--time", str(seconds), "--json")
    for _ in range(IPERF3_TRIES):
        report = json.loads(ends.here.run("iperf3", *arguments))
        if "error" not in report:
            return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6
    raise RuntimeError(f"iperf3: {report['error']}")


@contextmanager
def ping(ends: Ends) -> Iterator[list[float]]:
    """Round trips in seconds of datagrams that go to the far end and back, in a list that grows."""
    round_trips: list[float] = []
    with (
        ends.there.socket(socket.SOCK_DGRAM, ends.there.address) as echo,
        ends.here.socket(socket.SOCK_DGRAM, ends.here.address) as here,
    ):
        here.connect(echo.getsockname())

        def ask() -> int:
            time.sleep(PING_INTERVAL)
            return here.send(struct.pack("d", time.perf_counter()))

        def answer() -> int:
            data, source = echo.recvfrom(8)
            return echo.sendto(data, source) if data else 0

        def note() -> int:
            if data := here.recv(8):
                round_trips.append(time.perf_counter() - struct.unpack("d", data)[0])
            return len(data)

        threads = [_Counter(answer), _Counter(note), _Counter(ask)]
        yield round_trips
        for end in (here, echo):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def shares(
    ends: Ends, flows: Sequence[AbstractContextManager[Flow]], seconds: float
) -> tuple[list[float], list[float]]:
    """Mbit/s of each flow beside the others, and the round trips beside them."""
    with ExitStack() as stack:
        arrived = [stack.enter_context(flow) for flow in flows]
        time.sleep(SETTLING)
        round_trips = stack.enter_context(ping(ends))
        before = [count() for count in arrived]
        time.sleep(seconds)
        after = [count() for count in arrived]
    return [(b - a) / seconds / MEGABIT for a, b in zip(before, after, strict=True)], sorted(round_trips)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=12)
    parser.add_argument("--link", type=int, action="append", help="only this one of LINKS, counted from 0")
    parser.add_argument("--no-links", action="store_true")
    parser.add_argument("--no-shares", action="store_true")
    parser.add_argument("--realtime", action="store_true")
    options = parser.parse_args(arguments)
    print(f"Mbit/s, {options.seconds} s, medians and ranges of {options.rounds} rounds")
    for number in () if options.no_links else options.link or range(len(LINKS)):
        compare(LINKS[number], options.rounds, options.seconds, realtime=options.realtime)
    if not options.no_shares:
        share(options.rounds, options.seconds, realtime=options.realtime)


def compare(link: Link, rounds: int, seconds: int, *, realtime: bool) -> None:
    """A pipe and the kernel's TCP, in turns on one link."""
    with Lab() as lab:
        ends = Ends(lab, link, realtime=realtime)
        ways: dict[str, Callable[[], float]] = {
            "peercli pipe": lambda: goodput(pipe(ends), seconds),
            "iperf3, BBR": lambda: iperf3(ends, "bbr", seconds),
            "iperf3, CUBIC": lambda: iperf3(ends, "cubic", seconds),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, measure in ways.items():
                rates[name].append(measure())
    print(link)
    for name, figures in rates.items():
        _print(name, figures)
    ratios = [ours / bbr for ours, bbr in zip(rates["peercli pipe"], rates["iperf3, BBR"], strict=True)]
    _print("the pipe's part of BBR's", ratios, ".2f")


def share(rounds: int, seconds: int, *, realtime: bool) -> None:
    """Flows side by side."""
    print(f"side by side, {SHARED}")
    with Lab() as lab:
        ends = Ends(lab, SHARED, realtime=realtime)
        for names in SIDE_BY_SIDE:
            rates: list[list[float]] = []
            waits: list[list[float]] = []
            for _ in range(rounds):
                flows = [pipe(ends) if name == "pipe" else tcp(ends, name) for name in names]
                figures, round_trips = shares(ends, flows, seconds)
                rates.append(figures)
                waits.append(round_trips)
            for name, figures_of_one in zip(names, zip(*rates, strict=True), strict=True):
                _print(f"{name} of {' and '.join(names)}", figures_of_one)
            _print("  round trip beside, median, ms", [1000 * statistics.median(w) for w in waits])
            _print("  round trip beside, 95 of 100, ms", [1000 * w[len(w) * 95 // 100] for w in waits])


def _print(name: str, figures: Sequence[float], how: str = ".1f") -> None:
    low, middle, high = (format(x, how) for x in (min(figures), statistics.median(figures), max(figures)))
    print(f"  {name:40} {middle:>7}  ({low} to {high})", flush=True)


if __name__ == "__main__":
    main()
