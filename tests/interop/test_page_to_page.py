"""Stock PeerJS with itself, through the real PeerServer: what shows here is PeerJS's own doing."""

from __future__ import annotations

import pytest

from tests.brokers import peerserver
from tests.interop.browsers import Page
from tests.interop.values import SERIALIZATIONS, differences, sendable


@pytest.mark.parametrize("serialization", SERIALIZATIONS)
async def test_what_arrives_is_what_the_table_says(page: Page, serialization: str) -> None:
    cases = sendable(serialization)
    async with peerserver() as server:
        receiver, sender = await page.peer(server), await page.peer(server)
        there = await sender.connect(receiver.id, serialization=serialization, reliable=True)
        here = await receiver.accept()
        await there.send(*(case.sent for case in cases))
        expected = [case.after(serialization) for case in cases]
        assert differences(cases, expected, await here.receive(len(cases))) == []
        await there.close()
        await here.happened("close")
