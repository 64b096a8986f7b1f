"""peercli server."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peercli.cli.options import Display

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from peercli.cli.console import Console

__all__ = ["server"]

_ACCESS, _CLUSTER, _WATCH = "Who may", "Several brokers", "Watching"


class LogFormat(StrEnum):
    """How logs are written."""

    text = "text"
    json = "json"


def _option(name: str, metavar: str | None, help: str, panel: str) -> Any:
    return typer.Option(name, metavar=metavar, help=help, rich_help_panel=panel, show_default=False)


def server(
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Where to listen; :: is everywhere.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", help="Port to listen on; 0 for a free one.")
    ] = 9000,
    path: Annotated[str, typer.Option("--path", metavar="PATH", help="Prefix of its addresses.")] = "/",
    key: Annotated[
        str, typer.Option("--key", metavar="TEXT", help="The API key that clients name.")
    ] = "peerjs",
    expire_timeout: Annotated[
        float,
        typer.Option(
            "--expire-timeout",
            metavar="SECONDS",
            help="Hold messages for an absent peer this long.",
        ),
    ] = 5,
    alive_timeout: Annotated[
        float,
        typer.Option(
            "--alive-timeout",
            metavar="SECONDS",
            help="Free the id of a client that is silent this long.",
        ),
    ] = 60,
    concurrent_limit: Annotated[
        int, typer.Option("--concurrent-limit", metavar="N", help="Clients at once, at most.")
    ] = 5000,
    allow_discovery: Annotated[
        bool, typer.Option("--allow-discovery", help="Let anybody list the ids.")
    ] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            "--cors",
            metavar="ORIGIN",
            help="Let only pages from here call; repeat for more. By default all may.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", help="Certificate chain, PEM.", show_default=False),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option("--tls-key", metavar="FILE", help="Its private key, PEM.", show_default=False),
    ] = None,
    proxied: Annotated[
        bool, typer.Option("--proxied", help="Behind a reverse proxy: believe its X-Forwarded-For.")
    ] = False,
    auth_secret_file: Annotated[
        Path | None,
        _option("--auth-secret-file", "FILE", "Let in only who brings a token signed with this.", _ACCESS),
    ] = None,
    keys_file: Annotated[
        Path | None,
        _option("--keys-file", "FILE", "API keys (TOML), each with its realm, limits and ids.", _ACCESS),
    ] = None,
    origin: Annotated[
        list[str] | None,
        _option("--origin", "ORIGIN", "Let in only pages from here; repeat for more.", _ACCESS),
    ] = None,
    turn: Annotated[
        list[str] | None,
        _option("--turn", "URL", "Hand out credentials for this TURN server; repeat for more.", _ACCESS),
    ] = None,
    turn_secret_file: Annotated[
        Path | None,
        _option("--turn-secret-file", "FILE", "The secret shared with it (static-auth-secret).", _ACCESS),
    ] = None,
    turn_lifetime: Annotated[
        float,
        typer.Option(
            "--turn-lifetime",
            metavar="SECONDS",
            help="How long these credentials are good.",
            rich_help_panel=_ACCESS,
        ),
    ] = 86_400,
    redis: Annotated[
        str,
        _option(
            "--redis", "URL", "Be one realm with all brokers at this Redis (no Redis Cluster).", _CLUSTER
        ),
    ] = "",
    share_port: Annotated[
        bool, typer.Option("--share-port", help="Let others listen here too.", rich_help_panel=_CLUSTER)
    ] = False,
    drain: Annotated[
        float,
        typer.Option(
            "--drain", metavar="SECONDS", help="Take this long to let clients go.", rich_help_panel=_CLUSTER
        ),
    ] = 0,
    metrics: Annotated[
        bool,
        typer.Option("--metrics", help="Show /metrics to others than this machine.", rich_help_panel=_WATCH),
    ] = False,
    log_format: Annotated[
        LogFormat | None, _option("--log-format", None, "Log what happens.", _WATCH)
    ] = None,
    log_ids: Annotated[
        bool,
        typer.Option("--log-ids", help="Name clients and addresses in logs.", rich_help_panel=_WATCH),
    ] = False,
    *,
    display: Display,
) -> None:
    """Run a broker, through which peercli and PeerJS pages meet.

    It takes the place of PeerServer; peercli-server(1) tells what differs, and its limits.

    Example: peercli server --host 0.0.0.0 --port 9000
    """

    async def work(console: Console) -> None:
        import asyncio
        import os
        import signal

        from peercli.server.app import Server
        from peercli.server.listening import lift_file_limit
        from peercli.server.logs import log_to_stderr
        from peercli.server.options import ServerOptions
        from peercli.services.events import Serving

        options = ServerOptions(
            host=host,
            port=port,
            path=path,
            key=key,
            expire_timeout=expire_timeout,
            alive_timeout=alive_timeout,
            concurrent_limit=concurrent_limit,
            allow_discovery=allow_discovery,
            cors=tuple(cors or ["*"]),
            tls_cert=tls_cert,
            tls_key=tls_key,
            proxied=int(proxied),
            auth_secret_file=auth_secret_file,
            keys_file=keys_file,
            origins=tuple(origin or ["*"]),
            turn_urls=tuple(turn or ()),
            turn_secret_file=turn_secret_file,
            turn_lifetime=turn_lifetime,
            redis=redis,
            share_port=share_port,
            drain=drain,
            metrics=metrics,
            log_ids=log_ids,
        )
        if log_format is not None:
            log_to_stderr(json=log_format is LogFormat.json)
        lift_file_limit()
        terminals = [descriptor for descriptor in range(3) if os.isatty(descriptor)]
        async with Server(options) as broker:

            def hung_up() -> None:
                if all(map(os.isatty, terminals)):
                    broker.try_reload()
                else:  # it has been closed
                    signal.raise_signal(signal.SIGTERM)

            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)
            await console.report(Serving(broker.url))
            await broker.serve_until(asyncio.Event())

    display.run(work, new_loop=_new_loop)


def _new_loop() -> AbstractEventLoop:
    """uvloop's, where there is one: written in C, it has more time for messages."""
    import asyncio

    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
