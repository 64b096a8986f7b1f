"""What the association itself costs, in process: microseconds a packet to send, and to receive.

    python -m tests.bench.sctp_pure [--megabytes N] [--packet N]

No sockets and no encryption: two associations hand each other lists of packets, and the calls of each side
are timed. It is processor time, so a busy machine disturbs it less.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from time import process_time

from peercli.sctp.association import Association
from peercli.sctp.congestion import Controller
from peercli.sctp.events import MessageReceived

__all__ = ["Side", "run"]

BATCH = 54


class FixedWindow:
    """A controller that is never in the way."""

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu
        self.cwnd = 2 * BATCH * mtu
        self.pacing_rate = float("inf")

    def on_sent(self, now: float, nbytes: int, in_flight: int) -> None: ...
    def on_ack(self, sample: object) -> None: ...
    def on_loss(self, now: float, lost_bytes: int, in_flight: int, largest_lost_sent_at: float) -> None: ...
    def on_timeout(self, now: float, in_flight: int) -> None: ...


@dataclass
class Side:
    association: Association
    seconds: float = 0.0
    got: int = 0

    def exchange(self, packets: list[bytes], now: float) -> list[bytes]:
        """Take in packets, read all messages, and return what is to be sent."""
        association = self.association
        start = process_time()
        association.receive(packets, now)
        for event in association.events():
            if isinstance(event, MessageReceived):
                self.got += len(event.data)
                association.consume(len(event.data))
        out = association.packets(now, BATCH)
        self.seconds += process_time() - start
        return out


def run(total: int, message: int, packet: int, *, extensions: bool) -> tuple[float, float, int]:
    """Send `total` bytes; returns the seconds that sender and receiver took, and the number of packets."""

    def side(is_client: bool) -> Side:
        def controller(mtu: int) -> Controller:
            return FixedWindow(mtu)

        return Side(
            Association(
                is_client=is_client,
                max_packet=packet,
                interleaving=extensions,
                zero_checksum=extensions,
                remote_max_message_size=0,
                controller=controller,
            )
        )

    sender, receiver = side(True), side(False)
    now = 0.0
    sender.association.connect(now)
    channel = sender.association.open_channel("bench")
    there = sender.exchange([], now)
    back: list[bytes] = []
    data = bytes(range(256)) * (message // 256 + 1)
    data = data[:message]
    queued = packets = 0
    while receiver.got < total:
        start = process_time()
        while queued < total and sender.association.room(channel):
            sender.association.send(channel, data, now=now)
            queued += message
        sender.seconds += process_time() - start
        now += 0.0001
        packets += len(there)
        back = receiver.exchange(there, now)
        there = sender.exchange(back, now)
        while not there and receiver.got < total:
            now += 0.01
            for each in (sender, receiver):
                each.association.handle_timeout(now)
            there = sender.exchange(receiver.association.packets(now, BATCH), now)
    return sender.seconds, receiver.seconds, packets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--packet", type=int, default=1160)
    args = parser.parse_args()
    total = args.megabytes << 20
    print(f"{'':30} {'sender µs':>10} {'receiver µs':>12} {'MB/s if alone on a core, slower side':>38}")
    for extensions in (False, True):
        for message in (65_536, 262_144, 16_384, 1_000, 100):
            wanted = total if message > 1000 else total // 16
            sending, receiving, packets = min(
                run(wanted, message, args.packet, extensions=extensions) for _ in range(3)
            )
            name = f"{message} B, {'I-DATA, no CRC' if extensions else 'DATA, CRC32c'}"
            rate = wanted / max(sending, receiving) / 1e6
            print(
                f"{name:30} {sending / packets * 1e6:10.2f} {receiving / packets * 1e6:12.2f} {rate:38.0f}"
                f"   {wanted / message / max(sending, receiving):12,.0f} messages/s"
            )


if __name__ == "__main__":
    main()
