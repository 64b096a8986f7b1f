"""Fixtures for tests with real browsers: each is started once, and every test gets a page of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.brokers import BROKERS, BrokerFactory
from tests.interop.browsers import BROWSERS, Browser, Browsers, Page


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
    """A broker to start: the real PeerServer, and again ours."""
    return BROKERS[request.param]
