"""Orders of accounts: what is held, refused, paid, and what peers may owe."""

from __future__ import annotations

from decimal import Decimal

import pytest
from exchange_kit import M, Network
from order_kit import UNIT, Desks, with_fees

from exchange.model.commands import NewOrder, Selection
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from exchange.orders.engine_context import CommandRejected


def refusal(call: object, *args: object, **more: object) -> str:
    with pytest.raises(CommandRejected) as refused:
        call(*args, **more)  # type: ignore[operator]
    assert refused.value.detail
    return refused.value.code


def test_an_order_holds_what_it_may_cost_and_gives_back_what_it_does_not() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, coin=10)
    bid = desks.bid(0, 100, 4, account=alice)
    ask = desks.ask(0, 200, 3, account=alice)
    assert desks.money(0, alice) == {"COIN": (10, 3), "USD": (1000, 400)}
    desks[0].orders.cancel(desks.now, bid.number)
    desks[0].orders.cancel(desks.now, ask.number)
    assert desks.money(0, alice) == {"COIN": (10, 0), "USD": (1000, 0)}


def test_nobody_orders_beyond_what_is_available_and_the_house_may() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000)
    desks.bid(0, 100, 6, account=alice)
    with pytest.raises(CommandRejected) as refused:
        desks.bid(0, 100, 5, account=alice)
    assert refused.value.code == "insufficient_balance"
    assert refused.value.detail == "500 USD needed and 400 USD available"
    assert refusal(desks.ask, 0, 100, 1, account=alice) == "insufficient_balance"
    assert desks.money(0, alice)["USD"] == (1000, 600)
    assert [o.number for o in desks[0].order_store.open_orders] == [1]
    desks.bid(0, 100, 4, account=alice)
    desks.ask(0, 200, 1000)
    assert desks.money(0, 0) == {}


def test_a_refused_order_leaves_no_trace() -> None:
    desks = Desks()
    alice = desks.account(0, usd=10, max_open_orders=1)
    before = desks[0].drain(desks.now)
    assert before.records == []
    assert refusal(desks.bid, 0, 100, 1, account=alice, client_id="c") == "insufficient_balance"
    assert desks[0].drain(desks.now).records == []
    assert desks.bid(0, 10, 1, account=alice, client_id="c").number == 1


def test_a_trade_between_accounts_moves_money_and_fees() -> None:
    desks = Desks(instrument=with_fees("0.001", "0.002"))
    alice, bob = desks.account(0, usd=1000), desks.account(0, coin=10)
    desks.ask(0, 100, 5, account=bob)
    desks.bid(0, 120, 5, account=alice)
    assert desks.money(0, alice) == {"COIN": (5 - 0.01, 0), "USD": (500, 0)}
    assert desks.money(0, bob) == {"COIN": (5, 0), "USD": (500 - 0.5, 0)}
    assert desks[0].ledger.balance("fees", "COIN") == UNIT // 100
    assert desks[0].ledger.balance("fees", "USD") == UNIT // 2
    desks.check_money()
    drained = desks[0].drain(desks.now)
    assert {(f.account, f.role, f.fee, f.fee_asset) for f in drained.fills} == {
        (alice, "taker", UNIT // 100, "COIN"),
        (bob, "maker", UNIT // 2, "USD"),
    }
    assert (alice, "USD", 500 * UNIT, 0) in drained.balances


def test_a_trade_with_another_node_posts_against_it_on_both_sides() -> None:
    desks = Desks(2, instrument=with_fees("0.001", "0.002"))
    alice, bob = desks.account(0, usd=1000), desks.account(1, coin=10)
    desks.ask(1, 100, 5, account=bob)
    desks.exchange()
    desks.bid(0, 110, 4, account=alice)
    assert desks.money(0, alice) == {"USD": (1000, 440)}
    desks.exchange()
    assert desks.money(0, alice) == {"COIN": (4 - 0.008, 0), "USD": (600, 0)}
    assert desks.money(1, bob) == {"COIN": (6, 1), "USD": (400 - 0.4, 0)}
    peer = f"peer:{desks.id(1)}"
    assert desks[0].ledger.balance(peer, "COIN") == -4 * UNIT
    assert desks[0].ledger.balance(peer, "USD") == 400 * UNIT
    desks.check_money()
    desks.same_after_restart(0)
    desks.same_after_restart(1)
    desks.check_money()


def test_a_partly_filled_order_holds_what_is_left() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000)
    bid = desks.bid(0, 100, 10, account=alice)
    desks.ask(0, 100, 4)
    assert desks.money(0, alice) == {"COIN": (4, 0), "USD": (600, 600)}
    assert (bid.filled, bid.shown) == (4, 6)
    desks.same_after_restart(0)


def test_a_market_buy_holds_for_its_worst_price_and_trades_no_worse() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000)
    desks.ask(0, 100, 2)
    desks.ask(0, 105, 2)
    desks.ask(0, 106, 2)
    bid = desks.bid(0, None, 6, account=alice)  # protection is 5 %
    assert (bid.worst_price, bid.filled, bid.reason, bid.done) == (105, 4, "no_liquidity", True)
    assert desks.money(0, alice) == {"COIN": (4, 0), "USD": (590, 0)}
    desks.ask(0, 100, 20)
    assert refusal(desks.bid, 0, None, 6, account=alice) == "insufficient_balance"
    assert desks.bid(0, None, 5, account=alice, worst_price=110).reason == "filled"


