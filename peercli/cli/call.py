"""peercli call."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from peercli.cli.media import MediaChoice
from peercli.cli.options import Display, Network, TimeoutOption, at_least, parse_metadata
from peercli.cli.trust import AllowOption, Trust, make_admission

if TYPE_CHECKING:
    from peercli.cli.console import Console

__all__ = ["call"]


def call(
    peer_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="The peer to call; without, wait to be called.", show_default=False
        ),
    ] = None,
    *,
    media: MediaChoice,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration",
            metavar="SECONDS",
            callback=lambda seconds: seconds if seconds is None else at_least(0.1, seconds),
            help="Hang up after this long.",
            show_default=False,
        ),
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option("--metadata", metavar="JSON", help="For the far side to see first.", show_default=False),
    ] = None,
    devices: Annotated[
        bool, typer.Option("--list-devices", help="Show what there is to see and hear with, and exit.")
    ] = False,
    network: Network,
    allow: AllowOption = None,
    trust: Trust,
    timeout: TimeoutOption = 30,
    display: Display,
) -> None:
    """Call a peer, or a browser page, with sound and pictures.

    Sends the camera and the microphone, or what the options name; a file that has ended ends the call. There
    is no echo canceller: with --play, wear headphones.

    Example: peercli call my-server-7 --video screen --record talk.mp4
    """

    async def work(console: Console) -> None:
        from peercli.cli.calls import ask_to_answer, show_devices, studio_for

        if devices:
            await show_devices(console)
            return
        from peercli.services.call import ring, take_a_call

        options = media.options(default=("camera", "mic"))
        known_metadata = parse_metadata(metadata)
        make = partial(network.make_peer, take_calls=peer_id is None, max_connections=1)
        async with studio_for(console, options, answers_many=False) as studio:
            if peer_id is None:
                admission = make_admission(allow)
                make = partial(make, admit=admission and admission.admits)
                peer = await trust.wait(console, make, admission, type_there="call CODE")
                await take_a_call(peer, studio, ask_to_answer, duration=duration)
            else:
                peer, far_id = trust.reach(console, peer_id, make)
                await ring(peer, far_id, studio, metadata=known_metadata, timeout=timeout, duration=duration)

    display.run(work, payload=media.record == "-")
