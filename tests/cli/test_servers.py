"""`--server` given several times, by real processes: one of the brokers dies, and nobody minds."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.brokers import our_server
from tests.cli.shell import fresh
from tests.commands import peercli

PATIENCE = 60.0  # s


async def test_one_of_two_brokers_dies() -> None:
    name = fresh("listener")
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as life, our_server() as staying:
        dying = await life.enter_async_context(our_server())
        servers = ("--server", dying, "--server", staying)
        async with peercli("listen", "--id", name, *servers, "--ice", "none") as listen:
            await listen.says("Listening as")
            async with peercli("connect", name, "--server", dying, "--ice", "none") as connect:
                await connect.write("by the first\n")
                assert await listen.line() == "by the first"
            await life.aclose()
            env = {"PEERCLI_SERVER": f"{dying} {staying}"}
            async with peercli("connect", name, "--ice", "none", env=env) as connect:
                await connect.write("by the second\n")
                assert await listen.line() == "by the second"


async def test_none_of_them_is_there() -> None:
    async with our_server() as gone:
        pass
    servers = ("--server", gone, "--server", gone.replace("127.0.0.1", "localhost"))
    async with asyncio.timeout(PATIENCE), peercli("connect", "somebody", *servers) as connect:
        assert await connect.exit_code() == 3
        assert "no broker can be had" in connect.stderr
        assert "hint: " in connect.stderr
