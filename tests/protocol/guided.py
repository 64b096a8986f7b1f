"""The fuzzer guided by coverage: `python -m tests.protocol.guided READER -runs=1000000` (needs atheris).

READER is the name of a target of `tests.protocol.fuzz`; what follows goes to libFuzzer. An input is cut at
CUT into the messages that one reader takes, one after the other.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["peercli.protocol"]):
    from peercli.errors import ProtocolError
    from tests.protocol.fuzz import targets

CUT = b"\xc1\xff\xc1"
SEEDS = 500
LONGEST = 600
"""Bytes of an input: longer ones are slow, and reach no more."""


def main() -> None:
    """Run until libFuzzer has had enough, or an input raises what it may not."""
    name, *options = sys.argv[1:]
    rng = random.Random(1)
    [target] = [target for target in targets(rng) if target.name == name]

    def read(data: bytes) -> None:
        reader = target.reader()
        try:
            for message in data.split(CUT):
                reader(message)
        except ProtocolError:
            pass

    with tempfile.TemporaryDirectory() as corpus:
        for number in range(SEEDS):
            seed = target.make(rng)
            if isinstance(seed, bytes) and len(seed) <= LONGEST:
                Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], corpus, f"-max_len={LONGEST}", *options], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
