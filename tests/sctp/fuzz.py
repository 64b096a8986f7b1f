"""Hostile packets, and networks at random, as many as one has time for.

    python -m tests.sctp.fuzz [--count N] [--seed N] [--only hostile|network]

Each case is made by its seed alone, which is told when it fails.
"""

from __future__ import annotations

import argparse
import random
import struct
import sys
from collections.abc import Callable

from peercli.sctp import packet
from peercli.sctp.association import State
from peercli.sctp.congestion import Bbr, Cubic
from peercli.sctp.packet import Chunk
from tests.sctp.simulator import Endpoint, Path, Simulation
from tests.sctp.worlds import Traffic, World, assert_bounded, run

__all__ = ["hostile_case", "network_case"]

WINDOW = 1 << 19
KINDS = [*Chunk, 63, 127, 190, 255]
FATAL = {Chunk.ABORT, Chunk.SHUTDOWN, Chunk.SHUTDOWN_ACK, Chunk.DATA, Chunk.I_DATA}
"""Kinds that end most conversations at once when their value is random: used now and then only."""
TALKING = {State.COOKIE_WAIT, State.COOKIE_ECHOED, State.ESTABLISHED, State.SHUTDOWN_PENDING}
EXTREMES = [0, 1, 2, 3, 4, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


class Attacker:
    """Makes packets that `victim` will look into: with its ports, its tag and a right checksum, unless the
    attack is about one of these."""

    def __init__(self, rng: random.Random, victim: Endpoint, other: Endpoint, heard: list[bytes]) -> None:
        self.rng = rng
        self.victim = victim.association
        self.other = other.association
        self.heard = heard  # genuine packets to the victim
        self.attacks: list[Callable[[], bytes]] = [
            self.noise,
            self.replay,
            self.flipped,
            self.flipped_and_sealed,
            self.cut_short,
            self.random_chunks,
            self.wrong_tag,
            self.data,
            self.sack,
            self.forward_tsn,
            self.reset,
            self.init,
            self.cookie,
            self.counts,
            self.messages,
        ]

    def __call__(self) -> bytes:
        return self.rng.choice(self.attacks)()

    def kind(self) -> int:
        kind = self.rng.choice(KINDS)
        return int(kind) if kind not in FATAL or self.rng.random() < 0.02 else 255

    def number(self, bits: int, near: int = 0) -> int:
        draw = self.rng.random()
        if draw < 0.6:
            return (near + self.rng.randrange(-3, 40)) % (1 << bits)
        return self.rng.choice(EXTREMES) % (1 << bits) if draw < 0.8 else self.rng.getrandbits(bits)

    def seal(self, body: bytes, tag: int | None = None) -> bytes:
        tag = self.victim._local_tag if tag is None else tag
        return packet.sealer(5000, 5000, tag)(body)

    def noise(self) -> bytes:
        return self.rng.randbytes(self.rng.randrange(100))

    def replay(self) -> bytes:
        return self.rng.choice(self.heard) if self.heard else b""

    def flipped(self) -> bytes:
        whole = bytearray(self.replay())
        if whole:
            whole[self.rng.randrange(len(whole))] ^= 1 << self.rng.randrange(8)
        return bytes(whole)

    def flipped_and_sealed(self) -> bytes:
        body = bytearray(self.replay()[12:])
        for _ in range(self.rng.randrange(1, 4)):
            if body:
                body[self.rng.randrange(min(len(body), 40))] = self.rng.getrandbits(8)
        return self.seal(bytes(body))

    def cut_short(self) -> bytes:
        body = self.replay()[12:]
        return self.seal(body[: self.rng.randrange(len(body) + 1)])

    def random_chunks(self) -> bytes:
        body = b""
        for _ in range(self.rng.randrange(1, 6)):
            value = self.rng.randbytes(self.rng.randrange(30))
            body += packet.chunk(self.kind(), self.rng.getrandbits(8), value)
        return self.seal(body)

    def wrong_tag(self) -> bytes:
        kind = int(self.rng.choice(KINDS))
        tag = self.rng.choice([0, 1, self.victim._local_tag ^ 1, self.victim._peer_tag])
        flags = self.rng.getrandbits(1) if tag != self.victim._peer_tag else 0
        return self.seal(packet.chunk(kind, flags, self.rng.randbytes(16)), tag)

    def data(self) -> bytes:
        receiver = self.victim.receiver
        cum = receiver.cum if receiver else 0
        kind = Chunk.I_DATA if receiver and receiver.interleaving else Chunk.DATA
        if self.rng.random() < 0.01:
            kind = self.rng.choice([Chunk.DATA, Chunk.I_DATA])
        body = b""
        for _ in range(self.rng.randrange(1, 8)):
            payload = self.rng.randbytes(self.rng.choice([1, 2, 3, 60]) if self.rng.random() < 0.99 else 0)
            flags = self.rng.getrandbits(4)
            tsn = self.number(32, cum)
            if kind == Chunk.DATA:
                value = struct.pack("!LHHL", tsn, self.number(16), self.number(16), self.number(32, 50))
            else:
                value = struct.pack("!LHHLL", tsn, self.number(16), 0, self.number(32), self.number(32, 50))
            body += packet.chunk(kind, flags, value + payload)
        return self.seal(body)

    def messages(self) -> bytes:
        """The next messages in order, of DCEP or of users, some of them nonsense."""
        receiver = self.victim.receiver
        if receiver is None:
            return self.noise()
        body = b""
        for offset in range(self.rng.randrange(1, 6)):
            tsn = (receiver.cum + 1 + offset) & 0xFFFFFFFF
            ppid = self.rng.choice([50, 51, 53, 56, 57, 0, 99])
            stream = self.number(16)
            payload = self.rng.choice(
                [b"\x02", b"\x03", b"\x03" + self.rng.randbytes(20), b"\xff\xfe", b"text"]
            )
            if self.rng.getrandbits(1):
                opening = struct.pack(
                    "!BBHLHH", 3, self.rng.getrandbits(8), 0, self.number(32), 3, self.number(16)
                )
                payload = opening + b"abcdef"
            if receiver.interleaving:
                value = struct.pack("!LHHLL", tsn, stream, 0, receiver._next_number.get(stream, 0), ppid)
                body += packet.chunk(Chunk.I_DATA, 3, value + payload)
            else:
                value = struct.pack("!LHHL", tsn, stream, receiver._next_number.get(stream, 0), ppid)
                body += packet.chunk(Chunk.DATA, 3, value + payload)
        return self.seal(body)

    def sack(self) -> bytes:
        sender = self.victim.sender
        cum = self.rng.choice([sender._out.cum, sender._out.next_tsn]) if sender else 0
        blocks = [self.number(16) for _ in range(2 * self.rng.randrange(5))]
        if self.rng.getrandbits(1):
            blocks.sort()
        duplicates = [self.number(32, cum) for _ in range(self.rng.randrange(3))]
        return self.seal(packet.sack(self.number(32, cum), self.number(32, 100_000), blocks, duplicates))

    def forward_tsn(self) -> bytes:
        cum = self.victim.receiver.cum if self.victim.receiver else 0
        tsn = self.number(32, cum)
        if self.rng.getrandbits(1):
            return self.seal(
                packet.forward_tsn(
                    tsn, [(self.number(16), self.number(16)) for _ in range(self.rng.randrange(9))]
                )
            )
        skipped = [
            (self.number(16), bool(self.rng.getrandbits(1)), self.number(32))
            for _ in range(self.rng.randrange(9))
        ]
        return self.seal(packet.iforward_tsn(tsn, skipped))

    def reset(self) -> bytes:
        resets = self.victim._channels._resets
        sequence = self.number(32, resets._expected if resets else 0)
        if self.rng.getrandbits(1) and resets and resets._request:
            body = packet.param(16, struct.pack("!LL", resets._request.sequence, self.number(32)))
            return self.seal(packet.chunk(Chunk.RE_CONFIG, 0, body))
        cum = self.victim.receiver.cum if self.victim.receiver else 0
        streams = b"".join(struct.pack("!H", self.number(16)) for _ in range(self.rng.randrange(5)))
        value = struct.pack("!LLL", sequence, self.number(32), self.number(32, cum)) + streams
        body = packet.param(self.rng.randrange(12, 20), value)
        return self.seal(packet.chunk(Chunk.RE_CONFIG, 0, body * self.rng.randrange(1, 3)))

    def init(self) -> bytes:
        init = packet.Init(
            tag=self.number(32),
            window=self.number(32),
            outbound_streams=self.number(16),
            inbound_streams=self.number(16),
            tsn=self.number(32),
            extensions=frozenset(self.rng.randbytes(self.rng.randrange(4))),
            zero_checksum=bool(self.rng.getrandbits(1)),
            cookie=self.rng.randbytes(3),
        )
        value = init.pack() + self.rng.randbytes(self.rng.randrange(8))
        kind = self.rng.choice([Chunk.INIT, Chunk.INIT_ACK])
        return self.seal(packet.chunk(kind, 0, value), 0 if kind == Chunk.INIT else None)

    def cookie(self) -> bytes:
        whole = next(
            (heard for heard in self.heard if len(heard) > 12 and heard[12] == Chunk.COOKIE_ECHO), b""
        )
        cookie = bytearray(whole[16:] or self.rng.randbytes(90))
        if self.rng.getrandbits(1):
            cookie[self.rng.randrange(len(cookie))] ^= 1
        return self.seal(packet.chunk(Chunk.COOKIE_ECHO, 0, bytes(cookie)))

    def counts(self) -> bytes:
        """Lengths and counts that promise more than there is."""
        kind = self.rng.choice([Chunk.SACK, Chunk.INIT, Chunk.FORWARD_TSN, Chunk.ERROR, Chunk.HEARTBEAT])
        length = self.rng.choice([0, 3, 4, 16, 0xFFFF])
        value = struct.pack("!LLHH", self.number(32), self.number(32), 0xFFFF, 0xFFFF)
        return self.seal(struct.pack("!BBH", kind, 0, length) + value)


def hostile_case(seed: int) -> None:
    """Two associations talk while one hears an attacker too. Nothing may raise, or grow without end."""
    rng = random.Random(seed)
    simulation = Simulation(Path(jitter=0.005), Path(), seed=seed)
    interleaving = bool(rng.getrandbits(1))
    for endpoint in (simulation.client, simulation.server):
        endpoint.association = simulation.association(
            is_client=endpoint is simulation.client,
            interleaving=interleaving,
            zero_checksum=bool(rng.getrandbits(1)),
            receive_window=WINDOW,
            local_max_message_size=100_000,
        )
    victim, other = (
        (simulation.client, simulation.server)
        if rng.getrandbits(1)
        else (simulation.server, simulation.client)
    )
    victim.reading = bool(rng.getrandbits(1))
    heard: list[bytes] = []
    simulation.on_packet = lambda sender, whole: heard.append(whole) if sender is other else None
    attacker = Attacker(rng, victim, other, heard)

    simulation.client.association.connect(simulation.now)
    simulation.server.association.connect(simulation.now)
    for endpoint in (simulation.client, simulation.server):
        for number in range(2):
            limit = rng.choice([None, 0])
            channel = endpoint.association.open_channel(
                str(number), ordered=not number, max_retransmits=limit
            )
            endpoint.to_send[channel] = [rng.randbytes(rng.choice([1, 1000, 20_000])) for _ in range(6)]
    for _ in range(rng.randrange(1, 60)):
        simulation.run(seconds=rng.choice([0.0, 0.0, 0.001, 0.01, 0.3]))
        victim.association.receive([attacker() for _ in range(rng.randrange(1, 6))], simulation.now)
        if victim.association.state not in TALKING:
            break
        simulation.flush(victim)
        assert_bounded(victim.association)
        if rng.random() < 0.02:
            channels = list(victim.association._channels.known)
            if channels:
                victim.to_send.pop(channels[0], None)
                victim.association.close_channel(channels[0])
    for endpoint in (simulation.client, simulation.server):
        endpoint.to_send.clear()
    simulation.run(seconds=rng.choice([1, 100]))
    assert_bounded(victim.association)


def network_case(seed: int) -> None:
    """A network and traffic at random; everything must arrive."""
    rng = random.Random(seed)

    def path() -> Path:
        return Path(
            delay=10 ** rng.uniform(-3.3, -0.5),
            jitter=rng.choice([0.0, 10 ** rng.uniform(-4, -0.5)]),
            rate=rng.choice([None, 10 ** rng.uniform(4.3, 7.5)]),
            queue=int(10 ** rng.uniform(4.3, 6.3)),
            loss=rng.choice([0.0, rng.uniform(0, 0.3)]),
            duplication=rng.choice([0.0, rng.uniform(0, 0.5)]),
            corruption=rng.choice([0.0, 0.0, rng.uniform(0, 0.1)]),
        )

    traffic = tuple(
        Traffic(
            ordered=bool(rng.getrandbits(1)),
            from_client=bool(rng.getrandbits(1)),
            sizes=tuple(int(10 ** rng.uniform(0, 4.7)) for _ in range(rng.randrange(1, 30))),
        )
        for _ in range(rng.randrange(1, 6))
    )
    run(
        World(
            seed=seed,
            there=path(),
            back=path(),
            traffic=traffic,
            interleaving=bool(rng.getrandbits(1)),
            controller=rng.choice([Bbr, Cubic]),
            tsn=rng.choice([None, 2**32 - rng.randrange(1, 200)]),
            both_connect=bool(rng.getrandbits(1)),
            max_packet=rng.choice([1160, 1200, 1472, 16_000]),
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=["hostile", "network"])
    args = parser.parse_args()
    for seed in range(args.seed, args.seed + args.count):
        for name, case in (("hostile", hostile_case), ("network", network_case)):
            if args.only in (None, name):
                try:
                    case(seed)
                except BaseException:
                    print(f"--only {name} --seed {seed} --count 1 fails", file=sys.stderr)
                    raise
    print(f"{args.count} cases from seed {args.seed} on: all held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
