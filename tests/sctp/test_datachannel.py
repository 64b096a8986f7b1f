from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.sctp.channels import CLOSE_PATIENCE, MAX_CHANNELS
from peercli.sctp.datachannel import ACK, Open
from peercli.sctp.events import ChannelAcknowledged, ChannelClosed, ChannelOpened, MessageReceived
from peercli.sctp.packet import Chunk
from tests.sctp.simulator import Path, Simulation
from tests.sctp.test_association import drop_first, kinds

OPENS = st.builds(
    Open,
    label=st.text(max_size=50),
    protocol=st.text(max_size=20),
    ordered=st.booleans(),
    max_retransmits=st.none() | st.integers(0, 2**32 - 1),
    priority=st.integers(0, 65535),
)


@given(OPENS)
def test_open_survives_the_wire(opening: Open) -> None:
    assert Open.unpack(opening.pack()) == opening


@given(st.binary(max_size=60))
def test_any_other_message_is_no_open(message: bytes) -> None:
    opening = Open.unpack(message)
    assert opening is None or message[0] == 3


def test_open_is_as_the_rfc_says() -> None:
    opening = Open("ab", "c", ordered=False, max_packet_life_time=7)
    assert opening.pack() == bytes.fromhex("03 82 0100 00000007 0002 0001") + b"abc"
    assert bytes([2]) == ACK


def test_a_name_that_utf8_lacks_is_sent_as_a_browser_does() -> None:
    opening = Open.unpack(Open("a\ud800b", "\udcff").pack())
    assert opening is not None
    assert (opening.label, opening.protocol) == ("a\ufffdb", "\ufffd")


@pytest.mark.parametrize(
    "opening",
    [
        Open("x" * 65_536),
        Open(protocol="é" * 40_000),
        Open(max_retransmits=1, max_packet_life_time=1),
        Open(max_retransmits=-1),
        Open(max_packet_life_time=2**32),
    ],
)
def test_an_open_that_makes_no_sense_is_refused(opening: Open) -> None:
    with pytest.raises(ValueError, match="data channel"):
        opening.pack()


def test_a_channel_is_opened_as_asked() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.server.association.open_channel(
        "läbel", "proto", ordered=False, max_packet_life_time=1500
    )
    assert simulation.run(lambda: simulation.server.count(ChannelAcknowledged) == 1, seconds=1)
    assert simulation.client.opened() == [ChannelOpened(channel, "läbel", "proto", False, None, 1500)]


def test_the_sides_do_not_choose_the_same_ids() -> None:
    simulation = Simulation()
    simulation.connect()
    assert [simulation.client.association.open_channel("c") for _ in range(3)] == [0, 2, 4]
    assert [simulation.server.association.open_channel("s") for _ in range(3)] == [1, 3, 5]
    simulation.run(seconds=1)
    assert [opened.channel for opened in simulation.client.opened()] == [1, 3, 5]
    assert [opened.channel for opened in simulation.server.opened()] == [0, 2, 4]


def test_the_accepting_side_can_answer_at_once() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.server.on_event = lambda event: (
        simulation.server.association.send(channel, b"welcome", now=simulation.now)
        if isinstance(event, ChannelOpened)
        else None
    )
    assert simulation.run(lambda: simulation.client.received[channel] == [b"welcome"], seconds=1)


@pytest.mark.parametrize("interleaving", [False, True])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_hundreds_of_channels_open_and_close_on_one_association(interleaving: bool, loss: float) -> None:
    simulation = Simulation(Path(loss=loss, delay=0.005), Path(loss=loss, delay=0.005))
    simulation.client.association = simulation.association(is_client=True, interleaving=interleaving)
    simulation.connect()
    rounds = 200 if not loss else 60
    for n in range(rounds):
        opener, other = (
            (simulation.client, simulation.server) if n % 3 else (simulation.server, simulation.client)
        )
        closer = opener if n % 2 else other
        channel = opener.association.open_channel(f"channel {n}")
        other.received[channel].clear()
        assert simulation.transfer(opener, channel, [b"%d" % n, bytes(3000)])
        assert other.received[channel] == [b"%d" % n, bytes(3000)]
        closer.association.close_channel(channel)
        closed = 2 * n + 2
        assert simulation.run(
            lambda closed=closed: (  # type: ignore[misc]
                simulation.client.count(ChannelClosed) + simulation.server.count(ChannelClosed) == closed
            )
        )
    for endpoint in (simulation.client, simulation.server):
        assert endpoint.association._channels.known == {}
        assert endpoint.association._channels.queue.streams == {}


def test_many_channels_close_at_once() -> None:
    simulation = Simulation()
    simulation.connect()
    client, server = simulation.client.association, simulation.server.association
    channels = [client.open_channel(str(n)) for n in range(300)]
    assert simulation.run(lambda: simulation.client.count(ChannelAcknowledged) == 300, seconds=5)
    for channel in channels:
        (client if channel % 4 else server).close_channel(channel)
    assert simulation.run(
        lambda: simulation.client.count(ChannelClosed) + simulation.server.count(ChannelClosed) == 600,
        seconds=30,
    )
    assert client._channels.known == server._channels.known == {}


