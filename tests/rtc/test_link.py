"""Links: negotiation in every order, every kind of garbage, failure in time, an end that leaves nothing."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import psutil
import pytest
from aioice import Connection

from peercli.errors import (
    ConnectionClosed,
    ConnectionLost,
    NegotiationFailed,
    PeerError,
    ProtocolError,
)
from peercli.options import IceOptions, parse_ice_server
from peercli.rtc import ice, link
from peercli.rtc.datapath import SctpTransport
from peercli.rtc.link import Link
from peercli.rtc.media import Media
from tests.rtc.ice_servers import coturn, fake_stun, mapped, silence
from tests.rtc.links import End, both, connected, ends, join, without_candidates

OUTSIDE = ("198.51.100.7", 4000)
NOWHERE = "candidate:1 1 udp 2130706431 192.0.2.{} {} typ host"

GARBAGE_CANDIDATES = [
    "",
    "candidate:",
    "candidate:x",
    "candidate:1 1 udp x 127.0.0.1 5000 typ host",
    "candidate:1 1 udp 1 127.0.0.1 5000 typ",
    "candidate:1 1 udp 1 127.0.0.1 5000 typ fantasy",
    "candidate:1 1 udp 1 127.0.0.1 70000 typ host",
    "candidate:1 1 udp 1 127.0.0.1 -1 typ host",
    "candidate:1 1 udp -1 127.0.0.1 5000 typ host",
    "candidate:1 1 udp 1 example.org 5000 typ host",
    "candidate:1 1 udp 1 \ud800 5000 typ host",
    "candidate:1 1 tcp 1 127.0.0.1 9 typ host tcptype active",
    "candidate:1 2 udp 1 127.0.0.1 5000 typ host",
    "candidate:1 1 udp 1 0.0.0.0 0 typ host",
    "candidate:1 1 udp 1 255.255.255.255 9 typ host",
    "candidate:1 1 udp 1 224.0.0.1 9 typ host",
    "candidate:1 1 udp 99999999999999999999 127.0.0.1 5000 typ host",
    "candidate:1 1 udp 1 ::1%lo 5000 typ host",
    "candidate:" + "1 " * 500,
    "a=candidate:1 1 udp 1 127.0.0.1 5000 typ host",
    "\x00",
]


async def says(one: End, other: End) -> None:
    """Both ends can be heard at the other."""
    here, there = await both(one, other)
    await here.send("to the other")
    await there.send(b"to the one")
    assert await there.receive() == "to the other"
    assert await here.receive() == b"to the one"


# Negotiation ----------------------------------------------------------------------------------


async def test_offer_answer_and_a_channel() -> None:
    async with ends() as (one, other):
        here, there = await join(one, other, label="a läbel", ordered=False)
        assert (there.label, there.ordered) == (here.label, here.ordered) == ("a läbel", False)
        await says(one, other)
        route, back = one.link.route, other.link.route
        assert route is not None
        assert back is not None
        assert (route.local, route.remote) == (back.remote, back.local)
        assert not route.relayed


async def test_the_offer_waits_for_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ice, "SERVER_TIMEOUT", 3600.0)
    async with fake_stun(silence) as silent, ends([silent.server]) as (one, other):
        await join(one, other)
        await says(one, other)


async def test_what_a_server_tells_is_trickled() -> None:
    async with fake_stun(mapped(OUTSIDE)) as good, ends([good.server]) as (one, _):
        offer = await one.link.offer("label", ordered=True)
        assert "srflx" not in offer
        candidate = await one.trickled.get()
        assert " 198.51.100.7 4000 typ srflx" in candidate.candidate
        assert candidate.candidate.startswith("candidate:")
        assert (f"a=mid:{candidate.sdp_mid}" in offer, candidate.sdp_mline_index) == (True, 0)
        assert f"a=ice-ufrag:{candidate.username_fragment}" in offer


@pytest.mark.parametrize("early", [True, False])
async def test_candidates_before_and_after_the_description(early: bool) -> None:
    async with ends() as (one, other):
        offer, ours = without_candidates(await one.link.offer("label", ordered=True))
        if early:
            for candidate in ours:
                other.link.add_candidate(candidate)
        answer, theirs = without_candidates(await other.link.answer(offer))
        if early:
            for candidate in theirs:
                one.link.add_candidate(candidate)
        one.link.accept(answer)
        if not early:
            await asyncio.sleep(0.1)
            for candidate in ours:
                other.link.add_candidate(candidate)
            for candidate in theirs:
                one.link.add_candidate(candidate)
        await says(one, other)


@pytest.mark.parametrize("claimed", [False, True])
async def test_no_description_ends_the_candidates(claimed: bool) -> None:
    """More may always follow, even where the far side, aiortc say, claims that none do."""
    claim = "a=end-of-candidates\r\n" if claimed else ""
    async with ends() as (one, other):
        whole = await one.link.offer("label", ordered=True)
        offer, ours = without_candidates(whole)
        answer = await other.link.answer(offer + claim)
        assert "end-of-candidates" not in whole + answer
        one.link.accept(without_candidates(answer)[0] + claim)
        for candidate in ours:
            other.link.add_candidate(candidate)
        await says(one, other)


async def test_many_early_candidates_leave_room_for_the_good_one() -> None:
    async with ends() as (one, other):
        offer, ours = without_candidates(await one.link.offer("label", ordered=True))
        for number in range(80):
            other.link.add_candidate(NOWHERE.format(99, 1000 + number))
        for candidate in ours:
            other.link.add_candidate(candidate)
        answer, _ = without_candidates(await other.link.answer(offer))
        one.link.accept(answer)
        await says(one, other)


async def test_one_sided_candidates_are_enough() -> None:
    """A browser behind a firewall that hides its addresses is found by its checks."""
    async with ends() as (one, other):
        offer, _ = without_candidates(await one.link.offer("label", ordered=True))
        one.link.accept(await other.link.answer(offer))
        await says(one, other)


async def test_a_second_answer_is_passed_over() -> None:
    async with ends() as (one, other):
        offer = await one.link.offer("label", ordered=True)
        answer = await other.link.answer(offer)
        one.link.accept(answer)
        one.link.accept(answer)
        one.link.accept("garbage")
        await says(one, other)
        one.link.accept(answer)
        one.link.accept(offer)
        await says(one, other)


async def test_garbage_candidates_are_passed_over() -> None:
    async with ends() as (one, other):
        for candidate in GARBAGE_CANDIDATES:
            other.link.add_candidate(candidate)
        offer = await one.link.offer("label", ordered=True)
        for candidate in GARBAGE_CANDIDATES:
            one.link.add_candidate(candidate)
        one.link.accept(await other.link.answer(offer))
        for candidate in GARBAGE_CANDIDATES:
            one.link.add_candidate(candidate)
        await says(one, other)
    for candidate in GARBAGE_CANDIDATES:
        one.link.add_candidate(candidate)


async def garbage_of(kind: Literal["offer", "answer"]) -> list[str]:
    """Descriptions that are none, and good ones with something missing, doubled or wrong."""
    async with ends() as (one, other):
        sdp = await one.link.offer("label", ordered=True)
        if kind == "answer":
            sdp = await other.link.answer(sdp)
    lines = sdp.splitlines(keepends=True)
    chance = random.Random(kind)
    broken = [
        "",
        "garbage",
        "v=0\r\n",
        "\x00" * 100,
        "\ud800",
        "v=0\r\nm=\r\n",
        "a=" * 10_000,
        sdp[: len(sdp) // 2],
    ]
    for prefix in (
        "m=",
        "a=ice-ufrag",
        "a=ice-pwd",
        "a=fingerprint",
        "a=setup",
        "a=mid",
        "a=group",
        "a=sctp-port",
    ):
        broken.append("".join(line for line in lines if not line.startswith(prefix)))
        broken.append("".join(prefix + ":\r\n" if line.startswith(prefix) else line for line in lines))
    broken += [
        sdp.replace("m=application", "m=audio"),
        sdp.replace("UDP/DTLS/SCTP", "RTP/SAVPF"),
        sdp.replace("sha-256", "sha-1"),
        sdp.replace("a=sctp-port:5000", "a=sctp-port:-1"),
        sdp.replace("a=max-message-size:", "a=max-message-size:x"),
        sdp + sdp,
    ]
    for _ in range(10):
        mixed = lines.copy()
        for _ in range(3):
            mixed[chance.randrange(len(mixed))] = chance.choice(
                [chance.choice(lines), "a=x:y\r\n", "\r\n", "zz\r\n"]
            )
        broken.append("".join(mixed))
    return broken


async def test_a_garbage_offer_is_a_protocol_error_or_an_answer() -> None:
    refused = 0
    for sdp in await garbage_of("offer"):
        async with ends() as (_, other):
            try:
                await other.link.answer(sdp)
            except ProtocolError:
                refused += 1
    assert refused > 10


async def test_a_garbage_answer_ends_the_link_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CANDIDATE_TIMEOUT", 0.05)
    kinds: set[type[PeerError]] = set()
    for sdp in await garbage_of("answer"):
        async with ends() as (one, _):
            await one.link.offer("label", ordered=True)
            one.link.accept(sdp)
            kinds.add(type(await one.link.ended()))
            with pytest.raises(PeerError):
                await one.link.channel()
    assert kinds == {ProtocolError, NegotiationFailed}


A_CALL = [
    "m=audio 9 UDP/TLS/RTP/SAVPF 0",
    "c=IN IP4 0.0.0.0",
    "a=mid:1",
    "a=rtpmap:0 PCMU/8000",
    "a=sendrecv",
    "a=rtcp-mux",
    "a=ice-ufrag:abcd",
    "a=ice-pwd:abcdefghijklmnopqrstuvwx",
    "a=setup:actpass",
    "a=fingerprint:sha-256 " + ":".join(["00"] * 32),
    "",
]


async def test_an_offer_without_a_data_channel_is_refused() -> None:
    sdp = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n" + "\r\n".join(A_CALL)
    async with ends() as (_, other):
        with pytest.raises(ProtocolError):
            await other.link.answer(sdp)


@pytest.mark.parametrize("line_end", ["\r\n", "\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028"])
async def test_an_offer_with_more_than_a_data_channel_is_refused(line_end: str) -> None:
    """Nobody asked for a call, so nothing of one is to be decoded; aiortc knows many line ends."""
    async with ends() as (one, other):
        sdp = await one.link.offer("label", ordered=True)
        sdp = sdp.replace("a=group:BUNDLE 0", "a=group:BUNDLE 0 1")
        with pytest.raises(ProtocolError):
            await other.link.answer(sdp + line_end + line_end.join(A_CALL))


@pytest.mark.parametrize(
    "edit",
    [
        lambda sdp: sdp.replace("a=group:BUNDLE 0", "a=group:BUNDLE nobody 0"),
        lambda sdp: re.sub("a=(sendrecv|recvonly)\r\n", "", sdp),
        lambda sdp: sdp.replace("a=mid:1", "a=mid:0"),
        lambda sdp: sdp + sdp[sdp.index("m=application") :].replace("a=mid:2", "a=mid:3"),
    ],
    ids=["a bundle of nobody's", "no directions", "a name for two", "two for data"],
)
async def test_an_offer_of_a_call_that_would_mislead_aiortc(edit: Callable[[str], str]) -> None:
    """It would begin with these, and fail later with whatever it is: when it answers, or when it closes."""
    page, ours = (Link(IceOptions(), media=Media(), on_candidate=lambda candidate: None) for _ in range(2))
    sdp = await page.offer("label", ordered=True)
    assert edit(sdp) != sdp
    with pytest.raises(ProtocolError):
        await ours.answer(edit(sdp))
    await ours.close()
    await page.close()


async def test_an_offer_with_two_data_sections_is_refused() -> None:
    async with ends() as (one, other):
        sdp = await one.link.offer("label", ordered=True)
        with pytest.raises(ProtocolError):
            await other.link.answer(sdp + sdp[sdp.index("m=") :].replace("a=mid:0", "a=mid:1"))


# Failure, in time -----------------------------------------------------------------------------


async def test_without_candidates_there_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CANDIDATE_TIMEOUT", 0.3)
    async with ends() as (one, other):
        offer, _ = without_candidates(await one.link.offer("label", ordered=True))
        answer, _ = without_candidates(await other.link.answer(offer))
        one.link.accept(answer)
        for end in (one, other):
            with pytest.raises(NegotiationFailed) as caught:
                await end.link.channel()
            assert await end.link.ended() is caught.value
            assert "none" in str(caught.value)
            assert "TURN" in caught.value.hint
        assert one.link.route is None


async def test_news_of_the_far_side_is_waited_for_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A far side that trickles addresses of nobody, for as long as it likes, holds nobody up."""
    monkeypatch.setattr(link, "NEGOTIATION_TIMEOUT", 0.5)
    async with ends() as (one, other):
        offer, _ = without_candidates(await one.link.offer("label", ordered=True))
        await other.link.answer(offer)
        ended = asyncio.create_task(other.link.ended())
        number = 1000
        while not ended.done():
            other.link.add_candidate(NOWHERE.format(99, number := number + 1))
            await asyncio.sleep(0.02)
        assert isinstance(await ended, NegotiationFailed)


