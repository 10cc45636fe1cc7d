"""What an owner does not show: hidden orders, and the rest of icebergs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from order_kit import KEY, Desks

from exchange.feeds.exchange_messages import pack
from exchange.model.events import BUY, SELL, Filled, Moved, Opened
from exchange.orders.engine_context import CommandRejected


def events(desks: Desks, i: int) -> list[Any]:
    """What node i's next drain says in its feed."""
    records = desks[i].drain(desks.now).records
    return [event for r in records if hasattr(r, "batch") for event in r.batch.events]


# Hidden


def test_a_hidden_stop_meets_the_resting_order_that_the_same_trade_let_go_on() -> None:
    desks = Desks()
    alice, bob = desks.account(0, usd=10_000), desks.account(0, coin=10)
    bid = desks.bid(0, 101, 10, account=alice, hidden=True, stop=100)
    stop = desks.ask(0, 99, 4, account=bob, hidden=True, stop=100)
    market = desks.ask(0, None, 2, account=bob, stop=100)
    desks.trade(0, 100)  # triggers all three: the bid enters first and meets nothing
    assert (bid.filled, stop.filled, market.filled) == (6, 4, 2)
    desks.settle()
    desks.check()
    desks.check_money()


def test_a_market_stop_does_not_meet_a_hidden_one_that_the_same_trade_triggers_after_it() -> None:
    desks = Desks()
    alice, bob = desks.account(0, usd=10_000), desks.account(0, coin=10)
    market = desks.bid(0, None, 4, account=alice, stop=100)
    stop = desks.ask(0, 99, 4, account=bob, hidden=True, stop=100)
    desks.trade(0, 100)
    assert (market.done, market.reason, market.filled) == (True, "no_liquidity", 0)
    assert (stop.done, stop.free) == (False, 4)
    assert market.priority < stop.priority
    desks.settle()
    desks.check()
    desks.check_money()


def test_a_hidden_order_is_in_no_message_before_it_trades() -> None:
    desks = Desks(2)
    ask = desks.ask(0, 100, 777, hidden=True)
    assert (ask.opened, ask.shown, ask.free) == (False, 0, 777)
    assert events(desks, 0) == []
    desks.settle()
    assert desks.shown(0) == desks.shown(1) == []
    assert desks[0].markets[KEY].writer.number == 0
    desks.bid(0, 105, 5)
    assert ask.filled == 5
    public = events(desks, 0)
    assert public == [
        Opened(1, SELL, 100, 5, ask.time),
        Filled(1, SELL, 5, 100, 0, 0, desks.id(0), public[1].take, public[1].time),
    ]
    assert desks[0].markets[KEY].tape[-1].event.price == 100


def test_the_trade_of_a_hidden_order_leaves_all_books_alike() -> None:
    desks = Desks(3)
    desks.ask(0, 100, 10, hidden=True)
    desks.bid(0, 100, 3)
    desks.bid(0, 100, 3)
    desks.settle()
    assert [desks.shown(i) for i in range(3)] == [[], [], []]
    assert [len(desks[i].markets[KEY].tape) for i in range(3)] == [2, 2, 2]
    desks.check()


def test_at_one_price_what_is_on_show_comes_first_and_a_better_price_before_it() -> None:
    desks = Desks()
    hidden = desks.ask(0, 100, 2, hidden=True)
    shown = desks.ask(0, 100, 2)
    better = desks.ask(0, 99, 2, hidden=True)
    desks.bid(0, 100, 3)
    assert (better.filled, shown.filled, hidden.filled) == (2, 1, 0)
    desks.bid(0, 100, 3)
    assert (shown.filled, hidden.filled) == (2, 2)


def test_hidden_orders_stand_in_line_by_time() -> None:
    desks = Desks()
    first, second = desks.ask(0, 100, 2, hidden=True), desks.ask(0, 100, 2, hidden=True)
    desks.bid(0, 100, 3)
    assert (first.filled, second.filled) == (2, 1)


def test_a_hidden_order_takes_what_crosses_it_on_another_node_though_it_was_first() -> None:
    desks = Desks(2)
    ask = desks.ask(0, 100, 5, hidden=True)
    desks.exchange()
    bid = desks.bid(1, 101, 3)
    assert desks.shown(1) == [(BUY, 101, 3)]
    desks.exchange()
    assert (bid.filled, ask.filled, ask.value) == (3, 3, 303)
    assert [fill.role for fill in desks.fills(0)] == ["taker"]
    desks.settle()
    desks.check()
    desks.check_money()


def test_a_hidden_order_survives_a_restart() -> None:
    desks = Desks()
    alice = desks.account(0, coin=10)
    ask = desks.ask(0, 100, 5, hidden=True, account=alice)
    desks.bid(0, 100, 2)
    desks.same_after_restart(0)
    desks.bid(0, 100, 2)
    assert desks.order(0, ask.number).filled == 4
    desks[0].orders.cancel(desks.now, ask.number)
    assert desks.bid(0, 100, 1).filled == 0
    assert desks.money(0, alice)["COIN"] == (6, 0)


def test_a_hidden_order_is_amended_out_of_sight() -> None:
    desks = Desks()
    first, second = desks.ask(0, 100, 2, hidden=True), desks.ask(0, 100, 2, hidden=True)
    desks.amend(0, first, quantity=3)  # behind the other one
    assert events(desks, 0) == []
    desks.bid(0, 100, 2)
    assert (first.filled, second.filled) == (0, 2)
    desks.amend(0, first, price=110)
    assert desks.bid(0, 109, 1).filled == 0
    assert desks.bid(0, 110, 1).filled == 1


