import random

import pytest

from p2p.addresses.reconnect import Reconnect, Wait, rung_after_link, wait_after
from p2p.base.errors import Code
from p2p.base.limits import HEALTHY_AFTER, RECONNECT_MAX


def bases(interval, count=12):
    return [Reconnect(interval).base(rung) for rung in range(1, count + 1)]


def test_the_ladder_comes_first_then_the_interval_doubling_to_the_maximum():
    assert bases(30.0, 9) == [1, 5, 15, 30, 60, 120, 240, 480, 600]


@pytest.mark.parametrize("interval", [0.5, 2.0, 10.0, 30.0, 600.0, 10_000.0])
def test_waits_never_shrink_and_stay_below_the_maximum(interval):
    waits = bases(interval, 100)
    assert waits == sorted(waits)
    assert waits[-1] == RECONNECT_MAX


def test_an_interval_shorter_than_the_ladder_bounds_its_steps():
    assert bases(2.0, 6) == [1, 2, 2, 2, 4, 8]


def test_a_very_high_rung_does_not_overflow():
    assert Reconnect(30.0).base(100_000) == RECONNECT_MAX


def test_every_wait_is_jittered_within_a_quarter():
    rng = random.Random(1)
    waits = [Reconnect(30.0).wait(4, rng) for _ in range(1000)]
    assert min(waits) >= 22.5
    assert max(waits) <= 37.5
    assert max(waits) - min(waits) > 14


@pytest.mark.parametrize(
    ("code", "wait"),
    [
        (None, Wait.LADDER),
        (Code.SHUTDOWN, Wait.LADDER),
        (Code.TIMEOUT, Wait.LADDER),
        (Code.FULL, Wait.INTERVAL),
        (Code.WRONG_NETWORK, Wait.LONG),
        (Code.WRONG_VERSION, Wait.LONG),
        (Code.WRONG_IDENTITY, Wait.LONG),
        (Code.ABUSE, Wait.LONG),
    ],
)
def test_the_wait_follows_the_reason(code, wait):
    assert wait_after(code) is wait


def test_a_full_peer_is_left_alone_for_the_interval_even_on_the_first_rung():
    assert Reconnect(30.0).base(1, Wait.INTERVAL) == 30
    assert Reconnect(30.0).base(6, Wait.INTERVAL) == 120
    assert Reconnect(30.0).base(1, Wait.LONG) == RECONNECT_MAX


def test_only_a_link_that_lasted_resets_the_ladder():
    assert rung_after_link(5, HEALTHY_AFTER) == 1
    assert rung_after_link(5, HEALTHY_AFTER - 0.1) == 6
