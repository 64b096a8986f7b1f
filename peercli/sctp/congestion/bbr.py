"""BBR: send at the rate the path delivers, and keep little more in flight than fits it.

After draft-ietf-ccwg-bbr (BBRv3), whose names are used throughout. It measures the path (`max_bw`,
`min_rtt`) and sends by that model, so a lost packet by itself changes nothing. Departures from the draft:

- Loss is judged by rounds: what a round lost against what it delivered, not by counters in each packet.
- Loss that slowing down does not cure (`ambient_loss`) is the path's own and is tolerated beside LOSS_THRESH.
  Up to that, loss does not lower the short-term bounds either.
- Queues are heeded too. A round whose every round trip is long had a queue all the time: STARTUP and
  PROBE_BW_UP then end as soon as they gain nothing, PROBE_BW_CRUISE follows what is delivered, and a rate
  that has collapsed is believed at once.
- PROBE_BW_UP lasts as long as it gains PROBE_UP_GROWTH a round, so a late flow soon has its share; after a
  probe that overflowed a queue the next one waits longer, so CUBIC keeps its own.
- A path is never deemed shorter than LOCAL_RTT, and not paced below it: timers are no finer than that.
- A round trip as short as `min_rtt` postpones PROBE_RTT: the queue was seen empty, so none need be drained.
"""

from __future__ import annotations

import math
import random
from enum import Enum, auto

from peercli.sctp.congestion.controller import AckSample

__all__ = ["Bbr", "State"]

# The draft's, in seconds, rounds and packets.
MIN_PIPE_PACKETS = 4
PACING_MARGIN = 0.99
BETA = 0.7
HEADROOM = 0.15
LOSS_THRESH = 0.02
STARTUP_FULL_LOSS_PACKETS = 6
FULL_BW_GROWTH = 1.25
FULL_BW_ROUNDS = 3
DRAIN_ROUNDS = 3
EXTRA_ACKED_FILTER_ROUNDS = 5  # in each of two windows
MIN_RTT_FILTER_LEN = 10.0
PROBE_RTT_INTERVAL = 5.0
PROBE_RTT_DURATION = 0.2
PROBE_WAIT_ROUNDS = 63

INITIAL_PACKETS = 32
"""RFC 6928 allows 10 in one burst; these are spread over INITIAL_SPREAD seconds."""
INITIAL_SPREAD = 0.01
PROBE_WAIT = 1.0
"""Seconds between probes, and up to one more; at the draft's 2 a late flow waits too long for its share."""
PROBE_WAIT_TOO_HIGH = 4.0
"""The same after a probe that cost packets, others' among them: CUBIC needs time to get up again."""
PROBE_WAIT_MIN_RTTS = 10
PROBE_UP_GROWTH = 1.1
"""What a flow with less than half of a path gains in a round of probing, and one with more does not."""
PROBE_UP_QUEUED_ROUNDS = 2

MAX_AMBIENT_LOSS = 0.15
AMBIENT_LOSS_GAIN = 1 / 8
LOCAL_RTT = 0.001
"""Seconds below which the hosts' schedulers, not the path, are the delay."""
HOST_LATENCY = 0.005
"""Seconds that a busy host may hold a packet or its acknowledgement: no sign of a queue in the path."""
EMPTY_QUEUE = 1 + 1 / 32
"""A round trip of up to this many `min_rtt` saw no queue; so for the following."""
CREEPING_QUEUE = 1.1
STANDING_QUEUE = 1.5
CREEPING_BETA = 0.9
COLLAPSED_BW = 0.5


class State(Enum):
    STARTUP = auto()
    DRAIN = auto()
    PROBE_BW_DOWN = auto()
    PROBE_BW_CRUISE = auto()
    PROBE_BW_REFILL = auto()
    PROBE_BW_UP = auto()
    PROBE_RTT = auto()


