"""A peer's lines to all its brokers at once, which together behave as one line.

We are registered at every broker of the list, so that two peers meet wherever both can be, nothing has to be
taken over when one broker dies, and one that comes back serves again. An offer goes to all of them; whichever
the answer comes by carries the rest. That a peer is unknown counts once they all say so.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from peercli.errors import IdentityRefused, PeerError
from peercli.options import Broker
from peercli.peer.broker import BrokerSocket, Event
from peercli.protocol.messages import Answer, BrokerMessage, Candidate, Expire, Leave, Offer
from peercli.protocol.signaling import Failed, Lost, Opened, Received

__all__ = ["BrokerSockets"]

logger = logging.getLogger(__name__)

RETRY_DELAY = 30.0  # s between attempts to reach a broker that has never answered, while others do


@dataclass(slots=True)
class _Call:
    """A connection in the making, as far as the brokers matter.

    Attributes:
        peer: the far side.
        line: by which we last heard of it; None as long as nobody has answered our offer.
        unknown: the lines whose brokers do not know the peer.
    """

    peer: str
    line: int | None = None
    unknown: set[int] = field(default_factory=set)


class BrokerSockets:
    """See the module.

    Args:
        on_event: called from the event loop with what the peer has to know: `Opened` with the first line,
            `Lost` with the last, `Failed` when there is none to be had, or one of them refuses our id.
    """

    def __init__(
        self, brokers: Sequence[Broker], peer_id: str, token: str, on_event: Callable[[Event], None]
    ) -> None:
        self._brokers = brokers
        self._on_event = on_event
        self._lines = [
            BrokerSocket(broker, peer_id, token, functools.partial(self._heard, number))
            for number, broker in enumerate(brokers)
        ]
        self._open: set[int] = set()
        self._down: set[int] = set()  # not open, nor on its first way there
        self._failed: dict[int, PeerError] = {}
        self._ever_open = False
        self._calls: dict[str, _Call] = {}
        self._retries: dict[int, asyncio.TimerHandle] = {}

    def connect(self) -> None:
        """Dial all, unless that is done already."""
        self._failed.clear()
        for line in self._lines:
            line.connect()

    def disconnect(self) -> None:
        """Hang up, and stay away until `connect`."""
        for retry in self._retries.values():
            retry.cancel()
        self._retries.clear()
        self._open.clear()
        self._down.clear()
        self._ever_open = False
        for line in self._lines:
            line.disconnect()

    def send(self, message: BrokerMessage) -> None:
        """Send, or keep for as long as the brokers are away.

        Raises:
            ProtocolError: the message is too long for a broker.
        """
        for number in self._lines_for(message):
            self._lines[number].send(message)

    def _lines_for(self, message: BrokerMessage) -> Sequence[int]:
        everywhere = range(len(self._lines))
        if isinstance(message, Offer):
            self._calls[message.connection_id] = _Call(message.peer)
            return everywhere
        if not isinstance(message, Answer | Candidate | Expire) or message.connection_id is None:
            return everywhere
        call = self._calls.get(message.connection_id)
        if isinstance(message, Expire):  # with which we are done
            self._calls.pop(message.connection_id, None)
        if call is None or call.line is None:
            return everywhere
        return [call.line if call.line in self._open else min(self._open, default=call.line)]

    def settle(self, connection_id: str) -> None:
        """What was sent for this connection has arrived: do not send it again after an outage."""
        for line in self._lines:
            line.settle(connection_id)

    def repeat(self, connection_id: str) -> None:
        """Send again what was sent for this connection, by whichever broker."""
        for line in self._lines:
            line.repeat(connection_id)

    def forget(self, connection_id: str) -> None:
        """Do not tell anybody any more of a connection that has ended."""
        self._calls.pop(connection_id, None)
        for line in self._lines:
            line.forget(connection_id)

    async def check(self) -> None:
        """See which brokers still hear us, and dial the others again; returns when that is known."""
        await asyncio.gather(*(line.check() for line in self._lines))

    async def close(self) -> None:
        """Hang up and free everything."""
        self.disconnect()
        await asyncio.gather(*(line.close() for line in self._lines))

    # What comes ---------------------------------------------------------------------------------

    def _heard(self, number: int, event: Event) -> None:
        match event:
            case Opened():
                self._opened(number)
            case Lost(error):
                self._open.discard(number)
                if not self._open:
                    self._on_event(event)
                else:
                    logger.warning("%s", error)
                self._is_down(number)
            case Failed(IdentityRefused()):
                self.disconnect()
                self._on_event(event)
            case Failed(error):
                self._not_there(number, error)
            case Received(message):
                self._received(number, message, event)

    def _opened(self, number: int) -> None:
        self._failed.pop(number, None)
        self._down.discard(number)
        first, again = not self._open, self._ever_open
        self._open.add(number)
        self._ever_open = True
        if first:
            self._on_event(Opened(again))

    def _not_there(self, number: int, error: PeerError) -> None:
        """A broker has never answered; that matters as long as no other has."""
        self._failed[number] = error
        if not self._ever_open and len(self._failed) == len(self._lines):
            failure = self._all_failed()
            self.disconnect()
            self._on_event(Failed(failure))
            return
        logger.warning("%s", error)
        loop = asyncio.get_running_loop()
        self._retries[number] = loop.call_later(RETRY_DELAY, self._lines[number].connect)
        self._is_down(number)

    def _all_failed(self) -> PeerError:
        first = self._failed[0]
        if len(self._lines) == 1:
            return first
        reasons = "; ".join(self._failed[number].message for number in range(len(self._lines)))
        return type(first)(f"no broker can be had: {reasons}", hint=first.hint)

    def _received(self, number: int, message: BrokerMessage, event: Received) -> None:
        match message:
            case Offer(peer, connection_id):
                call = self._calls.get(connection_id)
                if call is None:
                    self._calls[connection_id] = _Call(peer, number)
                    self._on_event(event)
                elif call.peer == peer and call.line is not None:
                    call.line = number  # the same offer by another broker, or again after an outage
                    self._on_event(event)
            case Answer(peer, connection_id) | Candidate(peer, connection_id):
                call = self._calls.get(connection_id)
                if call is not None and call.peer == peer:
                    call.line = number
                self._on_event(event)
            case Expire(peer, declined=False) | Leave(peer):
                self._unknown(number, peer, event)
            case _:
                self._on_event(event)

    def _unknown(self, number: int, peer: str, event: Received) -> None:
        """A broker does not know a peer; pass it on unless another may."""
        calls = [call for call in self._calls.values() if call.peer == peer]
        for call in calls:
            call.unknown.add(number)
        if all(call.line == number or (call.line is None and self._is_hopeless(call)) for call in calls):
            self._on_event(event)

    def _is_down(self, number: int) -> None:
        """A line is gone; whoever was asked for by it, and is unknown elsewhere, is not to be had."""
        self._down.add(number)
        lost = {call.peer for call in self._calls.values() if call.line is None and self._is_hopeless(call)}
        for peer in lost:
            self._on_event(Received(Expire(peer)))

    def _is_hopeless(self, call: _Call) -> bool:
        return bool(call.unknown) and call.unknown | self._down >= set(range(len(self._lines)))
