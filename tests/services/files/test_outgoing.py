"""The walk, and reading what it found while that changes."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from peercli.errors import UsageError
from peercli.protocol.transfer import Prefix
from peercli.protocol.transfer_sender import BATCH_SIZE, Chunk, Read
from peercli.services.files.outgoing import STREAM_KEPT, Reader, Selection, select_files
from peercli.services.files.storage import NEVER


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(selection: Selection) -> list[str]:
    return [entry.name for entry in selection.entries]


def make(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)


def read_all(reader: Reader, entry: int = 0, *prefixes: Prefix, length: int = BATCH_SIZE) -> list[Chunk]:
    """All chunks of a file, as a sender would ask for them."""
    chunks: list[Chunk] = []
    start = True
    while not chunks or not (chunks[-1].digest or chunks[-1].problem):
        chunks += reader.read([Read(entry, length, start, prefixes if start else (), True)], NEVER)
        start = False
    return chunks


# The walk -------------------------------------------------------------------------------------


def test_a_folder_is_walked_in_order_with_all_that_is_in_it(tmp_path: Path) -> None:
    make(tmp_path, "top/b/x", "top/a", "top/-rf", "top/new\nline", "top/日本")
    (tmp_path / "top/empty").mkdir()
    (tmp_path / "top/link").symlink_to("a")
    (tmp_path / "top/a").chmod(0o4755)
    os.utime(tmp_path / "top/a", ns=(1, 1_700_000_000_123_456_789))
    selection = select_files([str(tmp_path / "top")])
    assert names(selection) == [
        *["top", "top/-rf", "top/a", "top/b", "top/b/x"],
        *["top/empty", "top/link", "top/new\nline", "top/日本"],
    ]
    entries = {entry.path[-1]: entry for entry in selection.entries}
    assert (entries["a"].mode, entries["a"].mtime, entries["a"].size) == (0o755, 1_700_000_000_123_456_789, 5)
    assert (entries["link"].kind, entries["link"].target) == ("link", "a")
    assert entries["empty"].kind == "folder"
    assert selection.problems == []


def test_names_that_are_not_utf8_are_taken(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/d")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/d/\xff\xfe")).write_text("x")
    selection = select_files([str(tmp_path / "d")])
    assert names(selection) == ["d", "d/\udcff\udcfe"]
    reader = Reader(selection.sources)
    assert read_all(reader, 1)[-1].data == b"x"
    reader.close()


def test_the_same_tree_is_the_same_transfer(tmp_path: Path) -> None:
    make(tmp_path, "d/a", "d/b")
    first = select_files([str(tmp_path / "d")])
    assert select_files([str(tmp_path / "d")]).id == first.id
    make(tmp_path, "d/c")
    assert select_files([str(tmp_path / "d")]).id != first.id
    assert select_files(["-"]).id != select_files(["-"]).id


def test_paths_are_sent_under_their_last_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "d/a", "e/b")
    monkeypatch.chdir(tmp_path / "d")
    assert names(select_files([".", "../e/", "../d/a"])) == ["d", "d/a", "e", "e/b", "a"]


def test_globs_exclude_names_anywhere_and_paths_below(tmp_path: Path) -> None:
    make(tmp_path, "d/x.o", "d/x.c", "d/sub/y.o", "d/build/z", "d/sub/build/z", "d/sub/keep/z")
    excluded = ["*.o", "sub/build/", "keep"]
    assert names(select_files([str(tmp_path / "d")], exclude=excluded)) == [
        *["d", "d/build", "d/build/z", "d/sub", "d/x.c"]
    ]


def test_links_are_followed_when_named_or_asked(tmp_path: Path) -> None:
    make(tmp_path, "target/a", "d/b")
    (tmp_path / "d/link").symlink_to("../target")
    (tmp_path / "d/file").symlink_to("b")
    (tmp_path / "named").symlink_to("d")
    (tmp_path / "d/broken").symlink_to("nothing")
    assert names(select_files([str(tmp_path / "named")])) == [
        *["named", "named/b", "named/broken", "named/file", "named/link"]
    ]
    selection = select_files([str(tmp_path / "d")], follow_symlinks=True)
    assert names(selection) == ["d", "d/b", "d/file", "d/link", "d/link/a"]
    assert [problem.path for problem in selection.problems] == [str(tmp_path / "d/broken")]
    reader = Reader(selection.sources)
    assert read_all(reader, 2)[-1].data == b"d/b"
    reader.close()


def test_a_link_to_a_folder_around_it_does_not_go_on_for_ever(tmp_path: Path) -> None:
    make(tmp_path, "d/sub/a")
    (tmp_path / "d/sub/up").symlink_to("..")
    selection = select_files([str(tmp_path / "d")], follow_symlinks=True)
    assert names(selection) == ["d", "d/sub", "d/sub/a"]
    assert "around" in selection.problems[0].message


def test_what_is_no_file_is_told_and_left_out(tmp_path: Path) -> None:
    make(tmp_path, "d/a")
    os.mkfifo(tmp_path / "d/fifo")
    selection = select_files([str(tmp_path / "d")])
    assert names(selection) == ["d", "d/a"]
    assert [problem.path for problem in selection.problems] == [str(tmp_path / "d/fifo")]


def test_paths_that_cannot_be_sent_are_wrong_usage(tmp_path: Path) -> None:
    make(tmp_path, "d/a", "e/a")
    for paths in ([str(tmp_path / "none")], [str(tmp_path / "d/a"), str(tmp_path / "e/a")], ["/"], []):
        with pytest.raises(UsageError):
            select_files(paths)


# Reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, BATCH_SIZE, BATCH_SIZE + 1])
def test_a_file_is_read_to_its_end(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    reader = Reader(select_files([str(tmp_path / "f")]).sources)
    chunks = read_all(reader)
    assert b"".join(chunk.data for chunk in chunks) == content
    assert chunks[-1].digest == reader.digest(0) == sha(content)
    reader.close()


def test_going_on_finds_the_greatest_prefix_that_fits(tmp_path: Path) -> None:
    content = os.urandom(3 * BATCH_SIZE)
    (tmp_path / "f").write_bytes(content)
    reader = Reader(select_files([str(tmp_path / "f")]).sources)
    good = [Prefix(offset, sha(content[:offset])) for offset in (10, BATCH_SIZE, 2 * BATCH_SIZE + 7)]
    assert read_all(reader, 0, *good)[0].offset == 2 * BATCH_SIZE + 7
    bad = Prefix(3 * BATCH_SIZE - 1, sha(b"else"))
    assert read_all(reader, 0, *good[:2], bad)[0].offset == BATCH_SIZE
    assert read_all(reader, 0, bad)[0].offset == 0
    whole = Prefix(len(content), sha(content))
    assert read_all(reader, 0, whole) == [Chunk(0, len(content), digest=sha(content))]
    reader.close()


def test_going_back_a_little_reads_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(8 * BATCH_SIZE)
    (tmp_path / "f").write_bytes(content)
    reader = Reader(select_files([str(tmp_path / "f")]).sources)
    for number in range(6):
        reader.read([Read(0, BATCH_SIZE, number == 0, (), False)], NEVER)
    counted = 0
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        nonlocal counted
        counted += length
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    at = 5 * BATCH_SIZE + 100
    chunks = reader.read([Read(0, 1_000, True, (Prefix(at, sha(content[:at])),), False)], NEVER)
    assert chunks == [Chunk(0, at, content[at : at + 1_000])]
    assert counted == 100 + 1_000
    reader.close()


def test_holes_are_found(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.write(b"x" * 4_096)
        file.seek(10 * BATCH_SIZE)
        file.write(b"end")
        file.truncate(12 * BATCH_SIZE)
    content = (tmp_path / "f").read_bytes()
    selection = select_files([str(tmp_path / "f")])
    assert selection.entries[0].stored is not None
    reader = Reader(selection.sources)
    chunks = read_all(reader, length=4 * BATCH_SIZE)
    assert sum(len(chunk.data) for chunk in chunks) < BATCH_SIZE
    assert b"".join(chunk.data or bytes(chunk.hole) for chunk in chunks) == content
    assert chunks[-1].digest == sha(content)
    reader.close()


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.write_bytes(b"x" * 100), "changed"),
        (lambda path: os.truncate(path, 1_500_000), "changed"),
        (lambda path: os.utime(path, ns=(1, 1)), "changed"),
        (lambda path: path.unlink(), "vanished"),
        (lambda path: (path.unlink(), path.write_bytes(b"y" * 3_000_000)), "changed"),
        (append, "changed"),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_file_that_changes_is_never_given_a_digest(
    tmp_path: Path, change: Callable[[Path], object], reason: str, begun: bool
) -> None:
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    reader = Reader(select_files([str(tmp_path / "f")]).sources)
    chunks = reader.read([Read(0, BATCH_SIZE, True, (), False)], NEVER) if begun else []
    change(tmp_path / "f")
    while not chunks or not chunks[-1].problem:
        assert not any(chunk.digest for chunk in chunks)
        chunks += reader.read([Read(0, BATCH_SIZE, not chunks, (), False)], NEVER)
    assert chunks[-1].problem == reason
    assert reader.digest(0) == ""
    reader.close()


def test_a_file_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "d/f", "secret")
    selection = select_files([str(tmp_path / "d")])
    (tmp_path / "d/f").unlink()
    (tmp_path / "d/f").symlink_to("../secret")
    reader = Reader(selection.sources)
    (chunk,) = reader.read([Read(1, 100, True, (), False)], NEVER)
    assert chunk.problem == "changed"
    reader.close()


def test_one_read_serves_many_files_and_a_bad_one_among_them(tmp_path: Path) -> None:
    make(tmp_path, "d/a", "d/b", "d/c")
    selection = select_files([str(tmp_path / "d")])
    (tmp_path / "d/b").unlink()
    reader = Reader(selection.sources)
    chunks = reader.read([Read(entry, 3, True, (), False) for entry in (1, 2, 3)], NEVER)
    assert [chunk.data for chunk in chunks] == [b"d/a", b"", b"d/c"]
    assert [chunk.problem for chunk in chunks] == ["", "vanished", ""]
    reader.close()


# Streams --------------------------------------------------------------------------------------


def stream(content: bytes) -> tuple[Reader, threading.Thread]:
    read_end, write_end = os.pipe()

    def write() -> None:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    return Reader(select_files(["-"], name="data").sources, stdin=read_end), thread


def test_stdin_is_read_to_its_end() -> None:
    content = os.urandom(300_000)
    reader, thread = stream(content)
    chunks = read_all(reader)
    assert b"".join(chunk.data for chunk in chunks) == content
    assert chunks[-1].digest == sha(content)
    thread.join()
    reader.close()


def test_a_stream_goes_back_to_where_the_receiver_is() -> None:
    content = os.urandom(3_000_000)
    reader, thread = stream(content)
    first = b""
    while len(first) < 2_000_000:
        first += reader.read([Read(0, BATCH_SIZE, not first, (), False)], NEVER)[0].data
    at = 1_234_567
    chunks = read_all(reader, 0, Prefix(at, sha(content[:at])))
    assert chunks[0].offset == at
    assert b"".join(chunk.data for chunk in chunks) == content[at:]
    assert chunks[-1].digest == sha(content)
    again = read_all(reader)
    assert b"".join(chunk.data for chunk in again) == content
    thread.join()
    reader.close()


def test_a_stream_that_is_gone_is_not_made_up() -> None:
    content = os.urandom(STREAM_KEPT + 3 * BATCH_SIZE)
    reader, thread = stream(content)
    read_all(reader)
    (chunk,) = reader.read([Read(0, 10, True, (), False)], NEVER)
    assert chunk.problem == "vanished"
    thread.join()
    reader.close()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe without a writer has ended")
def test_a_pipe_is_waited_for_until_somebody_writes_or_the_wait_is_stopped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = Reader(select_files([str(tmp_path / "pipe")]).sources)
    stopped = Event()
    threading.Timer(0.05, stopped.set).start()
    assert reader.read([Read(0, 10, True, (), False)], stopped) == []
    writing = threading.Timer(0.05, (tmp_path / "pipe").write_bytes, [b"at last"])
    writing.start()
    assert b"".join(chunk.data for chunk in read_all(reader)) == b"at last"
    writing.join()
    reader.close()


def test_a_wait_for_stdin_ends_when_it_is_stopped() -> None:
    read_end, write_end = os.pipe()
    reader = Reader(select_files(["-"]).sources, stdin=read_end)
    stopped = Event()
    threading.Timer(0.05, stopped.set).start()
    assert reader.read([Read(0, 10, True, (), False)], stopped) == []
    os.write(write_end, b"later")
    (chunk,) = reader.read([Read(0, 10, False, (), False)], NEVER)
    assert chunk == Chunk(0, 0, b"later")
    reader.close()
    os.close(write_end)
    os.close(read_end)
