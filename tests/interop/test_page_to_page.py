"""Stock PeerJS with itself, through the real PeerServer: what shows here is PeerJS's own doing."""

from __future__ import annotations

import pytest

from tests.brokers import peerserver
from tests.interop.browsers import Page

VALUES = ["text", "🥦 ünï", 0, -1, 3.5, [1, [2, {"a": None}]], {"b": True}]


@pytest.mark.parametrize("serialization", ["binary", "json", "raw", "MsgPack"])
async def test_two_peers_of_one_page_talk(page: Page, serialization: str) -> None:
    values = ["text", "🥦 ünï"] if serialization == "raw" else VALUES
    async with peerserver() as server:
        one, other = await page.peer(server, "one"), await page.peer(server)
        there = await other.connect("one", serialization=serialization, reliable=True, label="a label")
        here = await one.accept()
        await there.send(*values)
        assert await here.receive(len(values)) == values
        await here.send(*values)
        assert await there.receive(len(values)) == values
        assert here.facts["label"] == "a label"
        assert here.facts["peer"] == other.id
        await there.close()
        await here.happened("close")
