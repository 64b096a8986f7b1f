"""The library against stock PeerJS in real browsers, through the real PeerServer and through ours."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from peercli.errors import PeerUnavailable, UnavailableID
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from tests.brokers import BrokerFactory, port_of
from tests.interop.browsers import Page, PageConnection, PagePeer
from tests.interop.values import (
    SERIALIZATIONS,
    counted,
    data,
    differences,
    from_python,
    in_python,
    large,
    same,
    sendable,
    special,
)

T = TypeVar("T")

WITHIN = 60.0  # s; any one thing that a test waits for: Firefox takes its time for 5 MB on a busy machine
BIG = 5_000_000  # bytes


async def soon(awaited: Awaitable[T]) -> T:
    """What is awaited, if it comes in time."""
    async with asyncio.timeout(WITHIN):
        return await awaited


def our_peer(server: str, id: str | None = None) -> Peer:
    """The library's side; no address is asked of anybody."""
    return Peer(id, server=server, ice_servers=())


async def from_page(theirs: PagePeer, ours: Peer, **options: Any) -> tuple[PageConnection, DataConnection]:
    """Both ends of a connection that the page opens to us."""
    there = await theirs.connect(ours.id, **options)
    return there, await soon(ours.accept())


async def to_page(ours: Peer, theirs: PagePeer, **options: Any) -> tuple[DataConnection, PageConnection]:
    """Both ends of a connection that we open to the page."""
    assert theirs.id
    here = await soon(ours.connect(theirs.id, **options))
    return here, await theirs.accept()


async def joined(
    opener: str, theirs: PagePeer, ours: Peer, **options: Any
) -> tuple[PageConnection, DataConnection]:
    """Both ends of a connection that `opener` opens: "page" or "shell"."""
    if opener == "page":
        return await from_page(theirs, ours, **options)
    here, there = await to_page(ours, theirs, **options)
    return there, here


async def talks(here: DataConnection, there: PageConnection) -> None:
    """Fail unless a message goes through, both ways."""
    await there.send("from the page")
    assert await soon(here.receive()) == "from the page"
    await here.send("from the shell")
    assert await there.receive() == ["from the shell"]


TO_PAGE: dict[str, list[tuple[Any, Any]]] = {
    "binary": [
        (b"\0\1\xff", data("ArrayBuffer", b"\0\1\xff")),
        ([b""], [data("ArrayBuffer", b"")]),
        (bytearray(b"x"), data("ArrayBuffer", b"x")),
        (datetime(2024, 2, 1, 1, 1, 1, 1000, UTC), "Thu Feb 01 2024 01:01:01 GMT+0000"),
    ],
    "json": [
        (datetime(2024, 2, 1, 1, 1, 1, 1000, UTC), "2024-02-01T01:01:01.001Z"),
    ],
    "MsgPack": [
        (b"\0\1\xff", data("Uint8Array", b"\0\1\xff")),
        ([math.nan, math.inf, -math.inf], [special("NaN"), special("Infinity"), special("-Infinity")]),
        (datetime(2024, 2, 1, 1, 1, 1, 1000, UTC), {"$": "Date", "value": 1706749261001}),
    ],
    "raw": [("text", "text"), ("", ""), ("🥦\0", "🥦\0"), (b"\0\1\xff", data("ArrayBuffer", b"\0\1\xff"))],
}
"""What Python sends and what the page gets of it, beside what is the same to both."""

PLAIN = [
    "",
    "text",
    "🥦\0",
    0,
    -1,
    255,
    65_536,
    -(1 << 31),
    (1 << 53) - 1,
    0.5,
    1e300,
    2.0,
    True,
    False,
    [],
    {},
]
PLAIN += [[None, [1, {"a": None}]], {"ключ": [{"": "x"}]}, "x" * 8_000, list(range(2_000))]


OPENERS = pytest.mark.parametrize("opener", ["page", "shell"])


