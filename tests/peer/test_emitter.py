"""Listeners, and what they cannot do to the emitter."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from peercli.peer.emitter import Emitter


def test_listeners_are_called_in_their_order() -> None:
    emitter, heard = Emitter(), list[Any]()
    emitter.on("data", lambda value: heard.append(("one", value)))

    @emitter.on("data")
    def two(value: object) -> None:
        heard.append(("two", value))

    assert emitter.emit("data", 1)
    assert heard == [("one", 1), ("two", 1)]
    assert emitter.listeners("data")[1] is two
    assert not emitter.emit("other")


def test_once_is_once() -> None:
    emitter, heard = Emitter(), list[Any]()

    @emitter.once("open")
    def opened() -> None:
        heard.append("open")
        emitter.emit("open")

    emitter.on("open", lambda: heard.append("again"))
    emitter.emit("open")
    assert heard == ["open", "again", "again"]
    assert len(emitter.listeners("open")) == 1


def test_a_removed_listener_is_not_called() -> None:
    emitter, heard = Emitter(), list[Any]()
    emitter.on("data", heard.append)
    emitter.once("data", heard.append)
    emitter.remove_listener("data", heard.append)
    emitter.remove_listener("data", heard.append)
    emitter.remove_listener("other", heard.append)
    assert not emitter.emit("data", 1)
    assert heard == []


def test_listeners_may_come_and_go_while_they_are_called() -> None:
    emitter, heard = Emitter(), list[Any]()

    def first() -> None:
        heard.append("first")
        emitter.remove_listener("data", first)
        emitter.on("data", lambda: heard.append("late"))

    emitter.on("data", first)
    emitter.on("data", lambda: heard.append("second"))
    emitter.emit("data")
    assert heard == ["first", "second"]
    emitter.emit("data")
    assert heard == ["first", "second", "second", "late"]


def test_an_exception_becomes_an_error() -> None:
    emitter, errors, heard = Emitter(), list[Exception](), list[Any]()
    emitter.on("error", errors.append)
    emitter.on("data", lambda: 1 / 0)
    emitter.on("data", lambda: heard.append("still called"))
    emitter.emit("data")
    assert [type(error) for error in errors] == [ZeroDivisionError]
    assert heard == ["still called"]


def test_errors_of_error_listeners_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Emitter()
    emitter.on("error", lambda _: 1 / 0)
    emitter.on("data", lambda: [][0])
    emitter.emit("data")
    assert "ZeroDivisionError" in caplog.text


def test_an_error_nobody_listens_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert not Emitter().emit("error", ValueError("a strange value"))
    assert "a strange value" in caplog.text


async def test_coroutines_run_in_the_order_of_the_events() -> None:
    emitter, heard = Emitter(), list[Any]()
    done = asyncio.Event()

    @emitter.on("data")
    async def listen(value: int) -> None:
        heard.append(value)
        await asyncio.sleep(0)
        if value == 9:
            done.set()

    for value in range(10):
        emitter.emit("data", value)
    assert heard == []
    await done.wait()
    assert heard == list(range(10))


async def test_exceptions_of_coroutines_become_errors(caplog: pytest.LogCaptureFixture) -> None:
    emitter = Emitter()
    errors: asyncio.Queue[Exception] = asyncio.Queue()
    failed = asyncio.Event()

    @emitter.on("data")
    async def listen() -> None:
        raise LookupError("nothing there")

    @emitter.on("error")
    async def report(error: Exception) -> None:
        errors.put_nowait(error)
        failed.set()
        raise RuntimeError("cannot report")

    emitter.emit("data")
    assert isinstance(await errors.get(), LookupError)
    await failed.wait()
    assert "cannot report" in caplog.text
    assert errors.empty()