def test_a_market_order_without_a_counterpart_ends_at_once() -> None:
    desks = Desks()
    alice = desks.account(0, usd=10)
    bid = desks.bid(0, None, 10, account=alice)
    assert (bid.done, bid.reason, bid.filled) == (True, "no_liquidity", 0)
    assert desks.money(0, alice)["USD"] == (10, 0)


def test_accounts_that_may_not_trade_are_refused() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000)
    bid = desks.bid(0, 1, 1, account=alice)
    assert refusal(desks.bid, 0, 1, 1, account=99) == "unknown_account"
    desks[0].accounts.freeze(alice)
    assert refusal(desks.bid, 0, 1, 1, account=alice) == "account_frozen"
    assert refusal(desks.amend, 0, bid, price=2) == "account_frozen"
    desks[0].orders.cancel(desks.now, bid.number)
    assert desks[0].order_store.open_orders == []


def test_freezing_an_account_cancels_its_open_orders() -> None:
    desks = Desks(2)
    alice, bob = (desks.account(0, usd=1000, coin=5) for _ in range(2))
    bid = desks.bid(0, 90, 5, account=alice)
    stop = desks.ask(0, None, 5, stop=80, account=alice)
    others = [desks.bid(0, 90, 1, account=bob), desks.bid(0, 89, 1)]
    desks.exchange()
    assert desks[0].orders.freeze(desks.now, alice) == [bid, stop]
    assert {(o.done, o.reason) for o in (bid, stop)} == {(True, "frozen")}
    assert desks.money(0, alice) == {"COIN": (5, 0), "USD": (1000, 0)}
    assert desks[0].orders.freeze(desks.now, alice) == []
    desks.exchange()
    assert [order.number for order in desks[0].order_store.open_orders] == [
        o.number for o in others
    ]
    assert desks.shown(1) == [(BUY, 90, 1), (BUY, 89, 1)]
    desks.check()


def test_an_account_frozen_before_the_node_may_write_has_its_orders_cancelled_then() -> None:
    desks = Desks(2)
    alice = desks.account(0, usd=1000)
    bid = desks.bid(0, 90, 5, account=alice)
    desks.settle()
    desks.fence_max = 5.0
    desks.restart(0)
    assert desks[0].fenced
    assert desks[0].orders.freeze(desks.now, alice) == []
    desks.run(8.0)
    bid = desks.order(0, bid.number)
    assert (bid.done, bid.reason) == (True, "frozen")
    assert desks.shown(1) == []


def test_a_restart_changes_nothing_of_orders_that_rest() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, coin=9)
    desks.bid(0, 90, 5, account=alice)
    desks.ask(0, 110, 5, account=alice, display_quantity=2)
    desks.ask(0, 111, 2, hidden=True)
    desks.ask(0, None, 2, stop=80)
    desks.bid(0, 110, 1)
    desks.drain(0)
    before = desks[0].order_store.open_orders
    desks.run(10.0)
    desks.restart(0)
    assert desks[0].order_store.open_orders == before
    assert desks[0].drain(desks.now).orders == []


