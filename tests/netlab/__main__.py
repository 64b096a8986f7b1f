"""`python -m tests.netlab NAME …`: what is run in the lab by hand."""

from __future__ import annotations

import runpy
import sys

NAMES = ("matrix", "outages")

if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
    sys.exit(f"usage: python -m tests.netlab {{{','.join(NAMES)}}} …")
name = sys.argv.pop(1)
sys.argv[0] = f"python -m tests.netlab {name}"
runpy.run_module(f"tests.netlab.{name}", run_name="__main__")
