"""Governor: the window, the pace, the breaker. Against scripted servers, without I/O."""

from __future__ import annotations

import heapq
import random
from collections import deque
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.virtual.server_model import VirtualTime
from p2p.flow import BreakerState, FlowEvent, Governor, GovernorSettings, LoadReport, Outcome


def governor(feedback: bool = True, events: list[FlowEvent] | None = None) -> Governor:
    return Governor(
        rng=random.Random(1),
        feedback=feedback,
        on_event=None if events is None else events.append,
    )


class Bench(VirtualTime):
    """As much as the governor allows, to one worker pool with a queue. Deterministic service times."""

    def __init__(self, governor: Governor, *, workers: int = 10, service_s: float = 0.02) -> None:
        super().__init__()
        self.governor = governor
        self.service_s = service_s
        self.free = [0.0] * workers
        self.pending: dict[int, LoadReport] = {}
        self.sent: list[float] = []
        self.done: list[float] = []
        self.wanted = True

    def run(self, until: float) -> None:
        while True:
            at = self.governor.ready(self.now) if self.wanted else inf
            if at == 0.0:
                tag = self.governor.on_send(self.now)
                self.sent.append(self.now)
                start = max(self.now, heapq.heappop(self.free))
                end = start + self.service_s
                heapq.heappush(self.free, end)
                self.pending[tag] = LoadReport(start - self.now, self.service_s)
                self.at(end + 0.01, self._answered, tag)
                continue
            self.now = max(self.now, min(at, self.next_due, until))
            if self.next_due <= self.now:
                self.step()
            elif self.now >= until:
                return

    def _answered(self, tag: int) -> None:
        self.done.append(self.now)
        self.governor.on_result(self.now, tag, "ok", self.pending.pop(tag))

    def rate(self, start: float, end: float) -> float:
        return sum(1 for t in self.done if start <= t < end) / (end - start)


@pytest.mark.parametrize("feedback", [True, False])
def test_the_governor_fills_a_server_without_queueing_there(feedback: bool) -> None:
    bench = Bench(governor(feedback))
    bench.run(10.0)
    assert bench.rate(2.0, 10.0) > 430.0
    assert bench.governor.window < 60.0


@pytest.mark.parametrize("feedback", [True, False])
def test_the_governor_begins_small_and_ramps_up(feedback: bool) -> None:
    bench = Bench(governor(feedback))
    bench.run(3.0)
    counts = [sum(1 for t in bench.sent if i / 20 <= t < (i + 1) / 20) for i in range(60)]
    assert counts[0] <= 4
    assert max(counts[10 if feedback else 40 :]) >= 20
    assert sum(counts) <= 1.2 * 1500


@pytest.mark.parametrize("feedback", [True, False])
def test_there_is_no_burst_at_line_rate(feedback: bool) -> None:
    bench = Bench(governor(feedback))
    bench.run(5.0)
    bench.wanted = False
    bench.run(60.0)  # idle
    before = len(bench.sent)
    bench.wanted = True
    bench.run(60.02)
    assert len(bench.sent) - before <= 25
    together = max(sum(1 for t in bench.sent if s <= t < s + 0.001) for s in bench.sent)
    assert together <= 5  # the whole window is around 20


@pytest.mark.parametrize("feedback", [True, False])
def test_the_governor_follows_a_server_that_slows_down_and_recovers(feedback: bool) -> None:
    bench = Bench(governor(feedback))
    bench.run(4.0)
    bench.service_s = 0.1  # 100 a second
    bench.run(12.0)
    # Without load reports the base rises only by experiments.
    assert (80.0 if feedback else 70.0) < bench.rate(8.0, 12.0) <= 101.0
    assert max(load.waited_s for load in bench.pending.values()) < 0.2
    bench.service_s = 0.02
    bench.run(20.0)
    assert bench.rate(16.0, 20.0) > 400.0


def test_feedback_sees_a_queue_that_latency_alone_takes_for_normal() -> None:
    found = governor()
    now = 0.0
    found._ramp = False
    start = found.window
    for _ in range(30):  # never anything but 100 ms of waiting: there is no base to compare with
        while (at := found.ready(now)) > 0.0:
            now = at
        tag = found.on_send(now)
        now += 0.12
        found.on_result(now, tag, "ok", LoadReport(0.1, 0.02))
    assert found.window < start / 2


@pytest.mark.parametrize("outcome", ["busy", "timeout"])
def test_a_refusal_or_a_timeout_cuts_the_window_once_in_a_round_trip(outcome: Outcome) -> None:
    bench = Bench(governor())
    bench.run(2.0)
    found = bench.governor
    assert found.in_flight >= 4
    before = found.window
    tags = list(bench.pending)[:3]
    for tag in tags:
        found.on_result(2.0, tag, outcome)
    assert found.window == pytest.approx(0.6 * before)
    assert not found.ramping
    later = found.on_send(2.01)
    found.on_result(2.05, later, outcome)
    assert found.window == pytest.approx(0.36 * before)


