"""Adaptive concurrency limit towards one peer: `Governor`, without I/O.

A window of attempts in flight, paced, behind a circuit breaker; first tries and retries pass the same one.

Theory of operation
-------------------
- The window grows in a ramp until replies show a queue at the peer; from then on it grows slowly while it is
  the limit, and shrinks with the queue. A window that is not used shrinks slowly to `unused_window`.
- With load reports (`LoadReport` in the replies) the queue is what the peer measured: congested means that the
  requests of a window waited there for more than `waited_share` of their service time. The ramp doubles the
  window, or adds one, for each reply that did not wait.
- Many senders may have begun together. The first report tells how many requests are at the peer besides; the
  window is divided by their number. While others are there, a sender of few attempts a second grows by less.
- After an outage the ramp ends at half of the window before it, so that senders who brought the peer down
  together do not do so again and again.
- Without load reports the queue is estimated from latencies (`LatencyControl`). Nothing is known at the start,
  so the first attempts go out slowly (`start_rate`, `start_window`), and each step of the ramp is checked.
- "busy" or a timeout cuts the window to `cut`, once in a round trip. A broken link, or five failures in a
  row, opens the breaker: one probe, after a jittered wait that doubles, then the ramp begins again.
- Sends are paced at `pace` windows in a round trip (more in the ramp), so there is no burst at line rate. A
  window below 1 is less than one attempt in a round trip; many senders can share a small server: it is the
  attempt's share of the time until the next one, so a single late reply delays the next attempt, and without
  load reports by more than in proportion.

Ramp and window come from TCP congestion control (Jacobson, 1988), pacing from BBR (Cardwell et al., 2016). A
load report is believed as far as it fits what was seen here; a peer that hides its queue gets more of its own
requests at most, and "busy", timeouts and broken links count whatever it reports.

Rules of this file: the governor owns window, pace and breaker; `LatencyControl` only advises. A change of the
window starts a new measurement of both kinds.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Literal, NamedTuple

from p2p.adaptive.circuit_breaker import Breaker, BreakerSettings, BreakerState
from p2p.flow.latency_control import LatencyControl, LatencySettings
from p2p.flow.load import LoadReport, Outcome

Kind = Literal["ramp", "grow", "cut", "dip", "breaker"]
"""`ramp`: end of the ramp, whose steps are not published. `dip`: begin or end of a probe for the base latency."""


class FlowEvent(NamedTuple):
    """A change and its reason. `at` is the governor's `now`; `window` is the new one."""

    at: float
    kind: Kind
    reason: str
    window: float


@dataclass(frozen=True)
class GovernorSettings:
    """Windows in attempts in flight, times in seconds."""

    first_window: float = 4.0
    outage_share: float = 0.5  # of the window before an outage, with which its ramp ends
    least_window: float = 0.05
    most_window: float = 1024.0
    first_round_trip_s: float = 0.15  # assumed after the first load report, until it is measured
    start_rate: float = 2.0  # attempts a second until the first replies are in
    start_window: float = 1.0  # and in flight
    pace: float = 1.25  # windows sent in a round trip
    ramp_pace: float = 2.0
    even_window: float = 16.0  # smaller windows are paced at nearly 1
    longest_pause_s: float = 2.0  # between the attempts of a window below 1 ...
    longest_late_pause_s: float = 5.0  # and after a late reply, without load reports
    late: float = 1.25  # of the mean latency; then a fraction of the window is rounded down
    waited_share: float = 0.75  # of the service time, with load reports
    settle_share: float = 0.6
    growth: float = (
        0.05  # of a window without a queue, with load reports; at least about one attempt
    )
    cut: float = 0.6  # the window after "busy" or a timeout, and the most one step takes
    least_replies: int = 4  # of a window that is judged
    unused_window: float = 2.0  # floor for the window of a sender with little to send
    failures_in_a_row: int = 5
    first_wait_s: float = 0.25  # of the breaker
    longest_wait_s: float = 5.0
    probe_lease_s: float = 5.0  # a probe without a result for so long is given up
    latency: LatencySettings = field(default_factory=LatencySettings)

    def __post_init__(self) -> None:
        if not 0 < self.least_window <= self.first_window <= self.most_window:
            raise ValueError("0 < least_window <= first_window <= most_window")
        if not 0 < self.cut < 1:
            raise ValueError("cut must be above 0 and below 1")
        if self.start_rate <= 0 or self.start_window < 1:
            raise ValueError("start_rate must be above 0, start_window at least 1")