def test_post_only_does_not_take_hidden_orders_either() -> None:
    desks = Desks()
    desks.ask(0, 100, 5, hidden=True)
    assert desks.bid(0, 100, 1, post_only=True).reason == "post_only"


# Icebergs


def test_an_iceberg_shows_a_slice_and_says_nothing_of_the_rest() -> None:
    desks = Desks(2)
    ask = desks.ask(0, 100, 977, display_quantity=5)
    assert events(desks, 0) == [Opened(1, SELL, 100, 5, ask.time)]
    desks.bid(0, 100, 2)
    (fill,) = events(desks, 0)
    assert (fill.shown, fill.left) == (3, 3)
    desks.bid(0, 100, 3)
    first, second = events(desks, 0)
    assert (first.shown, first.left) == (0, 1)
    assert second == Moved(1, 100, 5, ask.priority)
    for event in (fill, first, second):
        assert not any(value in (972, 974, 975, 977) for value in msgspec.structs.astuple(event))
    assert pack(first)


def test_each_slice_goes_to_the_end_of_the_queue() -> None:
    desks = Desks(2)
    ice = desks.ask(0, 100, 6, display_quantity=2)
    plain = desks.ask(0, 100, 2)
    desks.exchange()
    desks.bid(1, 100, 3)
    desks.exchange()
    assert (ice.filled, plain.filled) == (2, 1)
    desks.settle()
    desks.bid(1, 100, 2)
    desks.exchange()
    assert (ice.filled, plain.filled) == (3, 2)
    assert desks.shown(0) == desks.shown(1) == [(SELL, 100, 1)]
    desks.settle()
    desks.check()


def test_a_taker_of_the_same_node_gets_slice_after_slice() -> None:
    desks = Desks(2)
    ice = desks.ask(0, 100, 10, display_quantity=3)
    other = desks.ask(0, 100, 1)
    bid = desks.bid(0, 100, 9)
    assert (bid.reason, ice.filled, other.filled) == ("filled", 8, 1)
    assert ice.shown == 1
    desks.settle()
    desks.check()


def test_the_last_slice_is_what_is_left() -> None:
    desks = Desks(2)
    ice = desks.ask(0, 100, 5, display_quantity=3)
    desks.bid(0, 100, 3)
    assert ice.shown == 2
    desks.bid(0, 100, 2)
    assert ice.reason == "filled"
    desks.settle()
    assert desks.shown(1) == []
    desks.check()


def test_a_display_of_all_of_it_is_no_iceberg() -> None:
    desks = Desks()
    assert desks.ask(0, 100, 5, display_quantity=5).display_quantity == 0
    assert desks.ask(0, 100, 5, display_quantity=9).shown == 5


def test_the_next_slice_meets_a_taker_of_another_node_that_rests() -> None:
    desks = Desks(2)
    ice = desks.ask(0, 100, 9, display_quantity=3)
    desks.exchange()
    bid = desks.bid(1, 100, 9)
    desks.settle()
    assert (bid.reason, ice.reason) == ("filled", "filled")
    desks.check()
    desks.check_money()


def test_an_iceberg_survives_a_restart_in_the_middle_of_a_slice() -> None:
    desks = Desks(2)
    ice = desks.ask(0, 100, 9, display_quantity=3)
    desks.bid(0, 100, 2)
    desks.same_after_restart(0)
    ice = desks.order(0, ice.number)
    assert ice.shown == 1
    desks.bid(0, 100, 1)
    assert ice.shown == 3
    desks.settle()
    assert desks.shown(1) == [(SELL, 100, 3)]
    desks.check()


def test_an_iceberg_has_only_so_many_slices() -> None:
    desks = Desks()
    with pytest.raises(CommandRejected, match="1000 slices"):
        desks.ask(0, 100, 1001, display_quantity=1)
    ice = desks.ask(0, 100, 1000, display_quantity=1)
    with pytest.raises(CommandRejected, match="1000 slices"):
        desks.amend(0, ice, quantity=1001)
    desks.bid(0, 100, 1000)
    assert ice.reason == "filled"


def test_amending_an_iceberg() -> None:
    desks = Desks(2)
    ice = desks.ask(0, 100, 10, display_quantity=4)
    desks.amend(0, ice, display_quantity=2)
    assert (ice.shown, ice.priority) == (2, 0)
    desks.amend(0, ice, display_quantity=3)
    assert (ice.shown, bool(ice.priority)) == (3, True)
    desks.amend(0, ice, quantity=2)
    assert (ice.shown, ice.display_quantity) == (2, 3)  # and shows three again should it grow
    desks.amend(0, ice, display_quantity=1)
    assert (ice.shown, ice.display_quantity) == (1, 1)
    desks.settle()
    assert desks.shown(1) == [(SELL, 100, 1)]
    desks.check()


def test_the_next_slice_comes_before_hidden_orders_and_worse_prices() -> None:
    desks = Desks()
    ice = desks.ask(0, 100, 6, display_quantity=2)
    hidden = desks.ask(0, 100, 5, hidden=True)
    worse = desks.ask(0, 101, 5)
    bid = desks.bid(0, 101, 8)
    assert (bid.reason, ice.filled, hidden.filled, worse.filled) == ("filled", 6, 2, 0)
