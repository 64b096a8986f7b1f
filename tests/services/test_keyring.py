"""Keys on the disk: whole or not at all, one for all who ask at once, and of nobody else's making."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from peercli.errors import UsageError
from peercli.services.keyring import Keyring, home_id

KEY = b"k" * 32


def test_a_key_is_made_once_however_many_ask(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: Keyring(tmp_path / "ring").identity().public, range(32)))
    assert len(set(made)) == 1
    assert home_id(made[0]) == home_id(made[-1])


def test_none_of_those_who_remember_at_once_is_forgotten(tmp_path: Path) -> None:
    names = [f"peer-{number}" for number in range(32)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: Keyring(tmp_path / "ring").remember(name, KEY), names))
    assert sorted(Keyring(tmp_path / "ring").known()) == sorted(names)


def test_what_cannot_be_written_whole_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Keyring(tmp_path / "ring")
    ring.remember("laptop", KEY)
    before = ring.identity().public

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for change in (ring.rotate, lambda: ring.remember("desk", KEY)):
        with pytest.raises(UsageError, match="No space left"):
            change()
    assert (ring.identity().public, ring.known()) == (before, {"laptop": KEY})
    assert sorted(os.listdir(ring.folder)) == ["identity", "lock", "peers.json"]


def test_what_belongs_to_somebody_else_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Keyring(tmp_path / "ring")
    ring.identity()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(UsageError, match="belongs to somebody else"):
        ring.identity()


@pytest.mark.parametrize(
    "text", ["", "[]", "nonsense", '{"x": 1}', '{"x": "00"}', '{"../x": "%s"}' % ("00" * 32), "[" * 100_000]
)
def test_a_list_of_peers_that_makes_no_sense(tmp_path: Path, text: str) -> None:
    ring = Keyring(tmp_path / "ring")
    ring.remember("laptop", KEY)
    (ring.folder / "peers.json").write_text(text)
    for use in (ring.known, lambda: ring.remember("desk", KEY)):
        with pytest.raises(UsageError, match="is damaged"):
            use()
    assert (ring.folder / "peers.json").read_text() == text


@pytest.mark.parametrize("name", ["identity", "peers.json", "lock"])
def test_links_are_not_followed(tmp_path: Path, name: str) -> None:
    ring = Keyring(tmp_path / "ring")
    ring.remember("laptop", KEY)
    ring.identity()
    (ring.folder / name).rename(tmp_path / "elsewhere")
    (ring.folder / name).symlink_to(tmp_path / "elsewhere")
    uses: dict[str, Any] = {"identity": ring.identity, "peers.json": ring.known, "lock": ring.rotate}
    with pytest.raises(UsageError):
        uses[name]()
