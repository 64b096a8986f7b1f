from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peercli.server.limits import Rates, network


def test_burst_then_rate() -> None:
    rates = Rates(rate=2.0, burst=3.0)
    assert [rates.allow("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert rates.allow("b", 0.0)
    assert not rates.allow("a", 0.25)
    assert rates.allow("a", 0.5)
    assert not rates.allow("a", 0.5)
    assert [rates.allow("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_credit_is_paid_back_in_turn() -> None:
    rates = Rates(rate=2.0, burst=3.0)
    assert rates.delay("a", 3, 0.0) == 0.0
    assert rates.delay("a", 1, 0.0) == 0.5
    assert rates.delay("a", 5, 0.0) == 3.0
    assert rates.delay("a", 1, 3.0) == 0.5
    assert rates.delay("b", 1, 3.0) == 0.0


def test_forgets_who_has_not_come_for_a_while() -> None:
    rates = Rates(rate=1.0, burst=10.0)
    for n in range(1000):
        rates.allow(f"address {n}", n * 1.0)
    assert len(rates) == 1  # each was full again when the next one came
    for n in range(1000):
        rates.delay(f"address {n}", 5, 2000.0 + n)
    assert len(rates) == 5


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 20), st.floats(0, 5)), max_size=100))
def test_no_address_gets_more_than_its_share(takes: list[tuple[str, float, float]]) -> None:
    """Whoever waits as told has never used more than the burst and what has flowed in since."""
    rates = Rates(rate=3.0, burst=10.0)
    used = dict.fromkeys("abc", 0.0)
    now = 0.0
    for address, cost, step in takes:
        now += step
        served = now + rates.delay(address, cost, now)
        used[address] += cost
        assert used[address] <= 10.0 + 3.0 * served + 1e-6


@pytest.mark.parametrize(
    ("address", "shared"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
    ],
)
def test_network(address: str, shared: str) -> None:
    assert network(address) == shared


@pytest.mark.parametrize("address", ["", "unknown", "192.0.2.7:80", "[::1]", "1.2.3", "evil\n"])
def test_no_address(address: str) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        network(address)
