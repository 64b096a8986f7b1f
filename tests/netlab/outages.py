"""What happens to a network in the middle of a pipe, a conversation or a file, and how soon they go on.

`python -m tests.netlab outages` runs all of it, prints the seconds, and exits with 1 if anything was lost.
The test of the same name runs what is short.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.commands import Command
from tests.netlab.lab import Home, Lab, Nat, Node
from tests.netlab.servers import broker, coturn

__all__ = ["LONG", "SHORT", "Case", "Outcome", "play"]

PIECE = 20_000  # bytes
RATE = 400_000  # bytes/s; so that it lasts
BEFORE = 2.0  # s that all is well
PATIENCE = 150.0  # s from the end of the disturbance
SETTLED = 0.3  # s for what was on its way to be counted
AFTER = 1.0  # s that it has to go on for
SPARE = 10.0  # s a file takes longer: until the disturbance comes, on a busy machine
ENDS = 90.0  # s for the rest of it, once it goes on

_serials = itertools.count(1)


class World:
    """An internet with a broker and coturn, and two homes that talk."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.url = broker(lab.internet, "198.18.0.1")
        self.broker = lab.internet.processes[-1]
        self.turn = coturn(lab.internet, "198.18.0.1")
        self.coturn = lab.internet.processes[-1]


@dataclass
class Scene:
    """Where a case plays: `here` sends, by way of the router of `home`, and is a process."""

    world: World
    home: Home
    here: Node
    sending: Command


Disturbance = Callable[[Scene], Awaitable[None]]


def outage(seconds: float) -> Disturbance:
    """Nothing passes the router."""

    async def disturb(scene: Scene) -> None:
        rules = (
            "table ip outage { chain everything { type filter hook forward priority -10; policy drop; }; }"
        )
        scene.home.router.run("nft", "-f", "-", input=rules)
        await asyncio.sleep(seconds)
        scene.home.router.run("nft", "delete", "table", "ip", "outage")

    return disturb


async def new_address(scene: Scene) -> None:
    """The sending host is given another address, as one that goes to another network."""
    network = scene.home.network
    scene.here.ip(f"addr del {scene.here.address}/24 dev eth0", f"addr add {network}.99/24 dev eth0")
    scene.here.ip(f"route add default via {network}.1")


async def new_mapping(scene: Scene) -> None:
    """The router is given another address, so that every mapping of its NAT is another."""
    router = scene.home.router
    old = json.loads(router.run("ip", "-j", "addr", "show", "dev", "wan"))[0]["addr_info"][0]["local"]
    network = old.rpartition(".")[0]
    router.ip(f"addr del {old}/24 dev wan", f"addr add {network}.7/24 dev wan")
    router.ip(f"route add default via {network}.1")


def asleep(seconds: float) -> Disturbance:
    """The sending process does not run."""

    async def disturb(scene: Scene) -> None:
        scene.sending.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        scene.sending.process.send_signal(signal.SIGCONT)

    return disturb


def broker_away(seconds: float) -> Disturbance:
    """The broker is killed, and started again."""

    async def disturb(scene: Scene) -> None:
        scene.world.broker.kill()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(broker, scene.world.lab.internet, "198.18.0.1")

    return disturb


async def turn_again(scene: Scene) -> None:
    """The TURN server is killed, and started again at once: it knows of no allocation any more."""
    scene.world.coturn.kill()
    scene.world.coturn.wait()
    await asyncio.to_thread(coturn, scene.world.lab.internet, "198.18.0.1")


@dataclass(frozen=True)
class Case:
    """A disturbance in the middle of a pipe, or of a file; `alone` in its world if it is the servers'.

    With `code` the file is sent to whoever has it; others who have it, too, must not get the rest.
    `goes_on` for so many seconds is what a transfer does meanwhile: the file must be as long.
    """

    name: str
    disturb: Disturbance
    connect: bool = False
    file: bool = False
    code: bool = False
    alone: bool = False
    relay: bool = False
    goes_on: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """Seconds from the end of the disturbance until something new had arrived, and what went wrong."""

    seconds: float
    fault: str