def test_open_orders_of_an_account_are_limited() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, max_open_orders=2)
    first = desks.bid(0, 1, 1, account=alice)
    desks.bid(0, 1, 1, account=alice)
    assert refusal(desks.bid, 0, 1, 1, account=alice) == "too_many_orders"
    desks[0].orders.cancel(desks.now, first.number)
    desks.bid(0, 1, 1, account=alice)
    desks.drain(0)
    desks.restart(0)
    assert refusal(desks.bid, 0, 1, 1, account=alice) == "too_many_orders"


def test_orders_a_minute_of_an_account_are_limited() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, orders_per_minute=2)
    bid = desks.bid(0, 1, 1, account=alice)
    desks.bid(0, 1, 1, account=alice)
    assert refusal(desks.bid, 0, 1, 1, account=alice) == "rate_limited"
    assert refusal(desks.amend, 0, bid, price=2) == "rate_limited"
    assert desks.money(0, alice)["USD"] == (1000, 2)
    desks[0].orders.cancel(desks.now, bid.number)
    desks.now += 30
    desks.bid(0, 1, 1, account=alice)


def test_client_ids_are_of_an_account() -> None:
    desks = Desks()
    alice, bob = desks.account(0, usd=10), desks.account(0, usd=10)
    mine = desks.bid(0, 1, 1, account=alice, client_id="c")
    his = desks.bid(0, 1, 1, account=bob, client_id="c")
    assert mine.number != his.number
    assert desks.bid(0, 1, 1, account=alice, client_id="c") is mine
    assert desks[0].order_store.by_client_id("c", bob) is his
    assert desks[0].order_store.by_client_id("c") is None
    assert refusal(desks.bid, 0, 2, 1, account=alice, client_id="c") == "client_id_reused"


def test_cancel_many_takes_all_that_fit_and_no_others() -> None:
    desks = Desks()
    alice, bob = desks.account(0, usd=100, coin=100), desks.account(0, usd=100)
    desks.bid(0, 1, 1, account=bob)
    one = desks.bid(0, 1, 1, account=alice, group=1, client_id="c")
    two = desks.bid(0, 2, 1, account=alice, group=2)
    sell = desks.ask(0, 9, 1, account=alice, group=2)
    assert desks.cancel_many(0, account=alice, groups=frozenset({3})) == []
    assert desks.cancel_many(0, account=alice, market="other") == []
    assert desks.cancel_many(0, account=alice, groups=frozenset({2}), side=SELL) == [sell]
    assert desks.cancel_many(0, account=alice, client_ids=frozenset({"c"})) == [one]
    assert desks.cancel_many(0, account=alice, numbers=frozenset({1, two.number})) == [two]
    desks.bid(0, 1, 1, account=alice)
    (last,) = desks[0].orders.cancel_many(desks.now, Selection(account=alice), "dead_man")
    assert last.reason == "dead_man"
    assert [order.account for order in desks[0].order_store.open_orders] == [bob]


# Credit


def test_a_take_that_a_peer_could_not_pay_is_refused() -> None:
    desks = Desks(2)
    desks[1].ledger.set_credit(desks.id(0), "USD", 300 * UNIT)
    desks.ask(1, 100, 5)
    desks.exchange()
    bid = desks.bid(0, 100, 4)
    desks.exchange()
    assert (bid.filled, bid.pending, bid.shown) == (0, 0, 4)
    desks.run(6.0)  # asked again, refused again
    assert bid.filled == 0
    desks[1].ledger.set_credit(desks.id(0), "USD", 400 * UNIT)
    desks.run(12.0)
    assert bid.filled == 4
    desks.check_money()


