"""The `peercli` command, and `python -m peercli`."""

import gc
import os
import signal
import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command. Until it is there to say goodbye, Ctrl-C ends it as it ends any program: quietly."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        # Names that peers give are more than a locale of old can tell. Python 3.15 begins in this mode.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    # What is made while modules are imported is no garbage: to look for some takes a seventh of the start.
    gc.disable()  # `run` enables it
    from peercli.cli.main import main

    main()


if __name__ == "__main__":
    main()
