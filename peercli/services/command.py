"""A shell command as two streams, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping

from peercli.errors import StorageFailed

__all__ = ["Command"]

SECRETS = {"PEERCLI_SECRET", "PEERCLI_TOKEN"}  # variables that a peer's process has no use for
CHUNK = 1 << 18  # bytes read at once
TERM_PATIENCE = 2.0  # s from SIGTERM to SIGKILL


class Command:
    """A shell command in a process group of its own: a `Source`, its output, and a `Sink`, its input.

    Use `start` to get one, and `stop` when it is over.
    """

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._said_all = asyncio.Event()

    @classmethod
    async def start(cls, text: str, environment: Mapping[str, str]) -> Command:
        """Run `text` by `sh -c`, with `environment` added to ours, and without what proves who we are.

        Raises:
            StorageFailed: the system does not start it: it has no process to spare, or the environment is
                too long.
        """
        ours = {name: value for name, value in os.environ.items() if name not in SECRETS}
        added = {name: _harmless(value) for name, value in environment.items()}
        try:
            process = await asyncio.create_subprocess_shell(
                text, stdin=PIPE, stdout=PIPE, env=ours | added, start_new_session=True
            )
        except OSError as error:
            raise StorageFailed(f"the command cannot be started: {error.strerror}") from None
        return cls(process)

    async def read(self) -> bytes:
        """Some of its output, none at the end."""
        data = await self._stdout.read(CHUNK)
        if not data:
            self._said_all.set()
        return data

    async def write(self, data: bytes) -> None:
        """Write to its standard input; waits while it does not read. What it never reads is dropped."""
        try:
            self._stdin.write(data)
            await self._stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            await self._process.wait()

    async def close(self) -> None:
        """End its standard input."""
        self._stdin.close()

    async def ended(self) -> None:
        """Return when it has ended, and all its output was read.

        Raises:
            StorageFailed: it failed.
        """
        await self._said_all.wait()
        status = await self._process.wait()
        if status > 0:
            raise StorageFailed(f"the command ended with exit code {status}")
        if status < 0:
            raise StorageFailed(f"the command was ended by {signal.Signals(-status).name}")

    async def stop(self) -> None:
        """End it now, if it has not ended, and whatever it has started and left in its process group."""
        self._stdin.close()
        self._signal(signal.SIGTERM)
        ending = asyncio.create_task(self._process.wait())
        try:
            # Not asyncio.timeout: before Python 3.11.3 it raises CancelledError in a task that was cancelled.
            await asyncio.wait({ending}, timeout=TERM_PATIENCE)
        finally:
            # Also when the shell itself has ended: what it started may have not.
            self._signal(signal.SIGKILL)
            await ending

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def _harmless(text: str) -> str:
    """What an environment can hold of `text`, which a peer chose."""
    return text.replace("\0", "").encode(errors="replace").decode()
