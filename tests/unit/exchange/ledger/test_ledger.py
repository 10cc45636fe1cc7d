"""The ledger: what moves where, what is refused, and what a restart makes of the records."""

from __future__ import annotations

from decimal import Decimal

import pytest

from exchange.ledger.balances import LedgerError
from exchange.ledger.ledger import MAX_BALANCE, MAX_NOTE, InsufficientBalance, Ledger, Obligation
from exchange.ledger.market_units import MarketUnits, units_of
from exchange.model.commands import HOUSE
from exchange.model.events import BUY
from exchange.model.instruments import Instrument
from exchange.model.records import LocalTrade, Posting, PutCredit, Transaction, unfolded

ALICE, BOB = 1, 2
PEER = "nodepeer"
FREE = MarketUnits("BTC", "USD", base_units=1000, quote_units=100, maker_ppm=0, taker_ppm=0)
PAID = MarketUnits("BTC", "USD", base_units=1000, quote_units=100, maker_ppm=1000, taker_ppm=2000)


def ledger(**deposits: int) -> Ledger:
    """Alice has so much of each asset."""
    made = Ledger({"BTC": 8, "USD": 8})
    for asset, amount in deposits.items():
        made.deposit(1, ALICE, asset, amount, "")
    return made


def postings(made: Ledger) -> list[Posting]:
    records = unfolded(made.records)
    return [p for r in records if isinstance(r, Transaction) for p in r.postings()]


def trade_here(
    made: Ledger, units: MarketUnits, price: int, quantity: int, taker: int, maker: int
) -> LocalTrade:
    """The taker buys of the maker."""
    facts = (units, BUY, price, quantity, 9, 2, 1, taker, maker)
    return made.trade_here("node", 1, "BTC-USD@1/1", *facts)


def changed(made: Ledger) -> set[tuple[int, str]]:
    return {purse.key for purse in made.changed}


def lines(made: Ledger) -> list[tuple[str, str, int, str]]:
    return [(p.holder, p.asset, p.amount, p.kind) for p in postings(made)]


def restarted(made: Ledger) -> Ledger:
    """A ledger that starts from the records of `made`."""
    balances = {(p.holder, p.asset): p.balance for p in postings(made)}
    credit = {(r.peer, r.asset): r.limit for r in made.records if isinstance(r, PutCredit)}
    again = Ledger(made.decimals)
    again.restore(balances, credit, 1 + max((p.transaction for p in postings(made)), default=0))
    return again


# Units


def test_units_of_steps_that_are_not_whole_are_refused():
    instrument = Instrument("BTC-USD", Decimal("0.1"), Decimal("0.00001"))
    with pytest.raises(ValueError, match="BTC: 4 decimals are too few"):
        units_of(instrument, 0, 0, {"BTC": 4, "USD": 8})
    with pytest.raises(ValueError, match="USD: 5 decimals are too few"):
        units_of(instrument, 0, 0, {"BTC": 8, "USD": 5})


@pytest.mark.parametrize(
    "rates", [(-1_000_001, 0), (0, -1_000_001), (1_000_001, 0), (0, 1_000_001)]
)
def test_a_fee_is_at_most_100_percent(rates: tuple[int, int]):
    instrument = Instrument("BTC-USD", Decimal("0.1"), Decimal("0.00001"))
    with pytest.raises(ValueError, match="parts per million"):
        units_of(instrument, *rates, {"BTC": 8, "USD": 8})
    units = units_of(instrument, -1_000_000, 1_000_000, {"BTC": 8, "USD": 8})
    assert (units.maker_ppm, units.taker_ppm) == (-1_000_000, 1_000_000)


def test_a_purchase_less_its_fee_can_be_sold_to_the_last_lot():
    instrument = Instrument("BTC-USD", Decimal(1), Decimal("0.00000001"))
    units = units_of(instrument, 1000, 2000, {"BTC": 14, "USD": 8})
    made = ledger()
    made.deposit(1, ALICE, "USD", 10**18, "")
    made.deposit(1, BOB, "BTC", 10**18, "")
    fee = trade_here(made, units, 100, 1_234_567, ALICE, BOB).taker_fee
    assert fee == 2470 * 10**6  # 2469.134 lots, rounded up
    assert made.holdings(ALICE)["BTC"][0] % units.base_units == 0


# Deposits and withdrawals


