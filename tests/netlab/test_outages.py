"""Networks that fail in the middle of a pipe, a conversation or a file: all arrives, once, in order; both
sides end with 0. `python -m tests.netlab outages` plays what takes longer, too, and tells the seconds."""

from __future__ import annotations

import pytest

from tests.netlab.lab import needed
from tests.netlab.outages import SHORT, Case, Outcome, play


async def faults(*cases: Case) -> list[str]:
    """Play the cases; the names of those that failed, and why."""
    found: list[str] = []

    def tell(case: Case, outcome: Outcome) -> None:
        print(f"{case.name:32} {outcome.seconds:6.1f} s  {outcome.fault}")
        if outcome.fault:
            found.append(f"{case.name}: {outcome.fault}")

    await play(cases, tell)
    return found


@pytest.mark.timeout(300)
async def test_outages() -> None:
    """All at once: they mostly wait."""
    needed()
    assert await faults(*SHORT) == []
