"""What is published, as users get it: built, installed in places of its own, and run from there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import peercli
from tests.generated import ROOT

HERE = Path(sys.executable).parent
PATIENCE = 300  # s for pip to fetch and install all that peercli needs
SHARED = (
    *(f"share/{page.relative_to(ROOT)}" for page in sorted((ROOT / "man").glob("man?/*"))),
    "share/bash-completion/completions/peercli",
    "share/zsh/site-functions/_peercli",
    "share/fish/vendor_completions.d/peercli.fish",
    "share/systemd/user/peercli-listen.service",
    "lib/systemd/system/peercli-server.service",
)
DATA = ("py.typed", "events.schema.json", "protocol/words.txt")

CONSUMER = """\
import asyncio

from peercli import Peer


async def main() -> bytes:
    async with Peer("alice", server="http://localhost:9000/") as peer:
        conn = await peer.connect("bob", metadata={"why": "hello"})
        await conn.send({"text": "hi"})
        async for message in conn:
            print(message)
        reveal_type(conn)
        return conn.peer


asyncio.run(main())
"""


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with an sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, home=folder)
    return folder


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def run(*command: str | Path, home: Path, cwd: Path | None = None, **env: str | Path) -> str:
    """Run a command to its good end, in a new home, with the Python that ours is made from: all it says."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PEERCLI_", "PYTHON", "XDG_", "VIRTUAL_ENV"))
    }
    pip = Path.home() / ".config/pip/pip.conf"  # where packages come from is this machine's own matter
    if pip.exists():
        kept["PIP_CONFIG_FILE"] = str(pip)
    kept |= {
        "HOME": str(home),
        "PATH": f"{Path(sys.base_prefix) / 'bin'}:{os.environ['PATH']}",
        "PIP_CACHE_DIR": str(Path.home() / ".cache/pip"),
        "PIP_NO_COMPILE": "1",
    }
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd or home,
        env=kept | {name: str(value) for name, value in env.items()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_wheel_and_sdist(dist: Path, tmp_path: Path) -> None:
    """They hold what they should, and PyPI would take them."""
    with zipfile.ZipFile(only(dist, "*.whl")) as wheel:
        names = set(wheel.namelist())
    version = f"peercli-{peercli.__version__}"
    assert {f"peercli/{name}" for name in DATA} <= names
    assert {f"{version}.data/data/{name}" for name in SHARED} <= names
    assert {name.split("/")[0] for name in names} == {"peercli", f"{version}.data", f"{version}.dist-info"}
    with tarfile.open(only(dist, "*.tar.gz")) as sdist:
        inside = {name.removeprefix(f"{version}/") for name in sdist.getnames()}
    assert {"tests/run", "tests/scripts/ssh.sh", "man/parts/peercli.1.mdoc", "LICENSE", ".ci/run"} <= inside
    assert not any("node_modules" in name or ".venv" in name for name in inside)
    said = run(HERE / "twine", "check", "--strict", *dist.iterdir(), home=tmp_path, NO_COLOR="1")
    assert said.count("PASSED") == 2


@pytest.mark.timeout(2 * PATIENCE)
def test_first_command_of_the_readme(dist: Path, tmp_path: Path) -> None:
    """From a fresh copy, on a fresh home: a virtual environment, and a demo. Then it has all that is its."""
    home = tmp_path / "home"
    home.mkdir()
    run("tar", "xf", only(dist, "*.tar.gz"), home=home, cwd=tmp_path)
    clone = tmp_path / f"peercli-{peercli.__version__}"
    command = re.search(r"```sh\n(python3 -m venv .*)\n```", (clone / "README.md").read_text())
    assert command
    assert "All of it worked." in run("sh", "-c", command[1], home=home, cwd=clone)

    venv = clone / ".venv"
    for name in SHARED:
        assert (venv / name).is_file(), name
    package = only(venv, "lib/python3*/site-packages/peercli")
    for name in DATA:
        assert (package / name).is_file(), name
    (home / "consumer.py").write_text(CONSUMER)
    told = subprocess.run(
        [HERE / "mypy", "--strict", "--python-executable", venv / "bin/python", "consumer.py"],
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.splitlines()
    assert told == [
        'consumer.py:12: note: Revealed type is "peercli.peer.data.DataConnection"',
        'consumer.py:13: error: Incompatible return value type (got "str", expected "bytes")  [return-value]',
        "Found 1 error in 1 file (checked 1 source file)",
    ]


@pytest.mark.timeout(2 * PATIENCE)
def test_pipx(dist: Path, tmp_path: Path) -> None:
    """The wheel in an environment of its own, with the command on the PATH and its manual with it."""
    places = {
        "PIPX_HOME": tmp_path / "pipx",
        "PIPX_BIN_DIR": tmp_path / "bin",
        "PIPX_MAN_DIR": tmp_path / "man",
    }
    run(sys.executable, "-m", "pipx", "install", only(dist, "*.whl"), home=tmp_path, **places)
    command = tmp_path / "bin/peercli"
    assert run(command, "--version", home=tmp_path) == f"peercli {peercli.__version__}\n"
    run(command, "call", "--list-devices", home=tmp_path)  # which needs the libraries that are not Python
    assert (tmp_path / "man/man1/peercli-pipe.1").is_file()
    assert (tmp_path / "man/man7/peercli-protocols.7").is_file()


@pytest.mark.timeout(2 * PATIENCE)
def test_single_file(dist: Path, tmp_path: Path) -> None:
    """All of it in one file, by the command that CONTRIBUTING.md gives."""
    shiv = re.search(r"(?m)^shiv (.*) dist/\*\.whl$", (ROOT / "CONTRIBUTING.md").read_text())
    assert shiv
    run(HERE / "shiv", *shiv[1].split(), only(dist, "*.whl"), home=tmp_path)
    command = tmp_path / "peercli.pyz"
    assert run(command, "--version", home=tmp_path) == f"peercli {peercli.__version__}\n"
    assert "All of it worked." in run(command, "demo", home=tmp_path)
