"""The lab as a fixture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netlab.lab import Lab, needed


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab; a skip (in CI a failure) where none can be made."""
    needed()
    with Lab() as lab:
        yield lab
