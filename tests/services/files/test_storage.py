"""Real files on a real disk: crashes, conflicts, links in the way, full and read-only disks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import multiprocessing
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peercli.errors import Declined, StorageFailed
from peercli.protocol.manifest import Entry, NameRules, part_name
from peercli.protocol.transfer import Outcome
from peercli.protocol.transfer_receiver import Abandon, Finish, Plan, Start, Write
from peercli.services.files import disk, storage
from peercli.services.files.outgoing import Reader, Selection, select_files
from peercli.services.files.storage import NEVER, Conflict, Incoming, Refusal, Result, SaveDir
from tests.transfers import Session, Work

MTIME = 1_700_000_000_123_456_789


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Process:
    """A receiving process: its save-dir, and what it keeps between connections. Leaving it is a kill."""

    def __init__(self, path: Path, on_conflict: Conflict = "resume") -> None:
        self.save_dir = SaveDir(path, on_conflict=on_conflict)
        self.transfers: dict[str, Incoming] = {}

    def keep(self, name: str, entries: list[Entry]) -> Incoming:
        if name not in self.transfers:
            self.transfers[name] = Incoming(self.save_dir, entries)
        return self.transfers[name]

    def close(self) -> None:
        for incoming in self.transfers.values():
            incoming.close()
        self.save_dir.close()


def session(selection: Selection, reader: Reader, process: Process, **options: Any) -> Session:
    rules = process.save_dir.rules
    return Session(selection.entries, reader, process.keep, rules, id=selection.id, **options)


def send(
    paths: Sequence[Path], save_dir: Path, on_conflict: Conflict = "resume", **options: Any
) -> tuple[Session, Result]:
    """One whole transfer between two fresh processes."""
    selection = select_files([str(path) for path in paths])
    reader, process = Reader(selection.sources), Process(save_dir, on_conflict)
    try:
        done = session(selection, reader, process, **options).run()
        return done, done.result
    finally:
        reader.close()
        process.close()


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: kind, mode, mtime and content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("folder", stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        else:
            found[name] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns, path.read_bytes())
    return found


def write(path: Path, content: bytes, *, mtime: int = MTIME, mode: int = 0o640) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(mtime, mtime))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with one of everything."""
    root = tmp_path / "from" / "top"
    write(root / "empty", b"")
    write(root / "large", os.urandom(3_000_000), mode=0o755)
    write(root / "sub/deep/-rf", b"x")
    write(root / "sub/new\nline", b"y", mode=0o400)
    write(root / Path(os.fsdecode(b"\xff")), b"z")
    (root / "nothing").mkdir()
    (root / "sub/link").symlink_to("../large")
    (root / "sub/loop").symlink_to("loop")
    for path in (root / "nothing", root / "sub/deep", root / "sub", root):
        path.chmod(0o751)
        os.utime(path, ns=(MTIME, MTIME))
    return root


@pytest.fixture
def save_dir(tmp_path: Path) -> Path:
    path = tmp_path / "to"
    path.mkdir()
    return path


@contextlib.contextmanager
def incoming(save_dir: Path, *entries: Entry, on_conflict: Conflict = "resume") -> Iterator[Incoming]:
    process = Process(save_dir, on_conflict)
    try:
        yield process.keep("x", list(entries))
    finally:
        process.close()


def put(receiving: Incoming, entry: int, content: bytes, *, offset: int = 0, digest: str = "") -> Result:
    """A whole file, as the protocol would say it."""
    view = memoryview(content)[offset:]
    actions: list[Work] = [Start(entry, offset), Write(entry, view), Finish(entry, digest or sha(content))]
    result = receiving.apply(actions)
    result.add(receiving.commit())
    return result


# Trees ----------------------------------------------------------------------------------------


def test_a_tree_arrives_as_it_was(source: Path, save_dir: Path) -> None:
    done, result = send([source], save_dir)
    assert tree(save_dir / "top") == tree(source)
    assert save_dir.joinpath("top").stat().st_mtime_ns == MTIME
    assert result.troubles == []
    assert done.sender.outcomes == [Outcome("safe")] * len(done.entries)
    saved = {saved.entry: saved for saved in result.saved}
    large = next(i for i, entry in enumerate(done.entries) if entry.path[-1] == "large")
    assert saved[large].path == str(save_dir / "top/large")
    assert saved[large].digest == sha((source / "large").read_bytes())


