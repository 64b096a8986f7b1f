"""peercli connect."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from peercli.cli.options import Display, Network, NoReconnectOption, TimeoutOption, at_least, parse_metadata
from peercli.cli.trust import Trust

if TYPE_CHECKING:
    from peercli.cli.console import Console

__all__ = ["connect"]


class Input(StrEnum):
    text = "text"
    json = "json"


class Serialization(StrEnum):
    binary = "binary"
    json = "json"
    raw = "raw"
    msgpack = "msgpack"


def connect(
    peer_id: Annotated[str, typer.Argument(metavar="ID", help="The peer to connect to.", show_default=False)],
    input: Annotated[
        Input,
        typer.Option("--input", metavar="KIND", help="What a line of stdin is: text, or a value in json."),
    ] = Input.text,
    serialization: Annotated[
        Serialization,
        typer.Option(
            "--serialization",
            metavar="NAME",
            help="How values become messages: binary, json, raw or msgpack.",
        ),
    ] = Serialization.binary,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="TEXT", help="A name for the connection.", show_default=False),
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option("--metadata", metavar="JSON", help="For the far side to see first.", show_default=False),
    ] = None,
    unreliable: Annotated[
        bool, typer.Option("--unreliable", help="Do not keep the order of messages.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            metavar="SECONDS",
            callback=lambda seconds: at_least(0, seconds),
            help="Stay for replies after the end of stdin.",
        ),
    ] = 0,
    keep_open: Annotated[bool, typer.Option("-k", "--keep-open", help="Stay until the peer closes.")] = False,
    *,
    network: Network,
    trust: Trust,
    timeout: TimeoutOption = 30,
    no_reconnect: NoReconnectOption = False,
    display: Display,
) -> None:
    """Talk with a peer: a line in is a message out, and back.

    At the end of stdin everything sent is delivered, then the connection is closed. Text is printed as it
    comes, anything else as JSON, with {"$bytes": "<base64>"} for bytes; --input json reads the same.

    Example: echo hello | peercli connect my-server-7 --wait 2
    """

    async def work(console: Console) -> None:
        known_metadata = parse_metadata(metadata)
        peer, far_id = trust.reach(console, peer_id, network.make_peer)
        from peercli.cli.prompt import messages_from_stdin
        from peercli.services.chat import converse
        from peercli.services.dial import joined

        async with (
            joined(
                peer,
                far_id,
                console.report,
                timeout=timeout,
                reconnect=not no_reconnect,
                label=label,
                metadata=known_metadata,
                serialization="MsgPack" if serialization is Serialization.msgpack else serialization.value,
                reliable=not unreliable,
            ) as connection,
            messages_from_stdin(as_json=input is Input.json, console=console) as messages,
        ):
            await converse(connection, messages, console.report, wait=None if keep_open else wait)

    display.run(work)
