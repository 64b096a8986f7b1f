"""Every kind of network with every other: connected or not, direct or relayed, as the RFCs allow.

`python -m tests.netlab matrix` prints the table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.certificates import certificate
from tests.netlab.lab import Lab
from tests.netlab.matrix import expected, run
from tests.netlab.world import World

AT_ONCE = 25  # most of the time is that of those that wait in vain


@pytest.mark.timeout(240)
async def test_the_whole_matrix(lab: Lab, tmp_path: Path) -> None:
    tls = certificate(tmp_path, "198.18.0.1")
    cells = await run(World(lab, tls), tls, AT_ONCE)
    outcomes = {key: cell.outcome for key, cell in cells.items()}
    assert outcomes == {key: expected(*key[1:], key[0]) for key in cells}
