"""One broker for all the tests of commands: a process of its own, as everything here is."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.cli.shell import Shell


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    """A shell whose broker is `peercli server`, which forgets absent peers soon."""
    broker = subprocess.Popen(
        [
            *(sys.executable, "-m", "peercli", "server"),
            *("--port", "0", "--allow-discovery", "--expire-timeout", "1"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    with broker:
        try:
            assert broker.stderr
            said = broker.stderr.readline()
            match = re.fullmatch(r"Listening at (\S+)\n", said)
            assert match, said + broker.stderr.read()
            yield Shell(match[1])
        finally:
            broker.terminate()
    assert broker.returncode == 143
