"""Orders that are good till a date, and what a clock that is set back must not do to orders."""

from __future__ import annotations

import pytest
from order_kit import CoinNetwork

from exchange.engine import order_manager as order_manager_module
from exchange.model.records import Order

SECOND = 1_000_000


def bid_for_a_second(net: CoinNetwork, quantity: int = 5) -> Order:
    expires = net[0].us(net.now) + SECOND
    return net.bid(0, 100, quantity, tif="gtd", expires=expires)


def test_an_order_that_comes_after_the_date_does_not_trade_before_the_next_tick() -> None:
    net = CoinNetwork()
    bid = bid_for_a_second(net)
    net.now += 1.0
    ask = net.ask(0, 100, 5)
    assert (bid.done, bid.reason, bid.filled) == (True, "expired", 0)
    assert ask.filled == 0


def test_an_order_just_before_the_date_trades() -> None:
    net = CoinNetwork()
    bid = bid_for_a_second(net)
    net.now += 0.999
    assert net.ask(0, 100, 5).filled == bid.filled == 5


def test_amending_after_the_date_is_too_late() -> None:
    net = CoinNetwork()
    bid = bid_for_a_second(net)
    net.now += 1.0
    with pytest.raises(Exception, match="cancelled"):
        net.amend(0, bid, quantity=3)


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_manager_module, "EXPIRED", 1)


def expired(orders: list[Order]) -> list[bool]:
    return [order.reason == "expired" for order in orders]


def test_while_many_orders_expire_no_take_is_decided(one_at_a_time: None) -> None:
    net = CoinNetwork(2)
    bids = [bid_for_a_second(net) for _ in range(4)]
    net.exchange()
    ask = net.ask(1, 100, 5)
    takes = net.drain(1)
    net.now += 1.0
    net[0].tick(net.now)
    assert expired(bids) == [True, True, False, False]  # two looks in a tick
    assert net[0].refreshing
    for take in takes:
        net.deliver(take)
    assert expired(bids) == [True, True, True, False]
    net[0].tick(net.now)
    assert expired(bids) == [True] * 4
    assert not net[0].refreshing
    net.run(5.0)
    assert ask.filled == sum(bid.filled for bid in bids) == 0


def test_a_command_while_many_orders_expire_comes_after_all_of_them(one_at_a_time: None) -> None:
    net = CoinNetwork()
    bids = [bid_for_a_second(net) for _ in range(4)]
    net.now += 1.0
    net[0].tick(net.now)
    assert expired(bids) == [True, True, False, False]
    ask = net.ask(0, 100, 5)
    assert expired(bids) == [True] * 4
    assert (ask.filled, net[0].refreshing) == (0, False)


HOUR_BACK, DAY_AHEAD = -3600 * SECOND, 86_400 * SECOND


@pytest.mark.parametrize("jump", [HOUR_BACK, DAY_AHEAD])
def test_a_reservation_is_kept_for_its_taker_though_the_makers_clock_was_set(jump: int) -> None:
    net = CoinNetwork(3)
    net.ask(1, 100, 3)
    net.ask(2, 101, 3)
    net.exchange()
    bid = net.bid(0, 101, 6, tif="fok")
    questions = net.drain(0)
    for mail in questions:
        net.deliver(mail)
    net.drain(1)
    net.kill(1)
    net.nodes[1].epoch_us += jump
    net.restart(1)
    assert net.order(1, 1).reserved == 3
    net.on_mail = lambda mail: [] if mail.to == 1 or mail.sender == 1 else [mail]
    net.run(20.0)
    assert net.order(1, 1).reserved == 3
    net.run(50.0)
    assert net.order(1, 1).reserved == 0  # and not in an hour
    net.on_mail = lambda mail: [mail]
    net.settle()
    assert bid.filled in (0, 6)
    net.check()
