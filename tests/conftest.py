"""Fixtures and hooks shared by the whole suite.

`async def test_…` runs as it stands, each test in an event loop of its own (`tests.tools.run`), and fails
when it leaves a task behind or an exception that nobody took.
"""

from __future__ import annotations

import gc
import inspect
import os
import signal
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import tools

# A machine that is busy is no defect of what is tested.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


_home = tempfile.TemporaryDirectory(prefix="peercli-tests-", ignore_cleanup_errors=True)


def pytest_configure() -> None:
    """Keep what the tests start apart from the user's own configuration and keys, and from nohup's SIGHUP."""
    os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_DATA_HOME"] = _home.name
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_unconfigure() -> None:
    _home.cleanup()


def pytest_collection_finish() -> None:
    """Keep what importing the suite made out of the collections that follow every async test."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test; leave every other one to pytest."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = inspect.signature(pyfuncitem.obj).parameters
    tools.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in arguments}))
    return True


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """npm packages of tests/interop (peer, peerjs, peerjs-js-binarypack, puppeteer-core, …)."""
    return tools.node_modules()
