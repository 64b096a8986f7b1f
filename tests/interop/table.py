"""The interop table: what was tried, with which browser, through which broker, and how it went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Table"]

OUTCOMES = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}
BROKER_NAMES = {"peerserver": "PeerServer", "peercli": "peercli server"}


class Table:
    """Rows are tests, columns are pairs of browser and broker, in the order in which they come up.

    Attributes:
        versions: what each browser says of itself.
    """

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}
        self._rows: dict[str, dict[tuple[str, str], str]] = {}

    def note(self, test: str, parameters: Mapping[str, Any], outcome: str) -> None:
        """Add the outcome of one run of a test; a failure stays.

        Args:
            parameters: `browser` and `broker` make the column (without a broker: ours), others name the row.
            outcome: as pytest has it.
        """
        others = {name: value for name, value in parameters.items() if name not in {"browser", "broker"}}
        name = test.removeprefix("test_").replace("_", " ")
        row = ", ".join([name, *(_named(*item) for item in others.items())])
        column = (parameters["browser"], parameters.get("broker", "peercli"))
        cells = self._rows.setdefault(row, {})
        if cells.get(column) != OUTCOMES["failed"]:
            cells[column] = OUTCOMES[outcome]

    def __str__(self) -> str:
        """The table in Markdown."""
        columns = list(dict.fromkeys(column for cells in self._rows.values() for column in cells))
        heads = [
            f"{self.versions.get(browser, browser)}, {BROKER_NAMES[broker]}" for browser, broker in columns
        ]
        lines = [["", *heads], ["---"] * (len(heads) + 1)]
        lines += [[row, *(cells.get(column, "") for column in columns)] for row, cells in self._rows.items()]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _named(name: str, value: object) -> str:
    """A parameter in the name of a row."""
    return str(value) if isinstance(value, str) else f"{'' if value else 'not '}{name}"
