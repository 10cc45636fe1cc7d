from __future__ import annotations

import math

import pytest

from p2p.adaptive import PeerMetrics, Pool


def ok(m: PeerMetrics, pool: Pool, now: float, latency: float, load: object = None) -> None:
    m.succeeded(now, latency, load, pool)  # type: ignore[arg-type]


def test_counters_have_the_learning_guides_names_and_meaning():
    pool, m = Pool(), PeerMetrics(0.0)
    ok(m, pool, 1.0, 0.1)
    ok(m, pool, 2.0, 0.2)
    m.failed(3.0, 0.01, False, pool)
    m.failed(4.0, 5.0, True, pool)
    assert (m.total_calls, m.success_count, m.error_count, m.timeout_count) == (4, 2, 1, 1)
    assert m.avg_latency_ms == pytest.approx(130.0)
    assert m.last_seen_ts == 3.0  # a timeout is not a sign of life


def test_a_new_peer_is_taken_for_average():
    pool = Pool()
    for i in range(200):
        ok(PeerMetrics(i), pool, i, 0.08)
    assert PeerMetrics(200.0).aged_latency(200.0, pool) == pytest.approx(0.08)


def test_latencies_of_failures_do_not_count_so_failing_fast_does_not_look_good():
    pool, m = Pool(), PeerMetrics(0.0)
    ok(m, pool, 1.0, 0.2)
    for i in range(50):
        m.failed(1.0 + i / 100, 0.0001, False, pool)
    assert m.avg_latency_ms == pytest.approx(200.0)
    assert m.latency == pytest.approx(0.2)


def test_an_old_outage_is_forgiven():
    pool, m = Pool(), PeerMetrics(0.0)
    for i in range(100):
        m.failed(i / 100, 0.01, False, pool)
    assert m.rates(1.0, pool)[0] > 0.9
    assert m.rates(60.0, pool)[0] < 0.01
    for i in range(50):
        ok(m, pool, 61.0 + i / 10, 0.02)
    assert m.rates(66.0, pool)[0] < 0.001


def test_a_new_outage_is_not_drowned_in_old_successes():
    pool, m = Pool(), PeerMetrics(0.0)
    for i in range(100_000):
        ok(m, pool, i / 1000, 0.02)
    for i in range(3):
        m.failed(100.0 + i / 1000, 0.001, False, pool)
    assert m.rates(100.003, pool)[0] > 0.3


def test_rates_are_numbers_before_anything_is_known():
    pool, m = Pool(), PeerMetrics(0.0)
    assert m.rates(0.0, pool) == (0.0, 0.0)
    m.failed(0.0, 0.0, False, pool)
    errors, timeouts = m.rates(0.0, pool)
    assert 0.0 < errors < 0.5
    assert timeouts == 0.0


def test_errors_and_timeouts_are_distinguished():
    pool, m = Pool(), PeerMetrics(0.0)
    m.failed(5.0, 0.5, True, pool)
    errors, timeouts = m.rates(5.0, pool)
    assert errors == 0.0
    assert timeouts > 0.0


def test_estimates_of_a_silent_peer_drift_to_the_average_of_the_pool():
    pool, m = Pool(), PeerMetrics(0.0)
    ok(m, pool, 0.0, 2.0)
    other = PeerMetrics(0.0)
    for i in range(500):
        ok(other, pool, i / 100, 0.02, (0, 0.02, 0.02))
    assert m.aged_latency(0.0, pool) > 1.0
    assert m.aged_latency(30.0, pool) == pytest.approx(pool.latency, abs=0.01)
    assert m.aged_service(60.0, pool) == pytest.approx(pool.service, abs=0.01)


def test_one_sample_after_a_long_pause_outweighs_older_ones():
    pool, m = Pool(), PeerMetrics(0.0)
    for i in range(100):
        ok(m, pool, i / 100, 0.02, (0, 0.02, 0.02))
    ok(m, pool, 20.0, 0.4, (0, 0.4, 0.4))
    assert m.service == pytest.approx(0.4, rel=0.05)


def test_a_peer_that_claims_to_be_idle_and_instant_is_believed_no_more_than_was_seen():
    pool, m = Pool(), PeerMetrics(0.0)
    for i in range(50):
        ok(m, pool, i / 10, 0.3, (0, 1e-6, 1e-6))
    assert m.service == pytest.approx(0.15, rel=0.01)


@pytest.mark.parametrize("wild", [math.nan, math.inf, -math.inf, -1.0, 1e308])
def test_wild_reports_leave_finite_estimates(wild: float):
    pool, m = Pool(), PeerMetrics(0.0)
    for i in range(20):
        ok(m, pool, i / 10, 0.05, (wild, wild, wild))
    known = (m.latency, m.service, m.others, pool.latency, pool.service, pool.others, pool.width)
    assert all(value is not None and math.isfinite(value) and value >= 0 for value in known)
    assert m.service is not None
    assert m.service <= 0.05


def test_one_liar_moves_the_pools_idea_of_others_work_little():
    pool = Pool()
    honest, liar = PeerMetrics(0.0), PeerMetrics(0.0)
    for i in range(200):
        ok(honest, pool, i / 100, 0.02, (1, 0.02, 0.02))
    before = pool.others
    ok(liar, pool, 2.0, 0.02, (1e9, 0.02, 0.02))
    assert pool.others - before < 0.2


def test_a_result_takes_the_call_out_that_it_belongs_to():
    m = PeerMetrics(0.0)
    m.sends = [(1.0, 1), (2.0, 2), (3.0, 3)]
    assert m.settle(2.0000001) == (2.0, 2)
    assert m.settle(0.0) == (1.0, 1)
    assert m.settle(99.0) == (3.0, 3)
    assert m.settle(99.0) is None


def test_a_call_in_flight_is_evidence_by_its_age_until_a_later_one_is_answered():
    pool, m = Pool(), PeerMetrics(0.0)
    m.sends = [(0.0, 1), (1.5, 2)]
    assert m.oldest(2.0, pool) == 2.0
    m.settle(1.5)
    ok(m, pool, 2.0, 0.5)
    m.sends.append((2.1, 3))
    assert m.oldest(3.0, pool) == pytest.approx(3.0)  # as old as slowness can explain
    assert m.oldest(12.0, pool) == pytest.approx(9.9)  # older: lost; the later one counts
    assert m.oldest(13.0, pool) == 0.0  # nothing was sent for so long that it is time to try again


def test_a_call_without_a_result_is_dropped_in_the_end():
    m = PeerMetrics(0.0)
    m.sends = [(0.0, 1), (100.0, 2)]
    m.drop_lost(150.0)
    assert m.sends == [(100.0, 2)]


def test_a_caller_that_sends_little_remembers_failures_for_longer():
    busy, quiet = Pool(), Pool()
    for i in range(2000):
        busy.on_send(i / 1000)
        quiet.on_send(i / 20)
    assert busy.memory == pytest.approx(2.0)
    assert quiet.memory == pytest.approx(7.5, rel=0.05)


def test_the_width_of_a_peer_is_learned_from_its_replies():
    pool, m = Pool(), PeerMetrics(0.0)
    for i in range(2000):  # seven others inside, and no slower for it: at least eight places
        ok(m, pool, i / 100, 0.02, (7, 0.02, 0.02))
    assert pool.width == pytest.approx(8.0, rel=0.1)
    serial = Pool()
    for i in range(2000):  # seven others inside, and eight times as long: one place
        ok(m, serial, i / 100, 0.16, (7, 0.16, 0.02))
    assert serial.width == pytest.approx(1.0, rel=0.1)
