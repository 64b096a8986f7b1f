"""A command's bundles are its options, in their places."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Annotated

import pytest

from peercli.cli.bundles import spread


@dataclass(frozen=True)
class Pair:
    left: Annotated[list[str], "left"] = field(default_factory=lambda: ["a", "b"])
    right: Annotated[int, "right"] = 7


@dataclass(frozen=True)
class Longer(Pair):
    extra: Annotated[str, "extra"] = ""


@dataclass(frozen=True)
class Unasked:
    also: bool = False


def test_a_bundle_stands_for_its_options() -> None:
    """The parameters that are seen are the fields; what the command gets is the dataclass."""
    got: list[object] = []

    def command(first: int, *, bundle: Longer, last: str = "z") -> None:
        got.extend((first, bundle, last))

    spread_out = spread(command, Unasked)
    parameters = inspect.signature(spread_out).parameters
    assert list(parameters) == ["first", "left", "right", "extra", "last", "also"]
    assert [each.default for each in parameters.values()][1:] == [["a", "b"], 7, "", "z", False]
    assert parameters["right"].annotation == Annotated[int, "right"]
    spread_out(first=1, left=["x"], right=2, extra="e", last="l", also=True)
    assert got == [1, Longer(["x"], 2, "e"), "l"]


def test_without_bundles_a_command_is_as_it_was() -> None:
    def command(only: int = 3) -> None:
        raise AssertionError(only)

    assert list(inspect.signature(spread(command)).parameters) == ["only"]
    with pytest.raises(AssertionError, match="5"):
        spread(command)(only=5)
