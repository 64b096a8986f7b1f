"""peercli in processes that cost little to start: forked from one that has imported everything.

Real processes with real ends, an exit code or a signal; only Python's own start-up is not theirs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Forked"]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        __name__,
        "pytest",  # whoever runs the tests is __main__, which comes along
        "peercli.cli.app",
        "peercli.cli.transfers",
        "peercli.config",
        "peercli.services.files.outlet",
        "peercli.services.files.sending",
        "typer._adapters",  # typer's own, at its first option; passed over where it has none
    ]
)


class Forked:
    """`peercli ARGUMENTS`, without stdin and stdout, and with its stderr in a file."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self._log = log
        self._process = _context.Process(target=_run, args=(list(arguments), str(log)))
        self._process.start()

    @property
    def exit_code(self) -> int | None:
        """None while it runs; -9 if it was killed."""
        return self._process.exitcode

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    async def ended(self) -> int:
        """Its exit code, once it has one."""
        over, loop = asyncio.Event(), asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, over.set)
        try:
            await over.wait()
        finally:
            loop.remove_reader(self._process.sentinel)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    async def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        await self.ended()


def _run(arguments: list[str], log: str) -> None:
    for fd, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, os.devnull, os.O_WRONLY),
        (2, log, os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(path, flags), fd)
    sys.argv = ["peercli", *arguments]
    from peercli.cli.main import main

    main()