def test_a_reset_opens_the_breaker_and_one_probe_at_a_time_goes() -> None:
    events: list[FlowEvent] = []
    found = governor(events=events)
    tags = [found.on_send(0.0) for _ in range(4)]
    found.on_result(0.01, tags[0], "reset")
    assert found.breaker.state(0.01) is BreakerState.OPEN
    until = found.ready(0.01)
    assert 0.1 <= until - 0.01 <= 0.4
    for tag in tags[1:]:  # the rest of the broken link is no new evidence
        found.on_result(0.02, tag, "reset")
    assert found.ready(0.02) == until
    assert found.ready(until) == 0.0
    probe = found.on_send(until)
    assert found.ready(until) > until
    found.on_result(until + 0.01, probe, "ok")
    assert found.breaker.closed
    assert found.ramping
    assert found.window == 2.0
    assert [e.kind for e in events] == ["breaker"] * 3


def test_the_ramp_after_an_outage_ends_at_half_of_the_window_before_it() -> None:
    bench = Bench(governor())
    bench.run(5.0)
    found = bench.governor
    before = found.window
    assert before > 10.0
    found.on_result(5.0, found.on_send(5.0), "reset")
    now = found.ready(5.0)
    found.on_result(now, found.on_send(now), "ok", LoadReport(0.0, 0.02))
    assert found.ramping
    assert found.window == 4.0
    while found.ramping:
        now = max(now + 0.02, found.ready(now) if found.ready(now) < inf else 0.0)
        found.ready(now)
        found.on_result(now, found.on_send(now), "ok", LoadReport(0.0, 0.02))
    assert before / 2 <= found.window <= before / 2 + 1.0


