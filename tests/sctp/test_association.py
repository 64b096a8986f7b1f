from __future__ import annotations

import math
import struct
from collections import defaultdict

import pytest

from peercli.errors import MessageTooBig
from peercli.sctp import packet
from peercli.sctp.association import HEARTBEAT_INTERVAL, MAX_INIT_TRIES, Association, State
from peercli.sctp.cookie import COOKIE_LIFE
from peercli.sctp.events import (
    ChannelAcknowledged,
    ChannelClosed,
    ChannelOpened,
    Closed,
    Connected,
    MessageReceived,
    ProbeAcked,
    ProbeLost,
    RoomAvailable,
)
from peercli.sctp.packet import Cause, Chunk
from peercli.sctp.sender import PACING_QUANTUM
from tests.bench.sctp_pure import FixedWindow
from tests.sctp.simulator import Endpoint, Path, Simulation


def kinds(whole: bytes) -> list[int]:
    return [kind for kind, *_ in packet.chunks(whole)]


def drop_first(kind: int, count: int = 1) -> Path:
    """A path that loses the first `count` packets that hold such a chunk."""
    left = [count]

    def drop(whole: bytes) -> bool:
        if kind in kinds(whole) and left[0]:
            left[0] -= 1
            return True
        return False

    return Path(drop=drop)


def states(simulation: Simulation) -> tuple[State, State]:
    return simulation.client.association.state, simulation.server.association.state


def sealed(sender: Endpoint, *chunks: bytes) -> bytes:
    """A packet as `sender` would make it, with a checksum."""
    association = sender.association
    seal = packet.sealer(*association._ports, association._peer_tag)
    return seal(b"".join(chunks))


# Set-up ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("both", [False, True])
def test_an_association_is_set_up(both: bool) -> None:
    simulation = Simulation()
    simulation.connect(both=both)
    assert [e.count(Connected) for e in (simulation.client, simulation.server)] == [1, 1]
    assert simulation.now <= 1_000.0 + 4 * 0.01 + 1e-6


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", [Chunk.INIT, Chunk.INIT_ACK, Chunk.COOKIE_ECHO, Chunk.COOKIE_ACK])
def test_set_up_survives_the_loss_of_any_packet(kind: Chunk, both: bool) -> None:
    simulation = Simulation(drop_first(kind, 2), drop_first(kind, 2))
    simulation.connect(both=both)
    channel = simulation.client.association.open_channel("x")
    assert simulation.transfer(simulation.client, channel, [b"hello"])


def test_set_up_gives_up_in_the_end() -> None:
    simulation = Simulation(Path(loss=1.0))
    simulation.client.association.connect(simulation.now)
    assert simulation.run(lambda: simulation.client.count(Closed) == 1, seconds=300)
    assert simulation.there.carried == MAX_INIT_TRIES + 1
    assert simulation.client.association.timeout() is None


def test_data_before_the_cookie_ack_shows_that_the_set_up_is_done() -> None:
    simulation = Simulation()
    channel = simulation.server.association.open_channel("x")
    simulation.server.association.send(channel, b"hello", now=simulation.now)
    simulation.back.drop = drop_first(Chunk.COOKIE_ACK).drop
    simulation.client.association.connect(simulation.now)
    simulation.run(seconds=0.1)
    assert states(simulation) == (State.COOKIE_ECHOED, State.ESTABLISHED)
    simulation.server.association.send(channel, b"hello again", now=simulation.now)
    simulation.run(seconds=0.1)
    assert states(simulation) == (State.ESTABLISHED, State.ESTABLISHED)
    assert simulation.run(lambda: len(simulation.client.received[channel]) == 2, seconds=5)


@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.015, 0.025, 0.035])
def test_abort_during_the_set_up(seconds: float) -> None:
    simulation = Simulation()
    simulation.client.association.connect(simulation.now)
    simulation.run(seconds=seconds)
    simulation.client.association.abort("changed my mind")
    for packet_sent in simulation.client.association.packets(simulation.now):
        assert packet.checksum_is_right(packet_sent)
    simulation.run(seconds=60)
    assert simulation.client.events[-1] == Closed("changed my mind")
    assert simulation.client.association.timeout() is None


def test_what_is_queued_before_the_set_up_is_sent_after_it() -> None:
    simulation = Simulation()
    channel = simulation.client.association.open_channel("early")
    simulation.client.association.send(channel, b"bird", now=simulation.now)
    simulation.connect()
    assert simulation.run(lambda: simulation.server.received[channel] == [b"bird"], seconds=1)


def test_a_far_side_that_knows_no_extensions_is_served() -> None:
    simulation = Simulation()
    server = simulation.association(is_client=False, interleaving=False, zero_checksum=False)
    server._extensions = lambda: frozenset()  # type: ignore[method-assign]
    simulation.server.association = server
    simulation.connect()
    channel = simulation.client.association.open_channel("x", max_retransmits=0)
    assert simulation.transfer(simulation.client, channel, [bytes(5000)])
    assert simulation.client.association.sender is not None
    assert not simulation.client.association.sender.partial_reliability
    simulation.client.association.close_channel(channel)
    assert simulation.run(lambda: simulation.client.count(ChannelClosed) == 1, seconds=1)


