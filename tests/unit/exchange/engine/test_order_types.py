"""What each kind of order promises: immediate, post-only, reduce-only, dated, conditional, paired."""

from __future__ import annotations

import pytest
from order_kit import KEY, Desks, with_fees

from exchange.model.events import BUY, SELL
from exchange.model.records import Order
from exchange.orders.conditional_orders import STORE_INTERVAL
from exchange.orders.engine_context import CommandRejected


def refusal(call: object, *args: object, **more: object) -> str:
    with pytest.raises(CommandRejected) as refused:
        call(*args, **more)  # type: ignore[operator]
    return refused.value.code


# At once


def test_immediate_or_cancel_takes_what_there_is_and_never_rests() -> None:
    desks = Desks()
    desks.ask(0, 100, 3)
    desks.ask(0, 102, 3)
    bid = desks.bid(0, 101, 5, tif="ioc")
    assert (bid.filled, bid.done, bid.reason, bid.opened) == (3, True, "ioc", False)
    assert desks.shown(0) == [(SELL, 102, 3)]


def test_immediate_or_cancel_waits_for_the_answer_of_another_node() -> None:
    desks = Desks(2)
    desks.ask(1, 100, 3)
    desks.exchange()
    bid = desks.bid(0, 100, 5, tif="ioc")
    assert (bid.done, bid.pending) == (False, 3)
    desks.exchange()
    assert (bid.filled, bid.done, bid.reason) == (3, True, "ioc")
    assert desks.shown(1) == []
    desks.check()


def test_an_immediate_order_goes_on_after_a_restart_until_it_knows() -> None:
    desks = Desks(2)
    desks.ask(1, 100, 3)
    desks.exchange()
    bid = desks.bid(0, 100, 5, tif="ioc")
    desks.drain(0)  # the question is lost
    desks.restart(0)
    desks.settle()
    after = desks.order(0, bid.number)
    assert (after.done, after.filled, after.reason) == (True, 3, "ioc")
    desks.check()


def test_market_orders_are_protected_by_the_instrument() -> None:
    desks = Desks(instrument=with_fees("0", "0", protection="0.01"))
    desks.ask(0, 100, 1)
    desks.ask(0, 102, 1)
    bid = desks.bid(0, None, 2)
    assert (bid.worst_price, bid.filled, bid.reason) == (101, 1, "no_liquidity")
    assert desks.bid(0, None, 1, worst_price=102).reason == "filled"


# Post-only


def test_post_only_never_takes() -> None:
    desks = Desks()
    desks.ask(0, 100, 3)
    bid = desks.bid(0, 100, 1, post_only=True)
    assert (bid.done, bid.reason, bid.filled) == (True, "post_only", 0)
    rest = desks.bid(0, 99, 1, post_only=True)
    assert (rest.done, rest.shown) == (False, 1)
    desks.ask(0, 99, 1)
    assert rest.reason == "filled"


def test_post_only_ends_when_it_crossed_an_earlier_order_it_did_not_see() -> None:
    desks = Desks(2)
    ask = desks.ask(1, 100, 3)
    desks.now += 0.001
    bid = desks.bid(0, 100, 2, post_only=True)  # has not heard of it
    assert bid.shown == 2
    desks.exchange()
    assert (bid.done, bid.reason, bid.filled, ask.filled) == (True, "post_only", 0, 0)
    desks.settle()
    desks.check()


def test_post_only_stays_when_it_was_there_first() -> None:
    desks = Desks(2)
    bid = desks.bid(0, 100, 2, post_only=True)
    desks.now += 0.001
    ask = desks.ask(1, 100, 3)
    desks.exchange()
    desks.settle()
    assert (bid.reason, bid.filled, ask.filled) == ("filled", 2, 2)
    assert [fill.role for fill in desks.fills(0)] == ["maker"]
    desks.check()


# An account and itself


