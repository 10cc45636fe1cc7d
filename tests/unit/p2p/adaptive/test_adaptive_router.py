from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.adaptive import (
    DEGRADED,
    HEALTHY,
    AdaptiveRouter,
    BreakerSettings,
    BreakerState,
    RoutingEvent,
    Weights,
)
from p2p.adaptive.adaptive_router import (
    AVOIDED_FOR,
    LONGEST_SHARE,
    PROBE_SPACING,
    REMEMBERED,
    SAMPLE,
)

TEN = [f"p{i}" for i in range(10)]


def router(seed: int = 1, **kwargs: object) -> AdaptiveRouter[str]:
    return AdaptiveRouter(rng=random.Random(seed), **kwargs)  # type: ignore[arg-type]


def call(
    r: AdaptiveRouter[str], now: float, peer: str, outcome: str = "ok", latency: float = 0.01
) -> float:
    r.on_send(now, peer)
    now += latency
    load = (0, latency, latency) if outcome == "ok" else None
    r.on_result(now, peer, latency, outcome, load)  # type: ignore[arg-type]
    return now


def warm(r: AdaptiveRouter[str], peers: list[str], rounds: int = 20) -> float:
    now = 0.0
    for _ in range(rounds):
        for peer in peers:
            now = call(r, now, peer)
    return now


def test_new_callers_do_not_all_pick_the_same_peer():
    first = Counter(router(seed).pick(0.0, TEN) for seed in range(300))
    assert len(first) == 10
    assert max(first.values()) < 60


def spread(busy: int, **kwargs: object) -> tuple[AdaptiveRouter[str], float, Counter[str]]:
    """Send 30 calls, one after the other, to ten equal peers that report `busy` calls of others."""
    r = router(**kwargs)
    now, sent = 0.0, Counter[str]()
    for i in range(230):
        peer = TEN[i % 10] if i < 200 else r.pick(now, TEN)
        r.on_send(now, peer)
        now += 0.01
        r.on_result(now, peer, 0.01, "ok", (busy, 0.01, 0.01))
        if i >= 200:
            sent[peer] += 1
    return r, now, sent


def test_a_caller_alone_takes_turns_over_equal_peers():
    _, _, sent = spread(0)
    assert set(sent.values()) == {3}


def test_a_caller_in_a_crowd_stays_with_the_peer_that_answered_last_while_that_is_free():
    r, now, sent = spread(4)
    assert len(sent) == 1
    (peer,) = sent
    r.on_send(now, peer)
    assert r.pick(now + 0.001, TEN) != peer


def test_a_caller_in_a_crowd_takes_turns_by_the_weighted_policy():
    _, _, sent = spread(4, policy="weighted")
    assert len(sent) == 10


def test_reasons_name_the_peer_that_answered_last():
    events: list[RoutingEvent] = []
    r, now, _ = spread(4)
    r.on_event = events.append
    r.pick(now, TEN)
    assert "as good, answered last: next" in events[-1].reason


def test_a_small_difference_in_service_times_does_not_decide_but_a_large_one_does():
    def first(service: float) -> Counter[str]:
        r = router()
        now, sent = 0.0, Counter[str]()
        for i in range(260):
            peer = TEN[i % 10] if i < 200 else r.pick(now, TEN)
            took = service if peer == "p3" else 0.02
            r.on_send(now, peer)
            now += took
            r.on_result(now, peer, took, "ok", (0, took, took))
            sent[peer] += i >= 200
        return sent

    assert max(first(0.017).values()) <= 8
    assert first(0.005)["p3"] >= 30


def test_work_in_flight_counts_so_a_burst_is_spread():
    r = router()
    now = warm(r, TEN)
    sent = Counter[str]()
    for _ in range(100):
        peer = r.pick(now, TEN)
        r.on_send(now, peer)
        sent[peer] += 1
    assert set(sent) == set(TEN)
    assert max(sent.values()) <= 12


def test_others_work_counts_by_the_peers_own_report():
    r = router()
    for _ in range(50):
        for peer, busy in (("a", 6), ("b", 0)):
            r.on_send(0.0, peer)
            r.on_result(0.08, peer, 0.08, "ok", (busy, 0.08, 0.02))
    assert r.pick(0.08, ["a", "b"]) == "b"