SHORT = (
    Case("pipe, outage of 1 s", outage(1)),
    Case("pipe, outage of 5 s", outage(5)),
    Case("pipe, outage of 20 s", outage(20)),
    Case("pipe, new address", new_address),
    Case("pipe, new NAT mapping", new_mapping),
    Case("pipe, asleep for 15 s", asleep(15)),
    Case("connect, outage of 20 s", outage(20), connect=True),
    Case("connect, new address", new_address, connect=True),
    Case("file, outage of 20 s", outage(20), file=True),
    Case("file, new address", new_address, file=True),
    Case("file by a code, outage of 40 s", outage(40), file=True, code=True, goes_on=10),
    Case("pipe, TURN restarted", turn_again, alone=True, relay=True),
)
LONG = (
    Case("connect, outage of 1 s", outage(1), connect=True),
    Case("connect, outage of 5 s", outage(5), connect=True),
    Case("file, outage of 1 s", outage(1), file=True),
    Case("file, outage of 5 s", outage(5), file=True),
    Case("pipe, outage of 60 s", outage(60)),
    Case("connect, outage of 60 s", outage(60), connect=True),
    Case("file, outage of 60 s", outage(60), file=True),
    Case("pipe, asleep for 60 s", asleep(60)),
    Case("pipe, broker away for 60 s", broker_away(60), alone=True),
    Case("connect, broker away for 60 s", broker_away(60), connect=True, alone=True),
    Case("file, broker away for 60 s", broker_away(60), file=True, alone=True, goes_on=60),
    Case("connect, TURN restarted", turn_again, connect=True, alone=True, relay=True),
    Case("file, TURN restarted", turn_again, file=True, alone=True, relay=True),
)


async def run(case: Case, world: World) -> Outcome:
    """Play a case in a world."""
    number = next(_serials)
    home, other = (world.lab.home(f"{side}{number}", Nat.PORT_RESTRICTED) for side in "ab")
    here, there = home.host(), other.host()
    options = ["--server", world.url, "--ice", world.turn.url("udp") if case.relay else world.turn.stun]
    options += ["--relay"] if case.relay else []
    play = _file if case.file else _stream
    try:
        async with asyncio.timeout(BEFORE + 80 + PATIENCE):
            return await play(case, world, home, here, there, f"box-{number}", options)
    except (AssertionError, TimeoutError) as error:
        return Outcome(float("nan"), str(error) or type(error).__name__)


class _Count:
    """Bytes that have arrived, and when it is that some more have."""

    def __init__(self) -> None:
        self.bytes = 0
        self._news = asyncio.Event()

    def add(self, nbytes: int) -> None:
        self.bytes += nbytes
        self._news.set()

    async def above(self, nbytes: int) -> None:
        while self.bytes <= nbytes:
            self._news.clear()
            await self._news.wait()


async def _recovery(case: Case, scene: Scene, arrived: _Count) -> float:
    """Disturb, and wait for more to arrive than what may have been on its way."""
    await arrived.above(int(RATE * BEFORE))
    await case.disturb(scene)
    ended = time.monotonic()
    await asyncio.sleep(SETTLED)
    there = arrived.bytes
    await arrived.above(there + 2 * PIECE)
    seconds = time.monotonic() - ended
    await arrived.above(there + int(RATE * AFTER))
    return seconds


def _piece(case: Case) -> bytes:
    """Some bytes for a pipe; for a conversation, a line."""
    data = os.urandom(PIECE)
    return data.hex().encode()[: PIECE - 1] + b"\n" if case.connect else data


async def _stream(
    case: Case, world: World, home: Home, here: Node, there: Node, name: str, options: Sequence[str]
) -> Outcome:
    receive = ("listen", "--once") if case.connect else ("pipe", "--recv-only")
    send = ("connect", name) if case.connect else ("pipe", name, "--send-only")
    arrived, digest, expected = _Count(), hashlib.sha256(), hashlib.sha256()

    async def read(receiving: Command) -> None:
        assert receiving.process.stdout
        while data := await receiving.process.stdout.read(PIECE):
            digest.update(data)
            arrived.add(len(data))

    async def write(sending: Command) -> None:
        while True:
            piece = _piece(case)
            expected.update(piece)
            await sending.write(piece)
            await asyncio.sleep(PIECE / RATE)

    async with there.peercli(*receive, "--id", name, *options) as receiving:
        await receiving.says("Listening as")
        async with here.peercli(*send, "-v", *options) as sending:
            reading, writing = asyncio.create_task(read(receiving)), asyncio.create_task(write(sending))
            try:
                seconds = await _recovery(case, Scene(world, home, here, sending), arrived)
                writing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await writing
                sending.end_input()
                await reading
            except TimeoutError:
                raise AssertionError(f"it stood still: {sending.stderr} / {receiving.stderr}") from None
            finally:
                writing.cancel()
                reading.cancel()
                await asyncio.gather(reading, writing, return_exceptions=True)
            codes = await sending.exit_code(ENDS), await receiving.exit_code(ENDS)
    assert codes == (0, 0), (codes, sending.stderr, receiving.stderr)
    assert digest.digest() == expected.digest(), "what arrived is not what was sent"
    return Outcome(seconds, "")