@pytest.mark.parametrize(
    ("mode", "taker", "maker"),
    [
        ("none", (4, 4, "filled"), (4, 4, "filled")),
        ("cancel_newest", (10, 0, "self_trade"), (4, 0, "")),
        ("cancel_oldest", (10, 5, ""), (4, 0, "self_trade")),
        ("cancel_both", (10, 0, "self_trade"), (4, 0, "self_trade")),
        ("decrement", (6, 5, ""), (4, 0, "self_trade")),
    ],
)
def test_an_account_trades_with_itself_as_it_asks_for(
    mode: str, taker: tuple[int, int, str], maker: tuple[int, int, str]
) -> None:
    desks = Desks()
    alice = desks.account(0, usd=10_000, coin=100)
    sell = desks.ask(0, 100, 4, account=alice)
    desks.ask(0, 101, 5)
    quantity = 4 if mode == "none" else 10
    bid = desks.bid(0, 101, quantity, account=alice, self_trade=mode)
    assert (bid.quantity, bid.filled, bid.reason) == taker
    assert (sell.quantity, sell.filled, sell.reason) == maker
    desks.check_money()
    desks.same_after_restart(0)


def test_clients_do_not_trade_with_themselves_unless_they_ask_for_it() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, coin=10)
    desks.ask(0, 100, 4, account=alice)
    assert desks.bid(0, 100, 1, account=alice).reason == "self_trade"
    bob = desks.account(0, usd=1000)
    assert desks.bid(0, 100, 1, account=bob).reason == "filled"


def test_of_two_orders_decrement_leaves_the_larger_one_the_rest() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, coin=10)
    sell = desks.ask(0, 100, 9, account=alice)
    bid = desks.bid(0, 100, 4, account=alice, self_trade="decrement")
    assert (bid.done, bid.reason, bid.filled) == (True, "self_trade", 0)
    assert (sell.quantity, sell.shown, sell.done) == (5, 5, False)
    assert desks.money(0, alice) == {"COIN": (10, 5), "USD": (1000, 0)}


# Reduce-only


def test_the_house_reduces_its_position_and_no_more() -> None:
    desks = Desks()
    bob = desks.account(0, usd=10_000, coin=100)
    assert refusal(desks.ask, 0, 100, 5, reduce_only=True) == "reduce_only"
    desks.ask(0, 100, 5, account=bob)
    desks.bid(0, 100, 5)  # the house is long 5
    ask = desks.ask(0, 110, 8, reduce_only=True)
    assert (ask.quantity, ask.shown) == (5, 5)
    desks.bid(0, 90, 3, account=bob)
    desks.ask(0, 90, 3)  # another way to reduce it: 2 are left
    assert (ask.quantity, ask.shown) == (2, 2)
    desks.bid(0, 110, 8, account=bob)
    assert (ask.filled, ask.reason) == (2, "filled")
    assert desks[0].ledger.balance("account:0", "COIN") == 0


def test_a_reduce_only_order_ends_with_the_position() -> None:
    desks = Desks(2)
    desks.ask(1, 100, 5)
    desks.exchange()
    desks.bid(0, 100, 5)
    desks.exchange()
    ask = desks.ask(0, 110, 5, reduce_only=True)
    desks.exchange()
    desks.ask(0, 90, 5)
    desks.bid(1, 90, 5)
    desks.exchange()
    assert (ask.done, ask.reason, ask.filled) == (True, "reduce_only", 0)
    assert desks.shown(1) == []
    desks.check()
    desks.check_money()


def test_what_is_asked_of_others_counts_as_reducing() -> None:
    desks = Desks(2)
    bob = desks.account(0, usd=10_000, coin=5)
    desks.ask(0, 100, 5, account=bob)
    desks.bid(0, 100, 5)  # the house is long 5
    desks.bid(1, 90, 3)
    desks.exchange()
    ask = desks.ask(0, 90, 5, reduce_only=True)
    other = desks.ask(0, 95, 5, reduce_only=True)
    assert (ask.pending, ask.shown, other.shown) == (3, 2, 2)
    for mail in desks.drain(0):
        desks.deliver(mail)  # granted, and not known here
    desks.bid(0, 80, 2, account=bob)
    desks.ask(0, 80, 2)  # long 3, which the answer may take
    assert (ask.cancelled, ask.pending, ask.shown, other.reason) == (True, 3, 0, "reduce_only")
    desks.exchange()
    assert (ask.filled, ask.reason) == (3, "reduce_only")
    assert desks[0].ledger.balance("account:0", "COIN") == 0
    desks.settle()
    desks.check()
    desks.check_money()


