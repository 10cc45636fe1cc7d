from __future__ import annotations

import random

import pytest

from p2p.adaptive import (
    DEGRADED,
    HEALTHY,
    AdaptiveRouter,
    Hint,
    HintBook,
    HintPublisher,
    HintSettings,
)
from p2p.adaptive.health_hints import MAX_FACTOR, MAX_PEERS, MAX_PER_ORIGIN, MAX_VOICES


def test_a_hint_hurts_less_as_it_ages():
    book = HintBook()
    book.receive(0.0, "a", "p", DEGRADED)
    factors = [book.factor(t, "p", 0.0) for t in (0.0, 5.0, 10.0, 30.0, 59.0, 60.0)]
    assert factors == sorted(factors, reverse=True)
    assert factors[0] == pytest.approx(2.0)
    assert factors[2] == pytest.approx(
        1.5
    )  # GOSSIP_DECAY_FACTOR is left after a sixth of the lifetime
    assert factors[-1] == 1.0


def test_degraded_raises_the_cost_and_healthy_takes_it_back_both_bounded():
    book = HintBook()
    book.receive(0.0, "a", "p", DEGRADED)
    worse = book.factor(0.0, "p", 0.0)
    book.receive(0.0, "b", "p", HEALTHY)
    assert 1.0 <= book.factor(0.0, "p", 0.0) < worse
    for i in range(100):
        book.receive(0.0, f"h{i}", "p", HEALTHY)
    assert book.factor(0.0, "p", 0.0) == 1.0
    assert -1.0 <= book.advice(0.0, "p") <= 1.0


def test_an_origins_latest_hint_replaces_its_earlier_one():
    book = HintBook()
    for _ in range(50):
        book.receive(0.0, "a", "p", DEGRADED)
    assert book.factor(0.0, "p", 0.0) == pytest.approx(2.0)
    book.receive(1.0, "a", "p", HEALTHY)
    assert book.advice(1.0, "p") < 0


def test_a_thousand_origins_weigh_no_more_than_the_bound():
    book = HintBook()
    for i in range(1000):
        book.receive(0.0, f"liar{i}", "p", DEGRADED)
    assert book.factor(0.0, "p", 0.0) <= MAX_FACTOR
    assert sum(1 for _ in book.listed(0.0)) <= MAX_VOICES


def test_each_recent_own_success_halves_the_weight_of_hints():
    book = HintBook()
    for i in range(1000):
        book.receive(0.0, f"liar{i}", "p", DEGRADED)
    excess = [book.factor(0.0, "p", good) - 1.0 for good in (0.0, 1.0, 2.0, 8.0)]
    assert excess[1] == pytest.approx(excess[0] / 2)
    assert excess[2] == pytest.approx(excess[0] / 4)
    assert excess[3] == 0.0


def test_memory_is_bounded_for_any_number_of_senders():
    book = HintBook()
    for i in range(5000):
        book.receive(float(i) / 1000, f"o{i}", f"p{i}", DEGRADED)
    assert len(book) <= MAX_PEERS
    assert len(book._by_origin) <= MAX_PEERS
    taken = [book.receive(5.0, "talker", f"q{i}", DEGRADED) for i in range(500)]
    assert sum(taken) == MAX_PER_ORIGIN


def test_old_hints_are_swept_and_leave_nothing_behind():
    book = HintBook()
    book.receive(0.0, "a", "p", DEGRADED)
    book.receive(50.0, "a", "q", DEGRADED)
    assert book.sweep(61.0) == ["p"]
    assert "q" in book
    book.sweep(200.0)
    assert len(book) == 0
    assert not book._by_origin


def test_age_is_counted_from_arrival_so_no_sender_can_date_a_hint_ahead():
    assert HintSettings().weight(-5.0) == 0.0
    assert HintSettings().weight(0.0) == 1.0


def verdict(peer: str, bad: bool) -> Hint:
    return Hint(peer, DEGRADED if bad else HEALTHY, 0.1, 1.0 if bad else 0.0, "test")


def verdicts(**bad: bool) -> dict[object, Hint]:
    return {peer: verdict(peer, is_bad) for peer, is_bad in bad.items()}


def test_own_hints_are_limited_to_one_per_peer_and_interval():
    publisher = HintPublisher(HintSettings(publish_interval_s=5.0))
    said = [
        (t, hint.peer)
        for t in range(20)
        for hint in publisher.due(float(t), verdicts(a=True, b=False, c=False))
    ]
    assert said == [(0, "a"), (5, "a"), (10, "a"), (15, "a")]


def test_healthy_is_reported_once_and_only_after_degraded():
    publisher = HintPublisher()
    assert publisher.due(0.0, verdicts(a=False, b=False, c=False)) == []
    publisher.due(1.0, verdicts(a=True, b=False, c=False))
    said = [
        hint.signal
        for t in range(10, 60)
        for hint in publisher.due(float(t), verdicts(a=False, b=False, c=False))
    ]
    assert said == [HEALTHY]


