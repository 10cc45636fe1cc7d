"""Reservations without a commit: bounded for each taker with earlier commits, and for all others
together, however many."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from order_kit import KEY, CoinNetwork

from exchange.feeds.exchange_messages import Take
from exchange.model.records import Decision
from exchange.takes import reservation_quota
from exchange.takes.reservation_quota import (
    MAX_RESERVATIONS,
    REFILL,
    SHARED_US,
    ReservationQuota,
)
from exchange.takes.take_protocol import RESERVATION_US, RESERVED

SECOND = 1_000_000
MINUTE = RESERVATION_US


def reserved(taker: str, take: int, time: int) -> Decision:
    return Decision(taker, take, "M", 1, 100, 10, time, 1, RESERVED, time + RESERVATION_US)


def keep(lends: ReservationQuota, taker: str, time: int, us: int, *, taken: bool = False) -> bool:
    """Make a reservation of this duration, if the quota admits it."""
    if not lends.admits(time, taker):
        return False
    decision = reserved(taker, 1, time)
    lends.begin(decision)
    lends.end(time + us, decision, taken=taken)
    return True


# The rule alone


@pytest.mark.parametrize("lasts", [MINUTE, 3 * SECOND])
def test_in_the_long_run_new_takers_reserve_one_order_for_a_tenth_of_the_time(lasts: int) -> None:
    lends = ReservationQuota()
    now = kept = taker = 0
    end = 3 * 3600 * SECOND
    while now < end:
        taker += 1
        if keep(lends, f"stranger {taker}", now, lasts):
            now += lasts
            kept += lasts
        else:
            now += SECOND
    most = SHARED_US + REFILL * end
    assert 0.9 * most < kept <= most + MINUTE


def test_newcomers_are_admitted_nine_minutes_after_a_burst_and_bursts_last_a_tenth_of_the_time() -> (
    None
):
    lends = ReservationQuota()
    now, bursts = 0, 0
    while now < 3 * 3600 * SECOND:
        takes = [reserved(f"stranger {bursts} {i}", 1, now) for i in range(MAX_RESERVATIONS)]
        for take in takes:
            assert lends.admits(now, take.taker)
            lends.begin(take)
        now += MINUTE
        for take in takes:
            lends.end(now, take, taken=False)
        bursts += 1
        assert not lends.admits(now + 539 * SECOND, "newcomer")
        now += 541 * SECOND
        assert lends.admits(now, "newcomer")
    assert bursts * MINUTE / now < REFILL


@pytest.mark.parametrize("taken", [1, 3])
def test_each_commit_earns_one_reservation_beside_the_shared_ones(taken: int) -> None:
    lends = ReservationQuota()
    for _ in range(taken):
        keep(lends, "good", 0, SECOND, taken=True)
    for i in range(MAX_RESERVATIONS):
        lends.begin(reserved(f"stranger {i}", 1, 0))
    for i in range(taken):
        assert lends.admits(0, "good")
        lends.begin(reserved("good", i + 2, 0))
    assert not lends.admits(0, "good")


def test_a_reservation_from_before_a_restart_uses_the_shared_allowance() -> None:
    lends = ReservationQuota()
    for i in range(SHARED_US // MINUTE + 1):
        lends.end(MINUTE, reserved("known once", i, 0), taken=False)
    assert not lends.admits(MINUTE, "known once")


def test_a_clock_that_was_set_costs_no_more_than_a_minute() -> None:
    lends = ReservationQuota()
    for time in (0, 10**15):
        lends.end(time, reserved("a", 1, 10**14), taken=False)
    assert lends.admits(10**15, "a")


def test_the_takers_with_own_allowances_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservation_quota, "MAX_KNOWN", 3)
    lends = ReservationQuota()
    for i in (1, 2, 3, 1, 4):
        keep(lends, str(i), 0, SECOND, taken=True)
    while lends.admits(0, "stranger"):
        keep(lends, "stranger", 0, MINUTE)
    assert [i for i in range(1, 5) if lends.admits(0, str(i))] == [1, 3, 4]


# In an engine


def reserve(network: CoinNetwork, taker: str, take: int, **more: object) -> None:
    ask = Take(take, KEY, 1, 1, 100, 1, 1, phase="reserve")
    assert network.give(0, replace(ask, **more), origin=taker)


def test_many_identities_cannot_reserve_more_than_one() -> None:
    network = CoinNetwork()
    network.ask(0, 100, 1000)
    order = network.order(0, 1)
    reserve(network, "good", 1)
    reserve(network, "good", 1, phase="commit")
    for i in range(2 * MAX_RESERVATIONS):
        reserve(network, f"stranger {i}", 1)
    assert order.reserved == MAX_RESERVATIONS
    reserve(network, "good", 2)
    assert order.reserved == MAX_RESERVATIONS + 1
    reserve(network, "good", 2, phase="commit")
    network.run(61.0)
    assert (order.reserved, order.shown) == (0, 998)
    for i in range(2 * MAX_RESERVATIONS):
        reserve(network, f"another {i}", 1)
    assert order.reserved == 0
    reserve(network, "good", 3)
    assert order.reserved == 1
