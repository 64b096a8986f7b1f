"""Megabytes to and from stock PeerJS in real browsers while datagrams are lost, each held against its digest.

`PEERCLI_MEGABYTES=100 python -m tests.interop -k loss` carries a hundred each way.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

import pytest

from peercli.peer.data import DataConnection
from peercli.rtc.ice import Agent
from peercli.rtc.udp import UdpSocket
from tests.brokers import our_server
from tests.interop.browsers import Page
from tests.interop.test_peercli_browser import from_page, our_peer
from tests.interop.values import counted, large

LOSS = 0.01  # of datagrams, each way
MESSAGE = 1_000_000  # bytes
MESSAGES = int(os.environ.get("PEERCLI_MEGABYTES", "3"))


class Losses:
    """Loses datagrams of DTLS on the way from and to our sockets.

    Attributes:
        sent, received: how many were lost.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent = self.received = 0
        self._random = random.Random(1)
        make, send, receive, hand_on = (
            UdpSocket.__init__,
            UdpSocket._send_singly,
            UdpSocket.receive,
            Agent.data_received,
        )

        def make_plain(udp: UdpSocket, *arguments: Any, coalesce: bool) -> None:
            make(udp, *arguments, coalesce=False)
            udp._segments = False

        def send_some(udp: UdpSocket, datagrams: memoryview, size: int, address: tuple[str, int]) -> int:
            for start in range(0, len(datagrams), size):
                if self._random.random() < LOSS:
                    self.sent += 1
                elif not send(udp, datagrams[start : start + size], size, address):
                    return start
            return len(datagrams)

        def receive_some(udp: UdpSocket) -> tuple[memoryview, int, tuple[Any, ...]] | None:
            while (arrival := receive(udp)) and self._is_lost(arrival[0]):
                pass
            return arrival

        def hand_on_some(agent: Agent, data: bytes, component: int) -> None:
            if not self._is_lost(data):
                hand_on(agent, data, component)

        monkeypatch.setattr(UdpSocket, "__init__", make_plain)
        monkeypatch.setattr(UdpSocket, "_send_singly", send_some)
        monkeypatch.setattr(UdpSocket, "receive", receive_some)
        monkeypatch.setattr(Agent, "data_received", hand_on_some)

    def _is_lost(self, datagram: bytes | memoryview) -> bool:
        is_stun = bytes(datagram[:1]) <= b"\x13"  # which has its own way with losses
        lost = not is_stun and self._random.random() < LOSS
        self.received += lost
        return lost


async def send(connection: DataConnection, content: bytes) -> None:
    for _ in range(MESSAGES):
        await connection.send(content)


async def test_megabytes_with_loss_both_ways(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = Losses(monkeypatch)
    content = counted(MESSAGE)
    async with our_server() as server, our_peer(server) as ours:
        there, here = await from_page(await page.peer(server), ours, reliable=True)
        began = time.monotonic()
        for _ in range(MESSAGES):
            await there.send({"$": "ArrayBuffer", "count": MESSAGE})
            assert await here.receive() == content
        from_there = time.monotonic() - began
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send(here, content))
            for _ in range(MESSAGES):
                assert await there.receive() == [large("Uint8Array", content)]
        to_there = time.monotonic() - began - from_there
    assert losses.sent > 10
    assert losses.received > 10
    print(
        f"{page.name}: {MESSAGES} MB from the page in {from_there:.1f} s, to it in {to_there:.1f} s; "
        f"{losses.received} and {losses.sent} datagrams lost"
    )
