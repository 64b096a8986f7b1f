"""`python -m tests.bench NAME …`: run one of the benches."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

BENCHES = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if '__name__ == "__main__"' in path.read_text()
)

if len(sys.argv) < 2 or sys.argv[1] not in BENCHES:
    sys.exit(f"usage: python -m tests.bench {{{','.join(BENCHES)}}} [-h] …")
name = sys.argv.pop(1)
sys.argv[0] = f"python -m tests.bench {name}"
runpy.run_module(f"tests.bench.{name}", run_name="__main__")
