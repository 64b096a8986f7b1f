"""How a person sees files on their way: progress on a terminal, a line for what matters, a summary."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from peercli.cli.console import Console, human_bytes, printable
from peercli.errors import UsageError
from peercli.services.events import Event, RouteFound
from peercli.services.files.events import (
    FileFailed,
    FileProgress,
    FileSaved,
    FileSent,
    FileSkipped,
    FilesOffered,
    Resuming,
    TransferEnded,
)
from peercli.services.streams import FdSource

if TYPE_CHECKING:
    from rich.progress import TaskID

    from peercli.services.files.receiving import Inbox, Place
    from peercli.services.files.storage import Conflict

__all__ = ["TransferView", "ask", "inbox_for", "offer_text", "parse_size", "transfer_view"]

FEW = 20  # files of which each gets a line of its own
_REASONS = {"exists": "there is one already", "refused": "the link leads outside"}
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str | None, option: str) -> int | None:
    """Bytes of `5M`, `1.5G`, `300k` or `1000`; raises UsageError."""
    if text is None:
        return None
    number = text.upper().removesuffix("B").removesuffix("I")
    unit = number[-1:] if number[-1:] in _UNITS else ""
    try:
        size = int(float(number.removesuffix(unit)) * _UNITS[unit])
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"{option} {text!r} is no size", hint="write 500k, 5M or 1.5G")
    return size


def offer_text(offer: FilesOffered) -> str:
    """`3 files, 12.3MiB: a.txt, b, c`, with nothing in it that a terminal would obey."""
    count = f"{offer.files:,} file{'s' * (offer.files != 1)}"
    size = f"{human_bytes(offer.size)}{' and more' * offer.endless}"
    names = ", ".join(printable(name) for name in offer.names[:3])
    return f"{count}, {size}: {names}{', …' * (offer.top > 3)}"


class TransferView:
    """Renders the events of transfers on a `Console`; events it does not know are the console's.

    Args:
        verb: what the near side does: it sends, or it receives.
    """

    def __init__(self, console: Console, verb: Literal["Sending", "Receiving"]) -> None:
        self._console = console
        self._verb = verb
        self._routes: dict[str, str] = {}  # by peer, as all that follows
        self._files: dict[str, int] = {}
        self._digests: dict[str, str] = {}
        self._bar: _Bar | None = None
        self._draws = sys.stderr.isatty() and console.verbosity >= 0 and not console.json

    async def report(self, event: Event) -> None:
        """Show an event."""
        if self._console.json or not self._explain(event):
            await self._console.report(event)
        else:
            await self._console.note(event)

    def announce(self, offer: FilesOffered) -> None:
        """Say what is on its way."""
        self._console.status(f"{self._verb} {offer_text(offer)}")

    def close(self) -> None:
        """Draw no more."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            self._console.keys.leave(self._pressed)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Let a question have the terminal."""
        with self._console.keys.left_alone():
            yield

    def _pressed(self, key: str) -> None:
        if key == "v":
            self._console.status(self._console.words())

    def _explain(self, event: Event) -> bool:
        match event:
            case RouteFound(peer, relayed=relayed):
                self._routes[peer] = "relayed" if relayed else "direct"
                return False
            case FilesOffered(peer):
                self._files[peer] = event.files
                if self._verb == "Sending":
                    self.announce(event)
            case FileProgress():
                self._draw(event)
            case FileSaved(peer, _, path, size, digest, resumed) if digest:
                self._done(peer, path, size, digest, resumed)
            case FileSent(peer, name, size, digest, resumed) if digest:
                self._done(peer, name, size, digest, resumed)
            case FileSaved() | FileSent():
                pass
            case FileSkipped(peer, name, reason, message):
                level = 0 if self._files.get(peer, 0) <= FEW else 1
                self._say(f"{name} is skipped: {message or _REASONS.get(reason, reason)}", level=level)
            case FileFailed(_, name, reason, message):
                self._say(f"{name} was not transferred: {message or reason}")
            case Resuming(_, attempt, delay, reason):
                self._say(f"{_sentence(reason)}; attempt {attempt} to go on in {delay:.1f} s")
            case TransferEnded(peer):
                if self._bar is not None and not self._bar.drop(peer):
                    self.close()
                self._summarise(event)
            case _:
                return False
        return True

    def _done(self, peer: str, name: str, size: int, digest: str, resumed: int) -> None:
        self._digests[peer] = digest
        went_on = f", resumed from {human_bytes(resumed)}" if resumed else ""
        level = 0 if 1 < self._files.get(peer, 0) <= FEW else 1
        self._say(f"{name} ({human_bytes(size)}{went_on})", level=level)

    def _summarise(self, end: TransferEnded) -> None:
        verb = "Sent" if self._verb == "Sending" else "Received"
        rate = f" at {human_bytes(end.bytes / end.seconds)}/s" if end.bytes and end.seconds > 0 else ""
        there = f", {human_bytes(end.size - end.bytes)} of it there already" if end.size > end.bytes else ""
        text = f"{verb} {end.files:,} file{'s' * (end.files != 1)}, {human_bytes(end.size)}{there},"
        route = self._routes.get(end.peer, "")
        text += f" in {end.seconds:.1f} s{rate}{f', {route}' if route else ''}"
        for count, what in ((end.skipped, "skipped"), (end.failed, "failed")):
            text += f", {count:,} {what}" if count else ""
        self._console.status(text)
        if end.files == 1 and (digest := self._digests.get(end.peer)):
            self._console.status(f"SHA-256 {digest}")

    def _say(self, text: str, *, level: int = 0) -> None:
        self._console.status(text, level=level)

    def _draw(self, progress: FileProgress) -> None:
        if not self._draws:
            return
        if self._bar is None:
            self._bar = _Bar(self._console)
            self._console.keys.listen(self._pressed)
        self._bar.show(progress, self._routes.get(progress.peer, ""))


