"""The realm: single cases, and a state machine that compares it with a plain model of the same rules."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peercli.server.realm import (
    HELD_OVERHEAD,
    MAX_ID_LENGTH,
    MAX_TOKEN_LENGTH,
    Effects,
    Elsewhere,
    Realm,
    Send,
)

EXPIRE = 5.0
ALIVE = 60.0


def make(**changes: Any) -> Realm[int]:
    options: dict[str, Any] = {
        "expire_timeout": EXPIRE,
        "alive_timeout": ALIVE,
        "concurrent_limit": 100,
        "max_held": 1 << 20,
        "max_held_per_peer": 1 << 16,
    }
    return Realm(**options | changes)


def plain(effects: Effects[int]) -> list[tuple[int, Any]]:
    """Effects as (link, message) and (link, close code)."""
    assert not any(isinstance(effect, Elsewhere) for effect in effects)
    return [
        (e.link, json.loads(e.data)) if isinstance(e, Send) else (e.link, e.code)
        for e in effects
        if not isinstance(e, Elsewhere)
    ]


def message(type: str, dst: str | None = None, payload: Any = None) -> bytes:
    fields = {"type": type, "dst": dst, "payload": payload}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def error(kind: str, msg: str) -> dict[str, Any]:
    return {"type": kind, "payload": {"msg": msg}}


OPEN = {"type": "OPEN"}


def test_takes_over_with_the_token() -> None:
    realm = make()
    assert plain(realm.attach(1, "a", "t", 0.0)) == [(1, OPEN)]
    assert realm.contested("a", "t") is None
    assert realm.contested("a", "u") == 1
    assert plain(realm.attach(2, "a", "u", 1.0)) == [(2, error("ID-TAKEN", "ID is taken")), (2, 1008)]
    assert plain(realm.attach(3, "a", "t", 50.0)) == [(1, 1000), (3, OPEN)]
    realm.detach(1)  # the late end of the socket that was replaced
    assert realm.receive(1, message("OFFER", "a"), 51.0) == []
    assert realm.ids == ["a"]
    assert realm.expire(50.0 + ALIVE - 0.1) == []
    assert plain(realm.expire(50.0 + ALIVE)) == [(3, 1000)]
    assert realm.ids == []


def test_only_heartbeats_prolong_life() -> None:
    realm = make()
    for link, id in enumerate("abc"):
        realm.attach(link, id, "t", 0.0)
    realm.receive(0, message("HEARTBEAT"), 30.0)
    realm.receive(1, message("OFFER", "a"), 30.0)
    assert plain(realm.expire(ALIVE)) == [(1, 1000), (2, 1000)]
    assert plain(realm.expire(30.0 + ALIVE)) == [(0, 1000)]


def test_limit_counts_clients_and_lets_them_come_back() -> None:
    realm = make(concurrent_limit=1)
    realm.attach(1, "a", "t", 0.0)
    full = error("ERROR", "Server has reached its concurrent user limit")
    assert plain(realm.attach(2, "b", "t", 0.0)) == [(2, full), (2, 1008)]
    assert plain(realm.attach(3, "a", "t", 0.0)) == [(1, 1000), (3, OPEN)]


def test_refuses_ids_and_tokens() -> None:
    realm = make()
    for id in ("", "-", "a-", " a", "a.b", "a\n", "ü", "a" * (MAX_ID_LENGTH + 1)):
        assert plain(realm.attach(1, id, "t", 0.0)) == [(1, error("ERROR", "Invalid id provided")), (1, 1008)]
    for token in ("", "t" * (MAX_TOKEN_LENGTH + 1)):
        refused = error("ERROR", "Invalid token provided")
        assert plain(realm.attach(1, "a", token, 0.0)) == [(1, refused), (1, 1008)]
    assert realm.ids == []
    assert plain(realm.attach(1, "a", "\udcff", 0.0)) == [(1, OPEN)]
    assert realm.contested("a", "\udcfe") == 1


def test_each_sender_has_the_whole_time() -> None:
    realm = make()
    realm.attach(1, "a", "t", 0.0)
    realm.attach(2, "b", "t", 0.0)
    realm.receive(1, message("OFFER", "x"), 0.0)
    realm.receive(2, message("OFFER", "x"), 4.0)
    realm.receive(1, message("CANDIDATE", "x"), 4.5)
    assert plain(realm.expire(5.0)) == [(1, {"type": "EXPIRE", "src": "x", "dst": "a"})]
    assert plain(realm.attach(3, "x", "t", 8.0)) == [
        (3, OPEN),
        (3, {"type": "OFFER", "src": "b", "dst": "x"}),
    ]
    assert realm.expire(60.0 - 1) == []
    assert realm.held == 0


def test_held_messages_keep_their_order_across_senders() -> None:
    realm = make()
    realm.attach(1, "a", "t", 0.0)
    realm.attach(2, "b", "t", 0.0)
    for n, link in enumerate((1, 2, 2, 1, 2)):
        realm.receive(link, message("CANDIDATE", "x", n), 0.0)
    effects = plain(realm.attach(3, "x", "t", 1.0))[1:]
    assert [(held["src"], held["payload"]) for _, held in effects] == [
        ("a", 0),
        ("b", 1),
        ("b", 2),
        ("a", 3),
        ("b", 4),
    ]


def test_expiry_reaches_a_sender_that_has_come_back() -> None:
    realm = make()
    realm.attach(1, "a", "t", 0.0)
    realm.receive(1, message("OFFER", "x"), 0.0)
    realm.attach(2, "a", "t", 1.0)
    assert plain(realm.expire(5.0)) == [(2, {"type": "EXPIRE", "src": "x", "dst": "a"})]
    realm.receive(2, message("OFFER", "x"), 6.0)
    realm.detach(2)
    assert realm.expire(20.0) == []
    assert realm.held == 0


def test_a_full_mailbox_expires_its_sender_at_once() -> None:
    size = len('{"type":"OFFER","src":"a","dst":"x"}') + HELD_OVERHEAD
    gone = {"type": "EXPIRE", "src": "x", "dst": "a"}
    for limits in ({"max_held_per_peer": 3 * size}, {"max_held": 3 * size}):
        realm = make(**limits)
        realm.attach(1, "a", "t", 0.0)
        realm.attach(2, "b", "t", 0.0)
        assert realm.receive(2, message("OFFER", "x"), 0.0) == []
        assert realm.receive(1, message("OFFER", "x"), 0.0) == []
        assert realm.receive(1, message("OFFER", "x"), 0.0) == []
        assert plain(realm.receive(1, message("OFFER", "x"), 0.0)) == [(1, gone)]
        assert realm.held == size
        assert plain(realm.attach(3, "x", "t", 1.0))[1:] == [(3, {"type": "OFFER", "src": "b", "dst": "x"})]


def test_a_message_too_big_to_hold() -> None:
    realm = make(max_held_per_peer=1000)
    realm.attach(1, "a", "t", 0.0)
    big = message("OFFER", "x", "p" * 1000)
    assert plain(realm.receive(1, big, 0.0)) == [(1, {"type": "EXPIRE", "src": "x", "dst": "a"})]
    assert realm.held == 0


IDS = st.sampled_from(["a", "b", "c", "d"])
TOKENS = st.sampled_from(["t", "u"])
STEPS = st.sampled_from([0.0, 0.5, 1.0, 2.5, 5.0, 20.0, 60.0])
HELD = ["OFFER", "ANSWER", "CANDIDATE"]
TYPES = st.sampled_from([*HELD, *HELD, "LEAVE", "EXPIRE", "HEARTBEAT", "OPEN", "NONSENSE"])


def weigh(message: dict[str, Any]) -> int:
    return len(json.dumps(message, separators=(",", ":"))) + HELD_OVERHEAD


@dataclass
class ModelClient:
    token: str
    link: int
    heartbeat: float


@dataclass
class ModelPair:
    since: float
    messages: list[dict[str, Any]] = field(default_factory=list)


class RealmMachine(RuleBasedStateMachine):
    """Clients come, talk, go and fall silent, at any time; the model foretells every effect."""

    LIMIT = 3
    MAX_HELD = 5 * HELD_OVERHEAD
    MAX_HELD_PER_PEER = 4 * HELD_OVERHEAD

    def __init__(self) -> None:
        super().__init__()
        self.realm = make(
            concurrent_limit=self.LIMIT, max_held=self.MAX_HELD, max_held_per_peer=self.MAX_HELD_PER_PEER
        )
        self.now = 0.0
        self.links = 0
        self.serial = 0
        self.clients: dict[str, ModelClient] = {}
        self.pairs: dict[tuple[str, str], ModelPair] = {}  # (src, dst)

    def link_of(self, id: str) -> int:
        return self.clients[id].link

    def weight(self, dst: str | None = None) -> int:
        """What is held for one peer, or for all."""
        held = [m for pair in self.pairs.values() for m in pair.messages if dst in (None, m["dst"])]
        return sum(map(weigh, held))

    @rule(step=STEPS)
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule(id=IDS, token=TOKENS)
    def attach(self, id: str, token: str) -> None:
        self.links += 1
        link = self.links
        holder = self.clients.get(id)
        effects = plain(self.realm.attach(link, id, token, self.now))
        if holder and holder.token != token:
            assert effects == [(link, error("ID-TAKEN", "ID is taken")), (link, 1008)]
            return
        if not holder and len(self.clients) >= self.LIMIT:
            msg = "Server has reached its concurrent user limit"
            assert effects == [(link, error("ERROR", msg)), (link, 1008)]
            return
        waiting = [m for (_, dst), pair in self.pairs.items() if dst == id for m in pair.messages]
        self.pairs = {key: pair for key, pair in self.pairs.items() if key[1] != id}
        expected: list[tuple[int, Any]] = [(holder.link, 1000)] if holder else []
        expected.append((link, OPEN))
        expected += [(link, m) for m in sorted(waiting, key=lambda m: int(m["payload"]))]
        assert effects == expected
        self.clients[id] = ModelClient(token, link, self.now)

    @precondition(lambda self: self.links > 0)
    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        link = data.draw(st.integers(1, self.links))
        self.realm.detach(link)
        self.clients = {id: client for id, client in self.clients.items() if client.link != link}

    @precondition(lambda self: self.links > 0)
    @rule(data=st.data(), type=TYPES, dst=IDS | st.none(), times=st.sampled_from([1, 3]))
    def receive(self, data: st.DataObject, type: str, dst: str | None, times: int) -> None:
        living = sorted(client.link for client in self.clients.values())
        link = data.draw(st.sampled_from([*living, *living, data.draw(st.integers(1, self.links))]))
        for _ in range(times):
            self.receive_one(link, type, dst)

    def receive_one(self, link: int, type: str, dst: str | None) -> None:
        self.serial += 1
        effects = plain(self.realm.receive(link, message(type, dst, self.serial), self.now))
        src = next((id for id, client in self.clients.items() if client.link == link), None)
        relayed = {"type": type, "src": src, "dst": dst, "payload": self.serial}
        if src is None or type in ("OPEN", "NONSENSE"):
            assert effects == []
        elif type == "HEARTBEAT":
            self.clients[src].heartbeat = self.now
            assert effects == []
        elif dst is None:
            assert effects == ([(link, 1000)] if type == "LEAVE" else [])
            if type == "LEAVE":
                del self.clients[src]
        elif dst in self.clients:
            assert effects == [(self.link_of(dst), relayed)]
        elif type not in HELD:
            assert effects == []
        elif (
            self.weight(dst) + weigh(relayed) > self.MAX_HELD_PER_PEER
            or self.weight() + weigh(relayed) > self.MAX_HELD
        ):
            self.pairs.pop((src, dst), None)
            assert effects == [(link, {"type": "EXPIRE", "src": dst, "dst": src})]
        else:
            self.pairs.setdefault((src, dst), ModelPair(self.now)).messages.append(relayed)
            assert effects == []

    @rule()
    def expire(self) -> None:
        expected: dict[int, list[Any]] = defaultdict(list)
        for (src, dst), pair in list(self.pairs.items()):
            if pair.since + EXPIRE <= self.now:
                del self.pairs[src, dst]
                if src in self.clients:
                    expected[self.link_of(src)].append({"type": "EXPIRE", "src": dst, "dst": src})
        for id, client in list(self.clients.items()):
            if client.heartbeat + ALIVE <= self.now:
                del self.clients[id]
                expected[client.link].append(1000)
        found: dict[int, list[Any]] = defaultdict(list)
        for link, effect in plain(self.realm.expire(self.now)):
            found[link].append(effect)
        for effects in (*found.values(), *expected.values()):
            effects.sort(key=str)
        assert found == expected
        assert self.realm.expire(self.now) == []

    @invariant()
    def knows_its_clients_and_weighs_what_it_holds(self) -> None:
        assert sorted(self.realm.ids) == sorted(self.clients)
        for id, client in self.clients.items():
            assert self.realm.contested(id, client.token) is None
            assert self.realm.contested(id, client.token + "x") == client.link
        assert self.realm.held == self.weight()
        assert self.realm.awaited == len({dst for _, dst in self.pairs})


TestRealmMachine = RealmMachine.TestCase
TestRealmMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
