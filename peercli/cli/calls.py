"""How a person sees calls: what happens in words, a live line of numbers, and a question before an answer."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from peercli.cli.console import Console, printable
from peercli.services.events import Answered, Calling, CallStats, Close, Event, Recorded

if TYPE_CHECKING:
    from peercli.peer.media import MediaConnection
    from peercli.services.call import MediaOptions, Studio

__all__ = ["ask_to_answer", "show_devices", "studio_for"]


class CallView:
    """Shows calls on a `Console`: a live line of numbers on a terminal; other events are the console's.

    Args:
        answers_many: how one of them failed is said here, because nobody else says it.
    """

    def __init__(self, console: Console, *, answers_many: bool = False) -> None:
        self._console = console
        self._answers_many = answers_many
        self.studio: Studio | None = None
        self._live = sys.stderr.isatty() and console.verbosity >= 0 and not console.json
        self._drawn = False
        self._calls: set[str] = set()
        self._stats: CallStats | None = None
        self._with_words = False

    async def report(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, CallStats) and not self._console.json:
            self._draw(event)
            return
        self._wipe()
        if isinstance(event, Close):
            self._end(event.connection)
        if self._console.json or not self._explain(event):
            await self._console.report(event)
        else:
            await self._console.note(event)

    def _explain(self, event: Event) -> bool:
        say = self._console.status
        match event:
            case Calling(peer, _, metadata, incoming):
                about = f" ({metadata})" if metadata is not None else ""
                say(f"{peer}{about} is calling" if incoming else f"Calling {peer}, Ctrl-C hangs up")
            case Answered(peer, connection, audio, video):
                self._begin(connection)
                what = " and ".join(["sound"] * audio + ["pictures"] * video)
                say(f"In a call with {peer}, who sends {what or 'nothing'}")
            case Recorded(_, _, path, pictures, left_out):
                text = f", {pictures:,} pictures" if pictures else ""
                text += f"; this machine was too slow for {left_out:,} more" if left_out else ""
                say(f"Recorded {path if path != '-' else 'to stdout'}{text}")
            case Close(peer, _, reason, message) if reason != "closed" and self._answers_many:
                say(f"The call with {peer} has failed: {message}")
            case Close(peer):
                say(f"The call with {peer} has ended")
            case _:
                return False
        return True

    def _begin(self, connection: str) -> None:
        if self._live:
            self._calls.add(connection)
            self._console.keys.listen(self._pressed)

    def _end(self, connection: str) -> None:
        if connection in self._calls:
            self._calls.remove(connection)
            self._console.keys.leave(self._pressed)

    def _pressed(self, key: str) -> None:
        if key == "v":
            self._with_words = not self._with_words
            if self._stats is not None:
                self._draw(self._stats)

    def _draw(self, stats: CallStats) -> None:
        self._stats = stats
        text = printable(self._console.words()) if self._with_words else stats_line(stats)
        view = self.studio.view if self.studio is not None else None
        if view is not None:
            view.say(text)
        elif self._live:
            columns = os.get_terminal_size(2).columns
            sys.stderr.write(f"\r{text[: columns - 1]}\x1b[K")
            sys.stderr.flush()
            self._drawn = True

    def _wipe(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False


def stats_line(stats: CallStats) -> str:
    """`0:12 ↑ VP8 640x480 30fps 1.2M opus 96k ↓ VP8 …, loss 0.1%, rtt 12ms, direct`."""
    seconds = int(stats.seconds)
    parts = [f"{seconds // 60}:{seconds % 60:02}"]
    for arrow, flows in (("↑", stats.sent), ("↓", stats.received)):
        texts = []
        if video := flows.get("video"):
            size = f"{video['width']}x{video['height']}"
            texts.append(f"{video['codec']} {size} {video['rate']:.0f}fps {_bits(video['bitrate'])}")
        if audio := flows.get("audio"):
            texts.append(f"{audio['codec']} {_bits(audio['bitrate'])}")
        if texts:
            parts.append(f"{arrow} {' '.join(texts)}")
    came = stats.received.values()
    if packets := sum(flow["packets"] + flow["lost"] for flow in came):
        parts.append(f"loss {sum(flow['lost'] for flow in came) / packets:.1%}")
    if stats.round_trip is not None:
        parts.append(f"rtt {stats.round_trip * 1000:.0f}ms")
    parts.append("relayed" if stats.relayed else "direct")
    return printable("  ".join(parts))


def _bits(bitrate: float) -> str:
    return f"{bitrate / 1e6:.1f}M" if bitrate >= 1e6 else f"{bitrate / 1e3:.0f}k"


@asynccontextmanager
async def studio_for(
    console: Console, options: MediaOptions, *, answers_many: bool = True
) -> AsyncIterator[Studio]:
    """A studio whose calls are shown on `console`; raises as `open_studio`."""
    from peercli.services.call import open_studio

    view = CallView(console, answers_many=answers_many)
    async with open_studio(options, view.report) as view.studio:
        yield view.studio


async def show_devices(console: Console) -> None:
    """What there is to see and to hear with: a line for each, its kind, name and description."""
    from peercli.services.call import list_devices
    from peercli.services.events import Devices

    devices = await asyncio.to_thread(list_devices)
    if console.json:
        await console.report(Devices([device._asdict() for device in devices]))
        return
    for device in devices:
        await console.write_line("\t".join(device))
    if not devices:
        console.status("No camera, microphone or screen was found")


async def ask_to_answer(call: MediaConnection) -> bool:
    """Ask at the terminal; where there is none, whoever started the command has agreed already."""
    if not (os.isatty(0) and os.isatty(2)):
        return True
    from peercli.cli.transfers import ask

    return await ask("Answer?")
