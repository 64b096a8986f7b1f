"""A client's life with its broker, as a table: what may happen in each state, and what is done then.

Pure: the caller opens sockets, sends texts and passes the time in; this says when and what. One
`Signaling` outlives many sockets: after an outage it asks for a new one (same id, same token) with
capped exponential backoff and jitter, and holds what is to be sent until the id is ours again. What a
data connection in the making had been sent just before may have died with the broker: it is sent again,
unless it is known to have arrived (`settle`). Not so of calls: a page would ring a second time.

    state            event                    next       actions
    ---------------  -----------------------  ---------  ------------------------------------------
    IDLE             connect                  DIALING    Dial
    DIALING          socket_opened            GREETING   (a heartbeat, when the id was ours before)
    GREETING         OPEN                     OPEN       what was held back, Opened
    GREETING         time: reattach grace     OPEN       the same (PeerServer 1.0.2 says nothing here)
    GREETING         time: no greeting        WAITING*   Hangup, Lost
    OPEN             time: heartbeat          the same   Transmit
    OPEN             send, repeat             the same   Transmit
    GREETING, OPEN   from or about a peer     the same   Received
    GREETING, OPEN   ID-TAKEN, INVALID-KEY    IDLE       Hangup, Failed
    GREETING, OPEN   ERROR                    WAITING*   Hangup, Lost
    DIALING to OPEN  socket_lost              WAITING*   Lost
    WAITING          time: delay is over      DIALING    Dial
    WAITING          hurry                    DIALING    Dial
    IDLE, WAITING    socket_opened            the same   Hangup: it comes too late
    any              disconnect               IDLE       Hangup
    * IDLE and Failed instead, as long as the id has never been ours.

Nothing else changes anything. What is to be sent before OPEN is held back; in IDLE it is dropped, with all
that was held when it came to that.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from peercli.errors import (
    InvalidKey,
    PeerError,
    ProtocolError,
    ServerError,
    SocketClosed,
    UnavailableID,
)
from peercli.protocol import messages
from peercli.protocol.messages import BrokerMessage, PeerMessage

__all__ = [
    "Action",
    "Dial",
    "Failed",
    "Hangup",
    "Lost",
    "Opened",
    "Received",
    "Signaling",
    "State",
    "Transmit",
]

HEARTBEAT_INTERVAL = 5.0  # s; peerjs `pingInterval`
GREETING_TIMEOUT = 10.0  # s from the open socket to OPEN
REATTACH_GRACE = 1.5  # s until a silent broker is taken to have attached us again
FIRST_DELAY = 0.5  # s before the first new socket
MAX_DELAY = 30.0  # s
JITTER = 0.5  # part of a delay that is left to chance
STEADY = 30.0  # s a socket must have lived for the backoff to start afresh
MAX_HELD = 512  # messages kept during an outage; the oldest go first


class State(enum.Enum):
    IDLE = enum.auto()
    DIALING = enum.auto()
    GREETING = enum.auto()
    OPEN = enum.auto()
    WAITING = enum.auto()


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a socket."""


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send this text over the socket."""

    text: str


@dataclass(frozen=True, slots=True)
class Hangup:
    """Close the socket, if there is one."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The id is ours; `again` if it was before."""

    again: bool


@dataclass(frozen=True, slots=True)
class Received:
    """A peer, or the broker about a peer, said something."""

    message: BrokerMessage


