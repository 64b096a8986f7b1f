"""What a person types, or a program writes, as messages to send."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from peercli.cli.console import Console
from peercli.errors import UsageError
from peercli.protocol.jsontext import from_json
from peercli.services.streams import FdSource, lines

__all__ = ["messages_from_stdin"]

VERIFY = "/verify"  # a line that is not sent, but shows the words to compare


@asynccontextmanager
async def messages_from_stdin(*, as_json: bool, console: Console) -> AsyncIterator[AsyncIterator[Any]]:
    """The messages that stdin holds, a line each; at a terminal, a prompt with history and editing.

    Raises:
        UsageError: while iterating: a line is no JSON, where it should be (which a prompt only says), or
            too long.
    """
    if os.isatty(0) and os.isatty(1):
        from prompt_toolkit.patch_stdout import patch_stdout

        with patch_stdout():
            console.around_prompt()
            typed = _prompted(console)
            yield _values(typed, console) if as_json else typed
        return
    async with FdSource(0) as stdin:
        yield _values(lines(stdin)) if as_json else lines(stdin)


async def _values(lines: AsyncIterator[str], prompt: Console | None = None) -> AsyncIterator[Any]:
    number = 0
    async for line in lines:
        number += 1
        if not line.strip():
            continue
        try:
            value = from_json(line)
        except ValueError as error:
            if prompt is None:
                raise UsageError(f"line {number} of stdin is not JSON: {error}") from None
            prompt.status(f"That is not JSON, and was not sent: {error}")
        else:
            yield value


async def _prompted(console: Console) -> AsyncIterator[str]:
    from prompt_toolkit import PromptSession

    session: PromptSession[str] = PromptSession(enable_suspend=True)
    while True:
        try:
            # SIGINT is ours to handle; left to it, prompt_toolkit would take it and not give it back.
            line = await session.prompt_async("> ", handle_sigint=False)
        except EOFError:
            return
        except KeyboardInterrupt:  # the key, which is no signal while a prompt reads the terminal
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        if line == VERIFY:
            console.status(console.words())
        else:
            yield line
