"""Candidates without waiting: aioice's agent, made to trickle (RFC 8838) and to ask every server.

aioice gathers host, reflexive and relayed candidates in one go, so that one silent STUN server delays
everything by five seconds, and it knows one server of each kind. Here the hosts come at once, and
`gather_from_servers` reports what each STUN and TURN server answers, as it answers, or why it does not.

This module is the only one that touches aioice's private names.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fnmatch
import ipaddress
import logging
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import ifaddr
from aioice import Candidate, Connection, stun, turn
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import CandidatePair, StunProtocol, TransportPolicy

from peercli.options import IceOptions, IceServer, PortRange

__all__ = [
    "Address",
    "Agent",
    "Outcome",
    "PairReport",
    "ServerReport",
    "gather_from_servers",
    "host_addresses",
    "resolve",
    "show_address",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")

Address = tuple[str, int]
"""An IP address and a port."""

CONSENT_INTERVAL = 5.0  # s between consent checks (RFC 7675 §5.1)
CONSENT_TIMEOUT = 30.0  # s without an answer to any of them until the path counts as dead (§5.1)
RELAY_HANDICAP = 1.0  # s by which direct pairs are checked before relayed ones: two checks and a round trip
SERVER_TIMEOUT = 10.0  # s for one STUN or TURN server
RECEIVE_BUFFER = 1 << 18  # bytes asked of the kernel for each socket
FAREWELL_TIMEOUT = 1.0  # s for a TURN server to free an allocation, at the end
CHECK_INTERVAL = 0.02  # s from the start of one check to the next (Ta in RFC 8445 §14.2)
MAX_REMOTE_CANDIDATES = 100  # signalled, and seen in checks (RFC 8445 §6.1.2.5 limits the pairs alike)


def _needed(name: str) -> None:
    if not hasattr(Connection, name):
        raise ImportError(f"aioice has changed: Connection.{name} is gone, and peercli.rtc.ice relies on it")


for _name in (
    "_check_periodic",
    "_pair_remote_candidate",
    "build_request",
    "check_incoming",
    "close",
    "gather_candidates",
    "query_consent",
    "sort_check_list",
):
    _needed(_name)


# What containers and virtual machines are plugged into: nobody outside can reach their addresses, and each
# costs checks and tells the far side something.
VIRTUAL_INTERFACES = (
    *("docker*", "br-*", "veth*", "virbr*", "vnet*", "lxcbr*", "lxdbr*", "podman*", "cni*"),
    *("flannel*", "cali*", "vmnet*", "vboxnet*"),
)


def host_addresses(interfaces: Sequence[str] = ()) -> list[str]:
    """This machine's addresses; loopback only where there is no other (RFC 8445 §5.1.1.1).

    Args:
        interfaces: patterns (`eth*`) of the network interfaces to take; by default all that are not the
            bridges of containers and virtual machines, unless there are only these.
    """
    addresses: list[str] = []
    virtual: list[str] = []
    loopback: list[str] = []
    for adapter in ifaddr.get_adapters():
        if interfaces and not _matches(adapter.nice_name, interfaces):
            continue
        for ip in adapter.ips:
            if isinstance(ip.ip, tuple):
                text, _, scope = ip.ip
                if scope:  # link-local: of no use without its interface
                    continue
            else:
                text = ip.ip
            if ipaddress.ip_address(text).is_loopback:
                loopback.append(text)
            elif not interfaces and _matches(adapter.nice_name, VIRTUAL_INTERFACES):
                virtual.append(text)
            else:
                addresses.append(text)
    return addresses or virtual or loopback


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


async def _bind(ports: PortRange | None, attempt: Callable[[int], Awaitable[T]]) -> T:
    """Call `attempt` with a local port, and with others of the range as long as they are taken.

    Raises:
        OSError: why the last one could not be had.
    """
    if ports is None:
        return await attempt(0)
    low, high = ports
    count = high - low + 1
    first = random.randrange(count)  # so that many connections do not all begin with the same one
    for number in range(count):
        try:
            return await attempt(low + (first + number) % count)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"every port from {low} to {high} is taken")


class Port(StunProtocol):
    """A socket that checks go through; it remembers how it looks from where."""

    def __init__(self, receiver: Connection) -> None:
        super().__init__(receiver)
        self.mapped: dict[Address, Address] = {}
        """By far side: the address it saw our request come from."""

    async def request(self, request: stun.Message, addr: Address, *args: Any, **options: Any) -> Any:
        response, source = await super().request(request, addr, *args, **options)
        attributes = response.attributes
        mapped = attributes.get("XOR-MAPPED-ADDRESS") or attributes.get("MAPPED-ADDRESS")
        if mapped is not None:
            self.mapped[addr] = mapped
        return response, source


_parse_message = stun.parse_message


def _parse(data: bytes) -> stun.Message:
    try:
        return _parse_message(data)
    except struct.error as error:
        raise ValueError("a STUN attribute is too short") from error


# aioice expects nothing but ValueError of its parser, and anybody may send to an open port.
stun.parse_message = _parse


class Agent(Connection):
    """An ICE agent for one component whose gathering ends with its host candidates.

    aiortc builds its own `aioice.Connection`; `adopt` turns that one into an `Agent`, so this class adds
    behaviour and no state but what has a default.
    """

    options = IceOptions()
    """Which interfaces and ports may be used; to be set before gathering."""

    @staticmethod
    def adopt(connection: Connection) -> Agent:
        connection.__class__ = Agent
        assert isinstance(connection, Agent)
        connection.reports = {}
        return connection

    reports: dict[IceServer, ServerReport]
    """What the servers asked so far have answered."""

    async def gather_candidates(self) -> None:
        if self._local_candidates_start:
            return
        self._local_candidates_start = True
        if self._transport_policy is TransportPolicy.ALL:
            for address in host_addresses(self.options.interfaces):
                await self._open_socket(address)
        self._local_candidates_end = True

    async def _open_socket(self, address: str) -> None:
        """Become reachable at one of this machine's addresses, if that is possible."""
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await _bind(
                self.options.ports,
                lambda port: loop.create_datagram_endpoint(lambda: Port(self), local_addr=(address, port)),
            )
        except OSError as error:
            logger.info("no socket at %s: %s", address, error)
            return
        if self._closing:  # meanwhile, and did not see this one
            await protocol.close()
            return
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        host, port = transport.get_extra_info("sockname")[:2]
        protocol.local_candidate = Candidate(
            foundation=candidate_foundation("host", "udp", host),
            component=1,
            transport="udp",
            priority=candidate_priority(1, "host"),
            host=host,
            port=port,
            type="host",
        )
        self._protocols.append(protocol)
        self._local_candidates.append(protocol.local_candidate)

    async def add_remote_candidate(self, remote_candidate: Candidate | None) -> None:
        if remote_candidate is None or (
            remote_candidate.component == 1 and len(self._remote_candidates) < MAX_REMOTE_CANDIDATES
        ):
            try:
                await super().add_remote_candidate(remote_candidate)
            except OSError as error:  # its name is to be asked for by multicast, and that cannot be had
                logger.info("%s is passed over: %s", remote_candidate, error)

    def check_incoming(self, message: stun.Message, addr: tuple[str, int], protocol: StunProtocol) -> None:
        known = any((c._network_host, c.port) == addr for c in self._remote_candidates)
        if known or (
            "PRIORITY" in message.attributes and len(self._remote_candidates) < MAX_REMOTE_CANDIDATES
        ):
            super().check_incoming(message, addr, protocol)

    async def close(self) -> None:
        """Close the connection. A TURN server that is gone holds nobody up: aioice would wait a minute."""
        self._closing = True
        relays = [protocol for protocol in self._protocols if protocol.local_candidate.type == "relay"]
        farewells = [asyncio.create_task(protocol.close()) for protocol in relays]
        if farewells:
            await asyncio.wait(farewells, timeout=FAREWELL_TIMEOUT)
            for protocol in relays:
                _abandon(protocol.transport)
            await asyncio.wait(farewells)
        await super().close()

    async def check_start(self, pair: CandidatePair) -> None:
        """Check a pair; one with a relay in it only after the direct ones have had their chance.

        The controlling side's first success ends the search, and a relay's comes first where NATs drop the
        first check from either side: the second follows half a second later.
        """
        relayed = "relay" in (pair.local_candidate.type, pair.remote_candidate.type)
        if relayed and self.ice_controlling and self._transport_policy is TransportPolicy.ALL:
            self.check_state(pair, CandidatePair.State.IN_PROGRESS)
            await asyncio.sleep(RELAY_HANDICAP)
        await super().check_start(pair)

    _pace: asyncio.TimerHandle | None = None

    def _check_periodic(self) -> bool:
        """Start a check, and see to the next ones; aioice's loop, which calls this, has not to go on.

        It would sit out the interval after the last check, though that has long found a path.
        """
        if not self._check_list:
            return super()._check_periodic()
        if super()._check_periodic():
            self._pace = asyncio.get_running_loop().call_later(CHECK_INTERVAL, self._check_periodic)
        return False

    async def connect(self) -> None:
        try:
            await super().connect()
        finally:
            if self._pace is not None:
                self._pace.cancel()
        if self._closing and self._query_consent_task is not None:
            # Closed just as a pair was found: aioice would now ask for consent, for ever.
            self._query_consent_task.cancel()
            raise ConnectionError("the connection was closed meanwhile")

    async def query_consent(self) -> None:
        """Check that the far side still agrees to be sent to (RFC 7675), and close when it is silent.

        aioice gives each check half a second and no second try, which kills a live path with a long round
        trip; here every check is retransmitted as usual until consent expires, and only time decides.
        """
        loop = asyncio.get_running_loop()
        consented = loop.time()

        async def check() -> None:
            nonlocal consented
            if (pair := self.selected) is None:
                return
            assert self.remote_password is not None
            begun = loop.time()
            with contextlib.suppress(stun.TransactionError):
                await pair.protocol.request(
                    self.build_request(pair, nominate=False),
                    pair.remote_addr,
                    integrity_key=self.remote_password.encode(),
                )
                consented = max(consented, begun)  # whoever answers late agreed to no more than that

        checks: set[asyncio.Task[None]] = set()
        try:
            while (left := consented + CONSENT_TIMEOUT - loop.time()) > 0:
                await asyncio.sleep(min(left, CONSENT_INTERVAL * (0.8 + 0.4 * random.random())))
                checks.add(task := asyncio.create_task(check()))
                task.add_done_callback(checks.discard)
        finally:
            for task in checks:
                task.cancel()
            if checks:
                await asyncio.wait(checks)
        logger.info("no consent for %s s", CONSENT_TIMEOUT)
        self._query_consent_task = None
        self._lose()
        await self.close()

    def add_relay(self, protocol: StunProtocol) -> None:
        """Take a TURN allocation into use: pair it with every candidate of the far side."""
        self._protocols.append(protocol)
        self._local_candidates.append(protocol.local_candidate)
        for candidate in self._remote_candidates:
            self._pair_remote_candidate(candidate)
        self.sort_check_list()

    on_lost: Callable[[], None] | None = None
    """Called when the path is found to be dead, before aiortc can take that for a farewell."""

    def _lose(self) -> None:
        if self.on_lost is not None and not self._closing:
            self.on_lost()

    def protocol_lost(self, protocol: StunProtocol) -> None:
        if (pair := self.selected) is not None and pair.protocol is protocol:
            self._lose()
        super().protocol_lost(protocol)

    tap: Callable[[bytes], None] | None = None
    """Where datagrams of DTLS go instead of to `recv`, if anywhere; and what begins like STUN but does not
    end with it, for it may be several datagrams glued together by the kernel."""

    def data_received(self, data: bytes, component: int) -> None:
        if not data:
            return  # aiortc would stumble over it
        if self.tap is not None and data[0] < 64:  # RFC 7983 §7
            self.tap(data)
        else:
            super().data_received(data, component)

    @property
    def selected(self) -> CandidatePair | None:
        """The pair that carries data; ICE may select another at any time."""
        return self._nominated.get(1)

    @property
    def pairs(self) -> list[PairReport]:
        """How each pair of candidates has done, in the order in which they are preferred."""
        return [_report(pair, selected=pair is self.selected) for pair in self._check_list]

    @property
    def seen_as(self) -> tuple[str, Address] | None:
        """The local candidate in use as the far side sees it: its type and address (RFC 8445 §7.2.5.3.1)."""
        if (pair := self.selected) is None:
            return None
        local = pair.local_candidate
        own = (local.host, local.port)
        mapped = pair.protocol.mapped.get(pair.remote_addr, own) if isinstance(pair.protocol, Port) else own
        if local.type != "host" or mapped == own:
            return local.type, own
        told = any(mapped in report.mapped.values() for report in self.reports.values())
        return "srflx" if told else "prflx", mapped

    @property
    def hosts(self) -> list[Port]:
        """The sockets that host candidates stand for."""
        return [
            protocol
            for protocol in self._protocols
            if isinstance(protocol, Port) and protocol.local_candidate.type == "host"
        ]


