"""Events for those who like PeerJS's `on()` better than iterators."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar, overload

__all__ = ["Emitter", "Listener"]

logger = logging.getLogger(__name__)

Listener = TypeVar("Listener", bound=Callable[..., Any])


class Emitter:
    """Calls listeners, functions or coroutine functions, and is not harmed by what they do.

    A listener's exception is emitted as `error`; an `error` that nobody listens for is logged, and so is the
    exception of a listener to `error`. Listeners are called in the order in which they came. Those that are
    coroutine functions run as tasks, started in this order, which the emitter's owner ends.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, list[tuple[Callable[..., Any], bool]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    @overload
    def on(self, event: str) -> Callable[[Listener], Listener]: ...
    @overload
    def on(self, event: str, listener: Listener) -> Listener: ...
    def on(self, event: str, listener: Listener | None = None) -> Any:
        """Call `listener` at each `event`. Without a listener, a decorator that takes it; returns it."""
        return self._add(event, listener, once=False)

    @overload
    def once(self, event: str) -> Callable[[Listener], Listener]: ...
    @overload
    def once(self, event: str, listener: Listener) -> Listener: ...
    def once(self, event: str, listener: Listener | None = None) -> Any:
        """Call `listener` at the next `event`, and not again; else as `on`."""
        return self._add(event, listener, once=True)

    def _add(self, event: str, listener: Listener | None, *, once: bool) -> Any:
        if listener is None:
            return partial(self._add, event, once=once)
        self._listeners.setdefault(event, []).append((listener, once))
        return listener

    def remove_listener(self, event: str, listener: Callable[..., Any]) -> None:
        """Call `listener` at `event` no more, if it ever was."""
        self._listeners[event] = [entry for entry in self._listeners.get(event, ()) if entry[0] != listener]

    def listeners(self, event: str) -> list[Callable[..., Any]]:
        """Who listens for `event`."""
        return [listener for listener, _ in self._listeners.get(event, ())]

    def emit(self, event: str, *args: Any) -> bool:
        """Call the listeners of `event`; False if it has none."""
        entries = self._listeners.get(event, [])[:]
        for listener, once in entries:
            if once:
                self._listeners[event].remove((listener, once))
            try:
                result = listener(*args)
            except Exception as error:  # noqa: BLE001  whatever it is, it is not the emitter's
                self._failed(event, error)
            else:
                if asyncio.iscoroutine(result):
                    self._run_listener(event, result)
        if event == "error" and not entries:
            logger.info("an error that nobody listens for: %s", args[0] if args else "")
        return bool(entries)

    def _run_listener(self, event: str, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(self._guard(event, work))
        self._running.add(task)
        task.add_done_callback(self._listener_ended)

    async def _guard(self, event: str, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001  the same
            self._failed(event, error)

    def _failed(self, event: str, error: Exception) -> None:
        if event == "error":
            logger.error("a listener to errors failed", exc_info=error)
        else:
            self.emit("error", error)

    def _inherit_listeners(self, other: Emitter) -> None:
        """Take over the running listeners of an emitter that has come to its end."""
        self._running |= other._running
        for task in other._running:
            task.add_done_callback(self._running.discard)

    def _listener_ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
