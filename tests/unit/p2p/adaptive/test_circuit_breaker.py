from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.adaptive import Breaker, BreakerSettings, BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def breaker(**kwargs: object) -> Breaker:
    return Breaker(BreakerSettings(**kwargs), rng=random.Random(1))  # type: ignore[arg-type]


def fail(b: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        b.on_result(now, b.on_send(now), False)


def opened(**kwargs: object) -> Breaker:
    b = breaker(**kwargs)
    fail(b, 0.0, b._settings.failure_threshold)
    assert b.state(0.0) is OPEN
    return b


def test_the_breaker_opens_after_five_failures_in_a_row_and_not_after_four():
    b = breaker()
    fail(b, 0.0, 4)
    assert b.state(0.0) is CLOSED
    fail(b, 0.0)
    assert b.state(0.0) is OPEN
    assert not b.allows(0.0)


def test_successes_clear_failures_so_five_failures_in_a_year_do_not_open_it():
    b = breaker()
    for day in range(50):
        fail(b, day * 1e5)
        for i in range(3):
            b.on_result(day * 1e5 + i, b.on_send(day * 1e5 + i), True)
    assert b.state(51e5) is CLOSED


def test_half_of_recent_calls_failing_opens_it_although_never_five_in_a_row():
    b = breaker()
    for i in range(40):
        b.on_result(i * 0.01, b.on_send(i * 0.01), i % 2 == 0)
    assert b.state(0.4) is OPEN


def test_asking_changes_nothing():
    b = opened()
    later = b.until + 1.0
    for _ in range(10):
        assert b.state(later) is HALF_OPEN
        assert b.allows(later)
    assert b.state(b.until - 0.01) is OPEN
    b.on_send(later)
    for _ in range(10):
        assert not b.allows(later)


@pytest.mark.parametrize("places", [1, 3])
def test_half_open_admits_as_many_probes_as_configured_and_no_more(places: int):
    b = opened(half_open_max=places)
    now = b.until
    sent = 0
    while b.allows(now):
        b.on_send(now)
        sent += 1
    assert sent == places


def test_two_successful_probes_close_it_and_traffic_returns_slowly():
    b = opened(slow_start_s=2.0)
    now = b.until
    b.on_result(now + 0.01, b.on_send(now), True)
    assert b.state(now + 0.01) is HALF_OPEN
    b.on_result(now + 0.02, b.on_send(now + 0.01), True)
    now += 0.02
    assert b.state(now) is CLOSED
    assert b.slow_start(now) == pytest.approx(0.1)
    assert b.slow_start(now + 1.0) == pytest.approx(0.5)
    assert b.slow_start(now + 2.0) == 1.0


def test_a_failed_probe_opens_it_again_for_longer():
    b = opened(jitter=0.0)
    waits = []
    for _ in range(6):
        now = b.until
        waits.append(now - (b.changed_at or 0.0))
        fail(b, now)
        assert b.state(now) is OPEN
    assert waits == pytest.approx([1.0, 2.0, 4.0, 8.0, 10.0, 10.0])


def test_cooldowns_are_jittered_so_that_callers_do_not_probe_in_step():
    ends = set()
    for seed in range(20):
        b = Breaker(rng=random.Random(seed))
        fail(b, 0.0, 5)
        ends.add(round(b.until, 3))
        assert 0.5 <= b.until <= 1.5
    assert len(ends) > 15


def test_a_good_spell_makes_the_next_cooldown_the_first_again():
    b = opened(jitter=0.0)
    fail(b, b.until)
    now = b.until
    for _ in range(2):
        b.on_result(now, b.on_send(now), True)
    fail(b, now + 1.0, 5)  # soon after: it grows on
    assert b.until - now - 1.0 == pytest.approx(4.0)
    now = b.until
    for _ in range(2):
        b.on_result(now, b.on_send(now), True)
    fail(b, now + 60.0, 5)  # long after: as if never
    assert b.until - now - 60.0 == pytest.approx(1.0)


def test_a_success_that_was_sent_before_it_opened_does_not_close_it():
    b = breaker(successes_to_close=1)
    early = b.on_send(0.0)
    fail(b, 0.1, 5)
    b.on_result(0.2, early, True)
    assert b.state(0.2) is OPEN
    probe_time = b.until
    b.on_send(probe_time)
    b.on_result(probe_time, early, True)
    assert b.state(probe_time) is HALF_OPEN


def test_late_failures_do_not_extend_the_cooldown():
    b = breaker()
    late = [b.on_send(0.0) for _ in range(20)]
    fail(b, 0.1, 5)
    until = b.until
    for i, tag in enumerate(late):
        b.on_result(0.2 + i, tag, False)
    assert b.until == until


def test_a_probe_that_never_reports_gives_its_place_back():
    b = opened(lease_s=3.0)
    now = b.until
    b.on_send(now)
    assert not b.allows(now + 2.9)
    assert b.allows(now + 3.0)


def test_a_cancelled_probe_frees_its_place_at_once_and_is_no_evidence():
    b = opened()
    now = b.until
    b.on_cancel(b.on_send(now))
    assert b.allows(now)
    assert b.state(now) is HALF_OPEN


def test_success_of_a_call_sent_in_panic_counts_and_its_failure_does_not():
    b = opened(successes_to_close=2)
    until = b.until
    tags = [b.on_send(0.1) for _ in range(4)]
    b.on_result(0.2, tags[0], False)
    b.on_result(0.2, tags[1], False)
    assert b.until == until
    b.on_result(0.2, tags[2], True)
    b.on_result(0.2, tags[3], True)
    assert b.state(0.2) is CLOSED


def test_hints_can_lower_the_threshold_and_shift_the_probe_but_not_open_it():
    b = breaker()
    b.on_result(0.0, b.on_send(0.0), False, 2)
    assert b.state(0.0) is CLOSED
    b.on_result(0.0, b.on_send(0.0), False, 2)
    assert b.state(0.0) is OPEN
    wait = b.until
    assert not b.allows(wait * 1.2, 1.5)
    assert b.allows(wait * 1.5, 1.5)
    assert b.allows(wait * 0.5, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [{"failure_threshold": 0}, {"half_open_max": 0}, {"cooldown_s": 0.0}, {"jitter": 1.0}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError):
        BreakerSettings(**wrong)  # type: ignore[arg-type]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "panic", "ok", "fail", "lose", "cancel", "ask"]),
        st.floats(0.0, 4.0),
        st.integers(0, 50),
    ),
    max_size=120,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 3), st.integers(0, 1000))
