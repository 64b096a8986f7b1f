"""The `peercli` command, and `python -m peercli`."""

import signal
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Run the command. Until it is there to say goodbye, Ctrl-C ends it as it ends any program: quietly."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from peercli.cli.run import main

    main()


if __name__ == "__main__":
    main()