@OPENERS
@pytest.mark.parametrize("serialization", SERIALIZATIONS)
async def test_values(page: Page, server: str, serialization: str, opener: str) -> None:
    """Python reads what the page sent, and the page what Python sent."""
    cases = sendable(serialization)
    values = [] if serialization == "raw" else [(value, value) for value in PLAIN]
    values += TO_PAGE["binary" if serialization == "binary-utf8" else serialization]
    async with our_peer(server) as ours:
        options = {"serialization": serialization, "reliable": True}
        there, here = await joined(opener, await page.peer(server), ours, **options)
        await there.send(*(case.sent for case in cases))
        received = [from_python(await soon(here.receive())) for _ in cases]
        expected = [in_python(case, serialization) for case in cases]
        assert differences(cases, expected, received) == []
        if serialization != "raw":
            await there.send(None)
            assert await soon(here.receive()) is None
        for value, _ in values:
            await soon(here.send(value))
        arrived = await there.receive(len(values))
        wrong = [
            (sent, got) for (sent, told), got in zip(values, arrived, strict=True) if not same(told, got)
        ]
        assert wrong == []


@pytest.mark.parametrize(
    ("serialization", "reliable", "opener"),
    [
        ("binary", True, "page"),
        ("binary", True, "shell"),
        ("binary", False, "page"),
        ("MsgPack", True, "shell"),
    ],
)
async def test_5_mb(page: Page, server: str, serialization: str, reliable: bool, opener: str) -> None:
    """A message far over a data channel's limit, in chunks, each way."""
    async with our_peer(server) as ours:
        options = {"serialization": serialization, "reliable": reliable}
        there, here = await joined(opener, await page.peer(server), ours, **options)
        await there.send({"$": "Uint8Array", "count": BIG})
        assert await soon(here.receive()) == counted(BIG)
        await soon(here.send(counted(BIG)))
        assert await there.receive() == [large("Uint8Array", counted(BIG))]


async def test_label_and_metadata(page: Page, server: str) -> None:
    """What one side says of a connection, the other sees; a label not given is the connection's id."""
    metadata = {"ключ": [1, None, {"deep": "🥦"}]}
    async with our_peer(server) as ours:
        theirs = await page.peer(server)
        there, here = await from_page(theirs, ours, label="a label", metadata=metadata)
        assert (here.label, here.metadata, here.peer) == ("a label", metadata, theirs.id)
        assert here.connection_id == there.facts["connectionId"]
        here, there = await to_page(ours, theirs, label="наш", metadata=metadata)
        assert (there.facts["label"], there.facts["metadata"], there.facts["peer"]) == (
            "наш",
            metadata,
            ours.id,
        )
        assert here.connection_id == there.facts["connectionId"]
        there, here = await from_page(theirs, ours)
        assert (here.label, here.metadata, here.serialization) == (here.connection_id, None, "binary")
        here, there = await to_page(ours, theirs, metadata="just text")
        assert (there.facts["label"], there.facts["metadata"]) == (here.connection_id, "just text")


@pytest.mark.parametrize("reliable", [True, False])
async def test_order(page: Page, server: str, reliable: bool) -> None:
    """Both sides agree on whether messages keep their order; either way all of them arrive, in chunks too."""
    values: list[Any] = [*range(200), *(f"{number:05}" * 4_000 for number in range(10))]
    async with our_peer(server) as ours:
        theirs = await page.peer(server)
        there, here = await from_page(theirs, ours, reliable=reliable)
        both = [(here, there), await to_page(ours, theirs, reliable=reliable)]
        for here, there in both:
            assert here.reliable is there.facts["reliable"] is reliable
            await there.send(*values)
            received = [await soon(here.receive()) for _ in values]
            for value in values:
                await soon(here.send(value))
            returned = await there.receive(len(values))
            if reliable:
                assert (received, returned) == (values, values)
            else:
                assert sorted(received, key=str) == sorted(returned, key=str) == sorted(values, key=str)


