"""One realm on several brokers: what a broker shares with the others, through Redis (`scripts` says how).

Every broker is a node with a lease that it prolongs. A message for a peer that is not here goes to Redis,
which knows where the peer is, or keeps the message; the node that has delivered it sends a receipt. Each node
remembers what it has sent out until it has the receipt, or Redis has told the sender EXPIRE; if neither comes
in time (Redis may lose its memory), the node tells the sender itself. Nothing is ever sent out twice: whether
a command that failed was carried out cannot be known.

Without Redis a node goes on with what it has: its own clients reach each other, what is for others expires.
Who was here and comes back is let in; nobody else can have got the id while the lease lasts.

The scripts reach for keys as they find them, of all peers at once: that needs one Redis (with Sentinel and
replicas, if wanted), and cannot be spread over the slots of a Redis Cluster.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import msgspec
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from peercli.errors import UsageError
from peercli.server import scripts
from peercli.server.envelope import seal

__all__ = ["Claimed", "Cluster", "Local", "Parcel"]

log = logging.getLogger(__name__)

MAX_LEASE = 10.0  # seconds after which a node that is not heard of counts as dead
TICK = 0.25  # seconds between prolongations
RETRY_DELAY = 0.5  # seconds before Redis is tried again
COMMAND_TIMEOUT = 2.0  # seconds for Redis to answer
RECEIPT_GRACE = 2.0  # seconds that a receipt may take beyond the time that all else is given
MAX_BATCH = 500  # messages in one command (Lua's stack holds some thousands of values)
MAX_WAITING = 50_000  # messages on their way to Redis; more are treated as if it were away
MAX_READ = 100  # inbox entries at once
BLOCK = 1000  # milliseconds that Redis waits for one

FAILURES = (RedisError, OSError, TimeoutError)


class Parcel(NamedTuple):
    """A message that has come from another node, or has waited in Redis."""

    src: str
    ref: str
    data: bytes


class Claimed(NamedTuple):
    """The answer to a claim: `open` and what waited for the client; `taken`, `full`, or Redis is `away`."""

    status: str
    held: list[Parcel]


class Local(Protocol):
    """The broker that a Cluster connects with the others."""

    def deliver(self, key: str, dst: str, data: bytes) -> bool:
        """Send to a client of ours; False when it is not here."""

    def expire(self, key: str, src: str, dst: str) -> bool:
        """Tell our client `src` that `dst` did not get what it was sent; False when `src` is not here."""

    def evict(self, key: str, peer_id: str, link: str) -> None:
        """The client has come back at another broker."""

    def probe(self, key: str, peer_id: str, link: str) -> None:
        """Somebody else asks for the client's id."""

    def clients(self) -> list[tuple[str, str, str, str, int]]:
        """All of ours: key, id, link, identity, and how many clients the key may have."""

    def dispossess(self, key: str, peer_id: str, link: str) -> None:
        """While we were cut off the id has become another's."""


class _Sent(NamedTuple):
    key: str
    src: str
    dst: str
    due: float


