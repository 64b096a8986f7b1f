"""The options that networked commands share: their names, their meaning, and what they become."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peercli.cli.console import Console
from peercli.errors import UsageError
from peercli.options import (
    Broker,
    IceServer,
    parse_broker,
    parse_ice_server,
    parse_port_range,
)

if TYPE_CHECKING:
    from peercli.peer.peer import Peer
    from peercli.protocol.auth import Credentials
    from peercli.protocol.messages import Offer

__all__ = [
    "DEFAULT_SERVER",
    "ConfigOption",
    "IceOption",
    "IdOption",
    "InterfaceOption",
    "JsonOption",
    "NoReconnectOption",
    "PortRangeOption",
    "ProfileOption",
    "QuietOption",
    "RelayOption",
    "ServerOption",
    "TimeoutOption",
    "TokenOption",
    "VerboseOption",
    "at_least",
    "make_brokers",
    "make_console",
    "make_ice_servers",
    "make_peer",
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


ServerOption = Annotated[
    list[str],
    typer.Option(
        "--server",
        envvar="PEERCLI_SERVER",
        metavar="URL",
        help="The broker: http://host:port/path; ?key= sets the key. Repeat for more: peers that have one "
        "in common find each other.",
        rich_help_panel=_NETWORK,
    ),
]
IdOption = Annotated[
    str | None,
    typer.Option(
        "--id",
        envvar="PEERCLI_ID",
        metavar="ID",
        help="Be this peer; by default a fresh random one.",
        show_default=False,
        rich_help_panel=_NETWORK,
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="PEERCLI_TOKEN",
        metavar="TEXT",
        help="What proves the id is mine when I come back.",
        show_default=False,
        rich_help_panel=_NETWORK,
    ),
]
IceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ice",
        envvar="PEERCLI_ICE",
        metavar="URL",
        help="stun:host[:port] or turn:user:password@host[:port]; repeat for more; none for none; "
        "by default PeerJS's own.",
        show_default=False,
        rich_help_panel=_NETWORK,
    ),
]
RelayOption = Annotated[
    bool, typer.Option("--relay", help="Connect only through TURN.", rich_help_panel=_NETWORK)
]
PortRangeOption = Annotated[
    str | None,
    typer.Option(
        "--port-range",
        metavar="LOW-HIGH",
        help="Use only these local UDP ports, which a firewall lets through.",
        show_default=False,
        rich_help_panel=_NETWORK,
    ),
]
NoReconnectOption = Annotated[
    bool,
    typer.Option(
        "--no-reconnect",
        help="End with a lost connection, and do not wait two minutes for it to come back.",
        rich_help_panel=_NETWORK,
    ),
]
InterfaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--interface",
        metavar="NAME",
        help="Use only this network interface; repeat for more; a pattern as 'eth*'; '*' for all. "
        "By default all but the bridges of containers and virtual machines.",
        show_default=False,
        rich_help_panel=_NETWORK,
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        callback=lambda seconds: at_least(0.1, seconds),
        help="Give up reaching the peer after this long.",
        rich_help_panel=_NETWORK,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON object a line for every event.", rich_help_panel=_OUTPUT)
]
QuietOption = Annotated[
    bool, typer.Option("-q", "--quiet", help="Say nothing but errors.", rich_help_panel=_OUTPUT)
]
VerboseOption = Annotated[
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

DEFAULT_SERVER = ["https://0.peerjs.com/"]


def make_console(*, json: bool, quiet: bool, verbose: int, payload: bool = False) -> Console:
    """The console that `--json`, `-q` and `-v` ask for."""
    return Console(json=json, payload=payload, verbosity=-1 if quiet else verbose)


def make_brokers(server: list[str]) -> list[Broker]:
    """The brokers that `--server` names; raises UsageError."""
    return [parse_broker(url) for url in server]


def make_ice_servers(ice: list[str] | None) -> tuple[IceServer, ...] | None:
    """The servers that `--ice` names, None for those of the broker or PeerJS; raises UsageError."""
    if not ice:
        return None
    return tuple(parse_ice_server(url) for url in ice if url != "none")


def make_peer(
    *,
    server: list[str],
    id: str | None,
    token: str | None,
    ice: list[str] | None,
    relay: bool,
    port_range: str | None,
    interface: list[str] | None,
    home: str | None = None,
    credentials: Credentials | None = None,
    admit: Callable[[Offer], bool] | None = None,
    take_calls: bool = False,
    max_connections: int | None = None,
    lasting: bool = False,
) -> Peer:
    """The peer that the shared options describe.

    Args:
        home: who to be, unless `id` says so.

    Raises:
        UsageError, InvalidID: one of them cannot be used.
    """
    brokers, ice_servers = make_brokers(server), make_ice_servers(ice)
    ports = parse_port_range(port_range) if port_range else None
    from peercli.peer.peer import MAX_CONNECTIONS, Peer  # a WebRTC stack: only once the options are good

    return Peer(
        id or home,
        server=brokers,
        token=token,
        ice_servers=ice_servers,
        relay=relay,
        credentials=credentials,
        port_range=ports,
        interfaces=interface or (),
        admit=admit,
        take_calls=take_calls,
        max_connections=max_connections or MAX_CONNECTIONS,
        lasting=lasting,
    )


def parse_metadata(text: str | None) -> Any:
    """The value of `--metadata`; raises UsageError."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--metadata is not JSON: {error}") from None
