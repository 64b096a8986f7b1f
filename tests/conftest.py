"""Fixtures shared by the whole suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tools


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """npm packages of tests/interop (peer, peerjs, peerjs-js-binarypack, puppeteer-core, …)."""
    return tools.node_modules()