def test_a_maker_that_one_taker_shrinks_and_fills_is_shown_as_it_is() -> None:
    desks = Desks(2)
    bob = desks.account(0, usd=10_000, coin=10)
    desks.ask(0, 100, 10, account=bob)
    desks.bid(0, 100, 10)  # the house is long 10
    desks.ask(0, 105, 6)
    ask = desks.ask(0, 110, 10, reduce_only=True)
    desks.bid(0, 110, 8, account=bob)  # the first 6 leave the other order 4
    assert (ask.quantity, ask.filled, ask.shown) == (4, 2, 2)
    desks.exchange()
    assert desks.shown(1) == [(SELL, 110, 2)]
    desks.settle()
    desks.check()
    desks.check_money()


def reducing_fill_or_kill() -> tuple[Desks, int, Order]:
    """The house of node 0, long 10, sells them to bids of nodes 1 and 2, all or nothing, and waits for
    their answers. Bob is a client of node 0."""
    desks = Desks(3)
    bob = desks.account(0, usd=10_000, coin=10)
    desks.ask(0, 100, 10, account=bob)
    desks.bid(0, 100, 10)
    desks.bid(1, 90, 5)
    desks.bid(2, 90, 5)
    desks.bid(1, 88, 5)
    desks.exchange()
    return desks, bob, desks.ask(0, 88, 10, tif="fok", reduce_only=True)


def sell_to(desks: Desks, bob: int, quantity: int) -> None:
    desks.bid(0, 95, quantity, account=bob)
    desks.ask(0, 95, quantity)


def test_a_fill_or_kill_order_commits_no_more_than_the_position_is_by_then() -> None:
    desks, bob, ask = reducing_fill_or_kill()
    sell_to(desks, bob, 6)
    desks.settle()
    assert (ask.quantity, ask.filled, ask.reason) == (4, 4, "filled")
    assert desks[0].ledger.balance("account:0", "COIN") == 0
    desks.check()
    desks.check_money()


def test_a_fill_or_kill_order_tries_again_for_no_more_than_the_position_is_by_then() -> None:
    desks, bob, ask = reducing_fill_or_kill()
    desks[2].orders.cancel(desks.now, 1)  # refuses, so there is another try
    questions = desks.drain(0)
    sell_to(desks, bob, 6)
    for mail in questions:
        desks.deliver(mail)
    assert (
        sum(take.quantity for take in desks[0].orders.takes.pending if take.phase == "reserve") == 4
    )
    desks.settle()
    assert (ask.quantity, ask.filled, ask.reason) == (4, 4, "filled")
    assert desks[0].ledger.balance("account:0", "COIN") == 0
    desks.check()
    desks.check_money()


def test_a_fill_or_kill_order_ends_when_its_position_is_gone() -> None:
    desks, bob, ask = reducing_fill_or_kill()
    sell_to(desks, bob, 10)
    assert (ask.done, ask.filled, ask.reason) == (True, 0, "reduce_only")
    desks.settle()
    assert desks[0].ledger.balance("account:0", "COIN") == 0
    assert desks.shown(0) == [(BUY, 90, 5), (BUY, 90, 5), (BUY, 88, 5)]
    desks.check()
    desks.check_money()


def test_a_fill_or_kill_stop_sells_no_more_than_the_position_is_when_it_is_triggered() -> None:
    desks = Desks(2)
    bob = desks.account(0, usd=10_000, coin=10)
    desks.ask(0, 100, 10, account=bob)
    desks.bid(0, 100, 10)
    desks.bid(1, 90, 10)
    desks.exchange()
    stop = desks.ask(0, 88, 10, tif="fok", reduce_only=True, stop=95)
    sell_to(desks, bob, 6)  # at the stop
    desks.settle()
    assert (stop.quantity, stop.filled, stop.reason) == (4, 4, "filled")
    assert desks[0].ledger.balance("account:0", "COIN") == 0
    desks.check()
    desks.check_money()


def test_a_client_reduces_what_it_has() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, coin=3)
    assert refusal(desks.bid, 0, 1, 1, account=alice, reduce_only=True) == "reduce_only"
    assert desks.ask(0, 100, 5, account=alice, reduce_only=True).quantity == 3
    assert refusal(desks.ask, 0, 1, 1, account=alice, reduce_only=True) == "reduce_only"


# Dates


