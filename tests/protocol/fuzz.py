"""A fuzzer for all that reads what a peer sends: `python -m tests.protocol.fuzz --count 1000000`.

Inputs start as valid messages of every format, so that most mutations get past the first header. A run
fails on any exception but ProtocolError, and on an input that raises the peak of resident memory by more
than GROWTH.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]

from peercli.errors import ProtocolError
from peercli.protocol.binarypack import pack, unpack
from peercli.protocol.chunks import Reassembler
from peercli.protocol.codecs import SERIALIZATIONS, BinaryCodec, make_codec
from peercli.protocol.values import UNDEFINED

GROWTH = 32 << 20
"""Bytes of memory for one input. The inputs themselves have some tens of kilobytes at most."""

SLICE = 100_000
"""Inputs in a line of the program's report; each slice has its own seed, that of the run plus its place."""

PATIENCE = 900
"""Seconds for a slice, after which the run is given up with a traceback."""

SESSION = 16
"""Inputs that one reader takes before a fresh one replaces it, unless it fails earlier."""

INTEGERS = [0, 1, -1, 15, 16, 127, 128, 255, 256, 2**16, 2**31, 2**32, 2**53, 2**63, 2**64 - 1, -(2**63)]
TEXTS = ["", "__peerData", "type", "close", "n", "total", "data", "😀", "é" * 9, "x" * 300]
SIZES = [b"\x00\x00", b"\xff\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x0f\xff\xff"]
SIZES += [b"\x91" * 101, b"\x81\xb0" * 99, b"\x81\xa0" * 99]
TOKENS = [b"[", b"]", b"{", b"}", b'"', b",", b":", b"-", b"\\", b"NaN", b"1e999", b"\\ud800", b"\xff"]
TOKENS += [b"null", b"9" * 5000, b'[{"a":' * 500]
HEADERS = range(0x80, 0x100)


class Target(NamedTuple):
    """A reader under test: how to make a fresh one, and inputs for it."""

    reader: Callable[[], Callable[[Any], object]]
    make: Callable[[random.Random], object]


class Report(NamedTuple):
    """What a run saw; `slowest` is in seconds, `growth` in bytes, both the most of any input."""

    inputs: int
    valid: int
    seconds: float
    slowest: float
    growth: int

    def __str__(self) -> str:
        return (
            f"{self.inputs} inputs in {self.seconds:.1f} s ({self.inputs / self.seconds:.0f} a second), "
            f"{self.valid} of them valid; the slowest took {self.slowest * 1000:.0f} ms, "
            f"the biggest {self.growth >> 10} KiB"
        )


class Failure(Exception):
    """An input did what none may do."""


# Inputs ---------------------------------------------------------------------------------------


def random_value(rng: random.Random, depth: int) -> Any:
    """A message of at most `depth` levels."""
    match rng.randrange(8 if depth else 5):
        case 0:
            return rng.choice(INTEGERS)
        case 1:
            return rng.choice((0.5, -0.1, 1e300, 5e-324, None, UNDEFINED, True, False))
        case 2:
            return rng.choice(TEXTS)
        case 3:
            return rng.randbytes(rng.choice((0, 1, 15, 16, 300)))
        case 4:
            return datetime.fromtimestamp(rng.randrange(-(2**35), 2**35), UTC)
        case 5:
            return random_chunk(rng)
        case 6:
            return [random_value(rng, depth - 1) for _ in range(rng.randrange(20))]
        case _:
            return {rng.choice(TEXTS): random_value(rng, depth - 1) for _ in range(rng.randrange(5))}


def random_chunk(rng: random.Random) -> dict[str, Any]:
    """A chunk of a short message, sometimes with another value in one of its fields."""
    total = rng.randrange(1, 4)
    data = rng.choice((b"\x00", b"\x91", b"\xb1", rng.randbytes(3)))
    chunk = {"__peerData": rng.randrange(1, 4), "n": rng.randrange(total), "data": data, "total": total}
    if rng.random() < 0.3:
        chunk[rng.choice(list(chunk))] = random_value(rng, 0)
    return chunk


