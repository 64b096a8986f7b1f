"""Conversations that outlast their connections (the protocol is in `peercli.protocol.resume`)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from peercli.errors import (
    AuthenticationFailed,
    ConnectionClosed,
    ConnectionLost,
    Declined,
    Disconnected,
    IdentityRefused,
    PeerError,
    ProtocolError,
)
from peercli.options import random_id
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.protocol.messages import Offer
from peercli.protocol.resume import (
    NONCE_BYTES,
    SECRET_BYTES,
    Challenge,
    Control,
    End,
    Proof,
    Resume,
    Session,
    decode,
    encode,
    is_control,
    is_proof,
    prove,
)
from peercli.services.events import Interrupted, Redialling, Report, Resumed, RouteFound
from peercli.services.redial import pause, redial

if TYPE_CHECKING:
    from peercli.rtc.link import Route

__all__ = ["PATIENCE", "Conversation", "LastingConnection", "Sessions", "connect"]

PATIENCE = 120.0  # s that either side waits for a lost connection to come back
CLOSED_PATIENCE = 15.0  # s for one that the far side closed, without saying that this is the end
HANDSHAKE_TIMEOUT = 10.0  # s to agree where to go on
FLUSH_TIMEOUT = PATIENCE + 30.0  # s what was sent has to be taken, on the way to closing
FAREWELL_TIMEOUT = 1.0  # s to tell the peer that this is the end

C = TypeVar("C", bound=Control)


class LastingConnection:
    """What a `DataConnection` is to its user, over one connection after the other.

    Args:
        connection: the first one; it is open.
        report: told of interruptions and what is done about them.
        redial: opens another one, where that is up to this side; otherwise `replace_by` is given them.

    Attributes: those of `DataConnection`, of the first one.
    """

    def __init__(
        self,
        connection: DataConnection,
        report: Report,
        *,
        secret: str = "",
        redial: Callable[[], Awaitable[DataConnection]] | None = None,
    ) -> None:
        self.peer = connection.peer
        self.connection_id = connection.connection_id
        self.label = connection.label
        self.metadata = connection.metadata
        self.serialization = connection.serialization
        self.outgoing = connection.outgoing
        self._report = report
        self._redial = redial
        self._session = Session(secret)
        self._connection = connection
        self._replacements: asyncio.Queue[DataConnection] = asyncio.Queue()
        self._error: PeerError | None = None
        self._ended = asyncio.Event()
        self._arrived = asyncio.Event()  # something to read, or the end
        self._changed = asyncio.Event()  # anything else
        self._life = asyncio.create_task(self._run(connection))

    # As DataConnection ------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self._error is None

    @property
    def route(self) -> Route | None:
        """How packets go to the far side, for the time being."""
        return self._connection.route

    @property
    def max_message(self) -> int:
        """Bytes that the far side takes in one message of the channel."""
        return self._connection.max_message

    async def closed(self) -> PeerError:
        """Wait for the end, and say why: `ConnectionClosed` when either side closed it."""
        await self._ended.wait()
        assert self._error is not None
        return self._error

    async def send(self, value: Any) -> None:
        """Send a value; waits while too much is unacknowledged. Cancelled, it has sent nothing.

        Raises:
            PeerError: why the conversation has ended.
        """
        await self._until(lambda: self._session.room)
        self._session.push(value)
        self._changed.set()

    async def flush(self) -> None:
        """Return when the far side's application has taken everything sent so far.

        Raises:
            PeerError: why the conversation ended before that.
        """
        session, all_of_it = self._session, self._session.pushed
        session.ask()
        self._changed.set()
        await self._until(lambda: session.acknowledged >= all_of_it)

    async def _until(self, reached: Callable[[], bool]) -> None:
        while self._error is None and not reached():
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error

    async def receive(self) -> Any:
        """The next value. May be cancelled without losing one.

        Raises:
            PeerError: why the conversation has ended; what came before is returned first.
        """
        session = self._session
        while not session.unread:
            if self._error is not None:
                raise self._error
            self._arrived.clear()
            await self._arrived.wait()
        value = session.read()
        if session.ready:
            self._changed.set()
        return value

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Each value until either side closes; raises only if the conversation was broken off."""
        while True:
            try:
                value = await self.receive()
            except ConnectionClosed:
                return
            yield value

    async def close(self, *, flush: bool = False) -> None:
        """End the conversation; with `flush`, only after all that was sent has been taken.

        What has come already can still be read.
        """
        if flush:
            with contextlib.suppress(PeerError, TimeoutError):
                await asyncio.wait_for(self.flush(), FLUSH_TIMEOUT)
        self._end(ConnectionClosed("the connection is closed"))
        await asyncio.shield(self._life)

    def _end(self, error: PeerError) -> None:
        if self._error is None:
            self._error = error
        for event in (self._ended, self._arrived, self._changed):
            event.set()

    # One connection ---------------------------------------------------------------------------

    def replace_by(self, connection: DataConnection) -> None:
        """Go on over another connection, if whoever opened it turns out to be the far side."""
        self._replacements.put_nowait(connection)

    async def _run(self, connection: DataConnection) -> None:
        """From the first connection to the end of the last."""
        try:
            while True:
                replacement = await self._converse(connection)
                await connection.close()
                if self._error is None:
                    connection = await self._resume(await connection.closed(), replacement)
                elif replacement is not None:
                    connection = replacement  # only to be closed
                if self._error is not None:
                    return
        except PeerError as error:
            self._end(error)
        except Exception as fault:  # noqa: BLE001  whoever waits for this conversation must not wait for ever
            self._end(PeerError(f"a fault of peercli's own: {fault!r}"))
        finally:
            self._end(ConnectionClosed("the connection is closed"))
            self._session.discard()
            await connection.close()
            while not self._replacements.empty():
                await self._replacements.get_nowait().close()

    async def _converse(self, connection: DataConnection) -> DataConnection | None:
        """Carry messages until the connection, or the conversation, is over.

        Returns what replaces the connection, if that is there already.
        """
        self._connection = connection
        connection.on("data", self._take)
        writing = asyncio.create_task(self._write(connection))
        over = asyncio.create_task(_over(connection))
        replaced = asyncio.create_task(self._replacement())
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({over, replaced, ended}, return_when=asyncio.FIRST_COMPLETED)
            return replaced.result() if replaced.done() else None
        finally:
            connection.remove_listener("data", self._take)
            await _cancel(writing, over, replaced, ended)
            if self._error is not None and not self._session.over:
                await self._say_farewell(connection)

    def _take(self, message: object) -> None:
        session = self._session
        try:
            (self._arrived if session.arrive(message) else self._changed).set()
        except ProtocolError as error:
            self._end(error)
        if session.over:
            self._end(ConnectionClosed("the far side closed the connection"))

    async def _write(self, connection: DataConnection) -> None:
        session = self._session
        try:
            while True:
                while session.ready:
                    await connection.send(session.next())
                self._changed.clear()
                await self._changed.wait()
        except (ConnectionClosed, ConnectionLost):
            pass  # `_over` sees it too
        except PeerError as error:  # it cannot be sent; what came before can
            with contextlib.suppress(PeerError):
                await connection.flush()
            self._end(error)

    async def _say_farewell(self, connection: DataConnection) -> None:
        async def farewell() -> None:
            await connection.send(encode(End()))
            await connection.flush()

        with contextlib.suppress(PeerError, TimeoutError):
            await asyncio.wait_for(farewell(), FAREWELL_TIMEOUT)

    # From one to the next ---------------------------------------------------------------------

    async def _resume(self, error: PeerError, replacement: DataConnection | None) -> DataConnection:
        """The connection to go on over, agreed with the far side, after one that ended by `error`.

        Raises:
            PeerError: there is none, and it was waited for long enough; or the user has closed.
        """
        patience = CLOSED_PATIENCE if isinstance(error, ConnectionClosed) else PATIENCE
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        await self._report(Interrupted(self.peer, self.connection_id, error.message, patience))
        searching = asyncio.create_task(self._search(replacement))
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait(
                {searching, ended}, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED
            )
            if searching.done():
                connection = searching.result()
            elif self._error is not None:
                raise self._error
            else:
                raise ConnectionLost(
                    f"{error.message}, and did not come back within {patience:g} s",
                    hint="both sides wait that long for each other; is the peer still running?",
                )
        finally:
            await _cancel(searching, ended)
        await self._report(Resumed(self.peer, self.connection_id))
        if route := connection.route:
            await self._report(RouteFound.of(self.peer, route))
        return connection

    async def _search(self, connection: DataConnection | None) -> DataConnection:
        for attempt in itertools.count(1):
            try:
                if connection is None:
                    connection = await self._another(attempt)
                    await self._verify(connection)
                await self._agree(connection)
                return connection
            except (Declined, Disconnected, IdentityRefused) as error:
                raise ConnectionLost(
                    f"the connection was lost, and cannot be resumed: {error.message}",
                    hint="has the peer been started anew, or given up waiting?",
                ) from None
            except (PeerError, TimeoutError):
                if connection is not None:
                    await connection.close()
                connection = None
            except asyncio.CancelledError:
                if connection is not None:
                    await connection.close()
                raise
        raise AssertionError  # for mypy: there is always another attempt

    async def _another(self, attempt: int) -> DataConnection:
        if self._redial is None:
            return await self._replacements.get()
        delay = pause(attempt)
        await self._report(Redialling(self.peer, attempt, round(delay, 3)))
        await asyncio.sleep(delay)
        return await self._redial()

    async def _replacement(self) -> DataConnection:
        """A connection by which the far side resumes, although we have not missed it yet."""
        while True:
            connection = await self._replacements.get()
            try:
                await self._verify(connection)
            except (PeerError, TimeoutError):
                await connection.close()
            except asyncio.CancelledError:
                await connection.close()
                raise
            else:
                return connection

    async def _verify(self, connection: DataConnection) -> None:
        """Raises AuthenticationFailed unless this is the far side that we know."""
        secret = self._session.secret
        if not secret:
            raise AuthenticationFailed("the connection was lost before there was a secret")
        nonce, (ours, theirs) = secrets.token_hex(NONCE_BYTES), connection.fingerprints
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            await connection.send(encode(Challenge(nonce)))
            other = (await _hear(connection, Challenge)).nonce
            nonces, fingerprints = (nonce, other), (ours, theirs)
            if not self.outgoing:
                nonces, fingerprints = (other, nonce), (theirs, ours)
            await connection.send(
                encode(prove(secret, dialled=self.outgoing, nonces=nonces, fingerprints=fingerprints))
            )
            given = await _hear(connection, Proof)
        expected = prove(secret, dialled=not self.outgoing, nonces=nonces, fingerprints=fingerprints)
        if not is_proof(given, expected):
            raise AuthenticationFailed("whoever resumes the connection is not who began it")

    async def _agree(self, connection: DataConnection) -> None:
        """Tell each other where to go on."""
        async with asyncio.timeout(HANDSHAKE_TIMEOUT):
            await connection.send(encode(Resume(self._session.arrived)))
            self._session.resume((await _hear(connection, Resume)).messages)


