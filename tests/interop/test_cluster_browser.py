"""A PeerJS page, a command and a peer of the library, each at another broker process of one realm."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

from peercli.peer.peer import Peer
from tests.brokers import redis_server
from tests.commands import peercli
from tests.interop.browsers import Page

WITHIN = 20.0  # s


async def test_everybody_meets_everybody(page: Page, tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis, AsyncExitStack() as stack, asyncio.timeout(3 * WITHIN):
        urls = []
        for _ in range(3):
            broker = peercli("server", "--json", "--port", "0", "--redis", redis)
            urls.append(json.loads(await (await stack.enter_async_context(broker)).line())["url"])
        at_page, at_shell, at_library = urls
        theirs = await page.peer(at_page, "page")
        listen = await stack.enter_async_context(
            peercli("listen", "--server", at_shell, "--id", "shell", "--ice", "none")
        )
        await listen.says("Listening as shell")
        async with Peer("library", server=at_library, ice_servers=()) as ours:
            there = await theirs.connect("library", reliable=True)
            here = await ours.accept()
            await here.send("to the page")
            assert await there.receive() == ["to the page"]
            to_shell = await ours.connect("shell")
            await to_shell.send("to the shell")
            assert await listen.line() == "to the shell"
            await to_shell.close()
            await here.close()
        from_page = await theirs.connect("shell", reliable=True)
        await from_page.close()
