"""peercli id show and peercli id rotate: our own key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from peercli.cli.bundles import spread
from peercli.cli.command import Command, Group
from peercli.cli.options import Display

if TYPE_CHECKING:
    from peercli.cli.console import Console

__all__ = ["id"]

id = typer.Typer(
    cls=Group,
    help="Our own key, by which remembered peers know us.",
    epilog="Example: peercli id show",
    add_completion=False,
)


@id.command(cls=Command, epilog="Example: peercli id show")
@spread
def show(display: Display) -> None:
    """Show our key, which is made at first use, and the peers that we remember."""

    async def work(console: Console) -> None:
        from peercli.services.keyring import Keyring, describe

        await describe(Keyring(), console.report)

    display.run(work)


@id.command(cls=Command, epilog="Example: peercli id rotate")
@spread
def rotate(display: Display) -> None:
    """Make a new key. Peers that remember the old one refuse us until they have paired again."""

    async def work(console: Console) -> None:
        from peercli.services.keyring import Keyring, describe

        ring = Keyring()
        ring.rotate()
        await describe(ring, console.report)

    display.run(work)
