"""The routers of all services, and what they share: hints and the ring of events."""

from __future__ import annotations

import logging
import random

import pytest

from p2p.adaptive import DEGRADED, HEALTHY, BreakerSettings, HintSettings, WeightedPolicy
from p2p.services.balancers import Balancers, BalancerSettings, EventRing, RoutingRecord


def balancers(**settings) -> Balancers:
    return Balancers(BalancerSettings(**settings), rng=random.Random(1))


def fail(made: Balancers, service: str, peer: str, now: float, times: int = 10) -> None:
    router = made.router(service)
    for _ in range(times):
        router.on_send(now, peer)
        router.on_result(now, peer, 0.0, "error")


def test_each_service_has_a_router_of_its_own():
    made = balancers()
    fail(made, "a", "peer", 0.0)
    assert made.router("a") is made.router("a")
    assert made.router("b") is not made.router("a")
    assert made.router("b").metrics("peer") is None
    assert list(made.routers()) == ["a", "b"]


def test_the_policy_is_the_one_that_is_set():
    assert isinstance(balancers(policy="weighted").router("a").policy, WeightedPolicy)
    assert not isinstance(balancers().router("a").policy, WeightedPolicy)


def test_a_hint_counts_for_every_service_also_for_those_called_later():
    made = balancers()
    made.router("early").pick(0.0, ["good", "bad"])
    made.on_hint(0.0, "origin", "bad", DEGRADED, 1.0, 0.5)
    for service in ("early", "late"):
        rows = {row.peer: row for row in made.router(service).explain(0.0, ["good", "bad"])}
        assert rows["bad"].hint_factor > 1.5
        assert rows["good"].hint_factor == 1.0
        assert made.router(service).pick(0.0, ["good", "bad"]) == "good"
    hints = made.events.latest(10, kind="hint")
    assert [(n.node, n.service) for n in hints] == [("bad", "")]
    assert hints[0].reason == "DEGRADED from origin"


def test_own_hints_are_the_worst_that_any_service_has_seen():
    made = balancers(hints=HintSettings(publish_interval_s=1.0))
    for peer in ("a", "b", "c"):
        for service in ("x", "y"):
            made.router(service).on_send(0.0, peer)
            made.router(service).on_result(0.0, peer, 0.0, "ok")
    fail(made, "x", "a", 0.1)
    (hint,) = made.hints_due(0.2)
    assert (hint.peer, hint.signal) == ("a", DEGRADED)
    assert made.hints_due(0.3) == []


def test_a_peer_that_left_is_forgotten_by_all():
    made = balancers()
    fail(made, "x", "a", 0.0)
    fail(made, "y", "a", 0.0)
    made.on_hint(0.0, "origin", "a", DEGRADED, 1.0, 0.5)
    made.forget("a")
    assert made.router("x").metrics("a") is None
    assert made.router("y").metrics("a") is None
    assert "a" not in made.book


def test_breaker_changes_are_kept_though_there_are_many_picks_after_them():
    made = balancers(breaker=BreakerSettings(failure_threshold=3))
    fail(made, "x", "a", 0.0)
    for n in range(5000):
        made.router("x").pick(1.0 + n / 1000, ["a", "b", "c"])
    (change,) = made.events.latest(100, kind="breaker")
    assert (change.service, change.node) == ("x", "a")
    assert change.reason.startswith("CLOSED to OPEN")
    assert made.breaker_changes == {"OPEN": 1}
    assert len(made.events.latest(10_000)) <= 1000


def test_the_latest_events_are_the_newest_in_order_of_time():
    ring = EventRing(picks=3, others=2)
    for n in range(6):
        kind = "pick" if n % 2 else "hint"
        ring.add(RoutingRecord(float(n), kind, "s", "n", "r", {}))
    assert [noted.at for noted in ring.latest(10)] == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [noted.at for noted in ring.latest(2)] == [4.0, 5.0]
    assert [noted.at for noted in ring.latest(10, kind="hint")] == [2.0, 4.0]


def test_events_are_logged_with_their_fields_at_debug_only(caplog: pytest.LogCaptureFixture):
    made = balancers()
    made.on_hint(0.0, "origin", "peer", HEALTHY, 0.0, 0.0)
    assert caplog.records == []
    caplog.set_level(logging.DEBUG, "p2p.services.balancers")
    made.on_hint(0.0, "origin", "peer", HEALTHY, 0.5, 0.0)
    (record,) = caplog.records
    assert record.fields["event"] == "hint"  # type: ignore[attr-defined]
    assert record.fields["latency_s"] == 0.5  # type: ignore[attr-defined]