class Cluster:
    """This broker's share in the realm that Redis holds, while its `async with` block lasts.

    Args:
        url: of Redis (redis-py's `from_url`).
        alive_timeout: seconds; a node that dies frees its ids in this time, or sooner.
        expire_timeout: seconds that messages wait for an absent peer.
    """

    def __init__(
        self,
        url: str,
        local: Local,
        *,
        alive_timeout: float,
        expire_timeout: float,
        max_held: int,
        max_held_per_peer: int,
    ) -> None:
        options: dict[str, Any] = {
            "socket_timeout": COMMAND_TIMEOUT,
            "socket_connect_timeout": COMMAND_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),  # what was sent once is sent once
        }
        try:
            self._redis: Redis = Redis.from_url(url, **options)
            self._reader: Redis = Redis.from_url(url, **options)
        except ValueError as error:
            raise UsageError(f"the Redis URL cannot be read: {error}", hint="redis://host:6379/0") from error
        self._local = local
        self._lease = min(alive_timeout, MAX_LEASE)
        self._limits = [round(expire_timeout * 1000), max_held_per_peer, max_held]
        self._patience = expire_timeout + self._lease + RECEIPT_GRACE
        self._loop = asyncio.get_running_loop()
        self.up = False
        """Whether Redis answers, and knows us."""
        self._closing = asyncio.Event()
        self._node = ""
        self._last = "0-0"  # the inbox entry read last
        self._tick_at = 0.0  # when to prolong the lease
        self._number = 0
        self._sent: dict[int, _Sent] = {}  # without a receipt; soonest due first
        self._claiming: dict[tuple[str, str], list[Parcel]] = {}  # what came for those who are coming
        self._delivered: list[str] = []  # refs of what has arrived, for receipts
        self._unread = False  # has the inbox entries that can be cut off
        self._commands: list[tuple[str, list[Any], asyncio.Future[Any] | None]] = []
        # For the ROUTE that comes after `_commands`: key, dst, src, ref, message (Lua reads no bytes).
        self._routes: list[tuple[str, str, str, str, str]] = []
        self._releases: list[tuple[str, str, str]] = []  # to be repeated until they are known to be done
        # Without Redis:
        self._lease_ends = 0.0  # from when on others may have got our clients' ids
        self._left: dict[tuple[str, str], str] = {}  # by key and id: the identity of those who have left
        self._returned: set[str] = set()  # links of those who are here without its knowing
        self._wake = asyncio.Event()

    async def __aenter__(self) -> Cluster:
        """Join the others.

        Raises:
            UsageError: it is no Redis that can be used.
        """
        try:
            with suppress(*FAILURES):
                await self._join()
        except UsageError:
            await self._close()
            raise
        self.task = asyncio.create_task(self._run(), name="broker cluster")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task
        if self.up:
            with suppress(*FAILURES):
                async with asyncio.timeout(COMMAND_TIMEOUT):
                    await self._flush()
                    await self._eval(scripts.JOIN, [self._node, -1])  # the others may bury us
        self._go_down()
        await self._close()

    async def _close(self) -> None:
        for redis in (self._redis, self._reader):
            await redis.aclose()

    @property
    def under_way(self) -> int:
        """Messages sent out that have no receipt yet."""
        return len(self._sent)

    # Clients --------------------------------------------------------------------------------------

    async def claim(self, key: str, peer_id: str, identity: str, link: str, limit: int) -> Claimed:
        """Ask for an id. When it was free or ours, `settle` must follow."""
        self._claiming.setdefault((key, peer_id), [])
        status, held = await self._claim(key, peer_id, identity, link, limit)
        if status != "open":
            self._forward(key, peer_id, self._claiming.pop((key, peer_id), []))
        return Claimed(status, held)

    async def _claim(
        self, key: str, peer_id: str, identity: str, link: str, limit: int
    ) -> tuple[str, list[Parcel]]:
        if not self.up:
            return "away", []
        arguments = [key, peer_id, self._node, link, _digest(identity), limit]
        try:
            status, *held = await self._call(scripts.CLAIM, arguments)
        except FAILURES:
            self.release(key, peer_id, link)  # it may have been carried out
            return "away", []
        return ("away" if status == b"lapsed" else status.decode()), _parcels(held)

    def settle(self, key: str, peer_id: str, held: list[Parcel]) -> None:
        """The client that claimed the id is in, or has gone already: what waited for it goes its way."""
        waiting = self._claiming.pop((key, peer_id), [])
        self._hand_out(key, peer_id, [*held, *waiting])

    def release(self, key: str, peer_id: str, link: str, identity: str = "") -> None:
        """A client has gone; nothing happens if the id has moved on.

        Args:
            identity: of a client that was let in, and may come back.
        """
        self._releases.append((key, peer_id, link))
        if identity and not self.up:
            self._left[key, peer_id] = identity
        self._wake.set()

    def let_back(self, key: str, peer_id: str, identity: str, link: str, *, here: bool) -> bool:
        """Redis is away: may this client come in all the same, since the id is still its own?

        So it is if the client is still `here`, with an older socket. If it has left since, the others know
        the id as ours for as long as our lease lasts.
        """
        if self.up:  # by now; it had better ask again
            return False
        left = self._left.get((key, peer_id)) == identity and self._loop.time() < self._lease_ends
        if not (here or left):
            return False
        self._returned.add(link)
        if (claim := (key, peer_id, link)) in self._releases:
            self._releases.remove(claim)  # it may have been carried out; it will be made again
        return True

    async def ids(self, key: str) -> list[str] | None:
        """The ids of all clients of a key, at every broker; None if that cannot be told now."""
        try:
            found: Any = await self._redis.hkeys(f"{scripts.PREFIX}clients:{key}")
        except FAILURES:
            return None
        return [peer_id.decode() for peer_id in found]

    # Messages -------------------------------------------------------------------------------------

    def route(self, key: str, src: str, dst: str, data: bytes, *, held: bool) -> bool:
        """Send to a client that is not here; False when that cannot be tried now.

        Args:
            held: whether the message may wait for its peer, and its sender is to know if it does not arrive.
        """
        if not self.up or len(self._sent) >= MAX_WAITING:
            return False
        ref = ""
        if held:
            self._number += 1
            ref = f"{self._node}:{self._number}"
            self._sent[self._number] = _Sent(key, src, dst, self._loop.time() + self._patience)
        self._routes.append((key, dst, src, ref, data.decode()))
        self._wake.set()
        return True

    def _forward(self, key: str, dst: str, parcels: list[Parcel]) -> None:
        """Pass on what was for a client of ours that is gone. Its own node waits for the receipt."""
        self._routes += [(key, dst, src, ref, data.decode()) for src, ref, data in parcels]
        self._wake.set()

    def _hand_out(self, key: str, dst: str, parcels: list[Parcel]) -> None:
        for parcel in parcels:
            if not self._local.deliver(key, dst, parcel.data):
                self._forward(key, dst, [parcel])
            elif parcel.ref:
                self._delivered.append(parcel.ref)
        self._wake.set()

    def _take(self, head: list[str], data: bytes) -> None:
        """What an inbox entry says."""
        match head:
            case ["m", key, dst, src, ref, _]:
                parcel = Parcel(src, ref, data)
                if (waiting := self._claiming.get((key, dst))) is not None:
                    waiting.append(parcel)
                else:
                    self._hand_out(key, dst, [parcel])
            case ["a"]:
                for number in data.split(b","):
                    self._sent.pop(int(number), None)
            case ["kick", key, peer_id, link]:
                self._local.evict(key, peer_id, link)
            case ["probe", key, peer_id, link]:
                self._local.probe(key, peer_id, link)

    def _give_up(self, sent: list[_Sent]) -> None:
        """Tell senders, each once, of what has had no receipt."""
        for key, src, dst in dict.fromkeys((one.key, one.src, one.dst) for one in sent):
            if not self._local.expire(key, src, dst) and self.up:
                self._routes.append((key, src, dst, "", seal("EXPIRE", src=dst, dst=src).decode()))
                self._wake.set()

    # Redis ----------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closing.is_set():  # a cancellation may turn up as an error of the connection
            try:
                if not self.up:
                    await self._join()
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._until_down(self._read))
                    tasks.create_task(self._until_down(self._write))
            except* FAILURES as failures:
                log.warning("Redis is away: %s", failures.exceptions[0])
            if self._closing.is_set():
                return
            self._go_down()
            self._look_for_lost()
            await asyncio.sleep(RETRY_DELAY)

    async def _until_down(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat `work`. A cancellation alone would not do: at times redis-py swallows it."""
        try:
            while self.up and not self._closing.is_set():
                await work()
        except FAILURES:
            self.up = False
            raise

    def _go_down(self) -> None:
        """Redis cannot be reached. What has been asked of it may have been done, or not."""
        self.up = False
        for _, _, answer in self._commands:
            if answer is not None and not answer.done():
                answer.set_exception(ConnectionError("Redis is away"))
        self._commands.clear()
        self._routes.clear()  # those that wait for them will be told

    async def _join(self) -> None:
        """Be a node of the realm: the same as before if the others still know it, or a new one.

        Raises:
            UsageError: it is a Redis Cluster.
        """
        await self._refuse_redis_cluster()
        if not self._node or not await self._tick():
            self._node, self._last = secrets.token_hex(8), "0-0"
            self._releases.clear()
            self._delivered.clear()
            self._give_up(list(self._sent.values()))
            self._sent.clear()
            await self._eval(scripts.JOIN, [self._node, round(self._lease * 1000)])
            self._returned = {link for _, _, link, _, _ in self._local.clients()}
        while returned := self._returned.copy():
            for client in self._local.clients():
                if client[2] in returned:
                    await self._claim_again(*client)
            self._returned -= returned  # more may have come meanwhile
        self._left.clear()
        self.up = True
        self._wake.set()
        log.info("one realm with the brokers at Redis, as node %s", self._node)

    async def _claim_again(self, key: str, peer_id: str, link: str, identity: str, limit: int) -> None:
        """Let Redis know of a client that was let in without it."""
        arguments = [key, peer_id, self._node, link, _digest(identity), limit]
        status, *held = await self._eval(scripts.CLAIM, arguments)
        if status == b"taken":
            self._local.dispossess(key, peer_id, link)
        self._hand_out(key, peer_id, _parcels(held))

    async def _read(self) -> None:
        """Take in what has come for this node, or nothing within BLOCK."""
        inbox = f"{scripts.PREFIX}inbox:{self._node}"
        answer: Any = await self._reader.xread({inbox: self._last}, count=MAX_READ, block=BLOCK)
        for _, entries in answer or ():
            for number, fields in entries:
                for head, value in fields.items():
                    self._take(head.decode().split("\t"), value)
                self._last = number.decode()
                self._unread = True
        self._wake.set()

    async def _write(self) -> None:
        """Send out what there is, once there is something; prolong the lease when that is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._tick_at):
                await self._wake.wait()
        self._wake.clear()
        if (now := self._loop.time()) >= self._tick_at:
            self._tick_at = now + TICK
            if not await self._tick():
                raise ConnectionError("the others took us for dead")
            self._look_for_lost()
        await self._flush()

    async def _tick(self) -> bool:
        """Prolong the lease; False if it has ended, and the others have taken us for dead."""
        ends = self._loop.time() + self._lease
        if not await self._eval(scripts.TICK, [self._node, round(self._lease * 1000)]):
            return False
        self._lease_ends = ends
        return True

    async def _refuse_redis_cluster(self) -> None:
        with suppress(ResponseError):  # it may forbid to ask
            found = await self._redis.info("cluster")
            if found.get("cluster_enabled"):
                raise UsageError(
                    "a Redis Cluster cannot hold a realm, as its parts share no keys",
                    hint="give the URL of a single Redis; Sentinel may stand behind it",
                )

    def _look_for_lost(self) -> None:
        now = self._loop.time()
        lost = []
        while self._sent:
            number = next(iter(self._sent))
            if self._sent[number].due > now:
                break
            lost.append(self._sent.pop(number))
        self._give_up(lost)

    async def _flush(self) -> None:
        """Send what has gathered: one round trip, in order; releases first."""
        releases, self._releases = self._releases, []
        commands: list[tuple[str, list[Any], asyncio.Future[Any] | None]] = [
            (scripts.RELEASE, [key, peer_id, self._node, link], None) for key, peer_id, link in releases
        ]
        self._close_batch()
        commands += self._commands
        self._commands = []
        if self._unread or self._delivered:
            commands.append((scripts.DONE, [self._node, self._last, *self._delivered], None))
            self._unread, self._delivered = False, []
        if not commands:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for script, arguments, _ in commands:
            pipeline.eval(script, 0, *arguments)
        try:
            answers = await pipeline.execute()
        except BaseException:
            self._releases = releases + self._releases
            for _, _, answer in commands:
                if answer is not None and not answer.done():
                    answer.set_exception(ConnectionError("Redis is away"))
            raise
        for (_, _, answer), value in zip(commands, answers, strict=True):
            if answer is not None and not answer.done():
                answer.set_result(value)

    def _close_batch(self) -> None:
        """Make commands of the messages that have gathered."""
        routes, self._routes = self._routes, []
        for at in range(0, len(routes), MAX_BATCH):
            # One argument, since redis-py takes long for each.
            batch = msgspec.msgpack.encode(routes[at : at + MAX_BATCH])
            self._commands.append((scripts.ROUTE, [*self._limits, batch], None))

    async def _call(self, script: str, arguments: list[Any]) -> Any:
        """The script's answer, after all that was asked before."""
        self._close_batch()
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._commands.append((script, arguments, answer))
        self._wake.set()
        return await answer

    async def _eval(self, script: str, arguments: list[Any]) -> Any:
        return await self._redis.eval(script, 0, *arguments)


def _parcels(held: list[bytes]) -> list[Parcel]:
    """What a claim found waiting in Redis."""
    entries = (entry.split(b"\t", 2) for entry in held)
    return [Parcel(src.decode(), ref.decode(), data) for src, ref, data in entries]


def _digest(identity: str) -> str:
    """What stands for a client's token in Redis, where others may read it."""
    return hashlib.sha256(identity.encode(errors="surrogatepass")).hexdigest()
