"""One client's WebSocket, as the realm's link: bounded both ways, and watched for silence."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import perf_counter
from typing import Any, Protocol

from peercli.server.frames import FrameError, FrameReader, Opcode, close_frame, frame, head
from peercli.server.options import Limits

__all__ = ["Owner", "Socket"]

NORMAL_CLOSURE = 1000
_CONTINUATION, _TEXT, _CLOSE, _PING, _PONG = (
    int(opcode) for opcode in (Opcode.CONTINUATION, Opcode.TEXT, Opcode.CLOSE, Opcode.PING, Opcode.PONG)
)
_ping = frame(Opcode.PING, b"")


class Owner(Protocol):
    """Whom the sockets belong to."""

    limits: Limits

    def pay(self, socket: Socket, count: int, size: int) -> bool:
        """`count` messages of `size` bytes together are to be handled; False if some would have to wait."""

    def charge(self, socket: Socket, size: int) -> float:
        """A message of `size` bytes is to be handled; the seconds it has to wait until it is paid for."""

    def received(self, socket: Socket, data: bytes) -> None:
        """A message: text, or bytes that stand for it."""

    def unsent(self, socket: Socket) -> None:
        """There is something to send: `flush` is to be called at the end of this turn of the loop."""

    def handled(self, count: int, begun: float) -> None:
        """So many messages, whose reading began at `begun` (perf_counter), have been passed on."""

    def leaving(self, socket: Socket) -> None:
        """It is about to end: what is sent to it from now on is lost."""

    def lost(self, socket: Socket) -> None:
        """The connection has ended. Called once."""


class Socket(asyncio.Protocol):
    """Sends without waiting: what the far side does not take in time piles up in the transport, to a limit.

    What is sent within one turn of the event loop leaves in one piece: the kernel takes longer for a call
    than Python for a message.

    A peer that falls silent is pinged, and dropped when it stays so: its network is gone. `check` is to be
    called every now and then for that.
    """

    __slots__ = (
        "_answered",
        "_deaf",
        "_frames",
        "_held",
        "_loop",
        "_owner",
        "_pinged_at",
        "_timer",
        "_unsent",
        "_unsent_size",
        "address",
        "closing",
        "heard_at",
        "name",
        "peer_id",
        "tenant",
        "transport",
    )

    def __init__(
        self,
        owner: Owner,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        address: str,
        name: str,
    ) -> None:
        self._owner = owner
        self._loop = loop
        self.transport = transport
        self.address = address
        """Who it is, as far as limits are concerned."""
        self.name = name
        """Another one for every socket."""
        self.peer_id = ""
        """Who it says it is."""
        self.tenant: Any = None
        """Where it belongs: its owner's own."""
        self.closing = False
        """Whether it is about to end."""
        self.heard_at = loop.time()
        self._frames = FrameReader(owner.limits.max_message)
        self._unsent: list[bytes] = []  # leaves at the end of this turn of the loop
        self._unsent_size = 0
        self._held: list[tuple[int, bytes]] = []  # wait to be paid for; nothing is read meanwhile
        self._deaf = False  # what comes is not read any more
        self._pinged_at: float | None = None  # since then nothing came
        self._answered: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None  # the end of a pause, or of the closing handshake

    # Out ------------------------------------------------------------------------------------------

    def send(self, data: bytes, opcode: int = _TEXT) -> bool:
        """Send a frame; False when too much waits already. After `close` nothing is sent any more."""
        if self.closing:
            return True
        size = len(data)
        waiting = self._unsent_size + self.transport.get_write_buffer_size()
        if waiting + size > self._owner.limits.max_outbox:
            return False
        if not self._unsent:
            self._owner.unsent(self)
        self._unsent += (head(opcode, size), data)
        self._unsent_size += size
        return True

    def flush(self) -> None:
        """Write what has gathered."""
        if self._unsent:
            self.transport.write(b"".join(self._unsent))
            self._unsent.clear()
            self._unsent_size = 0

    def close(self, code: int, reason: str) -> None:
        """Say goodbye after all that was sent, and give the far side `close_timeout` to say it, too.

        The connection is not closed before: Firefox would take what it was sent last, and has not looked at
        yet, for lost.
        """
        if self.closing:
            return
        self._unsent.append(close_frame(code, reason))
        self.flush()
        self.closing = True
        self._owner.leaving(self)
        if self._timer is not None:
            self._timer.cancel()
            self._held.clear()
            self.transport.resume_reading()
        self._timer = self._loop.call_later(self._owner.limits.close_timeout, self.transport.abort)

    def abort(self) -> None:
        """Drop the connection without a word."""
        self.closing = True
        self._owner.leaving(self)
        self._unsent.clear()
        self.transport.abort()

    # In -------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        begun = perf_counter()  # finer than the loop's own time
        self.heard_at = self._loop.time()
        self._pinged_at = None
        if self._answered is not None:
            self._answered.set()
        if self._deaf:
            return
        try:
            messages = self._frames.feed(data)
        except FrameError as error:
            self._deaf = True
            self.close(error.code, error.reason)
            return
        if self._held:  # TLS hands over what it had decrypted, paused or not
            self._held += messages
        elif messages:
            count = len(messages)
            self._take(messages, count if self._owner.pay(self, count, len(data)) else 0)
            self._owner.handled(count, begun)

    def connection_lost(self, error: Exception | None) -> None:
        self._deaf = True
        self._unsent.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._answered is not None:
            self._answered.set()
        self._owner.lost(self)

    def _take(self, messages: list[tuple[int, bytes]], paid: int = 0) -> None:
        for at, (opcode, payload) in enumerate(messages):
            if at >= paid and (delay := self._owner.charge(self, len(payload))) and not self.closing:
                # Its own connection fills up meanwhile, and stops it; nothing is lost.
                self._held = messages[at:]
                self.transport.pause_reading()
                self._timer = self._loop.call_later(delay, self._resume)
                return
            if opcode < _CLOSE:
                if opcode != _CONTINUATION and not self.closing:
                    self._owner.received(self, payload)
            elif opcode == _PING:
                if not self.send(payload, _PONG):
                    self.abort()
            elif opcode == _CLOSE:
                self._deaf = True
                self.close(int.from_bytes(payload[:2], "big") or NORMAL_CLOSURE, "")
                self.transport.close()
                return

    def _resume(self) -> None:
        self._timer = None
        self.heard_at = self._loop.time()  # its silence was ours
        held, self._held = self._held, []
        self.transport.resume_reading()
        self._take(held, paid=1)

    # Silence --------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Ping a silent peer, drop one that has not answered."""
        if self._held or self.closing:
            return
        limits = self._owner.limits
        if self._pinged_at is None:
            if now - self.heard_at >= limits.ping_interval:
                self._pinged_at = now
                self.transport.write(_ping)
        elif now - self._pinged_at >= limits.ping_timeout:
            self.abort()

    @property
    def paused(self) -> bool:
        """Whether it is kept waiting, since it sends too much."""
        return bool(self._held)

    async def probe(self) -> bool:
        """Is the peer still there? Asks, and waits `probe_timeout` seconds for a sign of life or the end."""
        if self._held:
            return True
        if self._answered is None:
            self._answered = asyncio.Event()
            self.transport.write(_ping)
        answered = self._answered
        with suppress(TimeoutError):
            async with asyncio.timeout(self._owner.limits.probe_timeout):
                await answered.wait()
        self._answered = None
        return answered.is_set()
