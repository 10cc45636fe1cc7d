"""The controller that decides how much may be under way to one peer: `Governor`, without I/O.

A window of attempts in flight, paced, behind a breaker; first tries and retries pass the same one.

- It starts at `first_window` and grows by one with every success (the ramp) until the replies show a
  queue at the peer; from then on it grows by at most one in a round trip, and shrinks with the queue.
- What shows a queue. With feedback (`LoadReport` in the replies): the requests of a window waited there
  for more than `waited_share` of their service time. Without: their latency passes `congested` times the
  base, the latency without a queue. Latency is the integral of what was in flight over the window,
  divided by what passed (Little's law): the attempts still out count, so the first to answer do not hide
  the others. The base falls fast and rises slowly, and is looked for again by a short dip of the window.
- "busy" or a timeout cuts the window to `cut`, once in a round trip. A broken link, or five failures in a
  row, opens the breaker: one probe, after a jittered wait that doubles, then the ramp begins again.
- Sends are `pace` windows in a round trip (more in the ramp): there is no burst at line rate. A window
  below 1 is less than one attempt in a round trip; many senders can share a small server.
- It grows only when it was the limit; what a sender does not use shrinks slowly to `unused_window`.

- In the ramp a single reply that waited too long does not make the window grow, and few replies end it
  when what they say is plain: many senders may have begun together.

The ramp and the window come from TCP congestion control (Jacobson, 1988), the latency signal from Vegas
(Brakmo and Peterson, 1994), pacing and the dip from BBR (Cardwell et al., 2016). A load report is believed
as far as it fits what was seen here; a peer that hides its queue gets more of its own requests at most,
and "busy", timeouts and broken links count whatever it says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal, NamedTuple

from p2p.adaptive.circuit_breaker import Breaker, BreakerSettings, BreakerState
from p2p.flow.load import LoadReport, Outcome

Kind = Literal["ramp", "grow", "cut", "dip", "breaker"]
"""`ramp`: the ramp has ended. Its steps are not told one by one."""


class FlowEvent(NamedTuple):
    """A change and its reason. `at` is the governor's `now`; `window` is what it is from now on."""

    at: float
    kind: Kind
    reason: str
    window: float


@dataclass(frozen=True)
class GovernorSettings:
    """Windows in attempts in flight, times in seconds."""

    first_window: float = 4.0
    least_window: float = 0.05
    most_window: float = 1024.0
    first_round_trip_s: float = 0.15  # a guess for the pace of the first few
    pace: float = 1.25  # windows sent in a round trip
    ramp_pace: float = 2.0
    congested: float = 2.0  # of the base, without feedback
    settle: float = 1.5  # of the base: what a shrinking window aims at
    waited_share: float = 0.75  # of the service time, with feedback
    settle_share: float = 0.4
    cut: float = 0.6  # the window after "busy" or a timeout, and the most one step takes
    least_replies: int = 4  # of a window that is judged
    plain_replies: int = 3  # of a shorter one, when it shows `plain` times what is congested
    plain: float = 1.6
    unused_window: float = 2.0  # what the window of a sender with little to send comes down to
    dip_every_s: float = 4.0  # without feedback, while it is the limit
    dip: float = 0.5
    failures_in_a_row: int = 5
    first_wait_s: float = 0.25  # of the breaker
    longest_wait_s: float = 5.0
    probe_lease_s: float = 5.0  # a probe that reports nothing for so long is given up

    def __post_init__(self) -> None:
        if not 0 < self.least_window <= self.first_window <= self.most_window:
            raise ValueError("0 < least_window <= first_window <= most_window")
        if not 0 < self.cut < 1 or not 0 < self.dip < 1:
            raise ValueError("cut and dip are above 0 and below 1")