def test_a_deposit_comes_from_outside_as_one_transaction():
    made = ledger()
    number = made.deposit(77, ALICE, "USD", 500, "wire 9")
    assert postings(made) == [
        Posting(number, "outside", "USD", -500, -500, 77, "deposit", "wire 9"),
        Posting(number, "account:1", "USD", 500, 500, 77, "deposit", "wire 9"),
    ]
    assert made.holdings(ALICE) == {"USD": (500, 0)}
    assert changed(made) == {(ALICE, "USD")}


def test_a_withdrawal_is_limited_to_the_available_balance():
    made = ledger(USD=500)
    made.hold(1, ALICE, "USD", 300)
    made.records.clear()
    with pytest.raises(InsufficientBalance) as refused:
        made.withdraw(2, ALICE, "USD", 201, "")
    assert (refused.value.asset, refused.value.needed, refused.value.available) == ("USD", 201, 200)
    assert str(refused.value) == "201 units of USD are needed and 200 are available"
    assert made.records == []
    made.withdraw(2, ALICE, "USD", 200, "")
    assert lines(made) == [
        ("account:1", "USD", -200, "withdrawal"),
        ("outside", "USD", 200, "withdrawal"),
    ]
    assert made.available(ALICE, "USD") == 0


def test_the_house_may_withdraw_beyond_its_balance():
    made = ledger()
    made.withdraw(1, HOUSE, "USD", 5, "")
    assert made.balance("account:0", "USD") == made.available(HOUSE, "USD") == -5
    made.check()


@pytest.mark.parametrize("amount", [0, -1])
def test_amounts_must_be_positive(amount: int):
    made = ledger(USD=5)
    made.records.clear()
    for move in (made.deposit, made.withdraw):
        with pytest.raises(ValueError, match="USD: an amount must be more than 0"):
            move(1, ALICE, "USD", amount, "")
    assert made.records == []


def test_an_asset_that_is_not_traded_is_refused_with_those_that_are():
    made = ledger()
    for move in (made.deposit, made.withdraw):
        with pytest.raises(
            ValueError, match=r"unknown asset .XYZ.; the assets of this node are BTC, USD"
        ):
            move(1, ALICE, "XYZ", 5, "")
    with pytest.raises(ValueError, match="unknown asset"):
        made.settle(1, PEER, "XYZ", 5, "")
    with pytest.raises(ValueError, match="unknown asset"):
        made.set_credit(PEER, "XYZ", 5)
    assert made.records == []


def test_notes_are_bounded():
    made = ledger()
    made.deposit(1, ALICE, "USD", 5, "n" * MAX_NOTE)
    with pytest.raises(ValueError, match="a note has at most"):
        made.deposit(1, ALICE, "USD", 5, "n" * (MAX_NOTE + 1))


def test_deposits_keep_a_balance_bounded_and_leave_nothing_behind_when_refused():
    made = ledger()
    with pytest.raises(ValueError, match=r"at most 10000000000000000000 USD"):
        made.deposit(1, ALICE, "USD", MAX_BALANCE + 1, "")
    assert made.holdings(ALICE) == {}
    made.deposit(1, ALICE, "USD", MAX_BALANCE - 1, "")
    made.deposit(1, ALICE, "USD", 1, "")
    with pytest.raises(ValueError, match="at most"):
        made.deposit(1, ALICE, "USD", 1, "")
    made.deposit(1, BOB, "USD", MAX_BALANCE, "")  # together beyond it: outside is not bound
    assert made.balance("outside", "USD") == -2 * MAX_BALANCE
    made.withdraw(1, HOUSE, "USD", MAX_BALANCE, "")
    with pytest.raises(ValueError, match=r"at least -10000000000000000000 USD"):
        made.withdraw(1, HOUSE, "USD", 1, "")


# Holds


def test_a_hold_above_the_available_balance_is_refused_and_changes_nothing():
    made = ledger(USD=100)
    made.hold(1, ALICE, "USD", 60)
    made.changed.clear()
    with pytest.raises(InsufficientBalance) as refused:
        made.hold(1, ALICE, "USD", 101)
    assert (refused.value.needed, refused.value.available) == (41, 40)
    with pytest.raises(InsufficientBalance):
        made.hold(2, ALICE, "USD", 41)
    with pytest.raises(InsufficientBalance) as refused:
        made.hold(2, ALICE, "BTC", 1)
    assert (refused.value.needed, refused.value.available) == (1, 0)
    assert made.held(ALICE, "USD") == 60
    assert not made.changed


