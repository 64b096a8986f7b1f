"""The program: parses the command line and ends with the exit code.

A word of the command line costs what it needs: asyncio, and all that goes with it, come with the first event.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, NoReturn

from peercli.cli.exits import Exit
from peercli.errors import StorageFailed, UsageError
from peercli.options import did_you_mean

__all__ = ["main"]

_CHOICE = re.compile("'(?P<given>[^']*)' is not one of (?P<known>.*)")


def main() -> NoReturn:
    """The `peercli` command; `peercli.__main__` has seen to it that Ctrl-C ends it quietly so far."""
    _fill_closed_descriptors()
    code = _invoke()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = Exit.BROKEN_PIPE
    except OSError:
        code = code or Exit.STORAGE  # has been told, or cannot be
    # Not sys.exit, which would wait for threads: one may sit in a DNS lookup for a minute.
    os._exit(code)


def _invoke() -> int:
    """Parse and run; what is wrong with the command line is said as all else is, in one line."""
    if sys.argv[1:2] == ["complete"]:  # for a Tab, which is over before typer would be there
        from peercli.cli.complete import complete

        complete(*sys.argv[2:4])
        return Exit.DONE
    from peercli.cli.app import app

    try:
        code = app(prog_name="peercli", standalone_mode=False)
    except SystemExit as leaving:  # typer's way to say that nobody reads the help
        return Exit.BROKEN_PIPE if leaving.code else Exit.DONE
    except Exception as error:  # noqa: BLE001  what is no usage error is told, too
        if hasattr(error, "format_message"):  # of typer's, whichever class it has in the version installed
            error = _usage(error)
        elif isinstance(error, OSError) and error.filename is None:  # the help and the like, on a full disk
            error = StorageFailed(f"stdout cannot be written: {error.strerror}")
        return _end(error)
    return code if isinstance(code, int) else Exit.DONE


def _usage(error: Any) -> UsageError:
    """What typer found wrong, in our words, with what was probably meant."""
    message = error.format_message().replace("valid float", "valid number").rstrip(".")
    context = getattr(error, "ctx", None)
    meant = ""
    if option := getattr(error, "option_name", ""):
        message = f"there is no option {option}"
        known = [name for each in context.command.params for name in each.opts] if context else []
        meant = did_you_mean(option, known)
    elif refused := _CHOICE.search(message):
        meant = did_you_mean(refused["given"], re.findall("'([^']*)'", refused["known"]))
    command = context.command_path if context else "peercli COMMAND"
    return UsageError(
        message[:1].lower() + message[1:], hint=meant or f"{command} --help tells what there is"
    )


def _end(error: Exception) -> int:
    """Say what was wrong with a command line; the exit code for it."""
    import asyncio

    from peercli.cli.console import Console
    from peercli.cli.run import explain

    verbosity = sum(word.count("v") for word in sys.argv if re.fullmatch("-v+", word))
    console = Console(json="--json" in sys.argv, payload="pipe" in sys.argv, verbosity=verbosity)
    return asyncio.run(explain(error, console))


def _fill_closed_descriptors() -> None:
    """Open what `<&-` and the like left closed: else the first socket would be taken for stdin.

    A closed stdin is an empty one; what is written to a closed stdout fails, as it does everywhere.
    """
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is `fd`
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115
