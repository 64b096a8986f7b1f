"""The interface between an association and its congestion controller.

Pure: no clock, no I/O. The association reports what it sent, what was acknowledged and what was lost, in
batches; a controller answers with two numbers, `cwnd` and `pacing_rate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["AckSample", "Controller"]


@dataclass(slots=True)
class AckSample:
    """What one batch of SACKs taught, in seconds and bytes. One object may serve every batch."""

    now: float
    acked: int
    """Bytes newly acknowledged, cumulatively or by gap block."""
    rtt: float | None
    """Round trip of the chunk sent last among those acknowledged; None for retransmissions (Karn)."""
    min_rtt: float
    """The shortest round trip the sender remembers; only a hint until `rtt` has been seen."""
    delivery_rate: float | None
    """Bytes/s (draft-ietf-ccwg-bbr section 4.1), or None when the interval was too short to tell."""
    app_limited: bool
    """The sample's newest chunk was sent while the application had nothing more to send."""
    in_flight: int
    """Bytes outstanding after this batch, without what is deemed lost."""
    round_start: bool
    """A chunk sent after the previous round's start was acknowledged: a round trip counted in packets."""
    lost: int
    """Bytes newly deemed lost in this batch; `on_loss` told of them already."""


class Controller(Protocol):
    """One association's congestion controller, called once a batch and never per packet.

    For a batch of SACKs, `on_loss` (if anything was deemed lost) comes before `on_ack`.
    """

    cwnd: int
    """Bytes that may be in flight."""
    mtu: int
    """Bytes of a full packet; the association sets it anew when the path turns out to carry more."""
    pacing_rate: float
    """Bytes/s at which to send; `math.inf` means unpaced.

    It bounds the average: a sender that woke late may send what it missed, but what a full window or an idle
    application kept back is no debt.
    """

    def on_sent(self, now: float, nbytes: int, in_flight: int) -> None:
        """`nbytes` were sent in a batch, and `in_flight` bytes are outstanding with them."""

    def on_ack(self, sample: AckSample) -> None:
        """A batch of SACKs acknowledged something."""

    def on_loss(self, now: float, lost_bytes: int, in_flight: int, largest_lost_sent_at: float) -> None:
        """`lost_bytes` were deemed lost by fast detection, the newest of them sent at
        `largest_lost_sent_at`; `in_flight` counts them no more."""

    def on_timeout(self, now: float, in_flight: int) -> None:
        """The retransmission timer ran out; `in_flight` is what is still deemed outstanding."""
