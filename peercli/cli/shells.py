"""The shells that can complete."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Shell"]


class Shell(StrEnum):
    """A shell that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"