async def _over(connection: DataConnection) -> None:
    """Return when a connection has ended, and all that came was given to its listeners."""
    await connection.closed()
    await connection.close()


async def _hear(connection: DataConnection, kind: type[C]) -> C:
    message = await connection.receive()
    control = decode(message) if isinstance(message, str) and is_control(message) else None
    if not isinstance(control, kind):
        raise ProtocolError("the peer does not resume the connection as agreed")
    return control


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


Conversation = DataConnection | LastingConnection
"""What services talk over: lasting, where both sides can."""


async def connect(
    peer: Peer, peer_id: str, report: Report, *, timeout: float | None, reconnect: bool, **options: Any
) -> Conversation:
    """Open a connection that lasts, if `reconnect` is wished and the far side takes part.

    Args:
        timeout: seconds, for the first connection.
        options: as `Peer.connect` takes them. Without order there is no resuming.

    Raises:
        PeerError: as `Peer.connect`.
    """
    if not reconnect or not options.get("reliable", True):
        return await peer.connect(peer_id, timeout=timeout, **options)
    session, secret = random_id(), secrets.token_hex(SECRET_BYTES)

    async def resume() -> DataConnection:
        connection = await redial(peer, peer_id, session=session, resumes=True, **options)
        if connection.session is None:
            await connection.close()
            raise Declined("the peer does not know it any more")
        return connection

    first = await peer.connect(peer_id, timeout=timeout, session=session, **options)
    return first if first.session is None else LastingConnection(first, report, secret=secret, redial=resume)


class Sessions:
    """The conversations that others have begun with a peer."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._live: dict[str, LastingConnection] = {}

    def admit(self, offer: Offer) -> bool:
        """Whether an offer's session is as it should be: give this to the `Peer`."""
        if offer.session is None:
            return True
        known = self._live.get(offer.session)
        if not offer.resumes:
            return known is None
        return known is not None and known.open and known.peer == offer.peer

    async def accept(self, peer: Peer) -> Conversation:
        """The next conversation that somebody begins; meanwhile, interrupted ones are resumed.

        Raises:
            PeerError: as `Peer.accept`.
        """
        while True:
            connection = await peer.accept()
            session = connection.session
            if session is None:
                return connection
            known = self._live.get(session)
            if connection.resumes and known is not None and known.open:
                known.replace_by(connection)
            elif connection.resumes or known is not None:  # it ended meanwhile, or began twice
                await connection.close()
            else:
                return self._begin(session, connection)

    def _begin(self, session: str, connection: DataConnection) -> LastingConnection:
        lasting = self._live[session] = LastingConnection(connection, self._report)
        lasting._life.add_done_callback(lambda life: self._live.pop(session))
        return lasting
