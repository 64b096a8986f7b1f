"""Brokers under load: `python -m tests.bench broker`, ours beside the real PeerServer, in turns.

Everything stays on the loopback. The broker runs on one core, the load on another, as raw non-blocking
sockets and ready-made frames, so that the broker is what is measured (its CPU share is printed: near 100 % it
was the bottleneck). Clients come from many loopback addresses, as they would from the world.

    opened      WebSockets opened a second, handshake to OPEN, 64 at a time, each closed at once
    relayed     CANDIDATEs of 312 bytes relayed a second between 200 pairs: in bursts, as PeerJS sends them, 8
                of them, answered by as many when all have come
    p99         of the time from send to receipt, at half the rate that PeerServer relayed in that round
    --cluster   instead: messages relayed a second by 1, 2 and 3 brokers of ours at one Redis, the two of each
                pair at different ones
    idle        resident memory that 10,000 open clients add, and how many would fit in 1 GiB
"""

from __future__ import annotations

import argparse
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
    """Open `count` clients, AT_ONCE at a time; those of one number are c<number>. All must hear OPEN."""
    kept: list[socket.socket] = []
    poll = select.epoll()
    under_way: dict[int, tuple[socket.socket, bytearray, str]] = {}
    begun = done = 0
    deadline = time.monotonic() + 60
    while done < count:
        while begun < count and len(under_way) < AT_ONCE:
            end = dial(ports[begun % len(ports)], first + begun)
            under_way[end.fileno()] = end, bytearray(), f"c{first + begun}"
            poll.register(end, select.EPOLLOUT)
            begun += 1
        for fd, events in poll.poll(1):
            end, heard, name = under_way[fd]
            if events & select.EPOLLOUT and not heard:
                end.send(HANDSHAKE.format(id=name).encode())
                poll.modify(fd, select.EPOLLIN)
                continue
            piece = end.recv(4096)
            heard += piece
            if OPEN in heard:
                poll.unregister(fd)
                del under_way[fd]
                done += 1
                if keep:
                    kept.append(end)
                else:
                    end.close()
            elif not piece:
                raise AssertionError(f"the broker refused {name}: {bytes(heard)!r}")
        assert time.monotonic() < deadline, f"{done} of {count} clients were let in"
    poll.close()
    return kept


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
        self.bursts = [frame * BURST for frame in self.frames]

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

    def rate(self, seconds: float) -> float:
        """Messages relayed a second, each answered by the next."""
        sizes = [BURST * self._relayed_size(n) for n in range(len(self.ends))]
        left = sizes.copy()  # bytes of the burst that comes
        ends, number, bursts, poll = self.ends, self.number, self.bursts, self.poll.poll
        for end, burst in zip(ends, bursts, strict=True):
            end.send(burst)
        begun, count = time.perf_counter(), 0
        while (now := time.perf_counter()) - begun < seconds:
            for fd, _ in poll(1):
                n = number[fd]
                left[n] -= len(ends[n].recv(65536))
                while left[n] <= 0:
                    count += BURST
                    left[n] += sizes[n]
                    ends[n].send(bursts[n])
        took = now - begun
        while any(size != whole for size, whole in zip(left, sizes, strict=True)) or self.poll.poll(0.5):
            for fd, _ in poll(1):  # what was under way
                n = number[fd]
                left[n] -= len(ends[n].recv(65536))
                while left[n] <= 0:
                    left[n] += sizes[n]
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


@contextmanager
def cpu_share(pids: list[int]) -> Iterator[list[float]]:
    """The share of one core that the processes used meanwhile."""
    processes = [psutil.Process(pid) for pid in pids]

    def used() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before, begun = used(), time.perf_counter()
    share: list[float] = []
    yield share
    share.append((used() - before) / (time.perf_counter() - begun))


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
    relayed: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
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
        traffic.rate(1.0)  # warm
        with cpu_share([pid]) as share:
            figures.relayed.append(traffic.rate(seconds))
        figures.cpu.append(share[0])
        taken = traffic.latencies(half or figures.relayed[-1] / 2, seconds)
        figures.p99.append(statistics.quantiles(taken, n=100)[98])
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
    """What brokers that share a realm relay, on any core: where there are two, with Redis and the load."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "redis.sock"
        command = [tools.program("redis-server"), "--port", "0", "--unixsocket", str(path), "--save", ""]
        redis = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                time.sleep(0.01)
            for count in (1, 2, 3):
                figures, shares = Figures(), []
                for turn in range(options.rounds):
                    with ExitStack() as stack:
                        started = [
                            stack.enter_context(broker("peercli", "--redis", f"unix://{path}"))
                            for _ in range(count)
                        ]
                        traffic = Traffic([port for port, _ in started], 1000 * (10 * count + turn))
                        traffic.rate(1.0)
                        with cpu_share([redis.pid, *(pid for _, pid in started)]) as share:
                            figures.relayed.append(traffic.rate(options.seconds))
                        shares.append(share[0])
                        traffic.close()
                print(row(f"{count} brokers, relayed/s", figures.relayed, "{:,.0f}"), end=" ")
                print(row("at CPU, with Redis", shares, "{:.0%}"), flush=True)
        finally:
            redis.kill()
            redis.wait()


def row(label: str, values: list[float], form: str) -> str:
    middle = form.format(statistics.median(values))
    return f"{label} {middle} ({form.format(min(values))}-{form.format(max(values))})"


def compare(options: argparse.Namespace) -> None:
    found = {name: Figures() for name in options.brokers}
    for turn in range(options.rounds):
        half: float | None = None
        for name in options.brokers:
            measure(name, found[name], options.seconds, half, not options.no_idle)
            if name == "PeerServer":
                half = found[name].relayed[-1] / 2
        print(f"round {turn + 1} of {options.rounds} done", file=sys.stderr)
    for name, figures in found.items():
        print(name)
        print(row("  opened/s ", figures.opened, "{:,.0f}"))
        print(row("  relayed/s", figures.relayed, "{:,.0f}"), row("at CPU", figures.cpu, "{:.0%}"))
        print(row("  p99 ms   ", [1000 * p99 for p99 in figures.p99], "{:.2f}"))
        if figures.idle:
            print(row(f"  MiB for {IDLE:,} idle", figures.idle, "{:.1f}"))
            print(row("  held in 1 GiB", [1024 / mib * IDLE for mib in figures.idle], "{:,.0f}"))


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
