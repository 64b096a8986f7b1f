"""Help is worth reading: grouped, narrow enough, with an example that is right. And: did you mean."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest
import typer.main

from peercli.cli.app import app
from peercli.cli.help import help_text
from peercli.cli.tree import Node, tree
from tests.cli.shell import Shell, fresh

COMMANDS = list(tree().walk())
each_command = pytest.mark.parametrize("node", COMMANDS, ids=lambda node: " ".join(node.path) or "peercli")


@each_command
@pytest.mark.parametrize("width", [80, 100, 200])
def test_no_line_is_too_long(node: Node, width: int) -> None:
    lines = help_text(node, width=width).splitlines()
    assert max(map(len, lines)) <= min(width, 100)
    assert not [line for line in lines if line != line.rstrip()]


@each_command
def test_every_option_is_told_in_its_group(node: Node) -> None:
    text = help_text(node, width=100)
    for option in node.options:
        group = text.partition(f"\n{option.panel or 'Options'}:\n")[2].partition("\n\n")[0]
        assert re.search(rf"^ +(-\w, )?{option.names[0]}\b", group, re.MULTILINE), option.names
    for argument in node.arguments:
        assert argument.usage in text.splitlines()[0]


@each_command
def test_it_ends_with_an_example_that_can_be_typed(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text("[profiles.work]\n")
    monkeypatch.setenv("PEERCLI_CONFIG", str(tmp_path / "config.toml"))
    example = help_text(node, width=100).rpartition("Example:\n  ")[2]
    words = shlex.split(example[example.index("peercli ") :].partition(" | ")[0])[1:]
    assert tuple(words[: len(node.path)]) == node.path
    command: Any = typer.main.get_command(app)
    context = command.make_context("peercli", list(words))
    for depth, name in enumerate(node.path, 1):
        command = command.commands[name]
        context = command.make_context(name, list(words[depth:]), parent=context)


async def test_it_is_plain_in_a_pipe(shell: Shell) -> None:
    """And the same as in a terminal, but for what makes headings bold there."""
    piped, wide, nothing = await asyncio.gather(
        shell.run("pipe", "--help", env={"COLUMNS": "80"}),
        shell.run("pipe", "-h", env={"COLUMNS": "200"}),
        shell.run(),
    )
    node = next(each for each in COMMANDS if each.path == ("pipe",))
    assert piped.out.decode() == help_text(node, width=80) + "\n"
    assert wide.out.decode() == help_text(node, width=100) + "\n"
    assert (nothing.code, nothing.out, nothing.err.rstrip()) == (2, b"", help_text(COMMANDS[0], width=80))


@pytest.mark.parametrize("bold", [True, False])
def test_headings_are_bold_in_a_terminal(bold: bool) -> None:
    environment = {**os.environ, "TERM": "xterm"} | ({} if bold else {"NO_COLOR": "1"})
    environment = {name: value for name, value in environment.items() if bold != (name == "NO_COLOR")}
    command = shlex.join([sys.executable, "-m", "peercli", "peers", "--help"])
    text = str(pexpect.run(command, env=environment, timeout=60, encoding="utf-8"))
    assert ("\x1b[1mUsage:\x1b[0m peercli peers" in text) is bold
    assert ("\x1b" in text) is bold


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("conect x", "connect"),
        ("config shw", "show"),
        ("connect x --serialisation json", "--serialization"),
        ("connect x --serialization jsn", "json"),
        ("receive-file --on-conflict renam", "rename"),
        ("call x --video-codec vp9", "vp8"),
        ("--show-completion bsh", "bash"),
    ],
)
async def test_did_you_mean(shell: Shell, typed: str, meant: str) -> None:
    done = await shell.run(*typed.split())
    assert (done.code, done.out) == (2, b"")
    assert done.err.splitlines()[1:] == [f"hint: did you mean {meant}?"]


async def test_what_is_like_nothing_is_shown_the_help(shell: Shell) -> None:
    done = await shell.run("connect", "x", "--qqqqq")
    assert done.err.splitlines() == [
        "peercli: there is no option --qqqqq",
        "hint: peercli connect --help tells what there is",
    ]


async def test_a_value_of_another_kind(shell: Shell) -> None:
    done = await shell.run("connect", "x", "--timeout", "soon")
    assert done.err.splitlines()[0] == "peercli: invalid value for '--timeout': 'soon' is not a valid number"


async def test_an_id_of_any_shape(shell: Shell, tmp_path: Path) -> None:
    """Spaces, dashes and a digit in front are fine as an argument, an option, a contact, and to --allow."""
    listener, caller = f"7 up {fresh('a-b_c')}", f"0 {fresh('my phone')}"
    config = tmp_path / "config.toml"
    config.write_text(f'[contacts]\n"the bar" = "{listener}"\n')
    listen = ("listen", "--id", listener, "--allow", caller, "--allow", f"{caller} 2", "--echo")
    async with shell.peercli(*listen) as listening:
        await listening.says(f"Listening as {listener}")
        for name, id in ((listener, caller), ("the bar", f"{caller} 2")):
            talk = ("connect", name, "--id", id, "--wait", "30", "--config", str(config))
            async with shell.peercli(*talk) as connect:
                await connect.write("hello\n")
                assert await connect.line() == "hello"
            assert await listening.line() == "hello"
