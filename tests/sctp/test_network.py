"""The association against itself over networks of all kinds, in virtual time.

`python -m tests.sctp.fuzz` runs as many more of these cases as one has time for.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peercli.sctp.congestion import Bbr, Cubic
from peercli.sctp.packet import Chunk
from tests.bench.sctp_pure import FixedWindow
from tests.sctp.simulator import Path, Simulation
from tests.sctp.test_association import drop_first
from tests.sctp.worlds import Traffic, World, run, worlds

CASES = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@CASES
@given(worlds())
def test_everything_arrives_once_and_in_order(world: World) -> None:
    run(world)


def world(**changes: object) -> World:
    settled = World(
        seed=1,
        there=Path(),
        back=Path(),
        traffic=(Traffic(ordered=True, from_client=True, sizes=(60_000,) * 20),),
    )
    for name, value in changes.items():
        setattr(settled, name, value)
    return settled


@pytest.mark.parametrize("interleaving", [False, True])
@pytest.mark.parametrize("controller", [Bbr, Cubic])
@pytest.mark.parametrize("loss", [0.01, 0.3])
@pytest.mark.parametrize("delay", [0.0005, 0.3])
def test_loss_at_any_distance(
    delay: float, loss: float, controller: type[Bbr | Cubic], interleaving: bool
) -> None:
    run(
        world(
            there=Path(delay=delay, loss=loss),
            back=Path(delay=delay, loss=loss),
            controller=controller,
            interleaving=interleaving,
            traffic=(Traffic(ordered=True, from_client=True, sizes=(20_000,) * 10),),
        )
    )


@pytest.mark.parametrize("tsn", [0, 1, 2**31 - 20, 2**32 - 20, 2**32 - 1])
@pytest.mark.parametrize("interleaving", [False, True])
def test_tsns_wrap(tsn: int, interleaving: bool) -> None:
    both = (
        Traffic(ordered=True, from_client=True, sizes=(10_000,) * 10),
        Traffic(ordered=False, from_client=False, sizes=(10_000,) * 10),
    )
    lossy = Path(loss=0.1, jitter=0.01, duplication=0.05)
    run(world(tsn=tsn, interleaving=interleaving, there=lossy, back=lossy, traffic=both))


def test_stream_sequence_numbers_wrap() -> None:
    count = 66_000
    run(
        world(
            interleaving=False,
            there=Path(loss=0.001),
            traffic=(Traffic(ordered=True, from_client=True, sizes=(4,) * count),),
        )
    )


def test_more_messages_than_sequence_numbers_may_wait_to_be_sent() -> None:
    """With a window for any number of them, and the first one lost for long."""
    simulation = Simulation(Path(delay=0.1, drop=drop_first(Chunk.DATA, 3).drop), Path(delay=0.1))
    simulation.client.association = simulation.association(
        is_client=True, interleaving=False, controller=lambda mtu: FixedWindow(mtu, 10_000)
    )
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    messages = [b"%05d" % n for n in range(70_000)]
    assert simulation.transfer(simulation.client, channel, messages, seconds=60)
    assert simulation.server.received[channel] == messages


def test_message_ids_wrap() -> None:
    simulation = Simulation(Path(loss=0.05, jitter=0.01))
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    assert simulation.transfer(simulation.client, channel, [b"first"])
    near = 2**32 - 5
    simulation.client.association._channels.queue.stream(channel).next_ordered = near
    assert simulation.server.association.receiver is not None
    simulation.server.association.receiver._next_number[channel] = near
    messages = [bytes([n]) * 3000 for n in range(50)]
    assert simulation.transfer(simulation.client, channel, messages)
    assert simulation.server.received[channel][1:] == messages


def test_reordering_alone_is_learnt_and_causes_few_retransmissions() -> None:
    simulation = Simulation(Path(delay=0.02, jitter=0.02, rate=2_000_000), Path(delay=0.02))
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    assert simulation.transfer(simulation.client, channel, [bytes(60_000)] * 100, seconds=60)
    sender = simulation.client.association.sender
    assert sender is not None
    assert sender.retransmits < 0.03 * simulation.there.carried


def test_a_window_closed_for_minutes_loses_nothing() -> None:
    simulation = Simulation(Path(loss=0.05), Path(loss=0.05))
    simulation.server.association = simulation.association(is_client=False, receive_window=1 << 20)
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.server.reading = False
    messages = [bytes([n]) * 50_000 for n in range(60)]
    simulation.client.to_send[channel] = list(messages)
    for _ in range(4):
        simulation.run(seconds=200)
        simulation.server.read(5)
    simulation.server.reading = True
    simulation.server.read()
    assert simulation.run(lambda: len(simulation.server.received[channel]) == 60, seconds=200)
    assert simulation.server.received[channel] == messages


def test_two_hundred_streams_share_an_association() -> None:
    traffic = tuple(
        Traffic(ordered=bool(n % 3), from_client=bool(n % 2), sizes=(n * 37 + 1, 5000, 1)) for n in range(200)
    )
    lossy = Path(loss=0.05, jitter=0.005)
    run(world(there=lossy, back=lossy, traffic=traffic))


@settings(CASES, max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_one_seed_gives_one_outcome(seed: int) -> None:
    lossy = Path(loss=0.1, jitter=0.01, duplication=0.1)
    outcomes = []
    for _ in range(2):
        simulation = run(
            world(
                seed=seed,
                there=lossy,
                back=lossy,
                controller=Cubic,
                traffic=(Traffic(ordered=True, from_client=True, sizes=(20_000,) * 5),),
            )
        )
        outcomes.append((simulation.now, simulation.there.carried, simulation.back.carried))
    assert outcomes[0] == outcomes[1]


def test_a_shallow_queue_is_no_great_obstacle() -> None:
    """A tenth of a round trip's worth: larger bursts than pacing allows would overflow it."""
    rate, rtt = 6_250_000, 0.04
    simulation = Simulation(Path(delay=rtt / 2, rate=rate, queue=int(rate * rtt / 10)), Path(delay=rtt / 2))
    simulation.client.association = simulation.association(
        is_client=True, controller=lambda mtu: Bbr(mtu, random.Random(1))
    )
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    simulation.client.to_send[channel] = [bytes(60_000)] * 1_000
    simulation.run(seconds=5)
    received = sum(map(len, simulation.server.received[channel]))
    assert received > 0.75 * rate * 5