async def test_a_wrong_fingerprint_is_no_peer() -> None:
    async with ends() as (one, other), ends() as (third, _):
        offer = await one.link.offer("label", ordered=True)
        stranger = await third.link.offer("label", ordered=True)

        def fingerprints(sdp: str) -> list[str]:
            return [line for line in sdp.splitlines() if line.startswith("a=fingerprint")]

        for ours, theirs in zip(fingerprints(offer), fingerprints(stranger), strict=True):
            offer = offer.replace(ours, theirs)
        one.link.accept(await other.link.answer(offer))
        assert isinstance(await other.link.ended(), NegotiationFailed)


async def test_a_path_without_an_encrypted_session_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "CANDIDATE_TIMEOUT", 5.0)  # a path is found in much less

    async def swallow(self: Connection, data: bytes) -> None:
        """STUN passes, and nothing else."""

    monkeypatch.setattr(Connection, "send", swallow)
    async with ends() as (one, other):
        one.link.accept(await other.link.answer(await one.link.offer("label", ordered=True)))
        error = await one.link.ended()
        assert isinstance(error, NegotiationFailed)
        assert "encrypted" in error.message


async def test_a_path_without_a_channel_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """ICE and DTLS work, and then the far side says nothing more: neither end may hang."""
    monkeypatch.setattr(link, "CHANNEL_TIMEOUT", 0.3)

    async def never(*_: object) -> None:
        pass

    monkeypatch.setattr(SctpTransport, "start", never)
    async with ends() as (one, other):
        offer = await one.link.offer("label", ordered=True)
        one.link.accept(await other.link.answer(offer))
        for end in (one, other):
            assert isinstance(await end.link.ended(), NegotiationFailed)
            with pytest.raises(NegotiationFailed):
                await end.link.channel()


