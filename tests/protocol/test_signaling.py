"""The client's life with its broker, against the table in `protocol.signaling`, in virtual time."""

from __future__ import annotations

import json
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peercli.errors import (
    InvalidKey,
    NetworkError,
    PeerError,
    ProtocolError,
    ServerError,
    SocketClosed,
    UnavailableID,
)
from peercli.protocol.messages import MAX_MESSAGE_LENGTH, Candidate, Expire, Leave, Offer, encode
from peercli.protocol.signaling import (
    FIRST_DELAY,
    GREETING_TIMEOUT,
    HEARTBEAT_INTERVAL,
    JITTER,
    MAX_DELAY,
    MAX_HELD,
    REATTACH_GRACE,
    STEADY,
    Action,
    Dial,
    Failed,
    Hangup,
    Lost,
    Opened,
    Received,
    Signaling,
    State,
    Transmit,
)

HEARTBEAT = Transmit('{"type":"HEARTBEAT"}')
OPEN, ID_TAKEN, INVALID_KEY = '{"type":"OPEN"}', '{"type":"ID-TAKEN"}', '{"type":"INVALID-KEY"}'
ERROR = '{"type":"ERROR","payload":{"msg":"full"}}'
LOST = SocketClosed("gone")


def make(*, chance: float = 0.0) -> Signaling:
    return Signaling("alice", chance=lambda: chance)


def opened(signaling: Signaling, now: float = 0.0) -> Signaling:
    signaling.connect()
    signaling.socket_opened(now)
    signaling.received(OPEN, now)
    assert signaling.state is State.OPEN
    return signaling


def candidate(number: int, connection_id: str = "dc_1") -> Candidate:
    return Candidate("bob", connection_id, "data", f"candidate:{number}")


# The first registration -----------------------------------------------------------------------


def test_dial_then_greeting_then_open() -> None:
    signaling = make()
    assert signaling.deadline() is None
    assert signaling.connect() == [Dial()]
    assert signaling.connect() == []
    assert signaling.deadline() is None, "the caller times the dialling"
    assert signaling.socket_opened(7.0) == []
    assert signaling.deadline() == 7.0 + GREETING_TIMEOUT
    assert signaling.received(OPEN, 8.0) == [Opened(again=False)]
    assert signaling.received(OPEN, 8.0) == []


@pytest.mark.parametrize(
    ("text", "kind"), [(ID_TAKEN, UnavailableID), (INVALID_KEY, InvalidKey), (ERROR, ServerError)]
)
def test_a_broker_that_refuses_is_not_asked_again(text: str, kind: type[PeerError]) -> None:
    signaling = make()
    signaling.connect()
    signaling.socket_opened(0.0)
    hangup, failed = signaling.received(text, 0.0)
    assert hangup == Hangup()
    assert isinstance(failed, Failed)
    assert type(failed.error) is kind
    assert (signaling.state, signaling.deadline()) == (State.IDLE, None)
    assert signaling.socket_lost(LOST, 0.0) == []
    assert signaling.connect() == [Dial()], "but may be, if the user wants to"


def test_without_a_greeting_the_first_attempt_fails() -> None:
    signaling = make()
    signaling.connect()
    signaling.socket_opened(0.0)
    assert signaling.tick(GREETING_TIMEOUT - 0.1) == []
    hangup, failed = signaling.tick(GREETING_TIMEOUT)
    assert hangup == Hangup()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, SocketClosed)


def test_a_first_socket_that_cannot_be_had_fails() -> None:
    signaling = make()
    signaling.connect()
    error = NetworkError("no route")
    assert signaling.socket_lost(error, 0.0) == [Failed(error)]
    assert signaling.state is State.IDLE


def test_a_socket_that_comes_too_late_is_hung_up() -> None:
    signaling = make()
    signaling.connect()
    assert signaling.disconnect() == [Hangup()]
    assert signaling.socket_opened(0.0) == [Hangup()]
    assert signaling.received(OPEN, 0.0) == []
    assert signaling.state is State.IDLE


# While the id is ours -------------------------------------------------------------------------


