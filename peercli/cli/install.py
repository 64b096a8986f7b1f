"""Putting the completion script where a shell finds it."""

from __future__ import annotations

import os
from pathlib import Path

import shellingham

from peercli.cli.completion import script
from peercli.cli.shells import Shell
from peercli.errors import UsageError

__all__ = ["install", "this_shell"]


def install(shell: Shell) -> Path:
    """Write the script where the shell looks for it, and have the shell look there; the script's path.

    Raises:
        UsageError: a file cannot be written.
    """
    try:
        home = Path.home()
    except RuntimeError:
        raise UsageError("there is no home folder for completion to go to", hint="set HOME") from None
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    path, start, line = {
        Shell.BASH: (data / "bash-completion/completions/peercli", home / ".bashrc", "source {}"),
        Shell.ZSH: (
            data / "zsh/site-functions/_peercli",
            Path(os.environ.get("ZDOTDIR") or home) / ".zshrc",
            "fpath=({.parent} $fpath); autoload -Uz compinit && compinit",
        ),
        Shell.FISH: (config / "fish/completions/peercli.fish", None, ""),
        Shell.POWERSHELL: (data / "peercli/peercli.ps1", config / "powershell/profile.ps1", ". {}"),
    }[shell]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(shell))
        if start is not None:
            _add_line(start, f"{line.format(path)}  # completion of peercli")
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be written: {error.strerror}") from None
    return path


def _add_line(path: Path, line: str) -> None:
    text = path.read_text() if path.exists() else ""
    if line not in text.splitlines():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(("\n" if text and not text.endswith("\n") else "") + line + "\n")


def this_shell() -> Shell:
    """The shell that this process was started from.

    Raises:
        UsageError: it is none of those that there is a script for.
    """
    try:
        name = shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        name = Path(os.environ.get("SHELL", "")).name
    name = {"pwsh": "powershell"}.get(name, name)
    try:
        return Shell(name)
    except ValueError:
        raise UsageError(
            f"there is no completion for {name or 'this shell'}",
            hint=f"there is one for {', '.join(Shell)}: peercli --show-completion SHELL",
        ) from None