# Relays ---------------------------------------------------------------------------------------


async def test_relay_without_turn_fails_with_a_hint() -> None:
    async with fake_stun(mapped(OUTSIDE)) as good, ends([good.server], relay=True) as (one, other):
        with pytest.raises(NegotiationFailed) as caught:
            await one.link.offer("label", ordered=True)
        assert "turn:" in caught.value.hint
        async with ends() as (third, _):
            with pytest.raises(NegotiationFailed):
                await other.link.answer(await third.link.offer("label", ordered=True))


async def test_a_turn_server_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "RELAY_TIMEOUT", 0.3)
    async with fake_stun(silence) as silent:
        turn = f"turn:user:secret@{silent.server.host}:{silent.server.port}"
        async with ends([parse_ice_server(turn)], relay=True) as (one, _):
            with pytest.raises(NegotiationFailed):
                await one.link.offer("label", ordered=True)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_relayed(transport: Literal["udp", "tcp"], tmp_path: Path) -> None:
    async with (
        coturn(tmp_path) as turn,
        connected([turn.server(transport=transport)], relay=True) as (one, other, here, there),
    ):
        for end in (one, other):
            assert end.link.route is not None
            assert end.link.route.relayed
        await says(one, other)
        sending = asyncio.create_task(here.send(b"x" * 100_000))
        assert await there.receive() == b"x" * 100_000
        await sending


