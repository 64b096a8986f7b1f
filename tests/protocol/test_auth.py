"""The handshake, both sides against each other and against whoever changes what they say."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peercli.errors import AuthenticationFailed, Declined, UsageError
from peercli.protocol import auth
from peercli.protocol.attempts import FREE, LAST_DELAY, MAX_A_MINUTE, MAX_KEPT, Attempts
from peercli.protocol.auth import Credentials, Identity, Proven, Session

SESSION = Session("data", "dc_1", "alice", "bob", "AA:01", "BB:02", "binary", True)
LAPTOP, DESKTOP, STRANGER = Identity(bytes(32)), Identity(b"d" * 32), Identity(b"s" * 32)
SECRET = Credentials("open sesame")


def talk(
    caller: Credentials,
    callee: Credentials,
    *,
    session: Session = SESSION,
    there: Session = SESSION,
    meddle: Any = lambda number, text: text,
) -> tuple[Proven | Exception, Proven | Exception]:
    """What both sides make of it, when `meddle` has each message, by number, on its way."""
    calling = auth.call(caller, session, label="label", metadata={"meta": 1})
    answering = auth.answer(callee, there)
    assert next(answering) == ""
    ends: list[Proven | Exception] = [AuthenticationFailed("never ended")] * 2
    text, sides = next(calling), [answering, calling]
    for number in range(4):
        side = sides[number % 2]
        index = 1 if side is answering else 0
        try:
            text = side.send(meddle(number, text))
        except StopIteration as end:
            ends[index] = end.value
            text = end.value.verdict
        except (AuthenticationFailed, Declined) as error:
            ends[index] = error
            text = auth.refusal(getattr(error, "reason", "declined"))
            other = sides[(number + 1) % 2]
            with pytest.raises((AuthenticationFailed, Declined, StopIteration)) as told:
                other.send(text)
            ends[1 - index] = told.value
            break
        if isinstance(ends[0], Proven):
            break
    return ends[0], ends[1]


def failed(ends: tuple[object, object]) -> bool:
    return all(isinstance(end, AuthenticationFailed) for end in ends)


def test_a_secret_that_both_know() -> None:
    here, there = talk(SECRET, SECRET)
    assert isinstance(here, Proven)
    assert isinstance(there, Proven)
    assert here.secret
    assert there.secret
    assert (there.label, there.metadata) == ("label", {"meta": 1})
    assert here.session_key == there.session_key
    assert here.derive("a") == there.derive("a") != here.derive("b")


def test_the_same_secret_in_another_normal_form() -> None:
    assert isinstance(talk(Credentials("caf\u00e9"), Credentials("cafe\u0301"))[0], Proven)


@pytest.mark.parametrize(
    ("caller", "callee", "reason"),
    [
        (SECRET, Credentials("open barley"), "secret"),
        (SECRET, Credentials(), "no-secret"),
        (Credentials(known={"x": LAPTOP.public}), SECRET, "needs-secret"),
        (SECRET, Credentials("open sesame", known={"x": LAPTOP.public}, strict=True), "stranger"),
        (Credentials("open sesame", known={"x": LAPTOP.public}, strict=True), SECRET, "key"),
    ],
)
def test_what_is_not_proved(caller: Credentials, callee: Credentials, reason: str) -> None:
    ends = talk(caller, callee)
    assert failed(ends)
    assert reason in {getattr(end, "reason", "") for end in ends}


def test_keys_that_are_known_on_both_sides() -> None:
    here, there = talk(
        Credentials(identity=LAPTOP, known={"desk": DESKTOP.public}, strict=True),
        Credentials(identity=DESKTOP, known={"x": STRANGER.public, "lap": LAPTOP.public}, strict=True),
    )
    assert isinstance(here, Proven)
    assert isinstance(there, Proven)
    assert (here.name, there.name) == ("desk", "lap")
    assert not here.secret
    assert here.key is there.key is None


@pytest.mark.parametrize("identity", [None, STRANGER, LAPTOP])
def test_a_changed_key_is_refused(identity: Identity | None) -> None:
    ends = talk(
        Credentials(identity=LAPTOP, known={"desk": DESKTOP.public}, strict=True),
        Credentials(identity=identity, known={"lap": LAPTOP.public}, strict=True),
    )
    assert failed(ends)


def test_keys_are_told_only_where_that_is_wanted_and_only_with_a_secret() -> None:
    telling = Credentials("s", identity=LAPTOP, introduce=True)
    here, there = talk(telling, Credentials("s"))
    assert isinstance(here, Proven)
    assert isinstance(there, Proven)
    assert (here.key, there.key) == (None, LAPTOP.public)
    here, there = talk(telling, Credentials("s", identity=DESKTOP, introduce=True))
    assert isinstance(here, Proven)
    assert here.key == DESKTOP.public
    with pytest.raises(UsageError):
        Credentials(identity=LAPTOP, introduce=True)


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "media"},
        {"connection_id": "dc_2"},
        {"caller": "mallory"},
        {"callee": "mallory"},
        {"caller_fingerprint": "CC:03"},
        {"callee_fingerprint": "CC:03"},
        {"serialization": "raw"},
        {"reliable": False},
    ],
)
def test_it_is_bound_to_the_session(other: dict[str, Any]) -> None:
    assert failed(talk(SECRET, SECRET, there=replace(SESSION, **other)))
    keys = Credentials(identity=LAPTOP, known={"self": LAPTOP.public}, strict=True)
    assert failed(talk(keys, keys, there=replace(SESSION, **other)))


@settings(max_examples=40)
@given(st.integers(0, 2), st.data())
def test_whatever_is_changed_on_the_way_is_noticed(number: int, data: st.DataObject) -> None:
    def meddle(at: int, text: str) -> str:
        if at != number:
            return text
        message = json.loads(text)
        name = data.draw(st.sampled_from([key for key in message if key in ("said", "proof", "signature")]))
        inner = json.loads(message[name]) if name == "said" else message
        part = data.draw(st.sampled_from(sorted(inner))) if name == "said" else name
        was = inner[part]
        others: st.SearchStrategy[Any] = st.sampled_from(
            [None, 2, "", [], {}, True, "zz", "00" * 32, "41" + "00" * 32, "42" + "ff" * 32]
        )
        inner[part] = data.draw(others.filter(lambda new: new != was))
        if name == "said":
            message["said"] = json.dumps(inner)
        return json.dumps(message)

    both = Credentials("s", identity=LAPTOP, known={"self": LAPTOP.public}, strict=True)
    assert failed(talk(both, both, meddle=meddle))


@given(st.text() | st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_garbage_is_refused_in_one_way(garbage: Any) -> None:
    for conversation in (auth.call(SECRET, SESSION, label="", metadata=None), auth.answer(SECRET, SESSION)):
        next(conversation)
        with pytest.raises(AuthenticationFailed):
            conversation.send(garbage)


@pytest.mark.parametrize("secret", [None, "s"])
def test_half_a_surrogate_pair_is_refused_like_other_garbage(secret: str | None) -> None:
    """JSON can spell what UTF-8 cannot."""
    credentials = Credentials(secret, identity=LAPTOP, known={"self": LAPTOP.public}, strict=True)

    def meddle(number: int, text: str) -> str:
        message = json.loads(text)
        if "said" in message:
            message["said"] = message["said"].replace("{", '{"half": "\ud800",', 1)
        return json.dumps(message)

    assert failed(talk(credentials, credentials, meddle=meddle))


def test_messages_echoed_or_swapped_prove_nothing() -> None:
    said: list[str] = []

    def echo(number: int, text: str) -> str:
        said.append(text)
        return said[0] if number == 1 else text

    assert failed(talk(SECRET, SECRET, meddle=echo))
    first = auth.answer(SECRET, SESSION)
    next(first)
    with pytest.raises(AuthenticationFailed):
        first.send(json.dumps({"proof": "00" * 32, "label": "", "metadata": None}))


def test_nothing_of_the_user_is_said_before_the_far_side_has_proved_itself() -> None:
    heard: list[str] = []

    def listen(number: int, text: str) -> str:
        heard.append(text)
        return text

    talk(SECRET, Credentials("wrong"), meddle=listen)
    assert heard
    assert not any("label" in text or "meta" in text for text in heard)


def test_one_who_is_not_wanted_is_told_so() -> None:
    calling, answering = auth.call(SECRET, SESSION, label="", metadata=None), auth.answer(SECRET, SESSION)
    next(answering)
    calling.send(answering.send(next(calling)))
    with pytest.raises(Declined):
        calling.send(auth.refusal("declined"))


def test_a_no_counts_only_where_no_proof_is_due() -> None:
    for credentials, error in (
        (SECRET, AuthenticationFailed),
        (Credentials(identity=LAPTOP, known={"desk": DESKTOP.public}, strict=True), AuthenticationFailed),
        (Credentials(known={"desk": DESKTOP.public}), Declined),
    ):
        calling = auth.call(credentials, SESSION, label="", metadata=None)
        next(calling)
        with pytest.raises(error):
            calling.send(auth.refusal("declined"))


def test_metadata_has_its_limit() -> None:
    calling = auth.call(SECRET, SESSION, label="", metadata="x" * 70_000)
    answering = auth.answer(SECRET, SESSION)
    next(answering)
    with pytest.raises(UsageError):
        calling.send(answering.send(next(calling)))


def test_an_empty_secret_is_none() -> None:
    with pytest.raises(UsageError):
        Credentials("")


def test_a_secret_is_not_shown() -> None:
    assert "sesame" not in repr(SECRET)


# Timing ---------------------------------------------------------------------------------------

ROUNDS = 100  # of each kind, in turns
SAME = 6.0  # standard deviations: what chance alone exceeds once in 500,000,000 times

Guess = tuple[str, int | None]
"""The secret that is tried, and which hex digit of the proof is wrong then, if it is told at all."""

NEAR_AND_FAR: list[tuple[Guess, Guess]] = [
    (("Open sesame", None), ("open sesamE", None)),
    (("open sesame", 0), ("open sesame", 63)),
]


def refused(guess: Guess, watch: Any) -> None:
    """Guess, and have what the callee does meanwhile watched."""
    tried, wrong = guess
    calling, answering = (
        auth.call(Credentials(tried), SESSION, label="", metadata=None),
        auth.answer(SECRET, SESSION),
    )
    next(answering)
    first = next(calling)
    with watch:
        reply = answering.send(first)
    if wrong is None:
        final = {"proof": "00" * 32, "label": "", "metadata": None}
    else:
        final = json.loads(calling.send(reply))
        proof = final["proof"]
        final["proof"] = f"{proof[:wrong]}{'0' if proof[wrong] != '0' else '1'}{proof[wrong + 1 :]}"
    with watch, pytest.raises(AuthenticationFailed):
        answering.send(json.dumps(final))


class Clock:
    """Adds up the seconds of this thread's own work."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.seconds -= time.thread_time()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.thread_time()