def test_own_hints_are_withheld_when_most_peers_look_bad():
    publisher = HintPublisher()
    assert publisher.due(0.0, verdicts(a=True, b=True, c=True, d=False)) == []
    assert publisher.due(1.0, verdicts(a=True, b=False, c=False, d=False))


def test_one_bad_worker_of_two_is_reported_and_two_of_two_are_not():
    publisher = HintPublisher()
    assert publisher.due(0.0, verdicts(a=True, b=True)) == []
    assert [hint.peer for hint in publisher.due(1.0, verdicts(a=True, b=False))] == ["a"]


def serve(
    router: AdaptiveRouter[str], now: float, peers: list[str], count: int, bad: str = ""
) -> float:
    for _ in range(count):
        peer = router.pick(now, peers)
        router.on_send(now, peer)
        now += 0.01
        outcome = "error" if peer == bad else "ok"
        router.on_result(now, peer, 0.01, outcome, (0, 0.01, 0.01))  # type: ignore[arg-type]
    return now


def test_second_hand_hints_are_not_repeated():
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=random.Random(1))
    peers = ["a", "b", "c"]
    now = serve(router, 0.0, peers, 100)
    for i in range(100):
        router.on_hint(now, f"o{i}", "a", DEGRADED, 5.0, 1.0)
    assert router.hints_due(now) == []


def test_a_router_publishes_degraded_and_then_healthy():
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=random.Random(1))
    peers = ["a", "b", "c", "d"]
    now = serve(router, 0.0, peers, 200)
    for _ in range(6):
        router.on_send(now, "a")
        router.on_result(now, "a", 0.001, "error")
    assert [(h.peer, h.signal) for h in router.hints_due(now)] == [("a", DEGRADED)]
    said = []
    for _ in range(300):
        now = serve(router, now, peers, 10)
        said += [(h.peer, h.signal) for h in router.hints_due(now)]
    assert said[-1] == ("a", HEALTHY)
    assert said.count(("a", HEALTHY)) == 1


def test_a_peer_that_is_avoided_without_a_new_answer_is_not_published_as_healthy():
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=random.Random(1))
    peers = ["a", "b", "c", "d"]
    now = serve(router, 0.0, peers, 200)
    for _ in range(4):
        router.on_send(now, "a")
        router.on_result(now, "a", 0.001, "error")
    assert [(h.peer, h.signal) for h in router.hints_due(now)] == [("a", DEGRADED)]
    now += 60.0  # long after its failures are forgotten
    assert router.hints_due(now) == []
    router.on_send(now, "a")
    router.on_result(now + 0.01, "a", 0.01, "ok")
    assert [(h.peer, h.signal) for h in router.hints_due(now + 6.0)] == [("a", HEALTHY)]


def test_a_thousand_bad_hints_do_not_outweigh_own_good_experience():
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=random.Random(1))
    peers = ["a", "b", "c", "d"]
    now = serve(router, 0.0, peers, 400)
    before = router.metrics("a").total_calls  # type: ignore[union-attr]
    for i in range(400):
        if i % 50 == 0:
            for origin in range(1000):
                router.on_hint(now, f"liar{origin}", "a", DEGRADED, 9.0, 1.0)
        now = serve(router, now, peers, 1)
    share = (router.metrics("a").total_calls - before) / 400  # type: ignore[union-attr]
    assert share == pytest.approx(0.25, abs=0.02)
    assert router.breaker_state(now, "a") == "CLOSED"


def test_a_hint_sends_a_caller_without_experience_elsewhere_first():
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=random.Random(1))
    for i in range(5):
        router.on_hint(0.0, f"o{i}", "a", DEGRADED)
    assert router.pick(0.0, ["a", "b"]) == "b"
    row = next(row for row in router.explain(0.0, ["a", "b"]) if row.peer == "a")
    assert row.hint_factor > 2.5
    assert "degraded by hints" in row.why


def test_hints_without_weight_are_not_listed():
    book = HintBook()
    book.receive(0.0, "a", "p", DEGRADED)
    assert [(peer, origin) for peer, origin, *_ in book.listed(59.0)] == [("p", "a")]
    assert book.listed(60.0) == []


def test_a_peer_that_was_just_published_does_not_hold_back_the_next():
    publisher = HintPublisher(HintSettings(publish_interval_s=5.0))
    healthy = {"c": False, "d": False, "e": False}
    publisher.due(0.0, verdicts(a=True, b=False, **healthy))
    assert [h.peer for h in publisher.due(1.0, verdicts(a=True, b=True, **healthy))] == ["b"]
    assert [h.peer for h in publisher.due(2.0, verdicts(c=False, d=True, e=False))] == ["d"]
