"""Networks, associations and traffic, drawn at random; and what must hold in every one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from peercli.sctp.association import Association, State
from peercli.sctp.congestion import Bbr, Controller, Cubic
from peercli.sctp.receiver import MAX_DUPLICATES, MAX_PARTIAL_MESSAGES, MAX_RANGES, OVERRUN
from peercli.sctp.sender import MAX_OUTSTANDING_CHUNKS
from tests.sctp.simulator import Endpoint, Path, Simulation

__all__ = ["Traffic", "World", "assert_bounded", "run", "worlds"]

WINDOW = 1 << 20
PATIENCE = 4 * 3600.0
"""Virtual seconds: at 30 % loss both ways a large message takes its time."""


@dataclass(frozen=True)
class Traffic:
    """One channel: what is sent on it, and by whom."""

    ordered: bool
    from_client: bool
    sizes: tuple[int, ...]


@dataclass
class World:
    seed: int
    there: Path
    back: Path
    traffic: tuple[Traffic, ...]
    interleaving: bool = True
    controller: Callable[[int], Controller] = Bbr
    tsn: int | None = None
    both_connect: bool = True
    max_packet: int = 1160

    @property
    def corrupts(self) -> bool:
        return bool(self.there.corruption or self.back.corruption)


def paths() -> st.SearchStrategy[Path]:
    return st.builds(
        Path,
        delay=st.sampled_from([0.0005, 0.005, 0.02, 0.1, 0.3]),
        jitter=st.sampled_from([0.0, 0.0, 0.001, 0.02, 0.2]),
        rate=st.sampled_from([None, None, 20_000.0, 500_000.0, 12_500_000.0]),
        queue=st.sampled_from([20_000, 100_000, 1_000_000]),
        loss=st.sampled_from([0.0, 0.0, 0.001, 0.01, 0.1, 0.3]),
        duplication=st.sampled_from([0.0, 0.0, 0.1, 0.5]),
        corruption=st.sampled_from([0.0, 0.0, 0.05]),
    )


def worlds() -> st.SearchStrategy[World]:
    sizes = st.lists(
        st.sampled_from([0, 1, 2, 100, 1115, 1116, 1120, 1131, 1132, 1133, 5_000, 30_000]),
        min_size=1,
        max_size=12,
    ).map(tuple)
    traffic = st.builds(Traffic, ordered=st.booleans(), from_client=st.booleans(), sizes=sizes)
    return st.builds(
        World,
        seed=st.integers(0, 2**32 - 1),
        there=paths(),
        back=paths(),
        traffic=st.lists(traffic, min_size=1, max_size=4).map(tuple),
        interleaving=st.booleans(),
        controller=st.sampled_from([Bbr, Cubic]),
        tsn=st.sampled_from([None, 2**32 - 3, 2**32 - 40]),
        both_connect=st.booleans(),
        max_packet=st.sampled_from([1160, 1188, 1400]),
    )


def run(world: World) -> Simulation:
    """Let it happen, and check that everything arrives once, in order where that was asked for, and that
    nothing is left behind."""
    simulation = Simulation(replace(world.there), replace(world.back), seed=world.seed)
    for endpoint in (simulation.client, simulation.server):
        endpoint.association = simulation.association(
            tsn=world.tsn,
            is_client=endpoint is simulation.client,
            interleaving=world.interleaving,
            zero_checksum=not world.corrupts,
            controller=world.controller,
            receive_window=WINDOW,
            max_packet=world.max_packet,
        )
    simulation.connect(both=world.both_connect)
    plans: list[tuple[Endpoint, int, Traffic, list[bytes]]] = []
    for number, traffic in enumerate(world.traffic):
        sender = simulation.client if traffic.from_client else simulation.server
        channel = sender.association.open_channel(str(number), ordered=traffic.ordered)
        messages = [
            (index.to_bytes(4, "big") * (size // 4 + 1))[:size] for index, size in enumerate(traffic.sizes)
        ]
        sender.to_send[channel] = list(messages)
        plans.append((simulation.other(sender), channel, traffic, messages))

    assert simulation.run(
        lambda: all(len(reader.received[channel]) >= len(sent) for reader, channel, _, sent in plans),
        seconds=PATIENCE,
    ), "not everything arrived"
    for path in (simulation.there, simulation.back):
        path.loss = path.corruption = 0.0
    simulation.run(seconds=120)  # stragglers
    for reader, channel, traffic, sent in plans:
        received = reader.received[channel]
        if traffic.ordered:
            assert received == sent
        else:
            assert sorted(received) == sorted(sent)
    for endpoint in (simulation.client, simulation.server):
        association = endpoint.association
        assert association.state is State.ESTABLISHED
        assert association.sender is not None
        assert association.receiver is not None
        assert association.sender.idle
        assert association.in_flight == association.sender.outstanding == 0
        assert not association.sender._out._missing
        assert association.receiver.held == 0
        assert endpoint.most_held <= OVERRUN * WINDOW
        assert_bounded(association)
    return simulation


def assert_bounded(association: Association) -> None:
    """Whatever the far side sent, this much is kept of it at the most."""
    sender, receiver = association.sender, association.receiver
    assert len(association._control) <= 64
    assert len(association._raw) <= 64
    assert len(association._channels.known) <= 1024
    assert len(association._channels.queue.streams) <= 1024
    if sender is None or receiver is None:
        return
    assert 0 <= receiver.held <= OVERRUN * receiver.window + receiver.max_message
    assert len(receiver._ahead) <= MAX_RANGES + 1
    assert len(receiver._partials) <= MAX_PARTIAL_MESSAGES
    assert len(receiver._duplicates) <= MAX_DUPLICATES
    assert len(receiver._starting) <= 65_536
    assert len(sender._out.log) <= MAX_OUTSTANDING_CHUNKS + 1
    assert len(sender._out._missing) <= len(sender._out.log)
    assert 0 <= sender.in_flight <= sender.outstanding
    assert sender.outstanding <= sum(map(len, sender._out.log))