class Calls:
    """Notes what `auth` calls, one after the other."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def _note(self, frame: Any, event: str, argument: Any) -> None:
        if event == "c_call" and frame.f_globals.get("__name__") == auth.__name__:
            self.made.append(argument.__qualname__)
        elif event == "call" and frame.f_back and frame.f_back.f_globals.get("__name__") == auth.__name__:
            self.made.append(frame.f_code.co_qualname)

    def __enter__(self) -> None:
        sys.setprofile(self._note)

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


def standard_deviations(one: list[float], other: list[float]) -> float:
    """How far two samples are from being alike: the normal score of Mann and Whitney's U (1947)."""
    above = sum((a > b) + (a == b) / 2 for a in one for b in other)
    count = len(one) * len(other)
    return abs(above - count / 2) / math.sqrt(count * (len(one) + len(other) + 1) / 12)


@pytest.mark.parametrize("guesses", NEAR_AND_FAR, ids=["secret", "proof"])
def test_what_is_done_does_not_depend_on_how_near_a_guess_is(guesses: tuple[Guess, Guess]) -> None:
    made = []
    for guess in guesses:
        calls = Calls()
        refused(guess, calls)
        made.append(calls.made)
    assert made[0] == made[1]
    assert "compare_digest" in made[0]


@pytest.mark.parametrize("guesses", NEAR_AND_FAR, ids=["secret", "proof"])
def test_how_long_a_failure_takes_does_not_tell_how_near_a_guess_is(guesses: tuple[Guess, Guess]) -> None:
    taken: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for guess, times in zip(guesses, taken, strict=True):
            clock = Clock()
            refused(guess, clock)
            times.append(clock.seconds)
    assert standard_deviations(*taken) < SAME
    spread = statistics.quantiles(taken[0])
    later = [seconds + 2 * (spread[2] - spread[0]) + 1e-9 for seconds in taken[1]]
    assert standard_deviations(taken[0], later) > SAME, "it would be seen"


