"""Peer: an id at a broker, and the connections to and from other peers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from peercli.errors import (
    AuthenticationFailed,
    ConnectionClosed,
    Disconnected,
    InvalidID,
    PeerError,
    PeerUnavailable,
    ProtocolError,
    TimedOut,
    UsageError,
)
from peercli.options import (
    DEFAULT_BROKER,
    DEFAULT_ICE_SERVERS,
    Broker,
    IceOptions,
    IceServer,
    PortRange,
    check_id,
    parse_broker,
    random_id,
    random_token,
    read_ice_servers,
)
from peercli.peer.arrivals import Arrivals
from peercli.peer.auth import Gate, no_from, unlike
from peercli.peer.broker import Event
from peercli.peer.brokers import BrokerSockets
from peercli.peer.connection import Connection, prepare
from peercli.peer.data import DataConnection
from peercli.peer.directory import list_peers
from peercli.peer.emitter import Emitter
from peercli.peer.ice import IceKeeper
from peercli.peer.media import MediaConnection, check_video_codec
from peercli.protocol.auth import Credentials
from peercli.protocol.codecs import Codec
from peercli.protocol.early import EarlyCandidates
from peercli.protocol.messages import (
    MAX_ID_LENGTH,
    MAX_LABEL_LENGTH,
    Answer,
    Candidate,
    Expire,
    Leave,
    Offer,
)
from peercli.protocol.signaling import Failed, Lost, Opened, Received
from peercli.protocol.values import check_shape
from peercli.rtc.stream import MediaStream

__all__ = ["Peer"]

C = TypeVar("C", bound=Connection)

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 30.0  # s
MAX_CONNECTIONS = 1024  # of one peer, unless told otherwise
MAX_KNOCKING = 64  # beside those: who is about to prove who it is
LISTENER_TIMEOUT = 5.0  # s that listeners have to come to their end when the peer is destroyed


class Peer(Emitter):
    """This side of every connection (peerjs `lib/peer.ts`).

        async with Peer("alice", server="http://localhost:9000/") as peer:
            conn = await peer.connect("bob")
            await conn.send("hello")

    At the end of `async with` every connection is closed, when all that was sent has arrived, and the broker
    left; after an exception, at once.

    Events: `open` (id), `connection` (DataConnection), `call` (MediaConnection), `disconnected` (id), `close`
    (), `error` (PeerError), and, beyond PeerJS, `reconnecting` (attempt, delay in seconds), `authenticated`
    (a connection that is about to open, Proven), `refused` (the id of a peer that did not prove what it
    had to, AuthenticationFailed) and `declined` (the Offer that is not wanted, or has no
    room).

    Args:
        id: who to be; by default a fresh random id, made here.
        server: the broker, as a URL or a `Broker`; or several, at all of which others can find us.
        token: what proves to the broker that the id is mine when I come back.
        ice_servers: STUN and TURN servers, as URLs, `IceServer`s, or dictionaries as browsers and PeerJS take
            them (W3C `RTCIceServer`); all of them are used. By default those that the broker offers; if it
            does not, PeerJS's.
        relay: connect only through TURN.
        secret: what both sides must prove to know, on every connection, before anything else passes.
        credentials: the same, with keys; instead of `secret`.
        port_range: the lowest and the highest local UDP port to use, for the sake of a firewall.
        interfaces: patterns of the network interfaces to use (`eth*`); by default all but the bridges of
            containers and virtual machines.
        admit: called with each offer, once its peer has proved what it has to; False declines it.
        take_calls: keep calls for `accept_call`. Otherwise those that no listener to `call` hears of are
            declined.
        max_connections: open or in the making, and as many that nobody has accepted; further offers are
            declined. Twice as many, where the others resume what seems to be open still.
        lasting: take part in sessions that others begin (`peercli.protocol.resume`).
        serializers: serializations of your own, beside PeerJS's: by name, what makes a `Codec` for one
            connection when it is called with the name. Both sides must know it.

    Raises:
        InvalidID: `id` has characters that ids cannot have.
        UsageError: a URL cannot be read.
    """

    def __init__(
        self,
        id: str | None = None,
        *,
        server: str | Broker | Sequence[str | Broker] = DEFAULT_BROKER,
        token: str | None = None,
        ice_servers: Sequence[str | IceServer | Mapping[str, Any]] | None = None,
        relay: bool = False,
        secret: str | None = None,
        credentials: Credentials | None = None,
        port_range: PortRange | None = None,
        interfaces: Sequence[str] = (),
        admit: Callable[[Offer], bool] | None = None,
        take_calls: bool = False,
        max_connections: int = MAX_CONNECTIONS,
        lasting: bool = False,
        serializers: Mapping[str, Callable[[str], Codec]] | None = None,
    ) -> None:
        super().__init__()
        self.id = check_id(id) if id is not None else random_id()
        servers = [server] if isinstance(server, str | Broker) else server
        self.brokers = tuple(
            dict.fromkeys(parse_broker(one) if isinstance(one, str) else one for one in servers)
        )
        if not self.brokers:
            raise UsageError("a peer needs a broker")
        self.token = token or random_token()
        ice = IceOptions(
            DEFAULT_ICE_SERVERS if ice_servers is None else read_ice_servers(ice_servers),
            relay,
            port_range,
            tuple(interfaces),
        )
        self._ice = IceKeeper(ice, self.brokers, self.id, self.token, asks=ice_servers is None)
        self.max_connections = max_connections
        self.lasting = lasting
        self._data_connection = partial(DataConnection, serializers=serializers)
        self._admit = admit
        self._gate = Gate(self.id, credentials or Credentials(secret=secret), self._lets_in)
        self._knocking: set[str] = set()  # connections that have not been let in, and take no room
        self._take_calls = take_calls
        self._socket: BrokerSockets | None = None
        self._opening: asyncio.Future[None] | None = None
        self._open = False
        self._destroyed = False
        self._gone = asyncio.Event()  # nothing is left but listeners
        self._connections: dict[str, Connection] = {}
        self._incoming: Arrivals[DataConnection] = Arrivals()
        self._calls: Arrivals[MediaConnection] = Arrivals()
        self._early = EarlyCandidates()
        self._tasks: set[asyncio.Task[None]] = set()

    # The broker -------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        """Whether the broker knows us, right now."""
        return self._open

    @property
    def disconnected(self) -> bool:
        """Whether we have left the broker on purpose, or were refused by it."""
        return self._opening is None

    @property
    def destroyed(self) -> bool:
        """Whether this peer can be used no more."""
        return self._destroyed

    async def start(self) -> None:
        """Register with the broker; `async with` does it for you.

        Raises:
            BrokerError: the broker cannot be reached, or failed.
            IdentityRefused: it does not let us be who we ask to be.
        """
        if self._destroyed:
            raise Disconnected("this peer has been destroyed")
        if self._socket is None:
            self._socket = BrokerSockets(self.brokers, self.id, self.token, self._on_event)
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_future()
            self._incoming.go_on()
            self._calls.go_on()
            self._socket.connect()
        opening = self._opening
        self._ice.start()
        await prepare()
        await asyncio.shield(opening)
        await self._ice.settled()

    def disconnect(self) -> None:
        """Leave the broker: nobody new can find us. Connections that are open go on, others fail."""
        if self._socket is None or self._opening is None:
            return
        self._socket.disconnect()
        self._left(Disconnected("the peer has left the broker"))

    async def reconnect(self) -> None:
        """Come back after `disconnect`, with the same id and token; raises as `start` does."""
        await self.start()

    async def check(self) -> None:
        """See now whether the broker still hears us, as after the loss of a connection; if not, come back.

        That would be noticed without this, too, within 20 s. Returns when it is known, after 3 s at most.
        """
        if self._socket is not None:
            await self._socket.check()

    async def destroy(self) -> None:
        """Leave the broker and close every connection. There is no way back.

        Listeners that are still running get 5 s to come to an end, and are cancelled then.
        """
        if self._destroyed:
            await self._gone.wait()
            return
        self._destroyed = True
        try:
            for connection in self._connections.values():
                if isinstance(connection, MediaConnection):
                    connection._stop_ringing()
            self.disconnect()
            await asyncio.gather(*(connection.close() for connection in list(self._connections.values())))
            if self._socket is not None:
                await self._socket.close()
            await self._ice.close()
            if self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            self._gone.set()
        self._refuse(Disconnected("the peer was destroyed"))
        self.emit("close")
        await self._end_listeners()

    async def _end_listeners(self) -> None:
        listeners = self._running - {asyncio.current_task()}  # it may be one of them that destroys us
        if listeners:
            _, late = await asyncio.wait(listeners, timeout=LISTENER_TIMEOUT)
            for task in late:
                task.cancel()
            await asyncio.wait(listeners)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.destroy()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await asyncio.gather(*(connection._drain() for connection in self.live))
        finally:
            await self.destroy()

    async def list_all_peers(self) -> list[str]:
        """The ids that the first broker which can be reached admits to.

        Raises:
            ServerError: the broker does not allow it, or failed.
            InvalidKey: it does not serve the key.
            NetworkError: none can be reached.
        """
        return await list_peers(self.brokers)

    def _on_event(self, event: Event) -> None:
        match event:
            case Opened():
                self._open = True
                if self._opening is not None and not self._opening.done():
                    self._opening.set_result(None)
                self.emit("open", self.id)
            case Lost(error, attempt, delay):
                was_open, self._open = self._open, False
                self.emit("error", error)
                if was_open:
                    self.emit("disconnected", self.id)
                self.emit("reconnecting", attempt, delay)
            case Failed(error):
                if self._opening is not None and self._opening.done():
                    self._refuse(error)
                self._left(error)
                self.emit("error", error)
            case Received(message):
                self._on_message(message)

    def _left(self, error: PeerError) -> None:
        was_open, self._open = self._open, False
        opening, self._opening = self._opening, None
        if opening is not None and not opening.done():
            opening.set_exception(error)
            opening.exception()
        for connection in list(self._connections.values()):
            connection._fail(Disconnected("this peer left its broker before the connection was made"))
        if was_open:
            self.emit("disconnected", self.id)

    def _refuse(self, error: PeerError) -> None:
        """Nobody new can find us: let `accept` and `accept_call` raise, once what has come is accepted."""
        self._incoming.end(error)
        self._calls.end(error)

    @property
    def ice(self) -> IceOptions:
        """How the next connection looks for a path."""
        return self._ice.options

    @property
    def credentials(self) -> Credentials:
        """What this peer can prove, and what it wants proved; may be replaced, for connections to come."""
        return self._gate.credentials

    @credentials.setter
    def credentials(self, credentials: Credentials) -> None:
        self._gate.credentials = credentials

    @property
    def place(self) -> str:
        """Where we are to be found, in words: the addresses of the brokers."""
        return " or ".join(broker.url for broker in self.brokers)

    def get_connection(self, peer: str, connection_id: str) -> Connection | None:
        """The connection or call to `peer` with this id, if it is open or in the making."""
        connection = self._connections.get(connection_id)
        return connection if connection is not None and connection.peer == peer else None

    @property
    def live(self) -> list[Connection]:
        """The connections, calls too, that are open or in the making."""
        return list(self._connections.values())

    @property
    def active(self) -> int:
        """How many connections are open or in the making."""
        return len(self._connections)

    # Connections ------------------------------------------------------------------------------

    async def connect(
        self,
        peer: str,
        *,
        label: str | None = None,
        metadata: Any = None,
        serialization: str = "binary",
        reliable: bool = True,
        session: str | None = None,
        resumes: bool = False,
        timeout: float | None = CONNECT_TIMEOUT,
    ) -> DataConnection:
        """Open a data connection to another peer.

        Args:
            peer: its id.
            label: a name for the connection; its connection id by default.
            metadata: any JSON value, for the far side to see before it accepts.
            serialization: how values become messages: binary, binary-utf8, json, raw, MsgPack, or one of
                your `serializers`.
            reliable: keep the order of messages. (PeerJS's own default is not to.)
            session, resumes: as `DataConnection` has them, once the far side takes part.
            timeout: seconds until `TimedOut`.

        Raises:
            PeerUnavailable: the broker knows no such peer.
            NegotiationFailed: no path to it worked.
            Declined: it does not want to.
            TimedOut: it did not answer in time.
            ConnectionClosed: it closed the connection at once.
            InvalidID, Disconnected, UsageError: as `dial`.
        """
        connection = self.dial(
            peer,
            label=label,
            metadata=metadata,
            serialization=serialization,
            reliable=reliable,
            session=session,
            resumes=resumes,
        )
        await self._open_in_time(connection, timeout)
        return connection

    def dial(
        self,
        peer: str,
        *,
        label: str | None = None,
        metadata: Any = None,
        serialization: str = "binary",
        reliable: bool = True,
        session: str | None = None,
        resumes: bool = False,
    ) -> DataConnection:
        """Begin a connection without waiting for it: PeerJS's own `connect`.

        Raises:
            Disconnected: this peer has left its broker.
            InvalidID: nobody can have this id.
            UsageError: it is our own id, there are too many connections, the serialization is unknown, the
                label is too long, or the metadata is no JSON.
        """
        self._check_can_reach(peer, metadata)
        if label is not None and len(label.encode(errors="replace")) > MAX_LABEL_LENGTH:
            raise UsageError(f"a label has at most {MAX_LABEL_LENGTH} bytes")
        connection_id = f"dc_{random_id()}"
        offer = Offer(
            *(peer, connection_id, "data", "", metadata, label or connection_id, reliable, serialization),
            session=session,
            resumes=resumes,
        )
        return self._adopt(self._data_connection, offer, outgoing=True)

    def _check_can_reach(self, peer: str, metadata: Any) -> None:
        if self._opening is None or self._destroyed:
            raise Disconnected("this peer has left its broker, so it cannot connect")
        if self.active >= self.max_connections:
            raise UsageError(f"this peer cannot have more than {self.max_connections} connections")
        if not 0 < len(peer) <= MAX_ID_LENGTH or not peer.isprintable():
            raise InvalidID(f"no peer has the id {peer[:80]!r}")
        if peer == self.id:
            raise UsageError("a peer cannot connect to itself")
        try:
            check_shape(metadata)
            json.dumps(metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the metadata is not JSON: {error}") from None

    async def _open_in_time(self, connection: Connection, timeout: float | None) -> None:
        """Wait until a connection is open; one that will not be is closed."""
        try:
            async with asyncio.timeout(timeout):
                await connection.opened()
        except BaseException as error:
            await connection.close()
            if not isinstance(error, TimeoutError):
                raise
            raise TimedOut(
                f"the peer {connection.peer} did not answer within {timeout:g} s",
                hint="the broker knows it, or has not said otherwise; is it busy, or gone without a word?",
            ) from None

    async def accept(self) -> DataConnection:
        """The next connection that somebody opens to us, once it is open.

        Connections are queued from the start, unless there are listeners to `connection`. May be
        cancelled without losing one.

        Raises:
            Disconnected: the peer was destroyed.
            IdentityRefused: after an outage the broker did not take us back.
        """
        return await self._incoming.take()

    def connections(self) -> AsyncIterator[DataConnection]:
        """Each connection that others open to us; ends when the peer is destroyed, raises as `accept`."""
        return aiter(self._incoming)

    # Calls ------------------------------------------------------------------------------------

    async def call(
        self,
        peer: str,
        stream: MediaStream | None = None,
        *,
        metadata: Any = None,
        sdp_transform: Callable[[str], str] | None = None,
        video_codec: str | None = None,
        bitrate: int | None = None,
        timeout: float | None = CONNECT_TIMEOUT,
    ) -> MediaConnection:
        """Call another peer, and wait until it has answered and the call stands.

        Args:
            peer: its id.
            stream: what to send; without, the call is one-way. Its tracks are stopped when the call ends.
            metadata: any JSON value, for the far side to see before it answers.
            sdp_transform: is given our session description, and gives the one to use.
            video_codec: vp8 or h264, where the far side has it.
            bitrate: bit/s of video at most; by default what its size asks for.
            timeout: seconds until `TimedOut`.

        Raises:
            PeerError: as `connect`.
        """
        connection = self.ring(
            peer,
            stream,
            metadata=metadata,
            sdp_transform=sdp_transform,
            video_codec=video_codec,
            bitrate=bitrate,
        )
        await self._open_in_time(connection, timeout)
        return connection

    def ring(
        self,
        peer: str,
        stream: MediaStream | None = None,
        *,
        metadata: Any = None,
        sdp_transform: Callable[[str], str] | None = None,
        video_codec: str | None = None,
        bitrate: int | None = None,
    ) -> MediaConnection:
        """Begin a call without waiting for its answer: PeerJS's own `call`.

        Raises:
            Disconnected: this peer has left its broker.
            InvalidID: nobody can have this id.
            UsageError: it is our own id, there are too many connections, there is no such codec, or the
                metadata is no JSON.
        """
        self._check_can_reach(peer, metadata)
        check_video_codec(video_codec)
        offer = Offer(peer, f"mc_{random_id()}", "media", "", metadata)
        connection = self._adopt(MediaConnection, offer, outgoing=True)
        connection._configure(stream, sdp_transform, video_codec, bitrate)
        return connection

    async def accept_call(self) -> MediaConnection:
        """The next call that comes, for us to `answer` or `decline`: with `take_calls`.

        May be cancelled without losing one. Raises as `accept`.
        """
        return await self._calls.take()

    def calls(self) -> AsyncIterator[MediaConnection]:
        """Each call that comes; ends when the peer is destroyed, raises as `accept_call`."""
        return aiter(self._calls)

    # Both -------------------------------------------------------------------------------------

    def _adopt(self, kind: Callable[..., C], offer: Offer, *, outgoing: bool) -> C:
        proves = self.credentials.calling if outgoing else offer.auth
        connection = kind(
            offer,
            outgoing=outgoing,
            ice=self.ice,
            signal=self._require_socket().send,
            gate=self._gate if proves else None,
        )
        connection.once("authenticated", lambda proven: self.emit("authenticated", connection, proven))
        connection.once("open", lambda: self._require_socket().settle(offer.connection_id))
        self._connections[connection.connection_id] = connection
        self._spawn(self._attend(connection))
        return connection

    async def _attend(self, connection: Connection) -> None:
        try:
            await connection._run()
        finally:
            del self._connections[connection.connection_id]
            self._knocking.discard(connection.connection_id)
            self._require_socket().forget(connection.connection_id)
            self._inherit_listeners(connection)
        error = await connection.closed()
        if not connection.outgoing and isinstance(error, AuthenticationFailed):
            self.emit("refused", connection.peer, error)

    def _on_message(self, message: object) -> None:
        match message:
            case Offer():
                self._on_offer(message)
            case Answer() | Candidate():
                connection = self.get_connection(message.peer, message.connection_id)
                if connection is not None:
                    if isinstance(message, Answer):
                        self._require_socket().settle(message.connection_id)
                    connection._handle(message)
                elif isinstance(message, Candidate):
                    self._early.keep(message)
            case Expire(peer, connection_id, declined=True, auth=auth):
                refusal = unlike(peer, wants=True) if auth else no_from(peer, self.credentials)
                for connection in self._with(peer):
                    if connection.connection_id == connection_id:
                        connection._fail(
                            refusal if connection.outgoing else ConnectionClosed("the caller hung up")
                        )
            case Expire(peer):
                error = PeerUnavailable(
                    f"no peer {peer} answers at {self.place}",
                    hint="is it running, with the same --server?",
                )
                for connection in self._with(peer):
                    connection._fail(error)
                self.emit("error", error)
            case Leave(peer):
                # PeerServer sends it when the peer's socket died under a message. A connection that is
                # open does not need the broker; PeerJS closes it, we let it live.
                for connection in self._with(peer):
                    connection._fail(PeerUnavailable(f"the peer {peer} has left"))

    def _on_offer(self, offer: Offer) -> None:
        if (known := self._connections.get(offer.connection_id)) is not None:
            if known.peer == offer.peer:  # our answer may have been lost in an outage
                self._require_socket().repeat(offer.connection_id)
            return
        if not self.lasting:
            offer = replace(offer, session=None, resumes=False)
        if not offer.auth and self.credentials.demanding:
            self._decline(offer, auth=True)
            self.emit("refused", offer.peer, unlike(offer.peer, wants=False))
            return
        has_room = self._has_room(offer)
        if offer.auth and not self._may_knock(offer):
            self._decline(offer)
            return
        if not offer.auth and not (has_room and self._wants(offer)):
            self._decline(offer)
            self.emit("declined", offer)
            return
        kind: Callable[..., Connection] = self._data_connection if offer.kind == "data" else MediaConnection
        try:
            connection = self._adopt(kind, offer, outgoing=False)
        except UsageError as error:
            self._decline(offer)
            self.emit("error", ProtocolError(f"{offer.peer} offers what cannot be taken: {error}"))
            return
        for candidate in self._early.take(offer):
            connection._handle(candidate)
        if isinstance(connection, DataConnection):
            self._introduce(connection, proves=offer.auth)
        elif isinstance(connection, MediaConnection):
            self._let_ring(connection, offer, has_room)

    def _introduce(self, connection: DataConnection, *, proves: bool) -> None:
        """Tell of a connection that has come: at once, or when it has proved what it has to."""
        connection.once("open", lambda: self._announce(connection))
        if proves:
            self._knocking.add(connection.connection_id)
            connection.once("authenticated", lambda _: self.emit("connection", connection))
        else:
            self.emit("connection", connection)

    def _announce(self, connection: DataConnection) -> None:
        if not self.listeners("connection"):
            self._incoming.put(connection)

    def _let_ring(self, call: MediaConnection, offer: Offer, has_room: bool) -> None:
        """Tell of a call that has come. Who proves who it is gets its no after that, not from the broker."""
        if not has_room:
            self._knocking.add(offer.connection_id)
            self.emit("declined", offer)
            call.decline()
        elif not self.emit("call", call):
            self._calls.put(call)

    def _has_room(self, offer: Offer) -> bool:
        if offer.kind == "media" and not self._take_calls and not self.listeners("call"):
            return False
        most = 2 * self.max_connections if offer.resumes else self.max_connections
        taken = len(self._connections.keys() - self._knocking)
        # What is resumed may not be known to be dead yet.
        return max(taken, len(self._incoming), len(self._calls)) < most

    def _may_knock(self, offer: Offer) -> bool:
        """Whether there is time for somebody who will prove who it is, perhaps only to be told no."""
        now = asyncio.get_running_loop().time()
        return len(self._knocking) < MAX_KNOCKING and self._gate.attempts.may(now, offer.peer)

    def _lets_in(self, offer: Offer) -> bool:
        """Whether we want who has proved all that was asked."""
        knocks = offer.connection_id in self._knocking
        if (knocks and not self._has_room(offer)) or not self._wants(offer):
            self.emit("declined", offer)
            return False
        self._knocking.discard(offer.connection_id)
        return True

    def _wants(self, offer: Offer) -> bool:
        try:
            return self._admit is None or self._admit(offer)
        except Exception as error:  # noqa: BLE001  it is the user's
            self.emit("error", error)
            return False

    def _decline(self, offer: Offer, *, auth: bool = False) -> None:
        self._require_socket().send(Expire(offer.peer, offer.connection_id, declined=True, auth=auth))

    def _with(self, peer: str) -> list[Connection]:
        return [connection for connection in self._connections.values() if connection.peer == peer]

    def _require_socket(self) -> BrokerSockets:
        assert self._socket is not None
        return self._socket

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
