"""What the congestion controllers make of paths, in virtual time, and what they answer to single reports."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peercli.sctp.congestion import AckSample, Bbr, Controller, Cubic
from peercli.sctp.congestion.bbr import State
from tests.sctp.congestion_lab import PAYLOAD, WIRE, Bottleneck, Flow, Host, Lab, mbit

EFFICIENCY = PAYLOAD / WIRE


class Window:
    """A controller that knows the right window, and is blind to everything: the yardstick for loopback."""

    def __init__(self, cwnd: int) -> None:
        self.cwnd = cwnd
        self.mtu = 1200
        self.pacing_rate = math.inf

    def on_sent(self, now: float, nbytes: int, in_flight: int) -> None: ...

    def on_ack(self, sample: AckSample) -> None: ...

    def on_loss(self, now: float, lost_bytes: int, in_flight: int, largest_lost_sent_at: float) -> None: ...

    def on_timeout(self, now: float, in_flight: int) -> None: ...


def bbr(seed: int = 1) -> Bbr:
    return Bbr(rng=random.Random(seed))


class Link:
    """A lab with a bottleneck of `rtt` seconds, `rate` Mbit/s and a queue in round trips' worth."""

    def __init__(
        self, rtt: float, rate: float, *, queue: float = 1.0, loss: float = 0.0, seed: int = 1
    ) -> None:
        self.lab = Lab(seed)
        self.rtt = rtt
        self.rate = rate
        limit = max(queue * mbit(rate) * rtt, 10 * WIRE)
        self.bottleneck = Bottleneck(self.lab, mbit(rate), rtt / 2, limit, loss)

    def flow(self, control: Controller, **options: float) -> Flow:
        return Flow(self.lab, self.bottleneck, control, **options)  # type: ignore[arg-type]

    def waited(self, start: float, end: float = math.inf) -> float:
        """Mean queueing delay in round trips."""
        return self.bottleneck.wait(start, end) / self.rtt


def shares(link: Link, flows: list[Flow], start: float, end: float) -> list[float]:
    """Each flow's part of what all of them got; together they must have used the link."""
    link.lab.run(end)
    rates = [flow.goodput(start, end) for flow in flows]
    assert sum(rates) > 0.95 * EFFICIENCY * link.rate
    return [rate / sum(rates) for rate in rates]


# BBR alone on a path ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rtt", "rate", "loss", "kernel"),
    [(0.02, 100, 0.0, 93.8), (0.02, 100, 0.01, 93.4), (0.1, 100, 0.001, 85.8), (0.3, 20, 0.0, 16.4)],
)
def test_bbr_comes_near_the_kernels(rtt: float, rate: float, loss: float, kernel: float) -> None:
    """Mbit/s in the first 12 s, start-up included, beside what Linux's BBR got over TCP; and a queue that
    stays short, so that a ping beside it stays usable."""
    link = Link(rtt, rate, loss=loss)
    flow = link.flow(bbr())
    link.lab.run(12.0)
    assert flow.goodput(0, 12) > 0.95 * kernel
    assert link.waited(4) < 0.4
    assert flow.timeouts == 0


@pytest.mark.parametrize(("loss", "least"), [(0.02, 0.93), (0.03, 0.9), (0.05, 0.75), (0.1, 0.5)])
def test_bbr_bears_loss_that_is_the_paths_own(loss: float, least: float) -> None:
    link = Link(0.02, 50, loss=loss)
    flow = link.flow(bbr())
    link.lab.run(10.0)
    assert flow.goodput(2, 10) > least * EFFICIENCY * 50


def test_bbr_fills_a_path_with_a_shallow_queue() -> None:
    link = Link(0.04, 50, queue=0.1)
    flow = link.flow(bbr())
    link.lab.run(10.0)
    assert flow.goodput(2, 10) > 0.8 * EFFICIENCY * 50
    assert link.bottleneck.dropped * PAYLOAD < 0.03 * sum(flow.receiver.delivered)