def test_each_outage_of_a_sender_that_learns_nothing_halves_its_next_window() -> None:
    found = governor()
    now, windows = 0.0, []
    for _ in range(4):
        found.on_result(now, found.on_send(now), "reset")
        now = found.ready(now)
        found.on_result(now, found.on_send(now), "ok", LoadReport(0.0, 0.02))
        windows.append(found.window)
    assert windows == [2.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("outage", [False, True])
def test_the_first_report_divides_the_window_by_the_requests_of_others(outage: bool) -> None:
    found = governor()
    now = 0.0
    if outage:
        found.on_result(now, found.on_send(now), "reset")
        now = found.ready(now)
    first = 4.0 / (2.0 if outage else 1.0)
    report = LoadReport(0.1, 0.02, in_flight=19)
    found.on_result(now + 0.2, found.on_send(now), "ok", report)
    assert found.window == pytest.approx(first / 20.0)
    found.on_result(now + 1.2, found.on_send(now + 1.0), "ok", report)
    assert found.window == pytest.approx(first / 20.0)


def test_a_sender_of_few_attempts_a_second_ramps_slowly_while_others_are_there() -> None:
    def ramp(others: int) -> float:
        found = governor()
        now = 0.0
        for number in range(6):
            now = max(now + 0.3, found.ready(now))
            load = LoadReport(0.0, 0.02, in_flight=others if number else 0)
            found._limited = True
            found.on_result(now + 0.02, found.on_send(now), "ok", load)
            found._window = min(found.window, 0.3)
        now += 0.3
        found._limited = True
        found.on_result(now + 0.02, found.on_send(now), "ok", LoadReport(0.0, 0.02, others))
        return found.window

    alone, among_others = ramp(0), ramp(5)
    assert alone == pytest.approx(0.6)
    assert 0.3 < among_others < 0.5


def test_failed_probes_wait_longer_each_time_up_to_five_seconds() -> None:
    found = governor()
    found.on_result(0.0, found.on_send(0.0), "reset")
    now, waits = 0.0, []
    for _ in range(12):
        until = found.ready(now)
        waits.append(until - now)
        now = until
        found.on_result(now, found.on_send(now), "reset")
    assert waits[0] <= 0.375
    assert all(w <= 5.0 for w in waits)
    assert sum(waits[-4:]) / 4 > 1.5


def test_five_failures_in_a_row_open_the_breaker() -> None:
    found = governor()
    for i in range(5):
        assert found.breaker.closed
        found.on_result(i + 0.5, found.on_send(float(i)), "timeout")
    assert found.breaker.state(4.5) is BreakerState.OPEN


def test_a_probe_that_never_reports_does_not_wedge_it() -> None:
    found = governor()
    found.on_result(0.0, found.on_send(0.0), "reset")
    now = found.ready(0.0)
    found.on_send(now)
    again = found.ready(now)
    assert now < again < inf
    assert found.ready(again) == 0.0


def test_an_attempt_given_up_by_its_caller_is_no_evidence() -> None:
    found = governor()
    for i in range(20):
        found.on_cancel(i + 0.5, found.on_send(float(i)))
    assert (found.window, found.in_flight) == (4.0, 0)
    assert found.breaker.closed


def test_a_window_below_one_is_a_share_of_the_time() -> None:
    found = governor()
    now = 0.0
    while found.base_s is None:
        now = max(now, found.ready(now))
        tag = found.on_send(now)
        now += 0.02
        found.on_result(now, tag, "ok")
    assert found.window == 0.5
    sent = now + 1.0
    found.on_result(sent + 0.03, found.on_send(sent), "ok")  # not late yet
    assert found.window < 1.0
    assert found.ready(sent + 0.03) == pytest.approx(sent + 0.03 / found.window)


def small_window(reports: bool) -> tuple[Governor, float]:
    """A governor with a window below 1 towards a peer that answers in 20 ms, and the time."""
    found = governor()
    now = 0.0
    for _ in range(1 if reports else 3):
        now = max(now, found.ready(now))
        tag = found.on_send(now)
        now += 0.02
        found.on_result(now, tag, "ok", LoadReport(0.0, 0.02) if reports else None)
    found._window = 0.5
    return found, now


def test_a_late_reply_delays_the_next_attempt_of_a_small_window_more_than_in_proportion() -> None:
    found, now = small_window(reports=False)
    sent = now + 1.0
    found.on_result(sent + 0.3, found.on_send(sent), "ok")  # a queue
    assert found.ready(sent + 0.3) > sent + 2.0 * 0.3 / found.window
    sent += 10.0
    found.on_result(sent + 4.0, found.on_send(sent), "ok")
    assert found.ready(sent + 4.0) == pytest.approx(sent + 5.0)  # no pause is longer


def test_with_load_reports_it_delays_it_in_proportion() -> None:
    found, now = small_window(reports=True)
    sent = now + 1.0
    found._ramp = False
    found.on_result(sent + 0.3, found.on_send(sent), "ok", LoadReport(0.28, 0.02))
    assert found.window < 1.0
    assert found.ready(sent + 0.3) == pytest.approx(sent + 0.3 / found.window)


def test_the_window_of_a_sender_with_little_to_send_does_not_grow() -> None:
    found = governor()
    for i in range(500):
        now = i * 0.1
        assert found.ready(now) == 0.0 or i == 0
        found.on_result(now + 0.03, found.on_send(now), "ok", LoadReport(0.0, 0.02))
    assert found.window <= 4.0


def test_a_window_below_one_is_less_than_one_attempt_in_a_round_trip() -> None:
    found = governor()
    found._ramp = False
    found._window = 0.2
    found._latency = 0.1
    found.on_result(0.1, found.on_send(0.0), "ok", LoadReport(0.0, 0.1))
    found._latency = 0.1
    found.on_cancel(0.5, found.on_send(0.5))
    assert found.ready(0.5) == pytest.approx(0.5 + 0.1 / ((1.0 + 0.2 / 16.0) * 0.2))
    tag = found.on_send(2.0)
    assert found.ready(2.0) == inf
    found.on_cancel(2.1, tag)


def test_reports_that_cannot_be_true_are_ignored() -> None:
    found = governor()
    now = 0.0
    for load in [(-1.0, 0.02), (99.0, 0.02), (float("nan"), 0.02), (0.0, float("nan"))] * 5:
        while (at := found.ready(now)) > 0.0:
            now = at
        tag = found.on_send(now)
        now += 0.03
        found.on_result(now, tag, "ok", LoadReport(*load))
    assert 0.05 <= found.window <= 1024.0
    assert found.rate() > 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.booleans())
def test_whatever_happens_the_window_holds_and_something_can_be_sent_again(
    seed: int, feedback: bool
) -> None:
    rng = random.Random(seed)
    found = Governor(rng=random.Random(seed), feedback=feedback)
    limits = GovernorSettings()
    out: deque[int] = deque()
    now = 0.0
    for _ in range(400):
        at = found.ready(now)
        if at == 0.0:
            was_closed = found.breaker.closed
            out.append(found.on_send(now))
            if was_closed:
                assert found.in_flight <= max(1.0, found.window) + 1.0
        elif out and rng.random() < 0.8:
            now += rng.expovariate(50.0)
            tag = out.popleft()
            outcome = rng.choices(("ok", "busy", "timeout", "reset"), (80, 10, 5, 5))[0]
            load = LoadReport(rng.random() * 0.2, 0.02) if rng.random() < 0.5 else None
            found.on_result(now, tag, outcome, load)  # type: ignore[arg-type]
        else:
            now = min(at, now + rng.expovariate(20.0))
        assert limits.least_window <= found.window <= limits.most_window
        assert found.in_flight == len(out)
    while out:
        found.on_cancel(now, out.popleft())
    for _ in range(3):  # at most: the breaker, a lease, the pace
        at = found.ready(now)
        if at == 0.0:
            break
        assert now < at < now + 60.0
        now = at
    assert found.ready(now) == 0.0


@pytest.mark.parametrize("wrong", [{"first_window": 0.01}, {"cut": 1.0}, {"start_rate": 0.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        GovernorSettings(**wrong)  # type: ignore[arg-type]
