"""Every error peercli raises on purpose, as one tree.

`PeerError.type` is the string PeerJS uses for the same failure (peerjs `lib/enums.ts`), or one of
peercli's own where PeerJS has none. Errors carry plain values and know nothing of exit codes.
"""

from __future__ import annotations

__all__ = [
    "AuthenticationFailed",
    "BrokerError",
    "ConnectionClosed",
    "ConnectionLost",
    "Declined",
    "Disconnected",
    "IdentityRefused",
    "InvalidID",
    "InvalidKey",
    "MessageTooBig",
    "NegotiationFailed",
    "NetworkError",
    "NotOpenYet",
    "PeerError",
    "PeerUnavailable",
    "ProtocolError",
    "ServerError",
    "SocketClosed",
    "SocketError",
    "SslUnavailable",
    "StorageFailed",
    "TimedOut",
    "UnavailableID",
    "UsageError",
    "WebRTCError",
]


class PeerError(Exception):
    """Base of the tree. `hint` is one sentence on what the user can do, or empty."""

    type = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PeerError):
    """A value given by the user cannot be used: an option, a configuration, a local file."""

    type = "usage"


class ProtocolError(PeerError):
    """The far side sent something that breaks the protocol; nothing of it was kept."""

    type = "protocol"


# Broker ---------------------------------------------------------------------------------------


class BrokerError(PeerError):
    """The broker cannot be reached, or failed."""


class NetworkError(BrokerError):
    """The broker cannot be reached, or the connection to it was lost."""

    type = "network"


class ServerError(BrokerError):
    """The broker answered, but with an error of its own."""

    type = "server-error"


class SocketError(BrokerError):
    """The signalling socket failed."""

    type = "socket-error"


class SocketClosed(BrokerError):
    """The signalling socket was closed by the far side."""

    type = "socket-closed"


class SslUnavailable(BrokerError):
    """TLS with the broker could not be set up."""

    type = "ssl-unavailable"


class Disconnected(PeerError):
    """The peer has left the broker, so it cannot start connections."""

    type = "disconnected"


class IdentityRefused(PeerError):
    """The broker does not let us be who we ask to be."""


class InvalidID(IdentityRefused):
    """The id has characters that ids cannot have."""

    type = "invalid-id"


class UnavailableID(IdentityRefused):
    """The id is held by another session."""

    type = "unavailable-id"


class InvalidKey(IdentityRefused):
    """The broker does not serve this API key."""

    type = "invalid-key"


# Connections ----------------------------------------------------------------------------------


class PeerUnavailable(PeerError):
    """No peer with this id answered."""

    type = "peer-unavailable"


class WebRTCError(PeerError):
    """The WebRTC stack failed."""

    type = "webrtc"


class NegotiationFailed(PeerError):
    """Both peers spoke, but no path between them worked."""

    type = "negotiation-failed"


class ConnectionClosed(PeerError):
    """The connection is closed."""

    type = "connection-closed"


class NotOpenYet(PeerError):
    """The connection is not open yet."""

    type = "not-open-yet"


class MessageTooBig(PeerError):
    """The message exceeds what the serialization, or the far side, can take."""

    type = "message-too-big"


class ConnectionLost(PeerError):
    """The connection ended before the work was done."""

    type = "connection-lost"


class Declined(PeerError):
    """The far side said no."""

    type = "declined"


class AuthenticationFailed(PeerError):
    """The far side could not prove who it is, or we could not. `reason` is for the far side to be told."""

    type = "authentication-failed"

    def __init__(self, message: str, *, hint: str = "", reason: str = "protocol") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class StorageFailed(PeerError):
    """Received data could not be kept, or failed its check."""

    type = "storage"


class TimedOut(PeerError):
    """It took longer than the user allowed."""

    type = "timeout"
