"""What a far side, or a stranger, can do to an association that does not want it. `python -m tests.sctp.fuzz`
does more of the same."""

from __future__ import annotations

import struct
import tracemalloc

import pytest

from peercli.sctp import packet
from peercli.sctp.association import State
from peercli.sctp.channels import MAX_CHANNELS, MAX_NAMES
from peercli.sctp.datachannel import Open
from peercli.sctp.events import ChannelOpened, MessageReceived
from peercli.sctp.packet import Chunk, Param
from peercli.sctp.receiver import MAX_RANGES, OVERRUN
from tests.sctp.fuzz import hostile_case, network_case
from tests.sctp.simulator import Simulation
from tests.sctp.worlds import assert_bounded


@pytest.mark.parametrize("block", range(8))
def test_hostile_packets_raise_nothing_and_grow_nothing(block: int) -> None:
    for seed in range(30 * block, 30 * block + 30):
        hostile_case(seed)


@pytest.mark.parametrize("block", range(8))
def test_any_network_will_do(block: int) -> None:
    for seed in range(25 * block, 25 * block + 25):
        network_case(seed)


class Peer:
    """A far side that says what it likes to a server with a window of 1 MiB."""

    def __init__(self, *, interleaving: bool) -> None:
        self.simulation = Simulation()
        self.interleaving = interleaving
        self.victim = self.simulation.association(
            is_client=False, interleaving=interleaving, receive_window=1 << 20
        )
        self.simulation.server.association = self.victim
        self.simulation.connect()
        assert self.victim.receiver is not None
        self.receiver = self.victim.receiver
        self.first = (self.receiver.cum + 1) & 0xFFFFFFFF
        self.seal = packet.sealer(5000, 5000, self.victim._local_tag)

    def data(self, tsn: int, payload: bytes, *, flags: int = 3, stream: int = 0, number: int = 0) -> bytes:
        """A chunk; `tsn` counts from the first that is expected."""
        tsn = (self.first + tsn) & 0xFFFFFFFF
        if self.interleaving:
            value = struct.pack("!LHHLL", tsn, stream, 0, number, 51 if flags & 2 else tsn)
            return packet.chunk(Chunk.I_DATA, flags, value + payload)
        return packet.chunk(
            Chunk.DATA, flags, struct.pack("!LHHL", tsn, stream, number & 0xFFFF, 51) + payload
        )

    def say(self, chunks: list[bytes]) -> None:
        for start in range(0, len(chunks), 500):
            self.victim.receive(
                [self.seal(chunk) for chunk in chunks[start : start + 500]], self.simulation.now
            )
            self.victim.packets(self.simulation.now)
            assert_bounded(self.victim)


@pytest.mark.parametrize("interleaving", [False, True])
def test_chunks_beyond_gaps_are_kept_only_up_to_a_limit(interleaving: bool) -> None:
    peer = Peer(interleaving=interleaving)
    peer.say([peer.data(2 * n + 1, b"x", number=n) for n in range(3 * MAX_RANGES)])
    assert len(peer.receiver._ahead) == MAX_RANGES
    assert peer.receiver.chunks_dropped > MAX_RANGES
    peer.say([peer.data(0, b"x")])  # what fills the first gap is always welcome
    assert peer.receiver.cum & 0xFFFFFFFF == (peer.first + 1) & 0xFFFFFFFF


@pytest.mark.parametrize("interleaving", [False, True])
def test_a_window_that_is_ignored_holds_all_the_same(interleaving: bool) -> None:
    peer = Peer(interleaving=interleaving)
    big = bytes(60_000)
    peer.say([peer.data(n, big, number=n) for n in range(100)])
    assert peer.receiver.held <= (1 << 20) + 2 * 60_100
    peer.say([peer.data(n + 1000, big, number=n + 1000) for n in range(100)])
    assert peer.receiver.held <= OVERRUN * (1 << 20) + 60_100


