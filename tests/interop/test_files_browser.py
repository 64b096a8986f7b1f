"""files.html, the example for authors of pages, against send-file and receive-file."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
from pathlib import Path

import pytest

from peercli.protocol.transfer_receiver import WINDOW
from tests.commands import peercli
from tests.interop.browsers import Page

SIZES = [0, 1, 3_000_001]
BEYOND_CREDIT = WINDOW + 1_000_000

SEND = """frames[0].eval(`(async () => {
  const bytes = new Uint8Array(${%d});
  for (let at = 0; at < bytes.length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  const file = new File([bytes], "from the page.bin");
  await sendFile(peer, ${JSON.stringify(%s)}, file);
  return sha256(file);
})().catch((error) => error.message)`)"""

RECEIVED = """frames[0].eval(`(async () => {
  while (!received.querySelector("a")) await new Promise((resolve) => setTimeout(resolve, 20));
  const link = received.querySelector("a");
  return [link.download, await sha256(await (await fetch(link.href)).blob())];
})()`)"""


@pytest.mark.parametrize("size", [*SIZES, BEYOND_CREDIT])
async def test_page_sends(page: Page, server: str, tmp_path: Path, size: int) -> None:
    """What the page sends is in the folder under its name, with the page's digest."""
    common = ("--server", server, "--ice", "none", "--save-dir", str(tmp_path))
    async with peercli("receive-file", *common) as receiver:
        id = (await receiver.says(" as ")).strip()
        await page.example("files.html", server)
        digest = await page.evaluate(SEND % (size, json.dumps(id)))
        assert await receiver.exit_code() == 0
    content = (tmp_path / "from the page.bin").read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest)


async def test_page_is_declined(page: Page, server: str, tmp_path: Path) -> None:
    """The page learns why its file is not wanted."""
    common = ("--server", server, "--ice", "none", "--save-dir", str(tmp_path), "--max-size", "1k")
    async with peercli("receive-file", *common) as receiver:
        id = (await receiver.says(" as ")).strip()
        await page.example("files.html", server)
        assert "1,024 bytes" in await page.evaluate(SEND % (1_025, json.dumps(id)))
        assert await receiver.exit_code() == 8


async def test_page_sends_another_digest(page: Page, server: str, tmp_path: Path) -> None:
    """Both learn of it, and nothing is kept."""
    common = ("--server", server, "--ice", "none", "--save-dir", str(tmp_path))
    async with peercli("receive-file", *common) as receiver:
        id = (await receiver.says(" as ")).strip()
        await page.example("files.html", server)
        await page.evaluate("""frames[0].eval("sha256 = async () => '0'.repeat(64); null")""")
        assert "not what was sent" in await page.evaluate(SEND % (1_000, json.dumps(id)))
        assert await receiver.exit_code() == 9
    assert os.listdir(tmp_path) == []


async def test_receiver_is_interrupted(page: Page, server: str) -> None:
    """Amid the file, which goes to a pipe that nobody reads, Ctrl-C: the page is told."""
    async with peercli("receive-file", "-o", "-", "--server", server, "--ice", "none") as receiver:
        id = (await receiver.says(" as ")).strip()
        await page.example("files.html", server)
        sending = asyncio.create_task(page.evaluate(SEND % (3_000_000, json.dumps(id))))
        await receiver.says("Receiving")
        receiver.process.send_signal(signal.SIGINT)
        assert "cancelled" in await sending
        assert await receiver.exit_code() == 130


@pytest.mark.parametrize("size", SIZES)
async def test_page_receives(page: Page, server: str, tmp_path: Path, size: int) -> None:
    """What send-file sends becomes a link in the page, to a file with the same digest."""
    source = tmp_path / "to the page.bin"
    source.write_bytes(os.urandom(size))
    id = await page.example("files.html", server)
    async with peercli("send-file", id, str(source), "--server", server, "--ice", "none") as sender:
        assert await sender.exit_code() == 0
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert await page.evaluate(RECEIVED) == [source.name, digest]
