"""A shell at a broker: starts peercli as a user would, waits with patience, and says what went wrong.

async with shell.peercli("listen", "--id", "box") as listen:
    await listen.says("Listening as box")
    assert (await shell.run("connect", "box", input=b"hello\n")).code == 0
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.commands import Command
from tests.schema import check

__all__ = ["DEVNULL", "PIPE", "Done", "Shell", "fresh", "random_file"]

MAX_LINE = 1 << 24  # bytes
WITHIN = 60.0  # s a command that is run to its end has for that

_numbers = itertools.count(1)


def fresh(name: str) -> str:
    """An id that no other test has."""
    return f"{name}-{os.getpid()}-{next(_numbers)}"


def random_file(path: Path, size: int) -> Path:
    """A file of `size` random bytes."""
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
        file.write(os.urandom(size & 0xFFFFF))
    return path


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: bytes
    err: str


@dataclass(frozen=True)
class Shell:
    """Starts peercli with `broker` for its server, and no ICE server to ask.

    Attributes:
        broker: its URL.
    """

    broker: str

    @property
    def env(self) -> dict[str, str]:
        """The environment of what is started: ours, without what configures peercli."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PEERCLI_")}
        here = str(Path(sys.executable).parent)
        return inherited | {
            "PATH": f"{here}:{inherited.get('PATH', os.defpath)}",
            "PEERCLI_SERVER": self.broker,
            "PEERCLI_ICE": "none",
        }

    @asynccontextmanager
    async def peercli(
        self,
        *arguments: str,
        stdin: int | IO[bytes] = PIPE,
        stdout: int | IO[bytes] = PIPE,
        env: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Command]:
        """`peercli ARGUMENTS` while the block lasts; then SIGTERM ends it."""
        async with self._start(
            [sys.executable, "-m", "peercli", *arguments], stdin, stdout, env or {}
        ) as command:
            yield command

    @asynccontextmanager
    async def script(self, text: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Command]:
        """`bash -c TEXT` without stdin, with `peercli` on its PATH and `env` in its environment."""
        async with self._start(["bash", "-c", text], DEVNULL, PIPE, env or {}) as command:
            yield command

    @asynccontextmanager
    async def _start(
        self,
        command_line: list[str],
        stdin: int | IO[bytes],
        stdout: int | IO[bytes],
        env: Mapping[str, str],
    ) -> AsyncIterator[Command]:
        process = await asyncio.create_subprocess_exec(
            *command_line, stdin=stdin, stdout=stdout, stderr=PIPE, env=self.env | dict(env), limit=MAX_LINE
        )
        name = " ".join(command_line[3:] if command_line[0] == sys.executable else command_line)
        command = Command(name, process)
        try:
            yield command
        except BaseException:
            print(f"stderr of {name}:\n{command.stderr or '(nothing)'}")
            raise
        finally:
            await command.close()

    async def run(
        self, *arguments: str, input: bytes | None = b"", env: Mapping[str, str] | None = None
    ) -> Done:
        """Run `peercli ARGUMENTS` to its end; `input` is all of its stdin, None leaves it open."""
        async with self.peercli(*arguments, env=env) as command:
            return await _finish(command, input)

    async def run_script(self, text: str, **env: str) -> Done:
        """Run `bash -c TEXT` to its end."""
        async with self.script(text, env) as command:
            return await _finish(command, None)


async def _finish(command: Command, input: bytes | None) -> Done:
    assert command.process.stdout
    async with asyncio.timeout(WITHIN):
        reading = asyncio.create_task(command.process.stdout.read())
        try:
            if input is not None:
                with suppress(BrokenPipeError, ConnectionResetError):  # it may end without
                    await command.write(input)
                command.end_input()
            out = await reading
        finally:
            reading.cancel()
    check(out.decode(errors="replace"))
    return Done(await command.exit_code(), out, command.stderr)
