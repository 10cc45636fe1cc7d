"""Orders that are good till a date, and what a clock that is set back must not do to orders."""

from __future__ import annotations

import pytest
from order_kit import KEY, CoinNetwork, state

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


def test_another_nodes_take_after_the_date_is_refused_before_the_next_tick() -> None:
    net = CoinNetwork(2)
    bid = bid_for_a_second(net)
    net.exchange()
    ask = net.ask(1, 100, 5)
    mails = net.drain(1)
    net.now += 1.0
    for mail in mails:
        net.deliver(mail)
    assert (bid.reason, bid.filled) == ("expired", 0)
    net.settle()
    assert ask.filled == 0


def test_after_a_restart_an_expired_order_sends_no_takes() -> None:
    net = CoinNetwork(2)
    bid = bid_for_a_second(net)
    net.exchange()
    net.kill(0)
    net.ask(1, 100, 5)
    net.exchange()
    net.now += 5.0
    net.restart(0)
    net.settle()
    assert net.order(0, bid.number).reason == "expired"
    assert net.fills(0) == net.fills(1) == []


def test_amending_after_the_date_is_too_late() -> None:
    net = CoinNetwork()
    bid = bid_for_a_second(net)
    net.now += 1.0
    with pytest.raises(Exception, match="cancelled"):
        net.amend(0, bid, quantity=3)


@pytest.mark.parametrize("change", ["slice", "price", "quantity"])
def test_an_order_keeps_losing_its_place_after_the_clock_was_set_back(change: str) -> None:
    net = CoinNetwork(2)
    bid = net.bid(0, 100, 10, display_quantity=2)
    net.exchange()
    net.kill(0)
    net.nodes[0].epoch_us -= 3600 * SECOND
    net.restart(0)
    net.settle()
    before = bid.priority or bid.time
    match change:
        case "slice":
            net.ask(1, 100, 2)
        case "price":
            net.amend(0, bid, price=101)
        case "quantity":
            net.amend(0, bid, quantity=20)
    net.exchange()
    after = net.order(0, bid.number)
    assert after.priority > before
    assert after.priority == net[1].markets[KEY].contents()[0][2]


HOUR_BACK, DAY_AHEAD = -3600 * SECOND, 86_400 * SECOND


@pytest.mark.parametrize("jump", [HOUR_BACK, DAY_AHEAD])
def test_a_clock_that_was_set_while_the_node_was_down_changes_no_order_lease_or_stop(
    jump: int,
) -> None:
    net = CoinNetwork(2)
    alice = net.account(0, usd=1000)
    bid = net.bid(0, 60, 5, account=alice)
    iceberg = net.ask(0, 120, 10, display_quantity=2)
    low, high = net.ask(0, None, 1, stop=80), net.bid(0, None, 1, stop=130)
    trailing = net.ask(0, None, 1, stop=50, trailing_offset=40)
    net.bid(1, 55, 5)
    net.run(4.0)
    before = state(net[0]), net.shown(0), net.shown(1)
    net.drain(0)
    net.kill(0)
    net.nodes[0].epoch_us += jump
    net.restart(0)
    net.run(4.0)
    assert (state(net[0]), net.shown(0), net.shown(1)) == before
    for i in (0, 1):
        assert net[i].present == [net.id(1 - i)]
    net.trade(1, 75)  # of a node whose clock is an hour ahead or a day behind, as this one sees it
    net.settle()
    assert [net.order(0, o.number).untriggered for o in (low, high, trailing)] == [
        *(False, True, True),
    ]
    assert net.order(0, low.number).reason == "filled"
    assert net.order(0, bid.number).filled == 1
    assert not net.order(0, iceberg.number).done
    net.check()
    net.check_money()


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