def mutate(rng: random.Random, data: bytes, tokens: list[bytes]) -> bytes:
    """`data` with up to four changes."""
    mutable = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(mutable) + 1)
        match rng.randrange(7):
            case 0:
                mutable[at : at + 1] = rng.randbytes(1)
            case 1:
                mutable[at : at + 1] = bytes([rng.choice(HEADERS)])
            case 2:
                mutable[at:at] = rng.choice(tokens)
            case 3:
                token = rng.choice(tokens)
                mutable[at : at + len(token)] = token
            case 4:
                del mutable[at : at + rng.randrange(1, 20)]
            case 5:
                mutable[at:at] = mutable[at : at + rng.randrange(1, 200)] * rng.randrange(1, 9)
            case _:
                del mutable[at:]
    return bytes(mutable)


def targets(rng: random.Random) -> list[Target]:
    """All readers, with inputs grown from some hundred messages."""
    close = {"__peerData": {"type": "close"}}
    values = [close, {**close, "x": "y" * 20_000}, *(random_value(rng, 4) for _ in range(300))]
    seeds: dict[str, list[bytes]] = {
        "binary": [wire for value in values for wire in BinaryCodec("binary").encode([value])],
        "json": [json.dumps(value, default=str).encode() for value in values],
        "MsgPack": [msgpack.packb(value, default=_extension, datetime=True) for value in values],
    }
    seeds["binary"] += [pack(value) for value in values]

    def mutated(format: str, tokens: list[bytes]) -> Callable[[random.Random], bytes | str]:
        def make(rng: random.Random) -> bytes | str:
            data = mutate(rng, rng.choice(seeds[format]), tokens)
            return (
                data if rng.random() < (0.5 if format == "json" else 0.99) else data.decode(errors="replace")
            )

        return make

    def decoder(serialization: str) -> Callable[[], Callable[[Any], object]]:
        return lambda: make_codec(serialization).decode

    binary, text, stream = mutated("binary", SIZES), mutated("json", TOKENS), mutated("MsgPack", SIZES)
    inputs = {"json": text, "MsgPack": stream}
    return [
        Target(lambda: unpack, lambda rng: mutate(rng, rng.choice(seeds["binary"]), SIZES)),
        Target(lambda: Reassembler().add, random_chunk),
        *(Target(decoder(name), inputs.get(name, binary)) for name in SERIALIZATIONS),
    ]


def _extension(value: object) -> Any:
    """For what MessagePack lacks, something it has and we refuse."""
    return msgpack.ExtType(5, b"extension")


# Running --------------------------------------------------------------------------------------


def fuzz(count: int, seed: int, only: list[Target] | None = None) -> Report:
    """Try `count` inputs.

    Raises:
        Failure: with the input, for the first that did what none may do.
    """
    rng = random.Random(seed)
    tried = targets(rng) if only is None else only
    readers = [target.reader() for target in tried]
    valid, slowest, growth = 0, 0.0, 0
    peak, started = _peak(), time.perf_counter()
    for index in range(count):
        which = rng.randrange(len(tried))
        target = tried[which]
        if not rng.randrange(SESSION):
            readers[which] = target.reader()
        data = target.make(rng)
        begun = time.perf_counter()
        try:
            readers[which](data)
            valid += 1
        except ProtocolError:
            readers[which] = target.reader()
        except BaseException as error:
            raise Failure(f"input {index} of seed {seed} raised {error!r}: {data!r}") from error
        slowest = max(slowest, time.perf_counter() - begun)
        if (now := _peak()) != peak:
            growth, peak = max(growth, now - peak), now
            if growth > GROWTH:
                raise Failure(f"input {index} of seed {seed} took {growth >> 20} MiB: {data!r}")
    return Report(count, valid, time.perf_counter() - started, slowest, growth)


def _peak() -> int:
    """The most memory this process has had resident, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Fuzz in slices, with a line on each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    for place, start in enumerate(range(0, options.count, SLICE)):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        report = fuzz(min(SLICE, options.count - start), options.seed + place)
        print(f"seed {options.seed + place}: {report}", flush=True)


if __name__ == "__main__":
    main()