def test_an_order_good_till_a_date_ends_then() -> None:
    desks = Desks(2)
    alice = desks.account(0, usd=1000)
    expires = desks[0].us(desks.now) + 5_000_000
    bid = desks.bid(0, 100, 5, account=alice, tif="gtd", expires=expires)
    desks.run(4.5)
    assert (bid.done, desks.shown(1)) == (False, [(BUY, 100, 5)])
    desks.same_after_restart(0)
    desks.run(1.0)
    after = desks.order(0, bid.number)
    assert (after.done, after.reason) == (True, "expired")
    assert desks.shown(1) == []
    assert desks.money(0, alice)["USD"] == (1000, 0)


# Combinations


@pytest.mark.parametrize(
    "more",
    [
        {"tif": "gtd"},
        {"tif": "gtd", "expires": 1},
        {"expires": 2**61},
        {"price": None, "tif": "gtd", "expires": 2**61},
        {"worst_price": 90},
        {"trailing_offset": 5},
        {"price": None, "post_only": True},
        {"tif": "ioc", "post_only": True},
        {"tif": "fok", "hidden": True},
        {"tif": "ioc", "display_quantity": 1},
        {"hidden": True, "post_only": True},
        {"hidden": True, "display_quantity": 1},
        {"oco_stop": 99},
        {"oco_stop": 100},
        {"oco_stop": 110, "tif": "ioc"},
        {"oco_stop": 110, "stop": 90},
        {"price": None, "oco_stop": 110},
        {"client_id": ""},
        {"client_id": "c" * 65},
    ],
)
def test_orders_that_contradict_themselves_are_refused(more: dict[str, object]) -> None:
    desks = Desks()
    settings: dict[str, object] = {"price": 100, **more}
    price = settings.pop("price")
    assert refusal(desks.bid, 0, price, 5, **settings) == "bad_order"
    assert desks[0].order_store.open_orders == []


@pytest.mark.parametrize(
    "field", ["stop", "trailing_offset", "worst_price", "display_quantity", "oco_stop"]
)
@pytest.mark.parametrize("value", [0, -1, 2**53])
def test_figures_out_of_range_are_refused(field: str, value: int) -> None:
    assert refusal(Desks().bid, 0, 100, 5, **{field: value}) == "out_of_range"


# Stops


def test_a_stop_waits_for_a_trade_at_its_price_and_then_trades_at_the_market() -> None:
    desks = Desks()
    desks.trade(0, 100)
    stop = desks.bid(0, None, 3, stop=110)
    assert (stop.kind, stop.untriggered, stop.shown, stop.free) == ("stop", True, 0, 0)
    desks.ask(0, 111, 5)
    desks.trade(0, 109)
    assert stop.untriggered
    desks.trade(0, 110)
    assert (stop.untriggered, stop.filled, stop.reason) == (False, 3, "filled")


def test_a_stop_limit_enters_the_book_when_it_is_triggered() -> None:
    desks = Desks(2)
    desks.trade(0, 100)
    stop = desks.ask(0, 95, 3, stop=96)
    desks.exchange()
    assert desks.shown(1) == []
    desks.trade(0, 96)
    desks.exchange()
    assert (stop.untriggered, stop.shown, stop.kind) == (False, 3, "stop_limit")
    assert desks.shown(1) == [(SELL, 95, 3)]
    assert stop.priority > stop.time
    desks.settle()
    desks.check()


def test_a_trade_between_other_nodes_triggers_a_stop() -> None:
    desks = Desks(3)
    stop = desks.ask(0, 95, 3, stop=96)
    desks.exchange()
    desks.bid(1, 90, 1)
    desks.exchange()
    desks.ask(2, 90, 1)
    desks.exchange()
    assert (stop.untriggered, stop.shown) == (False, 3)


def test_a_trade_that_is_told_of_late_triggers_nothing() -> None:
    desks = Desks(2)
    stop = desks.ask(0, 95, 3, stop=96)
    desks.exchange()
    desks.on_mail = lambda mail: []
    desks.trade(1, 90)
    desks.drain(1)
    desks.run(20.0)
    desks.on_mail = lambda mail: [mail]
    desks.settle()
    assert desks[0].markets[KEY].tape
    assert stop.untriggered
    desks.trade(1, 91)
    desks.exchange()
    assert not stop.untriggered


