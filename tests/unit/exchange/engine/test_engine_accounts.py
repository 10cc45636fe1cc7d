"""Orders of accounts: what is held, refused, paid, and what peers may owe."""

from __future__ import annotations

from decimal import Decimal

import pytest
from order_kit import UNIT, CoinNetwork, with_fees

from exchange.model.commands import Selection
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from exchange.orders.engine_context import CommandRejected


def refusal(call: object, *args: object, **more: object) -> str:
    with pytest.raises(CommandRejected) as refused:
        call(*args, **more)  # type: ignore[operator]
    assert refused.value.detail
    return refused.value.code


def test_an_order_holds_its_maximum_cost_and_releases_the_rest() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, coin=10)
    bid = network.bid(0, 100, 4, account=alice)
    ask = network.ask(0, 200, 3, account=alice)
    assert network.money(0, alice) == {"COIN": (10, 3), "USD": (1000, 400)}
    network[0].orders.cancel(network.now, bid.number)
    network[0].orders.cancel(network.now, ask.number)
    assert network.money(0, alice) == {"COIN": (10, 0), "USD": (1000, 0)}


def test_a_refused_order_leaves_no_trace() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=10, max_open_orders=1)
    before = network[0].drain(network.now)
    assert before.records == []
    assert refusal(network.bid, 0, 100, 1, account=alice, client_id="c") == "insufficient_balance"
    assert network[0].drain(network.now).records == []
    assert network.bid(0, 10, 1, account=alice, client_id="c").number == 1


def test_a_partly_filled_order_holds_for_its_remainder() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000)
    bid = network.bid(0, 100, 10, account=alice)
    network.ask(0, 100, 4)
    assert network.money(0, alice) == {"COIN": (4, 0), "USD": (600, 600)}
    assert (bid.filled, bid.shown) == (4, 6)
    network.same_after_restart(0)


def test_a_market_buy_holds_for_its_worst_price_and_trades_no_worse() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000)
    network.ask(0, 100, 2)
    network.ask(0, 105, 2)
    network.ask(0, 106, 2)
    bid = network.bid(0, None, 6, account=alice)  # protection is 5 %
    assert (bid.worst_price, bid.filled, bid.reason, bid.done) == (105, 4, "no_liquidity", True)
    assert network.money(0, alice) == {"COIN": (4, 0), "USD": (590, 0)}
    network.ask(0, 100, 20)
    assert refusal(network.bid, 0, None, 6, account=alice) == "insufficient_balance"
    assert network.bid(0, None, 5, account=alice, worst_price=110).reason == "filled"


def test_changes_of_an_account_are_undrained_until_the_drain() -> None:
    network = CoinNetwork()
    alice, bob = network.account(0, usd=10), network.account(0, usd=10)
    network.drain(0)
    changes = [
        lambda: network[0].ledger.deposit(1, alice, "USD", 1, ""),
        lambda: network.bid(0, 1, 1, account=alice),
        lambda: network[0].orders.cancel(network.now, 1),
    ]
    for change in changes:
        assert not network[0].undrained(alice)
        change()
        assert (network[0].undrained(alice), network[0].undrained(bob)) == (True, False)
        network.drain(0)


def test_accounts_that_may_not_trade_are_refused() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000)
    bid = network.bid(0, 1, 1, account=alice)
    assert refusal(network.bid, 0, 1, 1, account=99) == "unknown_account"
    network[0].accounts.freeze(alice)
    assert refusal(network.bid, 0, 1, 1, account=alice) == "account_frozen"
    assert refusal(network.amend, 0, bid, price=2) == "account_frozen"
    network[0].orders.cancel(network.now, bid.number)
    assert network[0].order_store.open_orders == []


