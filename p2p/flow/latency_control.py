"""Congestion control by latency alone, for peers that report no load: `LatencyControl`, without I/O.

Theory of operation
-------------------
A wide distribution of service times and a queue both make replies late; only the queue delays every request
alike. So the lower quantiles of a cohort's latencies are compared (`Latencies`), never a minimum of single
replies and never the mean of all.

- The base holds those quantiles without a queue; what a cohort is above them is queueing delay. The base falls
  with what is seen. It rises only by experiment: in a dip (a smaller window for one cohort), or when a cut of the
  window did not bring the latency down. What a smaller window does not improve is no queue of ours. With a
  small window that is weak evidence, since many senders may share the queue, so the base rises by little.
- A queue of `allowed` seconds keeps the server busy from one decision to the next: a share of the mean
  latency (30 ms at most, since a longer way needs no longer queue), more where latencies are spread (there a queue forms and empties by chance), more for a small
  window, so that senders with little take from senders with much, and one standard error of the estimate.
  What queues that come and go add to spread and error is limited, or queues would make room for queues.
- A cut aims at the window that gives the present throughput without the excess:
  `window * (mean - queue + allowed / 2) / mean`.
- The ramp doubles the window for each cohort without a queue, but grows by no more than what adds
  `overshoot_s` of queueing delay in the worst case, and by a quarter once any queue is seen.
- A sender of few attempts a second may be one of a hundred. Its cohorts take seconds, in which the queue of all
  grows unseen, so a step is limited by the rate: by a tenth of it in the ramp, a fortieth later.
- Senders that began together dip together, and a dip goes on while it pays: their common queue shows itself
  only when all make room.
- Cohorts take time where replies are few or slow. Several replies in a row that are each far later than the
  mean, or than the base's quantiles by more than service times explain, cut the window at once.

Estimating a base and probing for it come from Vegas (Brakmo and Peterson, 1994) and BBR (Cardwell et al.,
2016), the standing queue seen in the lower part of the delays from CoDel (Nichols and Jacobson, 2012), the aim
from FAST TCP (Jin, Wei and Low, 2004).

Rules of this file: cohorts contain only requests sent after the last change of the window, so call `begin`
after every change. The window belongs to the caller; `judge` advises.
"""

from __future__ import annotations

from math import hypot, sqrt
from typing import Literal, NamedTuple

import msgspec

from p2p.flow.cohort import Cohort, Latencies, LatencyTail

Step = Literal["ramp", "grow", "cut", "dip"]


class Advice(NamedTuple):
    """The next window, and the reason."""

    step: Step
    window: float
    reason: str


class LatencySettings(msgspec.Struct, frozen=True):
    """Times as shares of the mean latency without a queue, unless named `_s`."""

    # Queueing delay that is no congestion: the sum of
    allowed: float = 0.15
    most_allowed_s: float = 0.03  # the most that the former adds
    allowed_spread: float = 0.4  # times the tail of the latencies
    allowed_small: float = 0.15  # divided by the window
    most_small_s: float = 0.03  # as above
    certainty: float = 1.0  # standard errors
    most_spread: float = 4.0  # tail that counts, as a multiple of the base
    most_error: float = 0.25  # standard error that counts

    # Steps, as shares of the window
    growth: float = 0.1  # of a cohort
    most_growth: float = 3.0  # times that, after several cohorts without a queue or below 1
    least_growth: float = 0.05  # attempts
    cut: float = 0.6  # the most one step takes
    first_share: float = 0.125  # of the first window, after the first cohort
    overshoot_s: float = 0.25  # queueing delay that a step of the ramp may add
    # A sender of few attempts a second may be one of a hundred, and they grow by the rate divided by
    ramp_rate: float = 10.0  # in the ramp
    grow_rate: float = 40.0  # after it
    least_rate: float = 2.0  # counts as the rate of even slower ones

    # Cohorts, in replies
    start_replies: int = 3  # the first
    ramp_replies: int = 4  # in the ramp, at least
    most_ramp_replies: int = 16
    skip_whole: float = 8.0  # below this window the ramp leaves out a whole one, else half
    cohort_s: float = 0.5  # time that a small window may take for ...
    least_replies: int = 16
    most_replies: int = 64
    base_memory: int = 64
    block: int = 100  # for the tail
    tail_gain: float = 0.1

    # Replies in a row that are late enough to cut at once
    late: float = 1.25
    late_spread: float = 1.5  # times the tail, in addition
    late_slow_s: float = 0.15  # or later than the base's highest quantile by this ...
    late_slow: float = 2.0  # and by this many tails
    late_replies: int = 5
    small: float = 2.0  # a window that takes only ...
    late_replies_small: int = 3
    delaying: float = 1.5  # times as late, a single one delays the next attempt of a window below 1
    ramp_cut: float = 0.25  # what a cut in the ramp leaves of the window

    # The base
    dip: float = 0.75  # of the window that an empty queue would leave
    dip_again: float = 0.6
    most_dips: int = 4  # in a row
    dip_every_s: float = 5.0
    dip_every: float = 20.0  # and at least this many mean latencies apart
    gain: float = 0.5  # with which the base follows
    most_rise: float = 0.35  # in one step
    telling: float = 4.0  # smaller windows raise the base by less