@pytest.mark.parametrize(("rtt", "rate"), [(0.05, 0.2), (0.02, 1), (0.005, 50), (0.001, 300), (0.6, 10)])
def test_bbr_fills_slow_near_and_distant_paths(rtt: float, rate: float) -> None:
    end = 4.0 if rate > 10 else 20.0
    link = Link(rtt, rate, queue=2)
    flow = link.flow(bbr())
    link.lab.run(end)
    assert flow.goodput(end / 2, end) > 0.9 * EFFICIENCY * rate


@pytest.mark.parametrize(("every", "delay"), [(1, 0.02), (64, 0.01), (256, 0.05)])
def test_bbr_bears_acknowledgements_in_bunches(every: int, delay: float) -> None:
    link = Link(0.02, 100)
    flow = link.flow(bbr(), ack_every=every, ack_delay=delay)
    link.lab.run(6.0)
    assert flow.goodput(3, 6) > 0.95 * EFFICIENCY * 100


def test_bbr_uses_a_small_receive_window_to_the_full() -> None:
    link = Link(0.1, 100)
    flow = link.flow(bbr(), rwnd=131_072)
    link.lab.run(8.0)
    assert flow.goodput(2, 8) > 0.9 * 131_072 / 0.1 / mbit(1)
    assert link.waited(2) < 0.02


@pytest.mark.parametrize("pauses", [(0.002, 0.01), (0.005, 0.03)])
def test_bbr_bears_hosts_that_do_not_always_run(pauses: tuple[float, float]) -> None:
    """Within a few percent of a window that is twice what the path holds, and without that one's queue."""
    rates = []
    for control in (bbr(), Window(500_000)):
        link = Link(0.02, 100, loss=0.01)
        flow = Flow(
            link.lab,
            link.bottleneck,
            control,
            host=Host(link.lab, pauses, 10 * pauses[0]),
            receiver_host=Host(link.lab, pauses, 10 * pauses[0]),
        )
        link.lab.run(4.0)
        rates.append(flow.goodput(0, 4))
    assert rates[0] > 0.93 * rates[1]


# Loopback -----------------------------------------------------------------------------------


def loopback(control: Controller, delay: float, pauses: tuple[float, float], buffer: float) -> Flow:
    """Two processes that spend some µs on each packet and are kept from running for milliseconds."""
    lab = Lab()
    flow = Flow(
        lab,
        Bottleneck(lab, 1e12, delay, math.inf),
        control,
        ack_every=16,
        ack_delay=0.005,
        cost=7.5e-6,
        receiver_cost=6.5e-6,
        receiver_buffer=buffer,
        host=Host(lab, pauses, 0.03),
        receiver_host=Host(lab, pauses, 0.03),
    )
    lab.run(1.0)
    return flow


@pytest.mark.parametrize("delay", [30e-6, 100e-6])
@pytest.mark.parametrize("pauses", [(0.0, 0.0), (0.001, 0.003), (0.001, 0.008)])
def test_bbr_does_not_limit_loopback(delay: float, pauses: tuple[float, float]) -> None:
    best = loopback(Window(150_000), delay, pauses, math.inf).goodput(0, 1)
    flow = loopback(bbr(), delay, pauses, 400_000)
    assert flow.goodput(0, 1) > 0.95 * best
    assert flow.lost < 0.03 * sum(flow.receiver.delivered)


# Flows beside each other ---------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.0, 2.0])
@pytest.mark.parametrize("rtt", [0.02, 0.04])
def test_two_bbr_flows_share_a_bottleneck(rtt: float, start: float) -> None:
    link = Link(rtt, 50, seed=3)
    flows = [link.flow(bbr(1)), link.flow(bbr(2), start=start)]
    assert min(shares(link, flows, start + 4, 24)) > 0.4
    assert link.waited(start + 4) < 1.0


def test_two_bbr_flows_share_a_deep_queue() -> None:
    link = Link(0.04, 50, queue=4, seed=3)
    flows = [link.flow(bbr(1)), link.flow(bbr(2), start=2.0)]
    assert min(shares(link, flows, 10, 30)) > 0.4
    assert link.waited(6) < 1.5


