"""Guarantees of each order type: immediate, post-only, reduce-only, dated, conditional, paired."""

from __future__ import annotations

import pytest
from order_kit import KEY, CoinNetwork, with_fees

from exchange.model.events import BUY, SELL
from exchange.model.records import Order
from exchange.orders.engine_context import CommandRejected


def refusal(call: object, *args: object, **more: object) -> str:
    with pytest.raises(CommandRejected) as refused:
        call(*args, **more)  # type: ignore[operator]
    return refused.value.code


# At once


def test_market_orders_are_protected_by_the_instrument() -> None:
    network = CoinNetwork(instrument=with_fees("0", "0", protection="0.01"))
    network.ask(0, 100, 1)
    network.ask(0, 102, 1)
    bid = network.bid(0, None, 2)
    assert (bid.worst_price, bid.filled, bid.reason) == (101, 1, "no_liquidity")
    assert network.bid(0, None, 1, worst_price=102).reason == "filled"


def test_neither_a_trade_of_strangers_nor_their_orders_close_the_band_to_honest_prices() -> None:
    network = CoinNetwork(2, instrument=with_fees("0", "0", price_band="4"))
    network.trade(1, 10**9)
    network.ask(1, 10**9, 1)
    network.settle()
    for _ in range(2):
        network.bid(0, 100, 1)
        network.drain(0)
        network.restart(0)
        network.settle()
    network.ask(0, 100, 2)  # from now on there is a fill of its own
    for _ in range(2):
        assert refusal(network.ask, 0, 19, 1) == "price_band"
        network.bid(0, 100, 1)
        network.cancel_many(0)
        network.drain(0)
        network.restart(0)
        network.settle()


# Post-only


def test_post_only_ends_when_it_crossed_an_earlier_order_it_did_not_see() -> None:
    network = CoinNetwork(2)
    ask = network.ask(1, 100, 3)
    network.now += 0.001
    bid = network.bid(0, 100, 2, post_only=True)  # has not heard of it
    assert bid.shown == 2
    network.exchange()
    assert (bid.done, bid.reason, bid.filled, ask.filled) == (True, "post_only", 0, 0)
    network.settle()
    network.check()


def test_post_only_stays_when_it_was_there_first() -> None:
    network = CoinNetwork(2)
    bid = network.bid(0, 100, 2, post_only=True)
    network.now += 0.001
    ask = network.ask(1, 100, 3)
    network.exchange()
    network.settle()
    assert (bid.reason, bid.filled, ask.filled) == ("filled", 2, 2)
    assert [fill.role for fill in network.fills(0)] == ["maker"]
    network.check()


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
def test_self_trades_follow_the_accounts_choice(
    mode: str, taker: tuple[int, int, str], maker: tuple[int, int, str]
) -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=10_000, coin=100)
    sell = network.ask(0, 100, 4, account=alice)
    network.ask(0, 101, 5)
    quantity = 4 if mode == "none" else 10
    bid = network.bid(0, 101, quantity, account=alice, self_trade=mode)
    assert (bid.quantity, bid.filled, bid.reason) == taker
    assert (sell.quantity, sell.filled, sell.reason) == maker
    network.check_money()
    network.same_after_restart(0)


def test_clients_do_not_trade_with_themselves_unless_they_choose_to() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, coin=10)
    network.ask(0, 100, 4, account=alice)
    assert network.bid(0, 100, 1, account=alice).reason == "self_trade"
    bob = network.account(0, usd=1000)
    assert network.bid(0, 100, 1, account=bob).reason == "filled"


def test_of_two_orders_decrement_leaves_the_larger_one_the_rest() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, coin=10)
    sell = network.ask(0, 100, 9, account=alice)
    bid = network.bid(0, 100, 4, account=alice, self_trade="decrement")
    assert (bid.done, bid.reason, bid.filled) == (True, "self_trade", 0)
    assert (sell.quantity, sell.shown, sell.done) == (5, 5, False)
    assert network.money(0, alice) == {"COIN": (10, 5), "USD": (1000, 0)}


# Reduce-only


def test_the_house_reduces_its_position_and_no_more() -> None:
    network = CoinNetwork()
    bob = network.account(0, usd=10_000, coin=100)
    assert refusal(network.ask, 0, 100, 5, reduce_only=True) == "reduce_only"
    network.ask(0, 100, 5, account=bob)
    network.bid(0, 100, 5)  # the house is long 5
    ask = network.ask(0, 110, 8, reduce_only=True)
    assert (ask.quantity, ask.shown) == (5, 5)
    network.bid(0, 90, 3, account=bob)
    network.ask(0, 90, 3)  # another way to reduce it: 2 are left
    assert (ask.quantity, ask.shown) == (2, 2)
    network.bid(0, 110, 8, account=bob)
    assert (ask.filled, ask.reason) == (2, "filled")
    assert network[0].ledger.balance("account:0", "COIN") == 0