def test_a_hold_can_always_shrink():
    """Between a trade and the holds that follow it an account may have less than is held."""
    made = ledger(USD=100_000)
    made.hold(1, ALICE, "USD", 100_000)
    made.trade_with(1, "t", FREE, BUY, 500, 2, ALICE, PEER, "maker")
    with pytest.raises(LedgerError, match="100000 units of USD are held of 0"):
        made.check()
    made.hold(1, ALICE, "USD", 20)
    made.hold(1, ALICE, "USD", 0)
    made.check()


def test_a_hold_makes_no_record_and_is_reported_only_when_changed():
    made = ledger(USD=100)
    made.records.clear()
    made.changed.clear()
    made.hold(1, ALICE, "USD", 60)
    assert made.records == []
    assert changed(made) == {(ALICE, "USD")}
    made.changed.clear()
    made.hold(1, ALICE, "USD", 60)
    made.hold(9, ALICE, "USD", 0)
    made.hold(9, BOB, "USD", 0)
    assert not made.changed


def test_the_house_is_bound_by_no_hold():
    made = ledger()
    made.hold(1, HOUSE, "USD", 10**30)
    assert made.held(HOUSE, "USD") == 0
    assert not made.changed
    made.check()


# Trades


@pytest.mark.parametrize(("received", "rebate"), [(1000, 1), (1999, 1), (999, 0)])
def test_a_rebate_is_paid_from_the_fees_and_rounded_down(received: int, rebate: int):
    rates = MarketUnits("BTC", "USD", received, 1, maker_ppm=-1000, taker_ppm=0)
    made = ledger(USD=1)
    assert made.trade_with(9, "ref", rates, BUY, 1, 1, ALICE, PEER, "maker") == -rebate
    assert made.balance("account:1", "BTC") == received + rebate
    assert made.balance("fees", "BTC") == -rebate
    made.check()


def test_the_house_pays_no_fees():
    made = ledger(USD=100_000)
    trade = trade_here(made, PAID, 500, 2, ALICE, HOUSE)
    assert (trade.taker_fee, trade.maker_fee) == (4, 0)
    trade = trade_here(made, PAID, 500, 2, HOUSE, ALICE)
    assert (trade.taker_fee, trade.maker_fee) == (0, 100)
    assert made.trade_with(9, "ref", PAID, BUY, 500, 2, HOUSE, PEER, "taker") == 0
    made.records.clear()
    trade = trade_here(made, PAID, 500, 2, HOUSE, HOUSE)
    assert (trade.taker_fee, trade.maker_fee) == (0, 0)
    assert postings(made) == []


def test_postings_carry_the_balance_after_each_of_them():
    made = ledger(USD=100_000)
    made.trade_with(9, "ref", PAID, BUY, 500, 2, ALICE, PEER, "maker")
    bought = [p.balance for p in postings(made) if (p.holder, p.asset) == ("account:1", "BTC")]
    assert bought == [2000, 1998]


# Peers


def test_a_credit_limit_is_not_below_zero():
    made = ledger()
    with pytest.raises(ValueError, match="at least 0"):
        made.set_credit(PEER, "USD", -1)
    assert made.records == []


def test_a_settlement_is_between_the_peer_and_the_outside():
    made = ledger()
    made.settle(5, PEER, "USD", 30, "wire")
    made.settle(6, PEER, "USD", -10, "back")
    assert lines(made) == [
        ("outside", "USD", -30, "settlement"),
        ("peer:nodepeer", "USD", 30, "settlement"),
        ("outside", "USD", 10, "settlement"),
        ("peer:nodepeer", "USD", -10, "settlement"),
    ]
    assert not made.changed
    with pytest.raises(ValueError, match="more than 0"):
        made.settle(5, PEER, "USD", 0, "")


def test_obligations_are_listed_by_asset_and_peer_without_zeros():
    made = ledger()
    made.set_credit("b", "USD", 7)
    made.settle(1, "b", "USD", 5, "")
    made.settle(1, "a", "USD", -6, "")
    made.settle(1, "b", "BTC", 1, "")
    made.settle(1, "c", "BTC", 1, "")
    made.settle(1, "c", "BTC", -1, "")
    assert made.obligations() == [
        Obligation("b", "BTC", 1, None),
        Obligation("a", "USD", -6, None),
        Obligation("b", "USD", 5, 7),
    ]
    assert made.positions() == {"b": {"USD": 5, "BTC": 1}, "a": {"USD": -6}}