def test_a_heartbeat_every_five_seconds() -> None:
    signaling = opened(make(), now=100.0)
    for beat in range(1, 50):
        due = 100.0 + beat * HEARTBEAT_INTERVAL
        assert signaling.deadline() == due
        assert signaling.tick(due - 0.001) == []
        assert signaling.tick(due) == [HEARTBEAT]


def test_one_heartbeat_after_a_long_sleep() -> None:
    signaling = opened(make())
    assert signaling.tick(10_000.0) == [HEARTBEAT]
    assert signaling.deadline() == 10_000.0 + HEARTBEAT_INTERVAL


def test_what_peers_say_is_passed_on_and_garbage_is_not() -> None:
    signaling = opened(make())
    assert signaling.received('{"type":"LEAVE","src":"bob"}', 1.0) == [Received(Leave("bob"))]
    assert signaling.received('{"type":"NEWS"}', 1.0) == []
    with pytest.raises(ProtocolError):
        signaling.received("{", 1.0)
    assert (signaling.state, signaling.deadline()) == (State.OPEN, HEARTBEAT_INTERVAL)


def test_a_message_too_long_for_a_broker_is_refused() -> None:
    signaling = opened(make())
    with pytest.raises(ProtocolError):
        signaling.send(Offer("bob", "dc_1", "data", "x" * MAX_MESSAGE_LENGTH))
    around = len(encode(Leave("")))
    assert signaling.send(Leave("x" * (MAX_MESSAGE_LENGTH - around)))
    with pytest.raises(ProtocolError):
        signaling.send(Leave("x" * (MAX_MESSAGE_LENGTH - around + 1)))


# Outages --------------------------------------------------------------------------------------


def outage(signaling: Signaling, now: float) -> Lost:
    [lost] = signaling.socket_lost(LOST, now)
    assert isinstance(lost, Lost)
    assert lost.error is LOST
    assert signaling.deadline() == now + lost.delay
    return lost


def test_the_backoff_doubles_up_to_its_cap_and_never_ends() -> None:
    signaling, now = opened(make()), 0.0
    for attempt in range(1, 3000):
        lost = outage(signaling, now)
        assert (lost.attempt, lost.delay) == (attempt, min(FIRST_DELAY * 2 ** min(attempt - 1, 9), MAX_DELAY))
        assert signaling.tick(now + lost.delay - 0.001) == []
        now += lost.delay
        assert signaling.tick(now) == [Dial()]


def test_jitter_takes_up_to_half_of_a_delay() -> None:
    assert outage(opened(make(chance=0.0)), 0.0).delay == FIRST_DELAY
    assert outage(opened(make(chance=0.5)), 0.0).delay == FIRST_DELAY * (1 - JITTER / 2)
    assert outage(opened(make(chance=0.999)), 0.0).delay == pytest.approx(
        FIRST_DELAY * (1 - JITTER), rel=0.01
    )


def test_the_backoff_starts_afresh_only_after_a_steady_time() -> None:
    signaling = opened(make())
    assert outage(signaling, STEADY - 1).attempt == 1
    signaling.tick(STEADY)
    signaling.socket_opened(STEADY)
    signaling.received(OPEN, STEADY)
    assert outage(signaling, STEADY + 1).attempt == 2, "a broker that takes us and drops us is not hammered"
    signaling.tick(STEADY + 2)
    signaling.socket_opened(STEADY + 2)
    signaling.received(OPEN, STEADY + 2)
    assert outage(signaling, 2 * STEADY + 2).attempt == 1


def test_the_id_is_taken_back_from_a_broker_that_greets() -> None:
    signaling = opened(make())
    lost = outage(signaling, 1.0)
    signaling.tick(1.0 + lost.delay)
    assert signaling.socket_opened(2.0) == [HEARTBEAT], "a broker that kept us must see that we live"
    assert signaling.received(OPEN, 2.1) == [Opened(again=True)]