def test_a_reduce_only_order_ends_with_the_position() -> None:
    network = CoinNetwork(2)
    network.ask(1, 100, 5)
    network.exchange()
    network.bid(0, 100, 5)
    network.exchange()
    ask = network.ask(0, 110, 5, reduce_only=True)
    network.exchange()
    network.ask(0, 90, 5)
    network.bid(1, 90, 5)
    network.exchange()
    assert (ask.done, ask.reason, ask.filled) == (True, "reduce_only", 0)
    assert network.shown(1) == []
    network.check()
    network.check_money()


def test_pending_takes_count_as_reducing() -> None:
    network = CoinNetwork(2)
    bob = network.account(0, usd=10_000, coin=5)
    network.ask(0, 100, 5, account=bob)
    network.bid(0, 100, 5)  # the house is long 5
    network.bid(1, 90, 3)
    network.exchange()
    ask = network.ask(0, 90, 5, reduce_only=True)
    other = network.ask(0, 95, 5, reduce_only=True)
    assert (ask.pending, ask.shown, other.shown) == (3, 2, 2)
    for mail in network.drain(0):
        network.deliver(mail)  # granted, and not known here
    network.bid(0, 80, 2, account=bob)
    network.ask(0, 80, 2)  # long 3, which the answer may take
    assert (ask.cancelled, ask.pending, ask.shown, other.reason) == (True, 3, 0, "reduce_only")
    network.exchange()
    assert (ask.filled, ask.reason) == (3, "reduce_only")
    assert network[0].ledger.balance("account:0", "COIN") == 0
    network.settle()
    network.check()
    network.check_money()


def reducing_fill_or_kill() -> tuple[CoinNetwork, int, Order]:
    """The house of node 0, long 10, sells them to bids of nodes 1 and 2, all or nothing, and waits for
    their answers. Bob is a client of node 0."""
    network = CoinNetwork(3)
    bob = network.account(0, usd=10_000, coin=10)
    network.ask(0, 100, 10, account=bob)
    network.bid(0, 100, 10)
    network.bid(1, 90, 5)
    network.bid(2, 90, 5)
    network.bid(1, 88, 5)
    network.exchange()
    return network, bob, network.ask(0, 88, 10, tif="fok", reduce_only=True)


def sell_to(network: CoinNetwork, bob: int, quantity: int) -> None:
    network.bid(0, 95, quantity, account=bob)
    network.ask(0, 95, quantity)


def test_a_fill_or_kill_order_ends_when_its_position_is_gone() -> None:
    network, bob, ask = reducing_fill_or_kill()
    sell_to(network, bob, 10)
    assert (ask.done, ask.filled, ask.reason) == (True, 0, "reduce_only")
    network.settle()
    assert network[0].ledger.balance("account:0", "COIN") == 0
    assert network.shown(0) == [(BUY, 90, 5), (BUY, 90, 5), (BUY, 88, 5)]
    network.check()
    network.check_money()


def test_a_fill_or_kill_stop_sells_no_more_than_the_position_is_when_it_is_triggered() -> None:
    network = CoinNetwork(2)
    bob = network.account(0, usd=10_000, coin=10)
    network.ask(0, 100, 10, account=bob)
    network.bid(0, 100, 10)
    network.bid(1, 90, 10)
    network.exchange()
    stop = network.ask(0, 88, 10, tif="fok", reduce_only=True, stop=95)
    sell_to(network, bob, 6)  # at the stop
    network.settle()
    assert (stop.quantity, stop.filled, stop.reason) == (4, 4, "filled")
    assert network[0].ledger.balance("account:0", "COIN") == 0
    network.check()
    network.check_money()


def test_a_client_reduces_its_balance() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, coin=3)
    assert refusal(network.bid, 0, 1, 1, account=alice, reduce_only=True) == "reduce_only"
    assert network.ask(0, 100, 5, account=alice, reduce_only=True).quantity == 3
    assert refusal(network.ask, 0, 1, 1, account=alice, reduce_only=True) == "reduce_only"


# Dates


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
    network = CoinNetwork()
    settings: dict[str, object] = {"price": 100, **more}
    price = settings.pop("price")
    assert refusal(network.bid, 0, price, 5, **settings) == "bad_order"
    assert network[0].order_store.open_orders == []


