"""Hidden quantities: hidden orders, and the rest of icebergs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from order_kit import KEY, CoinNetwork

from exchange.feeds.exchange_messages import pack
from exchange.model.events import BUY, SELL, Filled, Moved, Opened
from exchange.orders.engine_context import CommandRejected


def events(network: CoinNetwork, i: int) -> list[Any]:
    """Return the feed events of node i's next drain."""
    records = network[i].drain(network.now).records
    return [event for r in records if hasattr(r, "batch") for event in r.batch.events]


# Hidden


def test_a_hidden_stop_meets_the_resting_order_that_the_same_trade_let_go_on() -> None:
    network = CoinNetwork()
    alice, bob = network.account(0, usd=10_000), network.account(0, coin=10)
    bid = network.bid(0, 101, 10, account=alice, hidden=True, stop=100)
    stop = network.ask(0, 99, 4, account=bob, hidden=True, stop=100)
    market = network.ask(0, None, 2, account=bob, stop=100)
    network.trade(0, 100)  # triggers all three: the bid enters first and meets nothing
    assert (bid.filled, stop.filled, market.filled) == (6, 4, 2)
    network.settle()
    network.check()
    network.check_money()


def test_a_market_stop_does_not_meet_a_hidden_one_that_the_same_trade_triggers_after_it() -> None:
    network = CoinNetwork()
    alice, bob = network.account(0, usd=10_000), network.account(0, coin=10)
    market = network.bid(0, None, 4, account=alice, stop=100)
    stop = network.ask(0, 99, 4, account=bob, hidden=True, stop=100)
    network.trade(0, 100)
    assert (market.done, market.reason, market.filled) == (True, "no_liquidity", 0)
    assert (stop.done, stop.free) == (False, 4)
    assert market.priority < stop.priority
    network.settle()
    network.check()
    network.check_money()


def test_a_hidden_order_is_in_no_message_before_it_trades() -> None:
    network = CoinNetwork(2)
    ask = network.ask(0, 100, 777, hidden=True)
    assert (ask.opened, ask.shown, ask.free) == (False, 0, 777)
    assert events(network, 0) == []
    network.settle()
    assert network.shown(0) == network.shown(1) == []
    assert network[0].markets[KEY].writer.number == 0
    network.bid(0, 105, 5)
    assert ask.filled == 5
    public = events(network, 0)
    assert public == [
        Opened(1, SELL, 100, 5, ask.time),
        Filled(1, SELL, 5, 100, 0, 0, network.id(0), public[1].take, public[1].time),
    ]
    assert network[0].markets[KEY].tape[-1].event.price == 100


def test_the_trade_of_a_hidden_order_leaves_all_books_alike() -> None:
    network = CoinNetwork(3)
    network.ask(0, 100, 10, hidden=True)
    network.bid(0, 100, 3)
    network.bid(0, 100, 3)
    network.settle()
    assert [network.shown(i) for i in range(3)] == [[], [], []]
    assert [len(network[i].markets[KEY].tape) for i in range(3)] == [2, 2, 2]
    network.check()


def test_displayed_orders_precede_hidden_ones_at_one_price() -> None:
    network = CoinNetwork()
    hidden = network.ask(0, 100, 2, hidden=True)
    shown = network.ask(0, 100, 2)
    better = network.ask(0, 99, 2, hidden=True)
    network.bid(0, 100, 3)
    assert (better.filled, shown.filled, hidden.filled) == (2, 1, 0)
    network.bid(0, 100, 3)
    assert (shown.filled, hidden.filled) == (2, 2)


def test_hidden_orders_stand_in_line_by_time() -> None:
    network = CoinNetwork()
    first, second = network.ask(0, 100, 2, hidden=True), network.ask(0, 100, 2, hidden=True)
    network.bid(0, 100, 3)
    assert (first.filled, second.filled) == (2, 1)


def test_a_hidden_order_takes_from_crossing_orders_of_other_nodes_even_if_earlier() -> None:
    network = CoinNetwork(2)
    ask = network.ask(0, 100, 5, hidden=True)
    network.exchange()
    bid = network.bid(1, 101, 3)
    assert network.shown(1) == [(BUY, 101, 3)]
    network.exchange()
    assert (bid.filled, ask.filled, ask.value) == (3, 3, 303)
    assert [fill.role for fill in network.fills(0)] == ["taker"]
    network.settle()
    network.check()
    network.check_money()


def test_a_hidden_order_survives_a_restart() -> None:
    network = CoinNetwork()
    alice = network.account(0, coin=10)
    ask = network.ask(0, 100, 5, hidden=True, account=alice)
    network.bid(0, 100, 2)
    network.same_after_restart(0)
    network.bid(0, 100, 2)
    assert network.order(0, ask.number).filled == 4
    network[0].orders.cancel(network.now, ask.number)
    assert network.bid(0, 100, 1).filled == 0
    assert network.money(0, alice)["COIN"] == (6, 0)


def test_a_hidden_order_is_amended_out_of_sight() -> None:
    network = CoinNetwork()
    first, second = network.ask(0, 100, 2, hidden=True), network.ask(0, 100, 2, hidden=True)
    network.amend(0, first, quantity=3)  # behind the other one
    assert events(network, 0) == []
    network.bid(0, 100, 2)
    assert (first.filled, second.filled) == (0, 2)
    network.amend(0, first, price=110)
    assert network.bid(0, 109, 1).filled == 0
    assert network.bid(0, 110, 1).filled == 1


