"""Brokers under load: `python -m tests.bench broker`, ours beside the real PeerServer, in turns.

Everything stays on the loopback. The broker runs on one core, the load on another, as raw non-blocking
sockets and ready-made frames, the same for every broker. Clients come from many loopback addresses, as they
would from the world. What is relayed a second tells of the broker alone only where its share of a core is
near 100 %; the CPU time of a message does so on a busy machine, too.

    opened      WebSockets opened a second, handshake to OPEN, 64 at a time, each closed at once
    relayed     CANDIDATEs of 312 bytes relayed a second between 200 pairs: 8 of them in one piece, as a
                browser finds them, answered by as many when all have come; and one by one
    CPU         of the broker, user and system, for 100,000 messages of these
    p99         of the time from send to receipt, at half the rate that PeerServer relayed in that round
    idle        resident memory that 10,000 open clients add, and how many would fit in 1 GiB
    --cluster   instead: messages relayed a second by 1, 2 and 3 brokers of ours at one Redis, the two of each
                pair at different ones
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests import tools
from tests.brokers import redis_server

__all__ = ["main"]

PAIRS = 200
BURST = 8  # messages
AT_ONCE = 64  # handshakes
IDLE = 10_000
BROKERS = ("PeerServer", "peercli")
HANDSHAKE = (
    "GET /peerjs?key=peerjs&id={id}&token=t&version=1.5.5 HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
OPEN = b'{"type":"OPEN"}'


def candidate(dst: str, stamp: str = "0" * 16) -> bytes:
    """A masked frame as PeerJS would send it; the mask is zero, which costs a broker what any other does."""
    payload = {
        "candidate": {
            "candidate": f"candidate:842163049 1 udp 1677729535 192.0.2.7 54321 typ srflx {stamp} {'y' * 65}",
            "sdpMid": "0",
            "sdpMLineIndex": 0,
            "usernameFragment": "abcd",
        },
        "type": "data",
        "connectionId": "dc_abcdefghij",
    }
    message = {"type": "CANDIDATE", "payload": payload, "dst": dst}
    text = json.dumps(message, separators=(",", ":")).encode()
    return b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text


def address(n: int) -> str:
    """The n-th of many loopback addresses."""
    return f"127.{1 + n // 60000}.{n // 250 % 240}.{1 + n % 250}"


def dial(port: int, n: int) -> socket.socket:
    """A socket under way to the broker."""
    end = socket.socket()
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: a port for each far end
    end.bind((address(n), 0))
    end.setblocking(False)
    end.connect_ex(("127.0.0.1", port))
    return end


def clients(ports: list[int], count: int, first: int = 0, keep: bool = True) -> list[socket.socket]:
    """Open `count` clients, c<first> and on, AT_ONCE at a time. All must hear OPEN."""
    kept: dict[int, socket.socket] = {}
    poll = select.epoll()
    under_way: dict[int, tuple[socket.socket, bytearray, int]] = {}
    begun = done = 0
    deadline = time.monotonic() + 60
    while done < count:
        while begun < count and len(under_way) < AT_ONCE:
            end = dial(ports[begun % len(ports)], first + begun)
            under_way[end.fileno()] = end, bytearray(), first + begun
            poll.register(end, select.EPOLLOUT)
            begun += 1
        for fd, events in poll.poll(1):
            end, heard, number = under_way[fd]
            if events & select.EPOLLOUT and not heard:
                end.send(HANDSHAKE.format(id=f"c{number}").encode())
                poll.modify(fd, select.EPOLLIN)
                continue
            piece = end.recv(4096)
            heard += piece
            if OPEN in heard:
                poll.unregister(fd)
                del under_way[fd]
                done += 1
                if keep:
                    kept[number] = end
                else:
                    end.close()
            elif not piece:
                raise AssertionError(f"the broker refused c{number}: {bytes(heard)!r}")
        assert time.monotonic() < deadline, f"{done} of {count} clients were let in"
    poll.close()
    return [kept[number] for number in sorted(kept)]


class Traffic:
    """Pairs of clients that send each other candidates."""

    def __init__(self, ports: list[int], first: int) -> None:
        # The two of a pair are at different brokers, if there are several.
        self.ends = clients(ports, 2 * PAIRS, first)
        self.names = [f"c{first + n}" for n in range(2 * PAIRS)]
        self.frames = [candidate(self.names[n ^ 1]) for n in range(2 * PAIRS)]
        self.at = self.frames[0].index(b"0" * 16)
        self.poll = select.epoll()
        self.number = {end.fileno(): n for n, end in enumerate(self.ends)}
        for end in self.ends:
            self.poll.register(end, select.EPOLLIN)
        self.heard = [b""] * (2 * PAIRS)

    def _came(self, n: int) -> Iterator[bytes]:
        """The whole messages that have come to client `n`."""
        data = self.heard[n] + self.ends[n].recv(65536)
        while len(data) >= 4:
            size = 4 + int.from_bytes(data[2:4], "big") if data[1] == 126 else 2 + data[1]
            if len(data) < size:
                break
            yield data[:size]
            data = data[size:]
        self.heard[n] = data

    def rate(self, seconds: float, burst: int = BURST) -> float:
        """Messages relayed a second, each `burst` of them answered by the next."""
        sizes = [burst * self._relayed_size(n) for n in range(len(self.ends))]
        left = sizes.copy()  # bytes of the burst that comes
        ends, number, poll = self.ends, self.number, self.poll.poll
        bursts = [frame * burst for frame in self.frames]
        for end, data in zip(ends, bursts, strict=True):
            end.send(data)
        begun, count = time.perf_counter(), 0
        while (now := time.perf_counter()) - begun < seconds:
            for fd, _ in poll(1):
                n = number[fd]
                left[n] -= len(ends[n].recv(65536))
                while left[n] <= 0:
                    count += burst
                    left[n] += sizes[n]
                    ends[n].send(bursts[n])
        took = now - begun
        while ready := poll(0.5):  # what was under way
            for fd, _ in ready:
                n = number[fd]
                left[n] = (left[n] - len(ends[n].recv(65536))) % sizes[n]
        assert not any(size % whole for size, whole in zip(left, sizes, strict=True)), "bytes were lost"
        return count / took

    def _relayed_size(self, n: int) -> int:
        """Bytes of the frame that the broker makes of what comes for client `n`: it says from whom."""
        return len(self.frames[n ^ 1]) - 4 + len(f',"src":"{self.names[n ^ 1]}"')

    def latencies(self, rate: float, seconds: float) -> list[float]:
        """Seconds from send to receipt, at `rate` messages a second, sent when due whatever comes back."""
        taken: list[float] = []
        begun, sent, turn = time.perf_counter(), 0, 0
        while (now := time.perf_counter()) - begun < seconds or (
            len(taken) < sent and now - begun < seconds + 2
        ):
            due = min(int((now - begun) * rate), int(seconds * rate))
            while sent < due:
                n = turn % len(self.ends)
                turn += 1
                frame = bytearray(self.frames[n])
                frame[self.at : self.at + 16] = b"%016d" % (time.perf_counter_ns() // 100)
                self.ends[n].send(frame)
                sent += 1
            for fd, _ in self.poll.poll(0):
                for message in self._came(self.number[fd]):
                    at = message.index(b" srflx ") + 7
                    taken.append(time.perf_counter() - int(message[at : at + 16]) / 1e7)
        assert len(taken) == sent, f"{sent - len(taken)} messages were lost"
        return taken

    def close(self) -> None:
        self.poll.close()
        for end in self.ends:
            end.close()


def cpu_seconds(pid: int) -> float:
    """What the process has used so far."""
    return sum(psutil.Process(pid).cpu_times()[:2])


@dataclass
class Relayed:
    """How many messages a second, and the CPU time that a broker took for them."""

    rate: list[float] = field(default_factory=list)
    share: list[float] = field(default_factory=list)  # of a core
    cost: list[float] = field(default_factory=list)  # CPU seconds for 100,000 messages

    def note(self, rate: float, used: float, seconds: float) -> None:
        self.rate.append(rate)
        self.share.append(used / seconds)
        self.cost.append(100_000 * used / (rate * seconds))

    def __str__(self) -> str:
        return (
            f"{row(self.rate, '{:,.0f}')} at {row(self.share, '{:.0%}')} of a core, "
            f"CPU {row(self.cost, '{:.2f}')} s for 100,000"
        )


def relay(traffic: Traffic, seconds: float, pids: dict[int, Relayed], burst: int = BURST) -> None:
    """Measure, and note what each of the processes has used for it."""
    traffic.rate(0.5, burst)  # warm
    before = {pid: cpu_seconds(pid) for pid in pids}
    rate = traffic.rate(seconds, burst)
    for pid, relayed in pids.items():
        relayed.note(rate, cpu_seconds(pid) - before[pid], seconds)


@contextmanager
def broker(name: str, *options: str, core: int | None = None) -> Iterator[tuple[int, int]]:
    """A broker in a process of its own, on one core: its port and process id."""
    pin = [] if core is None else [tools.program("taskset"), "-c", str(core)]
    if name == "PeerServer":
        script = tools.node_modules() / "peer" / "dist" / "bin" / "peerjs.js"
        command = [tools.program("node"), str(script), "--port=0", "--host=127.0.0.1"]
        command += ["--concurrent_limit=1000000"]
    else:
        command = [sys.executable, "-m", "peercli", "server", "--port", "0", "--concurrent-limit", "1000000"]
    process = subprocess.Popen(
        [*pin, *command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"PORT": "0"},
    )
    assert process.stdout is not None
    try:
        said = ""
        while (found := re.search(r"(?:port: |127\.0\.0\.1:)(\d+)\D", said)) is None:
            line = process.stdout.readline().decode()
            assert line, f"{name} did not start: {said}"
            said += line
        yield int(found[1]), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@dataclass
class Figures:
    opened: list[float] = field(default_factory=list)
    bursts: Relayed = field(default_factory=Relayed)
    singles: Relayed = field(default_factory=Relayed)
    p99: list[float] = field(default_factory=list)  # milliseconds
    idle: list[float] = field(default_factory=list)  # MiB for IDLE clients


def measure(name: str, figures: Figures, seconds: float, half: float | None, idle: bool) -> None:
    with broker(name, core=0) as (port, pid):
        process = psutil.Process(pid)
        clients([port], 200, first=500_000, keep=False)  # warm
        begun = time.perf_counter()
        count = round(600 * seconds)
        clients([port], count, first=100_000, keep=False)
        figures.opened.append(count / (time.perf_counter() - begun))
        traffic = Traffic([port], 0)
        relay(traffic, seconds, {pid: figures.bursts})
        relay(traffic, seconds, {pid: figures.singles}, burst=1)
        taken = traffic.latencies(half or figures.singles.rate[-1] / 2, seconds)
        figures.p99.append(1000 * statistics.quantiles(taken, n=100)[98])
        traffic.close()
        if idle:
            time.sleep(1)
            before = process.memory_info().rss
            held = clients([port], IDLE, first=200_000)
            time.sleep(1)
            figures.idle.append((process.memory_info().rss - before) / 2**20)
            for end in held:
                end.close()


def cluster(options: argparse.Namespace) -> None:
    """What brokers that share a realm relay, on any core: where there are two, with Redis and the load.

    They take each other's time there. What tells how more machines would do is the CPU time of a message: as
    long as it stays the same, each broker adds as much, until Redis has a core full.
    """
    counts = (1, 2, 3)
    brokers, redis = {count: Relayed() for count in counts}, {count: Relayed() for count in counts}
    for turn in range(options.rounds):
        for count in counts:
            asyncio.run(measure_cluster(count, turn, options.seconds, brokers[count], redis[count]))
    for count in counts:
        print(f"{count} brokers: relayed/s {row(brokers[count].rate, '{:,.0f}')}, CPU for 100,000:", end=" ")
        print(f"brokers {row(brokers[count].cost, '{:.2f}')} s", end=", ")
        print(f"Redis {row(redis[count].cost, '{:.2f}')} s")


async def measure_cluster(count: int, turn: int, seconds: float, brokers: Relayed, redis: Relayed) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with redis_server(Path(folder)) as url:
            (server,) = psutil.Process().children()
            with ExitStack() as stack:
                started = [stack.enter_context(broker("peercli", "--redis", url)) for _ in range(count)]
                traffic = Traffic([port for port, _ in started], 1000 * (10 * count + turn))
                total = [Relayed() for _ in started]
                pids = {pid: one for (_, pid), one in zip(started, total, strict=True)}
                relay(traffic, seconds, {server.pid: redis} | pids)  # nothing else needs the loop meanwhile
                traffic.close()
                brokers.note(total[0].rate[0], sum(one.share[0] for one in total) * seconds, seconds)


def row(values: list[float], form: str) -> str:
    """The median, and the range."""
    low, middle, high = (
        form.format(value) for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low}-{high})"


def compare(options: argparse.Namespace) -> None:
    found = {name: Figures() for name in options.brokers}
    for turn in range(options.rounds):
        half: float | None = None
        for name in options.brokers:
            measure(name, found[name], options.seconds, half, not options.no_idle)
            if name == "PeerServer":
                half = found[name].singles.rate[-1] / 2
        print(f"round {turn + 1} of {options.rounds} done", file=sys.stderr)
    for name, figures in found.items():
        print(name)
        print("  opened/s               ", row(figures.opened, "{:,.0f}"))
        print("  relayed/s, 8 in a piece", figures.bursts)
        print("  relayed/s, one by one  ", figures.singles)
        print("  p99 ms                 ", row(figures.p99, "{:.2f}"))
        if figures.idle:
            print(f"  MiB for {IDLE:,} idle    ", row(figures.idle, "{:.1f}"))
            print("  held in 1 GiB          ", row([1024 / mib * IDLE for mib in figures.idle], "{:,.0f}"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("brokers", nargs="*", default=BROKERS, metavar="BROKER", help="PeerServer, peercli")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each figure")
    parser.add_argument("--no-idle", action="store_true", help="do not open 10,000 idle clients")
    parser.add_argument("--cluster", action="store_true", help="1, 2 and 3 brokers at one Redis")
    options = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if options.cluster:
        cluster(options)
        return
    if hasattr(os, "sched_setaffinity") and (cores := len(os.sched_getaffinity(0))) > 1:
        os.sched_setaffinity(0, {cores - 1})
    compare(options)


if __name__ == "__main__":
    main()