def test_optional_parameters_are_asked_for_once() -> None:
    """Some stacks fail on an INIT with a parameter that they do not know."""
    simulation = Simulation()
    inits: list[packet.Init] = []

    def pick_init(sender: Endpoint, whole: bytes) -> None:
        for kind, _, start, end in packet.chunks(whole):
            if kind == Chunk.INIT:
                inits.append(packet.Init.unpack(whole[start:end]))

    simulation.on_packet = pick_init
    simulation.there.drop = lambda whole: inits[-1].zero_checksum
    simulation.client.association.connect(simulation.now)
    assert simulation.run(lambda: simulation.client.count(Connected) == 1, seconds=5)
    assert [init.zero_checksum for init in inits] == [True, False]


def test_a_stale_cookie_is_refused_and_the_set_up_begun_again() -> None:
    simulation = Simulation(Path(delay=0.01), Path(delay=0.01))
    held: list[bytes] = []

    def hold_first_echo(whole: bytes) -> bool:
        if kinds(whole) == [Chunk.COOKIE_ECHO] and not held:
            held.append(whole)
            return True
        return False

    simulation.there.drop = hold_first_echo
    simulation.client.association.connect(simulation.now)
    simulation.run(lambda: bool(held), seconds=1)
    server = simulation.association(is_client=False)
    server._cookie_key = simulation.server.association._cookie_key
    server.receive(held, simulation.now + COOKIE_LIFE + 1)
    (answer,) = server.packets(simulation.now + COOKIE_LIFE + 1)
    assert server.state is State.CLOSED
    assert kinds(answer) == [Chunk.ERROR]
    simulation.client.association.receive([answer], simulation.now)
    assert simulation.client.association.state is State.COOKIE_WAIT
    assert simulation.run(lambda: simulation.client.count(Connected) == 1, seconds=5)


def test_a_cookie_that_was_tampered_with_is_ignored() -> None:
    simulation = Simulation()
    echoes: list[bytes] = []
    simulation.there.drop = lambda whole: kinds(whole) == [Chunk.COOKIE_ECHO] and not echoes.append(whole)  # type: ignore[func-returns-value]
    simulation.client.association.connect(simulation.now)
    simulation.run(lambda: bool(echoes), seconds=1)
    tag = int.from_bytes(echoes[0][4:8], "big")
    cookie = echoes[0][16:]
    for spot in range(0, len(cookie), 3):
        bad = bytearray(cookie)
        bad[spot] ^= 1
        whole = packet.sealer(5000, 5000, tag)(packet.chunk(Chunk.COOKIE_ECHO, 0, bytes(bad)))
        simulation.server.association.receive([whole], simulation.now)
        assert simulation.server.association.state is State.CLOSED
    wrong_tag = packet.sealer(5000, 5000, tag ^ 1)(packet.chunk(Chunk.COOKIE_ECHO, 0, cookie))
    simulation.server.association.receive([wrong_tag], simulation.now)
    assert states(simulation)[1] is State.CLOSED
    simulation.server.association.receive([echoes[0]], simulation.now)
    assert states(simulation)[1] is State.ESTABLISHED


def test_an_init_in_the_middle_changes_nothing() -> None:
    simulation = Simulation()
    simulation.connect()
    before = simulation.server.association.sender
    stranger = Association(is_client=True)
    stranger.connect(simulation.now)
    simulation.server.association.receive(stranger.packets(simulation.now), simulation.now)
    simulation.server.association.packets(simulation.now)
    assert simulation.server.association.sender is before
    assert simulation.server.association.state is State.ESTABLISHED
    channel = simulation.client.association.open_channel("x")
    assert simulation.transfer(simulation.client, channel, [bytes(60_000)])


def test_a_far_side_that_begins_anew_is_followed() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.server.association.open_channel("old")
    assert simulation.transfer(simulation.server, channel, [b"before"])
    simulation.client.association = simulation.association(is_client=True)
    simulation.client.association.connect(simulation.now)
    assert simulation.run(lambda: simulation.client.count(Connected) == 2, seconds=5)
    simulation.run(seconds=1)
    assert simulation.server.count(ChannelClosed) == 1
    assert simulation.server.count(Connected) == 2
    channel = simulation.client.association.open_channel("new")
    assert simulation.transfer(simulation.client, channel, [b"after"])


