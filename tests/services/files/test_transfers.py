"""Files between two real peers, through our broker, with connections that break and sides that die or lie."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from peercli.errors import (
    ConnectionClosed,
    ConnectionLost,
    Declined,
    PeerError,
    PeerUnavailable,
    ProtocolError,
    StorageFailed,
    UsageError,
)
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.protocol import transfer
from peercli.protocol.manifest import Entry
from peercli.protocol.transfer import control
from peercli.protocol.transfer_sender import Chunk, Finished, Sender
from peercli.services import redial
from peercli.services.events import Close, Event, Open
from peercli.services.files import line, receiving
from peercli.services.files.events import (
    FileFailed,
    FileProgress,
    FileSaved,
    FileSent,
    FileSkipped,
    FilesOffered,
    Resuming,
    TransferEnded,
)
from peercli.services.files.outgoing import select_files
from peercli.services.files.receiving import Inbox, is_file_offer, receive_files
from peercli.services.files.sending import FILES, Sending, send_files
from peercli.services.files.storage import Conflict, Incoming, Result, SaveDir
from tests.brokers import our_server

WITHIN = 60.0
EMPTY = hashlib.sha256().hexdigest()
RATE = 10e6  # bytes/s of what is to be interrupted before it has ended


class Log:
    """Keeps what a service reports, and calls `on` with it."""

    def __init__(self, on: Callable[[Event], object] = lambda event: None) -> None:
        self.events: list[Event] = []
        self.on = on
        self._news = asyncio.Condition()

    async def __call__(self, event: Event) -> None:
        self.events.append(event)
        self.on(event)
        async with self._news:
            self._news.notify_all()

    async def until(self, kind: type[Event], count: int = 1) -> None:
        """Wait until it has kept so many events of a kind."""
        async with asyncio.timeout(WITHIN), self._news:
            await self._news.wait_for(lambda: len(self.of(kind)) >= count)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


async def yes(offer: FilesOffered) -> bool:
    return True


async def no(offer: FilesOffered) -> bool:
    return False


def a_peer(url: str, id: str | None = None, **options: Any) -> Peer:
    return Peer(id=id, server=url, ice_servers=(), **options)


class Receiving:
    """`receive_files` in a task, listening as `rx` once entered."""

    def __init__(
        self,
        url: str,
        path: Path,
        *,
        on_conflict: Conflict = "resume",
        log: Log | None = None,
        **options: Any,
    ) -> None:
        self.log = log or Log()
        self.peer = a_peer(url, "rx", admit=is_file_offer)
        self.waiting = {name: options.pop(name) for name in ("keep_open", "patience") if name in options}
        options.setdefault("consent", yes)
        self.inbox = Inbox(SaveDir(path, on_conflict=on_conflict), self.log, **options)
        self.task: asyncio.Task[None]

    async def __aenter__(self) -> Receiving:
        self.task = asyncio.create_task(receive_files(self.peer, self.inbox, **self.waiting))
        await self.log.until(Open)
        return self

    async def __aexit__(self, *error: object) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.inbox.close()

    async def done(self) -> None:
        async with asyncio.timeout(WITHIN):
            await self.task


async def send(url: str, *paths: Path, log: Log | None = None, retries: int = 10, **options: Any) -> Log:
    log = log or Log()
    carried = Sending(select_files([str(path) for path in paths]), log, **options)
    try:
        async with asyncio.timeout(WITHIN):
            await send_files(a_peer(url), "rx", carried, timeout=20, retries=retries)
    finally:
        carried.close()
    return log


@contextlib.asynccontextmanager
async def connected(url: str, id: str | None = None) -> AsyncIterator[DataConnection]:
    """A connection for files, to lie over."""
    async with a_peer(url, id) as peer:
        connection = await peer.connect("rx", **FILES)
        yield connection
        await connection.close()


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "from" / "top"
    (root / "sub").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "large").write_bytes(os.urandom(3_000_000))
    for number in range(50):
        (root / "sub" / str(number)).write_bytes(os.urandom(number))
    (root / "link").symlink_to("large")
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redial, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(redial, "LAST_PAUSE", 0.2)


async def test_a_tree_arrives_and_both_sides_tell(source: Path, tmp_path: Path) -> None:
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver:
        log = await send(url, source)
        await receiver.done()
    assert contents(tmp_path / "to/top") == contents(source)
    assert os.readlink(tmp_path / "to/top/link") == "large"
    assert (tmp_path / "to/top/empty").is_dir()
    sent = {event.name: event.sha256 for event in log.of(FileSent)}
    assert sent == {event.name: event.sha256 for event in receiver.log.of(FileSaved)}
    assert len(sent) == 55
    for side in (log, receiver.log):
        (offer,) = side.of(FilesOffered)
        assert (offer.names, offer.files, offer.size, offer.endless) == (("top",), 51, 3_001_225, False)
        (end,) = side.of(TransferEnded)
        assert (end.files, end.size, end.bytes, end.failed) == (51, 3_001_225, 3_001_225, 0)
        last = side.of(FileProgress)[-1]
        assert (last.all_bytes, last.all_total, last.all_files) == (3_001_225, 3_001_225, 51)


async def test_what_is_there_is_not_sent_again(source: Path, tmp_path: Path) -> None:
    async with our_server() as url:
        for _ in range(2):
            async with Receiving(url, tmp_path / "to") as receiver:
                log = await send(url, source)
                await receiver.done()
    assert log.of(TransferEnded)[0].bytes == 0
    assert log.of(TransferEnded)[0].size == 3_001_225
    assert len(contents(tmp_path / "to")) == 52


async def test_an_offer_that_is_declined_ends_both(source: Path, tmp_path: Path) -> None:
    async with our_server() as url, Receiving(url, tmp_path / "to", consent=no) as receiver:
        with pytest.raises(Declined):
            await send(url, source)
        with pytest.raises(Declined):
            await receiver.done()
    assert os.listdir(tmp_path / "to") == []


async def test_an_offer_that_is_too_big_is_declined(source: Path, tmp_path: Path) -> None:
    async with our_server() as url, Receiving(url, tmp_path / "to", max_size=1_000_000) as receiver:
        with pytest.raises(Declined, match="1,000,000"):
            await send(url, source)
        with pytest.raises(Declined):
            await receiver.done()


async def test_a_conflict_declines_when_it_is_to_fail(source: Path, tmp_path: Path) -> None:
    (tmp_path / "to/top").mkdir(parents=True)
    (tmp_path / "to/top/large").write_bytes(b"mine")
    async with our_server() as url, Receiving(url, tmp_path / "to", on_conflict="fail") as receiver:
        with pytest.raises(Declined, match="large"):
            await send(url, source)
        with pytest.raises(StorageFailed):
            await receiver.done()


async def test_skipped_entries_are_told_on_both_sides(source: Path, tmp_path: Path) -> None:
    (source / "bad").symlink_to("/etc/passwd")
    (tmp_path / "to/top").mkdir(parents=True)
    (tmp_path / "to/top/large").write_bytes(b"mine")
    async with our_server() as url, Receiving(url, tmp_path / "to", on_conflict="skip") as receiver:
        log = await send(url, source)
        await receiver.done()
    for side in (log, receiver.log):
        assert {(event.name, event.reason) for event in side.of(FileSkipped)} == {
            ("top/large", "exists"),
            ("top/bad", "refused"),
        }
        assert side.of(TransferEnded)[0].skipped == 2


async def test_a_file_that_vanishes_fails_alone(source: Path, tmp_path: Path) -> None:
    log = Log(lambda event: (source / "sub/7").unlink() if isinstance(event, FilesOffered) else None)
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver:
        with pytest.raises(StorageFailed, match="1 of 55"):
            await send(url, source, log=log)
        with pytest.raises(StorageFailed, match="1 of 55"):
            await receiver.done()
    assert contents(tmp_path / "to/top") == contents(source)
    for side in (log, receiver.log):
        assert [(event.name, event.reason) for event in side.of(FileFailed)] == [("top/sub/7", "vanished")]


async def test_what_could_not_be_walked_is_told_at_the_end(source: Path, tmp_path: Path) -> None:
    os.mkfifo(source / "fifo")
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver:
        with pytest.raises(UsageError, match="fifo"):
            await send(url, source)
        await receiver.done()


async def test_a_limited_rate_still_gets_everything_across(source: Path, tmp_path: Path) -> None:
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver:
        await send(url, source / "sub", limit_rate=20_000)
        await receiver.done()
    assert contents(tmp_path / "to/sub") == contents(source / "sub")


# Lost connections -----------------------------------------------------------------------------


def after(amount: int, then: Callable[[], object]) -> Callable[[Event], None]:
    """Does something once, when progress has come so far."""
    done = False

    def on(event: Event) -> None:
        nonlocal done
        if isinstance(event, FileProgress) and event.all_bytes >= amount and not done:
            done = True
            then()

    return on


async def test_a_lost_connection_is_made_again_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(20_000_000))
    closing: list[asyncio.Task[None]] = []

    def cut() -> None:
        (connection,) = receiver.peer._connections.values()
        closing.append(asyncio.create_task(connection.close()))

    async with (
        our_server() as url,
        Receiving(url, tmp_path / "to", log=Log(after(5_000_000, cut))) as receiver,
    ):
        log = await send(url, path, limit_rate=RATE)
        await receiver.done()
        await asyncio.gather(*closing)
    assert contents(tmp_path / "to") == {"f": path.read_bytes()}
    assert len(log.of(Resuming)) >= 1
    (end,) = receiver.log.of(TransferEnded)
    assert end.bytes == 20_000_000  # nothing came twice


async def test_a_receiver_that_dies_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(20_000_000))
    died = asyncio.Event()
    async with our_server() as url:
        async with Receiving(url, tmp_path / "to", log=Log(after(5_000_000, died.set))) as first:
            task = asyncio.create_task(send(url, path, retries=100, limit_rate=RATE))
            await died.wait()
            await first.peer.destroy()
        async with Receiving(url, tmp_path / "to") as second:
            log = await task
            await second.done()
    assert contents(tmp_path / "to") == {"f": path.read_bytes()}
    (end,) = second.log.of(TransferEnded)
    assert end.bytes < 20_000_000
    assert log.of(FileSent)[0].size == 20_000_000


async def test_a_sender_that_dies_goes_on_when_it_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(20_000_000))
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver:
        half = asyncio.Event()
        receiver.log.on = after(5_000_000, half.set)
        first = Sending(select_files([str(path)]), Log(), limit_rate=RATE)
        peer = a_peer(url)
        task = asyncio.create_task(send_files(peer, "rx", first, timeout=20, retries=0))
        await half.wait()
        await peer.destroy()
        with pytest.raises(PeerError):
            await task
        first.close()
        log = await send(url, path)
        await receiver.done()
    assert contents(tmp_path / "to") == {"f": path.read_bytes()}
    assert log.of(FileSent)[0].resumed_from >= 5_000_000


async def test_stdin_goes_on_after_a_lost_connection(tmp_path: Path) -> None:
    content = os.urandom(20_000_000)
    read_end, write_end = os.pipe()
    feeding = asyncio.create_task(asyncio.to_thread(feed, write_end, content))
    closing: list[asyncio.Task[None]] = []

    def cut() -> None:
        (connection,) = receiver.peer._connections.values()
        closing.append(asyncio.create_task(connection.close()))

    async with (
        our_server() as url,
        Receiving(url, tmp_path / "to", log=Log(after(5_000_000, cut))) as receiver,
    ):
        carried = Sending(select_files(["-"], name="piped"), Log(), limit_rate=RATE, stdin=read_end)
        await send_files(a_peer(url), "rx", carried, timeout=20)
        await receiver.done()
        await asyncio.gather(feeding, *closing)
        carried.close()
    os.close(read_end)
    assert contents(tmp_path / "to") == {"piped": content}


def feed(fd: int, content: bytes) -> None:
    with os.fdopen(fd, "wb") as pipe:
        pipe.write(content)


async def test_a_sender_gives_up_after_so_many_attempts(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(20_000_000))
    died = asyncio.Event()
    log = Log()
    async with (
        our_server(expire_timeout=0.2) as url,
        Receiving(url, tmp_path / "to", log=Log(after(1_000_000, died.set))) as first,
    ):
        task = asyncio.create_task(send(url, path, log=log, retries=2, limit_rate=RATE))
        await died.wait()
        await first.peer.destroy()
        with pytest.raises(PeerUnavailable):
            await task
    assert [event.attempt for event in log.of(Resuming)] == [1, 2]


async def test_a_receiver_gives_up_on_a_sender_that_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(20_000_000))
    async with our_server() as url, Receiving(url, tmp_path / "to", patience=0.2) as receiver:
        half = asyncio.Event()
        receiver.log.on = after(1_000_000, half.set)
        carried = Sending(select_files([str(path)]), Log(), limit_rate=RATE)
        peer = a_peer(url)
        task = asyncio.create_task(send_files(peer, "rx", carried, timeout=20, retries=0))
        await half.wait()
        await peer.destroy()
        with pytest.raises(ConnectionLost):
            await receiver.done()
        await asyncio.gather(task, return_exceptions=True)
        carried.close()
    assert any(name.endswith(".part") for name in os.listdir(tmp_path / "to"))


@pytest.mark.parametrize("who", ["sender", "receiver"])
async def test_who_is_interrupted_tells_the_other(tmp_path: Path, who: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(20_000_000))
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver:
        half = asyncio.Event()
        receiver.log.on = after(1_000_000, half.set)
        task = asyncio.create_task(send(url, path, limit_rate=RATE))
        await half.wait()
        interrupted, told = (task, receiver.task) if who == "sender" else (receiver.task, task)
        interrupted.cancel()
        with pytest.raises(Declined, match="cancelled"):
            await asyncio.wait_for(told, WITHIN)
        assert isinstance(
            (await asyncio.gather(interrupted, return_exceptions=True))[0], asyncio.CancelledError
        )


async def test_a_connection_that_hangs_is_taken_over_by_the_next(source: Path, tmp_path: Path) -> None:
    selection = select_files([str(source)])
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver, a_peer(url, "tx") as peer:
        hanging = await peer.connect("rx", **FILES)
        for message in Sender(selection.entries, selection.id, 0.0).outbox:
            await hanging.send(message)
        while '"more":false' not in str(await hanging.receive()):
            pass
        carried = Sending(selection, Log())
        second = await peer.connect("rx", **FILES)
        await carried.over(second)
        await second.close()
        with pytest.raises(ConnectionClosed):
            await hanging.receive()
        await receiver.done()
        carried.close()
    assert contents(tmp_path / "to/top") == contents(source)


@pytest.mark.parametrize("alive", [False, True])
async def test_a_sender_that_is_started_again_as_another_peer_goes_on(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool
) -> None:
    monkeypatch.setattr(receiving, "PROBE_TIMEOUT", 0.3)
    selection = select_files([str(source)])
    async with (
        our_server() as url,
        Receiving(url, tmp_path / "to", keep_open=True) as receiver,
        connected(url) as old,
    ):
        for message in Sender(selection.entries, selection.id, 0.0).outbox:
            await old.send(message)
        while '"more":false' not in str(await old.receive()):
            pass
        answering = asyncio.create_task(answer(old) if alive else asyncio.sleep(0))
        await send(url, source)
        await receiver.log.until(Close, 1 if alive else 2)
        assert len(receiver.inbox._transfers) == alive  # the old one has it still, or it is over
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)
    assert contents(tmp_path / "to/top") == contents(source)


async def answer(connection: DataConnection) -> None:
    async for message in connection:
        if message == control("ping"):
            await connection.send(control("pong"))


async def goodbye(connection: DataConnection, entries: list[Entry], id: str) -> None:
    """Send empty files over the connection, up to the receiver's last word."""
    sender = Sender(entries, id, 0.0)
    while True:
        for message in sender.outbox:
            await connection.send(message)
        sender.outbox.clear()
        if Finished() in sender.received(await connection.receive(), 0.0):
            return
        sender.read([Chunk(read.entry, digest=EMPTY) for read in sender.plan()])