GAINS = {  # state: (pacing_gain, cwnd_gain)
    State.STARTUP: (2.77, 2.0),
    State.DRAIN: (0.5, 2.0),
    State.PROBE_BW_DOWN: (0.9, 2.0),
    State.PROBE_BW_CRUISE: (1.0, 2.0),
    State.PROBE_BW_REFILL: (1.0, 2.0),
    State.PROBE_BW_UP: (1.25, 2.25),
    State.PROBE_RTT: (1.0, 0.5),
}
PROBING = frozenset({State.STARTUP, State.PROBE_BW_REFILL, State.PROBE_BW_UP})
PROBE_BW = frozenset({State.PROBE_BW_DOWN, State.PROBE_BW_CRUISE, State.PROBE_BW_REFILL, State.PROBE_BW_UP})


class Bbr:
    """A `Controller`; `rng` spreads the probes of flows that compete."""

    def __init__(self, mtu: int = 1200, rng: random.Random | None = None) -> None:
        self.mtu = mtu
        self.cwnd = INITIAL_PACKETS * mtu
        self.pacing_rate = self.cwnd / INITIAL_SPREAD
        self.state = State.STARTUP
        self.pacing_gain, self.cwnd_gain = GAINS[State.STARTUP]
        self._rng = rng or random.Random()

        # The model: bytes/s, seconds, bytes.
        self.max_bw = 0.0
        self.bw = 0.0
        self.min_rtt = math.inf
        self.extra_acked = 0.0
        self.ambient_loss = 0.0
        self.bw_shortterm = math.inf
        self.inflight_shortterm = math.inf
        self.inflight_longterm = math.inf

        self._max_bw_filter = [0.0, 0.0]  # the previous and the current PROBE_BW cycle
        self._min_rtt_stamp = math.inf
        self._probe_rtt_min_delay = math.inf
        self._probe_rtt_min_stamp = math.inf
        self._probe_rtt_expired = False
        self._probe_rtt_done_stamp = 0.0
        self._probe_rtt_round_done = False
        self._collapsed = False

        # The round under way. The draft restarts rounds at phase changes, so they are counted here.
        self._round_began = 0.0
        self._round_delivered = 0
        self._round_lost = 0
        self._round_bw = 0.0
        self._round_min_rtt = math.inf
        self._bw_latest = 0.0
        self._inflight_latest = 0  # delivered by the last whole round: what was in flight, less what was lost
        self._cwnd_limited = False
        self._round_cwnd_limited = False
        self._queued = 1.0  # the last round's shortest round trip, in `min_rtt`

        self.full_bw_reached = False
        self._full_bw = 0.0
        self._full_bw_rounds = 0
        self._full_bw_now = False
        self._drain_rounds = 0

        self._cycle_stamp = 0.0
        self._probe_wait = 0.0
        self._rounds_since_probe = 0
        self._is_bw_probe_sample = False  # what is lost now was sent while probing
        self._probe_stopping = False
        self._probe_up_slope = 0
        self._prev_probe_too_high = False
        self._prev_probe_precautionary = False

        self._extra_acked_filter = [0.0, 0.0]
        self._extra_acked_rounds = 0
        self._extra_acked_start = 0.0
        self._extra_acked_delivered = 0

        self._app_limited = False
        self._idle_restart = False
        self._prior_cwnd = 0
        self._timed_out = False

    def on_sent(self, now: float, nbytes: int, in_flight: int) -> None:
        if in_flight + self.mtu > self.cwnd:
            self._cwnd_limited = self._round_cwnd_limited = True
        if in_flight == nbytes and self._app_limited:  # HandleRestartFromIdle
            self._idle_restart = True
            self._extra_acked_start = now
            self._extra_acked_delivered = 0
            if self.state in PROBE_BW:
                self._set_pacing_rate(1.0)
            elif self.state is State.PROBE_RTT:
                self._check_probe_rtt_done(now)

    def on_ack(self, sample: AckSample) -> None:
        now = sample.now
        rtt = sample.rtt
        began = self._round_began
        round_start = now > began and (sample.round_start if rtt is None else now - rtt >= began)
        self._app_limited = sample.app_limited
        self._round_delivered += sample.acked
        if rtt is not None and rtt < self._round_min_rtt:
            self._round_min_rtt = rtt
        if sample.delivery_rate is not None:
            self._update_max_bw(sample.delivery_rate)
        self._update_ack_aggregation(now, sample.acked)
        if round_start:
            self._end_round(now)
        self._update_state(sample, round_start)
        if rtt is not None:
            self._update_min_rtt(now, rtt)
        self._check_probe_rtt(now, sample.in_flight, round_start)

        self.bw = min(self.max_bw, self.bw_shortterm)
        self._set_pacing_rate(self.pacing_gain)
        self._set_cwnd(sample.acked, round_start)

    def on_loss(self, now: float, lost_bytes: int, in_flight: int, largest_lost_sent_at: float) -> None:
        self._round_lost += lost_bytes
        if self._is_bw_probe_sample:
            volume = max(self._inflight_latest, self._round_delivered + self._round_lost)
            if self._round_lost > self._tolerated_loss(volume):
                self._handle_inflight_too_high(now)

    def on_timeout(self, now: float, in_flight: int) -> None:
        self._save_cwnd()
        self._timed_out = True
        self.cwnd = in_flight + self.mtu

    # Rounds

    def _start_round(self, now: float) -> None:
        self._round_began = now
        self._inflight_latest = max(self._inflight_latest, self._round_delivered)
        self._round_delivered = self._round_lost = 0
        self._bw_latest, self._round_bw = self._round_bw, 0.0
        self._round_min_rtt = math.inf
        self._cwnd_limited, self._round_cwnd_limited = self._round_cwnd_limited, False

    def _end_round(self, now: float) -> None:
        """A packet sent in this round was acknowledged: judge what the round delivered and lost."""
        lost, volume = self._round_lost, self._round_delivered + self._round_lost
        lossy = lost > self._tolerated_loss(volume)
        before, self._queued = self._queued, self._round_min_rtt / max(self.min_rtt, HOST_LATENCY)
        queued = min(before, self._queued)  # a single round may be a busy host's fault
        self._inflight_latest = self._round_delivered
        self._rounds_since_probe += 1
        self._advance_extra_acked_filter()
        self._check_full_bw(lossy and lost >= STARTUP_FULL_LOSS_PACKETS * self.mtu)
        if self.state not in PROBING:
            if lossy:
                self._adapt_lower_bounds()
            if not self._app_limited:
                self._heed_queue(now, queued)
            loss_rate = min(lost / volume, MAX_AMBIENT_LOSS) if volume else 0.0
            self.ambient_loss += AMBIENT_LOSS_GAIN * (loss_rate - self.ambient_loss)
        if not lossy and self._inflight_latest > self.inflight_longterm:
            self.inflight_longterm = self._inflight_latest
        self._start_round(now)

    def _tolerated_loss(self, volume: int) -> float:
        """Bytes that a round of `volume` may lose: the rate tolerated, and one deviation for chance."""
        expected = (LOSS_THRESH + self.ambient_loss) * volume
        return expected + math.sqrt(expected * self.mtu)

    def _check_full_bw(self, lossy: bool) -> None:
        """Look for a plateau: rounds in which sending faster did not deliver faster."""
        if self._full_bw_now or (self._app_limited and not lossy):
            return
        startup = self.state is State.STARTUP
        if self._round_bw >= self._full_bw * (FULL_BW_GROWTH if startup else PROBE_UP_GROWTH):
            self._full_bw = self._round_bw
            self._full_bw_rounds = 0
            return
        self._full_bw_rounds += 1
        overfull = startup and (lossy or self._queued > STANDING_QUEUE)
        if overfull or self._full_bw_rounds >= FULL_BW_ROUNDS:
            self._full_bw_now = self.full_bw_reached = True
            if startup and lossy:
                self.inflight_longterm = max(self._bdp(), self._inflight_latest)

    def _reset_full_bw(self, full_bw: float) -> None:
        self._full_bw = full_bw
        self._full_bw_rounds = 0
        self._full_bw_now = False

    def _adapt_lower_bounds(self) -> None:
        """Loss while not probing: follow what still gets through, by at most BETA a round."""
        bw = self.max_bw if self.bw_shortterm == math.inf else self.bw_shortterm
        inflight = self.cwnd if self.inflight_shortterm == math.inf else self.inflight_shortterm
        self.bw_shortterm = max(self._round_bw / (1 - self.ambient_loss), BETA * bw)
        self.inflight_shortterm = max(self._inflight_latest / (1 - self.ambient_loss), BETA * inflight)

    def _heed_queue(self, now: float, queued: float) -> None:
        """Follow what a path that was busy all through the round delivered, if less than was thought."""
        if queued > CREEPING_QUEUE and self.state is State.PROBE_BW_CRUISE:
            # `max_bw` is the best of noisy samples. This is a whole round's mean.
            delivered = self._round_delivered / (now - self._round_began) / PACING_MARGIN
            self.bw_shortterm = min(self.bw_shortterm, max(delivered, CREEPING_BETA * self.bw))
        bw = max(self._bw_latest, self._round_bw)
        if queued > STANDING_QUEUE and self.state in PROBE_BW and 0 < bw < COLLAPSED_BW * self.max_bw:
            # The rate has fallen, or the round trip grown, and the old model is worth nothing. Start from
            # what came through, and have PROBE_RTT tell which it was.
            self._max_bw_filter[1] = bw
            self._advance_max_bw_filter()
            self._collapsed = True
            self._probe_rtt_min_stamp = -math.inf

    def _reset_shortterm(self) -> None:
        self.bw_shortterm = self.inflight_shortterm = math.inf

    # The model

    def _update_max_bw(self, rate: float) -> None:
        if rate > self._round_bw:
            self._round_bw = rate
        if rate >= self.max_bw or not self._app_limited:
            recent = self._max_bw_filter
            if rate > recent[1]:
                recent[1] = rate
                if rate > self.max_bw:
                    self.max_bw = rate

    def _advance_max_bw_filter(self) -> None:
        recent = self._max_bw_filter
        if recent[1]:  # a cycle without a sample says nothing
            recent[0], recent[1] = recent[1], 0.0
            self.max_bw = recent[0]

    def _update_ack_aggregation(self, now: float, acked: int) -> None:
        """Learn how far acknowledgements run ahead of `bw`: the flight must last until the next bunch."""
        expected = self.bw * (now - self._extra_acked_start)
        if self._extra_acked_delivered <= expected:
            self._extra_acked_delivered = 0
            self._extra_acked_start = now
            expected = 0.0
        self._extra_acked_delivered += acked
        extra = min(self._extra_acked_delivered - expected, self.cwnd)
        recent = self._extra_acked_filter
        if extra > recent[1]:
            recent[1] = extra
            if extra > self.extra_acked:
                self.extra_acked = extra

    def _advance_extra_acked_filter(self) -> None:
        self._extra_acked_rounds += 1
        if self._extra_acked_rounds >= EXTRA_ACKED_FILTER_ROUNDS or not self.full_bw_reached:
            recent = self._extra_acked_filter
            recent[0], recent[1] = recent[1], 0.0
            self.extra_acked = recent[0]
            self._extra_acked_rounds = 0

    def _update_min_rtt(self, now: float, rtt: float) -> None:
        if self.min_rtt == math.inf:  # now it is known what rate the initial window stands for
            self.pacing_rate = self.pacing_gain * self.cwnd / max(rtt, LOCAL_RTT)
        self._probe_rtt_expired = now > self._probe_rtt_min_stamp + PROBE_RTT_INTERVAL
        if rtt < self._probe_rtt_min_delay or self._probe_rtt_expired:
            self._probe_rtt_min_delay = rtt
            self._probe_rtt_min_stamp = now
        elif rtt <= self.min_rtt * EMPTY_QUEUE:
            self._probe_rtt_min_stamp = now
        if self._probe_rtt_min_delay <= self.min_rtt or now > self._min_rtt_stamp + MIN_RTT_FILTER_LEN:
            self.min_rtt = self._probe_rtt_min_delay
            self._min_rtt_stamp = self._probe_rtt_min_stamp

    def _bdp(self) -> float:
        return self.bw * max(self.min_rtt, LOCAL_RTT) if self.min_rtt < math.inf else self.cwnd

    def _inflight(self, gain: float) -> float:
        return max(gain * self._bdp(), MIN_PIPE_PACKETS * self.mtu)

    def _inflight_with_headroom(self) -> float:
        return max((1 - HEADROOM) * self.inflight_longterm, MIN_PIPE_PACKETS * self.mtu)

    # The state machine

    def _enter(self, state: State) -> None:
        self.state = state
        self.pacing_gain, self.cwnd_gain = GAINS[state]

    def _update_state(self, sample: AckSample, round_start: bool) -> None:
        now, in_flight, state = sample.now, sample.in_flight, self.state
        if state is State.STARTUP:
            if self.full_bw_reached:
                self._enter(State.DRAIN)
                self._drain_rounds = 0
            return
        if state is State.DRAIN:
            self._drain_rounds += round_start
            if in_flight <= self._inflight(1.0) or self._drain_rounds > DRAIN_ROUNDS:
                self._start_probe_bw_down(now)
            return
        if self._probe_stopping and round_start and self._stop_probe_samples(now):
            return
        if state is State.PROBE_BW_DOWN or state is State.PROBE_BW_CRUISE:
            if self._is_time_to_probe_bw(now):
                self._start_probe_bw_refill(now)
            elif (
                state is State.PROBE_BW_DOWN
                and in_flight <= self._inflight_with_headroom()
                and in_flight <= self._inflight(1.0)
            ):
                self._enter(State.PROBE_BW_CRUISE)
        elif state is State.PROBE_BW_REFILL:
            if round_start:
                self._start_probe_bw_up()
        elif state is State.PROBE_BW_UP:
            self._probe_up(sample, round_start)

    def _start_probe_bw_down(self, now: float) -> None:
        self._enter(State.PROBE_BW_DOWN)
        self._probe_stopping = True
        self._rounds_since_probe = self._rng.randint(0, 1)
        wait = PROBE_WAIT_TOO_HIGH if self._prev_probe_too_high else PROBE_WAIT
        self._probe_wait = max(wait + self._rng.random(), PROBE_WAIT_MIN_RTTS * self.min_rtt)
        self._cycle_stamp = now
        self._start_round(now)

    def _is_time_to_probe_bw(self, now: float) -> bool:
        reno_rounds = min(self._bdp() / self.mtu, self.cwnd / self.mtu, PROBE_WAIT_ROUNDS)
        return self._rounds_since_probe >= reno_rounds or now > self._cycle_stamp + self._probe_wait

    def _start_probe_bw_refill(self, now: float) -> None:
        self._enter(State.PROBE_BW_REFILL)
        self._reset_shortterm()
        self._prev_probe_precautionary = False
        self._probe_stopping = False
        self._start_round(now)

    def _start_probe_bw_up(self) -> None:
        """A round of REFILL ended just now, so a new one has begun."""
        self._enter(State.PROBE_BW_UP)
        self._is_bw_probe_sample = True
        self._probe_up_slope = self.mtu
        self._reset_full_bw(self._bw_latest)

    def _probe_up(self, sample: AckSample, round_start: bool) -> None:
        overfull = self._queued > STANDING_QUEUE and self._full_bw_rounds >= PROBE_UP_QUEUED_ROUNDS
        if self._prev_probe_too_high and sample.in_flight >= self.inflight_longterm:
            self._prev_probe_precautionary = True
        elif not (overfull or self._full_bw_now):
            if self._cwnd_limited and self.cwnd + self.mtu > self.inflight_longterm:
                # inflight_longterm, not the path, is the limit: raise it by 1, 2, 4… packets a round.
                self._reset_full_bw(self._bw_latest)
                self.inflight_longterm += sample.acked * self._probe_up_slope / self.cwnd
                if round_start:
                    self._probe_up_slope *= 2
            return
        self._prev_probe_too_high = False
        self._start_probe_bw_down(sample.now)

    def _stop_probe_samples(self, now: float) -> bool:
        """The round after a probe is over, and with it what it could teach. True if it probes again."""
        self._probe_stopping = self._is_bw_probe_sample = False
        if self.state not in PROBE_BW:
            return False
        if not self._app_limited:
            self._advance_max_bw_filter()
        again = self._prev_probe_precautionary and not self._prev_probe_too_high
        if again:
            self._start_probe_bw_refill(now)
        return again

    def _handle_inflight_too_high(self, now: float) -> None:
        self._prev_probe_too_high = True
        self._is_bw_probe_sample = False  # react once a probe
        if not self._app_limited:
            delivered = max(self._inflight_latest, self._round_delivered)
            self.inflight_longterm = max(delivered, BETA * min(self._bdp(), self.cwnd))
        if self.state is State.PROBE_BW_UP:
            self._start_probe_bw_down(now)

    # PROBE_RTT

    def _check_probe_rtt(self, now: float, in_flight: int, round_start: bool) -> None:
        if self._probe_rtt_expired and self.state is not State.PROBE_RTT and not self._idle_restart:
            self._save_cwnd()
            self._enter(State.PROBE_RTT)
            self._probe_rtt_done_stamp = 0.0
            self._probe_stopping = True
            self._start_round(now)
        self._idle_restart = False
        if self.state is not State.PROBE_RTT:
            return
        if not self._probe_rtt_done_stamp:
            if in_flight <= self._inflight(self.cwnd_gain):
                self._probe_rtt_done_stamp = now + PROBE_RTT_DURATION
                self._probe_rtt_round_done = False
                self._start_round(now)
        else:
            self._probe_rtt_round_done |= round_start
            if self._probe_rtt_round_done:
                self._check_probe_rtt_done(now)

    def _check_probe_rtt_done(self, now: float) -> None:
        if self._probe_rtt_done_stamp and now > self._probe_rtt_done_stamp:
            self._probe_rtt_min_stamp = now
            if self._collapsed:
                self._collapsed = False
                self.min_rtt = self._probe_rtt_min_delay
                self._min_rtt_stamp = now
            self._restore_cwnd()
            self._reset_shortterm()
            if self.full_bw_reached:
                self._start_probe_bw_down(now)
                self._enter(State.PROBE_BW_CRUISE)
            else:
                self._enter(State.STARTUP)

    # The answers

    def _set_pacing_rate(self, gain: float) -> None:
        if self.min_rtt < LOCAL_RTT:
            self.pacing_rate = math.inf
        else:
            rate = gain * self.bw * PACING_MARGIN
            if self.full_bw_reached or rate > self.pacing_rate:
                self.pacing_rate = rate

    def _set_cwnd(self, acked: int, round_start: bool) -> None:
        if self._timed_out and round_start:  # what was sent since the timeout arrives
            self._timed_out = False
            if self.pacing_rate < math.inf:
                self._restore_cwnd()
        max_inflight = self._inflight(self.cwnd_gain) + self.extra_acked
        cwnd: float = self.cwnd
        if self.full_bw_reached:
            cwnd = min(cwnd + acked, max_inflight)
        elif cwnd < max_inflight:
            cwnd += acked

        cap = self.inflight_shortterm
        state = self.state
        if state is State.PROBE_RTT:
            cap = min(cap, self._inflight(self.cwnd_gain))
        if state is State.PROBE_RTT or state is State.PROBE_BW_CRUISE:
            cap = min(cap, self._inflight_with_headroom())
        elif state in PROBE_BW:
            cap = min(cap, self.inflight_longterm)
        self.cwnd = int(max(min(cwnd, cap), MIN_PIPE_PACKETS * self.mtu))

    def _save_cwnd(self) -> None:
        modulated = self._timed_out or self.state is State.PROBE_RTT
        self._prior_cwnd = max(self.cwnd, self._prior_cwnd) if modulated else self.cwnd

    def _restore_cwnd(self) -> None:
        self.cwnd = max(self.cwnd, self._prior_cwnd)
