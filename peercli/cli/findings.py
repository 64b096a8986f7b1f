"""How the findings of `doctor` look on a screen."""

from __future__ import annotations

import os

from rich.console import Console as Screen
from rich.text import Text

from peercli.cli.console import Console, printable
from peercli.services.events import Finding, Status

__all__ = ["FindingView"]

_MARKS: dict[Status, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "info": ("·", "dim"),
    "warning": ("!", "yellow"),
    "problem": ("✗", "bold red"),
}


class FindingView:
    """Shows findings on stdout, under a heading for each area; with `--quiet` only what is amiss."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._area = ""
        colour = os.isatty(1) and "NO_COLOR" not in os.environ
        self._screen = Screen(force_terminal=colour, no_color=not colour, soft_wrap=True, highlight=False)

    async def report(self, finding: Finding) -> None:
        """Show a finding."""
        if self._console.json:
            await self._console.report(finding)
            return
        if self._console.verbosity < 0 and finding.status in ("ok", "info"):
            return
        if finding.area != self._area:
            self._area = finding.area
            await self._show(Text(finding.area, "bold"))
        mark, style = _MARKS[finding.status]
        await self._show(Text.assemble("  ", (mark, style), " ", printable(finding.message)))
        if finding.hint:
            await self._show(Text(f"    hint: {printable(finding.hint)}", "italic"))

    async def _show(self, text: Text) -> None:
        with self._screen.capture() as capture:
            self._screen.print(text)
        await self._console.write_styled(capture.get().rstrip("\n"))
