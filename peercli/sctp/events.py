"""What an association tells whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "ChannelAcknowledged",
    "ChannelClosed",
    "ChannelOpened",
    "Closed",
    "Connected",
    "Event",
    "MessageReceived",
    "ProbeAcked",
    "ProbeLost",
    "RoomAvailable",
]


@dataclass(frozen=True, slots=True)
class Connected:
    """The association is established. After a restart by the far side this comes again."""


@dataclass(frozen=True, slots=True)
class ChannelOpened:
    """The far side opened a channel. `max_packet_life_time` is in milliseconds."""

    channel: int
    label: str
    protocol: str
    ordered: bool
    max_retransmits: int | None
    max_packet_life_time: int | None


@dataclass(frozen=True, slots=True)
class ChannelAcknowledged:
    """The far side knows the channel that we opened."""

    channel: int


@dataclass(slots=True)
class MessageReceived:
    """A message; `Association.consume` must be told once the application has it, or will never want it."""

    channel: int
    data: bytes
    text: bool


@dataclass(frozen=True, slots=True)
class RoomAvailable:
    """A channel whose buffer was full can take more."""

    channel: int


@dataclass(frozen=True, slots=True)
class ChannelClosed:
    """The channel is gone. Its id may name another one from now on."""

    channel: int


@dataclass(frozen=True, slots=True)
class ProbeAcked:
    """A packet of `size` bytes got through."""

    size: int


@dataclass(frozen=True, slots=True)
class ProbeLost:
    """A packet of `size` bytes was not acknowledged in time."""

    size: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The association is over: orderly if `error` is empty, else it says in a few words what happened."""

    error: str = ""


Event = (
    Connected
    | ChannelOpened
    | ChannelAcknowledged
    | MessageReceived
    | RoomAvailable
    | ChannelClosed
    | ProbeAcked
    | ProbeLost
    | Closed
)
