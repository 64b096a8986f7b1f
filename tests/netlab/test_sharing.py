"""Transfers over a bottleneck: they share it, a ping beside them stays usable, and loss does not stop them.

These are about shares and bounds; `python -m tests.bench links` is about speed, and the kernel's TCP beside.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from tests.bench.links import SHARED, Ends, Link, ping, pipe
from tests.netlab.lab import Lab

WINDOW = 3.0  # s in which shares are counted
WINDOWS = 10  # until they have to be fair
UNFAIR = 0.6  # of the bottleneck for one of two
WAITING = 0.1  # s for a ping there and back, of which the path itself takes 20 ms, and its full queue as much
PATIENCE = 90.0  # s for what takes some


def shares(flows: Sequence[Callable[[], int]], seconds: float) -> list[float]:
    """Each flow's part of what arrives from now on, for so long."""
    before = [arrived() for arrived in flows]
    time.sleep(seconds)
    got = [arrived() - count for arrived, count in zip(flows, before, strict=True)]
    return [each / max(sum(got), 1) for each in got]


def test_two_transfers_share_a_bottleneck_and_leave_room_for_a_ping(lab: Lab) -> None:
    ends = Ends(lab, SHARED, realtime=False)
    with ExitStack() as stack:
        flows = [stack.enter_context(pipe(ends)) for _ in range(2)]
        round_trips = stack.enter_context(ping(ends))
        seen: list[float] = []
        for _ in range(WINDOWS):
            seen.append(max(shares(flows, WINDOW)))
            if seen[-1] < UNFAIR:
                break
        assert seen[-1] < UNFAIR, seen
        assert statistics.median(round_trips) < WAITING


def test_loss_on_an_ethernet_path_does_not_stop_a_transfer(lab: Lab) -> None:
    """Once packets have grown to what Ethernet takes, and no further."""
    ends = Ends(lab, Link(0.02, 100, 0.01), realtime=False)
    with pipe(ends) as arrived:
        deadline = time.monotonic() + PATIENCE
        while arrived() < 25_000_000:
            assert time.monotonic() < deadline, f"{arrived()} bytes have come"
            time.sleep(0.05)
    there, _ = ends.wire.counters()
    assert there.lost > 100