def test_five_milliseconds_beat_twenty():
    r = router()
    now = 0.0
    for _ in range(50):
        now = call(r, now, "fast", latency=0.005)
        now = call(r, now, "slow", latency=0.020)
    assert r.pick(now, ["slow", "fast"]) == "fast"


def test_failing_fast_does_not_look_good():
    r = router()
    now = warm(r, TEN)
    for _ in range(2):
        now = call(r, now, "p0", "error", latency=0.0001)
    picks = Counter[str]()
    for _ in range(200):
        peer = r.pick(now, TEN)
        picks[peer] += 1
        now = call(r, now, peer)
    assert picks["p0"] <= 2


def test_a_call_without_an_answer_is_evidence_long_before_its_timeout():
    r = router()
    now = warm(r, TEN)
    r.on_send(now, "p0")  # and never an answer
    now += 0.3
    picks = Counter[str]()
    for _ in range(100):
        peer = r.pick(now, TEN)
        picks[peer] += 1
        now = call(r, now, peer)
    assert picks["p0"] == 0


def test_a_slow_peer_is_tried_again_and_gets_its_share_back():
    r = router()
    now = warm(r, TEN)
    for _ in range(5):
        now = call(r, now, "p0", latency=0.5)
    late = Counter[str]()
    while now < 60.0:
        peer = r.pick(now, TEN)
        if now > 40.0:
            late[peer] += 1
        now = call(r, now, peer)
    assert late["p0"] > 0.5 * sum(late.values()) / 10


def test_excluded_peers_are_left_out_while_another_is_left():
    r = router()
    for _ in range(20):
        assert r.pick(0.0, ["a", "b", "c"], exclude=["a", "b"]) == "c"
    assert r.pick(0.0, ["a", "b"], exclude=["a", "b"]) in ("a", "b")


def test_without_candidates_there_is_an_error():
    with pytest.raises(ValueError, match="no candidates"):
        router().pick(0.0, [])


def test_an_open_peer_is_left_out_and_then_probed_once():
    r = router()
    now = warm(r, TEN)
    for _ in range(5):
        now = call(r, now, "p0", "error", latency=0.001)
    assert r.breaker_state(now, "p0") is BreakerState.OPEN
    for _ in range(PROBE_SPACING):
        peer = r.pick(now, TEN)
        assert peer != "p0"
        now = call(r, now, peer, latency=0.0001)
    now += 3.0
    assert r.pick(now, TEN) == "p0"  # asked, but not sent: the next pick may be the probe as well
    now += 10.0
    assert r.pick(now, TEN) == "p0"
    r.on_send(now, "p0")
    assert r.breaker_state(now, "p0") is BreakerState.HALF_OPEN
    for _ in range(300):
        peer = r.pick(now, TEN)
        assert peer != "p0"
        now = call(r, now, peer, latency=0.0001)


def test_breakers_are_ignored_when_all_are_open():
    events: list[RoutingEvent] = []
    r = router(on_event=events.append)
    now = 0.0
    for peer in TEN:
        for _ in range(5):
            now = call(r, now, peer, "error", latency=0.0001)
    picks = Counter[str]()
    for _ in range(200):
        picks[peer := r.pick(now, TEN)] += 1
        r.on_send(now, peer)
    assert len(picks) == 10
    assert max(picks.values()) <= 40
    assert [e.kind for e in events].count("panic") == 1
    # Two answers from each, and all is as before: nobody waits for a cooldown.
    for peer in TEN:
        for _ in range(2):
            now = call(r, now, peer)
    assert all(r.breaker_state(now, peer) is BreakerState.CLOSED for peer in TEN)
    r.pick(now, TEN)
    assert [e.reason for e in events if e.kind == "panic"][-1] == "breakers are obeyed again"


def test_below_half_usable_it_panics_and_at_half_it_does_not():
    for broken, panics in ((5, False), (6, True)):
        events: list[RoutingEvent] = []
        r = router(on_event=events.append)
        now = warm(r, TEN)
        for peer in TEN[:broken]:
            for _ in range(5):
                now = call(r, now, peer, "error", latency=0.0001)
        picks = Counter[str]()
        for _ in range(2000):
            picks[peer := r.pick(now, TEN)] += 1
            r.on_send(now, peer)
        assert any(e.kind == "panic" for e in events) is panics
        assert bool(set(picks) & set(TEN[:broken])) is panics


