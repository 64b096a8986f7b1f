"""Pages as users have them: they crash, flood, hang, leave, come too early, or run an old PeerJS."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from peercli.errors import ConnectionClosed
from peercli.rtc.ice import host_addresses
from tests.brokers import BrokerFactory, our_server
from tests.commands import Command
from tests.interop.browsers import BROWSERS, Browser, Browsers, Page, PagePeer
from tests.interop.test_commands_browser import HELLO, event, shell
from tests.interop.test_peercli_browser import collected, from_page, our_peer, soon, talks, to_page
from tests.interop.values import SERIALIZATIONS, data
from tests.rtc.ice_servers import coturn

FLAT = 40_000_000  # bytes by which `listen` may grow: 16 MiB of receive window, and what is decoded of it
BUSY = "(() => { const began = performance.now(); while (performance.now() - began < 2000); })()"


async def greet(theirs: PagePeer, connect: Command, pipe: Command) -> None:
    """The page says hello to both commands, which have called it, and they hear it."""
    for _ in range(2):
        there = await theirs.accept()
        await there.send(json.dumps(HELLO), data("Uint8Array", b"hello"))
    assert await pipe.read(5) == b"hello"
    assert json.loads(await connect.line()) == HELLO


@pytest.mark.parametrize("browser", BROWSERS)
async def test_the_browser_crashes(browsers: Browsers, browser: str) -> None:
    """Nobody says goodbye: `connect` and `pipe` end with 7, `listen` serves others."""
    async with our_server() as server, shell(server, "listen", "--json") as listen:
        id = (await event(listen, "open"))["id"]
        with browsers.launch(browser) as doomed:
            theirs = await doomed.open().peer(server)
            async with (
                shell(server, "connect", theirs.id, "--keep-open") as connect,
                shell(server, "pipe", theirs.id) as pipe,
            ):
                await greet(theirs, connect, pipe)
                await theirs.connect(id)
                await event(listen, "connection")
                doomed.kill()
                for command in connect, pipe:
                    assert await command.exit_code() == 7
                    assert "the far side is silent" in command.stderr
        assert (await event(listen, "close"))["reason"] == "connection-lost"


async def test_a_page_is_reloaded(page: Page, server: str) -> None:
    """Its connections are closed: well for `connect --keep-open`, and not for `pipe` in the middle."""
    theirs = await page.peer(server)
    async with (
        shell(server, "connect", theirs.id, "--keep-open") as connect,
        shell(server, "pipe", theirs.id) as pipe,
    ):
        await greet(theirs, connect, pipe)
        await page.reload()
        assert await connect.exit_code() == 0
        assert await pipe.exit_code() == 7
        assert "closed the connection before the end" in pipe.stderr


async def test_a_page_is_destroyed(page: Page, server: str) -> None:
    """`peer.destroy()` closes its connections, and that is no loss.

    One to each peer: of several to the same peer, PeerJS 1.5.5 forgets every other one.
    """
    async with our_peer(server) as one, our_peer(server) as other:
        theirs = await page.peer(server)
        _, from_it = await from_page(theirs, one)
        to_it, _ = await to_page(other, theirs)
        await theirs.tell("destroy")
        for here in from_it, to_it:
            with pytest.raises(ConnectionClosed):
                await soon(here.receive())


async def test_a_page_leaves_the_broker_and_comes_back(page: Page, server: str) -> None:
    """`peer.disconnect()` keeps connections; after `reconnect()` there are new ones, both ways."""
    async with our_peer(server) as ours:
        theirs = await page.peer(server)
        there, here = await from_page(theirs, ours)
        await theirs.tell("disconnect")
        await theirs.happened("disconnected")
        await talks(here, there)
        await theirs.tell("reconnect")
        assert await theirs.happened("open") == theirs.id
        here, there = await to_page(ours, theirs)
        await talks(here, there)
        there, here = await from_page(theirs, ours)
        await talks(here, there)


async def test_a_page_sends_and_closes_at_once(page: Page, server: str) -> None:
    """Without flush PeerJS drops what is on its way: what does arrive is the beginning, and nothing fails."""
    values = [f"{number:04}" * 1_000 for number in range(200)]
    async with our_peer(server) as ours:
        there, here = await from_page(await page.peer(server), ours, reliable=True)
        await there.send_and_close(*values)
        received = await soon(collected(here))
        assert received == values[: len(received)]


async def test_a_page_is_faster_than_our_reader(page: Page) -> None:
    """The page's data waits in the page, all but a little, and in the end all of it comes."""
    values = [f"{number:06}" * 350_000 for number in range(20)]
    pipe, stdout = os.pipe()
    with os.fdopen(pipe) as lines:
        async with our_server() as server, shell(server, "listen", stdout=stdout) as listen:
            os.close(stdout)
            id = await listen.says("Listening as ")
            there = await (await page.peer(server)).connect(id, reliable=True)
            idle = listen.memory()
            await there.send(*values)
            assert await there.stuck() > 100
            assert listen.memory() - idle < FLAT
            for value in values:
                assert await asyncio.to_thread(lines.readline) == f"{value}\n"


