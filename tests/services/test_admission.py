"""Who may do what."""

from __future__ import annotations

from typing import Any

import pytest

from peercli.errors import UsageError
from peercli.protocol.messages import Offer
from peercli.protocol.pipe import METADATA as PIPE
from peercli.protocol.transfer import METADATA as FILES
from peercli.services.admission import CAPABILITIES, Admission, parse_rules

KEY = b"k" * 32


def offer(peer: str, known_as: str = "", **options: Any) -> Offer:
    return Offer(peer, "dc_1", options.pop("kind", "data"), "", known_as=known_as, **options)


@pytest.mark.parametrize(
    ("capability", "options"),
    [
        ("message", {}),
        ("pipe", {"metadata": PIPE, "serialization": "raw"}),
        ("file", {"metadata": FILES, "serialization": "raw"}),
        ("call", {"kind": "media"}),
    ],
)
def test_each_capability_is_for_those_who_have_it(capability: str, options: dict[str, Any]) -> None:
    for allowed in CAPABILITIES:
        admission = Admission(parse_rules([f"box:{allowed}"]), {})
        assert admission.admits(offer("box", **options)) == (allowed == capability)
        assert not admission.admits(offer("other", **options))
        assert admission.admits(offer("box", **options), "exec") == (allowed == "exec")


def test_a_name_is_not_an_id() -> None:
    admission = Admission(parse_rules(["laptop", "box"]), {"laptop": KEY})
    assert not admission.strict
    assert admission.admits(offer("whoever", "laptop"))
    assert admission.admits(offer("box"))
    assert not admission.admits(offer("laptop")), "anybody can take that id"
    assert not admission.admits(offer("box", "desk")), "whoever is known is held to that name"
    assert Admission(parse_rules(["laptop"]), {"laptop": KEY}).strict


def test_rules_add_up() -> None:
    assert parse_rules(["a:file", "a:pipe", "b", "c:"]) == {
        "a": {"file", "pipe"},
        "b": set(CAPABILITIES),
        "c": set(),
    }
    with pytest.raises(UsageError):
        parse_rules(["a:fly"])
