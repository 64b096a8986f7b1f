"""Stock PeerJS with itself: what shows here is PeerJS's own doing, and that our broker is one to PeerJS."""

from __future__ import annotations

import pytest

from tests.interop.browsers import Page
from tests.interop.values import SERIALIZATIONS, differences, sendable


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
async def test_page_to_page(page: Page, server: str, serialization: str) -> None:
    """What stock PeerJS gets from stock PeerJS is what the table of values says."""
    cases = sendable(serialization)
    receiver, sender = await page.peer(server), await page.peer(server)
    there = await sender.connect(receiver.id, serialization=serialization, reliable=True)
    here = await receiver.accept()
    await there.send(*(case.sent for case in cases))
    expected = [case.after(serialization) for case in cases]
    assert differences(cases, expected, await here.receive(len(cases))) == []
    await there.close()
    await here.happened("close")