# Attempts -------------------------------------------------------------------------------------


def test_tries_are_bounded_whoever_makes_them() -> None:
    attempts = Attempts()
    allowed = sum(attempts.begin(number / 100, f"id-{number}", f"ip-{number}") for number in range(5_000))
    assert allowed == MAX_A_MINUTE
    assert not attempts.begin(59.9, "later")
    assert attempts.begin(61.0, "later")


@pytest.mark.parametrize("alike", [0, 1])
def test_whoever_fails_waits_longer_each_time(alike: int) -> None:
    attempts = Attempts()
    now, waits = 0.0, []
    for number in range(30):
        who = [f"id-{number}", f"ip-{number}"]
        who[alike] = "same"
        began = now
        while not attempts.begin(now, *who):
            now += 0.5
        waits.append(now - began)
    assert waits[:FREE] == [0.0] * FREE
    assert waits[-1] == LAST_DELAY
    assert waits[FREE + 1 :] == sorted(waits[FREE + 1 :])


def test_success_takes_its_attempt_back() -> None:
    attempts = Attempts()
    for number in range(10 * MAX_A_MINUTE):
        now = number / 100
        assert attempts.begin(now, "id", "ip")
        attempts.succeed(now, "id", "ip")


def test_what_is_remembered_has_a_limit() -> None:
    attempts = Attempts()
    for number in range(MAX_KEPT * 2):
        assert attempts.begin(number * 60.0, f"id-{number}")
    assert len(attempts._records) == MAX_KEPT
