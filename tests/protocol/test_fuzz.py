"""The fuzzer: a short run, and that it notices what it is there to notice."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tests.protocol.fuzz import GROWTH, Failure, Target, fuzz


def test_twenty_thousand_inputs() -> None:
    # In a process of its own, whose memory no other test has raised.
    command = [sys.executable, "-m", "tests.protocol.fuzz", "--count", "20000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "20000 inputs" in done.stdout


def test_an_exception_is_a_failure() -> None:
    def reader(data: bytes) -> None:
        if data == b"\x07":
            raise IndexError

    with pytest.raises(Failure, match=r"IndexError.*x07"):
        fuzz(10_000, seed=1, only=[Target("a reader", lambda: reader, lambda rng: rng.randbytes(1))])


def test_time_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.protocol.fuzz.LABOUR", 0.01)

    def reader(size: int) -> None:
        sum(range(size))

    with pytest.raises(Failure, match=r"took .* s: 10000000"):
        fuzz(200, seed=1, only=[Target("a reader", lambda: reader, lambda rng: rng.choice((10, 10**7)))])


def test_memory_is_a_failure() -> None:
    held: list[bytes] = []

    def reader(size: int) -> None:
        held.append(b"x" * size)

    def make(rng: random.Random) -> int:
        return rng.choice((10, 2 * GROWTH))

    # Again and again: only a new peak counts, and earlier tests may have left one.
    with pytest.raises(Failure, match=f"MiB: {2 * GROWTH}"):
        fuzz(200, seed=1, only=[Target("a reader", lambda: reader, make)])
