"""A log of who did what: a line of JSON for each event that matters, with its time."""

from __future__ import annotations

import os
from dataclasses import fields
from datetime import UTC, datetime

from peercli.errors import StorageFailed, UsageError
from peercli.protocol.jsontext import to_json
from peercli.services.events import Event

__all__ = ["Log"]

LEFT_OUT = {"data", "progress", "stats"}  # events: what was said, and how fast
PRIVATE = {"metadata"}  # members: the same


class Log:
    """Appends to a file, which if it is not there is made for us alone to read.

    Raises:
        UsageError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"the log {path} cannot be written: {error.strerror}") from None

    def write(self, event: Event) -> None:
        """Note an event, if it is one of those that matter.

        Raises:
            StorageFailed: it cannot be written.
        """
        if event.event in LEFT_OUT:
            return
        told = {each.name: getattr(event, each.name) for each in fields(event) if each.name not in PRIVATE}
        line = to_json(
            {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event.event, **told}
        )
        try:
            os.write(self._file, line.encode(errors="replace") + b"\n")  # at once, so that lines stay whole
        except OSError as error:
            raise StorageFailed(f"the log {self._path} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)