def test_a_cascade_of_stops_is_no_recursion() -> None:
    desks = Desks()
    stops = [desks.ask(0, None, 1, stop=10_000 - i) for i in range(3000)]
    for i in range(3000):
        desks.bid(0, 9_999 - i, 1)
    desks.trade(0, 10_000)
    assert all(stop.reason == "filled" for stop in stops)


def test_a_stop_of_a_client_holds_and_may_find_too_little() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, coin=10)
    sell = desks.ask(0, None, 4, stop=90, account=alice)
    buy = desks.bid(0, None, 4, stop=100, account=alice)
    assert desks.money(0, alice) == {"COIN": (10, 4), "USD": (1000, 420)}  # protection of 5 %
    desks.ask(0, 240, 9)  # beyond what the rest of the money covers
    desks.bid(0, 100, 1, account=alice, self_trade="none")
    desks.ask(0, 100, 1)
    assert (buy.done, buy.reason, buy.filled) == (True, "insufficient_balance", 0)
    assert desks.money(0, alice)["USD"] == (900, 0)
    assert sell.untriggered
    desks.check_money()


def test_a_stop_survives_a_restart() -> None:
    desks = Desks()
    desks.trade(0, 100)
    stop = desks.bid(0, 110, 3, stop=105)
    desks.same_after_restart(0)
    desks.trade(0, 105)
    assert desks.order(0, stop.number).shown == 3
    desks.same_after_restart(0)


def test_a_cancelled_stop_is_not_triggered() -> None:
    desks = Desks()
    stop = desks.bid(0, 110, 3, stop=105)
    desks[0].orders.cancel(desks.now, stop.number)
    assert (stop.done, stop.reason) == (True, "cancelled")
    desks.trade(0, 105)
    assert stop.filled == 0


# Trailing stops


def test_a_trailing_stop_follows_the_market_and_never_goes_back() -> None:
    desks = Desks()
    desks.trade(0, 100)
    stop = desks.ask(0, None, 2, trailing_offset=10)
    assert (stop.kind, stop.stop) == ("trailing_stop", 90)
    desks.trade(0, 120)
    desks.run(0.1)
    assert stop.stop == 110
    desks.trade(0, 111)
    assert stop.untriggered
    desks.bid(0, 109, 5)
    desks.same_after_restart(0)
    stop = desks.order(0, stop.number)
    desks.trade(0, 110)
    assert (stop.untriggered, stop.reason, stop.value) == (False, "filled", 218)


def test_a_trailing_stop_is_above_zero() -> None:
    desks = Desks()
    desks.trade(0, 100)
    with pytest.raises(CommandRejected, match="must be less than the price") as refused:
        desks.ask(0, None, 2, trailing_offset=100)
    assert refused.value.code == "out_of_range"
    stop = desks.ask(0, None, 2, trailing_offset=99)
    with pytest.raises(CommandRejected, match="must be less than the price"):
        desks.amend(0, stop, trailing_offset=100)
    assert (stop.stop, stop.trailing_offset) == (1, 99)


def test_trailing_stops_are_written_down_after_trades_and_not_at_every_tick() -> None:
    desks = Desks()
    desks.trade(0, 100)
    stop = desks.ask(0, None, 2, trailing_offset=10)
    desks.trade(0, 101)
    desks.run(0.1)
    assert stop.stop == 91
    desks.trade(0, 102)
    desks.run(STORE_INTERVAL / 2)
    assert stop.stop == 91
    desks.run(STORE_INTERVAL)
    assert stop.stop == 92
    before = stop.updated
    desks.run(2 * STORE_INTERVAL)
    assert stop.updated == before
    desks.restart(0)  # what was written down is durable
    assert desks.order(0, stop.number).stop == 92


def test_a_trailing_stop_begins_with_the_first_trade() -> None:
    desks = Desks()
    stop = desks.bid(0, None, 2, trailing_offset=10)
    assert stop.stop == 0
    desks.same_after_restart(0)
    stop = desks.order(0, stop.number)
    desks.trade(0, 100)
    desks.run(0.1)
    assert stop.stop == 110
    alice = desks.account(0, usd=1000)
    assert desks.bid(0, None, 1, trailing_offset=5, account=alice).stop == 105


