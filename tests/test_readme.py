"""The front page: its recipes work, its links lead somewhere, and it is spelled as it should be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from peercli.cli.tree import tree
from tests.cli.conftest import shell  # noqa: F401  a fixture
from tests.cli.shell import Shell
from tests.clips import make_clip
from tests.generated import ROOT

README = (ROOT / "README.md").read_text()
RECIPES = [
    (int(number), name, *code.split("\n\n"))
    for number, name, code in re.findall(
        r"(?ms)^\*\*(\d+)\. ([^*]*)\*\*.*?^```console\n(.*?)^```$", README.replace("$ peercli", "peercli")
    )
]
CODE = "7-crossover-clockwork"  # in recipes, for the code that was told
LINES = {1: "hello", 9: "AAEC"}  # what those that go on waiting print
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
SPELLED = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "man/parts", "peercli", "pyproject.toml")


def test_there_are_ten_recipes() -> None:
    assert [number for number, *_ in RECIPES] == list(range(1, 11))


@pytest.mark.parametrize(("number", "name", "waits", "runs"), RECIPES)
async def test_a_recipe(
    shell: Shell,  # noqa: F811
    tmp_path: Path,
    number: int,
    name: str,
    waits: str,
    runs: str,
) -> None:
    """Above the empty line is what waits, below it what is run then; each has a home of its own."""
    folders = here, there = tmp_path / "here", tmp_path / "there"
    for folder in folders:
        (folder / "photos").mkdir(parents=True)
        for file in ("report.pdf", "photos/one.jpg"):
            (folder / file).write_bytes(os.urandom(1000))
        (folder / "secret.txt").write_text("swordfish\n")
    if "talk.mp4" in runs:
        make_clip(there / "talk.mp4", seconds=1, size=(160, 120), fps=5)
    if "receive-file" in runs:
        shutil.rmtree(there / "photos")
    port = str(29_000 + os.getpid() % 3_700)  # below those that the kernel gives away
    waits, runs = (
        f"cd {folder}; {text.removeprefix('$ ').replace('9000', port)}"
        for folder, text in zip(folders, (waits, runs), strict=True)
    )
    async with shell.script(waits, {"XDG_DATA_HOME": f"{here}/data"}) as waiting:
        if CODE in runs:
            told = re.search(r"\d+(-[a-z]+)+", await waiting.says("    peercli "))
            assert told
            runs = runs.replace(CODE, told[0])
        else:
            await waiting.says("istening")
        done = await shell.run_script(runs, XDG_DATA_HOME=f"{there}/data")
        assert done.code == 0, done.err
        if number in LINES:
            while LINES[number] not in await waiting.line():
                pass
        if not re.search("peercli (listen|server)", waits):
            assert await waiting.exit_code() == 0, waiting.stderr
    check(number, here, there, done.out)


def check(number: int, here: Path, there: Path, out: bytes) -> None:
    """What each of the recipes is for."""
    photo = (there / "photos/one.jpg").read_bytes()
    match number:
        case 2:
            with tarfile.open(here / "backup.tar") as tar:
                member = tar.extractfile("photos/one.jpg")
                assert member is not None
                assert member.read() == photo
        case 3:
            assert photo == (here / "photos/one.jpg").read_bytes()
        case 4:
            assert (here / "drop/photos/one.jpg").read_bytes() == photo
            assert (here / "drop/report.pdf").exists()
        case 5:
            assert "laptop" in (here / "data/peercli/peers.json").read_text()
            assert "desktop" in (there / "data/peercli/peers.json").read_text()
        case 6:
            assert (here / "notes.txt").read_bytes() == (there / "report.pdf").read_bytes()
        case 7:
            assert (here / "visit.mkv").stat().st_size > 0
        case 8:
            assert out == b"HELLO\n"


@pytest.mark.parametrize("line", re.findall(r"`(peercli [a-z][^`]+)`", README))
def test_what_is_named_in_passing_is_there(line: str) -> None:
    words = line.split()
    node = next(each for each in tree().nodes if each.name == words[1])
    known = {name for option in node.options for name in option.names}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    headings = re.findall(r"(?m)^#+ (.*)$", text)
    anchors = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_the_picture_is_one() -> None:
    """It shows what it should, is small, and fetches nothing."""
    picture = ROOT / "man/peercli.svg"
    assert picture.stat().st_size < 40_000
    text = "".join(ElementTree.parse(picture).getroot().itertext()).replace("\N{NO-BREAK SPACE}", " ")
    assert "peercli receive-file" in text
    assert "url(http" not in text


def test_spelling() -> None:
    program = Path(sys.executable).parent / "codespell"
    done = subprocess.run(
        [program, "--ignore-words-list=nd", "--skip=words.txt", *SPELLED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout + done.stderr).splitlines() == []