def test_a_duplicate_cookie_echo_is_acknowledged_again() -> None:
    simulation = Simulation()
    echoes: list[bytes] = []
    simulation.on_packet = lambda sender, whole: (
        echoes.append(whole) if Chunk.COOKIE_ECHO in kinds(whole) else None
    )
    simulation.connect(both=False)
    channel = simulation.client.association.open_channel("x")
    assert simulation.transfer(simulation.client, channel, [bytes(10_000)])
    simulation.server.association.receive(echoes, simulation.now)
    answers = simulation.server.association.packets(simulation.now)
    assert [kind for whole in answers for kind in kinds(whole)] == [Chunk.COOKIE_ACK]
    assert simulation.server.count(Connected) == 1
    assert simulation.transfer(simulation.client, channel, [bytes(10_000)])


# Data -----------------------------------------------------------------------------------------


def test_messages_of_all_sizes_arrive_as_they_were() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    messages = [bytes([size % 251]) * size for size in (1, 2, 3, 4, 5, 1131, 1132, 1133, 2264, 65536, 262144)]
    assert simulation.transfer(simulation.client, channel, messages)
    assert simulation.server.received[channel] == messages


def test_text_and_empty_messages_are_told_apart() -> None:
    simulation = Simulation()
    simulation.connect()
    association = simulation.client.association
    channel = association.open_channel("x")
    for data, text in [(b"", True), (b"", False), (b"t", True), (b"b", False)]:
        association.send(channel, data, text=text, now=simulation.now)
    simulation.run(lambda: simulation.server.count(MessageReceived) == 4, seconds=1)
    messages = [event for event in simulation.server.events if isinstance(event, MessageReceived)]
    assert [(m.data, m.text) for m in messages] == [(b"", True), (b"", False), (b"t", True), (b"b", False)]
    assert simulation.server.association.receiver is not None
    assert simulation.server.association.receiver.held == 0


def test_a_message_that_the_far_side_would_not_take_is_refused() -> None:
    association = Association(is_client=True)
    channel = association.open_channel("x")
    association.send(channel, bytes(65_536), now=0.0)
    with pytest.raises(MessageTooBig):
        association.send(channel, bytes(65_537), now=0.0)
    association = Association(is_client=True, remote_max_message_size=0)
    association.send(association.open_channel("x"), bytes(65_537), now=0.0)


def test_a_message_larger_than_announced_ends_the_association() -> None:
    simulation = Simulation()
    simulation.server.association = simulation.association(is_client=False, local_max_message_size=100_000)
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.client.association.send(channel, bytes(100_001), now=simulation.now)
    assert simulation.run(lambda: simulation.client.count(Closed) == 1, seconds=5)
    assert states(simulation) == (State.CLOSED, State.CLOSED)
    (closed,) = [event for event in simulation.client.events if isinstance(event, Closed)]
    assert "too large" in closed.error


def test_the_send_buffer_is_bounded_and_tells_of_room() -> None:
    simulation = Simulation()
    simulation.connect()
    association = simulation.client.association
    channel = association.open_channel("x")
    while association.room(channel):
        association.send(channel, bytes(65_536), now=simulation.now)
    assert association.buffered_amount(channel) < (1 << 20) + 65_536 + 100
    with pytest.raises(BufferError):
        association.send(channel, b"more", now=simulation.now)
    assert simulation.run(lambda: simulation.client.count(RoomAvailable) == 1, seconds=5)
    association.send(channel, b"more", now=simulation.now)


def test_a_full_packet_follows_a_full_packet() -> None:
    """Tails of messages share their packet with the next: segmentation offload needs equal sizes."""
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [b"warm-up"])
    sizes: list[int] = []
    simulation.on_packet = lambda sender, whole: (
        sizes.append(len(whole)) if sender is simulation.client else None
    )
    simulation.transfer(simulation.client, channel, [bytes(65_536)] * 8)
    odd = [size for size in sizes if size != 1160]
    assert len(odd) <= 3


def test_few_sacks_acknowledge_a_batch_from_our_own_kind() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [bytes(65_536)] * 16)
    data, sacks = simulation.there.carried, simulation.back.carried
    assert sacks < data / 2


def test_every_four_packets_get_a_sack_from_us_when_the_far_side_counts_them() -> None:
    simulation = Simulation()
    simulation.client.association = association = simulation.association(
        is_client=True, interleaving=False, controller=lambda mtu: FixedWindow(mtu, 100)
    )
    simulation.connect()
    channel = association.open_channel("x")
    simulation.transfer(simulation.client, channel, [b"warm-up"])
    association.send(channel, bytes(10_000), now=simulation.now)
    batch = association.packets(simulation.now)
    assert len(batch) == 9
    simulation.server.association.receive(batch, simulation.now)
    answers = simulation.server.association.packets(simulation.now)
    assert [kinds(whole) for whole in answers] == [[Chunk.SACK]] * 3  # the last was asked for by the I bit


def test_a_single_packet_is_acknowledged_a_little_later() -> None:
    simulation = Simulation()
    simulation.connect()
    association = simulation.client.association
    channel = association.open_channel("x")
    simulation.transfer(simulation.client, channel, [b"warm-up"])
    association.send(channel, bytes(10_000), now=simulation.now)
    batch = association.packets(simulation.now)
    server = simulation.server.association
    server.receive(batch[:1], simulation.now)
    assert server.packets(simulation.now) == []
    due = server.timeout()
    assert due is not None
    assert 0 < due - simulation.now < 0.1
    server.handle_timeout(due)
    assert [kinds(whole) for whole in server.packets(due)] == [[Chunk.SACK]]


