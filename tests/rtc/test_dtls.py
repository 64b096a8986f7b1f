"""Datagrams that the kernel has glued together, and what this relies on of other libraries' insides."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.rtc.dtls import BIO_BYTES, cut
from peercli.rtc.private import STOCK, needs


def record(size: int) -> bytes:
    """A DTLS record of `size` bytes in all."""
    return b"\x17\xfe\xfd" + bytes(8) + (size - 13).to_bytes(2, "big") + random.randbytes(size - 13)


def stun(size: int) -> bytes:
    """What begins as a STUN message of `size` bytes does."""
    return b"\0\1" + (size - 20).to_bytes(2, "big") + random.randbytes(size - 4)


def srtp(size: int) -> bytes:
    return b"\x80" + random.randbytes(size - 1)


@pytest.mark.parametrize("known", [True, False], ids=["size-known", "size-unknown"])
@pytest.mark.parametrize(("size", "count", "last"), [(1_225, 54, 300), (1_469, 44, 1_469), (16_421, 3, 50)])
def test_glued_datagrams_are_cut_where_records_end(size: int, count: int, last: int, known: bool) -> None:
    records = [record(size) for _ in range(count - 1)] + [record(last)]
    glued = b"".join(records)
    pieces, others = cut(glued, size if known else 0)
    assert b"".join(pieces) == glued
    assert not others
    ends_at = {sum(map(len, records[:number])) for number in range(count + 1)}
    at = 0
    for piece in pieces:
        at += len(piece)
        assert at in ends_at
        assert len(piece) <= max(BIO_BYTES, size)


@given(
    kinds=st.lists(st.sampled_from([record, stun, srtp]), min_size=1, max_size=50),
    size=st.integers(40, 1_500),
    last=st.integers(30, 1_500),
    known=st.booleans(),
)
def test_datagrams_of_all_kinds_are_told_apart(
    kinds: list[type[bytes]], size: int, last: int, known: bool
) -> None:
    if not known:
        kinds = [kind for kind in kinds[:-1] if kind is not srtp] + kinds[-1:]
    datagrams = [kind(size) for kind in kinds[:-1]] + [kinds[-1](min(last, size))]
    pieces, others = cut(b"".join(datagrams), size if known else 0)
    assert b"".join(pieces) == b"".join(each for each in datagrams if each[0] == 0x17)
    assert others == [each for each in datagrams if each[0] != 0x17]


@given(st.binary(max_size=500) | st.binary(max_size=300).map(lambda tail: b"\x17" + tail), st.integers(0, 99))
def test_nothing_is_lost_or_doubled_of_garbage(garbage: bytes, segment: int) -> None:
    pieces, others = cut(garbage, segment)
    assert sorted(b"".join([*pieces, *others])) == sorted(garbage)


def test_a_record_that_lies_about_its_length_is_no_trouble() -> None:
    garbage = record(20_000)[:11] + b"\xff\xff" + random.randbytes(20_000)
    assert cut(garbage, 0) == ([memoryview(garbage)], [])


# What is relied on --------------------------------------------------------------------------------


class Library:
    def __init__(self) -> None:
        self._state = 1

    def _method(self) -> None: ...


def test_what_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STOCK, raising=False)
    needs(Library, "_method", "_state")
    needs(sys, "path")
    with pytest.raises(ImportError, match=r"Library.* has changed: _other is gone"):
        needs(Library, "_method", "_other")
    monkeypatch.setenv(STOCK, "aiortc")
    needs(Library, "_other")


@pytest.mark.parametrize(
    ("module", "owner", "name"),
    [
        ("aiortc", "RTCDtlsTransport", "_register_data_receiver"),
        ("aiortc", "RTCPeerConnection", "_RTCPeerConnection__connect"),
        ("OpenSSL.SSL", "Connection", "_raise_ssl_error"),
        ("aioice", "Connection", "_pair_remote_candidate"),
    ],
)
def test_a_release_that_changes_what_is_used_is_told_at_import(module: str, owner: str, name: str) -> None:
    program = f"import {module}; del {module}.{owner}.{name}; import peercli.rtc.peerconnection"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode
    last = run.stderr.splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f"{name} is gone" in last