def test_post_only_does_not_take_hidden_orders_either() -> None:
    network = CoinNetwork()
    network.ask(0, 100, 5, hidden=True)
    assert network.bid(0, 100, 1, post_only=True).reason == "post_only"


# Icebergs


def test_an_iceberg_publishes_its_slice_only() -> None:
    network = CoinNetwork(2)
    ask = network.ask(0, 100, 977, display_quantity=5)
    assert events(network, 0) == [Opened(1, SELL, 100, 5, ask.time)]
    network.bid(0, 100, 2)
    (fill,) = events(network, 0)
    assert (fill.shown, fill.left) == (3, 3)
    network.bid(0, 100, 3)
    first, second = events(network, 0)
    assert (first.shown, first.left) == (0, 1)
    assert second == Moved(1, 100, 5, ask.priority)
    for event in (fill, first, second):
        assert not any(value in (972, 974, 975, 977) for value in msgspec.structs.astuple(event))
    assert pack(first)


def test_each_slice_goes_to_the_end_of_the_queue() -> None:
    network = CoinNetwork(2)
    ice = network.ask(0, 100, 6, display_quantity=2)
    plain = network.ask(0, 100, 2)
    network.exchange()
    network.bid(1, 100, 3)
    network.exchange()
    assert (ice.filled, plain.filled) == (2, 1)
    network.settle()
    network.bid(1, 100, 2)
    network.exchange()
    assert (ice.filled, plain.filled) == (3, 2)
    assert network.shown(0) == network.shown(1) == [(SELL, 100, 1)]
    network.settle()
    network.check()


def test_a_taker_of_the_same_node_gets_slice_after_slice() -> None:
    network = CoinNetwork(2)
    ice = network.ask(0, 100, 10, display_quantity=3)
    other = network.ask(0, 100, 1)
    bid = network.bid(0, 100, 9)
    assert (bid.reason, ice.filled, other.filled) == ("filled", 8, 1)
    assert ice.shown == 1
    network.settle()
    network.check()


def test_the_last_slice_is_the_remainder() -> None:
    network = CoinNetwork(2)
    ice = network.ask(0, 100, 5, display_quantity=3)
    network.bid(0, 100, 3)
    assert ice.shown == 2
    network.bid(0, 100, 2)
    assert ice.reason == "filled"
    network.settle()
    assert network.shown(1) == []
    network.check()


def test_an_order_displayed_in_full_is_not_an_iceberg() -> None:
    network = CoinNetwork()
    assert network.ask(0, 100, 5, display_quantity=5).display_quantity == 0
    assert network.ask(0, 100, 5, display_quantity=9).shown == 5


def test_the_next_slice_meets_a_taker_of_another_node_that_rests() -> None:
    network = CoinNetwork(2)
    ice = network.ask(0, 100, 9, display_quantity=3)
    network.exchange()
    bid = network.bid(1, 100, 9)
    network.settle()
    assert (bid.reason, ice.reason) == ("filled", "filled")
    network.check()
    network.check_money()


def test_an_iceberg_survives_a_restart_in_the_middle_of_a_slice() -> None:
    network = CoinNetwork(2)
    ice = network.ask(0, 100, 9, display_quantity=3)
    network.bid(0, 100, 2)
    network.same_after_restart(0)
    ice = network.order(0, ice.number)
    assert ice.shown == 1
    network.bid(0, 100, 1)
    assert ice.shown == 3
    network.settle()
    assert network.shown(1) == [(SELL, 100, 3)]
    network.check()


def test_the_slices_of_an_iceberg_are_limited() -> None:
    network = CoinNetwork()
    with pytest.raises(CommandRejected, match="1000 slices"):
        network.ask(0, 100, 1001, display_quantity=1)
    ice = network.ask(0, 100, 1000, display_quantity=1)
    with pytest.raises(CommandRejected, match="1000 slices"):
        network.amend(0, ice, quantity=1001)
    network.bid(0, 100, 1000)
    assert ice.reason == "filled"


def test_amending_an_iceberg() -> None:
    network = CoinNetwork(2)
    ice = network.ask(0, 100, 10, display_quantity=4)
    network.amend(0, ice, display_quantity=2)
    assert (ice.shown, ice.priority) == (2, 0)
    network.amend(0, ice, display_quantity=3)
    assert (ice.shown, bool(ice.priority)) == (3, True)
    network.amend(0, ice, quantity=2)
    assert (ice.shown, ice.display_quantity) == (2, 3)  # and shows three again should it grow
    network.amend(0, ice, display_quantity=1)
    assert (ice.shown, ice.display_quantity) == (1, 1)
    network.settle()
    assert network.shown(1) == [(SELL, 100, 1)]
    network.check()


def test_the_next_slice_comes_before_hidden_orders_and_worse_prices() -> None:
    network = CoinNetwork()
    ice = network.ask(0, 100, 6, display_quantity=2)
    hidden = network.ask(0, 100, 5, hidden=True)
    worse = network.ask(0, 101, 5)
    bid = network.bid(0, 101, 8)
    assert (bid.reason, ice.filled, hidden.filled, worse.filled) == ("filled", 6, 2, 0)
