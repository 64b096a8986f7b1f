"""peercli listen."""

from __future__ import annotations

from contextlib import AsyncExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from peercli.cli.media import MediaChoice
from peercli.cli.options import Display, Network, NoReconnectOption, TimeoutOption, at_least
from peercli.cli.trust import AllowOption, Trust, make_admission
from peercli.errors import UsageError

if TYPE_CHECKING:
    from peercli.cli.console import Console

__all__ = ["listen"]


def listen(
    once: Annotated[bool, typer.Option("--once", help="Exit with the first connection's outcome.")] = False,
    echo: Annotated[bool, typer.Option("--echo", help="Send every message back as it came.")] = False,
    exec_command: Annotated[
        str | None,
        typer.Option(
            "--exec",
            metavar="COMMAND",
            help="Run a shell command for each connection, its stdin and stdout joined to the peer; "
            "files go to --save-dir.",
            show_default=False,
        ),
    ] = None,
    allow: AllowOption = None,
    allow_anyone: Annotated[
        bool, typer.Option("--allow-anyone", help="Let everybody who knows the id run the --exec command.")
    ] = False,
    save_dir: Annotated[
        str | None,
        typer.Option(
            "--save-dir",
            metavar="DIR",
            help="Take files, into this folder, without asking.",
            show_default=False,
        ),
    ] = None,
    max_peers: Annotated[
        int | None,
        typer.Option(
            "--max-peers",
            metavar="N",
            callback=lambda most: most if most is None else at_least(1, most),
            help="Decline more than N at once.",
            show_default=False,
        ),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            "--log",
            metavar="FILE",
            help="Append who came, what was proved and what was done: a line of JSON each, with the time.",
            show_default=False,
        ),
    ] = None,
    answer: Annotated[
        bool, typer.Option("--answer", help="Answer calls, many at once, and send the same to all of them.")
    ] = False,
    *,
    media: MediaChoice,
    network: Network,
    timeout: TimeoutOption = 30,
    no_reconnect: NoReconnectOption = False,
    trust: Trust,
    display: Display,
) -> None:
    """Wait for peers: print their messages, take their streams and files, answer their calls.

    A message is a line: text as it comes, anything else as JSON. Files are saved with --save-dir, or after
    a yes at the terminal, and calls are answered with --answer; else they are declined. Stays through outages
    of the broker, until Ctrl-C.

    Example: peercli listen --id my-server-7 --echo
    """

    async def work(console: Console) -> None:
        if exec_command is not None and not (allow or trust.asks or allow_anyone):
            raise UsageError(
                "--exec would let anybody who knows the id run the command",
                hint="name who may with --allow ID, set a --secret, or say --allow-anyone",
            )
        if not answer and media.made:
            raise UsageError("what is sent, recorded and shown in calls needs --answer")
        if media.record == "-":
            raise UsageError("--record - needs a stdout of its own", hint="peercli call --record -")
        from peercli.cli.calls import studio_for
        from peercli.cli.log import Log
        from peercli.cli.transfers import inbox_for, transfer_view
        from peercli.services.dial import started
        from peercli.services.listen import Listener

        admission = make_admission(allow)
        options = media.options()
        async with AsyncExitStack() as stack:
            if log is not None:
                console.log = stack.enter_context(closing(Log(log)))
            screen = stack.enter_context(transfer_view(console, "Receiving"))
            inbox = inbox_for(screen, save_dir) if save_dir or exec_command is None else None
            if inbox is not None:
                stack.push_async_callback(inbox.close)
            listener = Listener(
                report=screen.report,
                output=None if console.json else console.stdout,
                echo=echo,
                command=exec_command,
                once=once or trust.code,
                admission=admission,
                inbox=inbox,
                studio=await stack.enter_async_context(studio_for(console, options)) if answer else None,
            )
            make = partial(
                network.make_peer,
                admit=listener.admit,
                take_calls=answer,
                max_connections=1 if once else max_peers,
                lasting=not no_reconnect,
            )
            peer = await trust.wait(console, make, admission, type_there="connect CODE")
            await stack.enter_async_context(started(peer, timeout))
            await listener.run(peer)

    display.run(work)
