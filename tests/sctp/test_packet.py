from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.sctp import packet
from peercli.sctp.packet import Chunk, Init, MalformedPacket, Param

SEAL = packet.sealer(5000, 5001, 0xDEADBEEF)


def test_a_sealed_packet_has_a_right_checksum_and_header() -> None:
    whole = SEAL(packet.chunk(Chunk.COOKIE_ACK))
    assert whole[:8] == packet.head(5000, 5001, 0xDEADBEEF)
    assert whole[:4] == packet.ports(5000, 5001)
    assert packet.checksum_is_right(whole)


def test_the_checksum_is_crc32c_in_little_endian() -> None:
    # RFC 3720 B.4: 32 bytes of zeros have the CRC 0x8a9136aa.
    seal = packet.sealer(0, 0, 0)
    assert seal(bytes(20))[8:12] == (0x8A9136AA).to_bytes(4, "little")


def test_without_a_checksum_its_place_is_zero() -> None:
    whole = packet.sealer(1, 2, 3, checksum=False)(packet.chunk(Chunk.COOKIE_ACK))
    assert whole[8:12] == bytes(4)
    assert not packet.checksum_is_right(whole)


@given(st.binary(min_size=4, max_size=200), st.integers(min_value=0))
def test_any_flipped_bit_breaks_the_checksum(body: bytes, spot: int) -> None:
    whole = bytearray(SEAL(body))
    spot %= len(whole) * 8
    whole[spot // 8] ^= 1 << spot % 8
    assert not packet.checksum_is_right(bytes(whole))


def test_chunks_are_found_with_their_padding() -> None:
    values = [b"", b"a", b"abcd", b"abcdefg"]
    whole = SEAL(b"".join(packet.chunk(Chunk.ERROR, 3, value) for value in values))
    found = [(kind, flags, whole[start:end]) for kind, flags, start, end in packet.chunks(whole)]
    assert found == [(Chunk.ERROR, 3, value) for value in values]


@pytest.mark.parametrize(
    "body", [b"\x00", b"\x06\x00\x00", b"\x06\x00\x00\x03", b"\x06\x00\x00\x09abcd", b"\x06\x00\xff\xff"]
)
def test_a_chunk_that_lies_about_its_length_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedPacket):
        list(packet.chunks(SEAL(body)))


@pytest.mark.parametrize("value", [b"\x00", b"\x00\x01\x00", b"\x00\x01\x00\x03", b"\x00\x01\x00\x09abcd"])
def test_a_parameter_that_lies_about_its_length_is_malformed(value: bytes) -> None:
    with pytest.raises(MalformedPacket):
        list(packet.params(value))


def test_init_survives_the_wire() -> None:
    init = Init(
        tag=0xFFFFFFFF,
        window=8 << 20,
        outbound_streams=65535,
        inbound_streams=1024,
        tsn=0,
        extensions=frozenset({Chunk.RE_CONFIG, Chunk.FORWARD_TSN, Chunk.I_DATA}),
        zero_checksum=True,
        cookie=b"biscuit",
    )
    assert Init.unpack(init.pack()) == init


def test_parameters_before_the_cookie_do_not_hide_it() -> None:
    plain = Init(1, 2, 3, 4, 5).pack()
    unknown = packet.param(0x8FFF, b"skip me") + packet.param(0xCFFF, b"and tell")
    init = Init.unpack(plain + unknown + packet.param(Param.STATE_COOKIE, b"there"))
    assert init.cookie == b"there"
    assert init.unrecognized == [packet.param(0xCFFF, b"and tell")]


@pytest.mark.parametrize(("kind", "told"), [(0x0FFF, False), (0x4FFF, True)])
def test_an_unknown_parameter_can_end_the_reading(kind: int, told: bool) -> None:
    plain = Init(1, 2, 3, 4, 5).pack()
    init = Init.unpack(plain + packet.param(kind, b"stop") + packet.param(Param.STATE_COOKIE, b"unseen"))
    assert init.cookie == b""
    assert bool(init.unrecognized) is told


def test_a_zero_checksum_method_that_is_not_dtls_counts_for_nothing() -> None:
    init = Init.unpack(Init(1, 2, 3, 4, 5).pack() + packet.param(Param.ZERO_CHECKSUM, b"\0\0\0\2"))
    assert not init.zero_checksum


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 65535), max_size=40).filter(lambda blocks: len(blocks) % 2 == 0),
    st.lists(st.integers(0, 2**32 - 1), max_size=8),
)
def test_sack_survives_the_wire(
    cumulative: int, window: int, blocks: list[int], duplicates: list[int]
) -> None:
    kind, flags, length = packet.sack(cumulative, window, blocks, duplicates)[:4][0], 0, 0
    assert (kind, flags, length) == (Chunk.SACK, 0, 0)
    value = packet.sack(cumulative, window, blocks, duplicates)[4:]
    assert packet.read_sack(value) == (cumulative, window, tuple(blocks), tuple(duplicates))


def test_a_sack_that_lies_about_its_counts_is_malformed() -> None:
    value = packet.sack(1, 2, [3, 4], [5])[4:]
    for end in range(len(value)):
        with pytest.raises(MalformedPacket):
            packet.read_sack(value[:end])


def test_forward_tsn_survives_the_wire() -> None:
    value = packet.forward_tsn(7, [(1, 2), (65535, 65535)])[4:]
    assert packet.read_forward_tsn(value) == (7, [(1, 2), (65535, 65535)])
    value = packet.iforward_tsn(7, [(1, True, 2), (65535, False, 0xFFFFFFFF)])[4:]
    assert packet.read_iforward_tsn(value) == (7, [(1, True, 2), (65535, False, 0xFFFFFFFF)])


@pytest.mark.parametrize("value", [b"", b"abc", b"abcdef"])
def test_a_forward_tsn_of_an_odd_length_is_malformed(value: bytes) -> None:
    with pytest.raises(MalformedPacket):
        packet.read_forward_tsn(value)
    with pytest.raises(MalformedPacket):
        packet.read_iforward_tsn(value)
