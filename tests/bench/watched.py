"""peercli, in a process that tells what it has: `python -m tests.bench.watched FILE COMMAND …`.

SIGUSR1 appends a line of JSON to FILE, an `Inside`; SIGUSR2 the same after a collection, so that only what
something still refers to is counted, and with the commonest types; with PYTHONTRACEMALLOC=1 in the
environment the lines, too, that have most of the memory.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import signal
import sys
import tracemalloc
from collections import Counter
from dataclasses import asdict, dataclass, field
from types import FrameType

__all__ = ["Inside", "look"]

TOP = 40  # types and lines that are told of


@dataclass(frozen=True, slots=True)
class Inside:
    """What a process knows of itself.

    Attributes:
        tasks: of its event loop.
        objects: that the garbage collector follows; `blocks`: all that Python's own allocator has given out.
        used, free: bytes of malloc's that are given out, and that it keeps for later.
        types: of the objects, by number; `lines` of code, by the bytes that they allocated.
    """

    tasks: int
    objects: int
    blocks: int
    used: int
    free: int
    types: dict[str, int] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)


class _Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc (mallinfo(3))."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks"),
            "keepcost",
        )
    ]


def look(*, collect: bool = False) -> Inside:
    """This process, from inside."""
    if collect:
        gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    malloc = libc.mallinfo2()
    objects = gc.get_objects()
    types = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in objects) if collect else {}
    snapshot = tracemalloc.take_snapshot() if collect and tracemalloc.is_tracing() else None
    lines = snapshot.statistics("lineno")[:TOP] if snapshot else []
    return Inside(
        len(asyncio.all_tasks()),
        len(objects),
        sys.getallocatedblocks(),
        malloc.uordblks + malloc.hblkhd,
        malloc.fordblks,
        dict(Counter(types).most_common(TOP)),
        {str(line.traceback): line.size for line in lines},
    )


def main() -> None:
    path = sys.argv.pop(1)

    def tell(number: int, frame: FrameType | None) -> None:
        line = json.dumps(asdict(look(collect=number == signal.SIGUSR2)))
        with open(path, "a") as file:
            file.write(line + "\n")

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, tell)
    from peercli.__main__ import main as peercli

    peercli()


if __name__ == "__main__":
    main()