# Restart


def test_a_restart_continues_with_the_same_balances_limits_and_numbers():
    made = ledger(USD=100_000)
    made.set_credit(PEER, "BTC", 9)
    made.trade_with(1, "r", PAID, BUY, 500, 2, ALICE, PEER, "taker")
    again = restarted(made)
    assert again.holdings(ALICE) == made.holdings(ALICE)
    assert again.obligations() == made.obligations()
    assert again.room(PEER, "BTC") == made.room(PEER, "BTC") == -1991
    assert again.records == []
    assert again.deposit(2, ALICE, "USD", 1, "") == made.deposit(2, ALICE, "USD", 1, "")


@pytest.mark.parametrize(
    ("balances", "why"),
    [
        ({("account:1", "USD"): 5}, "sum to 5"),
        ({("account:1", "USD"): -5, ("outside", "USD"): 5}, "0 units of USD are held of -5"),
        (
            {("acount:1", "USD"): 5, ("outside", "USD"): -5},
            "'acount:1' is not the name of a holder",
        ),
        (
            {("account:x", "USD"): 5, ("outside", "USD"): -5},
            "'account:x' is not the name of a holder",
        ),
        ({("1", "USD"): 5, ("outside", "USD"): -5}, "'1' is not the name of a holder"),
    ],
)
def test_balances_that_cannot_come_from_a_ledger_are_refused(
    balances: dict[tuple[str, str], int], why: str
):
    with pytest.raises(LedgerError, match=why):
        Ledger({"USD": 8}).restore(balances, {}, 1)


def test_more_decimals_multiply_everything_and_lose_nothing():
    made = ledger(USD=100_000, BTC=3)
    made.hold(1, ALICE, "USD", 40)
    made.set_credit("", "USD", 10)
    made.set_credit("b", "USD", None)
    made.settle(1, "b", "USD", -7, "")
    made.changed.clear()
    made.rescale(5, "USD", 8, 10)
    assert made.decimals == {"BTC": 8, "USD": 10}
    assert made.holdings(ALICE) == {"USD": (10_000_000, 4000), "BTC": (3, 0)}
    assert made.positions() == {"b": {"USD": -700}}
    assert (made.room("c", "USD"), made.room("b", "USD")) == (1000, None)
    assert changed(made) == {(ALICE, "USD")}
    made.hold(1, ALICE, "USD", 0)
    made.check()
    again = restarted(made)
    assert again.holdings(ALICE) == made.holdings(ALICE)
    assert again.room("c", "USD") == 1000


@pytest.mark.parametrize(("old", "new"), [(8, 8), (8, 7), (-1, 3)])
def test_decimals_never_shrink(old: int, new: int):
    made = ledger(USD=5)
    made.records.clear()
    with pytest.raises(ValueError, match="decimals only grow"):
        made.rescale(1, "USD", old, new)
    assert made.records == []


def test_more_decimals_of_an_unused_asset_need_no_record():
    made = ledger()
    made.rescale(1, "USD", 8, 9)
    assert made.records == []
    assert made.decimals["USD"] == 9


# Checks


def test_the_check_finds_an_altered_hold():
    made = ledger(USD=100)
    made.hold(1, ALICE, "USD", 60)
    made._balances.account(ALICE, "USD").held = 50
    with pytest.raises(LedgerError, match="its orders hold 60 units of USD, not 50"):
        made.check()


def test_the_check_finds_an_altered_balance():
    made = ledger(USD=100)
    made._balances.account(ALICE, "USD").balance += 1
    with pytest.raises(LedgerError, match="USD: the balances of all holders sum to 1, not to 0"):
        made.check()


def test_unknown_holders_have_a_balance_of_zero():
    made = ledger()
    assert made.balance("account:5", "USD") == made.balance("peer:x", "USD") == 0
    assert made.balance("fees", "USD") == made.balance("outside", "USD") == 0
    assert (made.held(5, "USD"), made.available(5, "USD"), made.holdings(5)) == (0, 0, {})
