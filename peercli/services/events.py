"""What services tell while they work: the events of `--json`, as values."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from peercli.rtc.link import Route

__all__ = [
    "Answered",
    "Authenticated",
    "CallStats",
    "Calling",
    "Close",
    "Coded",
    "Connection",
    "Data",
    "Demonstrated",
    "Devices",
    "Event",
    "Finding",
    "Interrupted",
    "Key",
    "Listed",
    "Open",
    "Progress",
    "Reconnecting",
    "Recorded",
    "Redialling",
    "Refused",
    "Remembered",
    "Report",
    "Resumed",
    "RouteFound",
    "Serving",
    "Status",
    "Stream",
    "Verify",
]


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all; `event` is its name in JSON, the fields are its members."""

    event: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Open(Event):
    """The broker knows us as `id`."""

    event: ClassVar[str] = "open"
    id: str


@dataclass(frozen=True, slots=True)
class Reconnecting(Event):
    """The broker is away; attempt number `attempt` to reach it comes in `delay` seconds."""

    event: ClassVar[str] = "reconnecting"
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class Interrupted(Event):
    """A connection was lost, for the reason in `message`; it is given `patience` seconds to come back."""

    event: ClassVar[str] = "interrupted"
    peer: str
    connection: str
    message: str
    patience: float


@dataclass(frozen=True, slots=True)
class Redialling(Event):
    """A connection with `peer` was lost; attempt number `attempt` to resume it comes in `delay` seconds."""

    event: ClassVar[str] = "reconnecting"
    peer: str
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class Resumed(Event):
    """A connection that was lost goes on where it was."""

    event: ClassVar[str] = "resumed"
    peer: str
    connection: str


@dataclass(frozen=True, slots=True)
class Connection(Event):
    """A connection with `peer` is open."""

    event: ClassVar[str] = "connection"
    peer: str
    connection: str
    label: str
    metadata: Any
    serialization: str


@dataclass(frozen=True, slots=True)
class Authenticated(Event):
    """`peer` has proved to know the secret, or to own the key that is remembered as `name`, or both."""

    event: ClassVar[str] = "authenticated"
    peer: str
    connection: str
    secret: bool
    name: str


@dataclass(frozen=True, slots=True)
class Coded(Event):
    """Somebody is waited for who has `code`: `command` is what to type at the other end."""

    event: ClassVar[str] = "code"
    code: str
    command: str


@dataclass(frozen=True, slots=True)
class Refused(Event):
    """`peer` did not prove what it had to; `reason` is one word for why, `message` says it."""

    event: ClassVar[str] = "refused"
    peer: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RouteFound(Event):
    """How packets go: `local` and `remote` are addresses with ports, as the other side sees them; their types
    are W3C's: host, srflx, prflx or relay."""

    event: ClassVar[str] = "route"
    peer: str
    local: str
    remote: str
    relayed: bool
    local_type: str
    remote_type: str

    @classmethod
    def of(cls, peer: str, route: Route) -> RouteFound:
        """That packets to a peer go by this route."""
        return cls(peer, route.local, route.remote, route.relayed, route.local_type, route.remote_type)


@dataclass(frozen=True, slots=True)
class Data(Event):
    """A message came."""

    event: ClassVar[str] = "data"
    peer: str
    connection: str
    data: Any


@dataclass(frozen=True, slots=True)
class Stream(Event):
    """A byte stream has ended after `bytes` bytes."""

    event: ClassVar[str] = "stream"
    peer: str
    connection: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Close(Event):
    """A connection has ended; `reason` is `closed`, or the type of an error. `message` has its words, unless
    the command itself ends with it."""

    event: ClassVar[str] = "close"
    peer: str
    connection: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Key(Event):
    """A public key, by its `fingerprint`, and the `id` where its owner waits; `name` is empty for our own."""

    event: ClassVar[str] = "key"
    name: str
    fingerprint: str
    id: str


@dataclass(frozen=True, slots=True)
class Remembered(Event):
    """A peer's key is kept under `name`; `changed` if there was another one."""

    event: ClassVar[str] = "remembered"
    peer: str
    name: str
    fingerprint: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Verify(Event):
    """`words` are the same on both sides, unless somebody is in between."""

    event: ClassVar[str] = "verify"
    peer: str
    words: str


@dataclass(frozen=True, slots=True)
class Listed(Event):
    """The ids that a broker admits to."""

    event: ClassVar[str] = "peers"
    ids: list[str]


@dataclass(frozen=True, slots=True)
class Serving(Event):
    """A broker listens at `url`."""

    event: ClassVar[str] = "serving"
    url: str


@dataclass(frozen=True, slots=True)
class Demonstrated(Event):
    """Something was shown to work; `by_hand` are commands that do the same."""

    event: ClassVar[str] = "step"
    said: str
    by_hand: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress(Event):
    """How far a transfer has come: bytes so far, of `total` if that is known, at `rate` bytes/s."""

    event: ClassVar[str] = "progress"
    name: str
    bytes: int
    total: int | None
    rate: float


@dataclass(frozen=True, slots=True)
class Devices(Event):
    """What there is to see and to hear with, each with its kind, its name, and what it says of itself."""

    event: ClassVar[str] = "devices"
    devices: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Calling(Event):
    """A call: somebody rings here, or we ring there."""

    event: ClassVar[str] = "call"
    peer: str
    connection: str
    metadata: Any
    incoming: bool


@dataclass(frozen=True, slots=True)
class Answered(Event):
    """A call stands; `audio` and `video` tell what the far side sends."""

    event: ClassVar[str] = "answered"
    peer: str
    connection: str
    audio: bool
    video: bool


@dataclass(frozen=True, slots=True)
class CallStats(Event):
    """How a call goes. `sent` and `received` have, by kind, the codec, the size in pixels, frames a second,
    bit/s, packets, and how many of them were lost; `round_trip` is in seconds."""

    event: ClassVar[str] = "stats"
    peer: str
    connection: str
    sent: dict[str, dict[str, Any]]
    received: dict[str, dict[str, Any]]
    round_trip: float | None
    relayed: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Recorded(Event):
    """A recording is finished; `left_out` pictures of it came too fast to be written."""

    event: ClassVar[str] = "recorded"
    peer: str
    connection: str
    path: str
    pictures: int
    left_out: int


Status = Literal["ok", "info", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding(Event):
    """What `doctor` found: `area` is broker, network, server, nat, devices, pair, peer or verdict;
    `hint` says what can be done, and `data` has the figures."""

    event: ClassVar[str] = "finding"
    area: str
    status: Status
    message: str
    hint: str = ""
    data: dict[str, Any] = field(default_factory=dict)


Report = Callable[[Event], Awaitable[None]]
"""Where a service's events go; it waits while nobody takes them."""
