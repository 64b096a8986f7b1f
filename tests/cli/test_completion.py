"""Completion in real shells, with the scripts as peercli installs them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from tests import tools

WITHIN = 30.0
# In the place of peercli, so that what a line was completed to can be read off when it is run.
ECHO = 'peercli() { if [ "$1" = complete ]; then command peercli "$@"; else echo "ran $*;"; fi; }'
ECHOES = {
    "bash": ECHO,
    "zsh": ECHO,
    "fish": "function peercli; if test $argv[1] = complete; command peercli $argv; "
    'else; echo "ran $argv;"; end; end',
}

CASES = {
    "lis": "listen",
    "connect --serial": "connect --serialization",
    "connect --serialization msg": "connect --serialization msgpack",
    "receive-file --on-conflict over": "receive-file --on-conflict overwrite",
    "config sh": "config show",
    "pipe lapt": "pipe laptop",
    "receive-file 7-bagpipe-zucc": "receive-file 7-bagpipe-zucchini",
    "pipe --profile wo": "pipe --profile work",
    "send-file laptop unlikely-n": "send-file laptop unlikely-name.txt",
    "listen --save-dir unli": "listen --save-dir unlikely-folder/",
}


@contextmanager
def interactive(shell: str, home: Path) -> Iterator[pexpect.spawn[str]]:
    """A shell as a user starts it, in a folder with a file and a folder."""
    environment = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "dumb" if shell != "fish" else "xterm",
        "SHELL": tools.program(shell),
        "PS1": "> ",
        "LANG": "C.UTF-8",
    }
    child: pexpect.spawn[str] = pexpect.spawn(
        tools.program(shell),
        ["-i"],
        env=environment,
        cwd=str(home / "here"),
        encoding="utf-8",
        timeout=WITHIN,
        dimensions=(50, 200),
    )
    try:
        yield child
    finally:
        child.close(force=True)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with a configuration, and `here` to work in."""
    (tmp_path / "here/unlikely-folder").mkdir(parents=True)
    (tmp_path / "here/unlikely-name.txt").touch()
    config = tmp_path / ".config/peercli/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[profiles.work]\n[contacts]\nlaptop = "my-laptop-7"\n')
    (tmp_path / ".zshrc").write_text("PS1='> '\nunsetopt prompt_cr prompt_sp\n")
    return tmp_path


@pytest.mark.parametrize("shell", ECHOES)
def test_in_a_real_shell(shell: str, home: Path) -> None:
    """`peercli --install-completion`, a new shell, and Tab."""
    with interactive(shell, home) as child:
        child.sendline("peercli --install-completion; exit")
        child.expect("is in place")
        child.expect(pexpect.EOF)
    with interactive(shell, home) as child:
        child.sendline(ECHOES[shell])
        for typed, expected in CASES.items():
            child.send(f"peercli {typed}\t")
            child.send("\r")
            child.expect("ran ([^;$]*);")
            assert isinstance(child.match, re.Match)
            assert child.match.group(1).strip().rstrip("/") == expected.rstrip("/")  # zsh drops it on Enter
