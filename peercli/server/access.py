"""Who may come in: API keys, signed tokens, reserved ids, and credentials for TURN. `now` is passed in.

A signed token is `ID.EXPIRES.SIGNATURE`, given as PeerJS's `token`: the id it is good for (`*`: any), the
Unix time at which it runs out, and the HMAC-SHA256 of `KEY.ID.EXPIRES` under the secret, in hex. In a shell:

    expires=$(($(date +%s) + 3600))
    signature=$(printf %s "peerjs.alice.$expires" | openssl dgst -sha256 -hmac "$secret" | sed 's/.* //')
    echo "alice.$expires.$signature"
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peercli.errors import UsageError
from peercli.server.options import ServerOptions

__all__ = ["Key", "NotAllowed", "ice_servers", "read_keys", "read_secret", "sign_token"]

MAX_KEYS_FILE = 16 << 20  # bytes
ANY_ID = "*"

NEEDS_TOKEN = "A signed token is required"
BAD_TOKEN = "The token's signature is wrong"
TOKEN_EXPIRED = "The token has expired"
RESERVED = "The id is reserved"


class NotAllowed(Exception):
    """The client may not come in; the text is for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key, and what those who name it may do."""

    name: str
    concurrent_limit: int
    message_rate: float  # messages a second, of all its clients together
    allow_discovery: bool = False
    origins: tuple[str, ...] = ("*",)
    auth_secret: bytes = b""
    reserved: Mapping[str, str] = field(default_factory=dict)  # an id, and the token that it belongs to

    def admits_origin(self, origin: str | None) -> bool:
        """May a page from `origin` open a socket? Programs name none, and could name any."""
        return origin is None or "*" in self.origins or origin in self.origins

    def identify(self, peer_id: str, token: str, now: float) -> str:
        """What the client is known by when it comes back: whoever has the same may take the id over.

        Raises:
            NotAllowed: the id is another's, or the token is not good for it at Unix time `now`.
        """
        if (owner := self.reserved.get(peer_id)) is not None:
            if not hmac.compare_digest(_bytes(owner), _bytes(token)):
                raise NotAllowed(RESERVED)
            return token
        if not self.auth_secret:
            return token
        return self._verify(peer_id, token, now)

    def _verify(self, peer_id: str, token: str, now: float) -> str:
        subject, expires, signature = [*token.split("."), "", ""][:3]
        if subject not in (peer_id, ANY_ID) or not (expires.isascii() and expires.isdigit()):
            raise NotAllowed(NEEDS_TOKEN)
        expected = _sign(self.auth_secret, f"{self.name}.{subject}.{expires}")
        if not hmac.compare_digest(expected.encode(), _bytes(signature)):
            raise NotAllowed(BAD_TOKEN)
        if len(expires) > 12 or int(expires) <= now:
            raise NotAllowed(TOKEN_EXPIRED)
        # A fresh token for the same id is the same client.
        return token if subject == ANY_ID else f"signed for {subject}"


def sign_token(secret: bytes, key: str, peer_id: str, expires: int) -> str:
    """A token for `peer_id` (`*`: any id) at the API key `key`, good until the Unix time `expires`."""
    return f"{peer_id}.{expires}.{_sign(secret, f'{key}.{peer_id}.{expires}')}"


def read_secret(path: Path) -> bytes:
    """The secret in a file, without the space around it.

    Raises:
        UsageError: the file cannot be read, or has none.
    """
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise UsageError(f"cannot read the secret in {path}: {error.strerror}") from error
    if not secret:
        raise UsageError(f"there is no secret in {path}")
    return secret


def ice_servers(options: ServerOptions, secret: bytes, user: str, now: float) -> list[dict[str, Any]]:
    """TURN servers with credentials for `user`, as RTCPeerConnection takes them (`iceServers`).

    The scheme is coturn's `use-auth-secret` (draft-uberti-behave-turn-rest-00, section 2.2): the username
    says when it expires, the password is its HMAC-SHA1 under the secret shared with the TURN server.
    """
    if not options.turn_urls:
        return []
    username = f"{int(now + options.turn_lifetime)}:{user}"
    digest = hmac.new(secret, username.encode(), hashlib.sha1).digest()
    credential = base64.b64encode(digest).decode()
    return [{"urls": list(options.turn_urls), "username": username, "credential": credential}]


def read_keys(options: ServerOptions) -> dict[str, Key]:
    """The API keys by name: that of the options alone, or those of the keys file.

        [keys.shop]
        concurrent_limit = 500
        message_rate = 1000
        allow_discovery = true
        origins = ["https://shop.example"]
        auth_secret = "…"
        [keys.shop.ids]
        till-1 = "the token that till-1 belongs to"

    What is left out is as the options say.

    Raises:
        UsageError: the file cannot be read, or says what cannot be.
    """
    secret = b"" if options.auth_secret_file is None else read_secret(options.auth_secret_file)
    if options.keys_file is None:
        return {options.key: _key(options, secret, options.key, {})}
    path = options.keys_file
    try:
        if path.stat().st_size > MAX_KEYS_FILE:
            raise ValueError("it is too big")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        keys = table.pop("keys", None)
        if table or not isinstance(keys, dict) or not keys:
            raise ValueError("it must have [keys.NAME] tables, and nothing else")
        return {name: _key(options, secret, name, settings) for name, settings in keys.items()}
    except OSError as error:
        raise UsageError(f"cannot read the keys file {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"the keys file {path} cannot be used: {error}") from error


_TYPES: dict[str, tuple[type, ...]] = {
    "concurrent_limit": (int,),
    "message_rate": (int, float),
    "allow_discovery": (bool,),
    "origins": (list,),
    "auth_secret": (str,),
    "ids": (dict,),
}


def _key(options: ServerOptions, secret: bytes, name: str, settings: object) -> Key:
    if not isinstance(settings, dict) or not name.isprintable() or not name or "/" in name:
        raise ValueError(f"{name!r} is no key")
    for setting, value in settings.items():
        kinds = _TYPES.get(setting)
        if kinds is None or not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise ValueError(f"{setting!r} of the key {name!r} is unknown, or of the wrong kind")
    limit = settings.get("concurrent_limit", options.concurrent_limit)
    rate = settings.get("message_rate", options.limits.key_message_rate)
    origins, ids = settings.get("origins", options.origins), settings.get("ids", {})
    if limit < 1 or not rate > 0:  # nor may it be no number
        raise ValueError(f"the limits of the key {name!r} let nobody in")
    if not all(isinstance(text, str) for text in (*origins, *ids.values())):
        raise ValueError(f"origins and tokens of the key {name!r} must be strings")
    return Key(
        name=name,
        concurrent_limit=limit,
        message_rate=float(rate),
        allow_discovery=settings.get("allow_discovery", options.allow_discovery),
        origins=tuple(origins),
        auth_secret=settings["auth_secret"].encode() if "auth_secret" in settings else secret,
        reserved=ids,
    )


def _sign(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
