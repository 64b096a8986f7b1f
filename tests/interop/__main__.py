"""`python -m tests.interop [PYTEST ARGUMENTS]`: run the browser tests, then print their table."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.interop.browsers import BROWSERS

with tempfile.TemporaryDirectory() as folder:
    table = Path(folder) / "table.md"
    os.environ["PEERCLI_INTEROP_TABLE"] = str(table)
    code = pytest.main([str(Path(__file__).parent), "-k", " or ".join(BROWSERS), *sys.argv[1:]])
    print(f"\n{table.read_text()}" if table.exists() else "")
sys.exit(code)
