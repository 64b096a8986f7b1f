"""What a person types, or a program writes, as messages to send."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from peercli.cli.console import Console, from_json
from peercli.errors import UsageError
from peercli.services.streams import FdSource

__all__ = ["messages_from_stdin"]

MAX_LINE = 64 << 20  # bytes of a line of stdin that is one message


@asynccontextmanager
async def messages_from_stdin(*, as_json: bool, console: Console) -> AsyncIterator[AsyncIterator[Any]]:
    """The messages that stdin holds, a line each; at a terminal, a prompt with history and editing.

    Raises:
        UsageError: while iterating: a line is no JSON, where it should be, or too long.
    """
    if sys.stdin.isatty() and sys.stdout.isatty():
        from prompt_toolkit.patch_stdout import patch_stdout

        with patch_stdout():
            console.around_prompt()
            yield _parsed(_prompted(), as_json=as_json)
        return
    source = FdSource(0)
    try:
        yield _parsed(_lines(source), as_json=as_json)
    finally:
        await source.close()


async def _parsed(lines: AsyncIterator[str], *, as_json: bool) -> AsyncIterator[Any]:
    number = 0
    async for line in lines:
        number += 1
        if not as_json:
            yield line
            continue
        if not line.strip():
            continue
        try:
            yield from_json(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"line {number} of stdin is not JSON: {error}") from None


async def _lines(source: FdSource) -> AsyncIterator[str]:
    rest = b""
    while data := await source.read():
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")
        if len(rest) > MAX_LINE:
            raise UsageError(f"a line of more than {MAX_LINE >> 20} MiB", hint="peercli pipe sends bytes")
    if rest:
        yield rest.decode(errors="replace")


async def _prompted() -> AsyncIterator[str]:
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession()
    while True:
        try:
            yield await session.prompt_async("> ")
        except EOFError:
            return
