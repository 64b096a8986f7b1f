"""The configuration file: what it means, and the line that is named when something is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from peercli.config import read
from peercli.errors import UsageError

OPTIONS = {"listen": {"server", "save-dir", "timeout"}, "pipe": {"server", "timeout"}}

GOOD = """\
server = "http://all:9/"
timeout = 5

[listen]
timeout = 6
save-dir = "~/Drop"

[profiles.work]
server = "http://work:9/"
[profiles.work.pipe]
timeout = 7

[contacts]
laptop = "my-laptop-7"
"old phone" = "phone-1"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def test_whose_word_counts(tmp_path: Path) -> None:
    """A command's own line before one for all, the profile's before both."""
    config = read(written(tmp_path, GOOD), OPTIONS, required=True)

    def values(command: str, profile: str = "") -> dict[str, object]:
        return {name: setting.value for name, setting in config.for_command(command, profile).items()}

    assert values("pipe") == {"server": "http://all:9/", "timeout": 5}
    assert values("listen") == {"server": "http://all:9/", "timeout": 6, "save-dir": "~/Drop"}
    assert values("pipe", "work") == {"server": "http://work:9/", "timeout": 7}
    assert values("listen", "work")["server"] == "http://work:9/"
    assert config.contacts == {"laptop": "my-laptop-7", "old phone": "phone-1"}


def test_where_a_value_comes_from(tmp_path: Path) -> None:
    config = read(path := written(tmp_path, GOOD), OPTIONS, required=True)
    places = {name: setting.place for name, setting in config.for_command("pipe", "work").items()}
    assert places == {"server": f"{path}:9", "timeout": f"{path}:11"}


@pytest.mark.parametrize(
    ("text", "line", "what", "hint"),
    [
        ('sever = "x"', 1, "there is no option 'sever'", "did you mean server?"),
        ("\n[listen]\nsave_dir = 1", 3, "there is no option 'save_dir'", "did you mean save-dir?"),
        ("[lisen]\ntimeout = 1", 1, "there is no command 'lisen'", "did you mean listen?"),
        ("[pipe]\nsave-dir = '.'", 2, "there is no option 'save-dir'", ""),
        ("[profiles.a.pipe]\n\ntimeot = 1", 3, "there is no option 'timeot'", "did you mean timeout?"),
        ("profiles = 1", 1, r"profiles is a table: write \[profiles\]", ""),
        ("[profiles]\nwork = 1", 2, r"work is a table: write \[profiles.work\]", ""),
        ("[contacts]\nbox = 7", 2, "the contact 'box' needs an id, in quotes", ""),
        ("[contacts]\nbox = '-x-'", 2, "the id '-x-' is not valid", ""),
        ("timeout = 1979-05-27", 1, "timeout cannot be set to this", ""),
        ("server = [{}]", 1, "server cannot be set to this", ""),
    ],
)
def test_mistakes(tmp_path: Path, text: str, line: int, what: str, hint: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=f"^{path}:{line}: {what}$") as raised:
        read(path, OPTIONS, required=True)
    assert raised.value.hint == hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert read(absent, OPTIONS, required=False).for_command("pipe") == {}
    cases = {
        absent: "there is no file",
        tmp_path: "cannot be read: Is a directory",
        written(tmp_path, "a ="): r"invalid value \(at end of document\)",
    }
    for path, why in cases.items():
        with pytest.raises(UsageError, match=why):
            read(path, OPTIONS, required=True)
    for content, why in (
        (b"\xff", "not text in UTF-8"),
        (b"#" * (1 << 21), "too long"),
        (b"a = " + b"[" * 9000 + b"]" * 9000, "nested too deeply"),
    ):
        (tmp_path / "odd").write_bytes(content)
        with pytest.raises(UsageError, match=why):
            read(tmp_path / "odd", OPTIONS, required=True)


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    config = read(written(tmp_path, GOOD), OPTIONS, required=True)
    with pytest.raises(UsageError, match="no profile 'home'") as raised:
        config.for_command("pipe", "home")
    assert raised.value.hint == "it has work"
