"""The systemd units: good to systemd itself, with the peercli of this environment where pip would put it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import peercli
from tests import tools

UNITS = Path(peercli.__file__).parent / "systemd"


def test_units_are_good(tmp_path: Path) -> None:
    """Nothing to complain of: neither for the system's manager nor for a user's."""
    analyze = tools.program("systemd-analyze")
    command = Path(sys.executable).parent / "peercli"
    (tmp_path / ".local/bin").mkdir(parents=True)
    (tmp_path / ".local/bin/peercli").symlink_to(command)
    server = tmp_path / "peercli-server.service"
    unit = (UNITS / server.name).read_text()
    server.write_text(unit.replace("/usr/local/bin/peercli", str(command)))
    assert server.read_text() != unit
    for manager, path in (("--system", server), ("--user", UNITS / "peercli-listen.service")):
        done = subprocess.run(
            [analyze, manager, "verify", "--man=no", str(path)],
            env=os.environ | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
