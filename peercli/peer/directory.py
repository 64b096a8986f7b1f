"""The broker's list of ids, where it admits to one (PeerServer's `allow_discovery`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import urlopen

from peercli.errors import NetworkError, ServerError
from peercli.options import Broker

__all__ = ["list_peers"]

HTTP_TIMEOUT = 10.0  # s
MAX_ANSWER = 1 << 26  # bytes


async def list_peers(brokers: Sequence[Broker]) -> list[str]:
    """The ids that the first broker which can be reached admits to.

    Raises:
        ServerError: the broker does not allow it, or failed.
        NetworkError: none can be reached.
    """
    *others, last = brokers
    for broker in others:
        with contextlib.suppress(NetworkError):
            return await asyncio.to_thread(_list_peers, broker)
    return await asyncio.to_thread(_list_peers, last)


def _list_peers(broker: Broker) -> list[str]:
    try:
        with urlopen(broker.api_url("peers"), timeout=HTTP_TIMEOUT) as answer:
            peers = json.loads(answer.read(MAX_ANSWER))
    except HTTPError as error:
        error.close()
        if error.code == 401:
            raise ServerError(
                f"the broker {broker.url} does not list its peers",
                hint="a broker of your own does with --allow-discovery",
            ) from None
        raise ServerError(f"the broker {broker.url} answered HTTP {error.code}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise NetworkError(f"the broker {broker.url} cannot be reached: {reason}") from None
    except (HTTPException, ValueError, RecursionError):
        raise ServerError(f"the broker {broker.url} did not answer with a list") from None
    if not isinstance(peers, list) or not all(isinstance(peer, str) for peer in peers):
        raise ServerError(f"the broker {broker.url} did not answer with a list of ids")
    return peers
