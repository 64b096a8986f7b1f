"""peercli server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from peercli.cli.console import Console
from peercli.cli.options import JsonOption, QuietOption, VerboseOption, make_console
from peercli.cli.run import run

__all__ = ["server"]


def server(
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
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
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Run a broker, through which peercli and PeerJS pages meet.

    Example: peercli server --host 0.0.0.0 --port 9000
    """

    async def work(console: Console) -> None:
        from peercli.server.app import Server
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
        )
        async with Server(options) as broker:
            await console.report(Serving(broker.url))
            await broker.serve_until(asyncio.Event())

    run(work, make_console(json=json, quiet=quiet, verbose=verbose), _new_loop)


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where there is one: it relays half as many messages again."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
