"""A short run of the chaos that `python -m tests.bench chaos` makes at length."""

from __future__ import annotations

import pytest

from tests.bench.chaos import run


@pytest.mark.timeout(180)
async def test_every_offer_is_accounted_for() -> None:
    account = await run(24, seconds=8.0, pace=0.3, blow_every=1.2)
    print(account)
    assert len(account.blows) == 3
    assert account.delivered
    assert account.twice() == []
    assert account.misdelivered == 0
    assert account.lost_silently() == []
