"""What is made from the code and committed. `python -m tests.generated` makes it afresh."""

from __future__ import annotations

import json
from pathlib import Path

import peercli
from peercli.cli.completion import FILES, script
from peercli.cli.manual import pages
from tests.schema import schema

__all__ = ["ROOT", "generated"]

ROOT = Path(peercli.__file__).parent.parent


def generated() -> dict[Path, str]:
    """Every such file, and what should be in it."""
    scripts = {ROOT / "completions" / name: script(shell) for shell, name in FILES.items()}
    manual = {ROOT / f"man/man{name[-1]}" / name: text for name, text in pages(ROOT / "man/parts").items()}
    events = {ROOT / "peercli/events.schema.json": json.dumps(schema(), indent=1) + "\n"}
    return scripts | manual | events


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