def test_a_single_candidate_is_always_the_answer():
    r = router()
    now = 0.0
    for _ in range(20):
        assert r.pick(now, ["only"]) == "only"
        now = call(r, now, "only", "error")


def test_a_single_candidates_lost_calls_are_forgotten_all_the_same():
    r = router()
    for number in range(500):
        now = number * 0.5
        assert r.pick(now, ["only"]) == "only"
        r.on_send(now, "only")  # its result is never reported
    held = r.metrics("only")
    assert held is not None
    assert held.in_flight < 250


def test_a_cancelled_call_is_no_evidence_and_no_longer_in_flight():
    r = router()
    now = warm(r, TEN)
    for i in range(20):
        r.on_send(now + i, "p0")
        r.on_cancel(now + i + 0.5, "p0", now + i)
    metrics = r.metrics("p0")
    assert metrics is not None
    assert metrics.in_flight == 0
    assert metrics.error_count == metrics.timeout_count == 0
    assert r.breaker_state(now + 20, "p0") is BreakerState.CLOSED


def test_an_explanation_lists_every_candidate_best_first_with_the_reason():
    r = router()
    now = warm(r, TEN[:3])
    for _ in range(5):
        now = call(r, now, "p2", "error")
    rows = r.explain(now, [*TEN[:3], "new"])
    assert {row.peer for row in rows} == {"p0", "p1", "p2", "new"}
    assert rows[-1].peer == "p2"
    assert "breaker OPEN" in rows[-1].why
    assert "not tried yet" in next(row.why for row in rows if row.peer == "new")
    costs = [row.cost for row in rows[:-1]]
    assert costs == sorted(costs)


def test_every_decision_change_and_hint_is_an_event_with_a_reason():
    events: list[RoutingEvent] = []
    r = router(on_event=events.append)
    now = warm(r, TEN)
    r.pick(now, TEN)
    for _ in range(5):
        now = call(r, now, "p0", "error")
    r.on_hint(now, "someone", "p1", "DEGRADED", 1.0, 0.5)
    assert [e.kind for e in events] == ["pick", "breaker", "hint"]
    assert all(e.reason for e in events)
    assert events[1].peer == "p0"
    assert events[2].detail == {"latency_s": 1.0, "error_rate": 0.5}


def test_the_same_seed_and_calls_give_the_same_picks():
    def picks() -> list[str]:
        r, rng, now, out = router(7), random.Random(2), 0.0, []
        many = [f"q{i}" for i in range(60)]
        for _ in range(300):
            peer = r.pick(now, many)
            out.append(peer)
            now = call(r, now, peer, "ok" if rng.random() < 0.9 else "error", rng.random() / 50)
        return out

    assert picks() == picks()


def test_of_many_candidates_all_get_work():
    r = router()
    many = [f"q{i}" for i in range(200)]
    now, seen = 0.0, Counter[str]()
    for _ in range(20_000):
        peer = r.pick(now, many)
        seen[peer] += 1
        now = call(r, now, peer)
    assert len(seen) == 200
    assert len(many) > SAMPLE


def test_memory_is_bounded_however_many_peers_come_and_go():
    r = router()
    for i in range(3 * REMEMBERED):
        call(r, i * 0.01, f"q{i}")
    assert len(r._peers) <= REMEMBERED


def test_a_forgotten_peer_starts_anew():
    r = router()
    now = 0.0
    for _ in range(5):
        now = call(r, now, "p0", "error")
    r.forget("p0")
    assert r.metrics("p0") is None
    assert r.breaker_state(now, "p0") is BreakerState.CLOSED


def test_results_without_a_send_and_unknown_peers_do_no_harm():
    r = router()
    r.on_result(1.0, "p0", 0.5, "ok", None)
    r.on_result(1.0, "p1", 0.5, "timeout", None)
    r.on_cancel(1.0, "p2", 0.5)
    assert r.pick(1.0, TEN) in TEN


