"""The one table from what went wrong to the exit code that scripts depend on."""

from __future__ import annotations

from enum import IntEnum

from peercli import errors

__all__ = ["Exit", "exit_for"]


class Exit(IntEnum):
    """How a command ends.

    Attributes:
        when: what it means, for people.
    """

    when: str

    def __new__(cls, code: int, when: str) -> Exit:
        member = int.__new__(cls, code)
        member._value_ = code
        member.when = when
        return member

    DONE = 0, "All is done."
    FAULT = 1, "A fault of peercli's own."
    USAGE = 2, "Wrong usage, a bad configuration, or a local file that cannot be read."
    BROKER = 3, "The broker cannot be reached, or failed."
    UNAVAILABLE = 4, "The broker knows no such peer."
    IDENTITY = 5, "The broker refuses the id or the key: not valid, or taken."
    NO_ROUTE = 6, "No path to the peer works."
    LOST = 7, "The connection was lost before the work was done."
    DECLINED = 8, "The peer declined."
    STORAGE = 9, "Data could not be kept, or failed its check: disk full, no permission, another digest."
    AUTHENTICATION = 10, "One side could not prove who it is, or what it should know."
    TIMEOUT = 124, "It took longer than --timeout allows."
    HUNG_UP = 129, "SIGHUP: the terminal is gone."
    INTERRUPTED = 130, "SIGINT: Ctrl-C."
    BROKEN_PIPE = 141, "Whoever read the standard output reads no more."
    TERMINATED = 143, "SIGTERM."


_TABLE: tuple[tuple[type[BaseException], Exit], ...] = (
    (errors.UsageError, Exit.USAGE),
    (errors.MessageTooBig, Exit.USAGE),
    (errors.BrokerError, Exit.BROKER),
    (errors.Disconnected, Exit.BROKER),
    (errors.PeerUnavailable, Exit.UNAVAILABLE),
    (errors.IdentityRefused, Exit.IDENTITY),
    (errors.NegotiationFailed, Exit.NO_ROUTE),
    (errors.WebRTCError, Exit.NO_ROUTE),
    (errors.ConnectionLost, Exit.LOST),
    (errors.ConnectionClosed, Exit.LOST),
    (errors.NotOpenYet, Exit.LOST),
    (errors.ProtocolError, Exit.LOST),
    (errors.Declined, Exit.DECLINED),
    (errors.StorageFailed, Exit.STORAGE),
    (errors.AuthenticationFailed, Exit.AUTHENTICATION),
    (errors.TimedOut, Exit.TIMEOUT),
    (BrokenPipeError, Exit.BROKEN_PIPE),
    (OSError, Exit.STORAGE),
)


def exit_for(error: BaseException) -> Exit:
    """The exit code for an error; a fault of our own for what nobody foresaw."""
    return next((code for kind, code in _TABLE if isinstance(error, kind)), Exit.FAULT)
