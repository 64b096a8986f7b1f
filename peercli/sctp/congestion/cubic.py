"""CUBIC (RFC 9438) with HyStart++ (RFC 9406): loss-based, as most of the Internet's TCP."""

from __future__ import annotations

import math

from peercli.sctp.congestion.controller import AckSample

__all__ = ["Cubic"]

INITIAL_PACKETS = 10  # RFC 6928
MIN_PACKETS = 2
BETA = 0.7
C = 0.4  # packets/s³
RENO_ALPHA = 3 * (1 - BETA) / (1 + BETA)

HYSTART_MIN_RTT_THRESH = 0.004
HYSTART_MAX_RTT_THRESH = 0.016
HYSTART_MIN_RTT_DIVISOR = 8
HYSTART_RTT_SAMPLES = 8
CSS_GROWTH_DIVISOR = 4
CSS_ROUNDS = 5

SLOW_START_PACING_GAIN = 2.0  # cwnd doubles a round
PACING_GAIN = 1.25  # never what limits, yet no whole window at once


class Cubic:
    """A `Controller`."""

    def __init__(self, mtu: int = 1200) -> None:
        self.mtu = mtu
        self.cwnd = INITIAL_PACKETS * mtu
        self.pacing_rate = math.inf
        self.ssthresh = math.inf
        self._cwnd = float(self.cwnd)  # growth a batch may be less than a byte
        self._srtt = 0.0
        self._recovery_start = -math.inf
        self._timed_out = False

        self._epoch_start: float | None = None  # of congestion avoidance
        self._w_max = 0.0
        self._k = 0.0
        self._w_est = 0.0

        self._round_min_rtt = math.inf
        self._last_round_min_rtt = math.inf
        self._rtt_samples = 0
        self._css_baseline = math.inf
        self._css_rounds = 0

    def on_sent(self, now: float, nbytes: int, in_flight: int) -> None:
        pass

    def on_ack(self, sample: AckSample) -> None:
        now, rtt = sample.now, sample.rtt
        self._timed_out = False
        if rtt is not None:
            self._srtt = self._srtt * 0.875 + rtt * 0.125 if self._srtt else rtt
        in_recovery = rtt is None or now - rtt <= self._recovery_start
        slow_start = self._cwnd < self.ssthresh
        if slow_start:
            self._hystart(sample)
        # A flight that does not use the window says nothing for a larger one (RFC 9438 section 5.8).
        used = sample.in_flight + sample.acked + sample.lost
        if not in_recovery and used >= self._cwnd * (0.5 if slow_start else 0.8):
            if slow_start:
                growth = sample.acked / (CSS_GROWTH_DIVISOR if self._in_css() else 1)
                self._cwnd = min(self._cwnd + growth, max(self.ssthresh, self._cwnd))
            else:
                self._avoid_congestion(now, sample.acked)
        elif sample.app_limited:
            self._epoch_start = None  # time that the application wasted must not count as growth
        self._publish()

    def on_loss(self, now: float, lost_bytes: int, in_flight: int, largest_lost_sent_at: float) -> None:
        if largest_lost_sent_at <= self._recovery_start:
            return  # part of the congestion already answered
        self._recovery_start = now
        self._reduce()
        self._cwnd = self.ssthresh
        self._publish()

    def on_timeout(self, now: float, in_flight: int) -> None:
        self._recovery_start = now
        if not self._timed_out:  # a second timeout in a row tells nothing new (RFC 5681 section 3.1)
            self._reduce()
        self._timed_out = True
        self._cwnd = float(self.mtu)
        self._publish()

    def _reduce(self) -> None:
        fast_convergence = self._cwnd < self._w_max
        self._w_max = self._cwnd * (1 + BETA) / 2 if fast_convergence else self._cwnd
        self.ssthresh = max(self._cwnd * BETA, MIN_PACKETS * self.mtu)
        self._epoch_start = None
        self._css_baseline = math.inf

    def _avoid_congestion(self, now: float, acked: int) -> None:
        mtu, cwnd = self.mtu, self._cwnd
        if self._epoch_start is None:
            self._epoch_start = now
            self._w_est = cwnd
            self._w_max = max(self._w_max, cwnd)
            self._k = math.cbrt((self._w_max - cwnd) / mtu / C)
        t = now - self._epoch_start
        target = C * (t + self._srtt - self._k) ** 3 * mtu + self._w_max
        # Once W_est has caught up with W_max, it grows as Reno does.
        self._w_est += (RENO_ALPHA if self._w_est < self._w_max else 1.0) * mtu * acked / cwnd
        if self._w_est > C * (t - self._k) ** 3 * mtu + self._w_max:
            self._cwnd = self._w_est
        else:
            self._cwnd += (min(max(target, cwnd), 1.5 * cwnd) - cwnd) * acked / cwnd

    # HyStart++

    def _in_css(self) -> bool:
        return self._css_baseline < math.inf

    def _hystart(self, sample: AckSample) -> None:
        if sample.round_start:
            self._last_round_min_rtt, self._round_min_rtt = self._round_min_rtt, math.inf
            self._rtt_samples = 0
            if self._in_css():
                self._css_rounds += 1
                if self._css_rounds >= CSS_ROUNDS:
                    self.ssthresh = self._cwnd
                    return
        if sample.rtt is None:
            return
        self._rtt_samples += 1
        self._round_min_rtt = min(self._round_min_rtt, sample.rtt)
        if self._rtt_samples < HYSTART_RTT_SAMPLES or self._last_round_min_rtt == math.inf:
            return
        if self._in_css():
            if self._round_min_rtt < self._css_baseline:  # the delay was spurious
                self._css_baseline = math.inf
            return
        thresh = self._last_round_min_rtt / HYSTART_MIN_RTT_DIVISOR
        thresh = max(HYSTART_MIN_RTT_THRESH, min(thresh, HYSTART_MAX_RTT_THRESH))
        if self._round_min_rtt >= self._last_round_min_rtt + thresh:
            self._css_baseline = self._round_min_rtt
            self._css_rounds = 0

    def _publish(self) -> None:
        self.cwnd = int(self._cwnd)
        if self._srtt:
            gain = SLOW_START_PACING_GAIN if self._cwnd < self.ssthresh else PACING_GAIN
            self.pacing_rate = gain * self._cwnd / self._srtt
