"""Secrets and keys between peers, with a broker, peers and a network that are not on our side."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from peercli.errors import AuthenticationFailed, Declined, PeerError
from peercli.options import IceOptions
from peercli.peer import auth
from peercli.peer.data import DataConnection
from peercli.peer.peer import Peer
from peercli.protocol import auth as auth_protocol
from peercli.protocol.attempts import MAX_A_MINUTE
from peercli.protocol.auth import Credentials, Identity
from peercli.rtc.channel import Channel
from peercli.rtc.link import Link
from peercli.rtc.media import MediaStats
from tests.brokers import our_server
from tests.peer.hostile import Broker, Mallory, hostile
from tests.peer.peers import event, make, pair, payload, until
from tests.tracks import stream

SECRET = "correct horse"
PLAIN = "the plaintext"
BOTH: dict[str, Any] = {"secret": SECRET}


async def outcomes(url: str, *, alice: Any = BOTH, bob: Any = BOTH) -> tuple[PeerError, PeerError]:
    """What Alice and Bob are told when she cannot connect."""
    async with asyncio.timeout(30), make("alice", url, **alice) as here, make("bob", url, **bob) as there:
        refused = asyncio.create_task(event(there, "refused"))
        opened: list[DataConnection] = []
        there.on("connection", opened.append)
        with pytest.raises(PeerError) as told:
            await here.connect("bob", label=PLAIN, metadata=PLAIN)
        _, error = await refused
        assert not opened, "nobody hears of a connection that was not proved"
        return told.value, error


# Honest brokers -------------------------------------------------------------------------------


@pytest.mark.parametrize("serialization", ["binary", "raw", "json", "MsgPack"])
@pytest.mark.parametrize("reliable", [True, False])
async def test_a_secret_that_both_know(serialization: str, reliable: bool) -> None:
    async with our_server() as url, make("alice", url, **BOTH) as alice, make("bob", url, **BOTH) as bob:
        here = await alice.connect(
            "bob", label="label", metadata=[1], serialization=serialization, reliable=reliable
        )
        there = await bob.accept()
        assert (there.label, there.metadata, there.serialization) == ("label", [1], serialization)
        assert here.proven is not None
        assert there.proven is not None
        assert here.proven.session_key == there.proven.session_key
        for sender, receiver in ((here, there), (there, here)):
            await sender.send("text")
            assert await receiver.receive() == "text"


@pytest.mark.parametrize(
    ("alice", "bob"),
    [
        ({"secret": "wrong"}, BOTH),
        (BOTH, {}),
        ({}, BOTH),
    ],
    ids=["another", "none there", "none here"],
)
async def test_both_are_told_that_the_secret_is_not_the_same(alice: Any, bob: Any) -> None:
    async with our_server() as url:
        assert [type(error) for error in await outcomes(url, alice=alice, bob=bob)] == [
            AuthenticationFailed
        ] * 2


async def test_each_connection_has_certificates_of_its_own() -> None:
    async with our_server() as url, make("alice", url, **BOTH) as alice, make("bob", url, **BOTH):
        pairs = [(await alice.connect("bob")).fingerprints for _ in range(3)]
        assert len({fingerprint for pair in pairs for fingerprint in pair}) == 6


async def test_keys_that_know_each_other() -> None:
    lap, desk = Identity(), Identity()
    for known, kind in ((lap, None), (Identity(), AuthenticationFailed)):
        alice = Credentials(identity=lap, known={"desk": desk.public}, strict=True)
        bob = Credentials(identity=desk, known={"lap": known.public}, strict=True)
        async with (
            our_server() as url,
            make("alice", url, credentials=alice) as here,
            make("bob", url, credentials=bob) as there,
        ):
            if kind is None:
                connection = await here.connect("bob")
                assert connection.proven is not None
                assert connection.proven.name == "desk"
                proven = (await there.accept()).proven
                assert proven is not None
                assert proven.name == "lap"
            else:
                with pytest.raises(kind):
                    await here.connect("bob")


async def test_who_is_admitted_is_asked_with_all_that_was_proved() -> None:
    asked: list[Any] = []

    def admit(offer: Any) -> bool:
        asked.append((offer.label, offer.metadata, offer.peer))
        return False

    async with (
        our_server() as url,
        make("alice", url, **BOTH) as alice,
        make("bob", url, admit=admit, **BOTH),
    ):
        with pytest.raises(Declined):
            await alice.connect("bob", label="label", metadata=1)
    assert asked == [("label", 1, "alice")]


async def test_a_page_that_can_prove_nothing_is_turned_away() -> None:
    async with hostile(Broker()) as (broker, url), make("bob", url, **BOTH) as bob:
        refused = asyncio.create_task(event(bob, "refused"))
        link = Link(IceOptions(), on_candidate=lambda candidate: None)
        offer = payload("dc_page", await link.offer("dc_page", ordered=False))
        await broker.deliver({"type": "OFFER", "src": "page", "dst": "bob", "payload": offer})
        assert (await refused)[0] == "page"
        await link.close()


async def test_a_secret_that_is_good_once() -> None:
    """Those two who had it can come back; nobody else can, nor keep them from it."""
    once = Credentials("a code", once=True)
    async with (
        our_server() as url,
        make("alice", url, credentials=once) as alice,
        make("late", url, credentials=once) as late,
        make("bob", url, credentials=once),
    ):
        for _ in range(2):
            await (await alice.connect("bob")).close()
            with pytest.raises(AuthenticationFailed):
                await late.connect("bob")


async def test_a_wrong_guess_spends_a_secret_that_is_good_once() -> None:
    once = Credentials("a code", once=True)
    async with (
        our_server() as url,
        make("guesser", url, secret="a guess") as guesser,
        make("alice", url, credentials=once) as alice,
        make("bob", url, credentials=once),
    ):
        for unlucky in (guesser, alice):
            with pytest.raises(AuthenticationFailed):
                await unlucky.connect("bob")


# Guessing -------------------------------------------------------------------------------------


async def test_guessing_at_full_speed_is_bounded() -> None:
    reasons: list[str] = []
    async with our_server() as url, make("bob", url, **BOTH) as bob:
        bob.on("refused", lambda peer, error: reasons.append(error.reason))

        async def guess(number: int) -> None:
            async with make(f"guesser-{number}", url, secret=f"guess {number}") as guesser:
                with pytest.raises(AuthenticationFailed):
                    await guesser.connect("bob")

        for start in range(0, 2 * MAX_A_MINUTE, 8):
            await asyncio.gather(*(guess(number) for number in range(start, start + 8)))
    assert 0 < reasons.count("secret") <= MAX_A_MINUTE
    assert set(reasons) == {"secret", "busy"}


async def test_answers_are_paced_whatever_is_computed() -> None:
    times: dict[bool, list[float]] = {}
    clock = asyncio.get_running_loop().time

    class Timer(Mallory):
        def change(self, source: str, message: bytes | str) -> Iterator[bytes | str]:
            times.setdefault(source == "alice", []).append(clock())
            yield message

    async with hostile(Timer()) as (_, url):
        await outcomes(url)
    assert times[False][0] - times[True][0] >= auth.PACE, "no answer leaves before its time"


# Hostile brokers ------------------------------------------------------------------------------


async def test_without_a_secret_the_one_in_the_middle_reads_all() -> None:
    """The attack works, so that what follows means something."""
    async with hostile(Mallory()) as (mallory, url), make("alice", url) as alice, make("bob", url) as bob:
        here = await alice.connect("bob", serialization="raw", metadata=PLAIN)
        await here.send(PLAIN)
        assert await (await bob.accept()).receive() == PLAIN
        assert PLAIN in mallory.seen
        assert PLAIN in str(mallory.heard)


def saw_nothing(mallory: Broker) -> None:
    assert PLAIN not in str(mallory.heard)
    assert PLAIN not in str(getattr(mallory, "seen", ""))


LAP, DESK = Identity(), Identity()
KEYS = {
    "alice": {"credentials": Credentials(identity=LAP, known={"desk": DESK.public}, strict=True)},
    "bob": {"credentials": Credentials(identity=DESK, known={"lap": LAP.public}, strict=True)},
}


@pytest.mark.parametrize("means", [{}, KEYS], ids=["secret", "keys"])
async def test_swapped_fingerprints(means: Any) -> None:
    async with hostile(Mallory()) as (mallory, url):
        errors = await outcomes(url, **means)
        assert [type(error) for error in errors] == [AuthenticationFailed] * 2
        saw_nothing(mallory)
        assert mallory.seen, "it was in the middle"


class Stripping(Broker):
    """Takes the announcement of the handshake out of messages of a kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def meddle(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if message["type"] == self.kind:
            message["payload"].pop("auth", None)
        yield message


async def test_announcements_stripped_from_the_offer() -> None:
    async with hostile(Stripping("OFFER")) as (broker, url):
        assert [type(error) for error in await outcomes(url)] == [AuthenticationFailed] * 2
        saw_nothing(broker)


async def test_announcements_stripped_from_the_answer() -> None:
    async with (
        hostile(Stripping("ANSWER")) as (broker, url),
        make("alice", url, **BOTH) as alice,
        make("bob", url, **BOTH) as bob,
    ):
        with pytest.raises(AuthenticationFailed):
            await alice.connect("bob", metadata=PLAIN)
        assert not len(bob._incoming)
        saw_nothing(broker)


class Strip(Mallory):
    """In the middle, and nobody shall notice that a proof was wanted."""

    def meddle(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        message["payload"].pop("auth", None)
        yield from super().meddle(message)


async def test_in_the_middle_with_everything_stripped() -> None:
    async with hostile(Strip()) as (mallory, url):
        errors = await outcomes(url)
        assert [type(error) for error in errors] == [AuthenticationFailed] * 2
        assert "has not proved who it is" in errors[0].message, "what Bob says of it is stripped, too"
        saw_nothing(mallory)


class Refusing(Broker):
    """Says no in the name of whoever is called."""

    def meddle(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        no = {"connectionId": message["payload"]["connectionId"], "declined": True}
        yield {"type": "EXPIRE", "src": message["dst"], "dst": message["src"], "payload": no}


class Contradicting(Mallory):
    """In the middle, and has all answers say no."""

    def change(self, source: str, message: bytes | str) -> Iterator[bytes | str]:
        yield message if source == "alice" else auth_protocol.refusal("declined")


@pytest.mark.parametrize("kind", [Refusing, Contradicting])
@pytest.mark.parametrize("means", [BOTH, KEYS["alice"]], ids=["secret", "keys"])
async def test_a_no_is_believed_only_of_whom_has_proved_who_it_is(kind: type[Broker], means: Any) -> None:
    async with hostile(kind()) as (_, url), make("alice", url, **means) as alice, make("bob", url):
        with pytest.raises(AuthenticationFailed, match="has not proved who it is"):
            await alice.connect("bob")


class Leaving(Mallory):
    """In the middle, and hangs up at the first word, or before it."""

    async def carry(self, source: str, here: Channel, there: Channel) -> None:
        await there.close()


async def test_who_leaves_has_proved_nothing() -> None:
    async with hostile(Leaving()) as (_, url):
        errors = await outcomes(url)
        assert [type(error) for error in errors] == [AuthenticationFailed] * 2
        assert "left before it had proved" in errors[0].message


async def test_who_has_no_room_proves_that_it_says_so() -> None:
    async with (
        our_server() as url,
        make("alice", url, **BOTH) as alice,
        make("bob", url, max_connections=1, **BOTH) as bob,
    ):
        first = await alice.connect("bob")
        for _ in range(3):
            with pytest.raises(Declined):
                await alice.connect("bob")
        assert first.open
        await first.close()
        await (await bob.accept()).closed()
        await until(lambda: not bob.active)
        await alice.connect("bob")


class Deaf(Mallory):
    """Lets so many messages through, then none."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def change(self, source: str, message: bytes | str) -> Iterator[bytes | str]:
        if len(self.seen) <= self.most:
            yield message


@pytest.mark.parametrize("most", [0, 1])
async def test_dropped_messages(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "HANDSHAKE_TIMEOUT", 1.0)
    async with hostile(Deaf(most)) as (mallory, url):
        assert [type(error) for error in await outcomes(url)] == [AuthenticationFailed] * 2
        saw_nothing(mallory)


class Reordering(Mallory):
    """Says everything twice, and Alice's second message first."""

    def change(self, source: str, message: bytes | str) -> Iterator[bytes | str]:
        if source == "alice" and len(self.seen) == 1:
            yield '{"proof":"' + "00" * 32 + '","label":"","metadata":null}'
        yield message
        yield message


async def test_reordered_and_repeated_messages() -> None:
    async with hostile(Reordering()) as (mallory, url):
        assert [type(error) for error in await outcomes(url)] == [AuthenticationFailed] * 2
        saw_nothing(mallory)


async def test_a_session_that_was_recorded_is_of_no_use_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with all that Alice said in an honest session, in the clear."""
    said: list[str] = []
    send = auth._Exchange.send

    async def recorded(self: auth._Exchange, text: str) -> None:
        said.append(text)
        await send(self, text)

    async with hostile(Broker()) as (broker, url), make("bob", url, **BOTH) as bob:
        with monkeypatch.context() as patch:
            patch.setattr(auth._Exchange, "send", recorded)
            async with make("alice", url, **BOTH) as alice:
                await alice.connect("bob")
                await bob.accept()
        hello, _, final, _ = said
        refused = asyncio.create_task(event(bob, "refused"))
        link = Link(IceOptions(), on_candidate=lambda candidate: None)
        offer = broker.heard[0]
        sdp = {"type": "offer", "sdp": await link.offer(offer["payload"]["label"], ordered=True)}
        broker.heard.clear()
        await broker.deliver(offer | {"payload": offer["payload"] | {"sdp": sdp}})
        while not (answers := [each for each in broker.heard if each["type"] == "ANSWER"]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        link.accept(answers[0]["payload"]["sdp"]["sdp"])
        channel = await link.channel()
        await channel.send(hello)
        await channel.receive()
        await channel.send(final)
        assert "refused" in str(await channel.receive())
        assert (await refused)[1].reason == "secret"
        await link.close()


class Renaming(Broker):
    """Tells Bob that it is Carol who calls."""

    def meddle(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        names = {"alice": "carol", "carol": "alice"}
        yield message | {
            "src": names.get(message["src"], message["src"]),
            "dst": names.get(message["dst"], message["dst"]),
        }


async def test_one_peer_is_not_passed_off_as_another() -> None:
    async with hostile(Renaming()) as (broker, url):
        assert [type(error) for error in await outcomes(url)] == [AuthenticationFailed] * 2
        saw_nothing(broker)


async def test_a_peer_is_let_in_again_after_somebody_failed_in_its_name() -> None:
    async with pair(secret=SECRET) as (_, bob), make("alice2", bob.brokers[0].url, secret="wrong") as wrong:
        with pytest.raises(AuthenticationFailed):
            await wrong.connect("bob")
        async with Peer("right", server=bob.brokers[0], ice_servers=(), secret=SECRET) as right:
            await right.connect("bob")
            assert (await bob.accept()).peer == "right"


# Calls ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, "wrong"])
async def test_calls_are_proved_before_anything_is_sent_or_shown(secret: str) -> None:
    async with (
        our_server() as url,
        make("alice", url, **BOTH) as alice,
        make("bob", url, secret=secret, take_calls=True) as bob,
    ):
        sent, answered = stream(), stream()
        calling = alice.ring("bob", sent, metadata=PLAIN)
        answering = await bob.accept_call()
        assert PLAIN not in str(answering.metadata), "nothing of the caller's is told before"
        answering.answer(answered)
        if secret == SECRET:
            await asyncio.gather(calling.opened(), answering.opened())
            assert answering.metadata == PLAIN
            received = calling.remote_stream.video
            assert received is not None
            await received.recv()
            return
        for call in (calling, answering):
            with pytest.raises(AuthenticationFailed):
                await call.opened()
            assert not call.remote_stream.tracks
            assert call.stats() == MediaStats()


@pytest.mark.parametrize("takes", [True, False])
async def test_who_declines_a_call_proves_that_it_does(takes: bool) -> None:
    async with (
        our_server() as url,
        make("alice", url, **BOTH) as alice,
        make("bob", url, take_calls=takes, **BOTH) as bob,
    ):
        calling = alice.ring("bob", stream(), metadata=PLAIN)
        if takes:
            await (await bob.accept_call()).close()
        with pytest.raises(Declined):
            await calling.opened()
        assert not calling.remote_stream.tracks
        await until(lambda: not bob.active)
        assert not len(bob._calls)
