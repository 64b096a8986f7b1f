"""What a person, or a program, sees of a command: stdout carries data only, all else goes to stderr."""

from __future__ import annotations

import asyncio
import codecs
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import fields
from typing import Any, NoReturn, Protocol

from peercli.cli.exits import exit_for
from peercli.cli.keys import Keys
from peercli.cli.log import Log
from peercli.errors import PeerError, StorageFailed
from peercli.protocol.jsontext import to_json
from peercli.services.events import (
    Authenticated,
    Close,
    Coded,
    Connection,
    Data,
    Demonstrated,
    Event,
    Interrupted,
    Key,
    Open,
    Progress,
    Reconnecting,
    Redialling,
    Refused,
    Remembered,
    Resumed,
    RouteFound,
    Serving,
    Stream,
    Verify,
)
from peercli.services.streams import FdSink, Sink

__all__ = ["Console", "printable"]

# C0 and C1 controls but tab, and the marks that reorder text: what could drive or fool a terminal.
_CONTROL = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    """`text` on one line, without anything that a terminal would obey."""
    return _CONTROL.sub("", text)


class _TerminalSink:
    """A terminal on stdout, which is shown no controls but the ends of lines, whoever sent the bytes."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    async def write(self, data: bytes) -> None:
        lines = self._decoder.decode(data).split("\n")
        await self._sink.write("\n".join(map(printable, lines)).encode())

    async def close(self) -> None:
        await self._sink.close()


class _PatchedStdout:
    """`sys.stdout`, while somebody has replaced it so that a prompt stays below what is written."""

    async def write(self, data: bytes) -> None:
        sys.stdout.write(data.decode())

    async def close(self) -> None:
        pass


METER_INTERVAL = 0.5  # s


class Counter(Protocol):
    """Something that counts the bytes that have gone through it."""

    @property
    def sent(self) -> int: ...

    @property
    def received(self) -> int: ...


class Console:
    """Renders events: as words for a person, as JSON lines for a program.

    Args:
        json: one JSON object a line for every event.
        payload: stdout carries a byte stream, so that JSON goes to stderr.
        verbosity: -1 quiet, 0 as usual, 1 and more talkative.
    """

    def __init__(self, *, json: bool = False, payload: bool = False, verbosity: int = 0) -> None:
        self.json = json
        self.print_by: Callable[[str], None] | None = None
        """Prints a line of stderr, while something else is drawn there."""
        self.regretted: PeerError | None = None
        self.log: Log | None = None
        self.keys = Keys()
        self.proved: Callable[[], list[tuple[str, str]]] = list
        """Who is connected and has proved something, and the words that the two have in common."""
        self._payload = payload
        self.verbosity = verbosity
        self._stdout = FdSink(1)
        self.stdout: Sink = _TerminalSink(self._stdout) if os.isatty(1) else self._stdout

    def around_prompt(self) -> None:
        """Write by way of `sys.stdout`, which somebody has replaced so that a prompt stays below."""
        self.stdout = _TerminalSink(_PatchedStdout())

    async def close(self) -> None:
        """Write no more, once what is under way is written."""
        await self._stdout.release()

    def status(self, text: str, *, level: int = 0) -> None:
        """A line on stderr for people; `level` 1 needs `-v`."""
        if not self.json and level <= self.verbosity:
            self._to_stderr(printable(text))

    def words(self) -> str:
        """What there is to compare with whoever is connected, on a line."""
        match self.proved():
            case []:
                return "There are no words to compare: nobody has proved a secret or a key"
            case [(_, words)]:
                return f"Compare with the other side: {words}"
            case several:
                return "; ".join(f"Compare with {peer}: {words}" for peer, words in several)

    async def report(self, event: Event) -> None:
        """Show an event."""
        await self.note(event)
        if self.json:
            await self._report_json({"event": event.event} | _members(event))
        elif isinstance(event, Data):
            await self.write_line(_as_text(event.data))
        elif isinstance(event, Key):
            await self.write_line(f"{event.name or 'this peer'} {event.fingerprint} {event.id}")
        else:
            self._explain(event)

    async def note(self, event: Event) -> None:
        """Write an event to the log, if there is one; for whoever shows it in a way of its own."""
        if self.log is None:
            return
        try:
            self.log.write(event)
        except StorageFailed as error:
            self.log = None
            await self.regret(error)

    async def write_line(self, text: str) -> None:
        """A line of data on stdout."""
        await self.stdout.write(text.encode(errors="replace") + b"\n")

    async def write_styled(self, text: str) -> None:
        """A line on stdout with our own colours in it, in which all that others said is `printable`."""
        await self._stdout.write(text.encode(errors="replace") + b"\n")

    async def fail(self, error: PeerError, exit_code: int) -> None:
        """Say what went wrong, and what can be done: in words on stderr, unless events are there."""
        if self.json:
            members = {"type": error.type, "message": error.message, "exit_code": exit_code}
            if error.hint:
                members["hint"] = error.hint
            with suppress(OSError, PeerError):  # stdout is gone
                await self._report_json({"event": "error", **members})
            if self._payload:
                return
        self._to_stderr(f"peercli: {printable(error.message)}")
        if error.hint:
            self._to_stderr(f"hint: {printable(error.hint)}")

    async def regret(self, error: PeerError) -> None:
        """Say that something went wrong beside the work; when that is done, the exit code tells, too."""
        self.regretted = error
        await self.fail(error, exit_for(error))

    @asynccontextmanager
    async def metered(self, counter: Counter, *, show: bool) -> AsyncIterator[None]:
        """Show twice a second how far `counter` has come, as pv does, and once more at the end."""
        if not show or not (self.json or sys.stderr.isatty()):
            yield
            return
        started = time.monotonic()
        ticking = asyncio.create_task(self._tick(counter, started))
        try:
            yield
        finally:
            ticking.cancel()
            await asyncio.wait({ticking})
            await self._show_meter(counter, started)
            if not self.json:
                self._to_stderr("")

    async def _tick(self, counter: Counter, started: float) -> NoReturn:
        while True:
            await asyncio.sleep(METER_INTERVAL)
            await self._show_meter(counter, started)

    async def _show_meter(self, counter: Counter, started: float) -> None:
        elapsed = time.monotonic() - started
        count = counter.sent + counter.received
        rate = count / elapsed if elapsed > 0 else 0.0
        if self.json:
            await self.report(Progress("pipe", count, None, round(rate, 1)))
            return
        clock = f"{int(elapsed) // 3600}:{int(elapsed) // 60 % 60:02}:{int(elapsed) % 60:02}"
        sys.stderr.write(f"\r{human_bytes(count):>9} {clock} [{human_bytes(rate)}/s]\x1b[K")
        sys.stderr.flush()

    def _explain(self, event: Event) -> None:
        match event:
            case Open(id):
                self.status(f"Listening as {id}")
            case Serving(url):
                self.status(f"Listening at {url}")
            case Demonstrated(said, by_hand):
                self.status(said)
                for command in by_hand:
                    self.status(f"    {command}")
            case Reconnecting(attempt, delay):
                self.status(f"The broker is away; attempt {attempt} to come back in {delay:.1f} s")
            case Authenticated(peer, _, secret, name):
                by = f"to own the key of {name}" if name else "to know the secret" if secret else "nothing"
                self.status(f"{peer} has proved {by}", level=1)
            case Coded(_, command):
                self.status("At the other end, type:", level=-1)
                self.status(f"    {command}", level=-1)
            case Verify(_, words):
                self.status(f"Compare with the other side: {words}", level=-1)
            case Remembered(_, name, key, changed):
                self.status(f"Remembered as {name}: {key}{', instead of another key' * changed}")
            case Refused(peer, _, message):
                self.status(f"Refused {peer}: {message}")
            case Interrupted(peer, _, message, patience):
                self.status(f"{peer}: {message}; it has {patience:g} s to come back")
            case Redialling(peer, attempt, delay):
                self.status(f"Attempt {attempt} to reach {peer} again in {delay:.1f} s", level=1)
            case Resumed(peer):
                self.status(f"{peer} is back; nothing is lost")
            case Connection(peer, _, label, _, serialization):
                self.status(f"Connected with {peer} ({label}, {serialization})", level=1)
            case RouteFound(_, local, remote, relayed, local_type, remote_type):
                way = "relayed" if relayed else "direct"
                self.status(f"Route: {way}, {local} ({local_type}) to {remote} ({remote_type})", level=1)
            case Stream(peer, _, count):
                self.status(f"{peer} sent a stream of {count} bytes", level=1)
            case Close(peer, _, reason, ""):
                self.status(f"{peer} is gone: {reason}", level=1)
            case Close(peer, _, _, message):
                self.status(f"{peer} is gone: {message}")

    async def _report_json(self, members: dict[str, Any]) -> None:
        line = to_json(members)
        if self._payload:
            self._to_stderr(line)
        else:
            await self.stdout.write(line.encode(errors="replace") + b"\n")

    def _to_stderr(self, line: str) -> None:
        with suppress(OSError):  # nobody reads it
            if self.print_by is not None:
                self.print_by(line)
                return
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


def human_bytes(count: float) -> str:
    """`count` bytes in four digits or so: 12.3MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f}{unit}" if unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}TiB"


def _members(event: Event) -> dict[str, Any]:
    return {field.name: getattr(event, field.name) for field in fields(event)}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else to_json(value)
