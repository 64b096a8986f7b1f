"""Who is let in, as two people at two shells see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.shell import Shell, fresh


@pytest.mark.parametrize("waiting", ["pipe", "listen --once", "receive-file -y"])
async def test_both_sides_end_with_10_where_the_secrets_differ(shell: Shell, waiting: str) -> None:
    box = fresh("box")
    command, *options = waiting.split()
    async with shell.peercli(command, *options, "--id", box, "--secret", "right") as there:
        await there.says("Listening as")
        verb = ["send-file", box, __file__] if command == "receive-file" else ["pipe", box]
        here = await shell.run(*verb, env={"PEERCLI_SECRET": "wrong"})
        assert here.code == await there.exit_code() == 10
        assert "does not know the same secret" in here.err
        assert "does not know the same secret" in there.stderr
        assert "hint:" in here.err


async def test_a_secret_from_a_file(shell: Shell, tmp_path: Path) -> None:
    box = fresh("box")
    (tmp_path / "secret").write_text("right\n")
    async with shell.peercli("pipe", "--id", box, "--secret", "right") as there:
        await there.says("Listening as")
        there.end_input()
        done = await shell.run("pipe", box, "--secret-file", str(tmp_path / "secret"), input=b"all is well")
        assert done.code == 0
        assert await there.read() == b"all is well"
        assert await there.exit_code() == 0


async def test_a_listener_stays_and_tells_of_who_was_refused(shell: Shell) -> None:
    box = fresh("box")
    async with shell.peercli("listen", "--id", box, "--secret", "right", "--exec", "cat") as there:
        await there.says("Listening as")
        for arguments in (["--secret", "wrong"], []):
            done = await shell.run("connect", box, *arguments, input=b"hello\n")
            assert (done.code, done.out) == (10, b"")
            await there.says("Refused ")
        done = await shell.run("connect", box, "--secret", "right", "--wait", "5", input=b"hello\n")
        assert (done.code, done.out) == (0, b"hello\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--secret", ""],
        ["--secret", "-"],
        ["--secret", "x", "--secret-file", "/dev/null"],
        ["--secret-file", "/nowhere"],
        ["--secret-file", "/dev/null"],
    ],
    ids=" ".join,
)
async def test_a_secret_that_cannot_be_used(shell: Shell, arguments: list[str]) -> None:
    assert (await shell.run("pipe", "nobody", *arguments)).code == 2
