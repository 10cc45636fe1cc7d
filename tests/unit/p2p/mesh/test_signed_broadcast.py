from __future__ import annotations

from p2p.mesh.signed_broadcast import ReplayGuard, ReplayVerdict

NEW, OLD, TOO_MUCH = ReplayVerdict.NEW, ReplayVerdict.OLD, ReplayVerdict.TOO_MUCH


def test_seen_and_overtaken_messages_are_old_over_restarts_too():
    log = ReplayGuard(burst=10.0)
    assert log.admit(0.0, "a", 1, 5) is NEW
    assert log.admit(0.0, "a", 1, 5) is OLD
    assert log.admit(0.0, "a", 1, 4) is OLD
    assert log.admit(0.0, "a", 2, 1) is NEW
    assert log.admit(1000.0, "a", 1, 6) is OLD
    assert log.admit(0.0, "b", 1, 1) is NEW


def test_an_origin_beyond_its_rate_is_ignored_until_time_has_passed():
    log = ReplayGuard(rate=1.0, burst=3.0)
    assert [log.admit(0.0, "a", 1, n) for n in range(1, 5)] == [NEW, NEW, NEW, TOO_MUCH]
    assert log.admit(0.0, "b", 1, 1) is NEW
    assert log.admit(1.0, "a", 1, 4) is NEW  # the same one, refused before, is taken now
    assert log.admit(1.0, "a", 1, 5) is TOO_MUCH


def test_many_origins_together_are_limited_too():
    log = ReplayGuard(rate_all=10.0)
    verdicts = [log.admit(0.0, f"node {n}", 1, 1) for n in range(30)]
    assert verdicts.count(NEW) == 20
    assert log.admit(1.0, "late", 1, 1) is NEW


def test_the_longest_unheard_origin_is_forgotten_first():
    log = ReplayGuard(limit=2)
    log.admit(0.0, "a", 1, 1)
    log.admit(0.0, "b", 1, 1)
    log.admit(0.0, "a", 1, 2)
    log.admit(0.0, "c", 1, 1)
    assert len(log) == 2
    assert log.admit(0.0, "a", 1, 1) is OLD
    assert log.admit(0.0, "b", 1, 1) is NEW