def test_a_latency_that_is_no_number_does_not_poison_the_averages():
    r = router()
    for latency in (float("nan"), -1.0):
        r.on_send(1.0, "p0")
        r.on_result(1.0, "p0", latency, "ok", None)
    assert all(0.0 <= row.cost < 1e6 for row in r.explain(1.0, TEN))


@pytest.mark.parametrize("policy", ["adaptive", "weighted"])
def test_answers_in_no_time_at_all_are_fine(policy: str):
    r = router(policy=policy)
    for _ in range(100):
        call(r, 1.0, r.pick(1.0, TEN), latency=0.0)
    assert r.explain(1.0, TEN)


def test_a_policy_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="weighted"):
        router(policy="best")


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["pick", "send", "ok", "error", "timeout", "hint", "cancel", "wait"]),
        st.integers(0, 5),
        st.floats(0.0, 6.0),
    ),
    max_size=150,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.sampled_from(["adaptive", "weighted"]), st.integers(0, 100))
def test_whatever_happens_there_is_a_peer_and_it_is_a_candidate(
    actions: list[tuple[str, int, float]], policy: str, seed: int
):
    r = router(seed, policy=policy)
    now = 0.0
    peers = TEN[:6]
    for what, which, value in actions:
        peer = peers[which]
        if what == "pick":
            candidates = peers[: which + 1]
            picked = r.pick(now, candidates, exclude=peers[:1])
            assert picked in candidates
            assert picked != peers[0] or candidates == peers[:1]
        elif what == "send":
            r.on_send(now, peer)
        elif what == "hint":
            r.on_hint(now, f"o{value}", peer, "DEGRADED" if value > 3 else "HEALTHY")
        elif what == "cancel":
            r.on_cancel(now, peer, now - value)
        elif what == "wait":
            now += value
        else:
            r.on_result(now, peer, value, what, (value, value, value))  # type: ignore[arg-type]
    rows = r.explain(now, peers)
    assert all(0.0 <= row.cost < float("inf") for row in rows)


# -- policy "weighted" ---------------------------------------------------------------------------------


def test_weighted_prefers_the_fast_the_reliable_and_the_answering():
    for bad in ("slow", "error", "timeout"):
        r = router(policy="weighted")
        now = 0.0
        for _ in range(10):
            now = call(r, now, "good")
            now = call(r, now, "bad", latency=0.05 if bad == "slow" else 0.01)
        if bad != "slow":
            for _ in range(3):
                now = call(r, now, "bad", bad)
        assert r.pick(now, ["bad", "good"]) == "good", bad


def test_weights_change_the_choice():
    def choice(weights: Weights) -> str:
        r = router(policy="weighted", weights=weights)
        now = 0.0
        for _ in range(20):
            now = call(r, now, "slow-but-safe", latency=0.03)
            now = call(r, now, "fast-but-flaky", latency=0.005)
        for _ in range(3):
            now = call(r, now, "fast-but-flaky", "error", latency=0.001)
            now = call(r, now, "fast-but-flaky", latency=0.005)
        return r.pick(now, ["slow-but-safe", "fast-but-flaky"])

    assert choice(Weights(latency=1.0, error=0.0, timeout=0.0, freshness=0.0)) == "fast-but-flaky"
    assert choice(Weights(latency=0.0, error=1.0, timeout=0.0, freshness=0.0)) == "slow-but-safe"


def test_weighted_counts_an_unanswered_call_against_freshness():
    r = router(policy="weighted")
    now = warm(r, ["a", "b"])
    r.on_send(now, "a")
    parts = {row.peer: row.parts for row in r.explain(now + 2.0, ["a", "b"])}
    assert parts["a"]["freshness_factor"] < 0.8
    assert parts["b"]["freshness_factor"] == 1.0


def test_weights_that_make_no_sense_are_refused():
    with pytest.raises(ValueError):
        Weights(0.0, 0.0, 0.0, 0.0)