@pytest.mark.parametrize(
    "field", ["stop", "trailing_offset", "worst_price", "display_quantity", "oco_stop"]
)
@pytest.mark.parametrize("value", [0, -1, 2**53])
def test_figures_out_of_range_are_refused(field: str, value: int) -> None:
    assert refusal(CoinNetwork().bid, 0, 100, 5, **{field: value}) == "out_of_range"


# Stops


def test_a_late_trade_triggers_nothing() -> None:
    network = CoinNetwork(2)
    stop = network.ask(0, 95, 3, stop=96)
    network.exchange()
    network.on_mail = lambda mail: []
    network.trade(1, 90)
    network.drain(1)
    network.run(20.0)
    network.on_mail = lambda mail: [mail]
    network.settle()
    assert network[0].markets[KEY].tape
    assert stop.untriggered
    network.trade(1, 91)
    network.exchange()
    assert not stop.untriggered


def test_a_cascade_of_stops_does_not_recurse() -> None:
    network = CoinNetwork()
    stops = [network.ask(0, None, 1, stop=10_000 - i) for i in range(3000)]
    for i in range(3000):
        network.bid(0, 9_999 - i, 1)
    network.trade(0, 10_000)
    assert all(stop.reason == "filled" for stop in stops)


def test_a_stop_of_a_client_holds_and_may_find_too_little() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, coin=10)
    sell = network.ask(0, None, 4, stop=90, account=alice)
    buy = network.bid(0, None, 4, stop=100, account=alice)
    assert network.money(0, alice) == {"COIN": (10, 4), "USD": (1000, 420)}  # protection of 5 %
    network.ask(0, 240, 9)  # beyond what the rest of the money covers
    network.bid(0, 100, 1, account=alice, self_trade="none")
    network.ask(0, 100, 1)
    assert (buy.done, buy.reason, buy.filled) == (True, "insufficient_balance", 0)
    assert network.money(0, alice)["USD"] == (900, 0)
    assert sell.untriggered
    network.check_money()


# Trailing stops


def test_a_trailing_stop_is_above_zero() -> None:
    network = CoinNetwork()
    network.trade(0, 100)
    with pytest.raises(CommandRejected, match="must be less than the price") as refused:
        network.ask(0, None, 2, trailing_offset=100)
    assert refused.value.code == "out_of_range"
    stop = network.ask(0, None, 2, trailing_offset=99)
    with pytest.raises(CommandRejected, match="must be less than the price"):
        network.amend(0, stop, trailing_offset=100)
    assert (stop.stop, stop.trailing_offset) == (1, 99)


def test_a_trailing_stop_begins_with_the_first_trade() -> None:
    network = CoinNetwork()
    stop = network.bid(0, None, 2, trailing_offset=10)
    assert stop.stop == 0
    network.same_after_restart(0)
    stop = network.order(0, stop.number)
    network.trade(0, 100)
    network.run(0.1)
    assert stop.stop == 110
    alice = network.account(0, usd=1000)
    assert network.bid(0, None, 1, trailing_offset=5, account=alice).stop == 105


def test_a_trailing_buy_of_a_client_needs_a_first_stop_before_the_first_trade() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000)
    assert refusal(network.bid, 0, None, 2, trailing_offset=10, account=alice) == "bad_order"
    stop = network.bid(0, None, 2, trailing_offset=10, stop=110, account=alice)
    assert stop.stop == 110
    assert network.money(0, alice)["USD"] == (1000, 230)
    network.trade(0, 90)
    network.run(0.1)
    assert stop.stop == 100
    assert network.money(0, alice)["USD"] == (1000, 210)


# Pairs


@pytest.mark.parametrize(
    ("reason", "more"), [("post_only", {"post_only": True}), ("self_trade", {})]
)
def test_a_pair_is_not_made_if_its_limit_order_ends_at_once(
    reason: str, more: dict[str, object]
) -> None:
    network = CoinNetwork()
    alice = network.account(0, coin=5, usd=1000)
    network.bid(0, 120, 1, account=alice if reason == "self_trade" else 0)
    limit, stop = network.place_all(
        0, SELL, 120, 5, account=alice, oco_stop=90, client_id="c", **more
    )
    assert (limit.done, limit.reason) == (stop.done, stop.reason) == (True, reason)
    assert network.money(0, alice)["COIN"] == (5, 0)
    assert network.place_all(
        0, SELL, 120, 5, account=alice, oco_stop=90, client_id="c", **more
    ) == [
        limit,
        stop,
    ]
    network.trade(0, 90)
    assert stop.filled == 0