def test_nothing_is_asked_that_a_peer_could_not_pay() -> None:
    desks = Desks(2)
    desks[0].ledger.set_credit("", "COIN", 3 * UNIT)
    desks.ask(1, 100, 5)
    desks.ask(1, 101, 5)
    desks.exchange()
    bid = desks.bid(0, 110, 8)
    assert bid.pending == 3
    desks.exchange()
    assert (bid.filled, bid.pending, bid.shown) == (3, 0, 5)
    assert desks[0].ledger.room(desks.id(1), "COIN") == 0
    desks[0].ledger.settle(desks[0].us(desks.now), desks.id(1), "COIN", UNIT, "paid")
    desks.run(1.0)
    assert bid.filled == 4


def test_what_is_asked_already_counts_against_the_limit() -> None:
    desks = Desks(2)
    desks[0].ledger.set_credit("", "COIN", 3 * UNIT)
    desks.ask(1, 100, 5)
    desks.exchange()
    first = desks.bid(0, 100, 2)
    second = desks.bid(0, 100, 2)
    assert (first.pending, second.pending) == (2, 1)


def test_units_and_rules_are_those_of_the_instrument() -> None:
    desks = Desks(instrument=with_fees("0", "0", min_quantity="2", min_notional="50"))
    assert refusal(desks.bid, 0, 100, 1) == "too_small"
    assert refusal(desks.bid, 0, 10, 2) == "notional_too_small"
    bid = desks.bid(0, 100, 2)
    assert refusal(desks.amend, 0, bid, quantity=1) == "too_small"
    assert (bid.quantity, bid.shown) == (2, 2)


def test_a_market_of_no_instrument_counts_lots() -> None:
    network = Network(1)
    network.sell(0, 10, 3)
    network.buy(0, 10, 2)
    ledger = network[0].ledger
    assert ledger.balance("account:0", "BTC") == 0
    account = network[0].accounts.create(1, "alice").number
    ledger.deposit(1, account, "USD", 30, "")
    network[0].orders.place(
        network.now, NewOrder(market=M, side=BUY, price=10, quantity=2, account=account)
    )
    assert ledger.holdings(account) == {"USD": (20, 10), "BTC": (1, 0)}


def test_an_order_placed_again_is_found_though_it_was_altered_since() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, coin=3)
    bid = desks.bid(0, 100, 5, account=alice, client_id="bid")
    desks.amend(0, bid, price=90, quantity=4)
    ask = desks.ask(0, 200, 9, account=alice, client_id="ask", reduce_only=True)
    assert ask.quantity == 3
    desks.same_after_restart(0)
    assert desks.bid(0, 100, 5, account=alice, client_id="bid").number == bid.number
    again = desks.ask(0, 200, 9, account=alice, client_id="ask", reduce_only=True)
    assert again.number == ask.number
    assert refusal(desks.ask, 0, 100, 5, account=alice, client_id="bid") == "client_id_reused"
    assert [o.number for o in desks[0].order_store.of_account(alice)] == [bid.number, ask.number]
    assert desks[0].order_store.of_account(0) == []


def test_balances_are_counted_in_smaller_units_when_an_instrument_needs_them() -> None:
    desks = Desks()
    alice = desks.account(0, usd=1000, coin=10)
    bid = desks.bid(0, 100, 2, account=alice)
    desks.drain(0)
    finer = Instrument("FINE-USD", Decimal("0.000001"), Decimal("0.0001"))
    desks.instruments = (*desks.instruments, finer)
    desks.markets = (*desks.markets, finer.key)
    for _ in range(2):
        desks.restart(0)
        ledger = desks[0].ledger
        assert ledger.decimals["USD"] == 10
        assert ledger.holdings(alice)["USD"] == (1000 * 10**10, 200 * 10**10)
        assert ledger.holdings(alice)["COIN"] == (10 * UNIT, 0)
        desks.exchange()
    desks[0].orders.cancel(desks.now, bid.number)
    desks.instruments = desks.instruments[:1]
    desks.markets = desks.markets[:1]
    desks.drain(0)
    desks.restart(0)  # nothing is ever counted in larger units again
    assert desks[0].ledger.holdings(alice)["USD"] == (1000 * 10**10, 0)
    desks.ask(0, 100, 1)
    desks.bid(0, 100, 1, account=alice)
    assert desks[0].ledger.holdings(alice)["USD"] == (900 * 10**10, 0)
    desks.check_money()
