"""The options that networked commands share: their names, their meaning, and what they become."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peercli.errors import UsageError
from peercli.options import Broker, IceServer, parse_broker, parse_ice_server, parse_port_range

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from peercli.cli.console import Console
    from peercli.peer.peer import Peer
    from peercli.protocol.auth import Credentials
    from peercli.protocol.messages import Offer

__all__ = [
    "Brokers",
    "ConfigOption",
    "Configuration",
    "Display",
    "Network",
    "NoReconnectOption",
    "ProfileOption",
    "TimeoutOption",
    "at_least",
    "parse_metadata",
]

_NETWORK = "Network"
_OUTPUT = "Output"
_CONFIG = "Configuration"


def at_least(least: float, value: float) -> float:
    """The callback of an option whose number has a bound. (Typer's own would widen every help page.)"""
    if not value >= least:
        raise typer.BadParameter(f"{value:g} is less than {least:g}")
    return value


NoReconnectOption = Annotated[
    bool,
    typer.Option(
        "--no-reconnect",
        help="End with a lost connection, and do not wait two minutes for it to come back.",
        rich_help_panel=_NETWORK,
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        callback=lambda seconds: at_least(0.1, seconds),
        help="Give up reaching the broker, and the peer, after this long.",
        rich_help_panel=_NETWORK,
    ),
]

ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        envvar="PEERCLI_CONFIG",
        metavar="FILE",
        help="Take defaults and contacts from here.",
        show_default=False,
        rich_help_panel=_CONFIG,
    ),
]
ProfileOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        envvar="PEERCLI_PROFILE",
        metavar="NAME",
        help="Take this profile of them.",
        show_default=False,
        rich_help_panel=_CONFIG,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Brokers:
    """The option that names brokers."""

    server: Annotated[
        list[str],
        typer.Option(
            "--server",
            envvar="PEERCLI_SERVER",
            metavar="URL",
            help="The broker: http://host:port/path; ?key= sets the key. Repeat for more: peers that have "
            "one in common find each other.",
            rich_help_panel=_NETWORK,
        ),
    ] = field(default_factory=lambda: ["https://0.peerjs.com/"])

    def brokers(self) -> list[Broker]:
        """The brokers that `--server` names; raises UsageError."""
        return [parse_broker(url) for url in self.server]


@dataclass(frozen=True, kw_only=True)
class Network(Brokers):
    """The options of whoever goes by a broker to a peer."""

    id: Annotated[
        str | None,
        typer.Option(
            "--id",
            envvar="PEERCLI_ID",
            metavar="ID",
            help="Be this peer; by default a fresh random one.",
            show_default=False,
            rich_help_panel=_NETWORK,
        ),
    ] = None
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar="PEERCLI_TOKEN",
            metavar="TEXT",
            help="What proves the id is mine when I come back.",
            show_default=False,
            rich_help_panel=_NETWORK,
        ),
    ] = None
    ice: Annotated[
        list[str] | None,
        typer.Option(
            "--ice",
            envvar="PEERCLI_ICE",
            metavar="URL",
            help="stun:host[:port], turn:user:password@host[:port] or turns:…, with ?transport=tcp for TCP; "
            "repeat for more; none for none; by default PeerJS's own.",
            show_default=False,
            rich_help_panel=_NETWORK,
        ),
    ] = None
    relay: Annotated[
        bool, typer.Option("--relay", help="Connect only through TURN.", rich_help_panel=_NETWORK)
    ] = False
    port_range: Annotated[
        str | None,
        typer.Option(
            "--port-range",
            metavar="LOW-HIGH",
            help="Use only these local UDP ports, which a firewall lets through.",
            show_default=False,
            rich_help_panel=_NETWORK,
        ),
    ] = None
    interface: Annotated[
        list[str] | None,
        typer.Option(
            "--interface",
            metavar="NAME",
            help="Use only this network interface; repeat for more; a pattern as 'eth*'; '*' for all. "
            "By default all but the bridges of containers and virtual machines.",
            show_default=False,
            rich_help_panel=_NETWORK,
        ),
    ] = None

    def make_peer(
        self,
        *,
        id: str | None = None,
        home: str | None = None,
        credentials: Credentials | None = None,
        admit: Callable[[Offer], bool] | None = None,
        take_calls: bool = False,
        max_connections: int | None = None,
        lasting: bool = False,
    ) -> Peer:
        """The peer that they describe.

        Args:
            id: who to be, whatever `--id` says.
            home: who to be, unless `--id` says so.

        Raises:
            UsageError, InvalidID: one of them cannot be used.
        """
        brokers, ice_servers = self.brokers(), self._ice_servers()
        ports = parse_port_range(self.port_range) if self.port_range else None
        from peercli.peer.peer import MAX_CONNECTIONS, Peer  # a WebRTC stack: only once the options are good

        return Peer(
            id or self.id or home,
            server=brokers,
            token=self.token,
            ice_servers=ice_servers,
            relay=self.relay,
            credentials=credentials,
            port_range=ports,
            interfaces=self.interface or (),
            admit=admit,
            take_calls=take_calls,
            max_connections=max_connections or MAX_CONNECTIONS,
            lasting=lasting,
        )

    def _ice_servers(self) -> tuple[IceServer, ...] | None:
        """The servers that `--ice` names, None for those of the broker or PeerJS."""
        if not self.ice:
            return None
        return tuple(parse_ice_server(url) for url in self.ice if url != "none")


@dataclass(frozen=True, kw_only=True)
class Display:
    """The options of how much is said, and in which form."""

    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line for every event.", rich_help_panel=_OUTPUT)
    ] = False
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Say nothing but errors.", rich_help_panel=_OUTPUT)
    ] = False
    verbose: Annotated[
        int,
        typer.Option(
            "-v",
            "--verbose",
            count=True,
            metavar="",
            help="Say more; repeat for more.",
            show_default=False,
            rich_help_panel=_OUTPUT,
        ),
    ] = 0

    def run(
        self,
        work: Callable[[Console], Awaitable[None]],
        *,
        payload: bool = False,
        new_loop: Callable[[], AbstractEventLoop] | None = None,
    ) -> None:
        """Run a command's work, on the console that they ask for.

        Args:
            payload: stdout carries a byte stream.
            new_loop: what runs it, if not asyncio's own loop.
        """
        # Here and not above: what is only asked for help needs neither.
        from peercli.cli.console import Console
        from peercli.cli.run import run

        verbosity = -1 if self.quiet else self.verbose
        run(work, Console(json=self.json, payload=payload, verbosity=verbosity), new_loop)


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The options of where defaults come from: `Configured` heeds them before it looks at any other."""

    config: ConfigOption = None
    profile: ProfileOption = None


def parse_metadata(text: str | None) -> Any:
    """The value of `--metadata`; raises UsageError."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--metadata is not JSON: {error}") from None