def test_loss_is_repaired_without_a_timeout() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [bytes(60_000)] * 4)
    count = [0]

    def drop(whole: bytes) -> bool:
        count[0] += 1
        return count[0] % 17 == 5

    simulation.there.drop = drop
    assert simulation.transfer(simulation.client, channel, [bytes(60_000)] * 10, seconds=5)
    sender = simulation.client.association.sender
    assert sender is not None
    assert sender.timeouts == 0
    assert sender.retransmits <= simulation.there.lost + 6


def test_a_lost_tail_is_repaired_by_a_probe() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [bytes(10_000)])
    simulation.run(seconds=1)
    simulation.there.drop = drop_first(Chunk.I_DATA, 3).drop
    start = simulation.now
    assert simulation.transfer(simulation.client, channel, [bytes(3_000)], seconds=5)
    sender = simulation.client.association.sender
    assert sender is not None
    assert sender.timeouts == 0
    assert simulation.now - start < 0.2


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("by_client", [False, True])
def test_the_very_first_message_is_repaired_by_a_probe(by_client: bool, both: bool) -> None:
    """The set-up has told how long a round trip takes (RFC 9260 section 6.3.1)."""
    simulation = Simulation()
    simulation.connect(both=both)
    sender, path = (
        (simulation.client, simulation.there) if by_client else (simulation.server, simulation.back)
    )
    assert sender.association.srtt == pytest.approx(0.02)
    path.drop = drop_first(Chunk.I_DATA).drop
    start = simulation.now
    channel = sender.association.open_channel("x")
    assert simulation.transfer(sender, channel, [b"hello"], seconds=5)
    assert simulation.now - start < 0.2


@pytest.mark.parametrize("kind", [Chunk.COOKIE_ECHO, Chunk.COOKIE_ACK])
def test_a_set_up_with_losses_tells_of_no_round_trip(kind: Chunk) -> None:
    """What was sent twice was answered who knows when (RFC 9260 section 6.3.1 C5)."""
    simulation = Simulation(drop_first(kind), drop_first(kind))
    simulation.connect(both=False)
    lossy = simulation.server if kind is Chunk.COOKIE_ECHO else simulation.client
    assert lossy.association.srtt is None


@pytest.mark.parametrize("held_up", ["by the application", "by the window"])
def test_time_that_pacing_did_not_cost_is_not_made_up_for(held_up: str) -> None:
    simulation = Simulation(Path(delay=0.02, rate=6_250_000), Path(delay=0.02))
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    assert simulation.transfer(simulation.client, channel, [bytes(60_000)] * 200)
    sender = simulation.client.association.sender
    assert sender is not None
    simulation.server.reading = held_up != "by the window"
    assert simulation.transfer(simulation.client, channel, [bytes(60_000)] * 200) == simulation.server.reading
    simulation.run(seconds=1)
    sent: dict[float, int] = defaultdict(int)

    def watch(endpoint: Endpoint, whole: bytes) -> None:
        if endpoint is simulation.client:
            sent[simulation.now] += len(whole)

    simulation.on_packet = watch
    simulation.server.reading = True
    simulation.server.read()
    simulation.transfer(simulation.client, channel, [bytes(60_000)] * 20)
    assert sum(sent.values()) > 1_000_000
    assert max(sent.values()) < 2 * sender.controller.pacing_rate * PACING_QUANTUM + 2 * 1_160


def test_a_dead_path_ends_the_association_after_a_while() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [b"alive"])
    simulation.there.loss = simulation.back.loss = 1.0
    simulation.client.association.send(channel, b"anyone?", now=simulation.now)
    start = simulation.now
    assert simulation.run(lambda: simulation.client.count(Closed) == 1, seconds=600)
    assert 30 < simulation.now - start < 120


def test_an_outage_is_survived() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.client.to_send[channel] = [bytes([n]) * 60_000 for n in range(50)]
    simulation.run(lambda: len(simulation.server.received[channel]) >= 5, seconds=5)
    simulation.there.loss = simulation.back.loss = 1.0
    simulation.run(seconds=20)
    simulation.there.loss = simulation.back.loss = 0.0
    assert simulation.run(lambda: len(simulation.server.received[channel]) == 50, seconds=30)
    assert simulation.server.received[channel] == [bytes([n]) * 60_000 for n in range(50)]


