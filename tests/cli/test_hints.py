"""Exit codes 3, 4, 5 and 7: what is said, and what is said to help. Code 6 takes networks: tests/netlab."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.brokers import our_server, peerserver
from tests.certificates import certificate
from tests.cli.shell import Shell, fresh
from tests.commands import peercli

PATIENCE = 120.0  # s
ALIVE_TIMEOUT = 8.0  # s; over the 5 s between two heartbeats


def check(code: int, stderr: str, expected: int, why: str, hint: str) -> None:
    """Two lines: why, and what helps."""
    error, helps = stderr.splitlines()[-2:]
    assert (code, error.startswith("peercli: "), helps.startswith("hint: ")) == (expected, True, True), stderr
    assert why in error
    assert hint in helps


async def test_the_broker_cannot_be_reached(shell: Shell) -> None:
    async with our_server() as gone:
        pass
    done = await shell.run("connect", "x", "--server", gone)
    check(done.code, done.err, 3, "cannot be reached: Connection refused", "check the --server address")


async def test_the_broker_s_certificate_has_expired(shell: Shell, tmp_path: Path) -> None:
    tls = certificate(tmp_path, valid_for=timedelta(days=-1))
    async with our_server(tls_cert=tls.cert, tls_key=tls.key) as url:
        done = await shell.run("connect", "x", "--server", url, env={"SSL_CERT_FILE": str(tls.cert)})
    check(done.code, done.err, 3, "certificate has expired", "the broker's owner has to renew it")


async def test_it_is_not_the_broker(shell: Shell) -> None:
    done = await shell.run("connect", "x", "--server", f"{shell.broker}elsewhere")
    check(done.code, done.err, 3, "answered HTTP 404", "--path")


async def test_the_peer_is_offline(shell: Shell) -> None:
    done = await shell.run("connect", nobody := fresh("nobody"))
    check(done.code, done.err, 4, f"no peer {nobody} answers", "is it running, with the same --server?")


async def test_the_id_is_taken_by_a_session_that_lives(shell: Shell) -> None:
    async with shell.peercli("listen", "--id", taken := fresh("taken")) as older:
        await older.says("Listening as")
        done = await shell.run("listen", "--id", taken)
        check(done.code, done.err, 5, f"the id {taken} is taken", "the same --token would take it over")


@pytest.mark.timeout(PATIENCE + 60)
async def test_the_id_of_a_session_that_has_died_is_freed() -> None:
    """By PeerServer within its --alive_timeout, by default the minute that the hint speaks of."""
    async with asyncio.timeout(PATIENCE), peerserver(alive_timeout=ALIVE_TIMEOUT) as url:
        options = ("listen", "--id", "box", "--server", url, "--ice", "none")
        async with frozen(*options):
            freed = False
            while not freed:
                async with peercli(*options) as listen:
                    await listen.says("")
                    if not (freed := "Listening as box" in listen.stderr):
                        code = await listen.exit_code()
                        check(code, listen.stderr, 5, "is taken", "it is freed within a minute")


async def test_our_broker_frees_the_id_of_a_session_that_has_died_at_once(shell: Shell) -> None:
    options = ("listen", "--id", fresh("box"))
    async with (
        frozen(*options, "--server", shell.broker, "--ice", "none"),
        shell.peercli(*options) as listen,
    ):
        await listen.says("Listening as")


@asynccontextmanager
async def frozen(*arguments: str) -> AsyncIterator[None]:
    """A listening peercli that has stopped in its tracks."""
    async with peercli(*arguments) as listen:
        await listen.says("Listening as")
        listen.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            listen.process.send_signal(signal.SIGCONT)


async def test_the_key_is_another(shell: Shell) -> None:
    done = await shell.run("listen", "--server", f"{shell.broker}?key=other")
    check(done.code, done.err, 5, "does not serve this key", "?key=")


async def test_the_peer_is_lost(shell: Shell) -> None:
    async with shell.peercli("listen", "--echo", "--id", name := fresh("box")) as box:
        await box.says("Listening as")
        async with shell.peercli("connect", name, "--no-reconnect") as connect:
            await connect.write("hello\n")
            assert await connect.line() == "hello"
            box.kill()
            code = await connect.exit_code()
            check(code, connect.stderr, 7, "the connection to the peer was lost", "or crashed?")


async def test_the_peer_was_started_anew(shell: Shell) -> None:
    """It is there again, and does not know the conversation."""
    name = fresh("box")
    async with AsyncExitStack() as life:
        box = await life.enter_async_context(shell.peercli("listen", "--echo", "--id", name, "--token", "t"))
        await box.says("Listening as")
        async with shell.peercli("connect", name) as connect:
            await connect.write("hello\n")
            assert await connect.line() == "hello"
            box.kill()
            async with shell.peercli("listen", "--echo", "--id", name, "--token", "t"):
                code = await connect.exit_code()
                check(code, connect.stderr, 7, "cannot be resumed", "started anew")