def test_four_bbr_flows_share_a_bottleneck() -> None:
    link = Link(0.04, 50)
    flows = [link.flow(bbr(seed), start=float(seed)) for seed in range(4)]
    assert all(0.15 < share < 0.4 for share in shares(link, flows, 8, 30))


@pytest.mark.parametrize(("rtt", "queue"), [(0.02, 1.0), (0.06, 1.0), (0.06, 2.0)])
def test_bbr_and_cubic_leave_each_other_a_share(rtt: float, queue: float) -> None:
    link = Link(rtt, 50, queue=queue)
    flows = [link.flow(bbr()), link.flow(Cubic(), start=3.0)]
    assert 0.3 < shares(link, flows, 8, 40)[0] < 0.7


# Paths that change, and applications that pause ------------------------------------------------


def test_bbr_follows_a_rate_that_falls_and_rises_tenfold() -> None:
    link = Link(0.02, 100)
    flow = link.flow(bbr())
    link.lab.run(5.0)
    link.bottleneck.rate = mbit(10)
    link.lab.run(12.0)
    assert flow.goodput(6, 12) > 0.9 * EFFICIENCY * 10
    assert link.bottleneck.wait(7, 12) < 1.5 * link.rtt
    link.bottleneck.rate = mbit(100)
    link.lab.run(16.0)
    assert flow.goodput(14, 16) > 0.95 * EFFICIENCY * 100


def test_bbr_learns_that_the_round_trip_has_changed() -> None:
    link = Link(0.02, 50, queue=4)
    control = bbr()
    flow = link.flow(control)
    link.lab.run(5.0)
    link.bottleneck.delay = flow.return_delay = 0.05
    link.lab.run(12.0)
    assert control.min_rtt == pytest.approx(0.1, rel=0.05)
    assert flow.goodput(9, 12) > 0.9 * EFFICIENCY * 50
    link.bottleneck.delay = flow.return_delay = 0.005
    link.lab.run(20.0)  # a flight for 100 ms looks like 100 ms until PROBE_RTT cuts it
    assert control.min_rtt < 0.02
    assert flow.goodput(13, 20) > 0.9 * EFFICIENCY * 50


@pytest.mark.parametrize("control", [bbr, Cubic])
def test_a_flow_gets_up_again_after_a_blackout(control: Callable[[], Controller]) -> None:
    link = Link(0.04, 50)
    flow = link.flow(control())
    link.lab.run(4.0)
    link.bottleneck.loss = 1.0
    link.lab.run(7.0)
    link.bottleneck.loss = 0.0
    link.lab.run(10.0)
    assert flow.timeouts > 1
    assert flow.goodput(9, 10) > 0.9 * EFFICIENCY * 50


def test_bbr_does_not_take_a_quiet_application_for_a_slow_path() -> None:
    link = Link(0.04, 50)
    control = bbr()
    flow = link.flow(control)
    link.lab.run(3.0)
    bw = control.bw
    flow.backlog = 0.0

    def trickle() -> None:
        flow.offer(10 * PAYLOAD)
        link.lab.at(link.lab.now + 0.1, trickle)

    link.lab.at(3.5, trickle)
    link.lab.run(9.0)
    assert control.bw == pytest.approx(bw, rel=0.05)
    flow.offer(math.inf)
    link.lab.run(10.0)
    assert flow.goodput(9.2, 10) > 0.9 * EFFICIENCY * 50


def test_bbr_goes_on_at_its_rate_after_a_pause_without_a_burst() -> None:
    link = Link(0.04, 50)
    flow = link.flow(bbr())
    link.lab.run(3.0)
    flow.backlog = 0.0
    link.lab.run(15.0)
    dropped = link.bottleneck.dropped
    flow.offer(math.inf)
    link.lab.run(16.0)
    assert flow.goodput(15.1, 16) > 0.85 * EFFICIENCY * 50
    assert max(wait for when, wait in link.bottleneck.waits if when > 15) < 0.25 * link.rtt
    assert link.bottleneck.dropped == dropped


