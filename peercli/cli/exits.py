"""The one table from what went wrong to the exit code that scripts depend on."""

from __future__ import annotations

from enum import IntEnum

from peercli import errors

__all__ = ["Exit", "exit_for"]


class Exit(IntEnum):
    """How a command ends."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    BROKER = 3
    UNAVAILABLE = 4
    IDENTITY = 5
    NO_ROUTE = 6
    LOST = 7
    DECLINED = 8
    STORAGE = 9
    AUTHENTICATION = 10
    TIMEOUT = 124
    HUNG_UP = 129
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


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