@dataclass(frozen=True, slots=True)
class Lost:
    """The broker is out of reach; `attempt` number such will be made in `delay` seconds."""

    error: PeerError
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The broker cannot be had, or does not want us: no further attempt is made."""

    error: PeerError


Action = Dial | Transmit | Hangup | Opened | Received | Lost | Failed


class Signaling:
    """See the module's table.

    Args:
        peer_id: whom the broker shall know us as (for error texts).
        chance: a source of numbers in [0, 1), for the jitter.
    """

    def __init__(self, peer_id: str, *, chance: Callable[[], float]) -> None:
        self.state = State.IDLE
        self.ever_open = False
        self._id = peer_id
        self._chance = chance
        self._attempt = 0
        self._opened_at = 0.0
        self._deadline: float | None = None
        self._held: deque[BrokerMessage] = deque(maxlen=MAX_HELD)
        self._unsettled: deque[PeerMessage] = deque(maxlen=MAX_HELD)  # sent, and perhaps lost

    def deadline(self) -> float | None:
        """When `tick` is due; None if only an event can change anything."""
        return self._deadline

    def connect(self) -> list[Action]:
        """Start, or start again after `disconnect` or `Failed`."""
        if self.state is not State.IDLE:
            return []
        self.state, self._attempt = State.DIALING, 0
        return [Dial()]

    def hurry(self) -> list[Action]:
        """Dial now, if a delay is being waited for: somebody needs the broker."""
        if self.state is not State.WAITING:
            return []
        self.state, self._deadline = State.DIALING, None
        return [Dial()]

    def disconnect(self) -> list[Action]:
        """Leave the broker, and stay away."""
        return self._rest(Hangup())

    def socket_opened(self, now: float) -> list[Action]:
        """The socket asked for by `Dial` is there."""
        if self.state is not State.DIALING:
            return [Hangup()] if self.state in (State.IDLE, State.WAITING) else []
        self.state = State.GREETING
        if not self.ever_open:
            self._deadline = now + GREETING_TIMEOUT
            return []
        # A heartbeat at once: where the broker kept us, only this shows it that we live.
        self._deadline = now + REATTACH_GRACE
        return [Transmit(messages.encode(messages.Heartbeat()))]

    def socket_lost(self, error: PeerError, now: float) -> list[Action]:
        """The socket could not be opened, or has ended."""
        if self.state in (State.IDLE, State.WAITING):
            return []
        return self._lost(error, now)

    def received(self, text: str | bytes, now: float) -> list[Action]:
        """A text came over the socket; one that breaks the protocol is passed over.

        Raises:
            ProtocolError: for the caller to log; the state is unchanged.
        """
        if self.state not in (State.GREETING, State.OPEN):
            return []
        match messages.decode(text):
            case None:
                return []
            case messages.Open():
                return self._open(now) if self.state is State.GREETING else []
            case messages.IdTaken():
                return self._rest(
                    Hangup(),
                    Failed(
                        UnavailableID(
                            f"the id {self._id} is taken",
                            hint="another session holds it, and the same --token would take it over; "
                            "if that session has died, it is freed within a minute",
                        )
                    ),
                )
            case messages.InvalidKey():
                wrong = InvalidKey(
                    "the broker does not serve this key", hint="is the ?key= of --server right?"
                )
                return self._rest(Hangup(), Failed(wrong))
            case messages.BrokerError(reason):
                return [Hangup(), *self._lost(ServerError(f"the broker refused: {reason}"), now)]
            case message:
                return [Received(message)]

    def send(self, message: BrokerMessage) -> list[Action]:
        """Send now, or as soon as the id is ours (again).

        Raises:
            ProtocolError: the message is too long for a broker.
        """
        text = messages.encode(message)
        if len(text) > messages.MAX_MESSAGE_LENGTH:
            raise ProtocolError(f"a message of {len(text)} characters is too long for a broker")
        if self.state is State.OPEN:
            return [self._transmit(message)]
        if self.state is not State.IDLE:
            self._held.append(message)
        return []

    def settle(self, connection_id: str) -> None:
        """What was sent for this connection has arrived, and need not be sent again."""
        kept = [message for message in self._unsettled if message.connection_id != connection_id]
        self._unsettled = deque(kept, MAX_HELD)

    def forget(self, connection_id: str) -> None:
        """Drop what is held back for a connection that has ended meanwhile: nobody shall answer it."""
        self.settle(connection_id)
        kept = [message for message in self._held if _connection_of(message) != connection_id]
        self._held = deque(kept, MAX_HELD)

    def repeat(self, connection_id: str) -> list[Action]:
        """Send again what was sent for this connection: the far side seems not to have it."""
        again = [message for message in self._unsettled if message.connection_id == connection_id]
        return [Transmit(messages.encode(message)) for message in again]

    def _transmit(self, message: BrokerMessage) -> Transmit:
        if isinstance(message, PeerMessage) and message.kind == "data":
            self._unsettled.append(message)
        return Transmit(messages.encode(message))

    def tick(self, now: float) -> list[Action]:
        """Do what is due by now."""
        if self._deadline is None or now < self._deadline:
            return []
        self._deadline = None
        match self.state:
            case State.WAITING:
                self.state = State.DIALING
                return [Dial()]
            case State.GREETING if self.ever_open:
                return self._open(now)
            case State.GREETING:
                return [Hangup(), *self._lost(SocketClosed("the broker did not greet us"), now)]
            case _:  # OPEN: the others have no deadline
                self._deadline = now + HEARTBEAT_INTERVAL
                return [Transmit(messages.encode(messages.Heartbeat()))]

    def _open(self, now: float) -> list[Action]:
        again, self.ever_open = self.ever_open, True
        self.state = State.OPEN
        self._opened_at = now
        self._deadline = now + HEARTBEAT_INTERVAL
        held = [self._transmit(message) for message in self._held]
        self._held.clear()
        return [*held, Opened(again)]  # in this order: who hears Opened may have more to say

    def _lost(self, error: PeerError, now: float) -> list[Action]:
        if not self.ever_open:
            return self._rest(Failed(error))
        if self.state is State.OPEN and now - self._opened_at >= STEADY:
            self._attempt = 0
        delay = min(FIRST_DELAY * 2.0 ** min(self._attempt, 16), MAX_DELAY)  # a float ends at 2 ** 1024
        delay *= 1 - JITTER * self._chance()
        self._attempt += 1
        self._held = deque([*self._unsettled, *self._held], MAX_HELD)
        self._unsettled.clear()
        self.state = State.WAITING
        self._deadline = now + delay
        return [Lost(error, self._attempt, delay)]

    def _rest(self, *actions: Action) -> list[Action]:
        self.state = State.IDLE
        self._deadline = None
        self._held.clear()
        self._unsettled.clear()
        return list(actions)


def _connection_of(message: BrokerMessage) -> str | None:
    return message.connection_id if isinstance(message, PeerMessage) else None
