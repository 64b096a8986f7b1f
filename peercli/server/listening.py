"""What a broker needs of its machine: ports to listen on, a certificate to show, and files enough."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from contextlib import suppress
from pathlib import Path

from peercli.errors import UsageError

__all__ = ["lift_file_limit", "local_host", "open_ports", "show_certificate"]

BACKLOG = 4096  # connections that the kernel may have waiting for us

_EVERYWHERE = ("", "*", "::")  # by IPv4 and IPv6, as Node takes it, and PeerServer by default
_LOCAL = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
_HINTS = {
    errno.EADDRINUSE: "Another program has the port; --port 0 takes a free one.",
    errno.EACCES: "Ports below 1024 are for root; --port 9000 is for everybody.",
    errno.EADDRNOTAVAIL: "This machine has no such address; --host 0.0.0.0 takes all it has.",
    errno.EAFNOSUPPORT: "This machine has no IPv6; --host 0.0.0.0 takes all addresses it has.",
}


def open_ports(host: str, port: int, *, share: bool) -> list[socket.socket]:
    """A listening socket at each address of `host`, at the same port, also where 0 had one found.

    With `share` others may listen there, too, if they share it as well.

    Raises:
        UsageError: the host has no address, or one of them cannot be listened on.
    """
    try:
        found = socket.getaddrinfo("::" if host in _EVERYWHERE else host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", "no address")
        raise UsageError(f"cannot listen on {host} port {port}: {why}") from error
    ports: list[socket.socket] = []
    failures: list[OSError] = []
    for family, _, _, _, (address, _, *scope) in dict.fromkeys(found):
        try:
            ports.append(
                socket.create_server(
                    (address, port, *scope),
                    family=family,
                    backlog=BACKLOG,
                    reuse_port=share,
                    dualstack_ipv6=host in _EVERYWHERE and socket.has_dualstack_ipv6(),
                )
            )
        except OSError as error:
            failures.append(error)
        else:
            port = ports[0].getsockname()[1]
    # A name may have addresses that the machine does without: localhost is ::1, too, where there is no IPv6.
    for failure in failures:
        if not ports or failure.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            for opened in ports:
                opened.close()
            number = failure.errno or 0
            raise UsageError(
                f"cannot listen on {host or '::'} port {port}: {os.strerror(number)}",
                hint=_HINTS.get(number, ""),
            ) from failure
    return ports


def local_host(host: str) -> str:
    """How a URL names, on this machine, who listens on `host`."""
    host = _LOCAL.get(host, host)
    return f"[{host}]" if ":" in host else host


def show_certificate(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Have a listener with this context show the certificate from now on.

    Raises:
        UsageError: the certificate or its key cannot be read or do not belong together; all is as it was.
    """
    try:
        for file in (cert, key):  # OpenSSL does not tell which it could not read
            file.open("rb").close()
        # Tried apart: a context that failed to load is left without a key.
        for one in (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), context):
            one.load_cert_chain(cert, key, password=_no_password)
    except ssl.SSLError as error:
        raise UsageError(f"cannot use the TLS certificate {cert} with the key {key}: {error}") from error
    except OSError as error:
        raise UsageError(f"cannot read {error.filename}: {error.strerror}") from error


def _no_password() -> str:
    """For OpenSSL, which would ask for one at the terminal.

    Raises:
        UsageError: always.
    """
    raise UsageError(
        "the TLS key is protected by a password", hint="openssl pkey -in KEY -out PLAIN writes it without."
    )


def lift_file_limit() -> None:
    """Let this process have as many files open as it may: each connection is one.

    The 1024 of a shell are less than the clients that a broker takes. Node does the same when it starts.
    """
    with suppress(ImportError, OSError, ValueError):  # Windows knows no limit, macOS says that there is none
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
