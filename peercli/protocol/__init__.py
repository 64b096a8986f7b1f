"""Pure protocols: bytes and values in, bytes and values out; no asyncio, socket, clock or print."""