def test_messages_that_never_end_are_limited_in_number_or_by_the_window() -> None:
    peer = Peer(interleaving=True)
    peer.say([peer.data(n, b"x", flags=2, stream=n % 1000, number=n // 1000) for n in range(10_000)])
    assert peer.victim.state is State.CLOSED
    peer = Peer(interleaving=False)
    peer.say([peer.data(n, b"x", flags=2, stream=n % 1000, number=n // 1000) for n in range(10_000)])
    assert peer.receiver.held < 200  # each new one shows that the last was given up


@pytest.mark.parametrize("interleaving", [False, True])
def test_a_small_fragment_does_not_keep_a_large_packet(interleaving: bool) -> None:
    peer = Peer(interleaving=interleaving)
    padding = packet.chunk(Chunk.PAD, 0, bytes(1_200))
    peer.say([peer.data(0, b"x", flags=2)])
    fragments = [peer.data(n, b"x", flags=0) for n in range(1, 5_000)]
    tracemalloc.start()
    peer.say([fragment + padding for fragment in fragments])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peer.receiver.cum & 0xFFFFFFFF == (peer.first + 4_999) & 0xFFFFFFFF
    assert kept < 2_000_000


@pytest.mark.parametrize("interleaving", [False, True])
def test_messages_out_of_turn_are_limited_by_the_window(interleaving: bool) -> None:
    peer = Peer(interleaving=interleaving)
    peer.say([peer.data(n, b"x", stream=1, number=n + 1) for n in range(30_000)])
    assert peer.receiver.held <= (1 << 20) + 100
    assert sum(map(len, peer.receiver._ready.values())) < 20_000
    assert peer.receiver.messages == []


def test_skipping_and_resetting_many_streams_is_little_work() -> None:
    """A packet can name thousands of streams, or one stream thousands of times. This would take minutes, were
    each looked for among all that waits."""
    peer = Peer(interleaving=True)
    peer.say([peer.data(n, b"x", flags=2, stream=n % 1000, number=n // 1000) for n in range(4000)])
    last = (peer.first + 3999) & 0xFFFFFFFF
    for n in range(30):
        resets = struct.pack("!LLL8000H", (peer.first + n) & 0xFFFFFFFF, 0, last, *range(1000, 9000))
        peer.say([packet.chunk(Chunk.RE_CONFIG, 0, packet.param(Param.OUTGOING_RESET_REQUEST, resets))])
        skipped = [(2000 + stream, False, n) for stream in range(2000)]
        peer.say([packet.iforward_tsn((last + 1 + n) & 0xFFFFFFFF, skipped)])
    assert peer.victim.state is State.ESTABLISHED
    assert len(peer.receiver._partials) == 4000

    peer = Peer(interleaving=False)
    peer.say([peer.data(n, b"x", stream=1, number=20_000 + n) for n in range(10_000)])
    for n in range(60):
        skips = [(1, (100 * n + skip) & 0xFFFF) for skip in range(4000)]
        peer.say([packet.forward_tsn((peer.first + 10_000 + n) & 0xFFFFFFFF, skips)])
    assert peer.victim.state is State.ESTABLISHED
    assert sum(map(len, peer.receiver._ready.values())) == 10_000


def test_a_far_side_cannot_open_channels_without_end() -> None:
    peer = Peer(interleaving=True)

    def openings(count: int, name: str) -> list[bytes]:
        first = (peer.receiver.cum + 1 - peer.first) & 0xFFFFFFFF
        message = Open(name).pack()
        header = struct.Struct("!LHHLL")
        return [
            packet.chunk(
                Chunk.I_DATA,
                3,
                header.pack((peer.first + first + n) & 0xFFFFFFFF, first + n, 0, 0, 50) + message,
            )
            for n in range(count)
        ]

    peer.say(openings(30, "x" * 60_000))
    opened = [event for event in peer.victim.events() if isinstance(event, ChannelOpened)]
    assert sum(len(event.label) for event in opened) <= MAX_NAMES
    peer.say(openings(3000, "short"))
    assert len(peer.victim._channels.known) <= MAX_CHANNELS
    assert peer.receiver.held == 0


def test_data_for_no_channel_is_dropped() -> None:
    peer = Peer(interleaving=True)
    peer.say([peer.data(n, bytes(1000), stream=7, number=n) for n in range(3000)])
    assert peer.receiver.held == 0
    assert not any(isinstance(event, MessageReceived) for event in peer.victim.events())


def test_a_flood_of_questions_gets_a_bounded_answer() -> None:
    peer = Peer(interleaving=True)
    beat = packet.chunk(Chunk.HEARTBEAT, 0, packet.param(1, bytes(8)))
    unknown = packet.chunk(255, 0, bytes(8))
    init = packet.sealer(5000, 5000, 0)(packet.chunk(Chunk.INIT, 0, packet.Init(1, 2, 3, 4, 5).pack()))
    many = [peer.seal(beat * 50), peer.seal(unknown * 80), init] * 200
    peer.victim.receive(many, peer.simulation.now)
    assert_bounded(peer.victim)
    assert len(peer.victim.packets(peer.simulation.now)) < 200
    assert peer.victim.state is State.ESTABLISHED


@pytest.mark.parametrize("size", [60_000, 65_500])
def test_an_init_full_of_what_is_unknown_gets_a_short_answer(size: int) -> None:
    peer = Peer(interleaving=True)
    known, unknown = packet.Init(1, 2, 3, 4, 5).pack(), packet.param(0xCFFF, bytes(size))
    init = packet.sealer(5000, 5000, 0)(packet.chunk(Chunk.INIT, 0, known + unknown))
    peer.victim.receive([init], peer.simulation.now)
    assert max(map(len, peer.victim.packets(peer.simulation.now))) < 1_160


def test_a_replayed_conversation_changes_nothing() -> None:
    simulation = Simulation()
    heard: list[bytes] = []
    simulation.on_packet = lambda sender, whole: heard.append(whole) if sender is simulation.client else None
    simulation.connect()
    channel = simulation.client.association.open_channel("x")
    assert simulation.transfer(simulation.client, channel, [bytes([n]) * 5000 for n in range(20)])
    before = list(simulation.server.events)
    for whole in heard:
        simulation.server.association.receive([whole], simulation.now)
        simulation.flush(simulation.server)
    simulation.run(seconds=1)
    assert simulation.server.events == before
    assert simulation.transfer(simulation.client, channel, [b"still here"])