async def test_a_wrong_password_is_no_relay(tmp_path: Path) -> None:
    async with coturn(tmp_path) as turn, ends([turn.server(password="wrong")], relay=True) as (one, _):
        with pytest.raises(NegotiationFailed) as caught:
            await one.link.offer("label", ordered=True)
        assert "password" in caught.value.hint


async def test_the_relay_of_one_side_is_a_path_for_both(tmp_path: Path) -> None:
    async with coturn(tmp_path) as turn, ends() as (one, _), ends([turn.server()], relay=True) as (other, _):
        await join(one, other)
        await says(one, other)
        assert one.link.route is not None
        assert one.link.route.remote_type in ("relay", "prflx")


# The end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("closer", [0, 1])
async def test_either_side_closes_and_the_other_sees_it(closer: int) -> None:
    async with connected() as (one, other, here, there):
        [closing, seeing] = [one, other] if closer == 0 else [other, one]
        [_, channel] = [here, there] if closer == 0 else [there, here]
        await closing.link.close()
        assert isinstance(await seeing.link.ended(), ConnectionClosed)
        assert isinstance(await closing.link.ended(), ConnectionClosed)
        with pytest.raises(ConnectionClosed):
            await channel.receive()
        with pytest.raises(ConnectionClosed):
            await channel.send(b"too late")
        assert [message async for message in channel] == []


async def test_what_came_before_the_end_is_still_read() -> None:
    async with connected() as (one, _, here, there):
        for number in range(10):
            await here.send(str(number))
        await here.flush()
        await one.link.close()
        assert [message async for message in there] == [str(number) for number in range(10)]


