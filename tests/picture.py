"""Makes the picture at the top of README.md, from real runs: `python -m tests.picture`."""

from __future__ import annotations

import asyncio
import io
import os
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tests.brokers import our_server
from tests.cli.shell import Shell
from tests.commands import Command
from tests.generated import ROOT

PICTURE = ROOT / "man/peercli.svg"
COLUMNS = 116


class Screen:
    """A terminal: what was typed in it, and what came."""

    def __init__(self, shell: Shell, folder: Path) -> None:
        self.text = Text()
        self._shell = shell
        self._folder = folder
        folder.mkdir()

    @asynccontextmanager
    async def type(self, line: str) -> AsyncIterator[Command]:
        """Run a command line; when the block ends, so has the command, and its output is on the screen."""
        self.text.append("\n" if self.text else "").append("$ ", "green").append(f"{line}\n", "bold")
        home = {"XDG_DATA_HOME": str(self._folder / "data")}
        async with self._shell.script(f"cd {self._folder}; {line}", home) as command:
            yield command
            assert command.process.stdout is not None
            if command.process.returncode is None and "listen" in line:
                command.process.terminate()
            out = (await command.read()).decode()
            await command.exit_code()
        # With the public broker, the default, there is no option to repeat.
        said = command.stderr.replace(f" --server {self._shell.broker}", "").replace(str(self._folder), "~")
        self.text.append(re.sub(r"(?m)^SHA-256 .*\n|, direct", "", said), "dim").append(out)


async def show(screens: tuple[Screen, Screen], folder: Path) -> None:
    """Files by a code, and a message."""
    one, other = screens
    photos = folder / "one/photos"
    photos.mkdir()
    for name in ("otter.jpg", "river.jpg", "stones.jpg"):
        (photos / name).write_bytes(os.urandom(700_000))
    async with one.type("peercli send-file photos") as sender:
        code = re.match(r"[\w-]+", await sender.says("receive-file "))
        assert code
        async with other.type(f"peercli receive-file {code[0]} --yes"):
            pass
    async with one.type("peercli listen --id tidy-otter") as listener:
        await listener.says("Listening as")
        async with other.type("echo 'They are lovely' | peercli connect tidy-otter"):
            pass
        line = await listener.line()
    one.text.append(line)


async def main() -> None:
    """Run, and write the picture."""
    with tempfile.TemporaryDirectory() as name:
        async with our_server() as broker:
            shell = Shell(broker)
            screens = Screen(shell, Path(name) / "one"), Screen(shell, Path(name) / "other")
            await show(screens, Path(name))
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    table = Table.grid(expand=True)
    table.add_column(ratio=1)
    table.add_column(ratio=1)
    table.add_row(
        *(
            Panel(Group(screen.text), title=title, title_align="left", border_style="dim", height=14)
            for screen, title in zip(screens, ("one machine", "another"), strict=True)
        )
    )
    console.print(table)
    svg = console.export_svg(title="peercli")
    # No fonts from elsewhere: the reader's own will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.write_text(re.sub(r"[ \t]+$", "", svg, flags=re.MULTILINE))


if __name__ == "__main__":
    asyncio.run(main())
