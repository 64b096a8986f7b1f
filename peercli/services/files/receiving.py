"""Files that peers bring, into one place: many at once, each over as many connections as it takes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from peercli.errors import ConnectionLost, Declined, PeerError, ProtocolError, StorageFailed
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.protocol.manifest import Entry, NameRules
from peercli.protocol.messages import Offer
from peercli.protocol.transfer import is_files
from peercli.protocol.transfer_receiver import (
    Abandon,
    Action,
    Ended,
    Finish,
    Hole,
    Offered,
    Plan,
    Receiver,
    Start,
    Write,
)
from peercli.services.chat import announce, say_closed
from peercli.services.dial import tell
from peercli.services.events import Report
from peercli.services.files.events import FileFailed, FileSaved, FileSkipped, FilesOffered, TransferEnded
from peercli.services.files.line import Line, in_thread
from peercli.services.files.progress import Meter, offer_of
from peercli.services.files.storage import Refusal, Result, Saved

__all__ = ["Inbox", "Keeping", "Place", "is_file_offer", "receive_files"]

PATIENCE = 300.0  # s to wait for a sender that was lost
QUEUE = 4 << 20  # bytes of content taken from a connection and not yet given to the disk
ENOUGH = 1 << 20  # bytes of content that are worth a way to the disk, …
GATHER = 0.005  # s … and for how long less than that waits for more
COMMIT_AFTER = 0.1  # s without content until what is whole is made safe
COMMIT_EVERY = 2.0  # s between that, at most, while content comes
CLOSE_TIMEOUT = 10.0  # s the sender has to close once all is done
LINGER = 20.0  # s to wait for a sender that was lost then, and may not know that all is done
PROBE_TIMEOUT = 1.5  # s, twice, that a sender has to show that it is alive when another wants its transfer
MAX_KEPT = 16  # transfers whose sender is away
MAX_ANSWERS = 256  # of `consent`, remembered

_Content = Start | Write | Hole | Finish | Abandon


class Keeping(Protocol):
    """Where one transfer goes: `storage.Incoming` is one. It blocks, and is called through threads."""

    saved: dict[int, Saved]

    def plan(self, stopped: threading.Event) -> Plan | Refusal: ...
    def apply(self, actions: Iterable[_Content], stopped: threading.Event) -> Result: ...
    def commit(self) -> Result: ...
    def finish(self) -> Result: ...
    def close(self) -> None: ...


class Place(Protocol):
    """Where transfers go: `storage.SaveDir` is one."""

    rules: NameRules

    def incoming(self, entries: Sequence[Entry]) -> Keeping: ...
    def close(self) -> None: ...


def is_file_offer(offer: Offer) -> bool:
    """Whether who offers this connection wants to send files, in a way that works: for `Peer(admit=…)`."""
    return offer.kind == "data" and offer.reliable and is_files(offer.metadata, offer.serialization)


async def receive_files(
    peer: Peer, inbox: Inbox, *, keep_open: bool = False, patience: float = PATIENCE
) -> None:
    """Take one transfer, by a peer that is not started yet; with `keep_open`, any number until cancelled.

    Args:
        patience: seconds to wait for the sender to come back when the connection is lost amid a transfer.

    Raises:
        Declined: the offer was declined.
        StorageFailed: not everything could be kept.
        ConnectionLost: the sender did not come back.
        PeerError: as `Peer.start` and `Peer.accept` raise.
    """
    async with peer:
        accepting = asyncio.create_task(peer.accept())
        telling: asyncio.Task[None] = asyncio.create_task(tell(peer, inbox.report, once=not keep_open))
        serving: set[asyncio.Task[bool]] = set()
        lost: PeerError | None = None
        try:
            while True:
                waiting = {accepting, telling, *serving}
                limit = None
                if lost is not None and not (serving or keep_open):
                    limit = min(patience, LINGER) if inbox.ended else patience
                done, _ = await asyncio.wait(waiting, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
                if not done and lost is not None:
                    if inbox.ended:
                        return
                    raise lost
                if telling in done:
                    telling.result()
                if accepting in done:
                    serving.add(asyncio.create_task(_attend(accepting.result(), inbox)))
                    accepting = asyncio.create_task(peer.accept())
                for task in serving & done:
                    serving.discard(task)
                    try:
                        if task.result() and not keep_open:
                            return
                    except PeerError as error:
                        stranger = isinstance(error, ConnectionLost | ProtocolError) and not inbox.began
                        if isinstance(error, ConnectionLost) and inbox.unfinished:
                            lost = error
                        elif not (keep_open or stranger):
                            raise
        finally:
            tasks = [accepting, telling, *serving]
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _attend(connection: DataConnection, inbox: Inbox) -> bool:
    """Serves one connection to its end; whether that was the end of a transfer."""
    await announce(connection, inbox.report)
    failure: PeerError | None = None
    try:
        return await inbox.serve(connection)
    except PeerError as error:
        failure = error
        raise
    finally:
        await connection.close()
        await say_closed(connection, inbox.report, failure)


@dataclass(eq=False)
class _Transfer:
    """What is kept of a transfer between its connections."""

    entries: list[Entry]
    keeping: Keeping
    meter: Meter
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    told: set[int] = field(default_factory=set)  # entries reported as saved
    session: _Session | None = None  # the one that has the turn
    received: int = 0
    ended: bool = False  # nothing is missing, whether the sender knows that or not
    closed: bool = False


class Inbox:
    """Takes what senders offer into one place.

    Args:
        consent: asked once for each transfer; the answer holds when its sender comes back amid it.
        max_size: bytes; larger offers are declined, and files of unknown size end there.
        single: take one transfer only, and turn all others away without asking.

    Attributes:
        began: whether any transfer was agreed to.
    """

    def __init__(
        self,
        place: Place,
        report: Report,
        *,
        consent: Callable[[FilesOffered], Awaitable[bool]],
        max_size: int | None = None,
        single: bool = False,
    ) -> None:
        self.report = report
        self.max_size = max_size
        self.began = False
        self._place = place
        self._consent = consent
        self._single = single
        self._asking = asyncio.Lock()
        self._agreed: dict[tuple[str, str], bool] = {}  # peer and transfer → the answer
        self._transfers: dict[str, _Transfer] = {}

    @property
    def unfinished(self) -> bool:
        """Whether there are transfers whose senders may come back."""
        return bool(self._transfers)

    @property
    def ended(self) -> bool:
        """Whether those need not come back."""
        return all(transfer.ended for transfer in self._transfers.values())

    async def serve(self, connection: DataConnection) -> bool:
        """Take one transfer, or the rest of one, over this connection, and leave it closed.

        Returns False when it was turned away because there is only time for another one.

        Raises:
            Declined: the offer was declined.
            StorageFailed: not everything could be kept.
            ConnectionLost: the connection ended before; the transfer goes on with the sender's next one.
            ProtocolError: the sender broke the protocol.
        """
        try:
            if not connection.reliable or not is_files(connection.metadata, connection.serialization):
                raise ProtocolError("this connection is not one for files")
            return await _Session(self, connection).run()
        finally:
            await connection.close()

    async def close(self) -> None:
        """Let go of all transfers; what is half there stays, to be gone on with."""
        transfers, self._transfers = self._transfers, {}
        for transfer in transfers.values():
            await self._let_go(transfer)
        self._place.close()

    # For sessions -----------------------------------------------------------------------------

    @property
    def rules(self) -> NameRules:
        return self._place.rules

    async def agree(self, name: str, offer: FilesOffered) -> bool | None:
        """Whether the offer is wanted; None when there is only time for another one."""
        async with self._asking:
            if self._single and any(
                agreed and self._is_attended(other)
                for (_, other), agreed in self._agreed.items()
                if other != name
            ):
                return None
            key = offer.peer, name
            if key not in self._agreed:
                self._agreed[key] = await self._consent(offer)
                self.began |= self._agreed[key]
                while len(self._agreed) > MAX_ANSWERS:
                    del self._agreed[next(iter(self._agreed))]
            return self._agreed[key]

    def _is_attended(self, name: str) -> bool:
        """Whether somebody is at it; a transfer whose sender was lost gives way to any other."""
        transfer = self._transfers.get(name)
        return transfer is None or transfer.turn.locked()

    async def enter(self, name: str, peer: str, entries: list[Entry]) -> _Transfer:
        """The transfer of this name, ours alone until its turn is released.

        One whose connection is lost, though we do not know that yet, is taken over from it: at once by the
        same peer, which must know; by another one (a sender that was started again) when the old is silent.
        """
        while True:
            known = self._transfers.get(name)
            if (
                known is None
                or known.entries != entries
                or (known.session is not None and not await known.session.give_way(peer))
            ):
                known = _Transfer(entries, self._place.incoming(entries), Meter(entries))
                self._transfers.setdefault(name, known)
            await known.turn.acquire()
            if not known.closed:
                return known
            known.turn.release()

    async def leave(self, name: str, transfer: _Transfer, *, over: bool) -> None:
        """Gives the turn back. A transfer that is over, or that nobody could find again, is let go of."""
        transfer.session = None
        listed = self._transfers.get(name) is transfer
        if over or not listed:
            await self._let_go(transfer)
            if listed:
                del self._transfers[name]
                self._agreed = {key: yes for key, yes in self._agreed.items() if key[1] != name or not yes}
        transfer.turn.release()
        idle = [key for key, kept in self._transfers.items() if not kept.turn.locked()]
        for key in idle[: max(0, len(self._transfers) - MAX_KEPT)]:
            await self._let_go(self._transfers.pop(key))

    async def _let_go(self, transfer: _Transfer) -> None:
        transfer.closed = True
        await asyncio.to_thread(transfer.keeping.close)


class _Session:
    """One connection of one transfer."""

    def __init__(self, inbox: Inbox, connection: DataConnection) -> None:
        self._inbox = inbox
        self._connection = connection
        self._peer = connection.peer
        self._loop = asyncio.get_running_loop()
        self._receiver = Receiver(inbox.rules, self._loop.time(), max_bytes=inbox.max_size)
        self._line = Line(connection, self._receiver)
        self._stopped = threading.Event()
        self._actions: list[Action] = []
        self._queued = 0  # bytes of content in there
        self._news = asyncio.Event()
        self._enough = asyncio.Event()
        self._room = asyncio.Event()
        self._name = ""
        self._transfer: _Transfer | None = None
        self._superseded = False
        self._turned_away = False
        self._committed = self._loop.time()
        self._dirty = False  # something may wait for a commit

    async def run(self) -> bool:
        over = True
        try:
            await self._line.run(self._take, self._work())
            return not self._turned_away
        except (ConnectionLost, asyncio.CancelledError):
            over = False
            raise
        finally:
            if self._transfer is not None:
                await self._settle_down(self._transfer, over=over)

    async def _settle_down(self, transfer: _Transfer, *, over: bool) -> None:
        """Makes safe what is whole, and gives the transfer back."""
        try:
            with contextlib.suppress(StorageFailed):
                await self._tell(await asyncio.to_thread(transfer.keeping.commit), aloud=False)
                if len(transfer.keeping.saved) == len(transfer.entries):
                    await self._end(transfer)
        finally:
            await self._inbox.leave(self._name, transfer, over=over)

    async def _take(self, message: str | bytes) -> None:
        actions = self._receiver.received(message, self._loop.time())
        self._actions += actions
        self._queued += len(message) if isinstance(message, bytes) else 0
        self._line.complete |= any(isinstance(action, Ended) for action in actions)
        if actions:
            self._news.set()
        if self._queued >= ENOUGH or any(isinstance(action, Offered | Ended) for action in actions):
            self._enough.set()
        while self._queued > QUEUE:
            self._room.clear()
            await self._room.wait()

    async def _work(self) -> None:
        while True:
            if not await self._wait():
                await self._commit()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER):
                    await self._enough.wait()
            self._enough.clear()
            actions, self._actions = self._actions, []
            self._queued = 0
            self._room.set()
            content: list[_Content] = []
            for action in actions:
                match action:
                    case Offered():
                        if not await self._answer(action):
                            return
                    case Ended():
                        await self._apply(content)
                        await self._finish()
                        return
                    case _:
                        content.append(action)
            await self._apply(content)

    async def _wait(self) -> bool:
        """Waits for something to do; False when what is whole had better be made safe first."""
        if self._superseded:
            raise ConnectionLost("the sender came back over another connection")
        if self._dirty and self._loop.time() > self._committed + COMMIT_EVERY:
            return False
        if not self._actions:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(COMMIT_AFTER if self._dirty else None):
                    await self._news.wait()
        return bool(self._actions) or not self._dirty

    async def give_way(self, peer: str) -> bool:
        """Leaves the transfer to another connection, unless the one we have is alive and of another peer."""
        if peer != self._peer and await self._is_alive():
            return False
        self._superseded = True
        self._news.set()
        if self._line.over:
            await self._connection.close()
        return True

    async def _is_alive(self) -> bool:
        """Whether the sender still answers, after what was on its way has come."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._connection.closed()
        asked = self._loop.time()
        self._receiver.ping()
        self._line.push()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._connection.closed()
        return self._connection.open and self._receiver.heard > asked

    async def _answer(self, offered: Offered) -> bool:
        """Asks whom it must, looks what is here, and answers; False when there is no time for this one."""
        offer = offer_of(self._peer, offered.entries)
        await self._inbox.report(offer)
        limit = self._inbox.max_size
        if limit is not None and offer.size > limit:
            await self._decline("too-big", f"no more than {limit:,} bytes are taken here")
            raise Declined(f"the offer of {offer.size:,} bytes was too big")
        agreed = await self._inbox.agree(offered.id, offer)
        if not agreed:
            await self._decline("declined", "" if agreed is not None else "busy with another transfer")
            self._turned_away = agreed is None
            if agreed is not None:
                raise Declined("the offer was declined")
            return False
        self._name = offered.id
        self._transfer = transfer = await self._inbox.enter(offered.id, self._peer, offered.entries)
        transfer.session = self
        plan = await in_thread(self._stopped, transfer.keeping.plan, self._stopped)
        if isinstance(plan, Refusal):
            await self._decline(plan.reason, plan.message)
            raise (Declined if plan.reason == "declined" else StorageFailed)(plan.message)
        await self._report_saved(transfer, transfer.keeping.saved.values())
        self._receiver.accept(plan, self._loop.time())
        self._line.push()
        for index, outcome in enumerate(self._receiver.outcomes):
            if outcome is not None and outcome.state == "skipped" and index not in transfer.told:
                transfer.told.add(index)
                transfer.meter.settle(index, safe=False)
                name = transfer.entries[index].name
                await self._inbox.report(FileSkipped(self._peer, name, outcome.reason, outcome.message))
        return True

    async def _decline(self, reason: str, message: str) -> None:
        self._receiver.decline(reason, message)
        await self._last_word()

    async def _apply(self, content: list[_Content]) -> None:
        wanted: list[_Content] = []
        count = 0
        for action in content:
            match action:
                case Write(_, data):
                    count += len(data)
                case Hole(_, length):
                    count += length
            outcome = self._receiver.outcomes[action.entry]
            if outcome is None or isinstance(action, Abandon):
                wanted.append(action)  # others were on their way when their file failed
        if not wanted:
            self._receiver.stored(count, self._loop.time())
            return
        transfer = self._here()
        transfer.received += count
        result = await in_thread(self._stopped, transfer.keeping.apply, wanted, self._stopped)
        now = self._loop.time()
        self._dirty = True
        self._receiver.stored(count, now)
        self._measure(transfer, wanted, now)
        await self._tell(result)
        for action in wanted:
            if isinstance(action, Abandon):
                await self._fail(action.entry, action.reason, action.message)
        await transfer.meter.tell(self._peer, self._inbox.report, now)

    def _measure(self, transfer: _Transfer, content: list[_Content], now: float) -> None:
        meter = transfer.meter
        for action in content:
            match action:
                case Start(entry, offset):
                    meter.at(entry, offset, 0, now)
                case Write(entry, data):
                    meter.at(entry, meter.position(entry) + len(data), len(data), now)
                case Hole(entry, length):
                    meter.at(entry, meter.position(entry) + length, length, now)

    async def _commit(self) -> None:
        self._dirty = False
        self._committed = self._loop.time()
        await self._tell(await in_thread(self._stopped, self._here().keeping.commit))

    async def _finish(self) -> None:
        """The sender has sent all: makes it safe, says so, and lets the sender close."""
        transfer = self._here()
        await self._tell(await in_thread(self._stopped, transfer.keeping.finish))
        self._receiver.finish()
        self._line.over = True  # both have said all they had to; what follows is for our user
        self._line.push()
        await self._end(transfer)
        last = await self._last_word()
        failed = [outcome for outcome in self._receiver.outcomes if outcome and outcome.state == "failed"]
        if failed:
            why = failed[0].message or failed[0].reason
            raise StorageFailed(f"{len(failed):,} of {len(transfer.entries):,} were not received: {why}")
        if self._superseded or isinstance(last, ConnectionLost):
            raise ConnectionLost("the sender was lost before it took leave")

    async def _end(self, transfer: _Transfer) -> None:
        """Reports how the transfer ended, once."""
        if transfer.ended:
            return
        now = self._loop.time()
        await transfer.meter.tell(self._peer, self._inbox.report, now, last=True)
        states = Counter(outcome.state for outcome in self._receiver.outcomes if outcome is not None)
        await self._inbox.report(
            TransferEnded(
                self._peer,
                files=sum(entry.kind == "file" for entry in transfer.entries),
                size=transfer.meter.done,
                bytes=transfer.received,
                skipped=states["skipped"],
                failed=states["failed"],
                seconds=transfer.meter.seconds(now),
            )
        )
        transfer.ended = True

    async def _last_word(self) -> PeerError | None:
        """Sends what is left to say, and waits for the sender to close; how it did, unless too slowly."""
        self._line.over = True
        self._line.push()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                if self._connection.open:
                    await self._line.drained()
                return await self._connection.closed()
        return None

    async def _tell(self, result: Result, *, aloud: bool = True) -> None:
        """Reports what the disk did; `aloud`, to the sender too."""
        transfer = self._here()
        if aloud and result.saved:
            self._receiver.safe(saved.entry for saved in result.saved)
        await self._report_saved(transfer, result.saved)
        for trouble in result.troubles:
            if aloud:
                self._receiver.failed(trouble.entry, trouble.reason, trouble.message)
            await self._fail(trouble.entry, trouble.reason, trouble.message)
        self._line.push()

    async def _report_saved(self, transfer: _Transfer, all_saved: Iterable[Saved]) -> None:
        for saved in [saved for saved in all_saved if saved.entry not in transfer.told]:
            transfer.told.add(saved.entry)
            transfer.meter.settle(saved.entry, safe=True)
            name = transfer.entries[saved.entry].name
            await self._inbox.report(
                FileSaved(self._peer, name, saved.path, saved.size, saved.digest, saved.resumed_from)
            )

    async def _fail(self, entry: int, reason: str, message: str) -> None:
        transfer = self._here()
        transfer.meter.settle(entry, safe=False)
        await self._inbox.report(FileFailed(self._peer, transfer.entries[entry].name, reason, message))

    def _here(self) -> _Transfer:
        if self._transfer is None:
            raise ProtocolError("the sender sent content before its offer was taken")
        return self._transfer
