"""The real programs tests run against: where they are, and what to do when one is missing.

On a laptop a missing browser skips the tests that need it, with the reason. With `CI` set it is a
failure: a green run there means that everything ran.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

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
def _install(lock: str) -> str:
    """Install tests/interop/package-lock.json once; return npm's complaint, or nothing."""
    if (INTEROP / "node_modules" / ".package-lock.json").exists():
        return ""
    done = subprocess.run(["npm", "ci", "--no-audit"], cwd=INTEROP, capture_output=True, text=True, check=False)
    return done.stderr[-2000:] if done.returncode else ""


def node_modules() -> Path:
    """The folder of npm packages from tests/interop, installed at first use."""
    program("node")
    program("npm")
    if complaint := _install("package-lock.json"):
        missing(f"npm packages ({complaint})")
    return INTEROP / "node_modules"
