"""peercli demo."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from peercli.cli.options import Display

if TYPE_CHECKING:
    from peercli.cli.console import Console

__all__ = ["demo"]


def demo(display: Display) -> None:
    """Show what peercli does, on this machine alone, in seconds.

    Example: peercli demo
    """

    async def work(console: Console) -> None:
        from peercli.server.app import Server
        from peercli.server.options import ServerOptions
        from peercli.services.demo import demonstrate
        from peercli.services.events import Demonstrated

        async with Server(ServerOptions(port=0)) as broker:
            await console.report(
                Demonstrated(f"A broker listens at {broker.url}.", (f"peercli server --port {broker.port}",))
            )
            async with aclosing(demonstrate(broker.url)) as steps:
                async for step in steps:
                    await console.report(step)
        console.status("All of it worked. The commands above do the same by hand, each in a terminal.")

    display.run(work)