def test_bbr_stays_in_startup_while_the_application_is_slow() -> None:
    link = Link(0.04, 50)
    control = bbr()
    flow = link.flow(control, backlog=0.0)

    def trickle() -> None:
        flow.offer(10 * PAYLOAD)
        link.lab.at(link.lab.now + 0.1, trickle)

    link.lab.at(0.0, trickle)
    link.lab.run(8.0)
    assert control.state is State.STARTUP
    flow.offer(math.inf)
    link.lab.run(10.0)
    assert control.full_bw_reached
    assert flow.goodput(9, 10) > 0.9 * EFFICIENCY * 50


# BBR's answers to single reports ---------------------------------------------------------------


def sample(now: float, **changes: float | bool | None) -> AckSample:
    """A round trip of 20 ms at 1 MB/s, unless told otherwise."""
    values: dict[str, float | bool | None] = {
        "now": now,
        "acked": 12_000,
        "rtt": 0.02,
        "min_rtt": 0.02,
        "delivery_rate": 1e6,
        "app_limited": False,
        "in_flight": 20_000,
        "round_start": True,
        "lost": 0,
    }
    return AckSample(**(values | changes))  # type: ignore[arg-type]


def cruising() -> tuple[Bbr, float]:
    """A controller at rest on a path of 20 ms and 1 MB/s, and the time. The clock began where it liked."""
    control, now = bbr(), 1e6
    while control.state is not State.PROBE_BW_CRUISE:
        now += 0.021
        control.on_ack(sample(now))
        assert now < 1e6 + 5
    return control, now


def test_bbr_paces_the_first_window() -> None:
    control = Bbr(mtu=1000)
    assert control.cwnd == 32_000
    assert control.pacing_rate == pytest.approx(3.2e6)
    control.on_ack(sample(1.0, rtt=0.1, delivery_rate=100.0, app_limited=True))
    assert control.pacing_rate == pytest.approx(2.77 * 32_000 / 0.1, rel=0.05)


def test_bbr_settles_at_the_rate_and_two_round_trips_worth() -> None:
    control, _ = cruising()
    assert control.pacing_rate == pytest.approx(0.99e6)
    assert control.bw * control.min_rtt == pytest.approx(20_000)
    assert 40_000 <= control.cwnd <= 40_000 + control.extra_acked + 1


def test_bbr_ignores_a_little_loss_and_follows_much() -> None:
    control, now = cruising()
    control.on_loss(now, 1200, 20_000, now - 0.02)
    control.on_ack(sample(now + 0.021, acked=100_000, lost=1200))
    assert control.bw == pytest.approx(1e6)
    control.on_loss(now + 0.03, 30_000, 20_000, now)
    control.on_ack(sample(now + 0.043, delivery_rate=0.6e6, lost=30_000))
    assert control.bw == pytest.approx(0.7e6)


def test_bbr_sends_one_packet_after_a_timeout_and_all_again_once_it_arrives() -> None:
    control, now = cruising()
    before = control.cwnd
    control.on_timeout(now, 0)
    assert control.cwnd == control.mtu
    control.on_sent(now, 1200, 1200)
    control.on_ack(sample(now + 0.021, acked=1200, in_flight=0))
    assert control.cwnd >= before


def test_bbr_is_not_paced_on_loopback() -> None:
    control = bbr()
    control.on_ack(sample(1.0, rtt=0.0002, delivery_rate=1e8))
    assert control.pacing_rate == math.inf


# CUBIC ----------------------------------------------------------------------------------------


def test_cubic_fills_a_path_without_loss_and_falls_with_it() -> None:
    """The yardstick does what the kernel's does: 95 and 7 Mbit/s."""
    rates = []
    for loss in (0.0, 0.01):
        link = Link(0.02, 100, loss=loss)
        flow = link.flow(Cubic())
        link.lab.run(8.0)
        rates.append(flow.goodput(0, 8))
    assert rates[0] > 0.95 * EFFICIENCY * 100
    assert 3 < rates[1] < 10


