"""Real browsers as test peers: stock PeerJS in headless Chromium and Firefox, scripted from Python.

    with Browsers() as browsers, browsers.launch("firefox") as browser, browser.open() as page:
        peer = await page.peer("page", server="http://127.0.0.1:9000/")
        connection = await peer.connect("shell", serialization="json")
        await connection.send(1, "two")
        assert await connection.receive(2) == [1, "two"]

One Node process (driver.mjs) drives every browser, and a thread reads what it says, so that browsers and
pages outlive the event loop of a single test. Every wait is bounded, and fails with what the page printed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import threading
from collections import defaultdict
from concurrent.futures import Future
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self, TypeAlias
from urllib.parse import quote, urlsplit

from tests import tools

__all__ = [
    "BROWSERS",
    "Browser",
    "BrowserError",
    "Browsers",
    "Page",
    "PageCall",
    "PageConnection",
    "PagePeer",
    "Tagged",
]

BROWSERS = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "firefox": ("firefox-esr", "firefox"),
}
"""Each browser, and what its program may be called."""

STARTS_WITHIN = 60.0  # s; a cold Firefox on a busy machine needs some ten
ANSWERS_WITHIN = 60.0  # s; what only a broken driver or browser exceeds
STILL = 1.0  # s without progress, until a page must be waiting for somebody
HAPPENS_WITHIN = 50.0  # s that a page waits, and then says what it saw instead

Tagged: TypeAlias = Any
"""A JavaScript value as JSON: itself where JSON has it, else `{"$": its type, …}`, as page.js says."""


class BrowserError(AssertionError):
    """A browser, or the page in it, did not do what the test asked."""


class Browsers:
    """The process that drives browsers, and the site that their pages come from."""

    def __init__(self) -> None:
        self._site = _Site(tools.INTEROP, tools.node_modules())
        self._process = subprocess.Popen(
            [tools.program("node"), tools.INTEROP / "driver.mjs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"TZ": "UTC"},  # Date.toString() tells the time zone
            text=True,
        )
        self._writing = threading.Lock()
        self._numbers = itertools.count(1)
        self._answers: dict[int, Future[Any]] = {}
        self.console: defaultdict[str, list[str]] = defaultdict(list)
        """What each page printed or threw, by the page's name."""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(ANSWERS_WITHIN)
        finally:
            self._process.kill()
            self._reader.join()
            self._site.close()

    def launch(self, browser: str, **options: Any) -> Browser:
        """Start one of BROWSERS.

        Args:
            options: `stranger=True`: no camera permission, and mDNS names for addresses, as any page on the
                web has it; `args` and `prefs`: the browser's own.
        """
        path = tools.program(*BROWSERS[browser])
        answer = self.ask("launch", browser=browser, executable=path, **options).result(STARTS_WITHIN)
        return Browser(self, answer["browser"], answer["version"], answer["pid"], self._site.url)

    def ask(self, op: str, **parameters: Any) -> Future[Any]:
        """Send the driver a request; the future holds its answer, or BrowserError."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # who stops waiting for an answer does not unmake it
        with self._writing:
            number = next(self._numbers)
            self._answers[number] = future
            assert self._process.stdin
            self._process.stdin.write(json.dumps({"id": number, "op": op, **parameters}) + "\n")
            self._process.stdin.flush()
        return future

    def _read(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                message = json.loads(line)
                if "console" in message:
                    self.console[message["page"]].append(message["console"])
                elif "error" in message:
                    self._answers.pop(message["id"]).set_exception(BrowserError(message["error"]))
                else:
                    self._answers.pop(message["id"]).set_result(message["result"])
        for future in self._answers.values():
            future.set_exception(BrowserError(f"the driver ended with {self._process.wait()}"))


class Browser:
    """One running browser.

    Attributes:
        name: as the driver knows it.
        version: as the browser says it.
    """

    def __init__(self, browsers: Browsers, name: str, version: str, pid: int, url: str) -> None:
        self.name = name
        self.version = version
        self._browsers = browsers
        self._pid = pid
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._browsers.ask("close", name=self.name).result(ANSWERS_WITHIN)

    def open(self, peerjs: str = "peerjs") -> Page:
        """A fresh page of page.html, which runs that npm package."""
        url = f"{self._url}{peerjs}/page.html"
        return Page(
            self._browsers, self._browsers.ask("open", browser=self.name, url=url).result(ANSWERS_WITHIN)
        )

    def kill(self) -> None:
        """End all of it at once, as a crash would."""
        os.killpg(self._pid, signal.SIGKILL)


OPEN_EXAMPLE = """new Promise((resolve) => {
  const frame = document.documentElement.appendChild(document.createElement("iframe"));
  frame.onload = () => {
    const peer = frame.contentWindow.eval("peer");
    peer.open ? resolve(peer.id) : peer.on("open", resolve);
  };
  frame.src = %s;
})"""


class Page:
    """A page that runs stock PeerJS, with no peer yet."""

    def __init__(self, browsers: Browsers, name: str) -> None:
        self.name = name
        self._browsers = browsers
        self._peers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._browsers.ask("close", name=self.name).result(ANSWERS_WITHIN)
        self._browsers.console.pop(self.name, None)

    async def reload(self) -> None:
        """Begin anew, as a user does with F5: its peers are gone without a word."""
        await self._ask("reload")

    @property
    def console(self) -> list[str]:
        """What the page printed or threw, a line each, so far."""
        return self._browsers.console[self.name]

    async def evaluate(self, expression: str) -> Any:
        """The JSON value that a JavaScript expression, or the promise it gives, comes to.

        Raises:
            BrowserError: it threw, or took too long; with what the page printed.
        """
        try:
            return await self._ask("evaluate", expression=expression)
        except (BrowserError, TimeoutError) as error:
            printed = "\n".join(self.console) or "nothing"
            raise BrowserError(f"{expression[:300]}\n{error!r}\n{self.name} printed:\n{printed}") from None

    async def _ask(self, op: str, **parameters: Any) -> Any:
        async with asyncio.timeout(ANSWERS_WITHIN):
            return await asyncio.wrap_future(self._browsers.ask(op, page=self.name, **parameters))

    async def call(self, function: str, *arguments: Any) -> Any:
        """What `harness.function(…)` of page.js gives for JSON arguments."""
        return await self.evaluate(f"harness.{function}({', '.join(map(json.dumps, arguments))})")

    async def example(self, name: str, server: str) -> str:
        """Open an example for authors of pages, as frame 0; the id of its `peer`, which is open then."""
        url = json.dumps(f"{name}?server={quote(server, safe='')}")
        opened: str = await self.evaluate(OPEN_EXAMPLE % url)
        return opened

    async def create(self, server: str, id: str | None = None, **options: Any) -> PagePeer:
        """A peer that is not open yet; `peer` waits for it.

        Args:
            server: the broker's URL.
            id: who to be; by default the broker says.
            options: PeerJS's own. There are no ICE servers and some warnings, unless it asks for other.
        """
        url = urlsplit(server)
        place = {"host": url.hostname, "port": url.port, "path": url.path, "secure": url.scheme == "https"}
        defaults = {"config": {"iceServers": []}, "debug": 2}
        name = f"peer{next(self._peers)}"
        await self.call("peer", name, id, place | defaults | options)
        return PagePeer(self, name)

    async def peer(self, server: str, id: str | None = None, **options: Any) -> PagePeer:
        """A peer that the broker has opened; parameters are those of `create`."""
        peer = await self.create(server, id, **options)
        peer.id = await peer.happened("open")
        return peer


class _Named:
    """A peer or a connection in a page."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name
        self._seen: defaultdict[str, int] = defaultdict(int)

    async def happened(self, event: str) -> Any:
        """Wait for the next event of that name, and return what came with it (of an `error`, its type)."""
        return (await self._next(event, 1, "wait"))[0]

    async def _next(self, event: str, count: int, function: str) -> list[Any]:
        seen = self._seen[event]
        self._seen[event] += count
        milliseconds = HAPPENS_WITHIN * 1000
        found: list[Any] = await self.page.call(function, self.name, event, seen, count, milliseconds)
        return found

    async def tell(self, method: str, *arguments: Any) -> None:
        """Call a method of PeerJS's object, which takes JSON and gives nothing."""
        await self.page.call("tell", self.name, method, *arguments)


