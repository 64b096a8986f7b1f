"""Fixtures of the protocol tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tools
from tests.protocol.peerjs_node import PeerJS


@pytest.fixture(scope="session")
def peerjs(node_modules: Path) -> Iterator[PeerJS]:
    """The real PeerJS serializers, in one Node process for all tests."""
    process = PeerJS(tools.program("node"), node_modules)
    yield process
    process.close()