def test_cubic_leaves_slow_start_before_a_deep_queue_overflows() -> None:
    link = Link(0.05, 50, queue=14)
    control = Cubic()
    link.flow(control)
    link.lab.run(4.0)
    assert control.ssthresh < math.inf
    assert link.bottleneck.dropped == 0


def test_cubic_reduces_once_for_what_was_lost_in_a_round() -> None:
    control = Cubic(mtu=1000)
    control.on_ack(sample(1.0, acked=10_000, in_flight=10_000))
    assert control.cwnd == 20_000
    control.on_loss(1.1, 1000, 18_000, 1.05)
    assert control.cwnd == 14_000
    control.on_loss(1.12, 5000, 13_000, 1.09)
    assert control.cwnd == 14_000
    control.on_loss(1.2, 1000, 13_000, 1.15)
    assert control.cwnd == 9_800


def test_cubic_grows_back_to_where_it_lost_and_beyond() -> None:
    control = Cubic(mtu=1000)
    control.on_ack(sample(0.0, acked=90_000, in_flight=10_000))
    control.on_loss(0.1, 1000, 98_000, 0.05)
    assert control.cwnd == 70_000
    grown = []
    for step in range(1, 40):
        control.on_ack(sample(0.1 + step * 0.2, acked=control.cwnd, in_flight=0, rtt=0.19))
        grown.append(control.cwnd)
    plateau = (0.3 * 100 / 0.4) ** (1 / 3)  # RFC 9438's K: when the window is where it was
    assert grown[int(plateau / 0.2)] == pytest.approx(100_000, rel=0.02)
    assert grown == sorted(grown)
    assert grown[-1] > 115_000


def test_cubic_does_not_grow_a_window_that_is_not_used() -> None:
    control = Cubic()
    before = control.cwnd
    for step in range(100):
        control.on_ack(sample(step * 0.1, acked=1000, in_flight=0, app_limited=True))
    assert control.cwnd == before


def test_cubic_halves_the_threshold_once_for_timeouts_in_a_row() -> None:
    control = Cubic(mtu=1000)
    control.on_ack(sample(1.0, acked=90_000, in_flight=10_000))
    control.on_timeout(2.0, 0)
    control.on_timeout(4.0, 0)
    assert control.cwnd == 1000
    assert control.ssthresh == pytest.approx(70_000)


# Whatever is reported ---------------------------------------------------------------------------

reports = st.one_of(
    st.tuples(
        st.just("ack"),
        st.fixed_dictionaries(
            {
                "acked": st.integers(0, 10_000_000),
                "rtt": st.none() | st.floats(0, 100),
                "delivery_rate": st.none() | st.floats(0, 1e10),
                "app_limited": st.booleans(),
                "in_flight": st.integers(0, 50_000_000),
                "round_start": st.booleans(),
            }
        ),
    ),
    st.tuples(st.sampled_from(["sent", "loss", "timeout"]), st.integers(0, 10_000_000)),
)


@settings(max_examples=150, deadline=None)
@given(
    control=st.sampled_from([bbr, Cubic]),
    story=st.lists(st.tuples(st.floats(0, 20), reports), max_size=40),
)
def test_answers_stay_usable_whatever_is_reported(
    control: Callable[[], Bbr | Cubic], story: list[tuple[float, tuple[str, object]]]
) -> None:
    """A window of a packet at the least, and a rate that lets it leave some day."""
    controller = control()
    now = 1e5
    for pause, (kind, detail) in story:
        now += pause
        if isinstance(detail, dict):
            controller.on_ack(sample(now, **detail))
        elif isinstance(detail, int):
            if kind == "sent":
                controller.on_sent(now, min(detail, 65_000), detail)
            elif kind == "loss":
                controller.on_loss(now, detail, detail, now - pause)
            else:
                controller.on_timeout(now, detail)
        assert controller.mtu <= controller.cwnd < 1 << 50
        assert isinstance(controller.cwnd, int)
        assert controller.pacing_rate > 0
