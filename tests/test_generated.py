"""What is made from the command tree is as the tree is now."""

from __future__ import annotations

from tests.generated import generated


def test_nothing_is_stale() -> None:
    stale = [path.name for path, text in generated().items() if not path.exists() or path.read_text() != text]
    assert not stale, "run python -m tests.generated"
