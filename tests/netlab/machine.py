"""A machine of the matrix: peers that call and are called, by command.

Each line on stdin is a command in JSON, each line on stdout the answer to one. {"do": "start", "id",
"server", "ice", "relay"} makes a peer that takes connections; {"do": "connect", "id", "to"} has it connect,
and says how that went.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Any

from peercli.errors import PeerError
from peercli.peer.peer import Peer

__all__: list[str] = []


async def connect(peer: Peer, to: str) -> dict[str, str]:
    """`direct` or `relayed`, when data has gone there and back; else the kind of error, and its text."""
    try:
        connection = await peer.connect(to, timeout=None)
    except PeerError as error:
        return {"outcome": error.type, "message": error.message, "hint": error.hint}
    await connection.send("ping")
    # The side that does not use the TURN server itself may not know of it.
    relayed = await connection.receive() or (connection.route is not None and connection.route.relayed)
    await connection.close()
    return {"outcome": "relayed" if relayed else "direct"}


async def serve(peer: Peer) -> None:
    """Answer whoever connects, with what this side knows of the route."""
    async for connection in peer.connections():
        await connection.receive()
        await connection.send(connection.route is not None and connection.route.relayed)


async def main() -> None:
    loop = asyncio.get_running_loop()
    peers: dict[str, Peer] = {}
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)

    async def obey(command: dict[str, Any]) -> None:
        begun, outcome = loop.time(), {"outcome": "ready"}
        if command["do"] == "start":
            options = {"ice_servers": command["ice"], "relay": command.get("relay", False)}
            peer = Peer(command["id"], server=command["server"], **options)
            peers[peer.id] = await stack.enter_async_context(peer)
            serving.append(tasks.create_task(serve(peer)))
        else:
            outcome = await connect(peers[command["id"]], command["to"])
        answer = {"number": command["number"], "seconds": loop.time() - begun}
        print(json.dumps(answer | outcome), flush=True)

    serving: list[asyncio.Task[None]] = []
    async with asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        async for line in commands:
            tasks.create_task(obey(json.loads(line)))
        for task in serving:
            task.cancel()


asyncio.run(main())
