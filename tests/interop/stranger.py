"""A page that hides the machine's addresses behind mDNS names, as any page on the web does.

A script, to be run in a network namespace of its own: a browser asks for such names by multicast, and that is
not to leave the test. Its arguments name the browser and the broker; see test_stranger.py.
"""

from __future__ import annotations

import sys

from peercli.peer.peer import Peer
from tests import tools
from tests.brokers import BROKERS, BrokerFactory
from tests.interop.browsers import Browsers, Page

CANDIDATE = """
new Promise((resolve) => {
  const connection = new RTCPeerConnection();
  connection.onicecandidate = ({ candidate }) => resolve(candidate?.candidate ?? "none");
  connection.createDataChannel("");
  connection.setLocalDescription();
})
"""


async def meet(page: Page, broker: BrokerFactory) -> None:
    """Fail unless the page hides its addresses, and talks with us nevertheless, whoever connects."""
    candidate = await page.evaluate(CANDIDATE)
    assert ".local " in candidate, candidate
    async with broker() as server, Peer("shell", server=server, ice_servers=()) as ours:
        theirs = await page.peer(server, "page")
        there = await theirs.connect("shell")
        both = [(await ours.accept(), there), (await ours.connect("page"), await theirs.accept())]
        for here, there in both:
            await there.send("from the page")
            assert await here.receive() == "from the page"
            await here.send("from the shell")
            assert await there.receive() == ["from the shell"]


if __name__ == "__main__":
    _, browser_name, broker_name = sys.argv
    with (
        Browsers() as browsers,
        browsers.launch(browser_name, stranger=True) as browser,
        browser.open() as page,
    ):
        tools.run(meet(page, BROKERS[broker_name]))