def test_the_stop_of_a_pair_cancels_the_other_order() -> None:
    network = CoinNetwork()
    alice = network.account(0, coin=5)
    limit, stop = network.place_all(0, SELL, 120, 5, account=alice, oco_stop=90)
    network.bid(0, 89, 9)
    network.trade(0, 90)
    assert (limit.done, limit.reason, limit.filled) == (True, "oco", 0)
    assert (stop.filled, stop.reason) == (5, "filled")
    assert network.money(0, alice) == {"COIN": (0, 0), "USD": (5 * 89, 0)}
    network.check_money()


@pytest.mark.parametrize("filled", [True, False])
@pytest.mark.parametrize("restart", [True, False])
def test_a_stop_of_a_pair_waits_while_the_other_order_may_still_be_filled(
    filled: bool, restart: bool
) -> None:
    network = CoinNetwork(2)
    alice = network.account(0, coin=5)
    bid = network.bid(1, 120, 5)
    network.exchange()
    network.bid(0, 89, 5)
    limit, stop = network.place_all(0, SELL, 120, 5, account=alice, oco_stop=90)
    assert limit.pending == 5
    network.drain(0)  # the question is lost
    if not filled:
        network[1].orders.cancel(network.now, bid.number)
    network.trade(0, 90)
    assert (limit.cancelled, limit.done, stop.untriggered) == (True, False, True)
    with pytest.raises(CommandRejected, match="no stop that could still be triggered"):
        network.amend(0, stop, stop=80)  # it is triggered: a lower stop would not be kept
    if filled:
        network.exchange()  # the first take was lost: the second one is void, so ask it as it was
        assert limit.filled == 0
    if restart:
        network.drain(0)
        network.restart(0)
    network.settle()
    limit, stop = network.order(0, limit.number), network.order(0, stop.number)
    assert (limit.done, limit.reason, limit.filled) == (True, "oco", 0)
    assert (stop.filled, stop.reason) == (5, "filled")
    assert network.money(0, alice)["COIN"] == (0, 0)
    network.check_money()


# Halts


def test_a_halted_market_takes_no_orders_and_fills_none() -> None:
    network = CoinNetwork(2)
    ask = network.ask(0, 100, 5)
    bid = network.bid(0, 90, 5)
    network.exchange()
    network[0].orders.halt(KEY, "upgrade")
    network[0].orders.halt(KEY, "maintenance")
    assert refusal(network.bid, 0, 100, 1) == "halted"
    assert refusal(network.amend, 0, bid, price=91) == "halted"
    taker = network.bid(1, 100, 2)
    network.exchange()
    assert (taker.filled, ask.filled) == (0, 0)
    network[0].orders.cancel(network.now, bid.number)
    network.drain(0)
    network.restart(0)
    assert network[0].halts.reason(KEY) == "maintenance"
    assert refusal(network.bid, 0, 100, 1) == "halted"
    assert network[0].orders.resume_market(network.now, KEY)
    assert not network[0].orders.resume_market(network.now, KEY)
    network.drain(0)
    network.restart(0)
    assert network[0].halts.reason(KEY) is None
    network.run(8.0)
    assert taker.filled == 2
    network.check()


def test_nothing_is_triggered_in_a_halt_and_the_last_trade_counts_after_it() -> None:
    network = CoinNetwork(2)
    low, high = network.ask(0, 80, 1, stop=90), network.ask(0, 70, 1, stop=75)
    network[0].orders.halt(KEY)
    network.trade(1, 70)
    network.trade(1, 85)
    network.exchange()
    assert low.untriggered
    assert high.untriggered
    network[0].orders.resume_market(network.now, KEY)
    assert (low.untriggered, high.untriggered) == (False, True)
    network.settle()
    network.check()


def test_an_order_that_waits_for_an_answer_when_its_market_is_halted_ends() -> None:
    network = CoinNetwork(2)
    network.ask(1, 100, 3)
    network.exchange()
    bid = network.bid(0, None, 5)
    network[0].orders.halt(KEY)
    network.exchange()
    assert (bid.filled, bid.reason) == (3, "halted")


def test_unknown_markets_are_neither_halted_nor_resumed() -> None:
    network = CoinNetwork()
    assert refusal(network[0].orders.halt, "X") == "unknown_market"
    assert refusal(network[0].orders.resume_market, network.now, "X") == "unknown_market"