@dataclass(frozen=True, slots=True)
class PairReport:
    """How the checks of one pair of candidates went: whether packets pass between the two addresses."""

    local: str
    local_type: str
    remote: str
    remote_type: str
    state: Literal["selected", "works", "failed", "checking", "untried"]


_STATES: dict[CandidatePair.State, Literal["works", "failed", "checking", "untried"]] = {
    CandidatePair.State.SUCCEEDED: "works",
    CandidatePair.State.FAILED: "failed",
    CandidatePair.State.IN_PROGRESS: "checking",
    CandidatePair.State.WAITING: "untried",
    CandidatePair.State.FROZEN: "untried",
}


def _report(pair: CandidatePair, *, selected: bool) -> PairReport:
    local, remote = pair.local_candidate, pair.remote_candidate
    return PairReport(
        show_address(local.host, local.port),
        local.type,
        show_address(remote.host, remote.port),
        remote.type,
        "selected" if selected else _STATES[pair.state],
    )


def show_address(host: str, port: int) -> str:
    """An address and its port, as people write them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _abandon(relay: Any) -> None:
    """Free what is left of a TURN allocation on this side, whether or not its server has agreed."""
    relay._TurnTransport__inner_protocol.transport.abort()
    for task in (relay._TurnTransport__close_task, *relay._TurnTransport__send_tasks):
        task.cancel()


@dataclass(slots=True)
class ServerReport:
    """What came of asking a STUN or TURN server.

    Attributes:
        outcome: `answered`, or why it gave nothing: no `address` for its name, `silent`, `unreachable` (the
            network, or TCP, says so), `untrusted` (its certificate), `refused` (user or password), `failed`.
        detail: the reason in words, where there is more to say.
        seconds: until it answered or failed.
        mapped: by local address, the one that it sees.
    """

    server: IceServer
    outcome: Outcome = "silent"
    detail: str = ""
    seconds: float = 0.0
    mapped: dict[Address, Address] = field(default_factory=dict)
    _begun: float = field(default_factory=time.monotonic)

    def end(self, outcome: Outcome, detail: str = "") -> None:
        self.outcome, self.detail, self.seconds = outcome, detail, time.monotonic() - self._begun


Outcome = Literal["answered", "address", "silent", "unreachable", "untrusted", "refused", "failed"]


async def gather_from_servers(
    agent: Agent, servers: Iterable[IceServer], found: Callable[[Candidate], None]
) -> None:
    """Ask every server at once; call `found` for each new candidate, as soon as it is known.

    Ends when every server has answered or failed; `agent.reports` tells which. A failure hurts nobody else.
    """
    known = {(candidate.host, candidate.port) for candidate in agent.local_candidates}

    def tell(candidate: Candidate) -> None:
        if (candidate.host, candidate.port) not in known:
            known.add((candidate.host, candidate.port))
            found(candidate)

    async def ask(server: IceServer) -> None:
        report = agent.reports[server] = ServerReport(server)
        try:
            async with asyncio.timeout(SERVER_TIMEOUT), asyncio.TaskGroup() as tasks:
                if server.transport == "udp" and agent._transport_policy is TransportPolicy.ALL:
                    # A TURN server answers STUN too (RFC 8656 §3), and is often the only second opinion.
                    tasks.create_task(_reflexive(agent, report, tell))
                if server.scheme.startswith("turn"):
                    tell(await _relayed(agent, server))
                    report.end("answered")
        except Exception as error:  # noqa: BLE001  aioice raises whatever a server's bytes lead it to
            if report.outcome != "answered":  # from another of our addresses
                report.end(*_why(_first(error)))
        if report.outcome != "answered":
            logger.info("%s gave no candidate: %s %s", server, report.outcome, report.detail)

    async with asyncio.TaskGroup() as tasks:
        for server in dict.fromkeys(servers):
            tasks.create_task(ask(server))


def _first(error: BaseException) -> BaseException:
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _why(error: BaseException) -> tuple[Outcome, str]:
    """What an error met on the way to a server means."""
    match error:
        case stun.TransactionFailed():
            code, reason = error.response.attributes.get("ERROR-CODE", (0, ""))
            return "refused" if code in (401, 403, 441) else "failed", f"{code} {reason}".strip()
        case stun.TransactionTimeout() | TimeoutError():
            return "silent", ""
        case socket.gaierror() | UnicodeError():
            return "address", getattr(error, "strerror", None) or str(error)
        case ssl.SSLCertVerificationError():
            return "untrusted", error.verify_message
        case ssl.SSLError():
            return "failed", f"it does not speak TLS: {error.reason}"
        case OSError():
            return "unreachable", error.strerror or str(error)
        case _:
            return "failed", str(error) or type(error).__name__


async def resolve(server: IceServer) -> list[tuple[int, tuple[str, int]]]:
    """The server's addresses as (IP version, (address, port)), one for each version at most."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Any]] = loop.create_future()

    def tell(result: list[Any] | OSError) -> None:
        if answer.done():
            return
        if isinstance(result, OSError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def ask() -> None:
        result: list[Any] | OSError
        try:
            result = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)
        except OSError as error:
            result = error
        with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody wants to know any more
            loop.call_soon_threadsafe(tell, result)

    # Not in the loop's executor: where no name server answers, a lookup takes long, and would hold up all
    # who wait for a thread, and the end of the program.
    threading.Thread(target=ask, name=f"resolve {server.host}", daemon=True).start()
    by_version: dict[int, tuple[str, int]] = {}
    for family, *_, address in await answer:
        by_version.setdefault(6 if family == socket.AF_INET6 else 4, (str(address[0]), int(address[1])))
    return list(by_version.items())


