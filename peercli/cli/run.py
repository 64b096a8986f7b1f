"""From the shell and back: the event loop, the signals, the only catch-all, the exit code."""

from __future__ import annotations

import asyncio
import gc
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

__all__ = ["explain", "run"]

START_UP = 1.0  # s from when the work begins until Python looks for garbage
_SIGNALS = {
    signal.SIGINT: Exit.INTERRUPTED,
    signal.SIGTERM: Exit.TERMINATED,
    signal.SIGHUP: Exit.HUNG_UP,
}


def run(
    work: Callable[[Console], Awaitable[None]],
    console: Console,
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run a command's work to its end, and leave with the exit code that tells how it went.

    SIGINT, SIGTERM and SIGHUP cancel the work, which then says goodbye to its peers; a second one does
    not wait for that.

    Raises:
        typer.Exit: always, unless the code is 0.
    """
    _log(console.verbosity)
    loop = (new_loop or asyncio.new_event_loop)()
    try:
        code = loop.run_until_complete(_supervise(work, console))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()  # which leaves Python's own handler of SIGINT behind, the one that prints a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if code:
        raise typer.Exit(code)


async def _supervise(work: Callable[[Console], Awaitable[None]], console: Console) -> Exit:
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work(console))
    loop.call_later(START_UP, _look_for_garbage)
    received: list[Exit] = []

    def interrupt(code: Exit) -> None:
        if received:
            console.keys.give_back()
            os._exit(code)
        received.append(code)
        task.cancel()

    for number, code in _SIGNALS.items():
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
            loop.add_signal_handler(number, interrupt, code)
    try:
        await task
    except asyncio.CancelledError:
        return received[0] if received else Exit.FAULT
    except Exception as error:  # noqa: BLE001  the one place where everything ends
        return received[0] if received else await explain(error, console)
    finally:
        console.keys.give_back()
        await console.close()
    if received:
        return received[0]
    return Exit.DONE if console.regretted is None else exit_for(console.regretted)


def _look_for_garbage() -> None:
    """Have Python look for garbage from now on, but not in what has been imported, which stays.

    It looks at everything only once there is a quarter more than at the last time: beside all those modules,
    lost connections would keep their buffers for an hour.
    """
    gc.freeze()
    gc.enable()


async def explain(error: Exception, console: Console) -> Exit:
    """Say what went wrong; the exit code for it."""
    code = exit_for(error)
    if console.verbosity >= 2:
        traceback.print_exception(error)
    match error:
        case BrokenPipeError():
            pass  # whoever read us knows
        case PeerError():
            await console.fail(error, code)
        case OSError():
            await console.fail(PeerError(error.strerror or str(error)), code)
        case _:
            what = f"{type(error).__name__}: {error}"
            await console.fail(PeerError(f"a fault of peercli's own: {what}", hint="-vv shows where"), code)
    return code


def _log(verbosity: int) -> None:
    level = {2: logging.INFO, 3: logging.DEBUG}.get(min(verbosity, 3), logging.CRITICAL)
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")
