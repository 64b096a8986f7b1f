"""peercli demo: it works, what it says can be done by hand can, and what does not work is no success."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.cli.shell import Shell


async def test_what_it_does_by_hand(shell: Shell, tmp_path: Path) -> None:
    """Its commands, in an empty folder and at a broker that is there already."""
    demo = await shell.run("demo")
    assert (demo.code, demo.out) == (0, b"")
    assert demo.err.splitlines()[-1].startswith("All of it worked.")
    port = re.findall(r"(?m)^    peercli server --port (\d+)$", demo.err)[0]
    by_hand = demo.err.replace(f"http://127.0.0.1:{port}/", shell.broker)
    _, listen, connect, pipe, fill, compare, receive, make, send, _, _ = (
        f"cd {shlex.quote(str(tmp_path))} && {command}" for command in re.findall("(?m)^    (.*)", by_hand)
    )
    async with shell.script(listen) as waiting:
        await waiting.says("Listening as bob")
        assert (await shell.run_script(connect.replace("&&", "&& echo hello |"))).code == 0
        assert await waiting.line() == "hello"
    for first, *others in (pipe, fill, compare), (receive, make, send):
        async with shell.script(first) as waiting:
            await waiting.says("Listening as inbox")
            for command in others:
                done = await shell.run_script(command)
                assert done.code == 0, done.err
            assert await waiting.exit_code() == 0
    assert (tmp_path / "here/folder/today").read_bytes() == (tmp_path / "folder/today").read_bytes()


async def test_what_fails(shell: Shell) -> None:
    """A disk that takes little: what worked before is told, then what did not, with its exit code."""
    done = await shell.run_script("ulimit -f 1; peercli demo")
    assert done.code == 9, done.err
    assert "MiB went through a pipe" in done.err
    assert re.fullmatch(r"peercli: \S+ takes no files: File too large", done.err.splitlines()[-1])
