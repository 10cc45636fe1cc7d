"""Orders that are good till a date, and what a clock that is set back must not do to orders."""

from __future__ import annotations

import pytest
from order_kit import CoinNetwork

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


HOUR_BACK, DAY_AHEAD = -3600 * SECOND, 86_400 * SECOND