class LatencyControl:
    """Report every request; `begin` after every change of the window; `judge` when `on_reply` is true."""

    __slots__ = (
        "_base",
        "_before",
        "_clean",
        "_cohort",
        "_dip_at",
        "_dips",
        "_late",
        "_late_cut",
        "_queue",
        "_settings",
        "_skip",
        "_tail",
        "_trial",
    )

    def __init__(self, settings: LatencySettings | None = None) -> None:
        self._settings = settings = settings or LatencySettings()
        self._base: Latencies | None = None
        self._queue = 0.0  # queueing delay of the last cohort
        self._tail = LatencyTail(settings.block, settings.tail_gain)
        self._late = 0  # late replies in a row
        self._late_cut = False  # since the last cohort
        self._clean = 0  # cohorts in a row without a queue to speak of
        self._dip_at = 0.0
        self._dips = 0  # in a row; 0: no dip now
        self._before = (0.0, 0.0)  # window and mean latency before the dip
        self._trial: tuple[float, float, float] | None = (
            None  # window, queue, mean at the first cut
        )
        self._skip = 0  # requests until the cohort begins
        self._cohort = Cohort(settings.start_replies)

    @property
    def known(self) -> bool:
        """True after the first cohort without load reports."""
        return self._base is not None

    @property
    def mean(self) -> float:
        """Mean latency now; 0 before the first cohort."""
        return self.mean_without_queue + self._queue

    @property
    def mean_without_queue(self) -> float:
        """Mean latency without a queue; 0 before the first cohort."""
        return 0.0 if self._base is None else self._base.low + self._tail.value

    def lateness(self, latency: float) -> float:
        """Latency of a reply as a multiple of one that delays a small window, at least 1."""
        if self._base is None:
            return 1.0
        return max(1.0, latency / (self._settings.delaying * self._late_from(self._base)))

    def is_small(self, window: float) -> bool:
        """True for a window that few late replies cut. Neither they nor a queue end its ramp."""
        return window <= self._settings.small

    def begin(self, window: float, rate: float, *, ramp: bool) -> None:
        """Judge by requests sent from now on."""
        settings = self._settings
        self._skip = 0
        if self._base is None:
            self._cohort = Cohort(settings.start_replies)
            return
        if ramp:
            sharp = self._base.error < 0.05 * self._base.low
            least: float = 2 if sharp else settings.ramp_replies
            # A window is sent before its last requests have filled the queue.
            self._skip = round(window if window < settings.skip_whole else 0.5 * window)
        else:
            least = min(settings.least_replies, rate * settings.cohort_s)
            least = max(settings.ramp_replies, least)
        most = settings.most_ramp_replies if ramp else settings.most_replies
        self._cohort = Cohort(round(min(most, max(least, window))))

    def restart(self, now: float) -> None:
        """The peer was away: what it takes is open, its latency without a queue is not."""
        self._dips = 0
        self._trial = None
        self._dip_at = now
        self._late = 0
        self._clean = 0
        self._tail.restart()

    def on_send(self, now: float, tag: int) -> None:
        if self._skip:
            self._skip -= 1
        else:
            self._cohort.on_send(now, tag)

    def on_end(self, tag: int) -> None:
        """Forget a request that failed or was given up."""
        self._tail.drop(tag)
        self._cohort.drop(tag)

    def on_reply(self, now: float, tag: int, latency: float, reported: bool) -> bool:
        """Record a reply. True if it is time to `judge`."""
        self._tail.on_reply(tag, latency)
        return self._cohort.on_reply(now, tag, reported)

    def keep_after(self, latency: float, window: float, *, ramp: bool) -> float:
        """Share of the window to keep after this reply: below 1 after several late replies in a row."""
        settings = self._settings
        if self._base is None or latency < self._late_from(self._base):
            self._late = 0
            return 1.0
        self._late += 1
        small = self.is_small(window)
        if self._late < (settings.late_replies_small if small else settings.late_replies):
            return 1.0
        if self._late_cut:
            return 1.0  # the cohort after the last cut shows first whether it helped
        self._late_cut = True
        self._late = 0
        return settings.ramp_cut if ramp else settings.cut

    def _late_from(self, base: Latencies) -> float:
        """Latency of a late reply: hardly any service takes so long, or few do and it is long in itself."""
        settings = self._settings
        tail = self._tail.value
        unsure = 1.0 + 2.0 / sqrt(base.replies)
        slow = max(settings.late_slow_s, settings.late_slow * tail)
        return min(
            unsure * (settings.late * self.mean_without_queue + settings.late_spread * tail),
            base.quantiles[-1] + unsure * slow,
        )

    def judge(self, now: float, window: float, *, ramp: bool, limited: bool) -> Advice | None:
        """Advise after a complete cohort. `limited`: the window was the limit. None: no change."""
        if self._cohort.reported:
            self._dips = 0
            return None
        settings = self._settings
        self._late_cut = False
        found = self._cohort.latencies()
        self._tail.add(now, self._cohort, found)
        base = self._base
        if base is None:
            self._base = found
            self._dip_at = now
            # No less than was sent until now.
            least = settings.least_rate * found.quantiles[0]
            return Advice("ramp", max(least, settings.first_share * window), "first replies")
        queue = found.delay_above(base)
        self._queue = max(0.0, queue)
        if self._dips:
            return self._dip_seen(now, base, found, window)
        allowed = self._allowed(window, base, found)
        why = f"queueing delay {1e3 * self._queue:.1f} ms, allowed {1e3 * allowed:.1f} ms"
        if queue > allowed:
            return self._congested(now, window, allowed, why, ramp)
        self._trial = None
        self._follow(base, found, ramp)
        if not limited:
            return None
        if ramp:
            return Advice("ramp", window * self._ramp_factor(base, found, window), why)
        if window >= 1.0 and self._dip_is_due(now):
            return self._dip(now, window)
        return Advice("grow", window + self._growth(window, queue, allowed), why)

    def _allowed(self, window: float, base: Latencies, found: Latencies) -> float:
        """Queueing delay that is no congestion."""
        settings = self._settings
        tail = min(self._tail.value, settings.most_spread * base.low)
        mean = base.low + tail
        own = min(found.error, settings.most_error * mean)
        if self.is_small(window):
            # By the base's spread: that of the cohort has the common queue of many senders in it, as it came and went.
            own = min(own, base.error * sqrt(base.replies / found.replies))
        error = hypot(base.error, own)
        return (
            min(settings.most_allowed_s, settings.allowed * mean)
            + settings.allowed_spread * tail
            + min(settings.most_small_s, settings.allowed_small * mean / window)
            + settings.certainty * error
        )

    def _rate(self, window: float) -> float:
        """Attempts a second that limit the growth."""
        return max(self._settings.least_rate, window / max(1e-6, self.mean))

    def _ramp_factor(self, base: Latencies, found: Latencies, window: float) -> float:
        """Growth in the ramp. In the worst case the queue of all senders grows like the window."""
        settings = self._settings
        overshoot = settings.overshoot_s / max(1e-6, base.low)
        factor = 1.0 + min(1.0, overshoot, self._rate(window) / settings.ramp_rate)
        error = hypot(found.error, base.error)
        return min(factor, 1.25) if self._queue > 2.0 * error + 0.02 * self.mean else factor

    def _growth(self, window: float, queue: float, allowed: float) -> float:
        """Growth after the ramp, in attempts: less with a queue, more after several clean cohorts."""
        settings = self._settings
        self._clean = self._clean + 1 if queue < 0.5 * allowed else 0
        times = settings.most_growth if window < 1.0 else 1.0 + self._clean / 4
        growth = settings.growth * min(settings.most_growth, times) * window
        most = window * self._rate(window) / settings.grow_rate
        growth = min(growth + settings.least_growth, most)
        return growth * (1.0 - max(0.0, queue) / allowed)

    def _congested(self, now: float, window: float, allowed: float, why: str, ramp: bool) -> Advice:
        settings = self._settings
        queue, mean = self._queue, self.mean
        self._clean = 0
        if self._trial is None:
            self._trial = (window, queue, mean)
        elif window <= settings.cut * self._trial[0]:
            before, was, mean_then = self._trial
            expected = min(was, (1.0 - window / before) * mean_then)
            self._trial = None
            if was - queue < 0.3 * expected:
                self._raise(queue, before)
                back = window * (before / window) ** min(1.0, before / settings.telling)
                return Advice("grow", back, "a smaller window did not bring the latency down")
        if ramp and not self.is_small(window):
            return self._dip(now, window)
        aim = (mean - queue + 0.5 * allowed) / mean
        kept = max(settings.cut, min(1.0, aim))
        return Advice("ramp" if ramp else "cut", kept * window, why)

    def _follow(self, base: Latencies, found: Latencies, ramp: bool) -> None:
        """Move the base after a cohort without congestion."""
        settings = self._settings
        difference = found.delay_above(base)
        error = hypot(found.error, base.error)
        young = base.replies < settings.base_memory
        if difference < -2.0 * error:
            # Shorter than the base: partly, since one cohort may be short by chance.
            self._base = found if ramp else base.moved(settings.gain * difference)
        elif (ramp and difference < 2.0 * base.error) or (young and difference < 2.0 * error):
            self._base = base.merged(found, settings.base_memory)
        elif difference < base.error:
            # Down by more than up: a standing queue must not become the base.
            self._base = base.moved((0.1 if difference < 0.0 else 0.02) * difference)

    def _raise(self, delay: float, window: float) -> None:
        """Move the base up, after a smaller window did not help."""
        settings = self._settings
        evidence = window / settings.telling
        gain = settings.gain * min(1.0, evidence)
        most = settings.most_rise * min(3.0, max(1.0, evidence)) * self.mean_without_queue
        rise = min(gain * delay, most)
        if self._base is not None:
            self._base = self._base.moved(rise)
            self._queue = max(0.0, self._queue - rise)

    def _dip_is_due(self, now: float) -> bool:
        settings = self._settings
        every = max(settings.dip_every_s, settings.dip_every * self.mean)
        return now - self._dip_at >= every

    def _dip(self, now: float, window: float) -> Advice:
        self._dip_at = now
        self._dips = 1
        self._before = (window, self.mean)
        empty = max(0.5, 1.0 - self._queue / self.mean)
        why = "to see the latency without a queue"
        return Advice("dip", window * empty * self._settings.dip, why)

    def _dip_seen(self, now: float, base: Latencies, found: Latencies, window: float) -> Advice:
        settings = self._settings
        difference = found.delay_above(base)
        significant = -difference > 2.0 * hypot(found.error, base.error)
        fell = significant and -difference > settings.allowed * self.mean_without_queue
        if fell:
            self._base = found
        elif difference < 2.0 * base.error:
            self._base = base.merged(found, settings.base_memory)
        else:
            self._raise(difference, self._before[0])
        self._dip_at = now
        if fell and self._dips < settings.most_dips:
            self._dips += 1
            why = "a smaller window made replies faster"
            return Advice("dip", window * settings.dip_again, why)
        self._dips = 0
        before, was = self._before
        aim = self.mean_without_queue + 0.5 * self._allowed(before, base, found)
        why = f"latency without a queue {1e3 * self.mean_without_queue:.1f} ms"
        return Advice("dip", before * min(1.0, aim / was), why)