def test_freezing_an_account_cancels_its_open_orders() -> None:
    network = CoinNetwork(2)
    alice, bob = (network.account(0, usd=1000, coin=5) for _ in range(2))
    bid = network.bid(0, 90, 5, account=alice)
    stop = network.ask(0, None, 5, stop=80, account=alice)
    others = [network.bid(0, 90, 1, account=bob), network.bid(0, 89, 1)]
    network.exchange()
    assert network[0].orders.freeze(network.now, alice) == [bid, stop]
    assert {(o.done, o.reason) for o in (bid, stop)} == {(True, "frozen")}
    assert network.money(0, alice) == {"COIN": (5, 0), "USD": (1000, 0)}
    assert network[0].orders.freeze(network.now, alice) == []
    network.exchange()
    assert [order.number for order in network[0].order_store.open_orders] == [
        o.number for o in others
    ]
    assert network.shown(1) == [(BUY, 90, 1), (BUY, 89, 1)]
    network.check()


def test_an_account_frozen_before_the_node_may_write_has_its_orders_cancelled_then() -> None:
    network = CoinNetwork(2)
    alice = network.account(0, usd=1000)
    bid = network.bid(0, 90, 5, account=alice)
    network.settle()
    network.fence_max = 5.0
    network.restart(0)
    assert network[0].fenced
    assert network[0].orders.freeze(network.now, alice) == []
    network.run(8.0)
    bid = network.order(0, bid.number)
    assert (bid.done, bid.reason) == (True, "frozen")
    assert network.shown(1) == []


def test_after_a_restart_nothing_is_matched_with_orders_of_a_frozen_account() -> None:
    network = CoinNetwork(2)
    alice = network.account(0, usd=1000, coin=9)
    network.ask(1, 90, 4)
    network.exchange()
    network.kill(1)
    house = network.bid(0, None, 7)  # 4 are pending with the node that is gone, 3 wait for that
    ask = network.ask(0, 90, 5, account=alice)
    network.drain(0)
    network.fence_max = 5.0
    network.restart(0)
    network[0].orders.freeze(network.now, alice)
    network.run(8.0)
    house, ask = network.order(0, house.number), network.order(0, ask.number)
    assert (house.filled, house.pending) == (0, 4)
    assert (ask.done, ask.reason, ask.filled) == (True, "frozen", 0)


def test_a_restart_changes_nothing_of_orders_that_rest() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, coin=9)
    network.bid(0, 90, 5, account=alice)
    network.ask(0, 110, 5, account=alice, display_quantity=2)
    network.ask(0, 111, 2, hidden=True)
    network.ask(0, None, 2, stop=80)
    network.bid(0, 110, 1)
    network.drain(0)
    before = network[0].order_store.open_orders
    network.run(10.0)
    network.restart(0)
    assert network[0].order_store.open_orders == before
    assert network[0].drain(network.now).orders == []


def test_open_orders_of_an_account_are_limited() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, max_open_orders=2)
    first = network.bid(0, 1, 1, account=alice)
    network.bid(0, 1, 1, account=alice)
    assert refusal(network.bid, 0, 1, 1, account=alice) == "too_many_orders"
    network[0].orders.cancel(network.now, first.number)
    network.bid(0, 1, 1, account=alice)
    network.drain(0)
    network.restart(0)
    assert refusal(network.bid, 0, 1, 1, account=alice) == "too_many_orders"


def test_orders_a_minute_of_an_account_are_limited() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, orders_per_minute=2)
    bid = network.bid(0, 1, 1, account=alice)
    network.bid(0, 1, 1, account=alice)
    assert refusal(network.bid, 0, 1, 1, account=alice) == "rate_limited"
    assert refusal(network.amend, 0, bid, price=2) == "rate_limited"
    assert network.money(0, alice)["USD"] == (1000, 2)
    network[0].orders.cancel(network.now, bid.number)
    network.now += 30
    network.bid(0, 1, 1, account=alice)


def test_cancel_many_takes_all_that_fit_and_no_others() -> None:
    network = CoinNetwork()
    alice, bob = network.account(0, usd=100, coin=100), network.account(0, usd=100)
    network.bid(0, 1, 1, account=bob)
    one = network.bid(0, 1, 1, account=alice, group=1, client_id="c")
    two = network.bid(0, 2, 1, account=alice, group=2)
    sell = network.ask(0, 9, 1, account=alice, group=2)
    assert network.cancel_many(0, account=alice, groups=frozenset({3})) == []
    assert network.cancel_many(0, account=alice, market="other") == []
    assert network.cancel_many(0, account=alice, groups=frozenset({2}), side=SELL) == [sell]
    assert network.cancel_many(0, account=alice, client_ids=frozenset({"c"})) == [one]
    assert network.cancel_many(0, account=alice, numbers=frozenset({1, two.number})) == [two]
    network.bid(0, 1, 1, account=alice)
    (last,) = network[0].orders.cancel_many(network.now, Selection(account=alice), "dead_man")
    assert last.reason == "dead_man"
    assert [order.account for order in network[0].order_store.open_orders] == [bob]


