"""Who is there: what each side proves over a new connection before anything else passes.

Pure. Each side is a conversation, a generator: it yields what to send, is sent what came, and returns what
was proved. Four messages, JSON text, over the connection's data channel, one at a time:

    caller                                          callee
    {"said": "{nonce, pake?, sign}"}         →
                                             ←      {"said": "{nonce, pake?, sign}", "proof", "signature"?}
    {"proof", "signature"?, "metadata", …}   →
                                             ←      {"ok": true, "key"?, …} or {"refused": reason}

`pake` is SPAKE2 (Abdalla and Pointcheval 2005; RFC 9382), by the library of this name; it is there if that
side has a secret. Its password is a MAC of the secret over the session: the connection id, both peer ids, and
the fingerprints of both DTLS certificates. So what proves the secret in one session is of no use in another,
and of none to whoever sits between two sessions. `proof` is a MAC, by the key that SPAKE2 gave, over all that
was said: key confirmation. `signature` is Ed25519 over the same, where the far side asks for one; it is held
against the keys that are known already, so that nobody has to tell theirs. A side that has a secret, or must
know a key, never lets the want of one pass.

The caller's label and metadata come only when the callee has proved itself.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import unicodedata
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from peercli.errors import AuthenticationFailed, Declined, UsageError
from peercli.protocol.values import shape_fault

if TYPE_CHECKING:
    from spake2 import SPAKE2_A, SPAKE2_B

__all__ = [
    "MAX_HANDSHAKE_MESSAGE",
    "VERSION",
    "Conversation",
    "Credentials",
    "Identity",
    "Proven",
    "Session",
    "answer",
    "call",
    "failure",
    "refusal",
]

VERSION = 1
MAX_HANDSHAKE_MESSAGE = 65_536  # characters; what every far side takes in one message
NONCE_SIZE = 16  # bytes
KEY_SIZE = 32  # bytes, of an Ed25519 public key and of all that is derived here
_DOMAIN = f"peercli auth {VERSION}"


class Identity:
    """A long-lived Ed25519 key (RFC 8032).

    Args:
        seed: 32 secret bytes; fresh ones by default.
    """

    def __init__(self, seed: bytes | None = None) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed or secrets.token_bytes(KEY_SIZE))

    @property
    def seed(self) -> bytes:
        """The secret, to be kept."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, text: bytes) -> bytes:
        """The signature of `text`, 64 bytes."""
        return self._key.sign(text)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What this side can prove, and what it wants proved.

    Attributes:
        secret: the far side must prove that it knows it, too.
        identity: our own key, to sign with.
        known: public keys by name; a far side that has one of them is recognised.
        strict: the far side must be recognised.
        introduce: tell the far side our public key, once both have proved themselves.
        once: the secret is good for one attempt; then one takes its place that only those two know.
    """

    secret: str | None = field(default=None, repr=False)
    identity: Identity | None = None
    known: Mapping[str, bytes] = field(default_factory=dict)
    strict: bool = False
    introduce: bool = False
    once: bool = False

    def __post_init__(self) -> None:
        if self.secret == "":
            raise UsageError("the secret is empty")
        if self.introduce and (self.identity is None or self.secret is None):
            raise UsageError("to tell a peer our key takes a secret that both know")

    @property
    def demanding(self) -> bool:
        """Whether the far side has to prove anything."""
        return self.secret is not None or self.strict

    @property
    def calling(self) -> bool:
        """Whether our own connections begin with the handshake."""
        return self.demanding or bool(self.known)


@dataclass(frozen=True, slots=True)
class Session:
    """What both sides know of a connection, and what the handshake is bound to.

    The fingerprints are of the certificates that the DTLS session was made with: SHA-256 (RFC 8122).
    """

    kind: str
    connection_id: str
    caller: str
    callee: str
    caller_fingerprint: str
    callee_fingerprint: str
    serialization: str
    reliable: bool

    @property
    def context(self) -> bytes:
        members = (
            *(_DOMAIN, self.kind, self.connection_id, self.caller, self.callee),
            *(self.caller_fingerprint, self.callee_fingerprint, self.serialization, self.reliable),
        )
        return json.dumps(members).encode()


@dataclass(frozen=True, slots=True)
class Proven:
    """What came of a handshake.

    Attributes:
        secret: the far side knows the secret.
        name: under which its key is known here; empty if it has none of those.
        key: the public key it introduced itself with, or None.
        session_key: 32 bytes that nobody else knows, if there is a secret.
        label, metadata: of the connection (on the callee's side).
        verdict: what the callee sends when it lets the caller in.
    """

    secret: bool
    name: str
    key: bytes | None
    session_key: bytes = field(repr=False)
    label: str = ""
    metadata: Any = None
    verdict: str = ""

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose, the same on both sides."""
        return _derive(self.session_key, purpose)


Conversation = Generator[str, str, Proven]
"""Yields what to send, is sent what came. The callee's first yield is empty: it does not begin.

It raises AuthenticationFailed, whose `reason` the far side shall be told by `refusal`.
"""

_REFUSALS = {  # what is told, and the hint
    "secret": (
        "the far side does not know the same secret",
        "compare them; if they are the same, somebody is in between",
    ),
    "no-secret": ("the far side has no secret set", "start it with the same --secret, or leave it out here"),
    "needs-secret": ("the far side wants a secret", "say --secret TEXT, or --secret-file FILE"),
    "key": (
        "WARNING: the far side does not have the key that is remembered for it",
        "somebody may be in between; or it has a new key: ask by another way, then pair again",
    ),
    "stranger": ("the far side does not know our key", "pair with it: peercli pair"),
    "unproved": (
        "the far side declined, and has not proved who it is",
        "it may be busy or gone; or somebody in between says no in its name",
    ),
    "busy": ("the far side has had too many failed attempts", "try again later"),
    "protocol": ("the far side could not make sense of the handshake", ""),
}
_SET_IT = "say --secret TEXT, or --secret-file FILE"


def failure(reason: str, message: str = "", hint: str = "") -> AuthenticationFailed:
    """The error for one of the reasons above, by its own words or by others."""
    text, usual = _REFUSALS[reason]
    return AuthenticationFailed(message or text, hint=hint or usual, reason=reason)


# The two sides --------------------------------------------------------------------------------


def call(credentials: Credentials, session: Session, *, label: str, metadata: Any) -> Conversation:
    """The side that offered the connection.

    Raises:
        AuthenticationFailed: the far side did not prove what it has to, or refuses us.
        UsageError: label and metadata are too long.
    """
    pake: SPAKE2_A | None = None
    if credentials.secret is not None:
        from spake2 import SPAKE2_A  # its numbers take a while to work out: only who has a secret waits

        pake = SPAKE2_A(_password(credentials.secret, session))
    ours = _say(credentials, pake.start() if pake else None)
    reply = _read((yield _dump({"said": ours})), believed=not credentials.demanding)
    theirs = _text(reply, "said")
    said = _read(theirs)
    key = _agree(credentials, pake, said)
    transcript = _transcript(session, ours, theirs)
    _check_proof(reply, key, "callee", transcript)
    name = _recognise(credentials, reply, "callee", transcript)
    final = _prove(credentials, said, key, "caller", transcript)
    if credentials.introduce and credentials.identity:
        final |= _introduction(credentials.identity, "caller", transcript)
    text = _dump(final | {"label": label, "metadata": metadata})
    if len(text) > MAX_HANDSHAKE_MESSAGE:
        raise UsageError("metadata is at most some 60,000 bytes where there is a secret or a key")
    verdict = _read((yield text), believed=True)
    if verdict.get("ok") is not True:
        raise failure("protocol")
    introduced = _introduced(verdict, "callee", transcript)
    return Proven(pake is not None, name, introduced, _derive(key, "session", transcript))


def answer(credentials: Credentials, session: Session) -> Conversation:
    """The side that the connection was offered to; what it returns has the last word, for when all is well.

    Raises:
        AuthenticationFailed: the far side did not prove what it has to, or refuses us.
    """
    first = _read((yield ""))
    theirs = _text(first, "said")
    said = _read(theirs)
    pake: SPAKE2_B | None = None
    if credentials.secret is not None:
        from spake2 import SPAKE2_B

        pake = SPAKE2_B(_password(credentials.secret, session))
    ours = _say(credentials, pake.start() if pake else None)
    key = _agree(credentials, pake, said)
    transcript = _transcript(session, theirs, ours)
    reply = _prove(credentials, said, key, "callee", transcript)
    final = _read((yield _dump({"said": ours} | reply)))
    _check_proof(final, key, "caller", transcript)
    name = _recognise(credentials, final, "caller", transcript)
    metadata = final.get("metadata")
    if fault := shape_fault(metadata):
        raise failure("protocol", f"the metadata of the connection cannot be read: {fault}")
    verdict: dict[str, Any] = {"ok": True}
    if credentials.introduce and credentials.identity:
        verdict |= _introduction(credentials.identity, "callee", transcript)
    return Proven(
        pake is not None,
        name,
        _introduced(final, "caller", transcript),
        _derive(key, "session", transcript),
        _text(final, "label"),
        metadata,
        _dump(verdict),
    )


def refusal(reason: str) -> str:
    """The message that ends a handshake; `declined` when all was proved but the connection is not wanted."""
    return _dump({"refused": reason})


# Secrets --------------------------------------------------------------------------------------


def _password(secret: str, session: Session) -> bytes:
    text = unicodedata.normalize("NFC", secret).encode(errors="surrogateescape")
    return hmac.digest(text, session.context, "sha256")


def _agree(credentials: Credentials, pake: SPAKE2_A | SPAKE2_B | None, said: dict[str, Any]) -> bytes:
    """The key that the two have in common; empty where neither has a secret."""
    if pake is None:
        if "pake" in said:
            raise failure("no-secret", "the far side has a secret, and there is none here", _SET_IT)
        return b""
    if "pake" not in said:
        raise failure("needs-secret", "the far side has no secret set", _REFUSALS["no-secret"][1])
    element = _bytes(said, "pake", 1 + KEY_SIZE)
    try:
        key: bytes = pake.finish(element)
    except Exception as error:  # whatever the library raises for bytes that are no point of the curve
        raise failure("protocol") from error
    return key


def _transcript(session: Session, caller_said: str, callee_said: str) -> bytes:
    # JSON can spell what UTF-8 cannot.
    parts = (session.context, *(said.encode(errors="surrogatepass") for said in (caller_said, callee_said)))
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()


def _derive(key: bytes, purpose: str, salt: bytes = b"") -> bytes:
    return HKDF(SHA256(), KEY_SIZE, salt, f"{_DOMAIN} {purpose}".encode()).derive(key)


def _proof(key: bytes, side: str, transcript: bytes) -> bytes:
    return hmac.digest(_derive(key, f"proof of the {side}", transcript), transcript, "sha256")


def _check_proof(message: dict[str, Any], key: bytes, side: str, transcript: bytes) -> None:
    if not hmac.compare_digest(_bytes(message, "proof", KEY_SIZE), _proof(key, side, transcript)):
        raise failure("secret")


# Keys -----------------------------------------------------------------------------------------


def _signed(side: str, transcript: bytes) -> bytes:
    return f"{_DOMAIN} signature of the {side}".encode() + transcript


def _verifies(key: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True


def _recognise(credentials: Credentials, message: dict[str, Any], side: str, transcript: bytes) -> str:
    """The name of the far side, by what it signed; empty if none of the known keys fits."""
    if "signature" in message:
        signature = _bytes(message, "signature", 64)
        for name, key in credentials.known.items():
            if _verifies(key, signature, _signed(side, transcript)):
                return name
    if credentials.strict:
        if side == "caller":
            raise failure("stranger", "the far side has none of the keys that are let in")
        names = " or ".join(credentials.known)
        raise failure("key", f"WARNING: the far side does not have the key that is remembered for {names}")
    return ""


def _introduction(identity: Identity, side: str, transcript: bytes) -> dict[str, str]:
    signature = identity.sign(_signed(side, transcript))
    return {"key": identity.public.hex(), "signature": signature.hex()}


def _introduced(message: dict[str, Any], side: str, transcript: bytes) -> bytes | None:
    """The public key that the far side tells us, which it must own."""
    if "key" not in message:
        return None
    key, signature = _bytes(message, "key", KEY_SIZE), _bytes(message, "signature", 64)
    if not _verifies(key, signature, _signed(side, transcript)):
        raise failure("protocol", "the far side told a key that is not its own")
    return key


# Messages -------------------------------------------------------------------------------------


def _say(credentials: Credentials, pake: bytes | None) -> str:
    said: dict[str, Any] = {
        "v": VERSION,
        "nonce": secrets.token_hex(NONCE_SIZE),
        "sign": bool(credentials.known),
    }
    return _dump(said | ({"pake": pake.hex()} if pake is not None else {}))


def _prove(
    credentials: Credentials, said: dict[str, Any], key: bytes, side: str, transcript: bytes
) -> dict[str, str]:
    """The proof, and the signature if the far side asked for one that we can give."""
    proof = {"proof": _proof(key, side, transcript).hex()}
    if said.get("sign") is True and credentials.identity is not None:
        proof["signature"] = credentials.identity.sign(_signed(side, transcript)).hex()
    return proof


def _dump(message: dict[str, Any]) -> str:
    return json.dumps(message, separators=(",", ":"))


def _read(text: object, *, believed: bool = False) -> dict[str, Any]:
    """The members of a message; raises AuthenticationFailed, also for one that says we are refused.

    Args:
        believed: whoever says so has proved who it is, as far as it has to: its mere no raises Declined.
    """
    if not isinstance(text, str) or len(text) > MAX_HANDSHAKE_MESSAGE:
        raise failure("protocol")
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise failure("protocol") from None
    if not isinstance(message, dict):
        raise failure("protocol")
    if "refused" in message:
        reason = message["refused"]
        if reason == "declined" and believed:
            raise Declined("the far side declined")
        if reason == "declined":
            raise failure("unproved")
        raise failure(reason if isinstance(reason, str) and reason in _REFUSALS else "protocol")
    if message.get("v", VERSION) != VERSION:
        raise failure("protocol", "the far side speaks another version of the handshake")
    return message


def _text(message: dict[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise failure("protocol")
    return value


def _bytes(message: dict[str, Any], name: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(_text(message, name))
    except ValueError:
        raise failure("protocol") from None
    if len(value) != size:
        raise failure("protocol")
    return value
