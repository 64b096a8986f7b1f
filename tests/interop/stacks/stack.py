"""The endpoints as the tests and benches see them: processes that are asked."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests import tools
from tests.interop.stacks.endpoint import counted
from tests.interop.stacks.proxy import Proxy

__all__ = ["MESSAGE", "STACKS", "Endpoint", "Stack", "join", "start", "transfer"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent.parent
WITHIN = 30.0  # s; for any one request, unless it says otherwise
ENDS_WITHIN = 3.0  # s; libdatachannel does not always end
MESSAGE = 65_536  # bytes


@dataclass(frozen=True)
class Stack:
    """A WebRTC stack.

    Attributes:
        command: its endpoint's command line; skips the test (in CI fails it) when something is missing.
        max_message: bytes of the largest message that it takes.
        unordered: whether it can open channels that are not ordered.
        sends_empty: whether it can send empty messages: werift never sends anything after one.
    """

    name: str
    command: Callable[[], list[str]]
    max_message: int = 262_144
    unordered: bool = True
    sends_empty: bool = True


def _python(module: str, *needs: str) -> Callable[[], list[str]]:
    def command() -> list[str]:
        for need in needs:
            if importlib.util.find_spec(need) is None:
                tools.missing(f"the Python package {need}")
        return [sys.executable, "-m", f"tests.interop.stacks.{module}"]

    return command


def _node(package: str) -> Callable[[], list[str]]:
    def command() -> list[str]:
        tools.node_modules()
        return [tools.program("node"), str(HERE / "w3c.mjs"), package]

    return command


def cache_folder() -> Path:
    """Where programs go that are built or installed for tests and benches alone."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peercli-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


GO_PATH = Path("/usr/share/gocode")  # of Debian's packages


@cache
def _pion() -> list[str]:
    go = tools.program("go")
    if not (GO_PATH / "src/github.com/pion/webrtc").exists():
        tools.missing("Pion (Debian's golang-github-pion-webrtc.v3-dev)")
    program = cache_folder() / "pion"
    environment = os.environ | {"GO111MODULE": "off", "GOPATH": str(GO_PATH), "GOFLAGS": ""}
    subprocess.run([go, "build", "-o", program, "."], cwd=HERE / "pion", env=environment, check=True)
    return [str(program)]


STACKS = {
    stack.name: stack
    for stack in (
        Stack("ours", _python("ours")),
        Stack("ours-ethernet", lambda: [*_python("ours")(), "1432"]),
        Stack("aiortc", _python("stock_aiortc")),
        Stack("wrtc", _node("@roamhq/wrtc")),
        Stack("werift", _node("werift"), max_message=65_536, sends_empty=False),
        Stack("libdatachannel", _python("libdatachannel", "pylibdatachannel"), unordered=False),
        Stack("pion", _pion, max_message=65_536),
    )
}


class Endpoint:
    """A running endpoint; `ask` is all there is to it."""

    def __init__(self, stack: Stack, process: asyncio.subprocess.Process) -> None:
        self.stack = stack
        self.process = process
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    async def ask(self, do: str, *, within: float = WITHIN, **parameters: Any) -> Any:
        """Make a request, and wait for the answer.

        Raises:
            AssertionError: the endpoint could not do it, in time.
        """
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        assert self.process.stdin
        self.process.stdin.write(json.dumps({"id": number, "do": do, **parameters}).encode() + b"\n")
        try:
            async with asyncio.timeout(within):
                return await answer
        except TimeoutError:
            raise AssertionError(f"{self.stack.name} did not {do} within {within} s") from None
        finally:
            self._answers.pop(number, None)

    async def _read(self) -> None:
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            message = json.loads(line)
            answer = self._answers.get(message["id"])
            if answer is None or answer.done():
                continue
            if "error" in message:
                answer.set_exception(AssertionError(f"{self.stack.name}: {message['error']}"))
            else:
                answer.set_result(message["result"])
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(AssertionError(f"{self.stack.name} has ended"))

    async def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        try:
            async with asyncio.timeout(ENDS_WITHIN):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
        await self._reading


@asynccontextmanager
async def start(stack: Stack) -> AsyncIterator[Endpoint]:
    """Run an endpoint of `stack` for the time of a block."""
    process = await asyncio.create_subprocess_exec(
        *stack.command(), stdin=PIPE, stdout=PIPE, cwd=ROOT, limit=1 << 24
    )
    endpoint = Endpoint(stack, process)
    try:
        yield endpoint
    finally:
        await endpoint.close()


async def join(
    offering: Endpoint, answering: Endpoint, *, ordered: bool = True, proxy: Proxy | None = None
) -> tuple[int, int]:
    """Connect two endpoints, through `proxy` if there is one: the channel's number at each."""
    offer = await offering.ask("offer", label="first", ordered=ordered)
    answer = await answering.ask("answer", sdp=proxy.through(offer) if proxy else offer)
    await offering.ask("accept", sdp=proxy.through(answer) if proxy else answer)
    came = await answering.ask("accepted")
    assert came["label"] == "first"
    await offering.ask("opened", channel=0)
    await answering.ask("opened", channel=came["channel"])
    return 0, came["channel"]


async def transfer(
    sender: Endpoint, sending: int, receiver: Endpoint, receiving: int, size: int, *, within: float = WITHIN
) -> float:
    """Send `size` bytes, a multiple of 64 KB, from channel `sending` to `receiving`: the seconds it took.

    Raises:
        AssertionError: they did not come, or not as they were sent.
    """
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        count = size // MESSAGE
        tasks.create_task(
            sender.ask("pump", channel=sending, count=count, size=MESSAGE, counting=True, within=within)
        )
        sink = tasks.create_task(
            receiver.ask("sink", channel=receiving, size=size, digest=True, within=within)
        )
    took = time.monotonic() - began
    assert sink.result() == [count, counted_digest(size)]
    return took


@cache
def counted_digest(size: int) -> str:
    """SHA-256 of as many bytes that count."""
    sha256 = hashlib.sha256()
    for start in range(0, size, MESSAGE):
        sha256.update(counted(start, min(MESSAGE, size - start)))
    return sha256.hexdigest()
