"""Defaults and contacts from the configuration file, as the commands take them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests import tools
from tests.cli.shell import Shell, fresh


async def test_contacts_and_precedence(shell: Shell, tmp_path: Path) -> None:
    """A contact is its id; an option comes before the environment, then the profile, then the rest."""
    bot = fresh("bot")
    file = tmp_path / "config.toml"
    file.write_text(
        f'label = "nobody-reads-this"\n[connect]\nlabel = "of-connect"\n'
        f'[profiles.p.connect]\nlabel = "of-profile"\n[contacts]\nthe-bot = "{bot}"\n'
    )
    said = 'printf "%s\\n" "$PEERCLI_LABEL"'
    given = {"PEERCLI_CONFIG": str(file)}
    async with shell.peercli("listen", "--id", bot, "--exec", said, "--allow-anyone") as listen:
        await listen.says("Listening as")
        connect = ("connect", "the-bot", "--keep-open")
        done = await asyncio.gather(
            shell.run(*connect, env=given),
            shell.run(*connect, "--profile", "p", "--config", str(file)),
            shell.run(*connect, env=given | {"PEERCLI_PROFILE": "p"}),
            shell.run(*connect, "--label", "of-option", "--profile", "p", env=given),
        )
    assert [each.out for each in done] == [
        b"of-connect\n",
        b"of-profile\n",
        b"of-profile\n",
        b"of-option\n",
    ], done


async def test_a_value_that_does_not_fit(shell: Shell, tmp_path: Path) -> None:
    """It is refused with its place, by the command and by `config check`, and before anything is done."""
    file = tmp_path / "config.toml"
    file.write_text('\n[pipe]\ntimeout = "soon"\n')
    for command in (("pipe", "x"), ("config", "check")):
        done = await shell.run(*command, "--config", str(file))
        assert done.code == 2
        assert done.err.startswith(f"peercli: {file}:3: timeout: ")
    assert (await shell.run("pipe", "--help", "--config", str(file))).code == 0


async def test_config_tells_no_secrets(shell: Shell, tmp_path: Path) -> None:
    """`config show` says what holds and why, `config path` where; passwords are not among it."""
    file = tmp_path / "config.toml"
    file.write_text('token = "hush"\n[profiles.p]\nrelay = true\n')
    show = ("config", "show", "pipe", "--config", str(file), "--profile", "p")
    done, path = await asyncio.gather(
        shell.run(*show, env={"PEERCLI_ICE": "turn:me:hush@relay.example.org none"}),
        shell.run("config", "path", env={"PEERCLI_CONFIG": str(file)}),
    )
    lines = done.out.decode().splitlines()
    assert (done.code, b"hush" in done.out, path.out.decode()) == (0, False, f"{file}\n")
    assert f"relay = True  # {file}:3" in lines
    assert f"token = …  # {file}:1" in lines
    assert "ice = turn:relay.example.org:3478?transport=udp none  # PEERCLI_ICE" in lines
    assert "timeout = 30  # default" in lines


def test_who_has_no_home() -> None:
    """A process of a user that the system does not know takes the system's configuration, and no harm."""
    if os.geteuid():
        tools.missing("root")
    # Read as root may, and still nobody's process.
    as_nobody = (
        "import os, sys; os.setresuid(54321, 0, 0); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )

    def run(*command: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", as_nobody, "-m", "peercli", *command],
            env={"PATH": os.environ["PATH"]},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout

    assert run("config", "path") == (0, "/etc/xdg/peercli/config.toml\n")
    code, said = run("connect", "somebody", "--server", "http://127.0.0.1:9/")
    assert (code, said.splitlines()[0]) == (
        3,
        "peercli: the broker http://127.0.0.1:9/ cannot be reached: Connection refused",
    )
