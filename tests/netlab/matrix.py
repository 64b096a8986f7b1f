"""Every kind of network with every other, with STUN alone and with TURN over each transport.

`python -m tests.netlab matrix [FILE]` prints the table as it ran: direct or relayed, or no way, and the
seconds until the connection was open, or was given up. `--at-once N` connections are made side by side.

A process for each machine has imported everything, and stays: the seconds are those of connecting alone.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.certificates import Certificate, certificate
from tests.netlab.lab import REPOSITORY, Lab, Nat, Node
from tests.netlab.servers import Turn
from tests.netlab.world import World, goes_direct

__all__ = ["KINDS", "SERVERS", "Cell", "Machine", "expected", "machine", "run", "table"]

KINDS = (Nat.NONE, Nat.FULL_CONE, Nat.PORT_RESTRICTED, Nat.SYMMETRIC, Nat.UDP_BLOCKED)
SERVERS = ("stun", "udp", "tcp", "tls")  # besides STUN nothing, or TURN over this
AT_ONCE = 5
WITHIN = 60.0  # s for one cell


@dataclass(frozen=True, slots=True)
class Cell:
    """How one connection went: `direct`, `relayed`, or the type of its error, with its message and hint."""

    outcome: str
    seconds: float
    message: str = ""
    hint: str = ""


def expected(here: Nat, there: Nat, servers: str) -> str:
    """What RFC 8445 makes of it: direct where packets can pass at all, else relayed where both sides reach
    the TURN server (RFC 8656 §3.1: its own side of it is UDP in any case)."""
    if goes_direct(here, there):
        return "direct"
    if servers == "stun" or (servers == "udp" and Nat.UDP_BLOCKED in (here, there)):
        return "negotiation-failed"
    return "relayed"


def urls(turn: Turn, servers: str) -> list[str]:
    return [turn.stun] if servers == "stun" else [turn.stun, turn.url(servers)]


class Machine:
    """A host of the lab, and the process on it that has a peer for each set of servers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._answers: dict[int, asyncio.Future[Cell]] = {}
        self._numbers = itertools.count()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self._process.stdout
        async for line in self._process.stdout:
            answer = json.loads(line)
            self._answers.pop(answer.pop("number")).set_result(Cell(**answer))

    async def ask(self, **command: Any) -> Cell:
        """Have it do something; what came of it."""
        assert self._process.stdin
        number = next(self._numbers)
        answer: asyncio.Future[Cell] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._process.stdin.write(json.dumps({"number": number} | command).encode() + b"\n")
        async with asyncio.timeout(WITHIN):
            return await answer

    async def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()
        await self._reading


@asynccontextmanager
async def machine(node: Node, tls: Certificate | None = None) -> AsyncIterator[Machine]:
    trusted = (f"SSL_CERT_FILE={tls.cert}",) if tls else ()
    process = await asyncio.create_subprocess_exec(
        *node.inside("env", *trusted, sys.executable, "-m", "tests.netlab.machine"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    made = Machine(process)
    try:
        yield made
    finally:
        await made.close()


async def run(world: World, tls: Certificate, at_once: int = AT_ONCE) -> dict[tuple[str, Nat, Nat], Cell]:
    """Every cell of the matrix, by servers, and by the kinds of the calling and of the called side."""
    turns = asyncio.Semaphore(at_once)
    async with AsyncExitStack() as stack:
        sides = {
            (nat, side): await stack.enter_async_context(machine(world.host(nat, side), tls))
            for nat in KINDS
            for side in "ab"
        }
        await asyncio.gather(
            *(
                one.ask(do="start", id=f"{nat.value}-{side}-{servers}", server=world.broker, ice=ice)
                for (nat, side), one in sides.items()
                for servers in SERVERS
                for ice in [urls(world.turn, servers)]
            )
        )

        async def cell(servers: str, here: Nat, there: Nat) -> Cell:
            caller, called = f"{here.value}-a-{servers}", f"{there.value}-b-{servers}"
            async with turns:
                return await sides[here, "a"].ask(do="connect", id=caller, to=called)

        keys = list(itertools.product(SERVERS, KINDS, KINDS))
        return dict(zip(keys, await asyncio.gather(*(cell(*key) for key in keys)), strict=True))


def table(cells: dict[tuple[str, Nat, Nat], Cell]) -> str:
    """The matrix in Markdown; the calling side stands at the left."""
    marks = {"direct": "direct", "relayed": "relay", "negotiation-failed": "no way"}
    lines = []
    for servers in SERVERS:
        title = "STUN alone" if servers == "stun" else f"STUN, and TURN over {servers.upper()}"
        lines += [
            f"| {title} | {' | '.join(nat.value for nat in KINDS)} |",
            "| --- " * (len(KINDS) + 1) + "|",
        ]
        for here in KINDS:
            row = [cells[servers, here, there] for there in KINDS]
            shown = (f"{marks.get(cell.outcome, cell.outcome)} {cell.seconds:.2f} s" for cell in row)
            lines.append(f"| {here.value} | {' | '.join(shown)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("file", nargs="?", type=Path, help="write the table here, too")
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    options = parser.parse_args()
    with Lab() as lab, tempfile.TemporaryDirectory() as folder:
        tls = certificate(Path(folder), "198.18.0.1")
        cells = asyncio.run(run(World(lab, tls), tls, options.at_once))
    text = table(cells)
    print(text)
    if options.file:
        options.file.write_text(text)
    wrong = [(key, cell) for key, cell in cells.items() if cell.outcome != expected(*key[1:], key[0])]
    sys.exit("\n".join(f"not as it should be: {key}: {cell}" for key, cell in wrong))


if __name__ == "__main__":
    main()