async def test_many_connections_at_once(page: Page, server: str) -> None:
    """Eight connections each way, opened together, do not mix their messages."""
    async with our_peer(server) as ours:
        theirs = await page.peer(server)
        opened = asyncio.gather(*(theirs.connect(ours.id, label=f"page {n}") for n in range(8)))
        from_here = asyncio.gather(*(ours.connect(theirs.id, label=f"shell {n}") for n in range(8)))
        accepted_there = [await theirs.accept() for _ in range(8)]
        accepted_here = [await soon(ours.accept()) for _ in range(8)]
        heres = accepted_here + await soon(from_here)
        theres = {there.facts["label"]: there for there in accepted_there + await soon(opened)}
        for here in heres:
            await here.send(here.label)
            await theres[here.label].send(here.label)
        for here in heres:
            assert await soon(here.receive()) == here.label
            assert await theres[here.label].receive() == [here.label]


@OPENERS
@pytest.mark.parametrize("closer", ["page", "shell"])
async def test_close(page: Page, server: str, closer: str, opener: str) -> None:
    """One side closes, the other sees it; other connections of the two stay."""
    async with our_peer(server) as ours:
        theirs = await page.peer(server)
        there, here = await joined(opener, theirs, ours)
        here_too, there_too = await to_page(ours, theirs)
        await talks(here, there)
        if closer == "page":
            await there.close()
            assert [value async for value in here] == []
        else:
            await soon(here.close())
        await there.happened("close")
        assert not here.open
        await talks(here_too, there_too)


@OPENERS
@pytest.mark.parametrize("serialization", ["binary", "json", "MsgPack"])
async def test_flush_close(page: Page, server: str, serialization: str, opener: str) -> None:
    """Whoever closes with flush, all that was sent before arrives."""
    values = [f"{number:03}" * 500 for number in range(100)]
    async with our_peer(server) as ours:
        theirs = await page.peer(server)
        options = {"serialization": serialization, "reliable": True}
        there, here = await joined(opener, theirs, ours, **options)
        await there.send(*values)
        await there.close(flush=True)
        assert await soon(collected(here)) == values
        await there.happened("close")
        there, here = await joined(opener, theirs, ours, **options)
        for value in values:
            await soon(here.send(value))
        await soon(here.close(flush=True))
        assert await there.receive(len(values)) == values
        await there.happened("close")


async def collected(connection: DataConnection) -> list[Any]:
    """Every value until the connection is closed."""
    return [value async for value in connection]


async def test_an_id_taken(page: Page, server: str) -> None:
    """Neither side can take the id that the other has, however many try at once."""
    async with our_peer(server) as ours:
        thieves = [await page.create(server, ours.id) for _ in range(10)]
        errors = [await thief.happened("error") for thief in thieves]
        assert [error["type"] for error in errors] == ["unavailable-id"] * 10
        theirs = await page.peer(server)
        with pytest.raises(UnavailableID):
            async with our_peer(server, theirs.id):
                pass
        there, here = await from_page(theirs, ours)
        await talks(here, there)


async def test_a_peer_that_is_not_there(page: Page, server: str) -> None:
    """Both sides are told, and can go on."""
    async with our_peer(server) as ours:
        theirs = await page.peer(server)
        await theirs.dial("nobody")
        with pytest.raises(PeerUnavailable):
            await soon(ours.connect("nobody"))
        assert (await theirs.happened("error"))["type"] == "peer-unavailable"
        here, there = await to_page(ours, theirs)
        await talks(here, there)


async def test_the_broker_dies_and_comes_back(page: Page, broker: BrokerFactory) -> None:
    """Open connections live on meanwhile, and afterwards there can be new ones, both ways."""
    async with AsyncExitStack() as life:
        async with broker() as server:
            ours = await life.enter_async_context(our_peer(server))
            theirs = await page.peer(server, "theirs")
            there, here = await from_page(theirs, ours)
        await theirs.happened("disconnected")
        await talks(here, there)
        back = asyncio.Event()
        ours.on("open", lambda _: back.set())
        async with broker(port=port_of(server)):
            await soon(back.wait())
            await theirs.tell("reconnect")
            assert await theirs.happened("open") == "theirs"
            await talks(here, there)
            new_there, new_here = await from_page(theirs, ours)
            await talks(new_here, new_there)
            new_here, new_there = await to_page(ours, theirs)
            await talks(new_here, new_there)
            await talks(here, there)
