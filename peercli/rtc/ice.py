"""Candidates without waiting: aioice's agent, made to trickle (RFC 8838) and to ask every server.

aioice gathers host, reflexive and relayed candidates in one go, so that one silent STUN server delays
everything by five seconds, and it knows one server of each kind. Here the hosts come at once, and
`gather_from_servers` reports what each STUN and TURN server answers, as it answers.

This module is the only one that touches aioice's private names.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable
from typing import Any

import ifaddr
from aioice import Candidate, Connection, stun, turn
from aioice.candidate import candidate_foundation, candidate_priority
from aioice.ice import CandidatePair, StunProtocol, TransportPolicy

from peercli.options import IceServer

__all__ = ["Agent", "gather_from_servers"]

logger = logging.getLogger(__name__)

CONSENT_INTERVAL = 2.5  # s between consent checks (RFC 7675 §5.1 suggests 5; we notice sooner)
CONSENT_TIMEOUT = 10.0  # s without an answer until the path counts as dead
RELAY_HANDICAP = 1.0  # s by which direct pairs are checked before relayed ones: two checks and a round trip
SERVER_TIMEOUT = 10.0  # s for one STUN or TURN server
RECEIVE_BUFFER = 1 << 18  # bytes asked of the kernel for each socket
FAREWELL_TIMEOUT = 1.0  # s for a TURN server to free an allocation, at the end
MAX_REMOTE_CANDIDATES = 100  # signalled, and seen in checks (RFC 8445 §6.1.2.5 limits the pairs alike)


def _needed(name: str) -> None:
    if not hasattr(Connection, name):
        raise ImportError(f"aioice has changed: Connection.{name} is gone, and peercli.rtc.ice relies on it")


for _name in (
    "_pair_remote_candidate",
    "build_request",
    "check_incoming",
    "close",
    "gather_candidates",
    "query_consent",
    "sort_check_list",
):
    _needed(_name)


def host_addresses() -> list[str]:
    """This machine's addresses; loopback only where there is no other (RFC 8445 §5.1.1.1)."""
    addresses: list[str] = []
    loopback: list[str] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            if isinstance(ip.ip, tuple):
                text, _, scope = ip.ip
                if scope:  # link-local: of no use without its interface
                    continue
            else:
                text = ip.ip
            (loopback if ipaddress.ip_address(text).is_loopback else addresses).append(text)
    return addresses or loopback


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
    behaviour and no state.
    """

    @staticmethod
    def adopt(connection: Connection) -> Agent:
        connection.__class__ = Agent
        assert isinstance(connection, Agent)
        return connection

    async def gather_candidates(self) -> None:
        if self._local_candidates_start:
            return
        self._local_candidates_start = True
        if self._transport_policy is TransportPolicy.ALL:
            for address in host_addresses():
                await self._open_socket(address)
        self._local_candidates_end = True

    async def _open_socket(self, address: str) -> None:
        """Become reachable at one of this machine's addresses, if that is possible."""
        loop = asyncio.get_running_loop()
        try:
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: StunProtocol(self), local_addr=(address, 0)
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

    async def connect(self) -> None:
        await super().connect()
        if self._closing and self._query_consent_task is not None:
            # Closed just as a pair was found: aioice would now ask for consent, for ever.
            self._query_consent_task.cancel()
            raise ConnectionError("the connection was closed meanwhile")

    async def query_consent(self) -> None:
        """Check that the far side still agrees to be sent to (RFC 7675), and close when it is silent.

        aioice gives each check half a second and no second try, which kills a live path with a long round
        trip; here a check is retransmitted as usual, and only time decides.
        """
        assert self.remote_password is not None
        key = self.remote_password.encode()
        while True:
            await asyncio.sleep(CONSENT_INTERVAL * (0.8 + 0.4 * random.random()))
            pair = self.selected
            if pair is None:
                continue
            try:
                async with asyncio.timeout(CONSENT_TIMEOUT - CONSENT_INTERVAL):
                    await pair.protocol.request(
                        self.build_request(pair, nominate=False), pair.remote_addr, integrity_key=key
                    )
            except (stun.TransactionError, TimeoutError):
                logger.info("no consent from %s for %s s", pair.remote_addr, CONSENT_TIMEOUT)
                self._query_consent_task = None
                self._lose()
                await self.close()
                return

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
    """Where datagrams of DTLS go instead of to `recv`, if anywhere."""

    def data_received(self, data: bytes, component: int) -> None:
        if not data:
            return  # aiortc would stumble over it
        if self.tap is not None and 19 < data[0] < 64:  # RFC 7983 §7
            self.tap(data)
        else:
            super().data_received(data, component)

    @property
    def selected(self) -> CandidatePair | None:
        """The pair that carries data; ICE may select another at any time."""
        return self._nominated.get(1)

    @property
    def hosts(self) -> list[StunProtocol]:
        """The sockets that host candidates stand for."""
        return [protocol for protocol in self._protocols if protocol.local_candidate.type == "host"]