def test_what_was_acknowledged_in_gaps_and_then_dropped_is_sent_again() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [bytes(10_000)])
    client, server = simulation.client.association, simulation.server.association
    assert client.sender is not None
    client.send(channel, bytes(range(250)) * 40, now=simulation.now)
    batch = client.packets(simulation.now)
    cum = client.sender._out.cum
    reneging = [
        sealed(simulation.server, packet.sack(cum & 0xFFFFFFFF, 1 << 20, [2, 5], [])),
        sealed(simulation.server, packet.sack((cum + 1) & 0xFFFFFFFF, 1 << 20, [], [])),
    ]
    simulation.server.association.receive(batch[:1], simulation.now)
    client.receive(reneging[:1], simulation.now)
    client.receive(reneging[1:], simulation.now)
    server.packets(simulation.now)
    assert simulation.run(lambda: len(simulation.server.received[channel]) == 2, seconds=10)
    assert simulation.server.received[channel][1] == bytes(range(250)) * 40


def test_a_far_side_that_tells_of_few_gaps_is_not_sent_everything_twice() -> None:
    simulation = Simulation(Path(loss=0.1), Path())
    simulation.connect()
    receiver = simulation.server.association.receiver
    assert receiver is not None
    whole_sack = receiver.sack

    def short_sack() -> bytes:
        starts, ends = receiver._ahead.starts, receiver._ahead.ends
        receiver._ahead.starts, receiver._ahead.ends = starts[:20], ends[:20]
        try:
            return whole_sack()
        finally:
            receiver._ahead.starts, receiver._ahead.ends = starts, ends

    receiver.sack = short_sack  # type: ignore[method-assign]
    channel = simulation.client.association.open_channel("x")
    assert simulation.transfer(simulation.client, channel, [bytes(60_000)] * 60)
    assert receiver.duplicates_received < 0.05 * simulation.there.carried


def test_a_sack_of_what_was_never_sent_is_ignored() -> None:
    simulation = Simulation()
    simulation.connect()
    sender = simulation.client.association.sender
    assert sender is not None
    for cumulative in (sender._out.next_tsn, sender._out.next_tsn + 1000, sender._out.next_tsn + (1 << 30)):
        whole = sealed(simulation.server, packet.sack(cumulative & 0xFFFFFFFF, 1 << 20, [2, 9], []))
        simulation.client.association.receive([whole], simulation.now)
    assert sender._out.cum + 1 == sender._out.next_tsn
    assert sender.in_flight == sender.outstanding == 0


# Silence --------------------------------------------------------------------------------------


def watchful(path: Path | None = None) -> Simulation:
    """Two sides that look after each other; connected."""
    simulation = Simulation(*([path] if path else []))
    for endpoint, is_client in ((simulation.client, True), (simulation.server, False)):
        endpoint.association = simulation.association(is_client=is_client, keepalive=True)
    simulation.connect()
    return simulation


@pytest.mark.parametrize("idle", [0.0, 0.3, 1.0, 30.0])
@pytest.mark.parametrize("sending", [False, True])
def test_a_dead_far_side_is_noticed_within_ten_seconds(idle: float, sending: bool) -> None:
    simulation = watchful(Path(rate=1e6))
    channel = simulation.client.association.open_channel("x")
    simulation.run(seconds=idle)
    if sending:
        simulation.client.to_send[channel] = [bytes(60_000)] * 1_000
        simulation.run(seconds=1.0)
    death = simulation.now
    simulation.there.loss = simulation.back.loss = 1.0
    simulation.run(lambda: states(simulation) == (State.CLOSED, State.CLOSED), seconds=60)
    assert 8.5 < simulation.now - death < 10.5  # and up to a round trip of what was on its way
    assert Closed("the far side is silent") in simulation.client.events


@pytest.mark.parametrize("sending", [False, True])
@pytest.mark.parametrize("delay", [0.01, 0.5])
def test_an_outage_of_five_seconds_is_no_death(sending: bool, delay: float) -> None:
    """Whenever it begins, and with a round trip of a second; what waits goes on soon after."""
    simulation = watchful(Path(delay=delay))
    channel = simulation.client.association.open_channel("x")
    for _ in range(8):
        simulation.run(seconds=2.1)
        if sending:
            simulation.client.to_send[channel] = [bytes(10_000)] * 50
            simulation.run(seconds=0.2)
        simulation.there.loss = simulation.back.loss = 1.0
        simulation.run(seconds=5)
        simulation.there.loss = simulation.back.loss = 0.0
        end = simulation.now
        simulation.run(lambda: not simulation.client.to_send.get(channel), seconds=30)
        assert simulation.now - end < 12 * delay + 3
        assert states(simulation) == (State.ESTABLISHED, State.ESTABLISHED)


