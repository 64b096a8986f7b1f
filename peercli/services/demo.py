"""demo: two peers on this machine, doing what peercli is for, and checking that it worked."""

from __future__ import annotations

import asyncio
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

from peercli.errors import BrokerError, NetworkError, StorageFailed, TimedOut
from peercli.peer.peer import Peer
from peercli.rtc.pattern import TONE_PITCH, Witness
from peercli.rtc.sinks import deliver
from peercli.rtc.sources import open_source
from peercli.services.events import Demonstrated, Event
from peercli.services.files.events import FilesOffered
from peercli.services.files.outgoing import select_files
from peercli.services.files.receiving import Inbox, is_file_offer, receive_files
from peercli.services.files.sending import Sending, send_files
from peercli.services.files.storage import SaveDir
from peercli.services.pipe import PIPE, Pipe

__all__ = ["demonstrate"]

PIPE_BYTES = 16 << 20
ALBUM_FILES = 50
CALL_SECONDS = 2.0
DEMO_TIMEOUT = 60.0  # s


async def demonstrate(broker: str) -> AsyncGenerator[Demonstrated]:
    """Run every part, and yield what happened as it happens.

    Args:
        broker: the address of a PeerServer.

    Raises:
        PeerError: a part did not work.
    """
    try:
        async with (
            asyncio.timeout(DEMO_TIMEOUT),
            Peer("demo-alice", server=broker, ice_servers=()) as alice,
            Peer("demo-bob", server=broker, ice_servers=(), take_calls=True) as bob,
        ):
            yield Demonstrated(
                f"Two peers, {alice.id} and {bob.id}, registered with the broker.",
                (f"peercli listen --server {broker} --id bob --echo",),
            )
            yield await _talk(alice, bob, broker)
            yield await _pipe(alice, bob, broker)
            yield await _files(broker)
            yield await _call(alice, bob, broker)
    except TimeoutError:
        raise TimedOut(f"the demonstration took more than {DEMO_TIMEOUT:g} s") from None
    except BrokerError as error:
        raise NetworkError(
            error.message, hint="this machine does not reach itself: is its interface lo up?"
        ) from None


async def _talk(alice: Peer, bob: Peer, broker: str) -> Demonstrated:
    messages = ["hello", 42, 2.5, None, True, [1, [2, 3]], {"name": "peercli"}, b"\x00\xff"]
    started = time.perf_counter()
    calling = await alice.connect(bob.id)
    opened = time.perf_counter() - started
    answering = await bob.accept()
    for message in messages:
        await calling.send(message)
        heard = await answering.receive()
        await answering.send(heard)
        if await calling.receive() != message:
            raise StorageFailed(f"{message!r} came back as {heard!r}")
    route = calling.route
    await calling.close(flush=True)
    way = f", straight from {route.local} to {route.remote}" if route else ""
    return Demonstrated(
        f"They connected in {opened:.2f} s{way}, and {len(messages)} messages of every type "
        "went there and back.",
        (f"peercli connect --server {broker} bob",),
    )


async def _pipe(alice: Peer, bob: Peer, broker: str) -> Demonstrated:
    source, sink = _Random(PIPE_BYTES), _Digest()
    connection = await alice.connect(bob.id, **PIPE)
    started = time.perf_counter()
    await asyncio.gather(
        Pipe(connection, source, None).run(),
        Pipe(await bob.accept(), None, sink).run(),
    )
    elapsed = time.perf_counter() - started
    if sink.digest.digest() != source.digest.digest():
        raise StorageFailed("the bytes that came out of the pipe are not the ones that went in")
    return Demonstrated(
        f"{PIPE_BYTES >> 20} MiB went through a pipe at {PIPE_BYTES / elapsed / 1e6:.0f} MB/s, with the same "
        f"SHA-256 at both ends ({sink.digest.hexdigest()[:16]}…).",
        (
            f"peercli pipe --server {broker} --id inbox > copy",
            f"head -c {PIPE_BYTES} /dev/urandom | tee original | peercli pipe --server {broker} inbox",
            "cmp original copy",
        ),
    )