def test_the_id_is_taken_back_from_a_broker_that_says_nothing() -> None:
    signaling = opened(make())
    lost = outage(signaling, 1.0)
    signaling.tick(1.0 + lost.delay)
    signaling.socket_opened(2.0)
    assert signaling.deadline() == 2.0 + REATTACH_GRACE
    assert signaling.tick(2.0 + REATTACH_GRACE) == [Opened(again=True)]
    assert signaling.received(OPEN, 4.0) == [], "late, but it changes nothing"


def test_an_id_that_another_took_meanwhile_is_given_up() -> None:
    signaling = opened(make())
    signaling.tick(1.0 + outage(signaling, 1.0).delay)
    signaling.socket_opened(2.0)
    hangup, failed = signaling.received(ID_TAKEN, 2.0)
    assert hangup == Hangup()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, UnavailableID)


def test_an_error_later_on_is_an_outage() -> None:
    signaling = opened(make())
    hangup, lost = signaling.received(ERROR, 1.0)
    assert hangup == Hangup()
    assert isinstance(lost, Lost)
    assert isinstance(lost.error, ServerError)
    assert signaling.state is State.WAITING
    assert signaling.socket_lost(LOST, 1.0) == [], "the socket that was hung up is not lost again"


# What is held back ----------------------------------------------------------------------------


def test_held_messages_go_in_order_and_before_the_news() -> None:
    signaling = make()
    signaling.connect()
    assert signaling.send(candidate(1)) == []
    signaling.socket_opened(0.0)
    assert signaling.send(candidate(2)) == []
    said = signaling.received(OPEN, 0.0)
    assert said == [Transmit(encode(candidate(1))), Transmit(encode(candidate(2))), Opened(again=False)]
    assert signaling.send(candidate(3)) == [Transmit(encode(candidate(3)))]


def test_the_oldest_go_when_too_many_are_held() -> None:
    signaling = opened(make())
    outage(signaling, 1.0)
    for number in range(MAX_HELD + 10):
        signaling.send(candidate(number))
    signaling.tick(100.0)
    signaling.socket_opened(100.0)
    *held, _ = signaling.received(OPEN, 100.0)
    assert held == [Transmit(encode(candidate(number))) for number in range(10, MAX_HELD + 10)]


def test_nobody_is_told_of_a_connection_that_ended_meanwhile() -> None:
    signaling = opened(make())
    outage(signaling, 1.0)
    signaling.send(Offer("bob", "dc_1", "data", "v=0"))
    signaling.send(candidate(1, "dc_2"))
    signaling.send(Expire("bob", "dc_1", declined=True))
    signaling.forget("dc_1")
    signaling.tick(100.0)
    signaling.socket_opened(100.0)
    *held, _ = signaling.received(OPEN, 100.0)
    assert held == [
        Transmit(encode(candidate(1, "dc_2"))),
        Transmit(encode(Expire("bob", "dc_1", declined=True))),
    ]


def test_what_may_have_died_with_the_broker_is_sent_again() -> None:
    signaling = opened(make())
    offers = [Offer("bob", connection_id, "data", "v=0") for connection_id in ("dc_1", "dc_2", "dc_3")]
    for offer in (*offers, Offer("bob", "mc_1", "media", "v=0")):
        assert signaling.send(offer) == [Transmit(encode(offer))]
    signaling.settle("dc_1")
    signaling.forget("dc_2")
    assert signaling.repeat("dc_3") == [Transmit(encode(offers[2]))]
    for now in (100.0, 200.0):  # and again, as long as it is not settled
        outage(signaling, now)
        signaling.tick(now + 50.0)
        signaling.socket_opened(now + 50.0)
        assert signaling.received(OPEN, now + 50.0) == [Transmit(encode(offers[2])), Opened(again=True)]


def test_what_was_held_when_we_left_is_dropped() -> None:
    signaling = opened(make())
    outage(signaling, 1.0)
    signaling.send(candidate(1))
    signaling.disconnect()
    signaling.send(candidate(2))
    signaling.connect()
    signaling.send(candidate(3))
    signaling.socket_opened(2.0)
    assert signaling.received(OPEN, 2.0) == [Transmit(encode(candidate(3))), Opened(again=True)]


