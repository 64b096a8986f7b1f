"""PeerJS for the shell, and an asyncio library that speaks PeerJS's protocols."""

__version__ = "0.1.0"
