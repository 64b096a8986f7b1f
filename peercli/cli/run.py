"""From the shell and back: the event loop, the signals, the only catch-all, the exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import NoReturn

import typer

from peercli.cli.console import Console
from peercli.cli.exits import Exit, exit_for
from peercli.errors import PeerError, UsageError

__all__ = ["main", "run"]

_SIGNALS = {
    signal.SIGINT: Exit.INTERRUPTED,
    signal.SIGTERM: Exit.TERMINATED,
    signal.SIGHUP: Exit.HUNG_UP,
}


def main() -> NoReturn:
    """The `peercli` command; `peercli.__main__` has seen to it that Ctrl-C ends it quietly so far."""
    _fill_closed_descriptors()
    from peercli.cli.app import app

    code = _invoke(app)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = Exit.BROKEN_PIPE
    # Not sys.exit, which would wait for threads: one may sit in a DNS lookup for a minute.
    os._exit(code)


def _invoke(app: typer.Typer) -> int:
    """Parse and run; what is wrong with the command line is said as all else is, in one line."""
    try:
        code = app(prog_name="peercli", standalone_mode=False)
    except SystemExit as leaving:  # typer's way to say that nobody reads the help
        return Exit.BROKEN_PIPE if leaving.code else Exit.DONE
    except PeerError as error:
        asyncio.run(_console().fail(error, exit_for(error)))
        return exit_for(error)
    except Exception as error:  # noqa: BLE001  what is no usage error is told, too
        # A usage error, whichever class it has in the version of typer that is installed.
        explain, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
        if explain is None:
            return asyncio.run(_explain(error, _console()))
        if (
            message := explain().replace("Value error, ", "").rstrip(".")
        ):  # there is none where help was shown
            command = context.command_path if context else "peercli COMMAND"
            usage = UsageError(
                message[:1].lower() + message[1:], hint=f"{command} --help tells what there is"
            )
            asyncio.run(_console().fail(usage, Exit.USAGE))
        return Exit.USAGE
    return code if isinstance(code, int) else Exit.DONE


def _console() -> Console:
    """The console of a command line that was not understood."""
    verbosity = sum(word.count("v") for word in sys.argv if re.fullmatch("-v+", word))
    return Console(json="--json" in sys.argv, payload="pipe" in sys.argv, verbosity=verbosity)


def _fill_closed_descriptors() -> None:
    """Open what `<&-` and the like left closed: else the first socket would be taken for stdin.

    A closed stdin is an empty one; what is written to a closed stdout fails, as it does everywhere.
    """
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is `fd`
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115


def run(
    work: Callable[[Console], Awaitable[None]],
    console: Console,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> None:
    """Run a command's work to its end, and leave with the exit code that tells how it went.

    SIGINT, SIGTERM and SIGHUP cancel the work, which then says goodbye to its peers; a second one does
    not wait for that.

    Raises:
        typer.Exit: always, unless the code is 0.
    """
    _log(console.verbosity)
    loop = new_loop()
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
    received: list[Exit] = []

    def interrupt(code: Exit) -> None:
        if received:
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
        return received[0] if received else await _explain(error, console)
    finally:
        await console.close()
    if received:
        return received[0]
    return Exit.DONE if console.regretted is None else exit_for(console.regretted)


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
            await console.fail(PeerError(error.strerror or str(error)), code)
        case _:
            what = f"{type(error).__name__}: {error}"
            await console.fail(PeerError(f"a fault of peercli's own: {what}", hint="-vv shows where"), code)
    return code


def _log(verbosity: int) -> None:
    level = {2: logging.INFO, 3: logging.DEBUG}.get(min(verbosity, 3), logging.CRITICAL)
    logging.basicConfig(stream=sys.stderr, level=level, format="%(levelname)s %(name)s: %(message)s")
