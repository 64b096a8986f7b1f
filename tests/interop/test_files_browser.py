"""files.html, the example for authors of pages, against send-file and receive-file."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.commands import peercli
from tests.interop.browsers import Page

SIZES = [0, 1, 3_000_001]

OPEN = """new Promise((resolve) => {
  const frame = document.documentElement.appendChild(document.createElement("iframe"));
  frame.onload = () => {
    const peer = frame.contentWindow.eval("peer");
    peer.open ? resolve(peer.id) : peer.on("open", resolve);
  };
  frame.src = "files.html?server=" + encodeURIComponent(%s);
})"""

SEND = """frames[0].eval(`(async () => {
  const bytes = new Uint8Array(${%d});
  for (let at = 0; at < bytes.length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  const file = new File([bytes], "from the page.bin");
  await sendFile(peer, ${JSON.stringify(%s)}, file);
  return sha256(file);
})()`)"""

RECEIVED = """frames[0].eval(`(async () => {
  while (!received.querySelector("a")) await new Promise((resolve) => setTimeout(resolve, 20));
  const link = received.querySelector("a");
  return [link.download, await sha256(await (await fetch(link.href)).blob())];
})()`)"""


@pytest.mark.parametrize("size", SIZES)
async def test_page_sends(page: Page, server: str, tmp_path: Path, size: int) -> None:
    """What the page sends is in the folder under its name, with the page's digest."""
    common = ("--server", server, "--ice", "none", "--save-dir", str(tmp_path))
    async with peercli("receive-file", *common) as receiver:
        id = (await receiver.says(" as ")).strip()
        await page.evaluate(OPEN % json.dumps(server))
        digest = await page.evaluate(SEND % (size, json.dumps(id)))
        assert await receiver.exit_code() == 0
    content = (tmp_path / "from the page.bin").read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (size, digest)


@pytest.mark.parametrize("size", SIZES)
async def test_page_receives(page: Page, server: str, tmp_path: Path, size: int) -> None:
    """What send-file sends becomes a link in the page, to a file with the same digest."""
    source = tmp_path / "to the page.bin"
    source.write_bytes(os.urandom(size))
    id = await page.evaluate(OPEN % json.dumps(server))
    async with peercli("send-file", id, str(source), "--server", server, "--ice", "none") as sender:
        assert await sender.exit_code() == 0
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert await page.evaluate(RECEIVED) == [source.name, digest]
