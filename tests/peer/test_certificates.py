"""A broker whose certificate is not good, and what the user is told of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from peercli.errors import SslUnavailable
from tests.brokers import our_server
from tests.certificates import certificate
from tests.peer.peers import PATIENCE, make


@pytest.mark.parametrize(
    ("address", "days", "trusted", "why", "hint"),
    [
        ("127.0.0.1", -1, True, "expired", "renew"),
        ("127.0.0.1", 1, False, "self-signed", "SSL_CERT_FILE"),
        ("127.0.0.2", 1, True, "mismatch", "another name"),
    ],
    ids=["expired", "self-signed", "other-name"],
)
async def test_a_certificate_that_is_not_good(
    address: str,
    days: int,
    trusted: bool,
    why: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = certificate(tmp_path, address, valid_for=timedelta(days=days))
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(files.cert))
    async with asyncio.timeout(PATIENCE), our_server(tls_cert=files.cert, tls_key=files.key) as url:
        with pytest.raises(SslUnavailable, match=why) as caught:
            await make("alice", url).start()
        assert hint in caught.value.hint


async def test_a_certificate_that_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(files.cert))
    async with (
        asyncio.timeout(PATIENCE),
        our_server(tls_cert=files.cert, tls_key=files.key) as url,
        make("alice", url) as alice,
    ):
        assert alice.open