def test_whatever_happens_probes_are_few_cooldowns_bounded_and_it_never_wedges(
    steps: list[tuple[str, float, int]], places: int, seed: int
):
    config = BreakerSettings(half_open_max=places, cooldown_s=8.0, lease_s=3.0)
    b = Breaker(config, rng=random.Random(seed))
    now = 0.0
    flying: list[int] = []
    probes: dict[int, float] = {}  # our own account: tag -> end of lease
    for what, wait, which in steps:
        now += wait
        state = b.state(now)
        live = [tag for tag, end in probes.items() if tag in flying and now < end]
        if what == "ask":
            assert b.allows(now) == b.allows(now)
            assert b.state(now) is state
        elif what == "send" and b.allows(now):
            if state is HALF_OPEN:
                assert len(live) < places
            flying.append(b.on_send(now))
            if state is HALF_OPEN:
                probes[flying[-1]] = now + config.lease_s
        elif what == "panic":
            allowed = b.allows(now)
            flying.append(b.on_send(now))
            if allowed and state is HALF_OPEN:
                probes[flying[-1]] = now + config.lease_s
        elif flying:
            tag = flying[which % len(flying)]
            if what == "cancel":
                b.on_cancel(tag)
            elif what in ("ok", "fail"):
                b.on_result(now, tag, what == "ok")
            flying.remove(tag) if what != "lose" else None
        if b.state(now) is not state:
            probes = {} if b.state(now) is not HALF_OPEN else probes
        if b.state(now) is OPEN:
            assert b.until - now <= config.cooldown_s
        assert b.probing(now) <= places
    # Whatever was lost or comes late, a peer that works again is closed in bounded time.
    now += config.cooldown_s + config.lease_s
    for _ in range(config.successes_to_close):
        assert b.allows(now)
        b.on_result(now, b.on_send(now), True)
    assert b.state(now) is CLOSED


def test_with_a_threshold_of_one_the_first_failure_of_all_opens_it():
    b = breaker(failure_threshold=1, half_open_max=1, successes_to_close=1)
    fail(b, 0.0)
    assert b.state(0.0) is OPEN


def test_the_spread_of_a_cooldown_is_as_wide_as_configured_to_both_sides():
    class Drawn(random.Random):
        value = 0.0

        def random(self) -> float:
            return self.value

    waits = []
    for value in (0.0, 0.5, 1.0):
        rng = Drawn(1)
        rng.value = value
        b = Breaker(BreakerSettings(cooldown_s=10.0, first_share=0.1, jitter=0.5), rng=rng)
        fail(b, 0.0, 5)
        waits.append(b.until)
    assert waits == pytest.approx([0.5, 1.0, 1.5])
