"""Events for those who like PeerJS's `on()` better than iterators."""

from __future__ import annotations

import logging
from typing import Any

from pyee.asyncio import AsyncIOEventEmitter

__all__ = ["Emitter"]

logger = logging.getLogger(__name__)


class Emitter(AsyncIOEventEmitter):
    """An event emitter whose listeners, functions or coroutine functions, cannot break the emitter.

    A listener's exception is emitted as `error`; an `error` nobody listens for is logged.
    """

    def emit(self, event: str, *args: Any, **kwargs: Any) -> bool:
        """Call the listeners of `event`; False if it has none."""
        if event == "error" and not self.listeners("error"):
            logger.info("an error that nobody listens for: %s", args[0] if args else "")
            return False
        return super().emit(event, *args, **kwargs)
