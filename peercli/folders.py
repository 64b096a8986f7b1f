"""Where the platform keeps a program's files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from platformdirs import PlatformDirs

__all__ = ["folder_for"]


def folder_for(kind: Literal["config", "data"]) -> Path:
    """The folder of peercli's for files of that kind, which need not be there yet.

    Who has no home, as a process of a user that the system does not know, takes the system's own.
    """
    folders = PlatformDirs("peercli")
    try:
        folder: Path = getattr(folders, f"user_{kind}_path")
    except RuntimeError:
        folder = getattr(folders, f"site_{kind}_path")
    return folder
