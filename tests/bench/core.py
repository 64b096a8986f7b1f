"""How long peercli takes to start and to connect, and a pipe's memory: `python -m tests.bench.core`.

Everything runs on this machine, peercli from bytecode, as where pip has installed it. Times are whole
commands as a shell sees them; the browser's are those of a page that is loaded and warm.
"""

from __future__ import annotations

import argparse
import asyncio
import compileall
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import peercli
from peercli import Peer
from tests import tools
from tests.brokers import our_server

PEERCLI = (sys.executable, "-m", "peercli")


def figures(name: str, seconds: Iterable[float], unit: str = "s") -> None:
    """Print a median and its range."""
    sorted_ = sorted(seconds)
    print(f"{name:58} {statistics.median(sorted_):8.3f} {unit}  ({sorted_[0]:.3f} to {sorted_[-1]:.3f})")


def start_up(rounds: int) -> None:
    """Starting a command that does nothing on the network."""
    smallest = "import typer; app = typer.Typer(); app.command()(lambda: None); app([])"
    for name, command in (
        ("python3 -c pass", (sys.executable, "-c", "pass")),
        ("the smallest typer program", (sys.executable, "-c", smallest)),
        ("peercli --version", (*PEERCLI, "--version")),
        ("peercli --help", (*PEERCLI, "--help")),
        ("peercli pipe --help", (*PEERCLI, "pipe", "--help")),
    ):
        figures(name, [_timed(command) for _ in range(rounds + 1)][1:])


def _timed(command: tuple[str, ...]) -> float:
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


async def command_to_open(broker: str, ice: str, rounds: int) -> tuple[list[float], list[float]]:
    """From the start of `peercli connect` to its report of the open connection; and the CPU of all of it."""
    listener = await asyncio.create_subprocess_exec(
        *PEERCLI, "listen", "--id", "bench", "--server", broker, "--ice", ice, stderr=subprocess.PIPE
    )
    assert listener.stderr is not None
    await listener.stderr.readline()
    seconds, cpu = [], []
    try:
        for _ in range(rounds + 1):
            started, cpu_before = time.perf_counter(), _cpu_of_the_dead()
            command = await asyncio.create_subprocess_exec(
                *(*PEERCLI, "connect", "bench", "--server", broker, "--ice", ice, "--json"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
            )
            assert command.stdout is not None
            event = json.loads(await command.stdout.readline())
            seconds.append(time.perf_counter() - started)
            assert event["event"] == "connection", event
            await command.communicate()
            cpu.append(_cpu_of_the_dead() - cpu_before)
    finally:
        listener.terminate()
        await listener.wait()
    return seconds[1:], cpu[1:]


def _cpu_of_the_dead() -> float:
    """Seconds of CPU of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def short_pipe(broker: str, rounds: int) -> list[float]:
    """`echo hi | peercli pipe ID`, until both ends have exited."""
    seconds = []
    for number in range(rounds + 1):
        arguments = (f"bench-short-{number}", "--server", broker, "--ice", "none")
        with subprocess.Popen(
            (*PEERCLI, "pipe", "--id", *arguments, "--recv-only"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as receiver:
            assert receiver.stderr is not None
            receiver.stderr.readline()
            started = time.perf_counter()
            subprocess.run((*PEERCLI, "pipe", *arguments, "-q"), input=b"hi\n", check=True)
            received, _ = receiver.communicate()
            seconds.append(time.perf_counter() - started)
            assert received == b"hi\n", received
    return seconds[1:]


async def library_to_open(broker: str, ice: tuple[str, ...], rounds: int) -> list[float]:
    """From `Peer(…)` to an open connection, in a process that has everything imported."""
    seconds = []
    async with Peer("bench-bob", server=broker, ice_servers=ice) as bob:
        for number in range(rounds + 1):
            started = time.perf_counter()
            async with Peer(f"bench-{number}", server=broker, ice_servers=ice) as peer:
                connection = await peer.connect("bench-bob")
                seconds.append(time.perf_counter() - started)
                await connection.close()
            await (await bob.accept()).close()
    return seconds[1:]


async def page_to_open(broker: str, rounds: int) -> list[float]:
    """From `new Peer()` to an open connection, page to page in Chromium."""
    from tests.interop.browsers import Browsers

    with (
        Browsers() as browsers,
        browsers.launch("chromium") as browser,
        browser.open() as here,
        browser.open() as there,
    ):
        seconds = []
        await there.peer(broker, id="bench-page")
        for number in range(rounds + 1):
            started = time.perf_counter()
            peer = await here.peer(broker, id=f"bench-page-{number}")
            connection = await peer.connect("bench-page", reliable=True)
            seconds.append(time.perf_counter() - started)
            await connection.close()
        return seconds[1:]


def pipe_memory(broker: str, megabytes: int) -> None:
    """The peak of both ends of a pipe, and its rate as a whole command pair."""
    with tempfile.TemporaryDirectory() as folder:
        original = Path(folder) / "original"
        with original.open("wb") as file:
            for _ in range(megabytes):
                file.write(os.urandom(1_000_000))
        arguments = ("--server", broker, "--ice", "none")
        receiver = subprocess.Popen(
            (*PEERCLI, "pipe", "--id", "bench-inbox", "--recv-only", *arguments),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert receiver.stderr is not None
        receiver.stderr.readline()
        started = time.perf_counter()
        with original.open("rb") as file:
            sender = subprocess.Popen(
                (*PEERCLI, "pipe", "bench-inbox", "--send-only", *arguments), stdin=file
            )
        for name, process in (("sender", sender), ("receiver", receiver)):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0, name
            cpu = usage.ru_utime + usage.ru_stime
            what = f"{megabytes} MB pipe, {name}"
            print(f"{what:58} {usage.ru_maxrss / 1024:8.0f} MiB at most, {cpu:.1f} s of CPU")
        receiver.stderr.close()
        elapsed = time.perf_counter() - started
        print(f"{f'{megabytes} MB pipe, from the start of the sending command':58} {elapsed:8.3f} s")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--megabytes", type=int, default=1000)
    options = parser.parse_args()
    compileall.compile_dir(Path(peercli.__file__).parent, quiet=1)
    start_up(options.rounds)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:  # a STUN server that never answers
        silent.bind(("127.0.0.1", 0))
        stun = f"stun:127.0.0.1:{silent.getsockname()[1]}"
        async with our_server() as broker:
            for what, ice in (("", "none"), (" with a silent STUN server", stun)):
                seconds, cpu = await command_to_open(broker, ice, options.rounds)
                figures(f"peercli connect to open{what}", seconds)
                figures("  its CPU, to its end", cpu)
            figures(
                "echo hi | peercli pipe ID, to the end of both",
                await asyncio.to_thread(short_pipe, broker, options.rounds),
            )
            figures("Peer() to open, library", await library_to_open(broker, (), options.rounds))
            figures("  with a silent STUN server", await library_to_open(broker, (stun,), options.rounds))
            tools.program("chromium")
            figures("new Peer() to open, PeerJS in Chromium", await page_to_open(broker, options.rounds))
            await asyncio.to_thread(pipe_memory, broker, options.megabytes)


if __name__ == "__main__":
    asyncio.run(main())
