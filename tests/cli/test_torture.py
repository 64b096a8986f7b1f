"""send-file and receive-file, killed at random moments and started again: in the end the trees are equal.

PEERCLI_TORTURE_ROUNDS says how often. Several rounds are under way at a time: most of one is waiting until a
killed process is missed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.shell import Shell, fresh
from tests.cli.test_files import LONG_AGO, date_all, parts, tree
from tests.forks import Forked

ROUNDS = int(os.environ.get("PEERCLI_TORTURE_ROUNDS", "200"))
AT_ONCE = 32
ROUND_WITHIN = 240.0  # s for all that happens in one round, which takes some fifteen
KILL_AFTER = (0.05, 1.2)  # s between two kills: before, amid and after the content, …
CONTENT_TAKES = (0.2, 1.5)  # s … which comes no faster than this
LATE = 0.8  # of the kills come when the two are connected, however busy the machine
LOOK_EVERY = 0.3  # s


def grow(folder: Path, chance: random.Random) -> int:
    """Fill a folder with small files and a few larger ones; how many bytes these are."""
    size = 0
    for number in range(chance.randint(1, 60)):
        path = folder / str(number % 7) / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.choice([0, 10, 5_000, 20_000])))
        os.utime(path, ns=(LONG_AGO, LONG_AGO + number))
        path.chmod(chance.choice([0o644, 0o600, 0o755]))
        size += path.stat().st_size
    for number in range(chance.randint(1, 3)):
        path = folder / f"large{number}"
        path.write_bytes(chance.randbytes(chance.randint(100_000, 2_000_000)))
        size += path.stat().st_size
    (folder / "link").symlink_to("large0")
    date_all(folder)
    return size


@pytest.mark.timeout(60 + 3 * ROUNDS)
async def test_kill_9(shell: Shell, tmp_path: Path) -> None:
    """Either side is killed, or both, some time in the transfer, up to three times."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def in_turn(seed: int) -> None:
        async with turn:
            folder = tmp_path / str(seed)
            folder.mkdir()
            async with asyncio.timeout(ROUND_WITHIN):
                await Round(shell.broker, folder, random.Random(seed)).run()
            shutil.rmtree(folder)

    async with asyncio.TaskGroup() as rounds:
        for seed in range(ROUNDS):
            rounds.create_task(in_turn(seed))


class Round:
    """One transfer, and what is done to it. The folder's name, in what it fails with, is the seed."""

    def __init__(self, broker: str, folder: Path, chance: random.Random) -> None:
        self.source, self.inbox = folder / "source", folder / "inbox"
        self.chance = chance
        id, common = fresh("victim"), ("--server", broker, "--ice", "none")
        self.commands = {
            "receiver": ["receive-file", "--id", id, "--token", "t", "--save-dir", str(self.inbox), *common],
            "sender": ["send-file", id, str(self.source), "--retry", "100", *common],
        }
        self.logs = (folder / f"{number}.log" for number in itertools.count())
        self.running: dict[str, Forked] = {}
        self.started: list[Forked] = []

    def start(self, side: str) -> None:
        """Start one side, as somebody who saw it end would."""
        self.running[side] = Forked(self.commands[side], next(self.logs))
        self.started.append(self.running[side])

    async def run(self) -> None:
        """Kill, start again, and look at what came of it."""
        size = await asyncio.to_thread(grow, self.source, self.chance)
        rate = int(size / self.chance.uniform(*CONTENT_TAKES))
        self.commands["sender"] += ["--limit-rate", str(rate)]
        try:
            self.start("receiver")
            self.start("sender")
            for _ in range(self.chance.randint(1, 3)):
                if self.chance.random() < LATE:
                    await self.until(lambda sender: "Sending" in sender.stderr)
                await asyncio.sleep(self.chance.uniform(*KILL_AFTER))
                if self.running["sender"].exit_code == 0:
                    break
                victims = self.chance.choice([["receiver"], ["sender"], ["receiver", "sender"]])
                for side in victims:
                    await self.running[side].kill()
                for side in victims:
                    self.start(side)
            await self.until(lambda sender: sender.exit_code == 0)
            receiver = self.running["receiver"]
            if "Receiving" in receiver.stderr:  # else it was started when all was over
                assert await receiver.ended() == 0
        finally:
            for command in self.started:
                await command.kill()
        said = [command.stderr for command in self.started]
        assert not [text for text in said if "Traceback" in text]
        await asyncio.to_thread(self.compare)

    async def until(self, reached: Callable[[Forked], bool]) -> None:
        """Start again what ends, until the sender is so far."""
        while not reached(self.running["sender"]):
            for side, command in self.running.items():
                if command.exit_code is not None:
                    self.start(side)
            await asyncio.sleep(LOOK_EVERY)

    def compare(self) -> None:
        """What arrived is what was sent, and nothing half there is left."""
        assert tree(self.inbox / "source") == tree(self.source)
        assert parts(self.inbox) == []
