"""The gate before every connection: who is there is proved over its channel (`peercli.protocol.auth`)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn
from weakref import WeakValueDictionary

from peercli.errors import AuthenticationFailed, ConnectionClosed, Declined, PeerError, UsageError
from peercli.protocol import auth
from peercli.protocol.attempts import Attempts
from peercli.protocol.auth import Conversation, Credentials, Proven, Session
from peercli.protocol.messages import Offer

if TYPE_CHECKING:
    from peercli.rtc.channel import Channel
    from peercli.rtc.link import Link

__all__ = ["Gate", "left", "no_from", "unlike"]

HANDSHAKE_TIMEOUT = 10.0  # s
PACE = 0.02  # s from a message to the answer: more than it takes to compute, which depends on the secret
LAST_WORD_TIMEOUT = 1.0  # s to tell the far side that it is refused


def unlike(peer: str, wants: bool) -> AuthenticationFailed:
    """The error for a far side that wants something proved where we do not, or the other way round."""
    if wants:
        return auth.failure("needs-secret", f"{peer} wants a secret, or to know our key")
    return auth.failure(
        "no-secret",
        f"{peer} has no secret set, and no key to show",
        "peercli needs the same --secret there; a PeerJS page cannot prove anything",
    )


def left(peer: str) -> AuthenticationFailed:
    """The error for a far side that closed the connection too soon."""
    return AuthenticationFailed(
        f"{peer} left before it had proved who it is", hint="has it ended? Or is somebody in between?"
    )


def no_from(peer: str, credentials: Credentials) -> PeerError:
    """The error for a far side that, so the broker says, declined: it is not believed where proof is due."""
    if credentials.demanding:
        return auth.failure("unproved", f"{peer} declined, and has not proved who it is")
    return Declined(f"the peer {peer} declined")


class Gate:
    """What a peer's connections have to pass before they are open.

    Args:
        peer_id: our own id.
        credentials: of ours.
        admit: called with the offer of each connection that somebody else opened, once all is proved.
    """

    def __init__(self, peer_id: str, credentials: Credentials, admit: Callable[[Offer], bool]) -> None:
        self.credentials = credentials
        self.attempts = Attempts()
        self._peer_id = peer_id
        self._admit = admit
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by address

    @staticmethod
    def announcement(offer: Offer) -> Offer:
        """What the broker gets to see of an offer: not the label, not the metadata."""
        return replace(offer, label=offer.connection_id, metadata=None, auth=True)

    async def call(self, link: Link, channel: Channel, offer: Offer) -> Proven:
        """Pass the far side's gate, and let it pass ours; the connection was offered by us.

        Raises:
            AuthenticationFailed: one of us did not prove what it had to.
            Declined: the far side does not want the connection.
            PeerError: the connection was lost.
        """
        ours, theirs = link.fingerprints
        session = Session(
            *(offer.kind, offer.connection_id, self._peer_id, offer.peer, ours, theirs),
            *(offer.serialization, offer.reliable),
        )
        conversation = auth.call(self.credentials, session, label=offer.label, metadata=offer.metadata)
        proven = await _Exchange(link, channel, offer.peer).hold(conversation)
        self._renew(proven)
        return proven

    async def answer(self, link: Link, channel: Channel, offer: Offer, *, wanted: bool = True) -> Proven:
        """Pass the far side's gate, and let it pass ours; the connection was offered to us.

        Args:
            wanted: otherwise it is declined, once both have proved themselves: a mere no is not believed.

        Raises as `call` does.
        """
        ours, theirs = link.fingerprints
        session = Session(
            *(offer.kind, offer.connection_id, offer.peer, self._peer_id, theirs, ours),
            *(offer.serialization, offer.reliable),
        )
        route = link.route
        address = route.remote.rpartition(":")[0] if route else ""
        exchange = _Exchange(link, channel, offer.peer)
        # One guess at a time; others of the same address wait, and are not counted as failed.
        async with self._turns.setdefault(address, asyncio.Lock()):
            now = asyncio.get_running_loop().time()
            if not self.attempts.begin(now, offer.peer, address):
                message = f"{offer.peer} has failed too often, and has to wait"
                await exchange.refuse(AuthenticationFailed(message, reason="busy"))
            conversation = auth.answer(self.credentials, session)
            self._renew(None)
            proven = await exchange.hold(conversation)
            self._renew(proven)
            self.attempts.succeed(now, offer.peer, address)
        whole = replace(offer, label=proven.label, metadata=proven.metadata, known_as=proven.name)
        if not (wanted and self._admit(whole)):
            await exchange.refuse(Declined("the connection was declined"))
        await exchange.send(proven.verdict)
        return proven

    def _renew(self, proven: Proven | None) -> None:
        """A secret that is good once has been used: by those who proved it, or by a guesser."""
        if self.credentials.once:
            secret = proven.derive("again") if proven else secrets.token_bytes()
            self.credentials = replace(self.credentials, secret=secret.hex(), once=proven is None)


class _Exchange:
    """Messages of a handshake, at a pace that says nothing about what is computed in between."""

    def __init__(self, link: Link, channel: Channel, peer: str) -> None:
        self._link = link
        self._channel = channel
        self._peer = peer
        self._due = 0.0
        self._time = asyncio.get_running_loop().time

    async def hold(self, conversation: Conversation) -> Proven:
        """Hold a conversation to its end."""
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                text = next(conversation)
                while True:
                    if text:
                        await self.send(text)
                    came = await self._channel.receive()
                    self._due = self._time() + PACE
                    text = conversation.send(came)  # type: ignore[arg-type]  # it checks that it is text
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        except (AuthenticationFailed, UsageError) as error:
            await self.refuse(error)
        except TimeoutError:
            await self.refuse(AuthenticationFailed(f"{self._peer} did not prove in time who it is"))
        except ConnectionClosed:
            raise left(self._peer) from None

    async def send(self, text: str) -> None:
        await asyncio.sleep(max(0.0, self._due - self._time()))
        await self._channel.send(text)
        if not self._channel.ordered:
            await self._channel.flush()  # else what follows could overtake it

    async def refuse(self, error: PeerError) -> NoReturn:
        """Tell the far side why there will be no connection, if that can still be told, and raise `error`."""
        self._link.doom(error)
        reason = error.reason if isinstance(error, AuthenticationFailed) else "declined"
        with suppress(PeerError, TimeoutError):
            async with asyncio.timeout(LAST_WORD_TIMEOUT):
                await self.send(auth.refusal(reason))
                await self._channel.flush()
        raise error