async def test_a_sender_that_is_lost_after_the_last_word_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "LINGER", 0.1)
    (tmp_path / "f").touch()
    selection = select_files([str(tmp_path / "f")])
    async with (
        our_server() as url,
        Receiving(url, tmp_path / "to") as receiver,
        connected(url) as connection,
    ):
        await goodbye(connection, selection.entries, selection.id)
        (theirs,) = receiver.peer._connections.values()
        assert isinstance(theirs, DataConnection)
        theirs._link.end(ConnectionLost("nothing comes any more"))
        await receiver.done()
    assert receiver.log.of(TransferEnded)[0].files == 1


async def test_a_sender_that_leaves_while_the_end_is_reported_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal, or a pipe, may take our events more slowly than the sender takes its leave."""
    monkeypatch.setattr(receiving, "LINGER", 0.1)
    (tmp_path / "f").write_bytes(b"content")

    class Slow(Log):
        async def __call__(self, event: Event) -> None:
            if isinstance(event, TransferEnded):
                (theirs,) = receiver.peer._connections.values()
                await theirs.closed()
                await asyncio.sleep(0.1)  # for whoever draws conclusions from that
            await super().__call__(event)

    async with our_server() as url, Receiving(url, tmp_path / "to", log=Slow()) as receiver:
        await send(url, tmp_path / "f")
        await receiver.done()
    assert receiver.log.of(TransferEnded)[0].bytes == 7
    assert receiver.inbox.ended


async def test_a_sender_that_leaves_once_it_has_sent_all_is_not_waited_for(tmp_path: Path) -> None:
    """As a page does that is told that its file came damaged."""
    (tmp_path / "f").touch()
    selection = select_files([str(tmp_path / "f")])

    class Slow(Log):
        async def __call__(self, event: Event) -> None:
            if isinstance(event, FileFailed):
                for theirs in [*receiver.peer._connections.values()]:
                    await theirs.closed()
                await asyncio.sleep(0.1)  # for whoever draws conclusions from that
            await super().__call__(event)

    async with our_server() as url, Receiving(url, tmp_path / "to", log=Slow()) as receiver:
        async with connected(url) as connection:
            sender = Sender(selection.entries, selection.id, 0.0)
            while not (plan := sender.plan()):
                for message in sender.outbox:
                    await connection.send(message)
                sender.outbox.clear()
                sender.received(await connection.receive(), 0.0)
            sender.read([Chunk(read.entry, digest="0" * 64) for read in plan])
            for message in sender.outbox:
                await connection.send(message)
            await connection.flush()
        with pytest.raises(StorageFailed, match="not what was sent"):
            await receiver.done()
    assert receiver.log.of(TransferEnded)[0].failed == 1


async def test_a_sender_that_missed_the_last_word_may_come_back_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "PROBE_TIMEOUT", 0.3)
    (tmp_path / "f").touch()
    selection = select_files([str(tmp_path / "f")])
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver, connected(url) as hanging:
        await goodbye(hanging, selection.entries, selection.id)
        log = await send(url, tmp_path / "f", retries=0)
        await receiver.done()
    assert log.of(TransferEnded)[0].failed == 0
    assert len(receiver.log.of(TransferEnded)) == 1


async def test_a_sender_that_was_lost_is_no_reason_to_turn_another_away(source: Path, tmp_path: Path) -> None:
    """It may be the same person, with another file on the command line."""
    async with our_server() as url, Receiving(url, tmp_path / "to", single=True) as receiver:
        selection = select_files([str(source / "sub")])
        async with connected(url) as old:
            for message in Sender(selection.entries, selection.id, 0.0).outbox:
                await old.send(message)
            while '"more":false' not in str(await old.receive()):
                pass
        await receiver.log.until(Close)
        await send(url, source)
        await receiver.done()
    assert contents(tmp_path / "to/top") == contents(source)


# Many at once, and strangers ------------------------------------------------------------------


async def test_several_senders_are_taken_at_once(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) / "same" for number in range(4)]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(os.urandom(2_000_000))
    async with our_server() as url, Receiving(url, tmp_path / "to", keep_open=True):
        await asyncio.gather(*(send(url, path) for path in paths))
    assert sorted(contents(tmp_path / "to").values()) == sorted(path.read_bytes() for path in paths)
    assert set(contents(tmp_path / "to")) == {"same", "same (1)", "same (2)", "same (3)"}


async def test_while_there_is_time_for_one_others_are_turned_away(source: Path, tmp_path: Path) -> None:
    asked = asyncio.Event()
    answer = asyncio.Event()

    async def consent(offer: FilesOffered) -> bool:
        asked.set()
        await answer.wait()
        return True

    async with (
        our_server() as url,
        Receiving(url, tmp_path / "to", consent=consent, single=True, patience=0.1) as receiver,
    ):
        first = asyncio.create_task(send(url, source))
        await asked.wait()
        second = asyncio.create_task(send(url, source / "sub"))
        await receiver.log.until(FilesOffered, 2)
        answer.set()
        with pytest.raises(Declined, match="busy"):
            await second
        await first
        await receiver.done()
    assert contents(tmp_path / "to/top") == contents(source)


@pytest.mark.parametrize(
    "messages",
    [
        [b"content"],
        ["not JSON"],
        [control("hello", version=9, role="sender")],
        [control("hello", version=1, role="receiver")],
        [
            control("hello", version=1, role="sender"),
            control("offer", id="x", entries=[{"path": ["..", "x"]}]),
        ],
    ],
)
async def test_strangers_who_lie_do_not_end_the_wait(
    source: Path, tmp_path: Path, messages: list[str | bytes]
) -> None:
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver:
        async with connected(url) as connection:
            for message in messages:
                await connection.send(message)
            said = [str(message) async for message in connection]
            assert '"reason":"protocol"' in said[-1]
        await send(url, source)
        await receiver.done()
    assert contents(tmp_path / "to/top") == contents(source)
    assert not (tmp_path / "x").exists()


async def test_a_sender_who_lies_after_the_answer_ends_it(tmp_path: Path) -> None:
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver, connected(url) as connection:
        await connection.send(control("hello", version=1, role="sender"))
        await connection.send(control("offer", id="x", entries=[{"path": ["f"], "size": 5}]))
        while '"more":false' not in (said := str(await connection.receive())):
            assert "cancel" not in said
        await connection.send(control("content", parts=[[0, 0, 5, "0" * 64]]))
        await connection.send(b"123456")
        with pytest.raises(ProtocolError):
            await receiver.done()
    assert not (tmp_path / "to/f").exists()


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        (["garbage"], ProtocolError),
        ([b"content"], ProtocolError),
        ([control("hello", version=2, role="receiver")], ProtocolError),
        ([control("hello", version=1, role="receiver"), control("accept", have=[99])], ProtocolError),
        ([control("hello", version=1, role="receiver"), control("cancel", reason="storage")], StorageFailed),
    ],
)
async def test_a_receiver_who_lies_ends_it(
    source: Path, messages: list[str | bytes], error: type[PeerError]
) -> None:
    async with our_server() as url, a_peer(url, "rx") as liar:
        task = asyncio.create_task(send(url, source))
        connection = await liar.accept()
        for message in messages:
            await connection.send(message)
        with pytest.raises(error):
            await task


async def test_a_full_disk_is_told_to_both_and_gone_on_with_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(5_000_000))
    room, real = 2_000_000, os.writev

    def full(fd: int, pieces: list[memoryview]) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = os.write(fd, b"".join(pieces)[:room])
        room -= count
        return count

    async with our_server() as url:
        async with Receiving(url, tmp_path / "to") as receiver:
            monkeypatch.setattr(os, "writev", full)
            with pytest.raises(StorageFailed, match="No space"):
                await send(url, path)
            with pytest.raises(StorageFailed, match="No space"):
                await receiver.done()
            monkeypatch.setattr(os, "writev", real)
        async with Receiving(url, tmp_path / "to") as receiver:
            log = await send(url, path)
            await receiver.done()
    assert contents(tmp_path / "to") == {"f": path.read_bytes()}
    assert log.of(TransferEnded)[0].bytes == 3_000_000


async def test_a_side_that_falls_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PING_AFTER", 0.2)
    monkeypatch.setattr(transfer, "DEAD_AFTER", 1.0)
    monkeypatch.setattr(line, "WATCH", 0.1)
    (tmp_path / "f").write_bytes(b"x")
    async with our_server() as url:
        async with Receiving(url, tmp_path / "to", patience=0.1) as receiver, connected(url) as connection:
            await connection.send(control("hello", version=1, role="sender"))
            await connection.send(control("offer", id="x", entries=[{"path": ["f"], "size": 5}]))
            with pytest.raises(ConnectionLost, match="nothing was heard"):
                await receiver.done()
        async with a_peer(url, "rx") as silent:
            task = asyncio.create_task(send(url, tmp_path / "f", retries=0))
            await (await silent.accept()).send(control("hello", version=1, role="receiver"))
            with pytest.raises(ConnectionLost, match="nothing was heard"):
                await task


async def test_a_disk_that_takes_its_time_is_not_taken_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "PING_AFTER", 0.2)
    monkeypatch.setattr(transfer, "DEAD_AFTER", 0.6)
    monkeypatch.setattr(line, "WATCH", 0.1)
    monkeypatch.setattr(receiving, "QUEUE", 100_000)
    real = Incoming.apply

    def slow(self: Incoming, *arguments: Any) -> Result:
        time.sleep(0.9)
        return real(self, *arguments)

    monkeypatch.setattr(Incoming, "apply", slow)
    (tmp_path / "f").write_bytes(os.urandom(500_000))
    async with our_server() as url, Receiving(url, tmp_path / "to") as receiver:
        log = await send(url, tmp_path / "f")
        await receiver.done()
    assert log.of(Resuming) == []


async def test_a_connection_that_is_none_for_files_is_not_served(tmp_path: Path) -> None:
    inbox = Inbox(SaveDir(tmp_path / "to"), Log(), consent=yes)
    async with our_server() as url, a_peer(url, "rx") as peer, a_peer(url) as other:
        await other.connect("rx", serialization="raw")
        with pytest.raises(ProtocolError):
            await inbox.serve(await peer.accept())
    await inbox.close()


async def test_transfers_whose_senders_are_away_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "MAX_KEPT", 3)
    async with our_server() as url, Receiving(url, tmp_path / "to", keep_open=True) as receiver:
        for number in range(6):
            async with connected(url) as connection:
                await connection.send(control("hello", version=1, role="sender"))
                entry = {"path": [f"f{number}"], "size": 5}
                await connection.send(control("offer", id=f"x{number}", entries=[entry]))
                while '"more":false' not in str(await connection.receive()):
                    pass
        await receiver.log.until(Close, 6)
        assert set(receiver.inbox._transfers) == {"x3", "x4", "x5"}
