"""The interop table: what was tried, with which browser, through which broker, and how it went."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests import tools
from tests.interop.browsers import BROWSERS

__all__ = ["Table"]

OUTCOMES = {"passed": "ok", "failed": "FAILED", "skipped": "skipped"}
PACKAGES = json.loads((tools.INTEROP / "package.json").read_text())["dependencies"]
BROKER_NAMES = {"peerserver": f"PeerServer {PACKAGES['peer']}", "peercli": "peercli server"}
VERBS = {"opener": "connects", "closer": "closes"}


class Table:
    """Rows are tests, in the order in which they come up; columns are pairs of browser and broker."""

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}
        self._rows: dict[str, dict[tuple[str, str], str]] = {}

    def note(self, test: str, parameters: Mapping[str, Any], version: str | None, *, outcome: str) -> None:
        """Add the outcome of one run of a test; a failure stays.

        Args:
            parameters: `browser` and `broker` make the column (without a broker: ours), others name the row.
            version: what the browser says of itself.
            outcome: as pytest has it.
        """
        if version:
            self._versions[parameters["browser"]] = version
        others = {name: value for name, value in parameters.items() if name not in {"browser", "broker"}}
        name = test.removeprefix("test_").replace("_", " ")
        row = ", ".join([name, *(_named(*item) for item in others.items())])
        column = (parameters["browser"], parameters.get("broker", "peercli"))
        cells = self._rows.setdefault(row, {})
        if cells.get(column) != OUTCOMES["failed"]:
            cells[column] = OUTCOMES[outcome]

    def __str__(self) -> str:
        """The table in Markdown, and how many cells went well."""
        columns = [(browser, broker) for browser in BROWSERS for broker in BROKER_NAMES]
        heads = [
            f"{self._versions.get(browser, browser)}, {BROKER_NAMES[broker]}" for browser, broker in columns
        ]
        lines = [[f"PeerJS {PACKAGES['peerjs']}", *heads], ["---"] * (len(heads) + 1)]
        lines += [[row, *(cells.get(column, "") for column in columns)] for row, cells in self._rows.items()]
        cells = [cell for cells in self._rows.values() for cell in cells.values()]
        summary = f"\n{cells.count(OUTCOMES['passed'])} of {len(cells)} cells are ok.\n"
        return "".join(f"| {' | '.join(line)} |\n" for line in lines) + summary


def _named(name: str, value: object) -> str:
    """A parameter in the name of a row."""
    if isinstance(value, bool):
        return name if value else f"not {name}"
    if name in VERBS:
        return f"{value} {VERBS[name]}"
    return value if isinstance(value, str) else f"{name} {value}"