# The window -----------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaving", [False, True])
def test_an_application_that_does_not_read_closes_the_window(interleaving: bool) -> None:
    simulation = Simulation()
    simulation.server.association = simulation.association(
        is_client=False, interleaving=interleaving, receive_window=1 << 20
    )
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.server.reading = False
    messages = [bytes([n]) * 60_000 for n in range(60)]
    simulation.client.to_send[channel] = list(messages)
    simulation.run(seconds=300)
    received = len(simulation.server.received[channel])
    assert 14 <= received <= 18
    assert states(simulation) == (State.ESTABLISHED, State.ESTABLISHED)
    assert simulation.server.most_held <= (1 << 20) + 65_536

    simulation.server.reading = True
    start = simulation.now
    simulation.server.read()
    simulation.run(lambda: len(simulation.server.received[channel]) > received, seconds=60)
    assert simulation.now - start < 0.1  # the update went at once
    assert simulation.run(lambda: len(simulation.server.received[channel]) == 60, seconds=10)
    assert simulation.server.received[channel] == messages


def test_a_lost_window_update_is_found_by_a_probe() -> None:
    simulation = Simulation()
    simulation.server.association = simulation.association(is_client=False, receive_window=1 << 20)
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.server.reading = False
    simulation.client.to_send[channel] = [bytes(60_000)] * 40
    simulation.run(seconds=120)
    simulation.back.loss = 1.0
    simulation.server.reading = True
    simulation.server.read()
    simulation.run(seconds=1)
    simulation.back.loss = 0.0
    assert simulation.run(lambda: len(simulation.server.received[channel]) == 40, seconds=60)


def test_tiny_messages_fill_the_window_too() -> None:
    simulation = Simulation()
    simulation.server.association = simulation.association(is_client=False, receive_window=1 << 20)
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.server.reading = False
    simulation.client.to_send[channel] = [b"!"] * 40_000
    simulation.run(seconds=60)
    assert len(simulation.server.unread) < 20_000
    simulation.server.reading = True
    simulation.server.read()
    assert simulation.run(lambda: len(simulation.server.received[channel]) == 40_000, seconds=60)


# Keeping alive, probing, ending ---------------------------------------------------------------


def test_an_idle_association_beats_and_notices_death() -> None:
    simulation = Simulation()
    simulation.connect()
    simulation.run(seconds=10 * HEARTBEAT_INTERVAL)
    assert simulation.there.carried < 60
    assert states(simulation) == (State.ESTABLISHED, State.ESTABLISHED)
    assert simulation.client.association.srtt == pytest.approx(0.02)
    simulation.there.loss = 1.0
    assert simulation.run(lambda: simulation.client.count(Closed) == 1, seconds=600)


def test_a_probe_tells_whether_a_size_fits_the_path() -> None:
    simulation = Simulation()
    simulation.connect()
    simulation.there.drop = lambda whole: len(whole) > 1400
    for size in (1300, 1400, 1404):
        simulation.client.association.probe(size, simulation.now)
        before = len(simulation.client.events)
        simulation.run(lambda: len(simulation.client.events) > before, seconds=10)  # noqa: B023
    assert simulation.client.events[-3:] == [ProbeAcked(1300), ProbeAcked(1400), ProbeLost(1404)]
    assert states(simulation) == (State.ESTABLISHED, State.ESTABLISHED)


def test_a_far_side_without_pad_is_probed_with_a_long_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Association, "_extensions", lambda _: frozenset())
    simulation = Simulation()
    simulation.connect()
    sizes: list[int] = []
    simulation.on_packet = lambda sender, whole: sizes.append(len(whole))
    simulation.client.association.probe(1_000, simulation.now)
    assert simulation.run(lambda: simulation.client.events[-1:] == [ProbeAcked(1_000)], seconds=10)
    assert sizes == [1_000, 1_000]


def test_packets_grow_with_the_path() -> None:
    simulation = Simulation()
    simulation.connect()
    simulation.client.association.set_max_packet(1403)
    channel = simulation.client.association.open_channel("x")
    largest = [0]
    simulation.on_packet = lambda sender, whole: largest.append(len(whole))
    assert simulation.transfer(simulation.client, channel, [bytes(65_536)] * 3)
    assert max(largest) == 1400


def test_shutdown_delivers_everything_first() -> None:
    simulation = Simulation(Path(loss=0.1), Path(loss=0.1))
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    for n in range(10):
        simulation.client.association.send(channel, bytes([n]) * 50_000, now=simulation.now)
    simulation.client.association.shutdown(simulation.now)
    with pytest.raises(KeyError):
        simulation.client.association.send(channel, b"late", now=simulation.now)
    assert simulation.run(lambda: simulation.client.count(Closed) + simulation.server.count(Closed) == 2)
    assert simulation.server.received[channel] == [bytes([n]) * 50_000 for n in range(10)]
    assert simulation.client.events[-1] == simulation.server.events[-1] == Closed("")
    assert simulation.client.association.timeout() is None
    assert simulation.server.association.timeout() is None


def test_both_sides_may_shut_down_at_once() -> None:
    simulation = Simulation()
    simulation.connect()
    simulation.client.association.shutdown(simulation.now)
    simulation.server.association.shutdown(simulation.now)
    assert simulation.run(lambda: simulation.client.count(Closed) + simulation.server.count(Closed) == 2)
    assert simulation.client.events[-1] == simulation.server.events[-1] == Closed("")