class PagePeer(_Named):
    """A `Peer` in a page.

    Attributes:
        id: at the broker, once it is open.
    """

    id: str

    def __init__(self, page: Page, name: str) -> None:
        super().__init__(page, name)
        self._dialled = itertools.count(1)

    async def dial(self, id: str, **options: Any) -> PageConnection:
        """A connection that is not open yet.

        Args:
            id: of the far side.
            options: PeerJS's: label, metadata, reliable, serialization.
        """
        name = f"{self.name}>{next(self._dialled)}"
        return PageConnection(self.page, await self.page.call("connect", self.name, name, id, options))

    async def connect(self, id: str, **options: Any) -> PageConnection:
        """A connection that is open; parameters are those of `dial`."""
        connection = await self.dial(id, **options)
        await connection.happened("open")
        return connection

    async def accept(self) -> PageConnection:
        """The next connection that comes to this peer, open."""
        connection = PageConnection(self.page, await self.happened("connection"))
        await connection.happened("open")
        return connection

    async def call(self, id: str, *kinds: str, **options: Any) -> PageCall:
        """Call somebody, with a stream of these: audio, video (two colours), camera.

        Args:
            options: PeerJS's: metadata, constraints.
        """
        name = f"{self.name}>{next(self._dialled)}"
        return PageCall(self.page, await self.page.call("call", self.name, name, id, kinds, options))

    async def accept_call(self) -> PageCall:
        """The next call that comes to this peer."""
        return PageCall(self.page, await self.happened("call"))


