"""Whom a command talks to: secrets, codes and remembered keys, for all commands alike."""

from __future__ import annotations

import functools
import getpass
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from peercli.errors import UsageError
from peercli.options import DEFAULT_BROKER

if TYPE_CHECKING:
    from peercli.cli.console import Console
    from peercli.peer.connection import Connection
    from peercli.peer.peer import Peer
    from peercli.protocol.auth import Credentials, Proven
    from peercli.services.admission import Admission

__all__ = ["AllowOption", "Trust", "make_admission"]

_PANEL = "Trust"

MakePeer = Callable[..., "Peer"]

AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="NAME",
        callback=lambda rules: _checked(rules),
        help="Let in only this peer: by its key, if it is remembered, else by its id; NAME:file,pipe for "
        "no more than that (message, pipe, file, call, exec). Repeat for more.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


def _checked(rules: list[str] | None) -> list[str] | None:
    if rules:
        from peercli.services.admission import parse_rules

        try:
            parse_rules(rules)
        except UsageError as error:  # which a line of the configuration file can be named for
            raise typer.BadParameter(f"{error.message}; {error.hint}") from None
    return rules


def make_admission(allow: list[str] | None) -> Admission | None:
    """Who `--allow` lets in; None lets in everybody.

    Raises:
        UsageError: a rule, or our keys, cannot be used.
    """
    if not allow:
        return None
    from peercli.services.admission import Admission, parse_rules
    from peercli.services.keyring import Keyring

    rules = parse_rules(allow)
    return Admission(rules, {name: key for name, key in Keyring().known().items() if name in rules})


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The options of `Trust`, and what they ask for."""

    secret: Annotated[
        str | None,
        typer.Option(
            "--secret",
            envvar="PEERCLI_SECRET",
            metavar="TEXT",
            help="Both sides must prove to know it before anything passes; - asks for it.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    secret_file: Annotated[
        str | None,
        typer.Option(
            "--secret-file",
            metavar="FILE",
            help="The secret is the first line of this.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    code: Annotated[
        bool,
        typer.Option(
            "--code",
            help="Wait for one peer, which has the code that is printed; it is given where an ID would be.",
            rich_help_panel=_PANEL,
        ),
    ] = False
    code_length: Annotated[
        int,
        typer.Option("--code-length", metavar="WORDS", help="Words of the code.", rich_help_panel=_PANEL),
    ] = 2
    qr: Annotated[
        bool,
        typer.Option("--qr", help="Show what the other side types as a QR code.", rich_help_panel=_PANEL),
    ] = False
    remember: Annotated[
        str | None,
        typer.Option(
            "--remember",
            metavar="NAME",
            help="Keep the peer's key under this name, and tell it ours: with a secret or a code.",
            show_default=False,
            rich_help_panel=_PANEL,
        ),
    ] = None
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Show words that are the same on both sides, unless somebody is in between; so does v, "
            "while progress or a call is shown, and /verify at the prompt of connect.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    @property
    def asks(self) -> bool:
        """Whether a peer has to know something."""
        return self.code or self.secret is not None or self.secret_file is not None

    def reach(self, console: Console, peer_id: str, make: MakePeer) -> tuple[Peer, str]:
        """A peer that is to reach another one, and the id of that.

        Args:
            peer_id: an id, a code, or the name of a remembered peer.
            make: `make_peer`, with all that is not of trust.

        Raises:
            UsageError: the options contradict each other, or a name or key cannot be used.
        """
        from peercli.protocol.codes import is_code, meeting_id, parse_code
        from peercli.services.keyring import Keyring, home_id

        if self.code:
            raise UsageError("--code is for the side that waits; here a code stands where an ID would")
        if is_code(peer_id):
            code = parse_code(peer_id)
            credentials, peer_id = self._credentials(code, once=True), meeting_id(code)
        elif key := Keyring().known().get(peer_id):
            credentials = self._credentials(self._secret(), known={peer_id: key}, strict=True)
            peer_id = home_id(key)
        else:
            credentials = self._credentials(self._secret())
        return self._watched(console, make(credentials=credentials)), peer_id

    async def wait(
        self, console: Console, make: MakePeer, admission: Admission | None = None, *, type_there: str
    ) -> Peer:
        """A peer that is to wait for others: with `--code`, one that has started to.

        Args:
            make: `make_peer`, with all that is not of trust.
            admission: who is let in; the command sees to what they may do.
            type_there: the command for the other side, with `CODE` in it.

        Raises:
            UsageError: as `reach`.
            PeerError: with `--code`, as `Peer.start`.
        """
        if self.code and admission is not None:
            raise UsageError("a code lets in whoever has it: without --allow")
        if self.code:
            return await self.wait_with_code(console, make, type_there=type_there)
        secret = self._secret()
        if admission is None or not admission.known:
            return self._watched(console, make(credentials=self._credentials(secret)))
        from peercli.services.keyring import Keyring, home_id

        credentials = self._credentials(secret, known=admission.known, strict=admission.strict)
        home = home_id(Keyring().identity().public)
        return self._watched(console, make(credentials=credentials, home=home))

    async def wait_with_code(self, console: Console, make: MakePeer, *, type_there: str) -> Peer:
        """A started peer that waits for whoever has a fresh code, which is shown; else as `wait`."""
        from peercli.services.dial import coded
        from peercli.services.events import Coded

        if self.secret_file or self.secret not in (None, os.environ.get("PEERCLI_SECRET")):
            raise UsageError("a code is a secret of its own: without --secret")

        def with_code(id: str, code: str) -> Peer:
            return make(id=id, credentials=self._credentials(code, once=True))

        peer, code = await coded(with_code, self.code_length)
        brokers = () if peer.brokers == (DEFAULT_BROKER,) else peer.brokers
        elsewhere = "".join(f" --server {shlex.quote(broker.url)}" for broker in brokers)
        command = f"peercli {type_there.replace('CODE', code)}{elsewhere}"
        await console.report(Coded(code, command))
        if self.qr and not console.json:
            _draw_qr(command)
        return self._watched(console, peer)

    def _watched(self, console: Console, peer: Peer) -> Peer:
        peer.on("authenticated", functools.partial(self._authenticated, console))
        console.proved = functools.partial(_words_with, peer)
        return peer

    def _credentials(self, secret: str | None, **options: Any) -> Credentials:
        from peercli.protocol.auth import Credentials
        from peercli.services.keyring import Keyring

        if self.remember:
            Keyring().prepare(self.remember)
        if secret is None and (self.remember or (self.verify and "known" not in options)):
            raise UsageError(
                "without a secret nothing tells the peer from somebody in between",
                hint="use --code, or the same --secret on both sides",
            )
        identity = Keyring().identity() if self.remember or "known" in options else None
        return Credentials(secret, identity, introduce=bool(self.remember), **options)

    async def _authenticated(self, console: Console, connection: Connection, proven: Proven) -> None:
        from peercli.services.events import Authenticated, Remembered, Verify
        from peercli.services.keyring import Keyring, fingerprint

        proved = Authenticated(connection.peer, connection.connection_id, proven.secret, proven.name)
        await console.report(proved)
        if self.verify:
            await console.report(Verify(connection.peer, _words_of(proven)))
        if self.remember and proven.key is None:
            console.status("The peer did not tell its key: it needs --remember, too")
        elif self.remember and proven.key is not None:
            try:
                changed = Keyring().remember(self.remember, proven.key)
            except UsageError as error:
                await console.regret(error)
                return
            key = fingerprint(proven.key)
            await console.report(Remembered(connection.peer, self.remember, key, changed))

    def _secret(self) -> str | None:
        """The secret that `--secret`, its environment variable or `--secret-file` gives."""
        secret = self.secret
        if self.secret_file is not None:
            if secret is not None and secret != os.environ.get("PEERCLI_SECRET"):
                raise UsageError("--secret and --secret-file say the same thing twice")
            try:
                with open(self.secret_file, encoding="utf-8") as file:
                    secret = file.readline().rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"the secret cannot be read: {error}") from None
        elif secret == "-":
            if not os.isatty(2):
                raise UsageError("there is no terminal to ask for the secret", hint="use --secret-file")
            secret = getpass.getpass("Secret: ")
        if secret == "":
            raise UsageError("the secret is empty")
        return secret


def _words_of(proven: Proven) -> str:
    from peercli.protocol.codes import spoken

    return spoken(proven.derive("words"))


def _words_with(peer: Peer) -> list[tuple[str, str]]:
    return [
        (connection.peer, _words_of(connection.proven))
        for connection in peer.live
        if connection.proven is not None and (connection.proven.secret or connection.proven.name)
    ]


def _draw_qr(text: str) -> None:
    import segno

    segno.make(text, error="l").terminal(sys.stderr, compact=True)