async def _reflexive(agent: Agent, report: ServerReport, found: Callable[[Candidate], None]) -> None:
    """Ask a STUN server how each of our sockets looks from outside (RFC 8445 §5.1.1.2)."""
    addresses = dict(await resolve(report.server))

    async def ask(port: Port) -> None:
        base = port.local_candidate
        version = ipaddress.ip_address(base.host).version
        if version not in addresses:
            return
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        try:
            await port.request(request, addresses[version])
        except stun.TransactionError as error:
            logger.info("%s does not answer %s: %s", report.server, base.host, error)
            return
        mapped = port.mapped.get(addresses[version])
        if mapped is None:
            return
        report.mapped[base.host, base.port] = mapped
        if report.server.scheme == "stun" and report.outcome != "answered":
            report.end("answered")
        found(
            Candidate(
                foundation=candidate_foundation("srflx", "udp", base.host),
                component=base.component,
                transport="udp",
                priority=candidate_priority(base.component, "srflx"),
                host=mapped[0],
                port=mapped[1],
                type="srflx",
                related_address=base.host,
                related_port=base.port,
            )
        )

    async with asyncio.TaskGroup() as tasks:
        for port in agent.hosts:
            tasks.create_task(ask(port))


async def _relayed(agent: Agent, server: IceServer) -> Candidate:
    """Allocate a relayed address on a TURN server (RFC 8656), and let the agent use it.

    Its addresses are tried in turn, so that a broken IPv6 hurts nobody.
    """
    *others, last = [address for _, address in await resolve(server)]
    for address in others:
        with contextlib.suppress(OSError, stun.TransactionError):  # of which TimeoutError is one
            async with asyncio.timeout(SERVER_TIMEOUT / (1 + len(others))):
                return await _relayed_by(agent, server, address)
    return await _relayed_by(agent, server, last)