@pytest.mark.parametrize("kind", [Chunk.SHUTDOWN, Chunk.SHUTDOWN_ACK, Chunk.SHUTDOWN_COMPLETE])
def test_shutdown_survives_the_loss_of_any_packet(kind: Chunk) -> None:
    simulation = Simulation(drop_first(kind), drop_first(kind))
    simulation.connect()
    simulation.client.association.shutdown(simulation.now)
    assert simulation.run(
        lambda: simulation.client.count(Closed) + simulation.server.count(Closed) == 2, seconds=30
    )
    assert simulation.server.events[-1] == Closed("")


def test_abort_is_heard() -> None:
    simulation = Simulation()
    simulation.connect()
    simulation.client.association.abort("enough")
    assert simulation.run(lambda: simulation.server.count(Closed) == 1, seconds=1)
    assert simulation.client.events[-1] == Closed("enough")
    assert simulation.server.events[-1] == Closed("aborted by the far side: enough")
    simulation.client.association.connect(simulation.now)
    assert simulation.client.association.packets(simulation.now) == []


def test_what_came_right_before_an_abort_is_delivered() -> None:
    simulation = Simulation()
    simulation.connect()
    client, server = simulation.client.association, simulation.server.association
    channel = client.open_channel("x")
    client.send(channel, b"goodbye", now=simulation.now)
    packets = client.packets(simulation.now)
    client.abort()
    server.receive(packets + client.packets(simulation.now), simulation.now)
    assert [type(event) for event in server.events()[-3:]] == [ChannelOpened, MessageReceived, Closed]


def test_an_abort_with_a_malformed_cause_is_an_abort() -> None:
    simulation = Simulation()
    simulation.connect()
    abort = packet.chunk(Chunk.ABORT, 0, struct.pack("!HH", Cause.USER_INITIATED, 255))
    simulation.server.association.receive([sealed(simulation.client, abort)], simulation.now)
    assert simulation.server.association.events()[-1:] == [Closed("aborted by the far side")]


def test_what_has_ended_is_not_set_up_again() -> None:
    association = Association(is_client=True)
    association.abort()
    association.connect(0.0)
    assert association.packets(0.0) == []
    assert association.timeout() is None


# Unknown and unwanted -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "goes_on", "told"),
    [(63, False, False), (127, False, True), (190, True, False), (255, True, True)],
)
def test_an_unknown_chunk_is_treated_as_its_type_says(kind: int, goes_on: bool, told: bool) -> None:
    simulation = Simulation()
    simulation.connect()
    unknown = packet.chunk(kind, 0, b"what?")
    beat = packet.chunk(Chunk.HEARTBEAT, 0, packet.param(1, b"beat"))
    simulation.server.association.receive([sealed(simulation.client, unknown, beat)], simulation.now)
    answers = [
        (kind, whole[start:end])
        for whole in simulation.server.association.packets(simulation.now)
        for kind, _, start, end in packet.chunks(whole)
    ]
    error = (Chunk.ERROR, packet.cause(Cause.UNRECOGNIZED_CHUNK, unknown[: 4 + 5]))
    echo = (Chunk.HEARTBEAT_ACK, packet.param(1, b"beat"))
    assert answers == ([error] if told else []) + ([echo] if goes_on else [])


@pytest.mark.parametrize("chunk", [Chunk.ABORT, Chunk.SHUTDOWN, Chunk.INIT_ACK, Chunk.ERROR, Chunk.SACK])
def test_packets_with_a_wrong_tag_are_ignored(chunk: Chunk) -> None:
    simulation = Simulation()
    simulation.connect()
    for tag in (0, 1, simulation.server.association._local_tag ^ 1, simulation.server.association._peer_tag):
        whole = packet.sealer(5000, 5000, tag)(packet.chunk(chunk, 0, bytes(12)))
        simulation.server.association.receive([whole], simulation.now)
    assert simulation.server.association.state is State.ESTABLISHED
    assert simulation.server.association.packets_discarded == 4


def test_packets_for_another_port_or_with_a_wrong_checksum_are_ignored() -> None:
    simulation = Simulation()
    simulation.connect()
    tag = simulation.server.association._local_tag
    abort = packet.chunk(Chunk.ABORT)
    right = packet.sealer(5000, 5000, tag)(abort)
    wrong_sum = right[:8] + bytes(b ^ 1 for b in right[8:12]) + right[12:]
    for whole in (packet.sealer(5000, 5001, tag)(abort), packet.sealer(1, 5000, tag)(abort), wrong_sum):
        simulation.server.association.receive([whole], simulation.now)
    assert states(simulation)[1] is State.ESTABLISHED
    simulation.server.association.receive([right], simulation.now)
    assert states(simulation)[1] is State.CLOSED


