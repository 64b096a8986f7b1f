"""The resume protocol, pure: whatever is lost with a connection, every message comes once, in order."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.errors import ProtocolError
from peercli.protocol.resume import (
    WINDOW,
    Ack,
    Ask,
    Begin,
    Challenge,
    Control,
    End,
    Proof,
    Resume,
    Session,
    decode,
    encode,
    is_control,
    is_proof,
    prove,
    weight,
)

counts = st.integers(0, 2**53)
controls = st.one_of(
    st.builds(Ack, counts),
    st.builds(Ask, counts),
    st.builds(Begin, st.text(max_size=40)),
    st.builds(Challenge, st.text(max_size=40)),
    st.builds(Proof, st.text(max_size=64)),
    st.builds(Resume, counts),
    st.just(End()),
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children) | st.dictionaries(st.text(max_size=10), children),
    max_leaves=10,
)


@given(controls)
def test_controls_are_read_back(control: Control) -> None:
    text = encode(control)
    assert is_control(text)
    assert decode(text) == control


@given(
    st.text(max_size=60)
    | JSON.map(json.dumps)
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["ack", "ask", "begin", "challenge", "proof", "resume", "end", "x"])},
        optional={"messages": JSON, "secret": JSON, "nonce": JSON, "proof": JSON},
    ).map(json.dumps)
)
def test_garbage_is_refused(text: str) -> None:
    """Nothing but the documented error comes out, whatever goes in."""
    try:
        control = decode("\x10" + text)
    except ProtocolError:
        return
    assert control is None or decode(encode(control)) == control


@pytest.mark.parametrize("message", ["", "text", b"\x10{}", "\x10\x10{}", None, {"\x10": 1}, 16])
def test_what_is_no_control(message: object) -> None:
    assert not is_control(message)


values = st.binary(max_size=5) | st.text("\x10ab", max_size=4) | st.integers() | st.none()


@given(st.lists(values), st.lists(values), st.data())
def test_every_message_comes_once(here: list[Any], there: list[Any], data: st.DataObject) -> None:
    """Connections carry some, are lost with what is on its way, and are resumed; readers dawdle."""
    alice, bob = Session("secret"), Session()
    unsent = {id(alice): list(here), id(bob): list(there)}
    heard: dict[int, list[Any]] = {id(alice): [], id(bob): []}
    flying: dict[int, list[Any]] = {id(alice): [], id(bob): []}  # towards it
    lives = data.draw(st.integers(0, 4), "losses")
    while heard != {id(alice): there, id(bob): here}:
        step = data.draw(st.sampled_from(["push", "carry", "arrive", "read", "lose"])) if lives else "all"
        for one, other in ((alice, bob), (bob, alice)):
            if step in ("push", "all") and unsent[id(one)]:
                one.push(unsent[id(one)].pop(0))
            if step in ("carry", "all") and one.ready:
                flying[id(other)].append(one.next())
            if step in ("arrive", "all") and flying[id(one)]:
                one.arrive(flying[id(one)].pop(0))
            if step in ("read", "all") and one.unread:
                heard[id(one)].append(one.read())
        if step == "lose" and bob.secret:
            lives -= 1
            flying = {id(alice): [], id(bob): []}
            alice_has, bob_has = alice.arrived, bob.arrived
            alice.resume(bob_has)
            bob.resume(alice_has)
        elif step == "lose":
            lives -= 1
    for one in (alice, bob):
        one.ask()
    for _ in range(4 * (len(here) + len(there)) + 20):
        for one, other in ((alice, bob), (bob, alice)):
            while one.ready:
                flying[id(other)].append(one.next())
            while flying[id(one)]:
                one.arrive(flying[id(one)].pop(0))
    assert (alice.acknowledged, bob.acknowledged) == (len(here), len(there))


def test_the_window() -> None:
    """What is not acknowledged is kept, up to a limit; acknowledgements come by themselves, in good time."""
    alice, bob = Session("secret"), Session()
    pieces = 0
    while alice.room:
        alice.push(bytes(1 << 20))
        pieces += 1
    assert pieces == WINDOW >> 20
    while alice.ready:
        bob.arrive(alice.next())
    assert bob.arrived == pieces
    assert not alice.room
    bob.read()
    alice.arrive(bob.next())
    assert alice.room


def test_who_breaks_the_window_is_refused() -> None:
    bob = Session()
    while bob.arrived < 2 * WINDOW >> 20:
        bob.arrive(bytes(1 << 20))
    with pytest.raises(ProtocolError, match="window"):
        bob.arrive(bytes(1 << 20))


def test_false_numbers_are_refused() -> None:
    alice = Session("secret")
    for _ in range(5):
        alice.push("x")
    for _ in range(3):
        alice.next()  # the secret, and two messages
    for count in (3, 6):
        with pytest.raises(ProtocolError):
            alice.arrive(encode(Ack(count)))
        with pytest.raises(ProtocolError):
            alice.resume(count)
    alice.arrive(encode(Ack(2)))
    with pytest.raises(ProtocolError):
        alice.arrive(encode(Ack(1)))
    with pytest.raises(ProtocolError):
        alice.resume(1)
    for control in (Challenge("x"), Proof("x"), Resume(0), Begin("another")):
        with pytest.raises(ProtocolError, match="in mid-conversation"):
            alice.arrive(encode(control))


def test_a_later_version_may_say_more() -> None:
    alice = Session("secret")
    alice.arrive('\x10{"type": "later", "x": 1}')
    alice.arrive('\x10{"type": "ack", "messages": 0, "more": []}')
    assert not alice.unread


def test_proofs() -> None:
    """A proof holds for one side, one secret, these nonces and this connection."""
    nonces, fingerprints = ("n", "m"), ("f", "g")
    proof = prove("secret", dialled=True, nonces=nonces, fingerprints=fingerprints)
    assert is_proof(proof, prove("secret", dialled=True, nonces=nonces, fingerprints=fingerprints))
    for other in (
        prove("secret", dialled=False, nonces=nonces, fingerprints=fingerprints),
        prove("Secret", dialled=True, nonces=nonces, fingerprints=fingerprints),
        prove("secret", dialled=True, nonces=("m", "n"), fingerprints=fingerprints),
        prove("secret", dialled=True, nonces=nonces, fingerprints=("f", "h")),
        Proof("\ud800"),
    ):
        assert not is_proof(other, proof)


def test_weights() -> None:
    """Content counts, whatever it is in."""
    assert weight(b"x" * 1000) == weight("x" * 1000) == 1064
    assert weight(["x" * 1000]) == 1128
    assert weight({"key": b"x" * 1000}) > 1000
    assert weight(None) == weight(1.5) == 64


def test_what_will_not_be_sent_is_freed_and_what_came_can_be_read() -> None:
    session = Session("secret")
    session.push(b"never acknowledged")
    while session.ready:
        session.next()
    session.push(b"never sent")
    session.arrive("from the far side")
    session.discard()
    assert not session.ready
    assert session.room
    assert session.read() == "from the far side"