def test_both_sides_may_close_a_channel_at_once() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [b"x"])
    simulation.client.association.close_channel(channel)
    simulation.server.association.close_channel(channel)
    assert simulation.run(
        lambda: simulation.client.count(ChannelClosed) + simulation.server.count(ChannelClosed) == 2,
        seconds=5,
    )
    assert simulation.client.association._channels.known == {}


def test_what_was_queued_is_sent_before_the_channel_closes() -> None:
    simulation = Simulation(Path(rate=1_000_000, loss=0.05))
    simulation.connect()
    association = simulation.client.association
    channel = association.open_channel("x")
    for n in range(16):
        association.send(channel, bytes([n]) * 65_000, now=simulation.now)
    association.close_channel(channel)
    with pytest.raises(KeyError):
        association.send(channel, b"late", now=simulation.now)
    assert simulation.run(lambda: simulation.server.count(ChannelClosed) == 1, seconds=60)
    assert simulation.server.received[channel] == [bytes([n]) * 65_000 for n in range(16)]


def test_what_arrives_on_a_channel_that_we_closed_is_dropped() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [b"x"])
    simulation.client.association.close_channel(channel)
    simulation.server.association.send(channel, b"too late", now=simulation.now)
    simulation.run(lambda: simulation.server.count(ChannelClosed) == 1, seconds=5)
    assert simulation.client.count(MessageReceived) == 0
    assert simulation.client.association.receiver is not None
    assert simulation.client.association.receiver.held == 0


def test_a_channel_closes_even_if_the_far_side_never_closes_its_direction() -> None:
    simulation = Simulation()
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [b"x"])
    simulation.server.association._channels._perform = lambda request: None  # type: ignore[method-assign]
    simulation.client.association.close_channel(channel)
    start = simulation.now
    assert simulation.run(lambda: simulation.client.count(ChannelClosed) == 1, seconds=60)
    assert CLOSE_PATIENCE <= simulation.now - start < CLOSE_PATIENCE + 1
    ids = {simulation.client.association.open_channel("y") for _ in range(MAX_CHANNELS // 2 - 1)}
    assert channel not in ids  # it is not free


@pytest.mark.parametrize("back", [False, True])
def test_a_reset_survives_loss(back: bool) -> None:
    path = drop_first(Chunk.RE_CONFIG, 2)
    simulation = Simulation(Path() if back else path, path if back else Path())
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.transfer(simulation.client, channel, [b"x"])
    simulation.client.association.close_channel(channel)
    assert simulation.run(
        lambda: simulation.client.count(ChannelClosed) + simulation.server.count(ChannelClosed) == 2,
        seconds=30,
    )


def test_a_channel_can_be_closed_before_it_was_acknowledged() -> None:
    simulation = Simulation()
    channel = simulation.client.association.open_channel("x")
    simulation.client.association.close_channel(channel)
    simulation.connect()
    assert simulation.run(
        lambda: simulation.client.count(ChannelClosed) + simulation.server.count(ChannelClosed) == 2,
        seconds=5,
    )


def test_there_is_an_end_to_channels() -> None:
    simulation = Simulation()
    simulation.connect()
    for endpoint in (simulation.client, simulation.server):
        for n in range(MAX_CHANNELS // 2):
            endpoint.association.open_channel(str(n))
        with pytest.raises(RuntimeError):
            endpoint.association.open_channel("one too many")
    simulation.run(seconds=10)
    assert (
        simulation.client.count(ChannelOpened) == simulation.server.count(ChannelOpened) == MAX_CHANNELS // 2
    )


def test_ids_are_used_again_but_late() -> None:
    simulation = Simulation()
    simulation.connect()
    association = simulation.client.association
    ids = []
    for _ in range(MAX_CHANNELS // 2 + 2):
        ids.append(association.open_channel("x"))
        association.close_channel(ids[-1])
        simulation.run(lambda: not association._channels.known, seconds=5)
    assert ids == [*range(0, MAX_CHANNELS, 2), 0, 2]


def test_an_id_may_be_used_again_before_we_know_that_it_is_free() -> None:
    """The far side reset both directions and opens anew, while its answer to our reset was lost."""
    simulation = Simulation()
    simulation.connect()
    association = simulation.client.association
    channel = association.open_channel("first")
    assert simulation.transfer(simulation.client, channel, [b"1"])
    answers = [0]

    def drop_answers_to_server(whole: bytes) -> bool:
        if Chunk.RE_CONFIG in kinds(whole):
            answers[0] += 1
            return answers[0] == 2  # the first is the client's request
        return False

    simulation.there.drop = drop_answers_to_server
    association.close_channel(channel)
    assert simulation.run(lambda: not association._channels.known, seconds=5)
    assert simulation.server.association._channels.known
    association._channels._next_id = channel
    assert association.open_channel("second") == channel
    assert simulation.transfer(simulation.client, channel, [b"2"], seconds=5)
    simulation.run(seconds=5)
    assert simulation.server.received[channel] == [b"1", b"2"]
    assert [opened.label for opened in simulation.server.opened()] == ["first", "second"]
    assert simulation.server.count(ChannelClosed) == 1
    assert simulation.transfer(simulation.server, channel, [b"3"], seconds=5)