class _Bar:
    """Lines at the bottom of the terminal, two for each peer: everything, and the current file."""

    def __init__(self, console: Console) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = console
        self._rich = RichConsole(stderr=True, highlight=False)
        wide = self._rich.width >= 70
        columns = [
            TextColumn("{task.description}", markup=False),
            *([BarColumn(bar_width=None)] if wide else []),
            TextColumn("{task.percentage:>3.0f}%"),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[rate]}"),
            *([TimeRemainingColumn()] if wide else []),
            *([TextColumn("{task.fields[route]}")] if wide else []),
        ]
        self._progress = Progress(*columns, console=self._rich, transient=True, expand=wide)
        self._lines: dict[str, tuple[TaskID, TaskID]] = {}
        self._progress.start()
        console.print_by = lambda line: self._rich.print(line, markup=False, soft_wrap=True)

    def show(self, progress: FileProgress, route: str) -> None:
        """Draw where things are."""
        if progress.peer not in self._lines:
            everything, current = (self._progress.add_task("", rate="", route="") for _ in range(2))
            self._lines[progress.peer] = everything, current
        everything, current = self._lines[progress.peer]
        count = f"{progress.all_files:,}/{progress.files:,}"
        self._progress.update(
            everything,
            description=count,
            completed=progress.all_bytes,
            total=progress.all_total,
            rate=f"{human_bytes(progress.rate)}/s",
            route=route,
        )
        width = max(8, self._rich.width // 4)
        name = printable(progress.name)
        self._progress.update(
            current,
            description=name if len(name) <= width else f"…{name[1 - width :]}",
            completed=progress.bytes,
            total=progress.total,
            visible=progress.files > 1,
        )

    def drop(self, peer: str) -> bool:
        """Take a peer's lines away; whether there are others."""
        for line in self._lines.pop(peer, ()):
            self._progress.remove_task(line)
        return bool(self._lines)

    def stop(self) -> None:
        """Take the lines away."""
        self._progress.stop()
        self._console.print_by = None


@contextmanager
def transfer_view(console: Console, verb: Literal["Sending", "Receiving"]) -> Iterator[TransferView]:
    """A view for as long as a command's transfers last."""
    view = TransferView(console, verb)
    try:
        yield view
    finally:
        view.close()


def inbox_for(
    view: TransferView,
    save_dir: str | None,
    *,
    yes: bool = False,
    place: Place | None = None,
    single: bool = False,
    on_conflict: Conflict = "resume",
    max_size: int | None = None,
) -> Inbox | None:
    """What takes files where consent is plain: a folder was named, or there is somebody to ask; else None.

    Args:
        yes: whoever started the command has agreed already.
        place: where to, if not to a folder.
    """
    from peercli.services.files.receiving import Inbox
    from peercli.services.files.storage import SaveDir

    agreed = yes or save_dir is not None or place is not None
    if not (agreed or (os.isatty(0) and os.isatty(2))):
        return None
    folder = os.path.abspath(save_dir or ".")

    async def consent(offer: FilesOffered) -> bool:
        if not agreed:
            with view.asking():
                return await ask(f"{offer.peer} offers {offer_text(offer)}. Save to {folder}?")
        view.announce(offer)
        return True

    place = place or SaveDir(folder, on_conflict=on_conflict)
    return Inbox(place, view.report, consent=consent, max_size=max_size, single=single)


async def ask(question: str) -> bool:
    """Ask a yes-or-no question at the terminal; no answer is no."""
    sys.stderr.write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    async with FdSource(0) as stdin:
        try:
            answer = await stdin.read()
        except asyncio.CancelledError:  # it is no question any more
            sys.stderr.write("\n")
            raise
    return answer.strip().lower() in {b"y", b"yes"}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
