"""Every test that peercli-security(7) names for a claim is there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "man/man7/peercli-security.7"


def test_the_tests_it_names() -> None:
    claims = (
        PAGE.read_text().partition(".Sh HOW IT IS TESTED")[2].partition(".Sh SEE ALSO")[0].split(".It ")[1:]
    )
    assert claims
    for claim in claims:
        named = re.findall(r"^\.Pa (\S+) :\n((?:test_\w+[,;]?\n)+)", claim, re.MULTILINE)
        assert named, f"nothing holds: {claim}"
        for file, names in named:
            text = (TESTS / file).read_text()
            for name in re.findall(r"\w+", names):
                assert f"def {name}(" in text, f"{file} has no {name}"