def test_a_tree_that_is_there_is_not_sent_again(source: Path, save_dir: Path) -> None:
    send([source], save_dir)
    before = tree(save_dir)
    done, _ = send([source], save_dir)
    assert done.content == 0
    assert tree(save_dir) == before
    assert done.sender.outcomes == [Outcome("safe")] * len(done.entries)


def test_thousands_of_small_files_are_synced_in_batches(
    tmp_path: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1_500):
        write(tmp_path / f"many/{number % 10}/{number}", str(number).encode())
    monkeypatch.setattr(storage, "MAX_PENDING", 300)
    syncs: list[str] = []
    each, whole = os.fsync, disk.volume_sync()

    def fsync(fd: int) -> None:
        syncs.append("one")
        each(fd)

    def syncfs(fd: int) -> int:
        syncs.append("all")
        assert whole is not None
        return whole(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    if whole is not None:
        monkeypatch.setattr(disk, "volume_sync", lambda: syncfs)
    send([tmp_path / "many"], save_dir)
    assert tree(save_dir / "many") == tree(tmp_path / "many")
    assert whole is None or len(syncs) < 30


def test_files_without_mode_and_time_get_what_new_files_get(save_dir: Path) -> None:
    old = os.umask(0o027)
    try:
        with incoming(save_dir, Entry(("f",), size=1)) as receiving:
            assert len(put(receiving, 0, b"x").saved) == 1
    finally:
        os.umask(old)
    assert stat.S_IMODE((save_dir / "f").stat().st_mode) == 0o640


def test_sparse_files_stay_sparse(tmp_path: Path, save_dir: Path) -> None:
    path = write(tmp_path / "sparse", b"x")
    os.truncate(path, 50_000_000)
    with path.open("r+b") as file:
        file.seek(20_000_000)
        file.write(b"middle")
    done, _ = send([path], save_dir)
    assert done.content < 1_000_000
    assert (save_dir / "sparse").read_bytes() == path.read_bytes()
    assert (save_dir / "sparse").stat().st_blocks < 4_096


def test_a_single_file_of_unknown_size_arrives(save_dir: Path) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"from a pipe")
    os.close(write_end)
    selection = select_files(["-"], name="piped")
    reader, process = Reader(selection.sources, stdin=read_end), Process(save_dir)
    session(selection, reader, process).run()
    assert (save_dir / "piped").read_bytes() == b"from a pipe"
    reader.close()
    process.close()
    os.close(read_end)


# Nothing wrong in place -----------------------------------------------------------------------


def test_until_it_is_whole_a_file_has_another_name(save_dir: Path) -> None:
    with incoming(save_dir, Entry(("f",), size=5)) as receiving:
        receiving.apply([Start(0, 0), Write(0, memoryview(b"abc"))])
        assert os.listdir(save_dir) == [part_name("f", NameRules())]
        receiving.apply([Write(0, memoryview(b"de")), Finish(0, sha(b"abcde"))])
        assert os.listdir(save_dir) == [part_name("f", NameRules())]
        receiving.commit()
        assert os.listdir(save_dir) == ["f"]


