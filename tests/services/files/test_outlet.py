"""A single file under a name of the user's, and to a descriptor."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from threading import Event

import pytest

from peercli.protocol.manifest import Entry
from peercli.protocol.transfer import Outcome
from peercli.protocol.transfer_receiver import Plan, Start, Write
from peercli.services.files.outgoing import Reader, select_files
from peercli.services.files.outlet import ONLY_ONE, Outlet, single_file
from peercli.services.files.receiving import Place
from peercli.services.files.storage import NEVER
from tests.transfers import Session


def carry(path: Path, place: Place) -> Session:
    selection = select_files([str(path)])
    reader = Reader(selection.sources)
    try:
        return Session(selection.entries, reader, lambda name, entries: place.incoming(entries)).run()
    finally:
        reader.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "theirs"
    path.write_bytes(os.urandom(100_000) + bytes(1_000_000))
    os.truncate(path, 2_000_000)
    return path


def test_a_single_file_gets_the_name_that_is_asked_for(source: Path, tmp_path: Path) -> None:
    place = single_file(str(tmp_path / "to" / "mine"))
    done = carry(source, place)
    assert os.listdir(tmp_path / "to") == ["mine"]
    assert (tmp_path / "to/mine").read_bytes() == source.read_bytes()
    assert done.result.saved[0].path == str(tmp_path / "to/mine")
    place.close()


def test_anything_but_a_single_file_is_refused(tmp_path: Path) -> None:
    folder, two = [Entry(("d",), "folder")], [Entry(("a",)), Entry(("b",))]
    named = single_file(str(tmp_path / "mine"))
    for place in (named, Outlet(1)):
        for entries in (folder, two):
            keeping = place.incoming(entries)
            assert keeping.plan(NEVER) == ONLY_ONE
            keeping.close()
    named.close()


def test_a_descriptor_gets_the_bytes(source: Path) -> None:
    read_end, write_end = os.pipe()
    got = bytearray()

    def drain() -> None:
        while data := os.read(read_end, 65_536):
            got.extend(data)

    thread = threading.Thread(target=drain)
    thread.start()
    done = carry(source, Outlet(write_end))
    os.close(write_end)
    thread.join()
    os.close(read_end)
    assert got == source.read_bytes()
    assert done.sender.outcomes == [Outcome("safe")]


def test_a_descriptor_goes_on_but_not_back(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        keeping = Outlet(file.fileno()).incoming([Entry(("f",), size=6)])
        keeping.apply([Start(0, 0), Write(0, memoryview(b"abc"))])
        plan = keeping.plan(NEVER)
        assert isinstance(plan, Plan)
        assert [prefix.offset for prefix in plan.resume[0]] == [3]
        assert keeping.apply([Start(0, 3), Write(0, memoryview(b"def"))]).troubles == []
        assert keeping.apply([Start(0, 0)]).troubles[0].reason == "storage"
    assert (tmp_path / "out").read_bytes() == b"abcdef"


def test_nobody_reading_is_told_and_a_slow_reader_can_be_left() -> None:
    read_end, write_end = os.pipe()
    keeping = Outlet(write_end).incoming([Entry(("f",))])
    stopped = Event()
    threading.Timer(0.05, stopped.set).start()
    keeping.apply([Start(0, 0), Write(0, memoryview(bytes(1_000_000)))], stopped)  # nobody reads it
    os.close(read_end)
    with pytest.raises(BrokenPipeError):
        keeping.apply([Write(0, memoryview(bytes(1_000_000)))])
    os.close(write_end)