def test_a_peer_that_failed_twice_and_is_shunned_is_probed_and_comes_back() -> None:
    router: AdaptiveRouter[str] = AdaptiveRouter(rng=random.Random(1))
    now = 0.0

    def call(outcome: str = "ok") -> str:
        nonlocal now
        peer = router.pick(now, ["good", "bad"])
        router.on_send(now, peer)
        now += 0.01
        router.on_result(now, peer, 0.01, outcome if peer == "bad" else "ok")  # type: ignore[arg-type]
        return peer

    for _ in range(50):
        call()
    for _ in range(2):  # too few for the breaker, too dear for the router
        router.on_send(now, "bad")
        router.on_result(now + 1.0, "bad", 1.0, "timeout")
    assert router.breaker_state(now + 1.0, "bad") is BreakerState.CLOSED
    now += 1.0
    since = now
    while (
        "bad" not in [call() for _ in range(20)]
        or router.breaker_state(now, "bad") is not BreakerState.CLOSED
    ):
        assert now - since < 6.0
    assert [call() for _ in range(400)].count("bad") > 50


def test_a_cancelled_probe_gives_its_place_back():
    """Without `breaker.on_cancel` the peer would be left out until the lease of the probe ended."""
    r = router()
    now = warm(r, TEN)
    for _ in range(5):
        now = call(r, now, "p0", "error", latency=0.001)
    for _ in range(PROBE_SPACING):
        now = call(r, now, r.pick(now, TEN), latency=0.0001)
    now += 13.0
    assert r.pick(now, TEN) == "p0"
    r.on_send(now, "p0")
    for _ in range(PROBE_SPACING):
        now = call(r, now, r.pick(now, [p for p in TEN if p != "p0"]), latency=0.0001)
    assert r.pick(now, TEN) != "p0"  # one probe at a time
    r.on_cancel(now, "p0", now - PROBE_SPACING * 0.0001)
    assert r.pick(now, TEN) == "p0"


def test_the_reason_of_a_pick_names_its_cost_and_the_next_best() -> None:
    events: list[RoutingEvent] = []
    r = router(on_event=events.append)
    now = warm(r, TEN[:2])
    events.clear()
    chosen = r.pick(now, TEN[:2])
    (event,) = events
    assert event.peer == chosen
    assert event.reason.startswith("expected ")
    assert "next of 2" in event.reason
    assert event.detail["next"] in TEN[:2]
    assert "\n" not in event.reason
    r.pick(now, [chosen])
    assert events[-1].reason.endswith("no other to ask")


def test_a_worker_with_a_free_slot_costs_its_service_time() -> None:
    """Four places of 19 ms, up to six requests at once: `width` is found, and the cost is in seconds."""
    r = router()
    rng = random.Random(5)
    now = 0.0
    for _ in range(600):
        inside = rng.randint(1, 6)
        latency = 0.019 * max(1.0, inside / 4)
        for _ in range(inside):
            r.on_send(now, "a")
        now += latency
        for left in reversed(range(inside)):
            r.on_result(now, "a", latency, "ok", (left, latency, 0.019))
        now += 0.01
    (row,) = r.explain(now, ["a"])
    assert row.cost == pytest.approx(0.019, rel=0.3)


@pytest.mark.parametrize("start", [0.0, 0.5, 0.999])
def test_a_sample_of_many_candidates_has_no_more_than_so_many_all_different(start: float):
    class Fixed(random.Random):
        def random(self) -> float:
            return start

    r: AdaptiveRouter[str] = AdaptiveRouter(rng=Fixed(1))
    sample = r._sample([f"p{i}" for i in range(3 * SAMPLE)])
    assert len(sample) == len({*sample}) == SAMPLE


def test_a_forgotten_peers_hints_are_forgotten_with_it():
    r = router()
    r.on_hint(0.0, "origin", "p0", DEGRADED, 5.0, 1.0)
    assert [peer for peer, *_ in r.hints.listed(0.0)] == ["p0"]
    r.forget("p0")
    assert r.hints.listed(0.0) == []


def test_a_result_settles_the_request_that_it_belongs_to():
    r = router()
    r.on_send(0.0, "p0")
    r.on_send(4.0, "p0")
    r.on_result(5.0, "p0", 5.0, "ok", (0, 5.0, 5.0))
    assert [sent[0] for sent in r._peers["p0"].metrics.sends] == [4.0]


# Small faults that the tests above did not notice (tests/mutation)


