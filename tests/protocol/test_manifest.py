"""Names from strangers, and the entries that carry them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.errors import ProtocolError
from peercli.protocol.manifest import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_SIZE,
    Entry,
    Manifest,
    NameRules,
    encode_entry,
    numbered_name,
    offerable,
    part_name,
    safe_name,
    transfer_id,
)

POSIX = NameRules()
WINDOWS = NameRules(windows=True, fold=True)
FOLDING = NameRules(fold=True)


def read(*raw: Any, rules: NameRules = POSIX) -> list[Entry]:
    manifest = Manifest(rules)
    for entry in raw:
        manifest.add(entry)
    return manifest.entries


def add_all(manifest: Manifest, names: Iterable[list[str]]) -> None:
    for name in names:
        manifest.add({"path": name})


def paths(*names: list[str], rules: NameRules = POSIX) -> list[tuple[str, ...]]:
    return [entry.path for entry in read(*({"path": name} for name in names), rules=rules)]


# Refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        ["/etc/passwd"],
        ["", "etc", "passwd"],
        ["..", "x"],
        ["a", "..", "..", "x"],
        ["a", "."],
        ["a/b"],
        ["a\0b"],
        [],
        ["a"] * (MAX_DEPTH + 1),
        ["x" * 1_025],
        ["é" * 513],
        ["x" * 1_000] * 5,
        "a/b",
        [1],
        [None],
        None,
    ],
)
def test_a_path_that_no_honest_sender_says_refuses_the_offer(path: object) -> None:
    with pytest.raises(ProtocolError):
        read({"path": path})


@pytest.mark.parametrize(
    "raw",
    [
        7,
        {},
        {"path": ["a"], "kind": "device"},
        {"path": ["a"], "kind": ["file"]},
        {"path": ["a"], "size": -1},
        {"path": ["a"], "size": 1.0},
        {"path": ["a"], "size": True},
        {"path": ["a"], "size": "1"},
        {"path": ["a"], "size": MAX_SIZE + 1},
        {"path": ["a"], "size": 10, "stored": 11},
        {"path": ["a"], "mode": -1},
        {"path": ["a"], "mode": 1 << 20},
        {"path": ["a"], "mtime": 1 << 60},
        {"path": ["a"], "mtime": 0, "mtimeNs": 1_000_000},
        {"path": ["a", "l"], "kind": "link"},
        {"path": ["a", "l"], "kind": "link", "target": ""},
        {"path": ["a", "l"], "kind": "link", "target": "a\0b"},
        {"path": ["a", "l"], "kind": "link", "target": "x" * 5_000},
    ],
)
def test_a_bad_entry_refuses_the_offer(raw: object) -> None:
    with pytest.raises(ProtocolError):
        read(raw)


@pytest.mark.parametrize(
    "entries",
    [
        [{"path": ["a"]}, {"path": ["a"]}],
        [{"path": ["a"], "kind": "folder"}, {"path": ["a"], "kind": "folder"}],
        [{"path": ["a"]}, {"path": ["a", "b"]}],
        [{"path": ["a", "b"]}, {"path": ["a"]}],
        [{"path": ["d", "l"], "kind": "link", "target": "x"}, {"path": ["d", "l", "b"]}],
        [{"path": ["d", "b"]}, {"path": ["d"], "kind": "link", "target": "x"}],
        [{"path": ["a"], "kind": "folder"}, {"path": ["a"]}],
    ],
)
def test_a_path_that_is_two_things_refuses_the_offer(entries: list[object]) -> None:
    with pytest.raises(ProtocolError):
        read(*entries)


def test_sizes_cannot_add_up_beyond_what_a_number_holds() -> None:
    with pytest.raises(ProtocolError):
        read({"path": ["a"], "size": MAX_SIZE}, {"path": ["b"], "size": 1})


def test_the_offer_is_bounded_in_entries_and_in_weight() -> None:
    manifest = Manifest(POSIX)
    manifest.entries = [Entry(("x",))] * MAX_ENTRIES
    with pytest.raises(ProtocolError):
        manifest.add({"path": ["y"]})
    deep = Manifest(POSIX)
    with pytest.raises(ProtocolError):
        add_all(deep, ([str(number), *["d"] * (MAX_DEPTH - 1)] for number in range(MAX_ENTRIES)))
    assert len(deep.entries) < 1_000


# Kept, and made safe --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *["-rf", "--", "~", "*", "a\nb", "tab\there", "日本語.txt", "e\u0301", "🎉" * 60, "\udcff\udcfe"],
        *["x ", "x.", " ", "..x", "...", ".x", "a\\b", "C:", "aux.c", "CON"],
    ],
)
def test_names_of_any_kind_keep_their_form_where_the_volume_can_hold_them(name: str) -> None:
    assert safe_name(name, POSIX) == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("..\\..\\etc", ".._.._etc"),
        ("a:b", "a_b"),
        ("C:", "C_"),
        ('<>:"|?*', "_______"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("Lpt1.tar.gz", "_Lpt1.tar.gz"),
        ("COM¹", "_COM¹"),
        ("NUL .txt", "_NUL .txt"),
        ("CONIN$", "_CONIN$"),
        ("CONSOLE", "CONSOLE"),
        ("aux.c", "_aux.c"),
        ("x.", "x_"),
        ("x. .", "x_"),
        ("...", "_"),
        (" ", "_"),
        ("a\nb", "a_b"),
        ("\udcff", "_"),
    ],
)
def test_names_that_windows_cannot_hold_become_others_there(name: str, safe: str) -> None:
    assert safe_name(name, WINDOWS) == safe


@pytest.mark.parametrize(
    ("name", "safe"),
    [("\x1b[2J", "_[2J"), ("a\x7f", "a_"), ("a\x9bb", "a_b"), ("\r", "_"), ("\ud800x", "_x")],
)
def test_control_characters_and_what_is_no_text_are_replaced(name: str, safe: str) -> None:
    assert safe_name(name, POSIX) == safe


def test_a_name_has_one_spelling_on_the_disk() -> None:
    escaped = "é".encode().decode("ascii", "surrogateescape")
    assert safe_name(escaped, POSIX) == "é"
    assert paths(["é"], [escaped]) == [("é",), ("é (1)",)]


def test_an_overlong_name_is_cut_and_stays_distinct() -> None:
    first, second = paths(["x" * 300 + "1.txt"], ["x" * 300 + "2.txt"])
    assert first != second
    assert all(len(os.fsencode(name)) == 255 and name.endswith(".txt") for (name,) in (first, second))
    assert len(os.fsencode(safe_name("é" * 200, POSIX))) <= 255
    assert len(os.fsencode(safe_name("x" * 200, NameRules(max_bytes=143)))) == 143


def test_no_entry_can_have_the_name_of_a_part() -> None:
    part = part_name("x", POSIX)
    assert paths([part], ["x"]) == [(part + "_",), ("x",)]
    assert paths([part.upper()], rules=FOLDING) == [(part.upper() + "_",)]
    assert safe_name(part_name("x", POSIX, number=3), POSIX) != part_name("x", POSIX, number=3)
    long = part_name("x" * 255, POSIX)
    assert len(long) <= 255
    assert len(safe_name(long, POSIX)) <= 255
    assert part_name(safe_name(long, POSIX), POSIX) != long


def test_names_that_fall_together_are_told_apart() -> None:
    assert paths(["A.txt"], ["a.txt"], ["a.TXT"], rules=FOLDING) == [
        ("A.txt",),
        ("a (1).txt",),
        ("a (2).TXT",),
    ]
    assert paths(["\u00e9"], ["e\u0301"], rules=FOLDING) == [("\u00e9",), ("e\u0301 (1)",)]
    assert paths(["A"], ["a"]) == [("A",), ("a",)]
    assert paths(["D", "x"], ["d", "x"], rules=FOLDING) == [("D", "x"), ("d (1)", "x")]
    assert paths(["a:"], ["a?"], ["a_"], rules=WINDOWS) == [("a_",), ("a_ (1)",), ("a_ (2)",)]
    assert paths(["a (1)"], ["A"], ["a"], rules=FOLDING) == [("a (1)",), ("A",), ("a (2)",)]


def test_thousands_of_names_that_fall_together_do_not_cost_their_square() -> None:
    names = [
        [f"{number:b}".replace("0", "\x01").replace("1", "\x02").rjust(14, "\x03")]
        for number in range(1 << 14)
    ]
    assert len(set(paths(*names))) == 1 << 14


def test_what_was_changed_says_what_it_was() -> None:
    plain, changed = read({"path": ["a"]}, {"path": ["d", "b\x1b"]})
    assert plain.offered == ()
    assert changed.offered == ("d", "b\x1b")
    assert changed.name == "d/b_"


@given(
    st.lists(st.lists(st.text(max_size=12), min_size=1, max_size=3), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_what_is_let_through_can_only_be_below_the_save_dir(
    names: list[list[str]], windows: bool, fold: bool
) -> None:
    manifest = Manifest(NameRules(windows=windows, fold=fold))
    try:
        add_all(manifest, names)
    except ProtocolError:
        return
    safe = [entry.path for entry in manifest.entries]
    assert len(set(safe)) == len(safe)
    for component in (component for path in safe for component in path):
        assert component not in ("", ".", "..")
        assert not set("/\0\x1b") & set(component)
        assert 0 < len(os.fsencode(component)) <= 255
        assert not windows or not set('\\:*?"<>|') & set(component)


def test_numbers_stand_before_the_extension() -> None:
    assert numbered_name("photo.jpg", 1, POSIX) == "photo (1).jpg"
    assert numbered_name("x.tar.gz", 2, POSIX) == "x (2).tar.gz"
    assert numbered_name(".bashrc", 1, POSIX) == ".bashrc (1)"
    assert numbered_name("Makefile", 1, POSIX) == "Makefile (1)"
    assert len(os.fsencode(numbered_name("x" * 255, 12, POSIX))) == 255


# Modes, times, links --------------------------------------------------------------------------


def test_set_id_and_sticky_bits_never_come_off_the_wire() -> None:
    entries = read({"path": ["a"], "mode": 0o107755}, {"path": ["d"], "kind": "folder", "mode": 0o1777})
    assert [entry.mode for entry in entries] == [0o755, 0o777]
    assert encode_entry(Entry(("a",), mode=0o4755))["mode"] == 0o755


@pytest.mark.parametrize("target", ["x", "sub/x", "../x", "./x", "a//b", "../../top/x"])
def test_a_link_inside_the_folder_that_is_offered_is_taken(target: str) -> None:
    (entry,) = read({"path": ["top", "one", "two", "l"], "kind": "link", "target": target})
    assert entry.refused == ""
    assert entry.target == target


@pytest.mark.parametrize(
    ("path", "target"),
    [
        (["top", "l"], "/etc/passwd"),
        (["top", "l"], "../x"),
        (["top", "l"], ".."),
        (["top", "one", "l"], "../../x"),
        (["top", "one", "l"], "x/../y"),
        (["top", "one", "l"], "../x/../y"),
        (["l"], "x"),
        (["top", "l"], "x\x1b"),
    ],
)
def test_a_link_that_leads_out_of_it_is_refused(path: list[str], target: str) -> None:
    (entry,) = read({"path": path, "kind": "link", "target": target})
    assert entry.refused


def test_links_are_refused_where_windows_names_rule() -> None:
    (entry,) = read({"path": ["top", "l"], "kind": "link", "target": "x"}, rules=WINDOWS)
    assert entry.refused


# Coding ---------------------------------------------------------------------------------------

ENTRIES = st.one_of(
    st.builds(
        Entry,
        path=st.just(("d", "f\udcff\n")),
        size=st.none() | st.integers(0, MAX_SIZE),
        mode=st.none() | st.integers(0, 0o777),
        mtime=st.none() | st.integers(-(10**18), 4 * 10**18),
    ),
    st.builds(Entry, path=st.just(("d", "f")), size=st.just(9), stored=st.integers(0, 9)),
    st.builds(Entry, path=st.just(("d", "f")), kind=st.just("folder")),
    st.builds(Entry, path=st.just(("d", "f")), kind=st.just("link"), target=st.just("x")),
)


@given(ENTRIES)
def test_an_entry_comes_through_as_it_was(entry: Entry) -> None:
    assert read(json.loads(json.dumps(encode_entry(entry)))) == [entry]


def test_unknown_fields_are_ignored() -> None:
    assert read({"path": ["a"], "colour": "blue"}) == [Entry(("a",))]


def test_what_would_be_refused_is_known_before_it_is_offered() -> None:
    assert offerable(Entry(("a",) * 256))
    assert offerable(Entry(("a" * 200,) * 30))
    assert offerable(Entry(("a",), mtime=1 << 70))
    assert not offerable(Entry(("a",), size=5, mtime=0))


def test_a_transfer_has_one_name_for_one_manifest() -> None:
    entries = [Entry(("a",), size=5, mtime=1)]
    assert transfer_id(entries) == transfer_id(list(entries))
    assert transfer_id(entries) != transfer_id([Entry(("a",), size=6, mtime=1)])
    assert transfer_id(entries) != transfer_id(entries, salt="x")