# Credit


def test_takes_stay_within_the_makers_credit() -> None:
    network = CoinNetwork(2)
    network[0].ledger.set_credit("", "COIN", 3 * UNIT)
    network.ask(1, 100, 5)
    network.ask(1, 101, 5)
    network.exchange()
    bid = network.bid(0, 110, 8)
    assert bid.pending == 3
    network.exchange()
    assert (bid.filled, bid.pending, bid.shown) == (3, 0, 5)
    assert network[0].ledger.room(network.id(1), "COIN") == 0
    network[0].ledger.settle(network[0].us(network.now), network.id(1), "COIN", UNIT, "paid")
    network.run(1.0)
    assert bid.filled == 4


def test_pending_takes_count_against_the_limit() -> None:
    network = CoinNetwork(2)
    network[0].ledger.set_credit("", "COIN", 3 * UNIT)
    network.ask(1, 100, 5)
    network.exchange()
    first = network.bid(0, 100, 2)
    second = network.bid(0, 100, 2)
    assert (first.pending, second.pending) == (2, 1)


def test_units_and_rules_are_those_of_the_instrument() -> None:
    network = CoinNetwork(instrument=with_fees("0", "0", min_quantity="2", min_notional="50"))
    assert refusal(network.bid, 0, 100, 1) == "too_small"
    assert refusal(network.bid, 0, 10, 2) == "notional_too_small"
    bid = network.bid(0, 100, 2)
    assert refusal(network.amend, 0, bid, quantity=1) == "too_small"
    assert (bid.quantity, bid.shown) == (2, 2)


def test_an_order_placed_again_is_found_though_it_was_altered_since() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, coin=3)
    bid = network.bid(0, 100, 5, account=alice, client_id="bid")
    network.amend(0, bid, price=90, quantity=4)
    ask = network.ask(0, 200, 9, account=alice, client_id="ask", reduce_only=True)
    assert ask.quantity == 3
    network.same_after_restart(0)
    assert network.bid(0, 100, 5, account=alice, client_id="bid").number == bid.number
    again = network.ask(0, 200, 9, account=alice, client_id="ask", reduce_only=True)
    assert again.number == ask.number
    assert refusal(network.ask, 0, 100, 5, account=alice, client_id="bid") == "client_id_reused"
    assert [o.number for o in network[0].order_store.of_account(alice)] == [bid.number, ask.number]
    assert network[0].order_store.of_account(0) == []


def test_balances_are_counted_in_smaller_units_when_an_instrument_needs_them() -> None:
    network = CoinNetwork()
    alice = network.account(0, usd=1000, coin=10)
    bid = network.bid(0, 100, 2, account=alice)
    network.drain(0)
    finer = Instrument("FINE-USD", Decimal("0.000001"), Decimal("0.0001"))
    network.instruments = (*network.instruments, finer)
    network.markets = (*network.markets, finer.key)
    for _ in range(2):
        network.restart(0)
        ledger = network[0].ledger
        assert ledger.decimals["USD"] == 10
        assert ledger.holdings(alice)["USD"] == (1000 * 10**10, 200 * 10**10)
        assert ledger.holdings(alice)["COIN"] == (10 * UNIT, 0)
        network.exchange()
    network[0].orders.cancel(network.now, bid.number)
    network.instruments = network.instruments[:1]
    network.markets = network.markets[:1]
    network.drain(0)
    network.restart(0)  # nothing is ever counted in larger units again
    assert network[0].ledger.holdings(alice)["USD"] == (1000 * 10**10, 0)
    network.ask(0, 100, 1)
    network.bid(0, 100, 1, account=alice)
    assert network[0].ledger.holdings(alice)["USD"] == (900 * 10**10, 0)
    network.check_money()