def test_a_client_says_where_a_trailing_buy_begins_when_there_was_no_trade() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000)
    assert refusal(desks.bid, 0, None, 2, trailing_offset=10, account=alice) == "bad_order"
    stop = desks.bid(0, None, 2, trailing_offset=10, stop=110, account=alice)
    assert stop.stop == 110
    assert desks.money(0, alice)["USD"] == (1000, 230)
    desks.trade(0, 90)
    desks.run(0.1)
    assert stop.stop == 100
    assert desks.money(0, alice)["USD"] == (1000, 210)


# Pairs


def pair(desks: Desks, account: int, **more: object) -> tuple[object, object]:
    limit, stop = desks.place_all(0, SELL, 120, 5, account=account, oco_stop=90, **more)
    return limit, stop


def test_a_pair_shares_one_hold_and_ends_with_a_fill_of_one() -> None:
    desks = Desks()
    alice = desks.account(0, coin=5)
    limit, stop = desks.place_all(0, SELL, 120, 5, account=alice, oco_stop=90, client_id="c")
    assert (limit.linked_order, stop.linked_order) == (stop.number, limit.number)
    assert (limit.kind, stop.kind, stop.untriggered) == ("limit", "stop", True)
    assert desks.money(0, alice)["COIN"] == (5, 5)
    again = desks.place_all(0, SELL, 120, 5, account=alice, oco_stop=90, client_id="c")
    assert again == [limit, stop]
    desks.same_after_restart(0)
    limit, stop = desks.order(0, limit.number), desks.order(0, stop.number)
    desks.bid(0, 120, 2)
    assert (stop.done, stop.reason) == (True, "oco")
    assert (limit.done, limit.filled) == (False, 2)
    assert desks.money(0, alice)["COIN"] == (3, 3)
    desks.trade(0, 80)
    assert stop.filled == 0
    desks.check_money()


@pytest.mark.parametrize(
    ("reason", "more"), [("post_only", {"post_only": True}), ("self_trade", {})]
)
def test_a_pair_whose_limit_order_ends_at_once_never_comes_to_be(
    reason: str, more: dict[str, object]
) -> None:
    desks = Desks()
    alice = desks.account(0, coin=5, usd=1000)
    desks.bid(0, 120, 1, account=alice if reason == "self_trade" else 0)
    limit, stop = desks.place_all(
        0, SELL, 120, 5, account=alice, oco_stop=90, client_id="c", **more
    )
    assert (limit.done, limit.reason) == (stop.done, stop.reason) == (True, reason)
    assert desks.money(0, alice)["COIN"] == (5, 0)
    assert desks.place_all(0, SELL, 120, 5, account=alice, oco_stop=90, client_id="c", **more) == [
        limit,
        stop,
    ]
    desks.trade(0, 90)
    assert stop.filled == 0


def test_the_stop_of_a_pair_cancels_the_other_order() -> None:
    desks = Desks()
    alice = desks.account(0, coin=5)
    limit, stop = desks.place_all(0, SELL, 120, 5, account=alice, oco_stop=90)
    desks.bid(0, 89, 9)
    desks.trade(0, 90)
    assert (limit.done, limit.reason, limit.filled) == (True, "oco", 0)
    assert (stop.filled, stop.reason) == (5, "filled")
    assert desks.money(0, alice) == {"COIN": (0, 0), "USD": (5 * 89, 0)}
    desks.check_money()


def test_the_hold_of_a_pair_is_the_greater_of_both() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000)
    limit, stop = desks.place_all(0, BUY, 100, 5, account=alice, oco_stop=120)
    assert desks.money(0, alice)["USD"] == (1000, 5 * 126)
    desks[0].orders.cancel(desks.now, stop.number)
    assert desks.money(0, alice)["USD"] == (1000, 500)
    desks[0].orders.cancel(desks.now, limit.number)
    assert desks.money(0, alice)["USD"] == (1000, 0)
    limit, stop = desks.place_all(0, BUY, 100, 5, account=alice, oco_stop=120)
    desks[0].orders.cancel(desks.now, limit.number)
    assert desks.money(0, alice)["USD"] == (1000, 5 * 126)
    desks.same_after_restart(0)
    desks[0].orders.cancel(desks.now, stop.number)
    assert desks.money(0, alice)["USD"] == (1000, 0)


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("restart", [True, False])
def test_a_stop_of_a_pair_waits_while_the_other_order_may_still_be_filled(
    filled: bool, restart: bool
) -> None:
    desks = Desks(2)
    alice = desks.account(0, coin=5)
    bid = desks.bid(1, 120, 5)
    desks.exchange()
    desks.bid(0, 89, 5)
    limit, stop = desks.place_all(0, SELL, 120, 5, account=alice, oco_stop=90)
    assert limit.pending == 5
    desks.drain(0)  # the question is lost
    if not filled:
        desks[1].orders.cancel(desks.now, bid.number)
    desks.trade(0, 90)
    assert (limit.cancelled, limit.done, stop.untriggered) == (True, False, True)
    if filled:
        desks.exchange()  # the first take was lost: the second one is void, so ask it as it was
        assert limit.filled == 0
    if restart:
        desks.drain(0)
        desks.restart(0)
    desks.settle()
    limit, stop = desks.order(0, limit.number), desks.order(0, stop.number)
    assert (limit.done, limit.reason, limit.filled) == (True, "oco", 0)
    assert (stop.filled, stop.reason) == (5, "filled")
    assert desks.money(0, alice)["COIN"] == (0, 0)
    desks.check_money()


