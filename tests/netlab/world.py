"""An internet with servers, and hosts behind NATs of every kind; and what can pass between them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

from tests.certificates import Certificate
from tests.commands import Command
from tests.netlab.lab import Lab, Nat, Node
from tests.netlab.servers import broker, coturn

__all__ = ["GIVES_UP", "World", "event", "goes_direct", "relayed", "serial", "talk"]

GIVES_UP = 90.0  # s for a process that starts, and tries everything in vain
FILTERS_PORTS = {Nat.PORT_RESTRICTED, Nat.SYMMETRIC}


def goes_direct(here: Nat, there: Nat) -> bool:
    """Whether UDP can pass between two such homes: where both have a new port for every destination, or
    one has and the other lets in only ports that it knows, neither learns where to send to."""
    kinds = {here, there}
    if Nat.UDP_BLOCKED in kinds:
        return False
    return Nat.SYMMETRIC not in kinds or (here, there) not in itertools.product(FILTERS_PORTS, repeat=2)


class World:
    """An internet with a broker and coturn, and hosts behind NATs, made when they are asked for."""

    def __init__(self, lab: Lab, tls: Certificate | None = None) -> None:
        self.lab = lab
        self._hosts: dict[tuple[Nat, str], Node] = {}
        self.broker = broker(lab.internet, "198.18.0.1")
        self.turn = coturn(lab.internet, "198.18.0.1", "198.18.0.2", tls=tls)

    def host(self, nat: Nat, side: str) -> Node:
        """The host behind such a NAT on one side of a connection."""
        if (nat, side) not in self._hosts:
            self._hosts[nat, side] = self.lab.home(f"{nat.value}-{side}", nat).host()
        return self._hosts[nat, side]

    def options(self, *ice: str) -> list[str]:
        """What tells a peercli of the broker and of ICE servers."""
        return ["--server", self.broker, *itertools.chain(*(("--ice", url) for url in ice or ("none",)))]


serial = itertools.count()


async def talk(
    here: Node, there: Node, options: Sequence[str], others: Sequence[str] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Send a message there and have it back; the routes as both sides report them.

    `options` are those of both sides, unless there are `others` for that which listens.
    """
    name = f"peer-{next(serial)}"
    async with there.peercli("listen", "--id", name, "--echo", "--json", *(others or options)) as listen:
        await event(listen, "open")
        async with here.peercli("connect", name, "--json", *options) as connect:
            routes = await event(connect, "route"), await event(listen, "route")
            await connect.write("hello\n")
            assert (await event(connect, "data"))["data"] == "hello"
            connect.end_input()
            assert await connect.exit_code() == 0
    return routes


def relayed(routes: Sequence[dict[str, Any]]) -> bool:
    """Whether a TURN server is in the way: the side that does not use it may not know."""
    return any(route["relayed"] for route in routes)


async def event(command: Command, name: str) -> dict[str, Any]:
    """The next event of this name on its stdout."""
    while (found := json.loads(await command.line()))["event"] != name:
        pass
    return found  # type: ignore[no-any-return]