def test_a_closed_breaker_beside_a_fifth_of_failures_is_hinted_as_degraded():
    r = router(breaker=BreakerSettings(failure_rate=0.95))
    now = 0.0
    for number in range(30):
        now = call(r, now, "p0", "error" if number % 3 == 0 else "ok")
        now = call(r, now, "p1")
    assert r.breaker_state(now, "p0") is BreakerState.CLOSED
    signals = {hint.peer: hint.signal for hint in r.hints_due(now)}
    assert signals["p0"] == DEGRADED
    assert signals.get("p1", HEALTHY) == HEALTHY


def test_hints_of_others_make_the_breaker_open_after_fewer_failures():
    def failures_until_open(origins: int) -> int:
        r = router()
        now = warm(r, ["p0", "p1"], 1)
        for origin in range(origins):
            assert r.on_hint(now, f"origin {origin}", "p0", DEGRADED, 1.0, 0.9)
        for failures in range(1, 10):
            now = call(r, now, "p0", "error", latency=0.0001)
            if r.breaker_state(now, "p0") is not BreakerState.CLOSED:
                return failures
        raise AssertionError("the breaker stayed closed")

    assert failures_until_open(0) == 5
    assert failures_until_open(6) in (3, 4)


def test_only_an_opening_breaker_gives_the_time_of_the_next_try():
    events: list[RoutingEvent] = []
    r = router(on_event=events.append)
    now = warm(r, ["p0", "p1"])
    for _ in range(5):
        now = call(r, now, "p0", "error", latency=0.0001)
    for _ in range(400):
        now += 0.05
        now = call(r, now, r.pick(now, ["p0", "p1"]))
    changes = [e for e in events if e.kind == "breaker"]
    assert {e.detail["new"] for e in changes} == {"OPEN", "HALF_OPEN", "CLOSED"}
    for event in changes:
        assert ("retry_in_s" in event.detail) is (event.detail["new"] == "OPEN")


def test_however_often_it_fails_a_peer_is_tried_again_within_the_longest_share_of_a_cooldown():
    events: list[RoutingEvent] = []
    settings_ = BreakerSettings(cooldown_s=10.0, longest_share=1.0)
    r = router(on_event=events.append, breaker=settings_)
    now = warm(r, ["p0", "p1"])
    for _ in range(20_000):
        now += 0.05
        peer = r.pick(now, ["p0", "p1"])
        now = call(r, now, peer, "error" if peer == "p0" else "ok")
    waits = [e.detail["retry_in_s"] for e in events if e.detail.get("new") == "OPEN"]
    assert len(waits) > 5
    assert max(waits) <= LONGEST_SHARE * 10.0


def test_a_decision_names_the_number_of_peers_behind_open_breakers():
    events: list[RoutingEvent] = []
    r = router(on_event=events.append)
    now = warm(r, TEN)
    for peer in ("p0", "p1"):
        for _ in range(5):
            now = call(r, now, peer, "error", latency=0.0001)
    r.pick(now, TEN)
    assert events[-1].kind == "pick"
    assert events[-1].reason.endswith("; 2 behind open breakers")


def test_breakers_are_obeyed_while_most_peers_outside_the_sample_are_closed():
    many = [f"p{i:03}" for i in range(10 * SAMPLE)]
    broken = set(many[: 3 * SAMPLE])
    events: list[RoutingEvent] = []
    r = router(on_event=events.append)
    now = warm(r, many, 2)
    for peer in sorted(broken):
        for _ in range(5):
            now = call(r, now, peer, "error", latency=0.00001)
    picks = set()
    for _ in range(300):
        picks.add(peer := r.pick(now, many))
        r.on_send(now, peer)
    assert not picks & broken
    assert not [e for e in events if e.kind == "panic"]


def test_a_peer_that_timed_out_just_now_is_not_given_up_before_it_was_avoided_for_a_while():
    def state(after: float) -> BreakerState:
        r = router()
        now = warm(r, TEN)
        for _ in range(3):
            now = call(r, now, "p0", "timeout", latency=0.2)
        for _ in range(40):
            r.pick(now + after, TEN)
        return r.breaker_state(now + after, "p0")

    assert state(0.5 * AVOIDED_FOR) is BreakerState.CLOSED
    assert state(1.5 * AVOIDED_FOR) is not BreakerState.CLOSED
