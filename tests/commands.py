"""peercli as a shell runs it: a process, its three streams, and its exit code.

    async with peercli("listen", "--server", url, "--id", "shell") as listen:
        await listen.says("Listening as shell")
        assert await listen.line() == "hello"

Every wait is bounded, and fails with what the process said. Leaving the block ends the process (SIGTERM).
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import psutil

from tests.schema import check

__all__ = ["Command", "peercli"]

WITHIN = 60.0  # s; for any one thing that a process is to do
STILL = 3.0  # s without taking anything, until a process must be waiting for something else
MAX_LINE = 1 << 24  # bytes of a line on stdout


class Command:
    """A running peercli."""

    def __init__(self, name: str, process: Process) -> None:
        self.process = process
        self.stderr = ""
        """What it has said on stderr so far."""
        self._read_to = 0
        self._name = name
        self._heard = asyncio.Event()
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        assert self.process.stderr
        while piece := await self.process.stderr.read(65_536):
            self.stderr += piece.decode(errors="replace")
            self._heard.set()
        self._heard.set()

    async def says(self, text: str) -> str:
        """Wait until it says `text` on stderr, after what was waited for before; the rest of that line."""
        with suppress(TimeoutError):
            async with asyncio.timeout(WITHIN):
                while (found := self._find(text)) is None and not self._listening.done():
                    self._heard.clear()
                    await self._heard.wait()
                if found is not None:
                    return found
        raise self._failure(f"did not say {text!r}")

    def _find(self, text: str) -> str | None:
        start = self.stderr.find(text, self._read_to)
        end = self.stderr.find("\n", start)
        if start < 0 or end < 0:
            return None
        self._read_to = end
        return self.stderr[start + len(text) : end]

    async def line(self) -> str:
        """The next line of stdout, without its end."""
        assert self.process.stdout
        try:
            async with asyncio.timeout(WITHIN):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise self._failure("printed nothing more") from None
        if not line.endswith(b"\n"):
            raise self._failure(f"ended its stdout with {line!r}")
        check(text := line.decode().removesuffix("\n"))
        return text

    async def read(self, size: int = -1) -> bytes:
        """The next `size` bytes of stdout, or the rest of it: fewer only if it ends."""
        assert self.process.stdout
        try:
            async with asyncio.timeout(WITHIN):
                if size < 0:
                    return await self.process.stdout.read()
                return await self.process.stdout.readexactly(size)
        except asyncio.IncompleteReadError as error:
            return error.partial
        except TimeoutError:
            raise self._failure("did not end its stdout, or print as much") from None

    async def write(self, data: str | bytes) -> None:
        """Write to its stdin, and wait until it has gone into the pipe."""
        assert self.process.stdin
        self.process.stdin.write(data.encode() if isinstance(data, str) else data)
        await self.process.stdin.drain()

    async def stuck(self) -> None:
        """Wait until it takes no more of what was written to its stdin, though there is more."""
        assert self.process.stdin
        transport, left = self.process.stdin.transport, None
        while left != (left := transport.get_write_buffer_size()):
            assert left, f"{self._name} took everything"
            await asyncio.sleep(STILL)

    def end_input(self) -> None:
        """Close its stdin."""
        assert self.process.stdin
        self.process.stdin.close()

    async def exit_code(self, within: float = WITHIN) -> int:
        """Its exit code, once it has ended; `within` more seconds if that takes long by itself."""
        try:
            async with asyncio.timeout(within):
                code = await self.process.wait()
                await self._listening
        except TimeoutError:
            raise self._failure("did not end") from None
        check(self.stderr)
        return code

    async def close(self) -> None:
        """End it, if it runs, and free what it held."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.terminate()
        try:
            async with asyncio.timeout(WITHIN):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            raise self._failure("did not end on SIGTERM") from None
        finally:
            await self._listening
            if self.process.stdin is not None:
                self.process.stdin.close()
                with suppress(BrokenPipeError, ConnectionResetError):  # it did not read all it was given
                    await self.process.stdin.wait_closed()

    def memory(self) -> int:
        """The bytes that it has in memory; none when it has ended."""
        try:
            return psutil.Process(self.process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return 0

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()

    def _failure(self, what: str) -> AssertionError:
        return AssertionError(f"{self._name} {what}; its stderr:\n{self.stderr or '(nothing)'}")


@asynccontextmanager
async def peercli(
    *arguments: str,
    stdout: int = PIPE,
    env: Mapping[str, str] | None = None,
    within: Sequence[str] = (),
    module: Sequence[str] = ("peercli",),
) -> AsyncIterator[Command]:
    """Start `peercli ARGUMENTS`, with pipes for its streams.

    Args:
        stdout: DEVNULL where nobody reads it: a full pipe would stop the process.
        env: added to this process's own, without what would configure peercli.
        within: a command that runs it: `ip netns exec NAME`.
        module: what Python runs: one that runs peercli, and its own first arguments.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PEERCLI_")}
    process = await asyncio.create_subprocess_exec(
        *within,
        sys.executable,
        "-m",
        *module,
        *arguments,
        stdin=PIPE,
        stdout=stdout,
        stderr=PIPE,
        env=inherited | dict(env or {}),
        limit=MAX_LINE,
    )
    command = Command(f"peercli {' '.join(arguments)}", process)
    try:
        yield command
    except BaseException:
        print(f"stderr of peercli {' '.join(arguments)}:\n{command.stderr or '(nothing)'}")
        raise
    finally:
        await command.close()
