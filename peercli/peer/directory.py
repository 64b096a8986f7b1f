"""What a broker tells by HTTP: the ids of its peers, where it admits to them, and TURN servers it offers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from peercli.errors import InvalidKey, NetworkError, ServerError, TimedOut, UsageError
from peercli.options import DEFAULT_BROKER, Broker, IceServer, read_ice_servers

__all__ = ["ICE_TIMEOUT", "OfferedIce", "list_peers", "offered_ice"]

HTTP_TIMEOUT = 10.0  # s
MAX_ANSWER = 1 << 26  # bytes
MAX_REASON = 1 << 10  # bytes
ICE_TIMEOUT = 2.0  # s; nobody offers servers who takes longer
MAX_ICE_ANSWER = 1 << 16  # bytes
MAX_ICE_SERVERS = 16
MIN_TTL = 60.0  # s


async def list_peers(brokers: Sequence[Broker], *, timeout: float | None = None) -> list[str]:
    """The ids that the first broker which can be reached admits to.

    Args:
        timeout: seconds for all of it.

    Raises:
        ServerError: the broker does not allow it, or failed.
        InvalidKey: it does not serve the key.
        NetworkError: none can be reached.
        TimedOut: it took longer.
    """
    *others, last = brokers
    try:
        async with asyncio.timeout(timeout):
            for broker in others:
                with contextlib.suppress(NetworkError):
                    return await asyncio.to_thread(_list_peers, broker)
            return await asyncio.to_thread(_list_peers, last)
    except TimeoutError:
        raise TimedOut(
            f"the broker {last.url} did not answer within {timeout:g} s",
            hint="check the --server address; --timeout gives it longer",
        ) from None


def _list_peers(broker: Broker) -> list[str]:
    try:
        with urlopen(broker.api_url("peers"), timeout=HTTP_TIMEOUT) as answer:
            peers = json.loads(answer.read(MAX_ANSWER))
    except HTTPError as error:
        told = b""
        with error, contextlib.suppress(OSError, HTTPException):
            told = error.read(MAX_REASON)
        if error.code == 401 and told == b"Invalid key provided":  # by ours; PeerServer does not look at it
            raise InvalidKey(
                f"the broker {broker.url} does not serve this key", hint="is the ?key= of --server right?"
            ) from None
        if error.code == 401:
            raise ServerError(
                f"the broker {broker.url} does not list its peers",
                hint="a broker of your own does with --allow-discovery",
            ) from None
        raise ServerError(f"the broker {broker.url} answered HTTP {error.code}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        why = getattr(reason, "strerror", None) or reason
        raise NetworkError(
            f"the broker {broker.url} cannot be reached: {why}", hint="check the --server address"
        ) from None
    except (HTTPException, ValueError, RecursionError):
        raise ServerError(f"the broker {broker.url} did not answer with a list") from None
    if not isinstance(peers, list) or not all(isinstance(peer, str) for peer in peers):
        raise ServerError(f"the broker {broker.url} did not answer with a list of ids")
    return peers


@dataclass(frozen=True, slots=True)
class OfferedIce:
    """The STUN and TURN servers of a broker. Their credentials are good for `ttl` seconds."""

    servers: tuple[IceServer, ...]
    ttl: float


async def offered_ice(brokers: Sequence[Broker], id: str, token: str) -> OfferedIce | None:
    """What the first broker that offers servers does (`GET {path}{key}/ice`); None if none does.

    PeerServer has nothing of the kind; so PeerJS's own is not asked.
    """
    for broker in brokers:
        if broker != DEFAULT_BROKER:
            with contextlib.suppress(
                OSError,
                HTTPException,
                UsageError,
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                RecursionError,
            ):
                return await asyncio.to_thread(_offered_ice, broker, id, token)
    return None


def _offered_ice(broker: Broker, id: str, token: str) -> OfferedIce:
    """Raises what `offered_ice` suppresses: it offers none, or nothing that could be read."""
    url = f"{broker.api_url('ice')}?{urlencode({'id': id, 'token': token})}"
    with urlopen(url, timeout=ICE_TIMEOUT) as answer:
        offer = json.loads(answer.read(MAX_ICE_ANSWER))
    for entry in offer["iceServers"]:
        urls = [entry["urls"]] if isinstance(entry["urls"], str) else entry["urls"]
        # stuns: is meant for others, who may know what to do with it.
        entry["urls"] = [url for url in urls if not url.startswith("stuns:")]
    found = read_ice_servers(offer["iceServers"])
    if not found:
        raise ValueError("no servers")
    return OfferedIce(found[:MAX_ICE_SERVERS], max(float(offer["ttl"]), MIN_TTL))
