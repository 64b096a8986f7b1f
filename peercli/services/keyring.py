"""Our own long-lived key, and the keys of the peers we remember, in the platform's data folder.

Two files in a folder of ours alone: `identity` (the seed of an Ed25519 key) and `peers.json` (public keys by
name). What is there is hostile until checked: whoever can write these files says whom we trust.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peercli.errors import UsageError
from peercli.folders import folder_for

if TYPE_CHECKING:
    from peercli.protocol.auth import Identity
    from peercli.services.events import Report

__all__ = ["Keyring", "describe", "fingerprint", "home_id"]

MAX_FILE = 1 << 20  # bytes
KEY_SIZE = 32  # bytes
_NAME = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)


def fingerprint(public: bytes) -> str:
    """A public key as people compare it, in the manner of ssh: `SHA256:…`."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(public).digest()).decode().rstrip("=")


def home_id(public: bytes) -> str:
    """The id at which the owner of a key waits for those who know it."""
    digest = hashlib.sha256(b"peercli home" + public).digest()
    return "peercli-" + base64.b32encode(digest)[:20].decode().lower()


async def describe(ring: Keyring, report: Report) -> None:
    """Report our own key, and those that we remember."""
    from peercli.services.events import Key

    for name, public in {"": ring.identity().public, **ring.known()}.items():
        await report(Key(name, fingerprint(public), home_id(public)))


class Keyring:
    """The keys in `folder`; by default the platform's data folder for peercli.

    Every method that touches the disk raises UsageError where a file cannot be read or written, is not ours
    alone, or makes no sense.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or folder_for("data")

    @property
    def exists(self) -> bool:
        """Whether there is a key of ours."""
        return os.path.lexists(self.folder / "identity")

    def identity(self) -> Identity:
        """Our key, made at first use."""
        if not self.exists:
            seed = secrets.token_bytes(KEY_SIZE)
            with self._locked():
                if not self.exists:
                    self._write("identity", seed.hex())
        text = self._read("identity").strip()
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise UsageError(
                f"{self.folder / 'identity'} is damaged", hint="peercli id rotate makes a new key"
            )
        from peercli.protocol.auth import Identity  # brings cryptography; the names of peers do without

        return Identity(bytes.fromhex(text))

    def rotate(self) -> Identity:
        """A new key instead of ours; who remembers the old one has to pair again."""
        from peercli.protocol.auth import Identity

        identity = Identity()
        with self._locked():
            self._write("identity", identity.seed.hex())
        return identity

    def known(self) -> dict[str, bytes]:
        """The keys that we remember, by name."""
        if not os.path.lexists(self.folder / "peers.json"):
            return {}
        damaged = UsageError(f"{self.folder / 'peers.json'} is damaged")
        try:
            members = json.loads(self._read("peers.json"))
            keys = {name: bytes.fromhex(key) for name, key in members.items()}
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise damaged from None
        if not all(_NAME.fullmatch(name) and len(key) == KEY_SIZE for name, key in keys.items()):
            raise damaged
        return keys

    def prepare(self, name: str) -> None:
        """See now, and not when a key has come, whether it can be kept under a name; else UsageError."""
        self.check_name(name)
        self.identity()
        with self._locked():
            self.known()

    def remember(self, name: str, public: bytes) -> bool:
        """Keep a key under a name; whether there was another one. The caller knows whose it is."""
        self.check_name(name)
        with self._locked():
            known = self.known()
            changed = known.get(name, public) != public
            members = {each: key.hex() for each, key in (known | {name: public}).items()}
            self._write("peers.json", json.dumps(members, indent=2))
        return changed

    @staticmethod
    def check_name(name: str) -> None:
        """Raise UsageError unless peers can be called this."""
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"a peer cannot be called {name[:80]!r}",
                hint="a name begins with a letter; letters, digits, dots, - and _ follow",
            )

    # Files ------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._check_folder()
        try:
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _check_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.folder.lstat()
        except OSError as error:
            raise UsageError(f"{self.folder} cannot be used: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode):
            raise UsageError(f"{self.folder} is not a folder, but a link or a file")
        _check_ours(self.folder, found)

    def _read(self, name: str) -> str:
        self._check_folder()
        path = self.folder / name
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE:
                raise UsageError(f"{path} is not a file of ours")
            _check_ours(path, found)
            with open(file, "rb", closefd=False) as stream:
                return stream.read(MAX_FILE).decode("ascii", "replace")
        finally:
            os.close(file)

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all, and never readable by others."""
        path, draft = self.folder / name, self.folder / f".{name}.{secrets.token_hex(8)}"
        try:
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(file, "w") as stream:
                stream.write(text + "\n")
                stream.flush()
                os.fsync(file)
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _check_ours(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise UsageError(f"{path} belongs to somebody else")
    if found.st_mode & 0o077:
        mode = "700" if stat.S_ISDIR(found.st_mode) else "600"
        raise UsageError(
            f"{path} can be read or changed by others", hint=f"chmod {mode} {path}; and think who has seen it"
        )
