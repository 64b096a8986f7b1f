"""`peercli doctor` on one machine: what a broker's clock tells. All else takes networks: tests/netlab."""

from __future__ import annotations

import json
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.cli.shell import Shell

AHEAD = """if True:
    import time
    right = time.time
    time.time = lambda: right() + {seconds}
    from peercli.__main__ import main
    main()
"""


@asynccontextmanager
async def broker(seconds: float) -> AsyncIterator[str]:
    """Our broker on a machine whose clock is so far ahead; its URL."""
    command = (sys.executable, "-c", AHEAD.format(seconds=seconds), "server", "--port", "0")
    process = await create_subprocess_exec(*command, stderr=PIPE)
    assert process.stderr
    try:
        yield (await process.stderr.readline()).decode().removeprefix("Listening at ").strip()
    finally:
        process.terminate()
        await process.communicate()


@pytest.mark.parametrize(
    ("ahead", "status", "words"),
    [
        (0, "ok", "agrees with the broker's"),
        (3600, "warning", "s behind the broker's"),
        (-3600, "warning", "s ahead of the broker's"),
    ],
)
async def test_clock(shell: Shell, ahead: float, status: str, words: str) -> None:
    async with broker(ahead) as url:
        done = await shell.run("doctor", "--json", "--server", url)
    findings: list[dict[str, Any]] = [json.loads(line) for line in done.out.decode().splitlines()]
    [clock] = [finding for finding in findings if "skew" in finding.get("data", {})]
    assert (clock["area"], clock["status"]) == ("broker", status)
    assert words in clock["message"]
    assert ("set the clock" in clock.get("hint", "")) is (status == "warning")
    assert abs(clock["data"]["skew"] - ahead) < 60
