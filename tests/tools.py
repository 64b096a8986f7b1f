"""What tests stand on: an event loop that tells of leaks, and the real programs they run against.

On a laptop a missing browser skips the tests that need it, with the reason. With `CI` set it is a
failure: a green run there means that everything ran.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import shutil
import subprocess
import traceback
from collections.abc import Coroutine
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

INTEROP = Path(__file__).parent / "interop"
IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def missing(what: str) -> None:
    """Skip the test for want of `what`; in CI, fail it.

    Raises:
        pytest.skip.Exception: on a laptop.
        pytest.fail.Exception: in CI.
    """
    if IN_CI:
        pytest.fail(f"{what} is required in CI", pytrace=False)
    pytest.skip(f"needs {what}")


def program(*names: str) -> str:
    """The path of the first of `names` found on PATH; a skip (in CI a failure) when none is there."""
    for name in names:
        if path := shutil.which(name):
            return path
    missing(names[0])
    raise AssertionError("unreachable")


@cache
def _install() -> str:
    """Install what tests/interop/package-lock.json says, unless that is done; npm's complaint, or nothing."""
    with (INTEROP / "package.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # tests run in several processes
        return _install_once()


def _install_once() -> str:
    lock, installed = INTEROP / "package-lock.json", INTEROP / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return ""
    command = ["npm", "ci", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=INTEROP, capture_output=True, text=True, check=False, timeout=600)
    return done.stderr[-2000:] if done.returncode else ""


def node_modules() -> Path:
    """The folder of npm packages from tests/interop, installed at first use."""
    program("node")
    program("npm")
    if complaint := _install():
        missing(f"npm packages ({complaint})")
    return INTEROP / "node_modules"


def run(test: Coroutine[Any, Any, T]) -> T:
    """Run `test` in an event loop of its own.

    What it opened and did not close is its own failure: objects that warn when they are collected are
    collected here, so that the warning names this test and not a later one.

    Raises:
        pytest.fail.Exception: `test` left a task running, or an exception that nobody took.
    """
    faults: list[str] = []

    async def watched() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: faults.append(_fault(context)))
        result = await test
        for _ in range(3):  # a closed transport tells its protocol in the next turn of the loop
            await asyncio.sleep(0)
        faults.extend(f"still running: {task!r}" for task in asyncio.all_tasks() - {asyncio.current_task()})
        return result

    with asyncio.Runner(debug=False) as runner:
        result = runner.run(watched())
    gc.collect()
    if faults:
        pytest.fail("the test left behind\n" + "\n".join(faults), pytrace=False)
    return result


def _fault(context: dict[str, Any]) -> str:
    """What an event loop reports to its exception handler, with the traceback if it has one."""
    error = context.get("exception")
    return "\n".join([context["message"], *(traceback.format_exception(error) if error else [])])