async def _files(broker: str) -> Demonstrated:
    with tempfile.TemporaryDirectory(prefix="peercli-demo-") as folder:
        await asyncio.to_thread(_make_album, Path(folder) / "album")
        selection = select_files([os.path.join(folder, "album")])
        inbox = Inbox(SaveDir(os.path.join(folder, "inbox")), _unheard, consent=_yes, single=True)
        receiver = Peer("demo-inbox", server=broker, ice_servers=(), admit=is_file_offer)
        sender = Peer("demo-sender", server=broker, ice_servers=())
        receiving = asyncio.create_task(receive_files(receiver, inbox))
        sending = Sending(selection, _unheard)
        try:
            await send_files(sender, receiver.id, sending, timeout=DEMO_TIMEOUT)
            await receiving
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            sending.close()
            await inbox.close()
        same = await asyncio.to_thread(_same_trees, Path(folder) / "album", Path(folder) / "inbox" / "album")
    if not same:
        raise StorageFailed("the folder that was received is not the one that was sent")
    return Demonstrated(
        f"A folder of {ALBUM_FILES} files was sent, checked, and stands on the other side as it was.",
        (
            f"peercli receive-file --server {broker} --id inbox --save-dir here",
            "mkdir -p folder; date > folder/today",
            f"peercli send-file --server {broker} inbox folder",
        ),
    )


async def _call(alice: Peer, bob: Peer, broker: str) -> Demonstrated:
    witness = Witness()
    source = await open_source(video="test", audio="test")
    try:
        ringing = alice.ring(bob.id, source.stream())
        answering = await bob.accept_call()
        answering.answer()
        await answering.opened()
        watching = [deliver(track, [witness.take]) for track in answering.remote_stream.tracks]
        with suppress(TimeoutError):
            async with asyncio.timeout(CALL_SECONDS):
                await asyncio.gather(*watching)
        await ringing.close()
    finally:
        await source.close()
    if not witness.pictures or abs(witness.pitch / TONE_PITCH - 1) > 0.05:
        raise StorageFailed(
            f"of a call {witness.pictures} pictures came, and a tone of {witness.pitch:.0f} Hz"
        )
    width, height = witness.size
    delay = statistics.median(witness.delays)
    return Demonstrated(
        f"In a call of {CALL_SECONDS:g} s, {witness.pictures} pictures of {width}x{height} were seen, "
        f"{delay * 1000:.0f} ms after they were made, and a tone of {witness.pitch:.0f} Hz was heard.",
        (
            f"peercli call --server {broker} --id carol --video none --audio none --view",
            f"peercli call --server {broker} carol --video test --audio test",
        ),
    )


def _make_album(folder: Path) -> None:
    try:
        for number in range(ALBUM_FILES):
            path = folder / f"page {number // 10}" / f"{number}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(number * 1000))
    except OSError as error:
        raise StorageFailed(f"{folder.parent} takes no files: {error.strerror}") from None


def _same_trees(one: Path, other: Path) -> bool:
    def contents(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return contents(one) == contents(other)


async def _yes(offer: FilesOffered) -> bool:
    return True


async def _unheard(event: Event) -> None:
    pass


class _Random:
    """A source of random bytes that knows their digest."""

    def __init__(self, size: int) -> None:
        self._left = size
        self.digest = hashlib.sha256()

    async def read(self) -> bytes:
        data = os.urandom(min(self._left, 1 << 18))
        self._left -= len(data)
        self.digest.update(data)
        return data

    async def close(self) -> None:
        pass


class _Digest:
    """A sink that keeps nothing but the digest."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    async def write(self, data: bytes) -> None:
        self.digest.update(data)

    async def close(self) -> None:
        pass
