"""What the association itself costs, in process: microseconds a packet to send, and to receive.

    python -m tests.bench.sctp_pure [--megabytes N] [--packet N] [--loss PERCENT] [--flight N]

No sockets and no encryption: two associations hand each other lists of packets, and the calls of each side
are timed. It is processor time, so a busy machine disturbs it less.
"""

from __future__ import annotations

import argparse
import random
from collections import deque
from dataclasses import dataclass
from time import process_time

from peercli.sctp.association import Association
from peercli.sctp.congestion import AckSample, Controller
from peercli.sctp.events import MessageReceived

__all__ = ["Cost", "FixedWindow", "run"]

BATCH = 54


class FixedWindow:
    """A controller that is never in the way."""

    def __init__(self, mtu: int, packets: int) -> None:
        self.mtu = mtu
        self.cwnd = packets * mtu
        self.pacing_rate = float("inf")

    def on_sent(self, now: float, nbytes: int, in_flight: int) -> None: ...
    def on_ack(self, sample: AckSample) -> None: ...
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
        due = association.timeout()
        if due is not None and due <= now:
            association.handle_timeout(now)
        association.receive(packets, now)
        for event in association.events():
            if isinstance(event, MessageReceived):
                self.got += len(event.data)
                association.consume(len(event.data))
        out = association.packets(now, BATCH)
        self.seconds += process_time() - start
        return out


@dataclass
class Cost:
    """Seconds of processor time."""

    sender: float
    receiver: float
    packets: int


def run(
    total: int, message: int, packet: int, *, extensions: bool, loss: float = 0.0, flight: int = 2 * BATCH
) -> Cost:
    """Send `total` bytes in messages of `message`, with up to `flight` packets on their way."""

    def side(is_client: bool) -> Side:
        def controller(mtu: int) -> Controller:
            return FixedWindow(mtu, flight)

        return Side(
            Association(
                is_client=is_client,
                max_packet=packet,
                interleaving=extensions,
                zero_checksum=extensions,
                remote_max_message_size=0,
                receive_window=64 << 20,
                controller=controller,
            )
        )

    rng = random.Random(1)
    sender, receiver = side(True), side(False)
    now = 0.0
    sender.association.connect(now)
    channel = sender.association.open_channel("bench")
    data = (bytes(range(256)) * (message // 256 + 1))[:message]
    queued = packets = 0
    pipe: deque[list[bytes]] = deque()
    answers: list[bytes] = []
    while receiver.got < total:
        start = process_time()
        while queued < total and sender.association.room(channel):
            sender.association.send(channel, data, now=now)
            queued += message
        sender.seconds += process_time() - start
        now += 0.0001
        out = sender.exchange(answers, now)
        packets += len(out)
        if packets > 100:  # the set-up is over
            out = [whole for whole in out if rng.random() >= loss]
        pipe.append(out)
        answers = (
            receiver.exchange(pipe.popleft(), now) if len(pipe) * BATCH > flight - BATCH or not out else []
        )
        if not out and not any(pipe) and not answers:
            now += 0.01  # only timers are left to wait for
    return Cost(sender.seconds, receiver.seconds, packets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=64)
    parser.add_argument("--packet", type=int, default=1160)
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--flight", type=int, default=2 * BATCH)
    args = parser.parse_args()
    total = args.megabytes << 20
    print(f"{'':30} {'sender µs':>10} {'receiver µs':>12} {'MB/s of the slower side':>26} {'messages/s':>14}")
    for extensions in (False, True):
        for message in (65_536, 262_144, 16_384, 1_000, 100):
            wanted = total if message > 1000 else total // 16
            cost = min(
                (
                    run(
                        wanted,
                        message,
                        args.packet,
                        extensions=extensions,
                        loss=args.loss / 100,
                        flight=args.flight,
                    )
                    for _ in range(3)
                ),
                key=lambda cost: cost.sender + cost.receiver,
            )
            slower = max(cost.sender, cost.receiver)
            print(
                f"{f'{message} B, ' + ('I-DATA, no CRC' if extensions else 'DATA, CRC32c'):30}"
                f" {cost.sender / cost.packets * 1e6:10.2f} {cost.receiver / cost.packets * 1e6:12.2f}"
                f" {wanted / slower / 1e6:26.0f} {wanted / message / slower:14,.0f}"
            )


if __name__ == "__main__":
    main()
