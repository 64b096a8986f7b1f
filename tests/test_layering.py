"""The house's rules: who may import whom, what is pure, and that every module says what it offers."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import peercli
from peercli.cli.tree import tree

ROOT = Path(peercli.__file__).parent

# Each part of the house, and the parts it may know. Importing runs one way: downwards.
_FLOOR = {"errors"}
_GROUND = _FLOOR | {"options", "protocol", "sctp"}
MAY_KNOW: dict[str, set[str]] = {
    "errors": set(),
    "options": _FLOOR,
    "folders": set(),
    "config": _FLOOR | {"folders", "options"},
    "protocol": _FLOOR,
    "sctp": _FLOOR,
    "rtc": _GROUND,
    "peer": _GROUND | {"rtc"},
    "server": _GROUND,
    "services": _GROUND | {"folders", "rtc", "peer", "server"},
    "cli": _GROUND | {"config", "peer", "server", "services"},
    "__main__": {"cli"},
    "__init__": _GROUND | {"peer", "server"},
}
ONLY_IN: dict[str, str] = {
    "aiortc": "rtc",
    "aioice": "rtc",
    "av": "rtc",
    "typer": "cli",
    "click": "cli",
    "rich": "cli",
    "prompt_toolkit": "cli",
    "websockets": "peer server",
    "httptools": "server",
    "msgspec": "server",
    "prometheus_client": "server",
    "redis": "server",
    "uvloop": "cli",
}
PURE = ("protocol", "sctp", "server/envelope.py", "server/frames.py", "server/realm.py")
IMPURE_MODULES = {
    "asyncio",
    "logging",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
}
IMPURE_NAMES = {"print", "open", "input", "breakpoint"}
IMPURE_METHODS = {"now", "utcnow", "today"}  # of datetime and date

MODULES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imports_of(path: Path, tree: ast.Module) -> Iterator[str]:
    """The full name of everything imported anywhere in a module, for type checking or not."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


def test_every_part_has_its_place() -> None:
    assert {part_of(path) for path in MODULES} == set(MAY_KNOW)


@each_module
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(path)
    for name in imports_of(path, TREES[path]):
        top, _, rest = name.partition(".")
        if top != "peercli" or rest in ("", "__version__"):
            continue
        known = rest.partition(".")[0]
        assert known == part or known in MAY_KNOW[part], f"{part} must not know {name}"


@each_module
def test_libraries_stay_in_their_part(path: Path) -> None:
    for name in imports_of(path, TREES[path]):
        home = ONLY_IN.get(name.partition(".")[0])
        assert home is None or part_of(path) in home.split(), f"{name} belongs to {home}"


PURE_MODULES = [path for path in MODULES if path.relative_to(ROOT).as_posix().startswith(PURE)]


@pytest.mark.parametrize("path", PURE_MODULES, ids=name_of)
def test_the_pure_parts_know_no_world(path: Path) -> None:
    tree = TREES[path]
    for name in imports_of(path, tree):
        assert name.partition(".")[0] not in IMPURE_MODULES, f"{name} in a pure module"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            assert not (isinstance(called, ast.Name) and called.id in IMPURE_NAMES), ast.unparse(node)
            assert not (
                isinstance(called, ast.Attribute)
                and called.attr in IMPURE_METHODS
                and ast.unparse(called.value) in ("datetime", "date", "datetime.datetime", "datetime.date")
            ), ast.unparse(node)
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await), f"{path.name}:{node.lineno} is async"


# The others have nothing to offer: a program, and packages with a docstring alone.
OFFERING = [path for path in MODULES if path.name != "__main__.py" and len(TREES[path].body) > 1]


@pytest.mark.parametrize("path", OFFERING, ids=name_of)
def test_every_module_says_what_it_offers(path: Path) -> None:
    module = importlib.import_module(name_of(path))
    offered = module.__all__
    assert len(offered) == len(set(offered)), "a name is offered twice"
    assert [name for name in offered if not hasattr(module, name)] == []


@each_module
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(TREES[path]), f"{name_of(path)} has no docstring"


HEAVY = {
    *("aiortc", "aioice", "av", "OpenSSL", "cryptography", "google_crc32c"),
    *("websockets", "httptools", "uvloop", "msgspec", "redis"),
}


RUNNING = {"asyncio", "rich", "prompt_toolkit", "spake2", "segno"}  # what only work needs


def imported_by(*arguments: str) -> set[str]:
    """The packages that Python imports when it is run with `arguments`, which may fail."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("PEERCLI_")},
    )
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    assert "peercli" in names, done.stderr
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-c", "import peercli"),
        ("-c", "import peercli.cli.app"),
        ("-m", "peercli", "--help"),
        ("-m", "peercli", "--version"),
        ("-m", "peercli", "complete", "ids", "x"),
        *(("-m", "peercli", *node.path, "--help") for node in list(tree().walk())[1:]),
    ],
    ids=" ".join,
)
def test_start_up_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert not imported_by(*arguments) & (HEAVY | RUNNING)


def test_a_broker_is_dialled_before_webrtc_is_there() -> None:
    assert not imported_by("-c", "import peercli.peer.peer") & {"aiortc", "aioice", "av"}


def test_completion_does_without_typer() -> None:
    assert "typer" not in imported_by("-m", "peercli", "complete", "ids", "x")


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        ("server --port 1 --host 192.0.2.1", {"aiortc", "aioice", "av", "spake2", "rich"}),
        ("peers --server http://127.0.0.1:1/", {"aiortc", "aioice", "av", "cryptography", "spake2", "rich"}),
        (
            "connect x --server http://127.0.0.1:1/",
            {"httptools", "uvloop", "spake2", "rich", "sounddevice", "pydantic"},
        ),
        ("connect x --port-range much", {"aiortc", "aioice", "av", "websockets"}),
        ("config show", {"rich", "cryptography", "aiortc"}),
    ],
)
def test_a_command_imports_what_it_needs(command: str, unneeded: set[str]) -> None:
    assert not imported_by("-m", "peercli", *command.split()) & unneeded