def test_a_stop_of_a_pair_is_cancelled_when_the_fill_of_the_other_order_was_on_its_way() -> None:
    desks = Desks(2)
    alice = desks.account(0, coin=5)
    desks.bid(1, 120, 5)
    desks.exchange()
    limit, stop = desks.place_all(0, SELL, 120, 5, account=alice, oco_stop=90)
    for mail in desks.drain(0):
        desks.deliver(mail)
    answers = desks.drain(1)  # filled, and not known here
    desks.bid(0, 89, 5)
    desks.trade(0, 90)
    assert (limit.cancelled, stop.untriggered) == (True, True)
    for mail in answers:
        desks.deliver(mail)
    assert (limit.reason, limit.filled) == ("filled", 5)
    assert (stop.reason, stop.filled) == ("oco", 0)
    desks.settle()
    desks.check()
    desks.check_money()


# Halts


def test_a_halted_market_takes_no_orders_and_fills_none() -> None:
    desks = Desks(2)
    ask = desks.ask(0, 100, 5)
    bid = desks.bid(0, 90, 5)
    desks.exchange()
    desks[0].orders.halt(KEY, "upgrade")
    desks[0].orders.halt(KEY, "maintenance")
    assert refusal(desks.bid, 0, 100, 1) == "halted"
    assert refusal(desks.amend, 0, bid, price=91) == "halted"
    taker = desks.bid(1, 100, 2)
    desks.exchange()
    assert (taker.filled, ask.filled) == (0, 0)
    desks[0].orders.cancel(desks.now, bid.number)
    desks.drain(0)
    desks.restart(0)
    assert desks[0].halts.reason(KEY) == "maintenance"
    assert refusal(desks.bid, 0, 100, 1) == "halted"
    assert desks[0].orders.resume_market(desks.now, KEY)
    assert not desks[0].orders.resume_market(desks.now, KEY)
    desks.drain(0)
    desks.restart(0)
    assert desks[0].halts.reason(KEY) is None
    desks.run(8.0)
    assert taker.filled == 2
    desks.check()


def test_nothing_is_triggered_in_a_halt_and_the_last_trade_counts_after_it() -> None:
    desks = Desks(2)
    low, high = desks.ask(0, 80, 1, stop=90), desks.ask(0, 70, 1, stop=75)
    desks[0].orders.halt(KEY)
    desks.trade(1, 70)
    desks.trade(1, 85)
    desks.exchange()
    assert low.untriggered
    assert high.untriggered
    desks[0].orders.resume_market(desks.now, KEY)
    assert (low.untriggered, high.untriggered) == (False, True)
    desks.settle()
    desks.check()


def test_an_order_that_waits_for_an_answer_when_its_market_is_halted_ends() -> None:
    desks = Desks(2)
    desks.ask(1, 100, 3)
    desks.exchange()
    bid = desks.bid(0, None, 5)
    desks[0].orders.halt(KEY)
    desks.exchange()
    assert (bid.filled, bid.reason) == (3, "halted")


def test_unknown_markets_are_neither_halted_nor_resumed() -> None:
    desks = Desks()
    assert refusal(desks[0].orders.halt, "X") == "unknown_market"
    assert refusal(desks[0].orders.resume_market, desks.now, "X") == "unknown_market"
