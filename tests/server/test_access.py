"""Who may: keys, tokens, reservations and TURN credentials, first by themselves and then at a broker."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from peercli.errors import UsageError
from peercli.server.access import Key, NotAllowed, ice_servers, read_keys, read_secret, sign_token
from peercli.server.app import Server
from peercli.server.options import Limits, ServerOptions
from tests.brokers import socket_url
from tests.server.clients import client, ends, get, hears_nothing, receive, send

SECRET = b"a secret"
NOW = 1_800_000_000.0


def key(reserved: Mapping[str, str] | None = None) -> Key:
    return Key(
        name="shop", concurrent_limit=10, message_rate=100.0, auth_secret=SECRET, reserved=reserved or {}
    )


def test_a_signed_token_is_good_for_its_id_until_it_expires() -> None:
    token = sign_token(SECRET, "shop", "alice", int(NOW) + 60)
    later = sign_token(SECRET, "shop", "alice", int(NOW) + 90)
    assert key().identify("alice", token, NOW) == key().identify("alice", later, NOW + 80)
    with pytest.raises(NotAllowed, match="expired"):
        key().identify("alice", token, NOW + 60)


def test_a_token_for_any_id_is_known_by_itself() -> None:
    one, two = (sign_token(SECRET, "shop", "*", int(NOW) + seconds) for seconds in (60, 90))
    assert key().identify("alice", one, NOW) == one
    assert key().identify("bob", two, NOW) == two


@pytest.mark.parametrize(
    ("peer_id", "token"),
    [
        ("bob", sign_token(SECRET, "shop", "alice", int(NOW) + 60)),
        ("alice", sign_token(SECRET, "other", "alice", int(NOW) + 60)),
        ("alice", sign_token(b"another", "shop", "alice", int(NOW) + 60)),
        ("alice", sign_token(SECRET, "shop", "alice", int(NOW) + 60)[:-1]),
        ("alice", sign_token(SECRET, "shop", "alice", 10**15)),
        ("alice", "alice.1.é\udcff"),
        ("alice", "alice.²."),
        ("alice", "alice.."),
        ("alice", "alice"),
        ("alice", "x" * 1000),
    ],
)
def test_what_is_not_signed_so_is_refused(peer_id: str, token: str) -> None:
    with pytest.raises(NotAllowed):
        key().identify(peer_id, token, NOW)


def test_a_shell_can_issue_tokens() -> None:
    """By the lines that the module and the manual give."""
    if shutil.which("openssl") is None:
        pytest.fail("openssl is needed")
    expires = int(NOW) + 60
    script = (
        f"printf %s 'shop.alice.{expires}' | openssl dgst -sha256 -hmac '{SECRET.decode()}' | sed 's/.* //'"
    )
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert f"alice.{expires}.{done.stdout.strip()}" == sign_token(SECRET, "shop", "alice", expires)


def test_a_reserved_id_belongs_to_its_token() -> None:
    reserving = key(reserved={"till": "its token"})
    assert reserving.identify("till", "its token", NOW) == "its token"
    for token in ("", "another", sign_token(SECRET, "shop", "till", int(NOW) + 60)):
        with pytest.raises(NotAllowed, match="reserved"):
            reserving.identify("till", token, NOW)


def test_turn_credentials() -> None:
    options = ServerOptions(
        turn_urls=("turn:t.example:3478",), turn_secret_file=Path("unread"), turn_lifetime=100
    )
    (server,) = ice_servers(options, SECRET, "me", NOW)
    assert server["urls"] == ["turn:t.example:3478"]
    assert server["username"] == "1800000100:me"
    expected = hmac.new(SECRET, b"1800000100:me", hashlib.sha1).digest()
    assert base64.b64decode(server["credential"]) == expected


KEYS = """
[keys.shop]
concurrent_limit = 2
allow_discovery = true
origins = ["https://shop.example"]
[keys.shop.ids]
till = "its token"
[keys.club]
auth_secret = "club secret"
message_rate = 7
"""


def test_keys_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(KEYS)
    keys = read_keys(ServerOptions(keys_file=path))
    assert keys["shop"].concurrent_limit == 2
    assert keys["shop"].reserved == {"till": "its token"}
    assert keys["shop"].admits_origin(None)
    assert not keys["shop"].admits_origin("https://evil.example")
    assert keys["club"].auth_secret == b"club secret"
    assert keys["club"].message_rate == 7
    assert not keys["club"].allow_discovery


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "keys = 7",
        "[keys]",
        "[other]\n[keys.a]",
        "keys.a = 7",
        '[keys."a/b"]',
        '[keys."a\\tb"]',
        '[keys.""]',
        "[keys.a]\nconcurrent_limit = 0",
        "[keys.a]\nconcurrent_limit = true",
        "[keys.a]\nmessage_rate = -1",
        "[keys.a]\nmessage_rate = nan",
        "[keys.a]\norigins = [7]",
        "[keys.a]\nunknown = 1",
        "[keys.a.ids]\nx = 7",
    ],
)
def test_keys_file_that_cannot_be(text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"keys\.toml"):
        read_keys(ServerOptions(keys_file=path))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_keys(ServerOptions(keys_file=tmp_path / "none"))
    with pytest.raises(UsageError):
        read_secret(tmp_path / "none")
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(UsageError, match="no secret"):
        read_secret(tmp_path / "empty")


# At a broker ----------------------------------------------------------------------------------------


def serve(limits: Limits | None = None, **options: Any) -> Server:
    return Server(ServerOptions(port=0, limits=limits or Limits(), **options))


async def answer(url: str, id: str, token: str, key: str = "peerjs", origin: str | None = None) -> str:
    """What a newcomer hears first: OPEN, or why not."""
    headers = {} if origin is None else {"Origin": origin}
    async with connect(socket_url(url, key=key, id=id, token=token), additional_headers=headers) as socket:
        message = await receive(socket)
        if message["type"] == "OPEN":
            return "OPEN"
        assert await ends(socket)
        return str(message["payload"]["msg"])


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET + b"\n")
    return path


async def test_signed_tokens(secret: Path) -> None:
    async with serve(auth_secret_file=secret) as server:
        expires = int(time.time()) + 60
        assert "signed token" in await answer(server.url, "alice", "made up")
        assert "expired" in await answer(server.url, "alice", sign_token(SECRET, "peerjs", "alice", 1))
        token = sign_token(SECRET, "peerjs", "alice", expires)
        async with client(server.url, "alice", token) as old:
            assert (
                await answer(server.url, "alice", sign_token(SECRET, "peerjs", "alice", expires + 1))
                == "OPEN"
            )
            assert await ends(old)


async def test_origins() -> None:
    async with serve(origins=("https://a.example",)) as server:
        assert await answer(server.url, "a", "t", origin="https://a.example") == "OPEN"
        assert "origin" in await answer(server.url, "b", "t", origin="https://b.example")
        assert await answer(server.url, "c", "t") == "OPEN"


async def test_each_key_is_a_realm_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(
        "[keys.one]\nallow_discovery = true\nconcurrent_limit = 1\n[keys.two.ids]\ntill = 'its token'\n"
    )
    async with serve(keys_file=path) as server:
        assert "key" in await answer(server.url, "a", "t")
        one = await connect(socket_url(server.url, key="one", id="a", token="t"))
        two = await connect(socket_url(server.url, key="two", id="a", token="u"))
        for socket in (one, two):
            assert await receive(socket) == {"type": "OPEN"}
        await send(one, "OFFER", dst="a")
        assert (await receive(one))["src"] == "a"
        assert await hears_nothing(two)
        assert "limit" in await answer(server.url, "b", "t", key="one")
        assert "reserved" in await answer(server.url, "till", "t", key="two")
        assert await answer(server.url, "till", "its token", key="two") == "OPEN"
        assert (await get(server.url + "one/peers"))[2] == '["a"]'
        assert (await get(server.url + "two/peers"))[0] == 401

        path.write_text("[keys.two]\nallow_discovery = true\n")
        server.reload()
        assert (await receive(one))["payload"]["msg"] == "Invalid key provided"
        assert await ends(one)
        assert json.loads((await get(server.url + "two/peers"))[2]) == ["a"]
        path.write_text("nonsense")
        server.try_reload()
        await send(two, "OFFER", dst="a")
        assert (await receive(two))["src"] == "a"
        await two.close()


async def test_a_key_s_clients_share_its_rate(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("[keys.slow]\nmessage_rate = 0.1\n[keys.fast]\n")
    async with serve(keys_file=path) as server:
        for name, heard in (("slow", 1), ("fast", 3)):
            async with connect(socket_url(server.url, key=name, id="a", token="t")) as socket:
                assert await receive(socket) == {"type": "OPEN"}
                for _ in range(3):
                    await send(socket, "OFFER", dst="a")
                for _ in range(heard):
                    assert (await receive(socket))["type"] == "OFFER"
                assert await hears_nothing(socket)
                socket.transport.abort()


async def test_ice(secret: Path) -> None:
    turn: dict[str, Any] = {"turn_urls": ("turn:t.example",), "turn_secret_file": secret}
    async with serve(**turn) as server:
        status, headers, body = await get(server.url + "peerjs/ice")
        assert status == 200
        assert headers["Cache-Control"] == "no-store"
        assert json.loads(body)["iceServers"][0]["urls"] == ["turn:t.example"]
        assert json.loads(body)["ttl"] == 86_400
        assert (await get(server.url + "other/ice"))[0] == 401
    async with serve(**turn, auth_secret_file=secret) as server:
        assert (await get(server.url + "peerjs/ice?id=a&token=b"))[0] == 401
        token = sign_token(SECRET, "peerjs", "a", int(time.time()) + 60)
        assert (await get(f"{server.url}peerjs/ice?id=a&token={token}"))[0] == 200
    async with serve(**turn, turn_lifetime=600.0) as server:
        offered = json.loads((await get(server.url + "peerjs/ice"))[2])
        assert offered["ttl"] == 600
        ends_at = int(offered["iceServers"][0]["username"].partition(":")[0])
        assert 0 < ends_at - time.time() <= 600
    async with serve() as server:
        assert (await get(server.url + "peerjs/ice"))[0] == 404
