"""LatencyControl: queueing delay and base from latencies, against a scripted peer without load reports."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest

from p2p.flow.latency_control import Advice, LatencyControl, LatencySettings


class Peer:
    """Sends cohort after cohort; latencies from a function of the window."""

    def __init__(self, latency: Callable[[float], float], window: float = 4.0) -> None:
        self.control = LatencyControl()
        self.latency = latency
        self.window = window
        self.now = 0.0
        self.tag = 0
        self.ramp = True
        self.steps: list[Advice] = []
        self.control.begin(window, 100.0, ramp=True)

    def cohorts(self, count: int, *, reported: bool = False) -> list[Advice]:
        """Requests one after the other until `count` cohorts are judged."""
        before = len(self.steps)
        judged = 0
        while judged < count:
            self.tag += 1
            self.control.on_send(self.now, self.tag)
            latency = self.latency(self.window)
            self.now += latency
            if self.control.on_reply(self.now, self.tag, latency, reported):
                judged += 1
                advice = self.control.judge(self.now, self.window, ramp=self.ramp, limited=True)
                if advice is not None:
                    self.steps.append(advice)
                    self.window = min(1024.0, advice.window)
                    self.ramp = advice.step == "ramp"
                self.control.begin(self.window, 100.0, ramp=self.ramp)
        return self.steps[before:]


def queued_beyond(capacity: float, served: Callable[[], float]) -> Callable[[float], float]:
    """A server whose latency grows with what the window has beyond `capacity` attempts."""
    return lambda window: served() * max(1.0, window / capacity)


@pytest.mark.parametrize("name", ["constant", "exponential", "one in ten slow", "heavy tail"])
def test_the_window_of_a_server_is_found_for_any_spread_of_its_times(name: str) -> None:
    rng = random.Random(1)
    served: dict[str, Callable[[], float]] = {
        "constant": lambda: 0.02,
        "exponential": lambda: rng.expovariate(50.0),
        "one in ten slow": lambda: 0.182 if rng.random() < 0.1 else 0.002,
        "heavy tail": lambda: 0.00667 * (1.0 - rng.random()) ** (-1 / 1.5),
    }
    base = {"constant": 0.0, "exponential": 0.005, "one in ten slow": 0.005, "heavy tail": 0.005}
    draw = served[name]

    def latency(window: float) -> float:
        queue = 0.02 * max(0.0, window / 10.0 - 1.0)
        return base[name] + draw() + queue

    peer = Peer(latency)
    peer.cohorts(60)
    windows = [advice.window for advice in peer.steps[-30:]]
    assert 8.0 < sum(windows) / len(windows) < 30.0
    assert min(windows) > 4.0


def test_the_first_cohort_sets_the_base_and_a_small_window() -> None:
    peer = Peer(lambda window: 0.02)
    assert not peer.control.known
    (first,) = peer.cohorts(1)
    assert (first.step, first.window) == ("ramp", 0.5)
    assert peer.control.mean_without_queue == pytest.approx(0.02)
    assert peer.control.mean_without_queue == pytest.approx(0.02)


def test_the_ramp_doubles_and_ends_with_a_dip() -> None:
    peer = Peer(queued_beyond(10.0, lambda: 0.02))
    steps = peer.cohorts(8)
    assert [advice.window for advice in steps[:5]] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert [advice.step for advice in steps[5:8]] == ["ramp", "dip", "dip"]
    assert steps[6].window < 10.0  # room for the queue to empty
    assert 8.0 <= steps[7].window <= 16.0


def test_a_long_way_makes_the_ramp_careful() -> None:
    peer = Peer(lambda window: 0.6)
    steps = peer.cohorts(20)
    assert steps[0].window == pytest.approx(1.2)  # two a second, as before
    growth = [b.window / a.window for a, b in itertools.pairwise(steps)]
    assert growth[0] == pytest.approx(1.0 + 2.0 / 10.0)  # a crowd of such senders may have begun
    assert growth == pytest.approx(sorted(growth))
    assert growth[-1] == pytest.approx(1.0 + 0.25 / 0.6)  # the most a step may add to the queue


def test_a_base_learned_in_a_queue_falls_with_the_dips() -> None:
    peer = Peer(lambda window: 0.2)
    peer.cohorts(1)
    peer.latency = lambda window: 0.02  # the queue of those who began together is gone
    peer.cohorts(2)
    assert peer.control.mean_without_queue == pytest.approx(0.02)


def test_latency_that_a_smaller_window_does_not_improve_becomes_the_base() -> None:
    peer = Peer(queued_beyond(10.0, lambda: 0.02))
    peer.cohorts(20)
    peer.latency = queued_beyond(10.0, lambda: 0.1)  # five times as slow
    peer.cohorts(60)
    assert peer.control.mean_without_queue == pytest.approx(0.1, rel=0.2)
    assert peer.window > 7.0


def test_a_small_window_hardly_raises_the_base() -> None:
    """Many senders share a queue that none of them can empty alone."""
    peer = Peer(lambda window: 0.02)
    peer.cohorts(1)
    peer.ramp = False
    peer.window = 0.5
    peer.control.begin(0.5, 25.0, ramp=False)
    peer.latency = lambda window: 0.5
    peer.cohorts(12)
    assert peer.window < 0.2
    assert peer.control.known
    assert peer.control.mean_without_queue < 0.15


def test_late_replies_in_a_row_cut_at_once_and_once_before_the_next_cohort() -> None:
    peer = Peer(lambda window: 0.02)
    peer.cohorts(8)
    control = peer.control
    keeps = [control.keep_after(0.3, 20.0, ramp=False) for _ in range(12)]
    assert keeps == [1.0] * 4 + [0.6] + [1.0] * 7
    peer.cohorts(1)
    control.keep_after(0.02, 20.0, ramp=False)
    for _ in range(4):
        assert control.keep_after(0.3, 20.0, ramp=False) == 1.0
    assert control.keep_after(0.3, 20.0, ramp=False) == 0.6


@pytest.mark.parametrize(("ramp", "keep"), [(True, 0.25), (False, 0.6)])
def test_three_late_replies_cut_a_small_window(ramp: bool, keep: float) -> None:
    peer = Peer(lambda window: 0.02)
    peer.cohorts(2)
    assert peer.control.is_small(1.0)
    assert [peer.control.keep_after(0.3, 1.0, ramp=ramp) for _ in range(3)] == [1.0, 1.0, keep]


def test_a_queue_shorter_than_the_slow_tenth_is_late_too() -> None:
    rng = random.Random(4)
    peer = Peer(lambda window: 0.91 if rng.random() < 0.1 else 0.01)
    peer.cohorts(30)
    queued = 0.5  # a slow reply takes longer than that
    keeps = [peer.control.keep_after(0.01 + queued, 20.0, ramp=False) for _ in range(5)]
    assert keeps == [1.0] * 4 + [0.6]


def test_small_windows_of_few_replies_a_second_grow_slowly() -> None:
    def step(round_trip: float) -> float:
        peer = Peer(lambda window: round_trip)
        peer.cohorts(2)
        peer.ramp, peer.window = False, 1.0
        peer.control.begin(1.0, 1.0 / round_trip, ramp=False)
        (advice,) = peer.cohorts(1)
        assert advice.step == "grow"
        return advice.window

    assert step(0.4) == pytest.approx(1.0 + 2.5 / 40.0)  # a fortieth of its 2.5 a second
    assert step(0.02) > 1.1


def test_a_long_way_allows_no_longer_queue_than_a_short_one() -> None:
    peer = Peer(lambda window: 0.3)
    peer.cohorts(3)
    peer.ramp, peer.window = False, 100.0
    peer.control.begin(100.0, 300.0, ramp=False)
    peer.latency = lambda window: 0.34
    (advice,) = peer.cohorts(1)
    assert advice.step == "cut"  # 40 ms, of 30 ms


def test_single_slow_replies_cut_nothing() -> None:
    rng = random.Random(4)
    peer = Peer(lambda window: 0.91 if rng.random() < 0.1 else 0.01)
    peer.cohorts(30)
    keeps = [peer.control.keep_after(peer.latency(1.0), 20.0, ramp=False) for _ in range(2000)]
    assert keeps.count(1.0) == len(keeps)


def test_cohorts_with_load_reports_are_left_to_those() -> None:
    peer = Peer(lambda window: 0.02)
    assert peer.cohorts(3, reported=True) == []
    assert not peer.control.known


def test_after_an_absence_the_base_is_kept() -> None:
    peer = Peer(lambda window: 0.02)
    peer.cohorts(5)
    peer.control.restart(peer.now)
    assert peer.control.mean_without_queue == pytest.approx(0.02)


def test_a_lasting_load_is_interrupted_by_dips() -> None:
    peer = Peer(queued_beyond(10.0, lambda: 0.02))
    while peer.now < 40.0:
        peer.cohorts(1)
    dips = [advice for advice in peer.steps if advice.step == "dip"]
    assert 8 <= len(dips) <= 20  # every five seconds, down and up again
    assert LatencySettings().dip_every_s == 5.0
