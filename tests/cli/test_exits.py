"""Errors in --json, and how the small commands end."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.cli.shell import Shell, fresh


@pytest.mark.parametrize("payload", [False, True])
async def test_errors_in_json(shell: Shell, payload: bool) -> None:
    """With --json the error is an event, too: beside the words, or for them if events are on stderr."""
    done = await shell.run("pipe" if payload else "connect", "nobody-here", "--json")
    error = json.loads(done.err if payload else done.out)
    assert error == error | {"event": "error", "type": "peer-unavailable", "exit_code": 4}
    assert error["message"].startswith("no peer nobody-here answers")
    words = f"peercli: {error['message']}\nhint: {error['hint']}\n"
    assert (done.out, done.code) == (b"", 4) if payload else (done.err, done.code) == (words, 4)


async def test_a_stdout_that_takes_nothing(shell: Shell) -> None:
    """What only prints fails, too, and says why, also where that would be an event on stdout."""

    async def case(line: str, why: str) -> None:
        done = await shell.run_script(f"peercli {line}")
        assert (done.code, done.err) == (9, f"peercli: stdout cannot be written: {why}\n"), line

    await asyncio.gather(
        case("--version >&-", "Bad file descriptor"),
        case("pipe --help > /dev/full", "No space left on device"),
        case("config path > /dev/full", "No space left on device"),
        case("peers --json >&-", "Bad file descriptor"),
        case("peers --json > /dev/full", "No space left on device"),
    )


async def test_timed_out(shell: Shell) -> None:
    """--timeout is for all of it, the broker included: 124."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    lines = ("connect", "x"), ("pipe",), ("listen",), ("peers",)
    for done in await asyncio.gather(
        *(shell.run(*line, "--server", url, "--timeout", "1") for line in lines)
    ):
        assert (done.code, done.err.splitlines()[0]) == (
            124,
            f"peercli: the broker {url} did not answer within 1 s",
        )
    server.close()


async def test_peers(shell: Shell) -> None:
    """Ids, a line each, or one event."""
    here = fresh("here")
    async with shell.peercli("listen", "--id", here) as listen:
        await listen.says("Listening as")
        plain, events = await asyncio.gather(shell.run("peers"), shell.run("peers", "--json"))
        assert here in plain.out.decode().splitlines()
        assert here in json.loads(events.out)["ids"]


async def test_server(shell: Shell) -> None:
    """A broker that lists no ids, a port that is taken, and its end by SIGTERM while somebody is there."""
    async with shell.peercli("server", "--port", "0") as server:
        url = await server.says("Listening at ")
        refused, second = await asyncio.gather(
            shell.run("peers", "--server", url),
            shell.run("server", "--port", url.rstrip("/").rpartition(":")[2]),
        )
        assert (refused.code, second.code) == (3, 2)
        assert refused.err.splitlines()[1] == "hint: a broker of your own does with --allow-discovery"
        async with shell.peercli("listen", "--server", url) as listen:
            await listen.says("Listening as")
            server.process.terminate()
            assert (await server.exit_code(), server.stderr.count("\n")) == (143, 1)
            await listen.says("The broker is away")
