"""A fuzzer for all that reads what a peer or a broker sends: `python -m tests.protocol.fuzz --count 1000000`.

Inputs start as valid messages of every format, so that most mutations get past the first header. What is
read is sent again, and has to be read as the same. A run fails on any exception but ProtocolError, on what
does not come back, on an input that raises the peak of resident memory by more than GROWTH, and on one that
keeps the processor busy for more than LABOUR.
`tests.protocol.guided` takes the same readers, and finds inputs by what they reach.
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

from peercli.errors import MessageTooBig, ProtocolError, UsageError
from peercli.protocol.binarypack import pack, unpack
from peercli.protocol.chunks import Reassembler
from peercli.protocol.codecs import CLOSE, BinaryCodec, make_codec
from peercli.protocol.messages import Expire, Leave, PeerMessage, decode, encode
from peercli.protocol.values import UNDEFINED

GROWTH = 32 << 20
"""Bytes of memory for one input. The inputs themselves have some tens of kilobytes at most."""

LABOUR = 5.0
"""Seconds of processor time for one input."""

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
TOKENS += [b"null", b"true", b"{}", b"\\u0000", b"9" * 5000, b'[{"a":' * 500]
HEADERS = range(0x80, 0x100)
PEER_TYPES = ["OFFER", "ANSWER", "CANDIDATE"]


class Target(NamedTuple):
    """A reader under test: its name, how to make a fresh one, and inputs for it."""

    name: str
    reader: Callable[[], Callable[[Any], object]]
    make: Callable[[random.Random], object]


class Report(NamedTuple):
    """What a run saw; `slowest` in seconds of processor time and `growth` in bytes are of one input."""

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


# Readers --------------------------------------------------------------------------------------


def receiver(serialization: str) -> Callable[[Any], None]:
    """Decodes one connection's messages, and sees that they can be passed on unchanged."""
    codec = make_codec(serialization)

    def receive(wire: Any) -> None:
        for value in codec.decode(wire):
            if value is not CLOSE:
                pass_on(serialization, value)

    return receive


def pass_on(serialization: str, value: Any) -> None:
    """Send what was received; raise Failure if the far side would not receive the same."""
    try:
        sent = encoded(serialization, value)
    except (UsageError, MessageTooBig):
        return  # NaN, PeerJS's own key, JSON that another program made longer than PeerJS may
    codec = make_codec(serialization)
    try:
        [received] = [value for wire in sent for value in codec.decode(wire)]
    except ProtocolError as error:
        raise Failure(f"{value!r} can be sent but not received") from error
    if encoded(serialization, received) != sent:
        raise Failure(f"{value!r} becomes {received!r}")


def encoded(serialization: str, value: Any) -> list[bytes | str]:
    """The data channel messages that carry `value`."""
    wires = make_codec(serialization).encode(value)
    return [wire.tobytes() if isinstance(wire, memoryview) else wire for wire in wires]


def read_packed(packed: bytes) -> None:
    """Unpacks BinaryPack, and sees that the value can be passed on unchanged."""
    pass_on("binary", unpack(packed))


def read_broker(text: bytes | str) -> None:
    """Decodes a broker's message; a peer's has to be the same again when it is sent back."""
    message = decode(text)
    if not isinstance(message, Leave | Expire | PeerMessage):
        return
    sent = encode(message)
    try:
        again = decode(json.dumps(json.loads(sent) | {"src": message.peer}, allow_nan=False))
    except ProtocolError as error:
        raise Failure(f"{message!r} can be sent but not received") from error
    except ValueError:
        return  # 1e999 in the metadata
    if again is None or encode(again) != sent:
        raise Failure(f"{message!r} becomes {again!r}")


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


def broker_message(rng: random.Random) -> dict[str, Any]:
    """A message as a broker passes it on, sometimes with another value in one of its fields."""
    kind = rng.choice(
        ["OPEN", "ID-TAKEN", "INVALID-KEY", "ERROR", "LEAVE", "EXPIRE", "NEWS", *3 * PEER_TYPES]
    )
    payload: dict[str, Any] = {"type": rng.choice(("data", "media")), "connectionId": "dc_1", "msg": "no"}
    match kind:
        case "OFFER" | "ANSWER":
            payload["sdp"] = {"type": kind.lower(), "sdp": "v=0"}
            payload |= {"metadata": random_value(rng, 2), "label": "x", "serialization": "json", "auth": True}
            payload |= {"reliable": True, "peercli": {"session": "s", "resume": True}}
        case "CANDIDATE":
            candidate = {"candidate": "candidate:1", "sdpMid": "0", "sdpMLineIndex": 0}
            payload["candidate"] = candidate | {"usernameFragment": "u"}
        case "EXPIRE":
            payload |= {"declined": True, "auth": True}
    message = {"type": kind, "src": "bob", "dst": "alice", "payload": payload}
    if rng.random() < 0.3:
        place = rng.choice((message, payload))
        place[rng.choice(list(place))] = random_value(rng, 1)
    return message


def targets(rng: random.Random) -> list[Target]:
    """All readers, with inputs grown from some hundred messages."""
    close = {"__peerData": {"type": "close"}}
    values = [close, {**close, "x": "y" * 20_000}, *(random_value(rng, 4) for _ in range(300))]
    texts = [json.dumps(value, default=str).encode() for value in values]
    chunked = [wire for value in values for wire in BinaryCodec("binary").encode([value])]
    packed = chunked + [pack(value) for value in values]
    streamed = [msgpack.packb(value, default=_extension, datetime=True) for value in values]
    spoken = [json.dumps(broker_message(rng), default=str).encode() for _ in range(300)]

    def mutated(seeds: list[bytes], tokens: list[bytes], as_text: float) -> Callable[[random.Random], Any]:
        def make(rng: random.Random) -> bytes | str:
            data = mutate(rng, rng.choice(seeds), tokens)
            return data.decode(errors="replace") if rng.random() < as_text else data

        return make

    def target(serialization: str, seeds: list[bytes], tokens: list[bytes], as_text: float = 0.01) -> Target:
        return Target(serialization, lambda: receiver(serialization), mutated(seeds, tokens, as_text))

    return [
        Target("binarypack", lambda: read_packed, mutated(packed, SIZES, 0)),
        Target("chunks", lambda: Reassembler().add, random_chunk),
        Target("broker", lambda: read_broker, mutated(spoken, TOKENS, 0.5)),
        target("binary", packed, SIZES),
        target("binary-utf8", packed, SIZES),
        target("json", texts, TOKENS, as_text=0.5),
        target("raw", packed, SIZES, as_text=0.5),
        target("MsgPack", streamed, SIZES),
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
        begun = time.process_time()  # what other processes do is no fault of the input
        try:
            readers[which](data)
            valid += 1
        except ProtocolError:
            readers[which] = target.reader()
        except BaseException as error:
            raise Failure(f"input {index} of seed {seed} raised {error!r}: {data!r}") from error
        if (took := time.process_time() - begun) > slowest:
            slowest = took
            if took > LABOUR:
                raise Failure(f"input {index} of seed {seed} took {took:.1f} s: {data!r}")
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
    parser.add_argument("--only", help="one reader, by its name")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    only = [target for target in targets(random.Random(options.seed)) if target.name == options.only]
    for place, start in enumerate(range(0, options.count, SLICE)):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        report = fuzz(min(SLICE, options.count - start), options.seed + place, only or None)
        print(f"seed {options.seed + place}: {report}", flush=True)


if __name__ == "__main__":
    main()
