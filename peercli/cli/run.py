"""From the shell and back: the event loop, the signals, the only catch-all, the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable

import typer

from peercli.cli.console import Console
from peercli.cli.exits import Exit, exit_for
from peercli.errors import PeerError

__all__ = ["main", "run"]

_SIGNALS = {signal.SIGINT: Exit.INTERRUPTED, signal.SIGTERM: Exit.TERMINATED}


def main() -> None:
    """The `peercli` command."""
    from peercli.cli.app import app

    app(prog_name="peercli")


def run(work: Callable[[Console], Awaitable[None]], console: Console) -> None:
    """Run a command's work to its end, and leave with the exit code that tells how it went.

    SIGINT and SIGTERM cancel the work, which then says goodbye to its peers; a second one does not wait.

    Raises:
        typer.Exit: always, unless the code is 0.
    """
    _log(console.verbosity)
    code = asyncio.run(_supervise(work, console))
    if code is Exit.BROKEN_PIPE:
        # Whatever Python still wants to flush to stdout at exit shall not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if code:
        raise typer.Exit(code)


async def _supervise(work: Callable[[Console], Awaitable[None]], console: Console) -> Exit:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work(console))
    received: list[Exit] = []

    def interrupt(code: Exit) -> None:
        if received:
            os._exit(code)
        received.append(code)
        task.cancel()

    for number, code in _SIGNALS.items():
        loop.add_signal_handler(number, interrupt, code)
    try:
        await task
    except asyncio.CancelledError:
        return received[0] if received else Exit.FAULT
    except Exception as error:  # noqa: BLE001  the one place where everything ends
        return await _explain(error, console)
    finally:
        await console.stdout.close()
    return Exit.DONE


async def _explain(error: Exception, console: Console) -> Exit:
    code = exit_for(error)
    if console.verbosity >= 2:
        traceback.print_exception(error)
    match error:
        case BrokenPipeError():
            pass  # whoever read us knows
        case PeerError():
            await console.fail(error, code)
        case OSError():
            await console.fail(PeerError(str(error)), code)
        case _:
            what = f"{type(error).__name__}: {error}"
            await console.fail(PeerError(f"a fault of peercli's own: {what}", hint="-vv shows where"), code)
    return code


def _log(verbosity: int) -> None:
    level = logging.DEBUG if verbosity >= 3 else logging.INFO if verbosity == 2 else logging.ERROR
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")