class PageCall(_Named):
    """A `MediaConnection` in a page.

    Attributes:
        facts: peer, metadata and connectionId, as PeerJS has them.
    """

    def __init__(self, page: Page, facts: dict[str, Any]) -> None:
        super().__init__(page, facts.pop("name"))
        self.facts = facts

    async def answer(self, *kinds: str) -> None:
        """Take the call, with a stream of these kinds of media; without any, with no stream."""
        await self.page.call("answer", self.name, kinds)

    async def seen(self) -> dict[str, Any]:
        """What its <video> shows: width, height, frames, colours `left` and `right`.

        And of the sound the `packets`, and the `tone` in Hz, None where the browser has no sound card.
        """
        seen: dict[str, Any] = await self.page.call("seen", self.name)
        return seen

    async def close(self) -> None:
        """Hang up."""
        await self.tell("close")


class PageConnection(_Named):
    """A `DataConnection` in a page.

    Attributes:
        facts: peer, label, metadata, serialization, reliable and connectionId, as PeerJS has them.
    """

    def __init__(self, page: Page, facts: dict[str, Any]) -> None:
        super().__init__(page, facts.pop("name"))
        self.facts = facts

    async def send(self, *values: Tagged) -> None:
        """Send values, in order."""
        await self.page.call("send", self.name, values)

    async def send_and_close(self, *values: Tagged) -> None:
        """Send values, and close this end before anything else can happen."""
        await self.page.call("sendAndClose", self.name, values)

    async def stuck(self) -> int:
        """How many messages, or chunks of such, wait in PeerJS, once they have not become fewer for a while.

        Were all only slow, there would be more of them. Beside them, 8 MB wait in the browser.
        """
        count: int = await self.page.call("stuck", self.name, STILL * 1000)
        return count

    async def receive(self, count: int = 1) -> list[Tagged]:
        """The next `count` values that come."""
        return await self._next("data", count, "received")

    async def echo(self) -> None:
        """Send back whatever comes."""
        await self.page.call("echo", self.name)

    async def close(self, *, flush: bool = False) -> None:
        """Close this end; with `flush`, ask the far side to do so once it has everything."""
        await self.tell("close", {"flush": flush})


class _Site:
    """The harness's pages over HTTP on a free loopback port: below NAME/, with the PeerJS of that package."""

    def __init__(self, pages: Path, packages: Path) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, pages, packages))
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05])
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Files(SimpleHTTPRequestHandler):
    def __init__(self, pages: Path, packages: Path, *arguments: Any) -> None:
        self._pages = pages
        self._packages = packages
        super().__init__(*arguments)

    def translate_path(self, path: str) -> str:
        asked = Path(urlsplit(path).path)
        folders = (self._pages, *(self._packages / name / "dist" for name in (asked.parent.name, "peerjs")))
        found = (folder / asked.name for folder in folders if (folder / asked.name).is_file())
        return str(next(found, "/nonexistent"))

    def log_message(self, *_: object) -> None:
        """Say nothing."""
