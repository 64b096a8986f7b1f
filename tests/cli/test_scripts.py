"""Shell scripts as people write them, in tests/scripts: each by the shells that people have."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests import tools
from tests.cli.shell import Shell, fresh

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").glob("*.sh"))
NEEDS = {"ssh": ("sshd", "ssh", "scp"), "video": ("ffmpeg", "ffprobe"), "cron": ("setsid",)}
PATIENCE = 200.0  # s
SYSTEM = "/usr/sbin:/sbin"  # where sshd is, and not on everybody's PATH


@pytest.mark.timeout(240)
@pytest.mark.parametrize("interpreter", ["dash", "bash"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script(shell: Shell, tmp_path: Path, script: Path, interpreter: str) -> None:
    """It checks for itself what it has done, and ends with 0. What it leaves running is ended."""
    path = f"{shell.env['PATH']}:{SYSTEM}"
    for name in NEEDS.get(script.stem, ()):
        if shutil.which(name, path=path) is None:
            tools.missing(name)
    if script.stem == "ssh" and os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which sshd insists on, and its service would make
    with (
        (tmp_path / "script.log").open("wb") as log,
        subprocess.Popen(
            [tools.program(interpreter), script, fresh("script")],
            cwd=tmp_path,
            env=shell.env | {"PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            code = process.wait(PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for said in tmp_path.glob("*.log"):
                print(f"{said.name}:\n{said.read_text(errors='replace')}")
    assert code == 0
