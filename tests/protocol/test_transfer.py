"""The file protocol between two machines, and against far sides that lie."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from peercli.errors import ConnectionLost, Declined, PeerError, ProtocolError, StorageFailed
from peercli.protocol.manifest import MAX_ENTRIES, MAX_SIZE, Entry, NameRules
from peercli.protocol.transfer import (
    CONTROL_SIZE,
    DEAD_AFTER,
    MAX_CONTENT,
    MAX_CONTROL,
    MAX_PARTS,
    MAX_PREFIXES,
    PING_AFTER,
    Cancel,
    Offer,
    Outcome,
    Ping,
    Prefix,
    control,
    control_list,
    decode,
)
from peercli.protocol.transfer_receiver import (
    Abandon,
    Ended,
    Finish,
    Hole,
    Offered,
    Plan,
    Receiver,
    Start,
    Write,
)
from peercli.protocol.transfer_sender import (
    BATCH_ENTRIES,
    BATCH_SIZE,
    Accepted,
    Chunk,
    Finished,
    Sender,
    Settled,
)
from peercli.services.files.storage import NEVER
from tests.transfers import MemoryDisk, MemoryReader, Session

EMPTY = hashlib.sha256().hexdigest()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(*contents: bytes | None) -> list[Entry]:
    return [Entry((str(i),), size=None if c is None else len(c)) for i, c in enumerate(contents)]


def session(entries: list[Entry], contents: list[bytes | None], disk: MemoryDisk, **options: Any) -> Session:
    return Session(entries, MemoryReader(contents), lambda name, offered: disk.open(offered), **options)


def hello(role: str, **fields: object) -> str:
    return control("hello", **{"version": 1, "role": role, "can": ["holes"], **fields})


# Messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "7",
        "null",
        "{}",
        '{"type": 1}',
        '{"type": "hello"}',
        "[" * 100_000,
        '{"type": "ping", "x": ' + "9" * 5_000 + "}",
        '{"type": "hello", "version": "1", "role": "sender"}',
        '{"type": "hello", "version": 1, "role": "sender", "can": "holes"}',
        '{"type": "offer", "entries": []}',
        '{"type": "offer", "id": "a b", "entries": []}',
        '{"type": "offer", "id": "x", "entries": {}}',
        '{"type": "offer", "id": "x", "entries": [], "more": 1}',
        '{"type": "accept", "have": [-1]}',
        '{"type": "accept", "have": [1.5]}',
        '{"type": "accept", "have": [true]}',
        '{"type": "accept", "skip": [[1]]}',
        '{"type": "accept", "resume": [[1, []]]}',
        '{"type": "accept", "resume": [[1, [[5, "x"]]]]}',
        '{"type": "accept", "credit": -1}',
        '{"type": "content", "parts": [[0, 0]]}',
        '{"type": "content", "parts": [[0, -1, 5]]}',
        '{"type": "content", "parts": [[0, 0, 5, "abc"]]}',
        '{"type": "content", "parts": [[0, 0, 5, null, 1]]}',
        '{"type": "content", "parts": [[0, 9007199254740992, 5]]}',
        '{"type": "credit"}',
        '{"type": "credit", "bytes": NaN}',
        '{"type": "safe", "entries": 5}',
        '{"type": "failed", "entry": "0"}',
        '{"type": "failed"}',
        "x" * (MAX_CONTROL + 1),
    ],
)
def test_a_message_that_breaks_a_rule_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        decode(text)


def test_counts_in_messages_are_bounded() -> None:
    for text in (
        control("safe", entries=[MAX_ENTRIES]),
        control("content", parts=[[0, 0, 0]] * (MAX_PARTS + 1)),
        control("content", parts=[[0, 0, MAX_CONTENT], [1, 0, 1]]),
        control("accept", resume=[[0, [[i, EMPTY] for i in range(MAX_PREFIXES + 1)]]]),
        control("accept", resume=[[0, [[5, EMPTY], [5, EMPTY]]]]),
        control("accept", resume=[[0, [[5, EMPTY], [4, EMPTY]]]]),
    ):
        with pytest.raises(ProtocolError):
            decode(text)


def test_unknown_fields_and_unknown_types_are_ignored() -> None:
    assert decode('{"type": "ping", "colour": "blue"}') == Ping()
    assert decode('{"type": "dance"}') is None
    assert decode('{"type": "content", "parts": [[0, 0, 5, null, false, "more"]]}') is not None


def test_text_for_people_is_short_and_plain() -> None:
    assert decode(control("cancel", reason="storage", message="\x1b[2Jx\n" + "y" * 500)) == Cancel(
        "storage", ("[2Jx " + "y" * 500)[: 200 - 1]
    )
    assert decode(control("cancel", reason="Bad Reason!", message=7)) == Cancel("other", "")


@given(st.lists(st.text(max_size=4_000), max_size=60))
def test_long_lists_are_cut_into_messages(items: list[str]) -> None:
    messages = list(control_list("offer", "entries", items, id="x"))
    decoded = [decode(message) for message in messages]
    assert all(len(message) <= CONTROL_SIZE for message in messages)
    assert all(isinstance(message, Offer) for message in decoded)
    assert [item for message in decoded if isinstance(message, Offer) for item in message.entries] == items
    assert [message.more for message in decoded if isinstance(message, Offer)] == (
        [True] * (len(messages) - 1) + [False]
    )


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_whatever_comes_only_protocol_errors_come_out(data: str | bytes) -> None:
    for side in (Sender([Entry(("a",), size=1)], "x", 0.0), Receiver(NameRules(), 0.0)):
        try:
            side.received(data, 0.0)
        except ProtocolError:
            continue


SMALL = st.integers(-1, 6)
ODD = (
    SMALL
    | st.none()
    | st.text(max_size=3)
    | st.sampled_from([MAX_SIZE, MAX_SIZE + 1, 1e9, EMPTY, True, [], {}])
)
ROW = st.lists(ODD, max_size=5)
PART = st.tuples(st.integers(0, 3), SMALL, SMALL, st.sampled_from([None, EMPTY]), st.booleans()).map(list)
RESUME = st.tuples(SMALL, st.lists(st.tuples(SMALL, st.just(EMPTY)).map(list), max_size=3)).map(list)
CONTROLS = st.one_of(
    st.builds(lambda rows: control("content", parts=rows), st.lists(PART | ROW, max_size=3)),
    st.builds(lambda rows: control("safe", entries=rows), st.lists(ODD, max_size=3)),
    st.builds(lambda entry: control("failed", entry=entry), ODD),
    st.builds(lambda count: control("credit", bytes=count), ODD),
    st.builds(
        lambda have, skip, resume, credit, more: control(
            "accept", have=have, skip=skip, resume=resume, credit=credit, more=more
        ),
        st.lists(SMALL, max_size=2),
        st.lists(ROW, max_size=2),
        st.lists(RESUME | ROW, max_size=2),
        ODD,
        st.booleans(),
    ),
    st.sampled_from([control("done"), control("ping"), control("accept"), control("dance")]),
    st.binary(max_size=8),
)


@given(st.lists(CONTROLS, max_size=12), st.lists(st.integers(0, 3), max_size=3))
def test_a_far_side_that_means_harm_gets_nothing_but_protocol_errors(
    messages: list[str | bytes], failing: list[int]
) -> None:
    entries: list[object] = [
        FIVE,
        {"path": ["b"]},
        {"path": ["d"], "kind": "folder"},
        {"path": ["c"], "size": 0},
    ]
    plan = Plan(resume={0: (Prefix(2, EMPTY),)}, skip={3: "exists"} if failing else {})
    receiver = accepted(Receiver(NameRules(), 0.0, window=50), *entries, plan=plan)
    sender = Sender([Entry(("a",), size=5), Entry(("b",)), Entry(("d",), "folder")], "x", 0.0)
    sender.received(hello("receiver"), 0.0)
    reader = MemoryReader([b"12345", b"123", b""])
    written: dict[int, int] = {}
    try:
        for message in messages:
            for action in receiver.received(message, 0.0):
                if isinstance(action, Start):
                    written[action.entry] = action.offset
                elif isinstance(action, Write):
                    written[action.entry] += len(action.data)
                elif isinstance(action, Hole):
                    written[action.entry] += action.length
            for entry in failing[:1]:
                if receiver.outcomes[entry] is None:
                    receiver.failed(entry, "storage", "")
    except ProtocolError:
        pass
    assert written.get(0, 0) <= 5
    assert written.keys() <= {0, 1, 3}
    try:
        for message in messages:
            sender.received(message, 0.0)
            if reads := sender.plan():
                sender.read(reader.read(reads, NEVER))
    except (ProtocolError, Declined):
        pass


# Whole transfers ------------------------------------------------------------------------------


def test_files_folders_and_links_arrive() -> None:
    contents = [b"", b"x" * 3_000_000, b"y", b"", b""]
    entries = [
        Entry(("d", "empty"), size=0),
        Entry(("d", "large"), size=3_000_000),
        Entry(("small",), size=1),
        Entry(("d",), "folder"),
        Entry(("d", "link"), "link", target="large"),
    ]
    disk = MemoryDisk()
    done = session(entries, list(contents), disk).run()
    assert disk.files == {"d/empty": b"", "d/large": b"x" * 3_000_000, "small": b"y"}
    assert disk.parts == {}
    assert done.sender.outcomes == [Outcome("safe")] * 5 == done.receiver.outcomes
    assert {saved.entry for saved in done.result.saved} == set(range(5))


def test_small_files_share_messages() -> None:
    contents: list[bytes | None] = [str(number).encode() for number in range(2_000)]
    run = session(files(*contents), contents, MemoryDisk())
    binary = 0
    while not run.finished:
        binary += sum(not isinstance(message, str) for message in run.sender.outbox[:1])
        assert run.step()
    assert binary <= 2_000 // BATCH_ENTRIES + 1


def test_a_file_of_unknown_size_ends_where_its_digest_says() -> None:
    content = bytes(range(256)) * 10_000
    disk = MemoryDisk()
    session([Entry(("stdin",))], [content], disk).run()
    assert disk.files == {"stdin": content}


def test_holes_are_not_sent() -> None:
    content = b"x" * BATCH_SIZE + bytes(5 * BATCH_SIZE) + b"y"
    disk = MemoryDisk()
    done = session(files(content), [content], disk).run()
    assert disk.files == {"0": content}
    assert done.content == BATCH_SIZE + 1


def test_a_receiver_that_cannot_do_holes_gets_zeros() -> None:
    sender = Sender(files(bytes(5)), "x", 0.0)
    sender.received(hello("receiver", can=[]), 0.0)
    sender.received(control("accept"), 0.0)
    assert [read.holes for read in sender.plan()] == [False]


@pytest.mark.parametrize("piece_size", [1, 1_000, 1 << 20])
def test_the_borders_of_messages_mean_nothing(piece_size: int) -> None:
    contents: list[bytes | None] = [b"a" * 700, b"", b"b" * 1_500, b"c", b""]
    disk = MemoryDisk()
    session(files(*contents), contents, disk, piece_size=piece_size).run()
    assert list(disk.files.values()) == contents


def test_a_small_window_is_kept_to_and_still_gets_everything_across() -> None:
    contents: list[bytes | None] = [b"a" * 5_000, b"b" * 20_000, bytes(9_000)]
    disk = MemoryDisk()
    run = session(files(*contents), contents, disk, window=1_000)
    run.run()  # the receiver refuses what is beyond its window
    assert list(disk.files.values()) == contents


def test_a_receiver_without_credit_gets_everything_at_once() -> None:
    sender = Sender(files(b"x" * 5 * BATCH_SIZE), "x", 0.0)
    reader = MemoryReader([b"x" * 5 * BATCH_SIZE])
    sender.received(hello("receiver"), 0.0)
    sender.received(control("accept"), 0.0)
    while plan := sender.plan():
        sender.read(reader.read(plan, NEVER))
    assert sum(len(message) for message in sender.outbox if not isinstance(message, str)) == 5 * BATCH_SIZE


def test_a_hundred_thousand_entries_fit_the_messages() -> None:
    entries = [Entry((f"{number:06}",), size=0) for number in range(100_000)]
    sender = Sender(entries, "x", 0.0)
    receiver = Receiver(NameRules(), 0.0)
    offered: list[Offered] = []
    for message in sender.outbox:
        assert isinstance(message, str)
        assert len(message) <= CONTROL_SIZE
        offered += [action for action in receiver.received(message, 0.0) if isinstance(action, Offered)]
    assert [offer.files for offer in offered] == [100_000]
    receiver.accept(Plan(have=frozenset(range(0, 100_000, 2))), 0.0)
    wanted = 0
    for message in receiver.outbox:
        assert len(message) <= CONTROL_SIZE
        sender.received(message, 0.0)
    while plan := sender.plan():
        wanted += len(plan)
        sender.read([Chunk(read.entry, digest=EMPTY) for read in plan])
    assert wanted == 50_000


# Going on -------------------------------------------------------------------------------------


def test_what_is_here_is_not_sent_again() -> None:
    contents: list[bytes | None] = [b"a" * 100, b"b" * 100, b"c" * 100, b"d" * 100]
    disk = MemoryDisk()
    disk.files["0"] = b"a" * 100
    disk.parts["1"] = bytearray(b"b" * 60)
    disk.parts["2"] = bytearray(b"c" * 30 + b"?" * 30)  # torn: only the first half fits
    disk.parts["3"] = bytearray(b"?" * 60)
    done = session(files(*contents), contents, disk).run()
    assert list(disk.files.values()) == contents
    assert done.content == 0 + 40 + 70 + 100


def test_what_an_earlier_connection_made_safe_is_had() -> None:
    contents: list[bytes | None] = [b"a" * 100, b"b" * 100]
    disk = MemoryDisk()
    first = session(files(*contents), contents, disk)
    while disk.files.keys() != {"0"} and not first.finished:
        first.step()
        disk.commit()
    second = session(files(*contents), contents, disk).run()
    assert second.content <= 100
    assert list(disk.files.values()) == contents


def test_entries_that_are_skipped_or_refused_are_not_sent() -> None:
    sender = Sender([Entry(("a",), size=5), Entry(("b", "l"), "link", target="/etc")], "x", 0.0)
    receiver = Receiver(NameRules(), 0.0)
    for message in sender.outbox:
        receiver.received(message, 0.0)
    receiver.accept(Plan(skip={0: "exists"}), 0.0)
    actions = [action for message in receiver.outbox for action in sender.received(message, 0.0)]
    assert actions == [Settled((0, 1)), Accepted(0, 0)]
    assert sender.plan() == []
    assert sender.outcomes == [Outcome("skipped", "exists"), Outcome("skipped", "refused")]
    assert sender.outbox[-1] == control("done")


# Failures -------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_does_not_stop_the_others() -> None:
    disk = MemoryDisk()
    done = session(files(b"a", b"b", b"c"), [b"a", None, b"c"], disk).run()
    assert disk.files == {"0": b"a", "2": b"c"}
    assert done.sender.outcomes[1] == Outcome("failed", "unreadable", "no permission")
    assert done.receiver.outcomes[1] == Outcome("failed", "unreadable", "no permission")


def test_a_file_that_fails_halfway_is_abandoned_between_two_others() -> None:
    sender = Sender(files(b"aa", b"bb", b"cc"), "x", 0.0)
    receiver = Receiver(NameRules(), 0.0)
    relay(sender, receiver)
    receiver.accept(Plan(), 0.0)
    relay(sender, receiver)
    sender.plan()
    sender.read(
        [Chunk(0, 0, b"aa", digest=sha(b"aa")), Chunk(1, 0, b"b"), Chunk(1, problem="changed"), Chunk(2)]
    )
    actions = relay(sender, receiver)
    assert [type(action) for action in actions] == [Start, Write, Finish, Start, Write, Abandon]
    assert sender.outcomes[1] == Outcome("failed", "changed")


def test_content_on_its_way_to_a_file_that_failed_here_is_thrown_away() -> None:
    content = b"x" * 3 * BATCH_SIZE
    sender = Sender(files(content, b"y"), "x", 0.0)
    receiver = Receiver(NameRules(), 0.0, window=2 * BATCH_SIZE)
    reader = MemoryReader([content, b"y"])
    relay(sender, receiver)
    receiver.accept(Plan(), 0.0)
    relay(sender, receiver)
    sender.read(reader.read(sender.plan(), NEVER))
    message = [sender.outbox.pop(0) for _ in range(4)]
    for part in message:
        receiver.received(part, 0.0)
    receiver.failed(0, "storage", "too long a name")
    sender.read(reader.read(sender.plan(), NEVER))  # it does not know yet
    assert not any(isinstance(action, Write) for action in relay(sender, receiver))
    assert sender.outcomes[0] == Outcome("failed", "storage", "too long a name")
    sender.read(reader.read(sender.plan(), NEVER))
    assert Finish(1, sha(b"y")) in relay(sender, receiver)


def test_both_sides_may_fail_a_file_at_once() -> None:
    sender = Sender(files(b"aa"), "x", 0.0)
    receiver = Receiver(NameRules(), 0.0)
    relay(sender, receiver)
    receiver.accept(Plan(), 0.0)
    relay(sender, receiver)
    sender.plan()
    sender.read([Chunk(0, problem="vanished")])
    receiver.failed(0, "conflict", "")
    assert relay(sender, receiver) == [Ended()]


def test_what_the_sender_never_sent_is_missing() -> None:
    receiver = Receiver(NameRules(), 0.0)
    accepted(receiver, {"path": ["a"], "size": 5})
    assert receiver.received(control("done"), 0.0) == [
        Abandon(0, "missing", "the sender ended without it"),
        Ended(),
    ]
    receiver.finish()
    assert receiver.finished
    assert receiver.outcomes == [Outcome("failed", "missing", "the sender ended without it")]


def test_what_the_receiver_never_settled_is_missing() -> None:
    sender = Sender([Entry(("d",), "folder")], "x", 0.0)
    sender.received(hello("receiver"), 0.0)
    sender.received(control("accept"), 0.0)
    assert sender.received(control("done"), 0.0) == [Settled((0,)), Finished()]
    assert sender.outcomes[0] is not None
    assert sender.outcomes[0].reason == "missing"


# The end, and silence -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        ("cancelled", Declined),
        ("storage", StorageFailed),
        ("protocol", ProtocolError),
        ("version", ProtocolError),
        ("anything", ConnectionLost),
    ],
)
def test_a_cancel_says_what_it_means(reason: str, error: type[PeerError]) -> None:
    message = control("cancel", reason=reason, message="why")
    with pytest.raises(error, match="why"):
        Sender([Entry(("a",))], "x", 0.0).received(message, 0.0)
    with pytest.raises(error, match="why"):
        Receiver(NameRules(), 0.0).received(message, 0.0)


@pytest.mark.parametrize(("reason", "error"), [("declined", Declined), ("space", StorageFailed)])
def test_a_decline_ends_the_sender(reason: str, error: type[PeerError]) -> None:
    sender = Sender([Entry(("a",))], "x", 0.0)
    receiver = Receiver(NameRules(), 0.0)
    relay(sender, receiver)
    receiver.decline(reason, "not today")
    with pytest.raises(error, match="not today"):
        relay(sender, receiver)
    assert receiver.finished


def test_another_version_is_refused_by_name() -> None:
    with pytest.raises(ProtocolError, match="version 2"):
        Sender([Entry(("a",))], "x", 0.0).received(hello("receiver", version=2), 0.0)


@pytest.mark.parametrize("first", [control("ping"), control("offer", id="x", entries=[]), hello("receiver")])
def test_a_receiver_wants_to_be_greeted_by_a_sender(first: str) -> None:
    with pytest.raises(ProtocolError):
        Receiver(NameRules(), 0.0).received(first, 0.0)


def test_nobody_is_greeted_twice() -> None:
    receiver = Receiver(NameRules(), 0.0)
    receiver.received(hello("sender"), 0.0)
    with pytest.raises(ProtocolError):
        receiver.received(hello("sender"), 0.0)


def test_silence_is_asked_about_and_then_taken_for_the_end() -> None:
    receiver = Receiver(NameRules(), 100.0)
    receiver.received(hello("sender"), 100.0)
    receiver.outbox.clear()
    assert receiver.tick(101.0) == 100.0 + PING_AFTER
    assert receiver.outbox == []
    assert receiver.tick(100.0 + PING_AFTER) == 100.0 + DEAD_AFTER
    assert receiver.tick(101.0 + PING_AFTER) == 100.0 + DEAD_AFTER
    assert receiver.outbox == [control("ping")]
    with pytest.raises(ConnectionLost):
        receiver.tick(100.0 + DEAD_AFTER)
    receiver.received(control("pong"), 100.0 + DEAD_AFTER)
    assert receiver.tick(101.0 + DEAD_AFTER) > 101.0 + DEAD_AFTER


def test_who_asks_without_listening_gets_one_answer() -> None:
    receiver = Receiver(NameRules(), 0.0)
    receiver.received(hello("sender"), 0.0)
    receiver.outbox.clear()
    for _ in range(1_000):
        receiver.received(control("ping"), 1.0)
    assert receiver.outbox == [control("pong")]


def test_a_ping_is_answered_and_sending_counts_as_life() -> None:
    sender = Sender([Entry(("a",))], "x", 0.0)
    sender.received(hello("receiver"), 0.0)
    sender.outbox.clear()
    sender.received(control("ping"), 1.0)
    assert sender.outbox == [control("pong")]
    sender.progressed(50.0)
    assert sender.tick(50.0 + DEAD_AFTER - 1) == 50.0 + DEAD_AFTER


def test_while_content_comes_the_sender_hears_of_it() -> None:
    receiver = Receiver(NameRules(), 0.0)
    accepted(receiver, {"path": ["a"], "size": 100})
    receiver.received(control("content", parts=[[0, 0, 50]]), 0.0)
    receiver.received(b"x" * 25, 1.0)
    receiver.stored(25, 1.0)
    assert receiver.outbox == []
    receiver.received(b"x" * 25, 3.0)
    receiver.stored(25, 3.0)
    assert len(receiver.outbox) == 1
    assert json.loads(str(receiver.outbox[0]))["type"] == "credit"


# Hostile senders ------------------------------------------------------------------------------


def relay(sender: Sender, receiver: Receiver) -> list[Any]:
    """Carries all that is waiting; what the receiver is to do."""
    actions: list[Any] = []
    while sender.outbox or receiver.outbox:
        for message in receiver.outbox[:]:
            receiver.outbox.remove(message)
            sender.received(message, 0.0)
        while sender.outbox:
            actions += receiver.received(sender.outbox.pop(0), 0.0)
    return [action for action in actions if not isinstance(action, Offered)]


def accepted(receiver: Receiver, *entries: object, plan: Plan | None = None) -> Receiver:
    receiver.received(hello("sender"), 0.0)
    receiver.received(control("offer", id="x", entries=entries), 0.0)
    receiver.accept(plan or Plan(), 0.0)
    receiver.outbox.clear()
    return receiver


FIVE = {"path": ["a"], "size": 5}
OTHER = {"path": ["b"], "size": 5}


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([b"x"], id="content without a header"),
        pytest.param([control("content", parts=[[0, 0, 5]]), b"123456"], id="more than was announced"),
        pytest.param(
            [control("content", parts=[[0, 0, 5]]), b"1", control("content", parts=[])], id="next header"
        ),
        pytest.param([control("content", parts=[[0, 0, 6]])], id="beyond the size"),
        pytest.param([control("content", parts=[[0, 0, 6, None, True]])], id="a hole beyond the size"),
        pytest.param([control("content", parts=[[0, 1, 1]])], id="an offset that was not proposed"),
        pytest.param([control("content", parts=[[0, 0, 1], [0, 2, 1]]), b"12"], id="a gap"),
        pytest.param([control("content", parts=[[0, 0, 2], [0, 1, 1]]), b"123"], id="an overlap"),
        pytest.param([control("content", parts=[[0, 0, 3, EMPTY]]), b"123"], id="too short"),
        pytest.param(
            [control("content", parts=[[0, 0, 1], [1, 0, 1]]), b"12"], id="the next before the last"
        ),
        pytest.param([control("content", parts=[[2, 0, 1]])], id="content for a folder"),
        pytest.param([control("content", parts=[[3, 0, 1]])], id="content for a link"),
        pytest.param([control("content", parts=[[4, 0, 1]])], id="an entry that is none"),
        pytest.param([control("content", parts=[[0, 0, 5, EMPTY]]), b"12345"] * 2, id="a file twice"),
        pytest.param(
            [control("content", parts=[[0, 0, 2]]), b"1", control("done")], id="an end inside content"
        ),
        pytest.param(
            [control("content", parts=[[0, 0, 2]]), b"1", control("failed", entry=0)],
            id="giving up inside content",
        ),
        pytest.param(
            [control("content", parts=[[0, 0, 5, EMPTY]]), b"12345", control("failed", entry=0)],
            id="giving up what is complete",
        ),
        pytest.param([control("failed", entry=4)], id="giving up what is none"),
        pytest.param([control("done"), control("content", parts=[])], id="content after the end"),
        pytest.param([control("done"), control("done")], id="two ends"),
        pytest.param([control("offer", id="x", entries=[FIVE])], id="a second offer"),
        pytest.param([control("accept")], id="an accept"),
        pytest.param([control("safe", entries=[0])], id="a safe"),
        pytest.param([control("credit", bytes=5)], id="a credit"),
    ],
)
def test_a_sender_that_breaks_a_rule_is_refused(messages: list[str | bytes]) -> None:
    folder = {"path": ["d"], "kind": "folder"}
    link = {"path": ["d", "l"], "kind": "link", "target": "x"}
    receiver = accepted(Receiver(NameRules(), 0.0), FIVE, OTHER, folder, link)
    with pytest.raises(ProtocolError):
        feed(receiver, messages)


def feed(side: Sender | Receiver, messages: list[str | bytes]) -> None:
    for message in messages:
        side.received(message, 0.0)


def test_content_that_was_not_wanted_is_refused() -> None:
    for plan in (Plan(have=frozenset({0})), Plan(skip={0: "exists"})):
        receiver = accepted(Receiver(NameRules(), 0.0), FIVE, plan=plan)
        with pytest.raises(ProtocolError):
            receiver.received(control("content", parts=[[0, 0, 5]]), 0.0)


def test_a_file_may_begin_only_where_it_was_proposed() -> None:
    plan = Plan(resume={0: (Prefix(3, EMPTY),)})
    receiver = accepted(Receiver(NameRules(), 0.0), FIVE, plan=plan)
    assert receiver.received(control("content", parts=[[0, 3, 2]]), 0.0) == [Start(0, 3)]
    with pytest.raises(ProtocolError):
        accepted(Receiver(NameRules(), 0.0), FIVE, plan=plan).received(
            control("content", parts=[[0, 2, 3]]), 0.0
        )


def test_credit_and_the_greatest_size_are_held() -> None:
    with pytest.raises(ProtocolError, match="credit"):
        accepted(Receiver(NameRules(), 0.0, window=4), FIVE).received(
            control("content", parts=[[0, 0, 5]]), 0.0
        )
    endless = accepted(Receiver(NameRules(), 0.0, max_bytes=1_000), {"path": ["a"]})
    endless.received(control("content", parts=[[0, 0, 1_000]]), 0.0)
    endless.received(bytes(1_000), 0.0)
    with pytest.raises(ProtocolError, match="more than"):
        endless.received(control("content", parts=[[0, 1_000, 1]]), 0.0)


@pytest.mark.parametrize(
    "messages",
    [
        [control("offer", id="x", entries=[])],
        [control("offer", id="x", entries=[FIVE], more=True), control("offer", id="y", entries=[OTHER])],
        [control("offer", id="x", entries=[FIVE, FIVE])],
        [control("content", parts=[])],
        [control("done")],
        [control("failed", entry=0)],
    ],
)
def test_a_bad_offer_is_refused(messages: list[str | bytes]) -> None:
    with pytest.raises(ProtocolError):
        feed(Receiver(NameRules(), 0.0), [hello("sender"), *messages])


def test_nothing_is_taken_before_the_answer() -> None:
    receiver = Receiver(NameRules(), 0.0)
    feed(receiver, [hello("sender"), control("offer", id="x", entries=[FIVE])])
    with pytest.raises(ProtocolError):
        receiver.received(control("content", parts=[[0, 0, 5]]), 0.0)


def test_a_refused_entry_is_skipped_whatever_the_plan_says() -> None:
    link = {"path": ["d", "l"], "kind": "link", "target": "/etc"}
    receiver = accepted(Receiver(NameRules(), 0.0), link, plan=Plan(have=frozenset({0})))
    assert receiver.outcomes[0] is not None
    assert receiver.outcomes[0].state == "skipped"


# Hostile receivers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([b"x"], id="content"),
        pytest.param([control("content", parts=[])], id="a header"),
        pytest.param([control("offer", id="x", entries=[FIVE])], id="an offer"),
        pytest.param([control("safe", entries=[0])], id="safe before the answer"),
        pytest.param([control("credit", bytes=5)], id="credit before the answer"),
        pytest.param([control("failed", entry=0)], id="failed before the answer"),
        pytest.param([control("accept", have=[2])], id="having what is none"),
        pytest.param([control("accept", have=[0, 0])], id="having it twice"),
        pytest.param([control("accept", have=[0], skip=[[0, "exists"]])], id="having and skipping"),
        pytest.param([control("accept", resume=[[0, [[6, EMPTY]]]])], id="more than there is"),
        pytest.param([control("accept", resume=[[1, [[1, EMPTY]]]])], id="more of a folder"),
        pytest.param([control("accept", resume=[[2, [[1, EMPTY]]]])], id="more of what is none"),
        pytest.param([control("accept"), control("accept")], id="two answers"),
        pytest.param([control("accept"), control("decline")], id="a second thought"),
        pytest.param([control("accept"), control("safe", entries=[0])], id="safe before it was sent"),
        pytest.param([control("accept"), control("safe", entries=[1, 1])], id="safe twice"),
        pytest.param([control("accept"), control("safe", entries=[2])], id="safe what is none"),
        pytest.param([control("accept"), control("failed", entry=2)], id="failed what is none"),
        pytest.param([control("accept"), control("done")], id="done before the end"),
    ],
)
def test_a_receiver_that_breaks_a_rule_is_refused(messages: list[str | bytes]) -> None:
    sender = Sender([Entry(("a",), size=5), Entry(("d",), "folder")], "x", 0.0)
    with pytest.raises((ProtocolError, Declined)):
        feed(sender, [hello("receiver"), *messages])


def test_proposals_are_bounded_in_number() -> None:
    sender = Sender([Entry(("a",), size=MAX_SIZE)], "x", 0.0)
    sender.received(hello("receiver"), 0.0)
    row = [0, [[offset, EMPTY] for offset in range(MAX_PREFIXES)]]
    message = control("accept", resume=[row] * 40, more=True)
    with pytest.raises(ProtocolError, match="too many"):
        feed(sender, [message] * 10)


# Connections that break, processes that die ---------------------------------------------------


@pytest.mark.parametrize("dies", ["connection", "receiver"])
def test_an_end_at_any_step_is_gone_on_from(dies: str) -> None:
    """Whatever was under way then: a sender that knows all outcomes leaves nobody waiting for more."""
    contents = [b"", b"small", bytes(range(256)) * 5, None]
    entries = [*files(*contents[:3]), Entry(("folder",), "folder")]
    sent = {"0": b"", "1": b"small", "2": bytes(range(256)) * 5}
    step = 0
    over = False
    while not over:
        disk = MemoryDisk()
        first = session(entries, contents, disk, piece_size=300, window=600)
        over = not all(first.finished or first.step() for _ in range(step)) or first.finished
        if None not in first.sender.outcomes:
            assert None not in first.receiver.outcomes
            assert disk.files == sent
        if dies == "receiver":
            disk.crash()
        second = session(entries, contents, disk, piece_size=300, window=600, safe=first.safe).run()
        assert second.sender.outcomes == [Outcome("safe")] * 4
        assert disk.files == sent
        step += 1
    assert step > 20


@settings(deadline=None, suppress_health_check=list(HealthCheck))
class Transfers(RuleBasedStateMachine):
    """One transfer through any number of lost connections and killed processes; the source is the model."""

    @initialize(
        contents=st.lists(
            st.binary(max_size=3_000) | st.integers(0, 9_000).map(bytes), min_size=1, max_size=8
        ),
        piece_size=st.integers(1, 4_000),
        window=st.integers(500, 5_000),
        stream=st.booleans(),
    )
    def begin(self, contents: list[bytes], piece_size: int, window: int, stream: bool) -> None:
        self.contents: list[bytes | None] = [*contents, b""]
        self.entries = [*files(*contents), Entry(("folder",), "folder")]
        if stream:
            self.entries[0] = Entry(("0",))
        self.disk = MemoryDisk()
        self.options: dict[str, Any] = {"piece_size": piece_size, "window": window}
        self.safe: set[int] = set()
        self.session = self.connect()

    def connect(self) -> Session:
        return session(self.entries, self.contents, self.disk, safe=self.safe, **self.options)

    @rule(steps=st.integers(1, 60))
    @precondition(lambda self: not self.session.finished)
    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            if not self.session.finished:
                assert self.session.step()

    @rule()
    def lose_the_connection(self) -> None:
        self.session = self.connect()

    @rule()
    def kill_the_receiver(self) -> None:
        self.disk.crash()
        self.session = self.connect()

    @rule(data=st.data())
    @precondition(lambda self: self.disk.parts)
    def lose_power(self, data: st.DataObject) -> None:
        """What was not synced is torn: cut, or zeros from some point on."""
        name = data.draw(st.sampled_from(sorted(self.disk.parts)))
        part = self.disk.parts[name]
        at = data.draw(st.integers(0, len(part)))
        zeros = data.draw(st.integers(0, len(part) - at))
        part[at:] = bytes(zeros)
        self.kill_the_receiver()

    @invariant()
    def nothing_wrong_is_in_place(self) -> None:
        if hasattr(self, "disk"):
            for name, content in self.disk.files.items():
                assert content == self.contents[int(name)]

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.session.run()
            sent = {str(index): content for index, content in enumerate(self.contents[:-1])}
            assert self.disk.files == sent
            assert self.session.sender.outcomes == [Outcome("safe")] * len(self.entries)


TestTransfers = Transfers.TestCase


def test_a_receiver_reads_holes_and_parts_in_one_header() -> None:
    receiver = accepted(Receiver(NameRules(), 0.0), {"path": ["a"], "size": 12})
    header = control("content", parts=[[0, 0, 2], [0, 2, 8, None, True], [0, 10, 2, EMPTY]])
    actions = [*receiver.received(header, 0.0), *receiver.received(b"abcd", 0.0)]
    assert [type(action) for action in actions] == [Start, Write, Hole, Write, Finish]