def _is_same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


async def _file(
    case: Case, world: World, home: Home, here: Node, there: Node, name: str, options: Sequence[str]
) -> Outcome:
    arrived = _Count()

    async def watch(receiving: Command) -> None:
        assert receiving.process.stdout
        async for line in receiving.process.stdout:
            event = json.loads(line)
            if event["event"] == "progress":
                arrived.add(max(0, event["bytes"] - arrived.bytes))

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "some.bin"), Path(folder, "target")
        size = int(RATE * (BEFORE + AFTER + SPARE + case.goes_on))
        await asyncio.to_thread(source.write_bytes, os.urandom(size))
        await asyncio.to_thread(target.mkdir)
        receive = ("receive-file", "--yes", "--json", "--save-dir", str(target), *options)
        send = (str(source), "--limit-rate", str(RATE), *options)
        async with contextlib.AsyncExitStack() as stack:
            if case.code:
                sending = await stack.enter_async_context(here.peercli("send-file", *send))
                code = (await sending.says("    peercli receive-file ")).split()[0]
                receiving = await stack.enter_async_context(there.peercli(*receive, code))
            else:
                receiving = await stack.enter_async_context(there.peercli(*receive, "--id", name))
                assert '"open"' in await receiving.line()
                sending = await stack.enter_async_context(here.peercli("send-file", name, *send))
            watching = asyncio.create_task(watch(receiving))
            try:
                seconds = await _recovery(case, Scene(world, home, here, sending), arrived)
                if case.code:
                    await sending.says("attempt 1 to go on")
                    receiving.process.send_signal(signal.SIGSTOP)  # so that it is not over before
                    await _refused_to_others(world, code, options)
                    receiving.process.send_signal(signal.SIGCONT)
                codes = await sending.exit_code(ENDS), await receiving.exit_code(ENDS)
            except TimeoutError:
                raise AssertionError(f"it stood still: {sending.stderr}") from None
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        assert codes == (0, 0), (codes, sending.stderr)
        same = await asyncio.to_thread(_is_same, source, target / "some.bin")
        assert same, "what arrived is not what was sent"
    return Outcome(seconds, "")


async def _refused_to_others(world: World, code: str, options: Sequence[str]) -> None:
    """Whoever else has the code gets nothing by it, although the transfer has begun anew meanwhile."""
    with tempfile.TemporaryDirectory() as empty:
        other = world.lab.internet.peercli("receive-file", code, "--save-dir", empty, *options)
        async with other as thief:
            ended = await thief.exit_code(ENDS)
        assert (ended, os.listdir(empty)) == (10, []), (ended, thief.stderr)


async def play(cases: Sequence[Case], tell: Callable[[Case, Outcome], None]) -> None:
    """Play cases, those that share a world all at once."""
    together = [case for case in cases if not case.alone]

    async def one(case: Case, world: World) -> None:
        tell(case, await run(case, world))

    async def alone(case: Case) -> None:
        with Lab() as lab:
            await one(case, World(lab))

    with Lab() as lab:
        world = World(lab)
        await asyncio.gather(
            *(one(case, world) for case in together), *(alone(case) for case in cases if case.alone)
        )


def main() -> None:
    """All cases, or those whose names contain one of the arguments."""
    wanted = [case for case in (*SHORT, *LONG) if any(word in case.name for word in sys.argv[1:] or ("",))]
    faults: list[str] = []

    def tell(case: Case, outcome: Outcome) -> None:
        if outcome.fault:
            faults.append(case.name)
        print(f"{case.name:32} {outcome.seconds:6.1f} s  {outcome.fault}", flush=True)

    asyncio.run(play(wanted, tell))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