def test_a_zero_checksum_is_taken_only_where_it_was_agreed_on() -> None:
    for agreed in (True, False):
        simulation = Simulation()
        simulation.server.association = simulation.association(is_client=False, zero_checksum=agreed)
        simulation.connect()
        tag = simulation.server.association._local_tag
        whole = packet.sealer(5000, 5000, tag, checksum=False)(packet.chunk(Chunk.ABORT))
        simulation.server.association.receive([whole], simulation.now)
        assert simulation.server.association.state is (State.CLOSED if agreed else State.ESTABLISHED)


def test_data_without_data_ends_the_association() -> None:
    simulation = Simulation()
    simulation.connect()
    sender = simulation.client.association.sender
    assert sender is not None
    header = struct.pack("!BBHLHHLL", 64, 3, 20, sender._out.next_tsn & 0xFFFFFFFF, 0, 0, 0, 51)
    simulation.server.association.receive([sealed(simulation.client, header)], simulation.now)
    assert simulation.server.association.state is State.CLOSED


# Limited channels -----------------------------------------------------------------------------


@pytest.mark.parametrize("interleaving", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("limit", ["retransmits", "lifetime"])
def test_limited_messages_are_given_up_and_the_rest_arrives(
    limit: str, ordered: bool, interleaving: bool
) -> None:
    simulation = Simulation(Path(loss=0.2), Path(loss=0.05))
    simulation.client.association = simulation.association(is_client=True, interleaving=interleaving)
    simulation.connect()
    association = simulation.client.association
    channel = association.open_channel(
        "x",
        ordered=ordered,
        max_retransmits=0 if limit == "retransmits" else None,
        max_packet_life_time=30 if limit == "lifetime" else None,
    )
    reliable = association.open_channel("y")
    simulation.run(lambda: simulation.client.count(ChannelAcknowledged) == 2, seconds=30)
    messages = [struct.pack("!L", n) * 400 for n in range(300)]
    for message in messages:
        association.send(channel, message, now=simulation.now)
        association.send(reliable, message, now=simulation.now)
        simulation.run(seconds=0.02)
    simulation.run(seconds=60)
    received = simulation.server.received[channel]
    numbers = [struct.unpack_from("!L", message)[0] for message in received]
    assert 60 < len(received) < 295
    assert all(message in messages for message in received)
    assert len(set(numbers)) == len(numbers)
    if ordered:
        assert numbers == sorted(numbers)
    assert simulation.server.received[reliable] == messages
    assert association.sender is not None
    assert association.sender.idle
    assert simulation.server.association.receiver is not None
    assert simulation.server.association.receiver.held == 0
    simulation.there.loss = simulation.back.loss = 0.0
    assert simulation.transfer(simulation.client, channel, [b"the end"], seconds=5)


def test_a_message_too_old_to_be_sent_is_never_sent() -> None:
    simulation = Simulation()
    simulation.connect()
    association = simulation.client.association
    channel = association.open_channel("x", max_packet_life_time=100)
    simulation.transfer(simulation.client, channel, [b"first"])
    association.send(channel, b"old", now=simulation.now - 1)
    association.send(channel, b"new", now=simulation.now)
    simulation.run(seconds=1)
    assert simulation.server.received[channel] == [b"first", b"new"]


def test_unordered_messages_do_not_wait_for_a_lost_one() -> None:
    simulation = Simulation()
    simulation.connect()
    association = simulation.client.association
    channel = association.open_channel("x", ordered=False)
    simulation.run(lambda: simulation.client.count(ChannelAcknowledged) == 1, seconds=1)
    simulation.there.drop = drop_first(Chunk.I_DATA).drop
    association.send(channel, b"a" * 1000, now=simulation.now)
    simulation.flush(simulation.client)
    association.send(channel, b"b" * 1000, now=simulation.now)
    simulation.flush(simulation.client)
    simulation.run(lambda: len(simulation.server.received[channel]) == 2, seconds=5)
    assert [message[:1] for message in simulation.server.received[channel]] == [b"b", b"a"]


# Sharing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("interleaving", [False, True])
def test_channels_take_turns(interleaving: bool) -> None:
    simulation = Simulation(Path(rate=1_000_000))
    simulation.client.association = simulation.association(
        is_client=True, interleaving=interleaving, send_buffer=8 << 20
    )
    simulation.connect()
    association = simulation.client.association
    bulk, chat = association.open_channel("bulk"), association.open_channel("chat")
    simulation.client.to_send[bulk] = [bytes(200_000)] * 20
    simulation.run(seconds=1)
    start = simulation.now
    association.send(chat, b"hello", now=simulation.now)
    simulation.flush(simulation.client)
    assert simulation.run(lambda: bool(simulation.server.received[chat]), seconds=10)
    message_time = 200_000 / 1_000_000
    assert simulation.now - start < (0.5 * message_time if interleaving else 2.5 * message_time) + 0.3


def test_nothing_is_due_when_nothing_happens() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [bytes(60_000)])
    simulation.run(seconds=1)
    for endpoint in (simulation.client, simulation.server):
        due = endpoint.association.timeout()
        assert due is not None
        assert due - simulation.now > 10
        assert not math.isinf(due)
