"""pipe.html, the example for authors of pages, against peercli pipe."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import AbstractAsyncContextManager

from tests.commands import Command, peercli
from tests.interop.browsers import Page

SIZE = 3_000_001
MORE = 32 << 20  # bytes: more than the page takes unread, and the pipes on the way to it


async def run(page: Page, script: str) -> object:
    """What a script in the example, or the promise it makes, comes to."""
    return await page.evaluate(f"frames[0].eval({json.dumps(script)})")


async def shown(page: Page, expression: str) -> object:
    """What an expression in the example is, once it is something."""
    while not (value := await run(page, expression)):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return value


def pipe(server: str, *arguments: str) -> AbstractAsyncContextManager[Command]:
    """`peercli pipe ARGUMENTS` at this broker."""
    return peercli("pipe", *arguments, env={"PEERCLI_SERVER": server, "PEERCLI_ICE": "none"})


async def test_there_and_back(page: Page, server: str) -> None:
    """All that goes to the page comes back from it, whichever side calls; then both are done."""
    id = await page.example("pipe.html", server)
    await run(page, "talk = ({ readable, writable }) => readable.pipeTo(writable); null")
    sent = os.urandom(SIZE)
    async with pipe(server) as waiting, pipe(server, id) as calling:
        await run(page, f"to.value = {json.dumps(await waiting.says('Listening as '))}; to.onchange(); null")
        for command in (waiting, calling):
            await command.write(sent)
            command.end_input()
            assert await command.read() == sent
            assert await command.exit_code() == 0
    assert await run(page, "heard.textContent") == ""


async def test_words(page: Page, server: str) -> None:
    """What is typed in the page comes out of the pipe, and what goes in is shown in the page."""
    id = await page.example("pipe.html", server)
    async with pipe(server, id) as command:
        await command.write("from the shell\n")
        assert await shown(page, "heard.textContent") == "from the shell\n"
        await run(page, "line.value = 'from the page'; line.onchange(); null")
        assert await command.line() == "from the page"
        command.end_input()
        assert (await command.read(), await command.exit_code()) == (b"", 0)


async def test_enough(page: Page, server: str) -> None:
    """While the page reads nothing, nothing goes; when it has seen enough, the writer ends well."""
    id = await page.example("pipe.html", server)
    await run(page, "talk = async (both) => { window.both = both; }; null")
    async with pipe(server, id) as command:
        assert command.process.stdin
        command.process.stdin.write(bytes(MORE))
        await command.stuck()
        assert await shown(page, "!!window.both")
        await run(page, "both.readable.cancel(); null")
        await run(page, "both.writable.getWriter().close()")
        assert (await command.read(), await command.exit_code()) == (b"", 0)
