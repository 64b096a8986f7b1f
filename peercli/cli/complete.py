"""`peercli complete`, which completion scripts ask for what only peercli knows; no typer, to be quick."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from peercli.config import Config, config_path, read
from peercli.errors import PeerError
from peercli.protocol import codes

__all__ = ["complete"]

LIST_TIMEOUT = 1.0  # s that a Tab may wait for a broker


def complete(kind: str = "", prefix: str = "") -> None:
    """Print what a word that begins with `prefix` may be.

    Args:
        kind: `ids` or `profiles`.
    """
    try:
        config = read(config_path(), required=False)
    except PeerError:
        return  # whoever presses Tab is not to be told; the command will
    words: Iterable[str]
    if kind == "profiles":
        words = filter(None, config.settings)
    else:
        words = codes.complete(prefix) or [*_remembered(), *config.contacts, *_listed(config)]
    sys.stdout.writelines(f"{word}\n" for word in words if word.startswith(prefix))


def _remembered() -> list[str]:
    """The names of the peers whose keys we have."""
    from peercli.services.keyring import Keyring

    try:
        return sorted(Keyring().known())
    except PeerError:
        return []


def _listed(config: Config) -> list[str]:
    """The ids that the broker tells, if one was named (the public one tells none), and tells in time."""
    named = config.for_command("peers", os.environ.get("PEERCLI_PROFILE", "")).get("server")
    urls = os.environ.get("PEERCLI_SERVER") or (named and named.value)
    if not urls:
        return []
    import asyncio

    from peercli.options import parse_broker
    from peercli.peer.directory import list_peers

    async def ask() -> list[str]:
        async with asyncio.timeout(LIST_TIMEOUT):
            each = urls.split() if isinstance(urls, str) else urls
            return await list_peers([parse_broker(str(url)) for url in each])

    try:
        return asyncio.run(ask())
    except (PeerError, TimeoutError):
        return []
