"""PeerJS for the shell, and an asyncio library that speaks PeerJS's protocols.

    import asyncio
    from peercli import Peer

    async def main():
        async with Peer() as peer:
            conn = await peer.connect("bob")
            await conn.send({"hello": [1, 2.5, b"bytes"]})
            async for message in conn:
                print(message)

    asyncio.run(main())

The names below are the public ones.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from peercli.errors import PeerError

if TYPE_CHECKING:
    from peercli.options import Broker, IceServer
    from peercli.peer.data import DataConnection
    from peercli.peer.media import MediaConnection, MediaStream
    from peercli.peer.peer import Peer
    from peercli.protocol.auth import Credentials, Identity
    from peercli.protocol.codecs import Codec
    from peercli.protocol.values import UNDEFINED
    from peercli.server.app import Server
    from peercli.server.options import ServerOptions

__version__ = "0.1.0"

__all__ = [
    "UNDEFINED",
    "Broker",
    "Codec",
    "Credentials",
    "DataConnection",
    "IceServer",
    "Identity",
    "MediaConnection",
    "MediaStream",
    "Peer",
    "PeerError",
    "Server",
    "ServerOptions",
    "__version__",
]

_HOMES = {
    "UNDEFINED": "peercli.protocol.values",
    "Broker": "peercli.options",
    "Codec": "peercli.protocol.codecs",
    "Credentials": "peercli.protocol.auth",
    "DataConnection": "peercli.peer.data",
    "IceServer": "peercli.options",
    "Identity": "peercli.protocol.auth",
    "MediaConnection": "peercli.peer.media",
    "MediaStream": "peercli.peer.media",
    "Peer": "peercli.peer.peer",
    "Server": "peercli.server.app",
    "ServerOptions": "peercli.server.options",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: `peercli --help` must not pay for a WebRTC stack.
    if home := _HOMES.get(name):
        return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
