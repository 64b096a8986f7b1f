"""Codes: made, typed by people, and turned into a place and a secret."""

from __future__ import annotations

import pytest

from peercli.errors import UsageError
from peercli.options import check_id
from peercli.protocol import codes


def test_the_words() -> None:
    assert len(codes.words()) == 1295
    assert len({word[:3] for word in codes.words()}) == 1295, "three letters tell them apart"
    assert all(word.isascii() and word.isalpha() and word.islower() for word in codes.words())


@pytest.mark.parametrize("length", [2, 3, 16])
def test_a_code_is_a_number_and_words(length: int) -> None:
    code = codes.make_code(length, most=99)
    number, *spelt = code.split("-")
    assert 1 <= int(number) <= 99
    assert len(spelt) == length
    assert codes.parse_code(code) == code
    assert check_id(codes.meeting_id(code)) == f"peercli-code-{number}"


@pytest.mark.parametrize("typed", ["7-Bagpipe-ZUCCHINI", " 7 bagpipe  zucchini\n", "7 bagpipe-zucchini"])
def test_however_it_is_typed(typed: str) -> None:
    assert codes.parse_code(typed) == "7-bagpipe-zucchini"


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "7",
        "7-",
        "-bagpipe",
        "bagpipe-zucchini",
        "my-laptop-7",
        "7-bagpipe-",
        "7-laptop-x",
        "7--bagpipe",
        "٧-bagpipe-zucchini",
        "7-laptop",
    ],
)
def test_what_is_no_code(typed: str) -> None:
    assert not codes.is_code(typed)


def test_a_word_that_is_spelt_wrong() -> None:
    with pytest.raises(UsageError) as told:
        codes.parse_code("7-bagpip-zucchini")
    assert "bagpipe" in told.value.hint


@pytest.mark.parametrize("length", [0, 1, 17])
def test_codes_have_a_length(length: int) -> None:
    with pytest.raises(UsageError):
        codes.make_code(length)


def test_words_are_completed_one_after_the_other() -> None:
    assert codes.complete("7-bagp") == ["7-bagpipe"]
    assert codes.complete("7-bagpipe-zuc") == ["7-bagpipe-zucchini"]
    assert len(codes.complete("7-")) == 1295
    assert codes.complete("7") == codes.complete("b-bag") == []


def test_words_for_a_key() -> None:
    assert codes.spoken(b"a" * 32) == codes.spoken(b"a" * 32) != codes.spoken(b"b" * 32)
    assert len(codes.spoken(bytes(32)).split()) == 4