def _abandon(relay: Any) -> None:
    """Free what is left of a TURN allocation on this side, whether or not its server has agreed."""
    relay._TurnTransport__inner_protocol.transport.abort()
    for task in (relay._TurnTransport__close_task, *relay._TurnTransport__send_tasks):
        task.cancel()


async def gather_from_servers(
    agent: Agent, servers: Iterable[IceServer], found: Callable[[Candidate], None]
) -> None:
    """Ask every server at once; call `found` for each new candidate, as soon as it is known.

    Ends when every server has answered or failed. A failure is logged and hurts nobody else.
    """
    known = {(candidate.host, candidate.port) for candidate in agent.local_candidates}

    def report(candidate: Candidate) -> None:
        if (candidate.host, candidate.port) not in known:
            known.add((candidate.host, candidate.port))
            found(candidate)

    async def ask(server: IceServer) -> None:
        try:
            async with asyncio.timeout(SERVER_TIMEOUT):
                if server.scheme.startswith("turn"):
                    report(await _relayed(agent, server))
                elif agent._transport_policy is TransportPolicy.ALL:
                    await _reflexive(agent, server, report)
        except Exception as error:  # noqa: BLE001  aioice raises whatever a server's bytes lead it to
            logger.info("%s gave no candidate: %s", server, str(error) or type(error).__name__)

    async with asyncio.TaskGroup() as tasks:
        for server in servers:
            tasks.create_task(ask(server))


async def _resolve(server: IceServer) -> list[tuple[int, tuple[str, int]]]:
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


async def _reflexive(agent: Agent, server: IceServer, found: Callable[[Candidate], None]) -> None:
    """Ask a STUN server how each of our sockets looks from outside (RFC 8445 §5.1.1.2)."""
    addresses = dict(await _resolve(server))

    async def ask(protocol: StunProtocol) -> None:
        base = protocol.local_candidate
        version = ipaddress.ip_address(base.host).version
        if version not in addresses:
            return
        request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
        try:
            response, _ = await protocol.request(request, addresses[version])
        except stun.TransactionError as error:
            logger.info("%s does not answer %s: %s", server, base.host, error)
            return
        mapped = response.attributes.get("XOR-MAPPED-ADDRESS") or response.attributes.get("MAPPED-ADDRESS")
        if mapped is None:
            return
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
        for protocol in agent.hosts:
            tasks.create_task(ask(protocol))


async def _relayed(agent: Agent, server: IceServer) -> Candidate:
    """Allocate a relayed address on a TURN server (RFC 8656), and let the agent use it."""
    address = (server.host, server.port)
    if server.scheme == "turn":  # with TLS, the certificate is for the name
        [(_, address), *_] = await _resolve(server)
    transport, protocol = await turn.create_turn_endpoint(
        lambda: StunProtocol(agent),
        server_addr=address,
        username=server.username,
        password=server.password,
        ssl=ssl.create_default_context() if server.scheme == "turns" else False,
        transport=server.transport,
    )
    host, port = transport.get_extra_info("sockname")
    related = transport.get_extra_info("related_address")
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
