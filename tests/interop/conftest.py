"""Fixtures for tests with real browsers: each is started once, and every test gets a page of its own.

What passed where is kept as a table: `python -m tests.interop` prints it, and any other run of this folder
writes it to the file that PEERCLI_INTEROP_TABLE names.
"""

from __future__ import annotations

import asyncio
import os
import threading
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from tests.brokers import BrokerFactory, our_process, peerserver
from tests.commands import peercli
from tests.interop.browsers import BROWSERS, Browser, Browsers, Page
from tests.interop.table import Table

T = TypeVar("T")

BROKERS: dict[str, BrokerFactory] = {"peerserver": peerserver, "peercli": our_process}
STARTS_WITHIN = 60.0  # s; a broker or a command, on a busy machine
TABLE = Table()


@pytest.fixture(scope="session")
def browsers() -> Iterator[Browsers]:
    """The driver of every browser."""
    with Browsers() as browsers:
        yield browsers


@pytest.fixture(scope="session", params=list(BROWSERS))
def browser(request: pytest.FixtureRequest, browsers: Browsers) -> Iterator[Browser]:
    """A running browser: Chromium, and again Firefox."""
    with browsers.launch(request.param) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page, with stock PeerJS and no peer yet."""
    with browser.open() as page:
        yield page


@pytest.fixture(params=list(BROKERS))
def broker(request: pytest.FixtureRequest) -> BrokerFactory:
    """A broker to start: the real PeerServer, and again ours. Both are killed in the end."""
    return BROKERS[request.param]


@pytest.fixture(scope="session")
def background() -> Iterator[Background]:
    """What lives as long as the session does."""
    with Background() as background:
        yield background


@pytest.fixture
def server(broker: BrokerFactory, background: Background) -> str:
    """The address of a broker that is there for all tests; it is quick to say that a peer is not there."""
    return background.get(broker, lambda: broker(expire_timeout=1))


@pytest.fixture
def echo(server: str, background: Background) -> str:
    """The id of a `peercli listen --echo` at `server`."""
    return background.get(("echo", server), lambda: listen_echo(server, "echo"))


@asynccontextmanager
async def listen_echo(server: str, id: str) -> AsyncIterator[str]:
    """Run `peercli listen --echo` under this id."""
    command = ("listen", "--echo", "--server", server, "--id", id, "--ice", "none")
    async with peercli(*command, stdout=DEVNULL) as listen:
        await listen.says(f"Listening as {id}")
        yield id


class Background:
    """An event loop in a thread, for context managers that outlive the loop of a single test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._stack = AsyncExitStack()
        self._entered: dict[object, Any] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._do(self._stack.aclose())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def get(self, key: object, make: Callable[[], AbstractAsyncContextManager[T]]) -> T:
        """What a context manager yields; it is made and entered when `key` is asked for the first time."""
        if key not in self._entered:
            self._entered[key] = self._do(self._stack.enter_async_context(make()))
        entered: T = self._entered[key]
        return entered

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STARTS_WITHIN)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a report what the table is made of, and to a failure what the page printed."""
    report = yield
    assert isinstance(item, pytest.Function)
    if report.failed and isinstance(page := item.funcargs.get("page"), Page):
        report.sections.append((f"Printed by {page.name}", "\n".join(page.console) or "nothing"))
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    if "browser" in parameters and (report.when == "call" or not report.passed):
        browser = item.funcargs.get("browser")
        version = browser.version if isinstance(browser, Browser) else None
        report.user_properties.append(("interop", (item.originalname, parameters, version)))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how it went, also where tests run in other processes than this one."""
    for name, value in report.user_properties:
        if name == "interop" and isinstance(value, tuple | list):
            TABLE.note(*value, outcome=report.outcome)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table where it is wanted."""
    path = os.environ.get("PEERCLI_INTEROP_TABLE")
    if path and not hasattr(session.config, "workerinput"):
        Path(path).write_text(str(TABLE))