# Everything, in any order ---------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """Whatever may happen to a peer and its broker, beside a model that is the table written once more."""

    def __init__(self) -> None:
        super().__init__()
        self.signaling = Signaling("alice", chance=lambda: self.chance)
        self.chance = 0.0
        self.now = 1000.0
        self.state = State.IDLE
        self.ever_open = False
        self.opened_at = 0.0
        self.attempt = 0
        self.due: float | None = None
        self.held: deque[Candidate] = deque(maxlen=MAX_HELD)
        self.unsettled: deque[Candidate] = deque(maxlen=MAX_HELD)
        self.sent = 0

    # The model

    def rests(self, *actions: Action) -> list[Action]:
        self.state, self.due = State.IDLE, None
        self.held.clear()
        self.unsettled.clear()
        return list(actions)

    def opens(self) -> list[Action]:
        again, self.ever_open = self.ever_open, True
        self.state, self.opened_at, self.due = State.OPEN, self.now, self.now + 5.0
        held = [Transmit(encode(message)) for message in self.held]
        self.unsettled.extend(self.held)
        self.held.clear()
        return [*held, Opened(again)]

    def check_loss(self, actions: list[Action], error: type[PeerError]) -> None:
        """`actions` end with what the table has for a lost socket."""
        last = actions[-1]
        assert isinstance(last, Lost | Failed)
        assert type(last.error) is error
        if not self.ever_open:
            assert isinstance(last, Failed)
            self.rests()
            return
        assert isinstance(last, Lost)
        if self.state is State.OPEN and self.now - self.opened_at >= 30.0:
            self.attempt = 0
        most = min(0.5 * 2**self.attempt, 30.0)
        assert most / 2 <= last.delay <= most
        self.attempt += 1
        assert last.attempt == self.attempt
        self.held = deque([*self.unsettled, *self.held], MAX_HELD)
        self.unsettled.clear()
        self.state, self.due = State.WAITING, self.now + last.delay

    # What the user does

    @rule()
    def connect(self) -> None:
        idle = self.state is State.IDLE
        assert self.signaling.connect() == ([Dial()] if idle else [])
        if idle:
            self.state, self.attempt, self.due = State.DIALING, 0, None

    @rule()
    def hurry(self) -> None:
        waiting = self.state is State.WAITING
        assert self.signaling.hurry() == ([Dial()] if waiting else [])
        if waiting:
            self.state, self.due = State.DIALING, None

    @rule()
    def disconnect(self) -> None:
        assert self.signaling.disconnect() == self.rests(Hangup())

    @rule(connection=st.sampled_from(["dc_1", "dc_2", "dc_3"]))
    def send(self, connection: str) -> None:
        self.sent += 1
        message = candidate(self.sent, connection)
        if self.state is State.OPEN:
            assert self.signaling.send(message) == [Transmit(encode(message))]
            self.unsettled.append(message)
            return
        assert self.signaling.send(message) == []
        if self.state is not State.IDLE:
            self.held.append(message)

    @rule(connection=st.sampled_from(["dc_1", "dc_2", "dc_3"]))
    def forget(self, connection: str) -> None:
        self.signaling.forget(connection)
        self.held = self.without(connection, self.held)
        self.unsettled = self.without(connection, self.unsettled)

    @rule(connection=st.sampled_from(["dc_1", "dc_2", "dc_3"]))
    def settle(self, connection: str) -> None:
        self.signaling.settle(connection)
        self.unsettled = self.without(connection, self.unsettled)

    @rule(connection=st.sampled_from(["dc_1", "dc_2", "dc_3"]))
    def repeat(self, connection: str) -> None:
        again = [
            Transmit(encode(message)) for message in self.unsettled if message.connection_id == connection
        ]
        assert self.signaling.repeat(connection) == again

    def without(self, connection: str, messages: deque[Candidate]) -> deque[Candidate]:
        return deque((message for message in messages if message.connection_id != connection), MAX_HELD)

    # What the network does

    @rule()
    def socket_opens(self) -> None:
        actions = self.signaling.socket_opened(self.now)
        if self.state is not State.DIALING:
            assert actions == ([Hangup()] if self.state in (State.IDLE, State.WAITING) else [])
            return
        self.state = State.GREETING
        self.due = self.now + (1.5 if self.ever_open else 10.0)
        assert actions == ([HEARTBEAT] if self.ever_open else [])

    @rule(chance=st.floats(0, 1, exclude_max=True))
    def socket_is_lost(self, chance: float) -> None:
        self.chance = chance
        actions = self.signaling.socket_lost(LOST, self.now)
        if self.state in (State.IDLE, State.WAITING):
            assert actions == []
        else:
            assert len(actions) == 1
            self.check_loss(actions, SocketClosed)

    # What the broker says

    def hears(self) -> bool:
        return self.state in (State.GREETING, State.OPEN)

    @rule()
    def broker_opens(self) -> None:
        actions = self.signaling.received(OPEN, self.now)
        assert actions == (self.opens() if self.state is State.GREETING else [])

    @rule(text=st.sampled_from([ID_TAKEN, INVALID_KEY]))
    def broker_refuses(self, text: str) -> None:
        actions = self.signaling.received(text, self.now)
        if not self.hears():
            assert actions == []
            return
        assert actions[:-1] == self.rests(Hangup())
        failed = actions[-1]
        assert isinstance(failed, Failed)
        assert type(failed.error) is (UnavailableID if text is ID_TAKEN else InvalidKey)

    @rule(chance=st.floats(0, 1, exclude_max=True))
    def broker_fails(self, chance: float) -> None:
        self.chance = chance
        actions = self.signaling.received(ERROR, self.now)
        if self.hears():
            assert len(actions) == 2
            assert actions[0] == Hangup()
            self.check_loss(actions, ServerError)
        else:
            assert actions == []

    @rule()
    def a_peer_speaks(self) -> None:
        text = json.dumps(json.loads(encode(candidate(0))) | {"src": "bob"})
        actions = self.signaling.received(text, self.now)
        assert actions == ([Received(candidate(0))] if self.hears() else [])

    @rule(text=st.sampled_from(["", "{}", "[]", '{"type":"LEAVE"}', '{"type":"HEARTBEAT"}']))
    def broker_babbles(self, text: str) -> None:
        try:
            assert self.signaling.received(text, self.now) == []
        except ProtocolError:
            assert self.hears()

    # Time

    @rule(seconds=st.floats(0.01, 100), chance=st.floats(0, 1, exclude_max=True))
    def time_passes(self, seconds: float, chance: float) -> None:
        self.chance = chance
        end = self.now + seconds
        while (due := self.signaling.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.happens_by_itself(self.signaling.tick(self.now))
            assert (after := self.signaling.deadline()) is None or after > self.now
        self.now = end

    @precondition(lambda self: self.due is not None)
    @rule(late=st.floats(0, 1e6), chance=st.floats(0, 1, exclude_max=True))
    def the_machine_sleeps(self, late: float, chance: float) -> None:
        self.chance = chance
        assert self.due is not None
        self.now = self.due + late
        self.happens_by_itself(self.signaling.tick(self.now))

    def happens_by_itself(self, actions: list[Action]) -> None:
        match self.state:
            case State.WAITING:
                assert actions == [Dial()]
                self.state, self.due = State.DIALING, None
            case State.GREETING if self.ever_open:
                assert actions == self.opens()
            case State.GREETING:
                assert len(actions) == 2
                assert actions[0] == Hangup()
                self.check_loss(actions, SocketClosed)
            case State.OPEN:
                assert actions == [HEARTBEAT]
                self.due = self.now + 5.0
            case _:
                raise AssertionError(f"{self.state} waits for nothing")

    # Always

    @invariant()
    def is_where_the_table_says(self) -> None:
        assert self.signaling.state is self.state
        assert self.signaling.deadline() == self.due
        assert self.signaling.ever_open == self.ever_open

    @invariant()
    def nothing_is_done_before_its_time(self) -> None:
        due = self.signaling.deadline()
        before = self.now if due is None else due - 1e-6
        assert self.signaling.tick(before) == []


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