class Governor:
    """Call `ready` before, `on_send` and `on_result` for every attempt. `on_event` receives every change.

        wait = governor.ready(now)            # 0: send now; a time: check then; inf: after a result
        tag = governor.on_send(now)
        governor.on_result(now, tag, "ok", load)

    Every tag is reported once, by `on_result` or `on_cancel`. `feedback=False` ignores load reports.
    """

    __slots__ = (
        "_area",
        "_area_at",
        "_completed",
        "_control",
        "_cut_at",
        "_goal",
        "_informed",
        "_latency",
        "_limited",
        "_most_out",
        "_next_send",
        "_on_event",
        "_ramp",
        "_recent",
        "_reopening",
        "_reported",
        "_reports",
        "_rng",
        "_sent",
        "_sent_at",
        "_served",
        "_settings",
        "_threshold",
        "_waited",
        "_was_limited",
        "_window",
        "breaker",
        "feedback",
    )

    def __init__(
        self,
        settings: GovernorSettings | None = None,
        *,
        rng: random.Random,
        feedback: bool = True,
        on_event: Callable[[FlowEvent], None] | None = None,
    ) -> None:
        self._settings = settings = settings or GovernorSettings()
        self._rng = rng
        self.feedback = feedback
        self._on_event = on_event
        self.breaker = Breaker(
            BreakerSettings(
                failure_threshold=settings.failures_in_a_row,
                first_share=settings.first_wait_s / settings.longest_wait_s,
                cooldown_s=settings.longest_wait_s,
                failure_rate=2.0,  # never by a share: the window answers that
                successes_to_close=1,
                lease_s=settings.probe_lease_s,
            ),
            rng=rng,
            on_change=self._on_breaker,
        )
        self._control = LatencyControl(settings.latency)
        self._window = settings.first_window
        self._ramp = True
        self._latency = settings.first_round_trip_s
        self._recent = (0.0, 0.0, 0.0)  # latencies of the last replies without a load report
        self._reports = False  # a load report was received since the breaker closed
        self._informed = False  # a load report was ever received
        self._threshold = inf  # the ramp after an outage ends here
        self._reopening = settings.first_window  # window with load reports after an outage
        self._sent_at: dict[int, float] = {}
        self._next_send: float | None = None
        self._cut_at = -inf
        self._most_out = 0  # in flight at once, in this window of replies
        self._was_limited = False  # in this cohort of the latency control
        self._area = self._area_at = 0.0
        self._restart(0.0)

    # State

    @property
    def window(self) -> float:
        return self._window

    @property
    def in_flight(self) -> int:
        return len(self._sent_at)

    @property
    def ramping(self) -> bool:
        return self._ramp

    @property
    def round_trip_s(self) -> float:
        """Mean latency now, as far as it is known."""
        return self._latency

    @property
    def base_s(self) -> float | None:
        """Mean latency without a queue, as far as it is known; not used with load reports."""
        return self._control.mean_without_queue if self._control.known else None

    @property
    def _starting(self) -> bool:
        """Nothing is known about the peer."""
        return not self._reports and not self._control.known

    def rate(self) -> float:
        """Attempts a second that the pace allows now."""
        settings = self._settings
        if self._starting:
            return settings.start_rate
        # The window has whole attempts, so for a small one only the pace keeps its fraction.
        gain = settings.ramp_pace if self._ramp else settings.pace
        gain = min(gain, 1.0 + self._window / settings.even_window)
        if self._reports:
            return gain * self._window / self._latency
        # The last replies count when all of them were later than the mean: a queue is growing.
        return gain * self._window / max(self._latency, min(self._recent))

    # Input

    def ready(self, now: float) -> float:
        """Return 0 if an attempt may be sent now, else the time of the next check (inf: after the
        next result).

        Ask only when there is something to send: a refused check is what lets the window grow.
        """
        breaker = self.breaker
        if not breaker.closed:
            if breaker.allows(now):
                return 0.0
            # A little later than `until`: the breaker's own sum may round up.
            until = breaker.until + 1e-6
            return until if now < until else now + self._settings.probe_lease_s
        window = self._window
        if self._starting:
            window = min(window, self._settings.start_window)
        out = len(self._sent_at)
        if out >= (window if window > 1.0 else 1.0) or (out > window - 1.0 and self._is_late(now)):
            self._limited = True
            return inf
        if self._next_send is None:  # many may start together: not at the same moment
            self._next_send = now + 0.25 * self._rng.random() / self.rate()
        if now < self._next_send:
            self._limited = True
            return self._next_send
        return 0.0

    def _is_late(self, now: float) -> bool:
        """True if a reply is late: then the fraction of the window is not rounded up."""
        if self._reports or not self._sent_at:
            return False
        oldest = next(iter(self._sent_at.values()))
        return now - oldest > self._settings.late * self._latency

    def on_send(self, now: float) -> int:
        """Record an attempt and return its tag."""
        out = len(self._sent_at)
        self._area += out * (now - self._area_at)
        self._area_at = now
        tag = self.breaker.on_send(now)
        self._sent_at[tag] = now
        self._control.on_send(now, tag)
        self._sent += 1
        self._most_out = max(self._most_out, out + 1)
        interval = 1.0 / self.rate()
        due = now if self._next_send is None else self._next_send
        # A late send may catch up by one turn, not more.
        self._next_send = max(due, now - interval) + interval
        return tag

    def on_cancel(self, now: float, tag: int) -> None:
        """Forget an attempt that its caller gave up: no evidence."""
        self._take(now, tag)
        self._control.on_end(tag)
        self.breaker.on_cancel(tag)

    def on_result(
        self, now: float, tag: int, outcome: Outcome, load: LoadReport | None = None
    ) -> None:
        """Record the end of an attempt. `load`: the load report in the reply, if any."""
        settings = self._settings
        sent = self._take(now, tag)
        latency = now - sent
        if load is not None and not (self.feedback and 0.0 <= load.waited_s <= latency):
            load = None
        complete = False
        if outcome == "ok":
            complete = self._control.on_reply(now, tag, latency, load is not None)
        else:
            self._control.on_end(tag)
        was_closed = self.breaker.closed
        self.breaker.on_result(now, tag, outcome == "ok", 1 if outcome == "reset" else None)
        if not (was_closed and self.breaker.closed):
            # The window begins anew when the breaker closes. A probe's report spares the slow start.
            if load is not None and self.breaker.closed:
                self._reports = True
                self._meet_others(load)
            return
        if outcome != "ok":
            self._refused(now, sent, outcome)
            return
        self._completed += 1
        if load is not None:
            self._on_load(now, latency, load)
        else:
            self._recent = (self._recent[1], self._recent[2], latency)
        if complete:
            self._judge_latency(now)
        elif load is None and sent >= self._cut_at:
            self._judge_reply(now, latency)
        if self._completed >= self._goal:
            self._judge_window(now)
        if self._window < 1.0:
            # The attempt's share of the time until the next one: late replies slow down at once.
            pause, longest = latency / self._window, settings.longest_pause_s
            if load is None:
                # Many such senders must send less than the peer serves while its queue makes it slow.
                late = self._control.lateness(latency)
                pause *= late
                longest = settings.longest_late_pause_s if late > 1.0 else longest
            self._next_send = sent + min(pause, max(1.0 / self.rate(), longest))

    def _take(self, now: float, tag: int) -> float:
        self._area += len(self._sent_at) * (now - self._area_at)
        self._area_at = now
        return self._sent_at.pop(tag)

    def _on_load(self, now: float, latency: float, load: LoadReport) -> None:
        settings = self._settings
        if not self._reports:
            self._reports = True
            self._latency = max(settings.first_round_trip_s, latency - load.waited_s)
            self._meet_others(load)
            self._quicken(now)
        self._reported += 1
        self._waited += load.waited_s
        self._served += min(max(0.0, load.served_s), latency)
        waited = load.waited_s > settings.waited_share * load.served_s
        if self._ramp and self._limited and not waited:
            step = min(1.0, self._window)
            if load.in_flight > len(self._sent_at):  # of many, if it sends few a second
                step *= min(1.0, self._window / self._latency / settings.latency.ramp_rate)
            self._window = min(settings.most_window, self._window + step)
            self._ramp = self._window < self._threshold

    def _meet_others(self, load: LoadReport) -> None:
        """Divide the window by the requests of others at the first report: they may have begun together with this one."""
        if not self._informed:
            self._informed = True
            others = max(0, load.in_flight - len(self._sent_at))
            self._window = self._bounded(self._window / (1.0 + others))

    # Decisions

    def _begin(self, now: float) -> None:
        """Start a new window of replies to judge by."""
        self._area = 0.0
        self._area_at = now
        self._sent = self._completed = self._reported = 0
        self._waited = self._served = 0.0
        self._limited = False
        self._most_out = 0
        least, window = self._settings.least_replies, self._window
        self._goal = round(max(window, min(2 * least, least + window)))

    def _restart(self, now: float) -> None:
        """Judge by what is sent from now on."""
        self._begin(now)
        self._control.begin(self._window, self.rate(), ramp=self._ramp)

    def _quicken(self, now: float) -> None:
        """Bring the next send forward after the rate has risen."""
        if self._next_send is not None:
            self._next_send = min(self._next_send, now + 1.0 / self.rate())

    def _judge_window(self, now: float) -> None:
        """Judge a window of replies by their load reports, and by whether it was used."""
        settings = self._settings
        self._was_limited |= self._limited
        if not self._limited:  # not used: no proof any more that so much would go well
            least = min(self._window, max(settings.unused_window, 1.5 * self._most_out))
            self._window = max(least, 0.9 * self._window)
        if 2 * self._reported >= self._completed and self._served > 0.0:
            self._judge_load(now)
        self._begin(now)

    def _judge_load(self, now: float) -> None:
        settings = self._settings
        passed = (self._sent + self._completed) / 2  # while it grows, more went in than came out
        # Little's law: the attempts still out count, so the first to answer do not hide the others.
        latency = self._latency = max(1e-6, self._area / passed)
        waited = self._waited / self._reported
        served = self._served / self._reported
        why = f"requests waited {waited * 1000:.0f} ms for {served * 1000:.0f} ms of service"
        if waited > settings.waited_share * served:
            aim = (max(0.0, latency - waited) + settings.settle_share * served) / latency
            kind: Kind = "ramp" if self._ramp else "cut"
            self._ramp = False
            self._set(now, kind, max(settings.cut, min(1.0, aim)) * self._window, why)
        elif self._limited and not self._ramp:
            step = min(max(1.0, settings.growth * self._window), 0.1 + 0.1 * self._window)
            self._set(now, "grow", self._window + step, why)

    def _judge_latency(self, now: float) -> None:
        """Act on a complete cohort of the latency control."""
        control = self._control
        limited = self._was_limited or self._limited
        advice = control.judge(now, self._window, ramp=self._ramp, limited=limited)
        if advice is not None:
            self._latency = max(1e-6, control.mean)
            if advice.step == "ramp":
                self._window = self._bounded(advice.window)
            else:
                ended, self._ramp = self._ramp, False
                self._set(now, "ramp" if ended else advice.step, advice.window, advice.reason)
            self._quicken(now)
        self._was_limited = False
        control.begin(self._window, self.rate(), ramp=self._ramp)

    def _judge_reply(self, now: float, latency: float) -> None:
        """Act before a cohort is complete, on replies that leave no doubt."""
        keep = self._control.keep_after(latency, self._window, ramp=self._ramp)
        if keep < 1.0:
            self._cut_at = now
            self._ramp = self._ramp and self._control.is_small(self._window)
            self._set(now, "cut", keep * self._window, "replies are far too late")
            self._restart(now)

    def _refused(self, now: float, sent: float, outcome: Outcome) -> None:
        if sent < self._cut_at:
            return  # sent before the last cut: the same overload
        self._cut_at = now
        self._ramp = False
        why = "refused as busy" if outcome == "busy" else "no answer in time"
        self._set(now, "cut", self._settings.cut * self._window, why)
        self._restart(now)

    def _bounded(self, window: float) -> float:
        return min(self._settings.most_window, max(self._settings.least_window, window))

    def _set(self, now: float, kind: Kind, window: float, reason: str) -> None:
        window = self._bounded(window)
        if window != self._window:
            self._window = window
            self._publish(now, kind, reason)

    def _on_breaker(self, now: float, old: BreakerState, new: BreakerState, reason: str) -> None:
        if old is BreakerState.CLOSED:
            share = self._settings.outage_share
            self._threshold = share * self._window
            self._reopening = min(self._settings.first_window, self._threshold)
        if new is BreakerState.CLOSED:
            settings, control = self._settings, self._control
            control.restart(now)
            self._window = self._reopening
            self._latency = settings.first_round_trip_s
            if control.known:
                # Latencies are known, what the peer can take now is not: as slowly as at the start.
                self._latency = max(1e-6, control.mean_without_queue)
                self._window = min(self._window, settings.start_rate * self._latency)
                self._window = self._bounded(self._window)
            self._ramp = True
            self._reports = False
            self._recent = (0.0, 0.0, 0.0)
            self._next_send = None
            self._cut_at = now
            self._restart(now)
        self._publish(now, "breaker", f"{old} to {new}: {reason}")

    def _publish(self, now: float, kind: Kind, reason: str) -> None:
        if self._on_event is not None:
            self._on_event(FlowEvent(now, kind, reason, self._window))