class Governor:
    """Ask `ready`, report `on_send` and `on_result`. `on_event` hears of every change.

        wait = governor.ready(now)            # 0: send now; a time: ask again then; inf: after a result
        tag = governor.on_send(now)
        governor.on_result(now, tag, "ok", load)

    Every tag is reported once, by `on_result` or `on_cancel`.
    """

    __slots__ = (
        "_area",
        "_area_at",
        "_base",
        "_completed",
        "_cut_at",
        "_dip_at",
        "_dipped_from",
        "_dipping",
        "_goal",
        "_latency",
        "_least",
        "_limited",
        "_most_out",
        "_next_send",
        "_on_event",
        "_ramp",
        "_reported",
        "_rng",
        "_sent",
        "_sent_at",
        "_served",
        "_settings",
        "_waited",
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
        self._window = settings.first_window
        self._ramp = True
        self._latency = settings.first_round_trip_s
        self._base: float | None = None
        self._least = inf  # latency of one reply in this ramp
        self._sent_at: dict[int, float] = {}
        self._next_send: float | None = None
        self._cut_at = -inf
        self._dip_at = -inf
        self._dipping = 0  # windows of replies until the dip is over
        self._dipped_from = 0.0
        self._most_out = 0  # in flight at once, in this window of replies
        self._area = self._area_at = 0.0
        self._begin(0.0)

    # What it shows

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
        """Latency of the last window of replies."""
        return self._latency

    @property
    def base_s(self) -> float | None:
        """Latency without a queue, as far as it is known; not used with feedback."""
        return self._base

    def rate(self) -> float:
        """Attempts a second that the pace allows now."""
        gain = self._settings.ramp_pace if self._ramp else self._settings.pace
        return gain * self._window / self._latency

    # What drives it

    def ready(self, now: float) -> float:
        """0 if an attempt may be sent now, else when to ask again (inf: after the next result).

        Ask only when there is something to send: to be told to wait is what makes the window grow.
        """
        breaker = self.breaker
        if not breaker.closed:
            if breaker.allows(now):
                return 0.0
            # A little later than `until`: the breaker's own sum may round up.
            until = breaker.until + 1e-6
            return until if now < until else now + self._settings.probe_lease_s
        window = self._window
        if len(self._sent_at) >= (window if window > 1.0 else 1.0):
            self._limited = True
            return inf
        if self._next_send is None:  # many may start together: not at the same moment
            self._next_send = now + self._rng.random() / self.rate()
        if now < self._next_send:
            self._limited = True
            return self._next_send
        return 0.0

    def on_send(self, now: float) -> int:
        """An attempt is sent; its tag."""
        out = len(self._sent_at)
        self._area += out * (now - self._area_at)
        self._area_at = now
        tag = self.breaker.on_send(now)
        self._sent_at[tag] = now
        self._sent += 1
        self._most_out = max(self._most_out, out + 1)
        interval = 1.0 / self.rate()
        due = now if self._next_send is None else self._next_send
        # A turn that came late may be made up for, but not by more than one.
        self._next_send = max(due, now - interval) + interval
        return tag

    def on_cancel(self, now: float, tag: int) -> None:
        """The attempt was given up by its caller: no evidence."""
        self._take(now, tag)
        self.breaker.on_cancel(tag)

    def on_result(
        self, now: float, tag: int, outcome: Outcome, load: LoadReport | None = None
    ) -> None:
        """An attempt ended. `load`: what the reply said, if it said anything."""
        sent = self._take(now, tag)
        ok = outcome == "ok"
        was_closed = self.breaker.closed
        self.breaker.on_result(now, tag, ok, 1 if outcome == "reset" else None)
        if not (was_closed and self.breaker.closed):
            return  # the window begins anew when the breaker closes
        if not ok:
            self._cut(now, sent, outcome)
            return
        self._completed += 1
        if load is not None and self.feedback and 0.0 <= load.waited_s <= now - sent:
            self._reported += 1
            self._waited += load.waited_s
            self._served += min(max(0.0, load.served_s), now - sent)
        if self._ramp and self._limited and not self._queued(now - sent, load):
            self._window = min(self._settings.most_window, self._window + 1.0)
        if self._completed >= self._goal or (
            self._completed >= max(self._settings.plain_replies, self._window) and self._plain()
        ):
            self._judge(now)

    # How it decides

    def _take(self, now: float, tag: int) -> float:
        self._area += len(self._sent_at) * (now - self._area_at)
        self._area_at = now
        return self._sent_at.pop(tag)

    def _begin(self, now: float) -> None:
        """A new window of replies to judge by."""
        self._area = 0.0
        self._area_at = now
        self._sent = self._completed = self._reported = 0
        self._waited = self._served = 0.0
        self._limited = False
        self._most_out = 0
        least, window = self._settings.least_replies, self._window
        self._goal = round(max(window, min(2 * least, least + window)))

    def _queued(self, latency: float, load: LoadReport | None) -> bool:
        """Return True if this reply alone speaks against growing. Many senders may have begun together, and a
        whole window of replies is late to find out.
        """
        self._least = min(self._least, latency)
        if load is not None and self.feedback:
            return load.waited_s > self._settings.waited_share * load.served_s
        return latency > 3.0 * self._least

    def _plain(self) -> bool:
        """Return True if few replies are enough, because what they say is so clear."""
        settings = self._settings
        if self._base is None or 2 * self._reported >= self._completed:
            return False
        latency = 2 * self._area / (self._sent + self._completed)
        return latency > settings.plain * settings.congested * self._base

    def _judge(self, now: float) -> None:
        settings = self._settings
        passed = (self._sent + self._completed) / 2  # while it grows, more went in than came out
        latency = self._latency = max(1e-6, self._area / passed)
        by_report = 2 * self._reported >= self._completed and self._served > 0.0
        if by_report:
            waited = self._waited / self._reported
            served = self._served / self._reported
            congested = waited > settings.waited_share * served
            aim = (max(0.0, latency - waited) + settings.settle_share * served) / latency
            why = f"requests waited {waited * 1000:.0f} ms for {served * 1000:.0f} ms of service"
        else:
            base = self._learn_base(now, latency)
            congested = latency > settings.congested * base
            aim = settings.settle * base / latency
            why = f"replies take {latency * 1000:.0f} ms, {base * 1000:.0f} ms without a queue"
            if self._dipping:  # only looking; then back to the window from before
                self._dipping -= 1
                if not self._dipping:
                    self._window = self._dipped_from
                self._begin(now)
                return
        if self._limited and not self._ramp and not by_report and self._dip_is_due(now):
            self._begin(now)
            return
        if congested:
            kind: Kind = "ramp" if self._ramp else "cut"
            self._ramp = False
            self._set(now, kind, max(settings.cut, min(1.0, aim)) * self._window, why)
        elif not self._limited:  # not used: no proof any more that so much would go well
            least = min(self._window, max(settings.unused_window, 1.5 * self._most_out))
            self._window = max(least, 0.9 * self._window)
        elif not self._ramp:
            step = min(1.0, 0.1 + 0.1 * self._window)
            self._set(now, "grow", self._window + step, why)
        self._begin(now)

    def _learn_base(self, now: float, latency: float) -> float:
        """Follow the latency without a queue."""
        if self._base is None:  # many may have begun together: the first to answer saw no queue
            self._base = min(latency, 2.0 * self._least)
            self._dip_at = now
        elif latency < self._base:
            self._base += 0.5 * (latency - self._base)
        elif self._dipping != 2:  # the first window of a dip still sees the old queue
            self._base += (0.3 if self._dipping else 0.01) * (latency - self._base)
        return self._base

    def _dip_is_due(self, now: float) -> bool:
        settings = self._settings
        if self._base is None or now - self._dip_at < settings.dip_every_s or self._window < 2.0:
            return False
        self._dip_at = now
        self._dipping = 2
        self._dipped_from = self._window
        self._set(now, "dip", settings.dip * self._window, "to see the latency without a queue")
        return True

    def _cut(self, now: float, sent: float, outcome: Outcome) -> None:
        if sent < self._cut_at:
            return  # sent before the last cut: the same overload
        self._cut_at = now
        self._ramp = False
        self._dipping = 0
        why = "refused as busy" if outcome == "busy" else "no answer in time"
        self._set(now, "cut", self._settings.cut * self._window, why)
        self._begin(now)

    def _set(self, now: float, kind: Kind, window: float, reason: str) -> None:
        settings = self._settings
        window = min(settings.most_window, max(settings.least_window, window))
        if window != self._window:
            self._window = window
            self._tell(now, kind, reason)

    def _on_breaker(self, now: float, old: BreakerState, new: BreakerState, reason: str) -> None:
        if new is BreakerState.CLOSED:
            self._window = self._settings.first_window
            self._ramp = True
            self._least = inf
            self._next_send = None
            self._dipping = 0
            self._cut_at = now
            self._begin(now)
        self._tell(now, "breaker", f"{old} to {new}: {reason}")

    def _tell(self, now: float, kind: Kind, reason: str) -> None:
        if self._on_event is not None:
            self._on_event(FlowEvent(now, kind, reason, self._window))