async def _relayed_by(agent: Agent, server: IceServer, address: Address) -> Candidate:
    protocol = await _allocate(agent, server, address)
    host, port = protocol.transport.get_extra_info("sockname")
    related = protocol.transport.get_extra_info("related_address")
    if agent._transport_policy is TransportPolicy.RELAY:
        related = ("::" if ":" in host else "0.0.0.0", 9)  # hidden (RFC 9429 §3.5.3)
    protocol.local_candidate = Candidate(
        foundation=candidate_foundation("relay", "udp", host),
        component=1,
        transport="udp",
        priority=candidate_priority(1, "relay"),
        host=host,
        port=port,
        type="relay",
        related_address=related[0],
        related_port=related[1],
    )
    if agent._closing:
        await protocol.close()
        raise ConnectionError("the connection was closed meanwhile")
    agent.add_relay(protocol)
    return protocol.local_candidate


# aioice does not know the attribute by which an IPv6 address is asked for (RFC 8656 §18.8).
_FAMILY: stun.AttributeEntry = (0x0017, "REQUESTED-ADDRESS-FAMILY", stun.pack_bytes, stun.unpack_bytes)
stun.ATTRIBUTES_BY_TYPE[_FAMILY[0]] = stun.ATTRIBUTES_BY_NAME[_FAMILY[1]] = _FAMILY
IPV6 = b"\x02\x00\x00\x00"
FAMILY_NOT_SUPPORTED = 440