async def test_a_reader_that_waits_is_told_of_the_end() -> None:
    async with connected() as (one, _, here, there):
        reading, sending = asyncio.create_task(there.receive()), asyncio.create_task(here.receive())
        await asyncio.sleep(0)
        await one.link.close()
        for task in (reading, sending):
            with pytest.raises(ConnectionClosed):
                await task


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_far_side_that_vanishes_is_noticed(
    end: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost, and not closed: whoever reads a stream must not take this for its end."""
    monkeypatch.setattr(ice, "CONSENT_INTERVAL", 0.1)
    monkeypatch.setattr(ice, "CONSENT_TIMEOUT", 1.0)
    far_side = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.rtc.far_side", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert far_side.stdin is not None
    assert far_side.stdout is not None
    try:
        async with ends() as (one, _):
            offer = await one.link.offer("label", ordered=True)
            far_side.stdin.write(json.dumps(offer).encode() + b"\n")
            one.link.accept(json.loads(await far_side.stdout.readline()))
            channel = await one.link.channel()
            await channel.send("hello")
            assert await channel.receive() == "hello"
            far_side.send_signal(end)
            assert isinstance(await one.link.ended(), ConnectionLost)
            with pytest.raises(ConnectionLost):
                await channel.receive()
    finally:
        if far_side.returncode is None:
            far_side.kill()
        await far_side.communicate()


async def test_sockets_that_fail_are_noticed() -> None:
    async with connected() as (one, _, here, _):
        for protocol in one.link._agent._protocols:
            protocol.transport.abort()
        assert isinstance(await one.link.ended(), ConnectionLost)
        with pytest.raises(ConnectionLost):
            await here.receive()


async def test_closing_twice_and_together() -> None:
    async with connected() as (one, other, _, _):
        await asyncio.gather(*(end.link.close() for end in (one, other, one, other)))
        await one.link.close(ProtocolError("too late to matter"))
        assert isinstance(await one.link.ended(), ConnectionClosed)


async def test_a_reason_given_at_the_end_is_the_reason() -> None:
    async with connected() as (one, other, here, _):
        reason = ProtocolError("it spoke nonsense")
        await one.link.close(reason)
        assert await one.link.ended() is reason
        with pytest.raises(ProtocolError):
            await here.receive()
        assert isinstance(await other.link.ended(), ConnectionClosed)


async def test_a_link_that_was_never_used_can_be_closed() -> None:
    async with ends() as (one, _):
        await one.link.close()
        assert isinstance(await one.link.ended(), ConnectionClosed)
        for work in (one.link.offer("label", ordered=True), one.link.channel()):
            with pytest.raises(PeerError):
                await work


@pytest.mark.parametrize("cancelled", [False, True])
async def test_closing_at_any_moment_leaves_nothing(cancelled: bool) -> None:
    """Every turn of the event loop is a chance to close; neither a hang nor a leak may come of it."""
    before = psutil.Process().num_fds()
    turns = 0
    opened = False
    while not opened:
        async with ends() as (one, other):
            joining = asyncio.create_task(join(one, other))
            for _ in range(turns):
                if joining.done():
                    break
                await asyncio.sleep(0)
            opened = joining.done() or turns > 3000
            if cancelled:
                joining.cancel()
            await one.link.close()
            if not joining.done():
                await other.link.close()
            await asyncio.wait({joining})
            if not joining.cancelled() and (error := joining.exception()) is not None:
                assert isinstance(error, PeerError)
        turns += 1 + turns // 5
    assert psutil.Process().num_fds() == before


async def test_nothing_is_left_of_many_connections() -> None:
    for attempt in range(2):
        for _ in range(5):
            async with connected() as (one, other, _, _):
                await says(one, other)
        if attempt == 0:
            before = psutil.Process().num_fds()
    assert psutil.Process().num_fds() == before


# Pressure -------------------------------------------------------------------------------------


async def test_a_reader_that_does_not_read_stops_the_sender() -> None:
    async with connected() as (_, _, here, there):
        message, sent = b"x" * 65_536, 0

        async def send() -> None:
            nonlocal sent
            for _ in range(1000):
                await here.send(message)
                sent += 1

        sending = asyncio.create_task(send())
        await asyncio.sleep(0)
        so_far = -1
        while so_far != sent or not here.buffered_amount:  # until nothing moves any more
            so_far = sent
            await asyncio.sleep(0.3)
        assert not sending.done()
        assert sent < 600
        for _ in range(1000):
            assert await there.receive() == message
        await sending