async def test_we_are_faster_than_the_page(page: Page) -> None:
    """A page that is busy for two seconds gets all of it then, in order."""
    values = [f"{number:06}" * 10_000 for number in range(200)]
    async with our_server() as server, our_peer(server) as ours:
        here, there = await to_page(ours, await page.peer(server))
        busy = asyncio.create_task(page.evaluate(BUSY))
        for value in values:
            await soon(here.send(value))
        assert await there.receive(len(values)) == values
        await busy


async def test_a_page_comes_too_early(page: Page, broker: BrokerFactory) -> None:
    """The broker keeps the page's offer and candidates, and who comes then answers."""
    async with broker(expire_timeout=30) as server:
        theirs = await page.peer(server)
        there = await theirs.dial("later", label="early")
        await page.call("gathered", theirs.name)
        async with our_peer(server, "later") as ours:
            here = await soon(ours.accept())
            assert here.label == "early"
            await there.happened("open")
            await talks(here, there)


async def test_twenty_connections_to_one_listen(page: Page, server: str, echo: str) -> None:
    """All at once, of every serialization; each gets its own messages back, in order."""
    theirs = await page.peer(server)
    names = [f"{number} {SERIALIZATIONS[number % len(SERIALIZATIONS)]}" for number in range(20)]
    opened = await asyncio.gather(
        *(theirs.connect(echo, label=name, serialization=name.split()[1], reliable=True) for name in names)
    )
    for there in opened:
        await there.send(*(f"{there.facts['label']} {number}" for number in range(10)))
    for name, there in zip(names, opened, strict=True):
        assert await there.receive(10) == [f"{name} {number}" for number in range(10)]


async def test_a_page_through_a_relay(page: Page, server: str, tmp_path: Path) -> None:
    """A page that shows nothing but an address at coturn, and we with no server at all, whoever connects."""
    # Firefox pairs no address on loopback with one that is not, and ours are not where there are others.
    address = next((each for each in host_addresses() if "." in each), "127.0.0.1")
    async with coturn(tmp_path, address) as turn, our_peer(server) as ours:
        relay = {"urls": f"turn:{turn.address}:{turn.port}", "username": "user", "credential": "secret"}
        theirs = await page.peer(server, config={"iceServers": [relay], "iceTransportPolicy": "relay"})
        there, here = await from_page(theirs, ours)
        here_too, there_too = await to_page(ours, theirs)
        for ends in (here, there), (here_too, there_too):
            assert ends[0].route is not None
            assert ends[0].route.remote_type == "relay"
            await talks(*ends)


BYTES = data("ArrayBuffer", b"\0\1\xff")
ANY: list[Any] = ["", "é 中文", -1.5, True, [None, {"a": [1]}], "x" * 8_000]
OLD: dict[str, list[Any]] = {"binary": [*ANY, BYTES, "x" * 40_000], "json": ANY, "none": ["é 🥦", BYTES]}
"""By serialization, what PeerJS before 1.5 gets right: in `binary`, no character beyond U+FFFF."""


@pytest.mark.parametrize("peerjs", ["1.3.2", "1.4.7"])
async def test_an_old_peerjs(browser: Browser, server: str, peerjs: str) -> None:
    """JSON as text, and `none` for raw; whoever connects, as long as the page begins to speak."""
    with browser.open(f"peerjs-{peerjs}") as page:
        async with our_peer(server) as ours:
            theirs = await page.peer(server)
            for serialization, values in OLD.items():
                now = "raw" if serialization == "none" else serialization
                to_it = await to_page(ours, theirs, serialization=now)
                from_it = await from_page(theirs, ours, serialization=serialization, reliable=True)
                for here, there in to_it, from_it[::-1]:
                    await there.send(*values)
                    received = [await soon(here.receive()) for _ in values]
                    assert received == [b"\0\1\xff" if value is BYTES else value for value in values]
                    for value in received:
                        await soon(here.send(value))
                    assert await there.receive(len(values)) == values
