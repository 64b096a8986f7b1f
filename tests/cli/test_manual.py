"""The manual pages: clean to those who check such things, and their examples do what they say."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import peercli
from peercli.cli.library import described, members
from tests import tools
from tests.cli.shell import Shell
from tests.generated import ROOT

PAGES = sorted((ROOT / "man").glob("man?/*"))
_BLOCK = re.compile(r'\.\\" (?P<how>run|start)\n\.Bd [^\n]*\n(?P<code>.*?)\.Ed\n', re.DOTALL)


def examples(page: Path) -> Iterator[tuple[str, str]]:
    """Each example of a page: whether to `run` it to its end, or to `start` it; and what it is."""
    for block in _BLOCK.finditer(page.read_text()):
        yield block["how"], block["code"].replace("\\e", "\\").replace("\\-", "-").replace("\\&", "")


def test_lint() -> None:
    """mandoc finds nothing, and every page of ours that is referred to is there."""
    command = [tools.program("mandoc"), "-Tlint", "-Wall", *map(str, PAGES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    complaints = (done.stdout + done.stderr).splitlines()
    assert [line for line in complaints if "referenced manual not found: Xr peercli" not in line] == []
    there = {page.name for page in PAGES}
    for page in PAGES:
        named = {
            f"{name}.{section}"
            for name, section in re.findall(r"(?m)^\.Xr (peercli\S*) (\d)", page.read_text())
        }
        assert named <= there


@pytest.mark.parametrize("page", [page for page in PAGES if any(examples(page))], ids=lambda page: page.name)
async def test_examples(shell: Shell, tmp_path: Path, page: Path) -> None:
    """What is to be started runs in the background, and what is to be run ends well."""
    (tmp_path / "photos").mkdir()
    for name in ("report.pdf", "photos/one.jpg", "photos/two.jpg~"):
        (tmp_path / name).write_bytes(os.urandom(1000))
    async with AsyncExitStack() as stack:
        for how, code in examples(page):
            text = f"cd {tmp_path}\n{code.replace('9000', str(9000 + os.getpid() % 20_000))}"
            if how == "start":
                command = await stack.enter_async_context(shell.script(text))
                await command.says("istening")
            else:
                done = await shell.run_script(text)
                assert done.code == 0, done.err


@pytest.mark.parametrize("name", described())
def test_every_public_name_is_described(name: str) -> None:
    """In words of its own, and so is all that can be called or read of it."""
    value = getattr(peercli, name)
    kind = value if inspect.isclass(value) else type(value)
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}(")  # which dataclasses say by themselves
    bare = [member for member, each in members(name, kind) if not inspect.getdoc(each)]
    assert bare == []


def test_all_that_is_public_is_described() -> None:
    assert sorted(described()) == sorted({*peercli.__all__} - {"__version__"})


@pytest.mark.parametrize(
    "method",
    [
        *("Peer.start", "Peer.connect", "Peer.dial", "Peer.call", "Peer.ring", "Peer.accept"),
        "Peer.accept_call",
        *("Peer.accept_call", "Peer.reconnect", "Peer.list_all_peers", "Peer.connections", "Peer.calls"),
        *("DataConnection.send", "DataConnection.receive", "DataConnection.flush", "DataConnection.opened"),
        *("MediaConnection.answer", "MediaConnection.opened", "Server.reload"),
    ],
)
def test_errors_are_told(method: str) -> None:
    name, _, member = method.partition(".")
    assert re.search("[Rr]aises", inspect.getdoc(getattr(getattr(peercli, name), member)) or "")