def test_content_is_on_the_disk_before_its_name_and_the_name_before_it_is_called_safe(
    save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def note(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            return function(*args, **kwargs)

        return noted

    monkeypatch.setattr(os, "fsync", note("sync", os.fsync))
    monkeypatch.setattr(os, "link", note("name", os.link))
    with incoming(save_dir, Entry(("f",), size=1)) as receiving:
        put(receiving, 0, b"x")
    assert done == ["sync", "name", "sync"]


def test_a_wrong_digest_keeps_nothing(save_dir: Path) -> None:
    with incoming(save_dir, Entry(("f",), size=3)) as receiving:
        result = put(receiving, 0, b"abc", digest=sha(b"abd"))
        assert [trouble.reason for trouble in result.troubles] == ["digest"]
    assert os.listdir(save_dir) == []


def test_a_volume_without_hard_links_still_replaces_nothing(
    save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, "no hard links")

    monkeypatch.setattr(os, "link", link)
    write(save_dir / "f", b"mine")
    with incoming(save_dir, Entry(("f",), size=3)) as receiving:
        put(receiving, 0, b"new")
    assert (save_dir / "f").read_bytes() == b"mine"
    assert (save_dir / "f (1)").read_bytes() == b"new"


# Conflicts ------------------------------------------------------------------------------------


def conflict(save_dir: Path, policy: Conflict, there: bytes, sent: bytes) -> tuple[Session, dict[str, bytes]]:
    path = write(save_dir.parent / "f.txt", sent, mtime=MTIME + 10**10)
    write(save_dir / "f.txt", there)
    done, _ = send([path], save_dir, policy)
    return done, {path.name: path.read_bytes() for path in sorted(save_dir.iterdir())}


@pytest.mark.parametrize("policy", ["resume", "rename"])
def test_another_file_of_the_same_name_is_left_alone(save_dir: Path, policy: Conflict) -> None:
    _, found = conflict(save_dir, policy, b"mine", b"theirs")
    assert found == {"f.txt": b"mine", "f (1).txt": b"theirs"}


def test_again_and_again_there_is_one_copy_of_each(save_dir: Path) -> None:
    for content in (b"one", b"three", b"one", b"three"):
        _, found = conflict(save_dir, "rename", b"mine", content)
    assert found == {"f.txt": b"mine", "f (1).txt": b"one", "f (2).txt": b"three"}


def test_resume_goes_on_from_the_beginning_of_the_same_file(save_dir: Path) -> None:
    done, found = conflict(save_dir, "resume", b"half", b"half of it")
    assert found == {"f.txt": b"half of it"}
    assert done.content == len(b" of it")
    assert done.result.saved[0].resumed_from == 4


def test_rename_does_not_go_on_from_it(save_dir: Path) -> None:
    _, found = conflict(save_dir, "rename", b"half", b"half of it")
    assert found == {"f.txt": b"half", "f (1).txt": b"half of it"}


def test_overwrite_replaces(save_dir: Path) -> None:
    _, found = conflict(save_dir, "overwrite", b"mine", b"theirs")
    assert found == {"f.txt": b"theirs"}


def test_overwrite_replaces_a_link_not_what_it_leads_to(tmp_path: Path, save_dir: Path) -> None:
    outside = write(tmp_path / "outside", b"precious")
    (save_dir / "f").symlink_to(outside)
    send([write(tmp_path / "f", b"new")], save_dir, "overwrite")
    assert outside.read_bytes() == b"precious"
    assert not (save_dir / "f").is_symlink()


def test_overwrite_does_not_replace_what_the_same_transfer_brought(save_dir: Path) -> None:
    # As on a volume that folds case in a way that nobody foresaw.
    with incoming(
        save_dir, Entry(("f",), size=1), Entry(("g",), size=1), on_conflict="overwrite"
    ) as receiving:
        put(receiving, 0, b"1")
        os.rename(save_dir / "f", save_dir / "g")
        put(receiving, 1, b"2")
    assert {path.name: path.read_bytes() for path in save_dir.iterdir()} == {"g": b"1", "g (1)": b"2"}


def test_skip_leaves_what_is_there(save_dir: Path) -> None:
    done, found = conflict(save_dir, "skip", b"mine", b"theirs")
    assert found == {"f.txt": b"mine"}
    assert done.content == 0
    assert done.sender.outcomes == [Outcome("skipped", "exists")]


def test_fail_declines_before_anything_is_sent(save_dir: Path) -> None:
    with pytest.raises(Declined, match=r"f\.txt"):
        conflict(save_dir, "fail", b"mine", b"theirs")
    assert os.listdir(save_dir) == ["f.txt"]


def test_fail_and_skip_do_not_replace_what_appears_meanwhile(save_dir: Path) -> None:
    for policy in ("fail", "skip"):
        with incoming(save_dir, Entry(("f",), size=3), on_conflict=policy) as receiving:
            assert isinstance(receiving.plan(NEVER), Plan)
            write(save_dir / "f", b"mine")
            result = put(receiving, 0, b"new")
            assert [trouble.reason for trouble in result.troubles] == ["conflict"]
        assert (save_dir / "f").read_bytes() == b"mine"
        (save_dir / "f").unlink()


def test_fail_does_not_mind_the_very_same_file(source: Path, save_dir: Path) -> None:
    send([source], save_dir)
    done, _ = send([source], save_dir, "fail")
    assert done.content == 0


def test_a_folder_where_a_file_should_be_is_left_alone(tmp_path: Path, save_dir: Path) -> None:
    for policy in ("resume", "overwrite"):
        write(save_dir / "f" / "inside", b"mine")
        send([write(tmp_path / "f", b"new")], save_dir, policy)
        assert (save_dir / "f" / "inside").read_bytes() == b"mine"
        assert (save_dir / "f (1)").read_bytes() == b"new"


@pytest.mark.parametrize("policy", ["resume", "overwrite", "skip"])
def test_links_meet_the_same_policies(tmp_path: Path, save_dir: Path, policy: Conflict) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/l").symlink_to("new")
    (save_dir / "d").mkdir()
    (save_dir / "d/l").symlink_to("old")
    send([tmp_path / "d"], save_dir, policy)
    send([tmp_path / "d"], save_dir, policy)
    found = {path.name: os.readlink(path) for path in (save_dir / "d").iterdir()}
    assert (
        found
        == {
            "resume": {"l": "old", "l (1)": "new"},
            "overwrite": {"l": "new"},
            "skip": {"l": "old"},
        }[policy]
    )


# Going on after a crash -----------------------------------------------------------------------


def half(path: Path, save_dir: Path, done: int) -> None:
    """A transfer that is killed after `done` bytes."""
    selection = select_files([str(path)])
    reader, process = Reader(selection.sources), Process(save_dir)
    run = session(selection, reader, process, piece_size=1_000)
    while run.content < done:
        assert run.step()
    process.close()
    reader.close()


def test_a_file_goes_on_where_it_stopped(tmp_path: Path, save_dir: Path) -> None:
    path = write(tmp_path / "f", os.urandom(100_000))
    half(path, save_dir, 60_000)
    done, result = send([path], save_dir)
    assert done.content == 40_000
    assert result.saved[0].resumed_from == 60_000
    assert tree(save_dir) == {"f": (0o640, MTIME, path.read_bytes())}


def test_a_torn_end_costs_only_what_is_torn(
    tmp_path: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "PREFIX_STEP", 10_000)
    path = write(tmp_path / "f", os.urandom(100_000))
    half(path, save_dir, 60_000)
    part = save_dir / part_name("f", NameRules())
    os.truncate(part, 57_000)
    os.truncate(part, 60_000)  # zeros, as a lost page would be
    done, _ = send([path], save_dir)
    assert done.content == 50_000
    assert (save_dir / "f").read_bytes() == path.read_bytes()


def test_what_is_left_of_another_file_is_not_taken_for_it(tmp_path: Path, save_dir: Path) -> None:
    half(write(tmp_path / "f", os.urandom(100_000)), save_dir, 60_000)
    path = write(tmp_path / "f", os.urandom(80_000))
    done, _ = send([path], save_dir)
    assert done.content == 80_000
    assert tree(save_dir) == {"f": (0o640, MTIME, path.read_bytes())}


def test_a_crash_amid_the_rename_is_put_right(tmp_path: Path, save_dir: Path) -> None:
    path = write(tmp_path / "f", b"content")
    send([path], save_dir)
    os.link(save_dir / "f", save_dir / part_name("f", NameRules()))
    path = write(tmp_path / "f", b"another content")
    send([path], save_dir)
    assert (save_dir / "f").read_bytes() == b"content"
    assert (save_dir / "f (1)").read_bytes() == b"another content"
    assert len(os.listdir(save_dir)) == 2


def test_within_one_process_nothing_is_hashed_again(
    tmp_path: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "f", os.urandom(100_000))
    selection = select_files([str(path)])
    reader, process = Reader(selection.sources), Process(save_dir)
    first = session(selection, reader, process, piece_size=1_000)
    while first.content < 60_000:
        first.step()
    monkeypatch.setattr(storage, "hashed", None)
    second = session(selection, reader, process).run()
    assert second.content == 40_000
    process.close()
    reader.close()


def hold(path: str, ready: Any, release: Any) -> None:
    """Another process that is amid the same file."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.write(fd, b"theirs")
    ready.set()
    release.wait(30)


def test_two_processes_do_not_write_into_one_part(tmp_path: Path, save_dir: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    part = save_dir / part_name("f", NameRules())
    other = context.Process(target=hold, args=(str(part), ready, release))
    other.start()
    assert ready.wait(30)
    send([write(tmp_path / "f", b"mine")], save_dir)
    assert (save_dir / "f").read_bytes() == b"mine"
    assert part.read_bytes() == b"theirs"
    release.set()
    other.join()


def test_two_transfers_of_one_process_do_not_either(save_dir: Path) -> None:
    place = SaveDir(save_dir)
    first, second = (Incoming(place, [Entry(("f",), size=6)]) for _ in range(2))
    first.apply([Start(0, 0), Write(0, memoryview(b"fi"))])
    put(second, 0, b"second")
    first.apply([Write(0, memoryview(b"rst!")), Finish(0, sha(b"first!"))])
    first.commit()
    assert (save_dir / "f").read_bytes() == b"second"
    assert (save_dir / "f (1)").read_bytes() == b"first!"
    for one in (first, second):
        one.close()
    place.close()


# Nothing outside the save-dir -----------------------------------------------------------------


@pytest.mark.parametrize("policy", ["resume", "overwrite"])
def test_links_in_the_way_are_not_followed(tmp_path: Path, save_dir: Path, policy: Conflict) -> None:
    outside = tmp_path / "outside"
    write(outside / "f", b"precious")
    before = tree(outside)
    (save_dir / "d").symlink_to(outside)
    with incoming(
        save_dir, Entry(("d", "f"), size=3), Entry(("g",), size=1), on_conflict=policy
    ) as receiving:
        plan = receiving.plan(NEVER)
        assert isinstance(plan, Plan)
        assert plan.resume == {}
        result = put(receiving, 0, b"new")
        assert [trouble.reason for trouble in result.troubles] == ["conflict"]
        assert len(put(receiving, 1, b"g").saved) == 1
    assert tree(outside) == before


@pytest.mark.parametrize("policy", ["resume", "overwrite"])
def test_a_part_that_is_a_link_is_not_written_through(
    tmp_path: Path, save_dir: Path, policy: Conflict
) -> None:
    outside = write(tmp_path / "outside", b"precious")
    (save_dir / part_name("f", NameRules())).symlink_to(outside)
    (save_dir / part_name("g", NameRules())).hardlink_to(outside)
    os.mkfifo(save_dir / part_name("h", NameRules()))
    (save_dir / part_name("i", NameRules())).mkdir()
    entries = [Entry((name,), size=3) for name in "fghi"]
    with incoming(save_dir, *entries, on_conflict=policy) as receiving:
        assert receiving.plan(NEVER) == Plan()
        for index in range(4):
            put(receiving, index, b"new")
    assert outside.read_bytes() == b"precious"
    assert (save_dir / "g").read_bytes() == b"new"


def test_a_link_put_in_the_way_between_two_messages_is_not_followed(tmp_path: Path, save_dir: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    with incoming(save_dir, Entry(("d", "f"), size=4)) as receiving:
        receiving.plan(NEVER)
        receiving.apply([Start(0, 0), Write(0, memoryview(b"ab"))])
        os.rename(save_dir / "d", save_dir / "moved")
        (save_dir / "d").symlink_to(outside)
        receiving.apply([Write(0, memoryview(b"cd")), Finish(0, sha(b"abcd"))])
        receiving.commit()
    assert os.listdir(outside) == []
    assert (save_dir / "moved/f").read_bytes() == b"abcd"


def test_a_link_to_a_file_as_target_is_left_alone(tmp_path: Path, save_dir: Path) -> None:
    outside = write(tmp_path / "outside", b"half")
    (save_dir / "f").symlink_to(outside)
    with incoming(save_dir, Entry(("f",), size=7)) as receiving:
        assert receiving.plan(NEVER) == Plan()
        put(receiving, 0, b"half it")
    assert outside.read_bytes() == b"half"
    assert (save_dir / "f (1)").read_bytes() == b"half it"


# Disks that give up ---------------------------------------------------------------------------


def test_an_offer_beyond_the_free_space_is_declined(save_dir: Path) -> None:
    with incoming(save_dir, Entry(("f",), size=1 << 52)) as receiving:
        refusal = receiving.plan(NEVER)
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "space"
    with incoming(save_dir, Entry(("f",), size=1 << 52, stored=10)) as receiving:
        assert receiving.plan(NEVER) == Plan()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_loses_nothing_and_goes_on_when_there_is_room(
    tmp_path: Path, save_dir: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    content = os.urandom(300_000)
    path = write(tmp_path / "f", content)
    room = 100_001

    def full(fd: int, pieces: list[memoryview]) -> int:
        nonlocal room
        if not room:
            raise OSError(code, os.strerror(code))
        count = os.write(fd, b"".join(pieces)[: min(room, 50_000)])
        room -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        with pytest.raises(StorageFailed, match="f"):
            send([path], save_dir)
    done, _ = send([path], save_dir)
    assert done.content == 300_000 - 100_001
    assert (save_dir / "f").read_bytes() == content


def test_a_sync_that_fails_puts_nothing_in_place(save_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with incoming(save_dir, Entry(("f",), size=1)) as receiving:
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(StorageFailed):
            put(receiving, 0, b"x")
    assert not (save_dir / "f").exists()


@contextlib.contextmanager
def somebody() -> Iterator[Path]:
    """A folder of root's, seen by an unprivileged user (or by ourselves, if that is what we are)."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65_534)
        try:
            yield Path(name)
        finally:
            if root:
                os.seteuid(0)
            os.chmod(name, 0o755)


def test_a_target_that_cannot_be_written_is_told_before_the_start() -> None:
    with somebody() as folder, incoming(folder, Entry(("f",), size=1)) as receiving:
        refusal = receiving.plan(NEVER)
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "storage"


def test_a_save_dir_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed):
        SaveDir(write(tmp_path / "f", b""))
    with somebody() as folder, pytest.raises(StorageFailed):
        SaveDir(folder / "new")


def test_a_folder_below_that_cannot_be_written_fails_its_files_only(save_dir: Path) -> None:
    save_dir.chmod(0o777)
    for parent in save_dir.parents:
        if Path(tempfile.gettempdir()) in parent.parents:
            parent.chmod(0o755)
    (save_dir / "d").mkdir(mode=0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65_534)
    try:
        with incoming(save_dir, Entry(("d", "f"), size=1), Entry(("g",), size=1)) as receiving:
            assert put(receiving, 0, b"x").troubles[0].message == os.strerror(errno.EACCES)
            assert len(put(receiving, 1, b"x").saved) == 1
    finally:
        if root:
            os.seteuid(0)


def test_what_is_given_up_is_let_go_of_though_its_folder_is_gone(save_dir: Path) -> None:
    with incoming(save_dir, Entry(("d", "f"), size=9)) as receiving:
        before = len(os.listdir("/dev/fd"))
        receiving.apply([Start(0, 0), Write(0, memoryview(b"half"))])
        receiving._folders.close()  # as when many others are used meanwhile
        shutil.rmtree(save_dir / "d")
        write(save_dir / "d", b"")
        result = receiving.apply([Abandon(0, "changed", "")])
        assert [trouble.reason for trouble in result.troubles] == ["conflict"]
        assert len(os.listdir("/dev/fd")) == before


def test_a_volume_that_fails_at_once_leaves_nothing_open(
    save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fstatvfs(fd: int) -> os.statvfs_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    before = len(os.listdir("/dev/fd"))
    monkeypatch.setattr(os, "fstatvfs", fstatvfs)
    with pytest.raises(StorageFailed, match="cannot save to"):
        SaveDir(save_dir)
    assert len(os.listdir("/dev/fd")) == before


# Volumes --------------------------------------------------------------------------------------


def test_an_ordinary_volume_takes_all_names(save_dir: Path) -> None:
    place = SaveDir(save_dir)
    assert place.rules == NameRules(windows=False, fold=False, max_bytes=255)
    assert os.listdir(save_dir) == []
    place.close()


def test_a_volume_that_folds_case_and_hates_colons_is_known(
    save_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open, real_stat = os.open, os.stat

    def fat_open(path: str, *args: Any, **kwargs: Any) -> int:
        if ":" in path:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real_open(path, *args, **kwargs)

    def fat_stat(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        return real_stat(path.lower() if isinstance(path, str) else path, *args, **kwargs)

    monkeypatch.setattr(os, "open", fat_open)
    monkeypatch.setattr(os, "stat", fat_stat)
    place = SaveDir(save_dir)
    assert place.rules == NameRules(windows=True, fold=True)
    place.close()


def test_deep_trees_do_not_use_up_descriptors(tmp_path: Path, save_dir: Path) -> None:
    path = tmp_path / "top"
    for number in range(150):
        path = path / str(number)
    write(path / "f", b"deep")
    for number in range(200):
        write(tmp_path / f"top/wide{number}/f", b"x")
    before = len(os.listdir("/dev/fd"))
    send([tmp_path / "top"], save_dir)
    assert len(os.listdir("/dev/fd")) == before
    assert {name: found[-1] for name, found in tree(save_dir / "top").items() if found[0] != "folder"} == {
        name: found[-1] for name, found in tree(tmp_path / "top").items() if found[0] != "folder"
    }


# Crashes at random ----------------------------------------------------------------------------


@settings(deadline=None, max_examples=60, stateful_step_count=30, suppress_health_check=list(HealthCheck))
class Crashes(RuleBasedStateMachine):
    """One transfer on a real disk through lost connections, kills of either side and torn parts."""

    @initialize(
        contents=st.lists(st.integers(0, 40_000), min_size=1, max_size=12),
        piece_size=st.integers(100, 20_000),
        policy=st.sampled_from(["resume", "rename", "overwrite", "fail"]),
    )
    def begin(self, contents: list[int], piece_size: int, policy: Conflict) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.piece_size, self.policy = piece_size, policy
        for number, size in enumerate(contents):
            write(self.root / f"from/{number % 3}/{number}", os.urandom(size))
        (self.root / "from/0/link").symlink_to("0")
        self.selection = select_files([str(self.root / "from")])
        self.safe: set[int] = set()
        self.reader, self.process = Reader(self.selection.sources), Process(self.root / "to", policy)
        self.connect()

    def connect(self) -> None:
        self.session = session(
            self.selection, self.reader, self.process, piece_size=self.piece_size, safe=self.safe
        )

    @rule(steps=st.integers(1, 40))
    @precondition(lambda self: not self.session.finished)
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            if not self.session.finished:
                assert self.session.step()

    @rule()
    def lose_the_connection(self) -> None:
        self.connect()

    @rule()
    def kill_the_sender(self) -> None:
        self.reader.close()
        selection = select_files([str(self.root / "from")])
        assert selection.id == self.selection.id
        self.reader = Reader(selection.sources)
        self.connect()

    @rule()
    def kill_the_receiver(self) -> None:
        self.process.close()
        self.process = Process(self.root / "to", self.policy)
        self.connect()

    @rule(at=st.floats(0, 1), zeros=st.floats(0, 1))
    def lose_power(self, at: float, zeros: float) -> None:
        for part in (self.root / "to").rglob("*.peercli.part"):
            size = part.stat().st_size
            os.truncate(part, int(size * at))
            os.truncate(part, int(size * max(at, zeros)))
        self.kill_the_receiver()

    @invariant()
    def nothing_wrong_is_in_place(self) -> None:
        if hasattr(self, "root"):
            for path in (self.root / "to").rglob("*"):
                if path.is_file() and not path.name.endswith(".part"):
                    sent = self.root / path.relative_to(self.root / "to")
                    assert path.read_bytes() == sent.read_bytes()

    def teardown(self) -> None:
        if not hasattr(self, "session"):
            return
        try:
            self.session.run()
            assert self.session.sender.outcomes == [Outcome("safe")] * len(self.selection.entries)
            assert tree(self.root / "to/from") == tree(self.root / "from")
        finally:
            self.reader.close()
            self.process.close()
            shutil.rmtree(self.root)


TestCrashes = Crashes.TestCase