class _TurnClient(turn.TurnClientMixin):
    """Takes an IPv6 address where the server has no other: IPv4 is what one gets without asking."""

    async def request_with_retry(self, request: stun.Message) -> tuple[stun.Message, Address]:
        try:
            return await super().request_with_retry(request)
        except stun.TransactionFailed as error:
            if error.response.error_code != FAMILY_NOT_SUPPORTED:
                raise
        request.transaction_id = random.randbytes(12)
        request.attributes["REQUESTED-ADDRESS-FAMILY"] = IPV6
        return await super().request_with_retry(request)


class _TurnUdp(_TurnClient, turn.TurnClientUdpProtocol):
    pass


class _TurnTcp(_TurnClient, turn.TurnClientTcpProtocol):
    pass


async def _allocate(agent: Agent, server: IceServer, address: Address) -> Port:
    loop = asyncio.get_running_loop()
    account = (address, server.username, server.password)
    lifetimes = (turn.DEFAULT_ALLOCATION_LIFETIME, turn.DEFAULT_CHANNEL_REFRESH_TIME)
    transport: asyncio.BaseTransport
    client: _TurnUdp | _TurnTcp
    if server.transport == "tcp":
        secure = server.scheme == "turns"
        transport, client = await loop.create_connection(
            lambda: _TurnTcp(*account, *lifetimes),
            *address,
            ssl=ssl.create_default_context() if secure else None,
            server_hostname=server.host if secure else None,
        )
    else:
        anywhere = "::" if ":" in address[0] else "0.0.0.0"
        transport, client = await _bind(
            agent.options.ports,
            lambda port: loop.create_datagram_endpoint(
                lambda: _TurnUdp(*account, *lifetimes), local_addr=(anywhere, port), remote_addr=address
            ),
        )
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    try:
        relay, protocol = turn.TurnTransport(client), Port(agent)
        await relay._connect(protocol)
    except BaseException:
        transport.close()  # aioice would, too
        raise
    return protocol
