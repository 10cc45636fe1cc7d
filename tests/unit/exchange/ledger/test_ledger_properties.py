"""The ledger under any sequence of orders, trades and transfers, against a slow model in exact fractions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from exchange.ledger.ledger import STRANGERS, InsufficientBalance, Ledger
from exchange.ledger.market_units import MarketUnits, decimals_of, units_of
from exchange.model.commands import HOUSE
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from exchange.model.records import PutCredit, Record, Transaction, unfolded

MARKETS = {
    "BTC-USD": Instrument("BTC-USD", Decimal("0.1"), Decimal("0.00001")),
    "ETH-BTC": Instrument("ETH-BTC", Decimal("0.00001"), Decimal("0.0001")),
}
FEES = {"BTC-USD": (1001, 2003), "ETH-BTC": (-3, 7)}  # maker and taker, ppm
FEE_DECIMALS = 8  # at most, of fees in a base asset
ASSETS = ["BTC", "ETH", "USD"]
ACCOUNTS = [HOUSE, 1, 2, 3]
PEERS = ["nodea", "nodeb"]

accounts = st.sampled_from(ACCOUNTS)
assets = st.sampled_from(ASSETS)
peers = st.sampled_from(PEERS)
markets = st.sampled_from(sorted(MARKETS))
sides = st.sampled_from([BUY, SELL])
amounts = st.integers(1, 50) | st.integers(10**6, 10**13)
prices = st.integers(1, 9) | st.integers(10**4, 10**6)
quantities = st.integers(1, 30) | st.integers(10**3, 10**6)
picks = st.integers(0, 1000)


def other(side: int) -> int:
    return SELL if side == BUY else BUY


@dataclass(frozen=True)
class Order:
    number: int
    account: int
    market: str
    side: int
    price: int
    left: int

    @property
    def asset(self) -> str:
        base, quote = self.market.split("-")
        return quote if self.side == BUY else base

    def hold(self, units: MarketUnits) -> int:
        if self.side == BUY:
            return self.price * self.left * units.quote_units
        return self.left * units.base_units


class Model:
    """Every movement ever made, in whole assets. A balance is their sum."""

    def __init__(self) -> None:
        self.moves: list[tuple[str, str, Fraction]] = []  # holder, asset, amount

    def balances(self) -> dict[tuple[str, str], Fraction]:
        sums: dict[tuple[str, str], Fraction] = {}
        for holder, asset, amount in self.moves:
            sums[holder, asset] = sums.get((holder, asset), Fraction(0)) + amount
        return sums

    def move(self, source: str, target: str, asset: str, amount: Fraction) -> None:
        self.moves += [(source, asset, -amount), (target, asset, amount)]

    def trade(self, market: str, price: int, quantity: int, buyer: str, seller: str) -> None:
        base, quote = market.split("-")
        lots = quantity * Fraction(MARKETS[market].lot)
        self.move(seller, buyer, base, lots)
        self.move(buyer, seller, quote, lots * price * Fraction(MARKETS[market].tick))

    def fee(self, holder: str, asset: str, of: Fraction, ppm: int, decimals: int) -> Fraction:
        unit = Fraction(1, 10**decimals)
        fee = ceil(of * ppm / 1_000_000 / unit) * unit
        self.move(holder, "fees", asset, fee)
        return fee


@dataclass(frozen=True)
class Commit:
    """State that was durable after a drain, and the ledger at that time."""

    records: int
    balances: dict[tuple[str, str], int]
    holdings: dict[int, dict[str, tuple[int, int]]]
    credit: dict[tuple[str, str], int | None]
    decimals: dict[str, int]
    orders: dict[int, Order]
    next_transaction: int


class LedgerMachine(RuleBasedStateMachine):
    """Orders hold, trade and end as an order manager lets them; money comes and goes; now and then it drains."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(decimals_of(MARKETS.values()))
        self.model = Model()
        self.orders: dict[int, Order] = {}
        self.credit: dict[tuple[str, str], int | None] = {}
        self.journal: list[Record] = []
        self.commits: list[Commit] = []
        self.time = 0
        self.placed = 0

    # Reading both

    def units(self, market: str) -> MarketUnits:
        return units_of(MARKETS[market], *FEES[market], self.ledger.decimals)

    def amount(self, asset: str, units: int) -> Fraction:
        return Fraction(units, 10 ** self.ledger.decimals[asset])

    def hold(self, account: int, asset: str, but: int | None = None) -> int:
        return sum(
            order.hold(self.units(order.market))
            for order in self.orders.values()
            if (order.account, order.asset) == (account, asset) and account != HOUSE
            if order.number != but
        )

    def available(self, account: int, asset: str, but: int | None = None) -> Fraction:
        total = self.model.balances().get((f"account:{account}", asset), Fraction(0))
        return total - self.amount(asset, self.hold(account, asset, but))

    def now(self) -> int:
        self.time += 1
        return self.time

    # Money

    @rule(account=accounts, asset=assets, amount=amounts)
    def deposit(self, account: int, asset: str, amount: int) -> None:
        self.ledger.deposit(self.now(), account, asset, amount, "")
        self.model.move("outside", f"account:{account}", asset, self.amount(asset, amount))

    @rule(account=accounts, asset=assets, amount=amounts)
    def withdraw(self, account: int, asset: str, amount: int) -> None:
        if account != HOUSE and self.amount(asset, amount) > self.available(account, asset):
            with pytest.raises(InsufficientBalance):
                self.ledger.withdraw(self.now(), account, asset, amount, "")
            return
        self.ledger.withdraw(self.now(), account, asset, amount, "")
        self.model.move(f"account:{account}", "outside", asset, self.amount(asset, amount))

    @rule(peer=peers, asset=assets, amount=amounts, sign=st.sampled_from([1, -1]))
    def settle(self, peer: str, asset: str, amount: int, sign: int) -> None:
        self.ledger.settle(self.now(), peer, asset, sign * amount, "")
        self.model.move("outside", f"peer:{peer}", asset, self.amount(asset, sign * amount))

    @rule(peer=peers | st.just(""), asset=assets, limit=st.none() | st.integers(0, 10**9))
    def set_credit(self, peer: str, asset: str, limit: int | None) -> None:
        self.ledger.set_credit(peer, asset, limit)
        self.credit[peer, asset] = limit

    @rule(asset=assets, more=st.integers(1, 2))
    def rescale(self, asset: str, more: int) -> None:
        old = self.ledger.decimals[asset]
        if old + more > 14:
            return
        self.ledger.rescale(self.now(), asset, old, old + more)
        for (peer, of), limit in self.credit.items():
            if of == asset and limit is not None:
                self.credit[peer, of] = limit * 10**more

    # Orders

    def change(self, order: Order) -> bool:
        """Hold what the order needs from now on. Whether that could be done."""
        units = self.units(order.market)
        needed = self.amount(order.asset, order.hold(units))
        old = self.orders.get(order.number)
        grows = old is None or order.hold(units) > old.hold(units)
        enough = needed <= self.available(order.account, order.asset, order.number)
        if grows and order.account != HOUSE and not enough:
            with pytest.raises(InsufficientBalance):
                self.ledger.hold(order.number, order.account, order.asset, order.hold(units))
            return False
        self.ledger.hold(order.number, order.account, order.asset, order.hold(units))
        self.orders[order.number] = order
        if not order.left:
            del self.orders[order.number]
        return True

    @rule(account=accounts, market=markets, side=sides, price=prices, quantity=quantities)
    def place(self, account: int, market: str, side: int, price: int, quantity: int) -> None:
        self.placed += 1
        self.change(Order(self.placed, account, market, side, price, quantity))

    @rule(
        account=st.sampled_from(ACCOUNTS[1:]),
        market=markets,
        side=sides,
        price=prices,
        quantity=quantities,
        short=st.integers(0, 1),
    )
    def place_with_just_enough(
        self, account: int, market: str, side: int, price: int, quantity: int, short: int
    ) -> None:
        """Accepted to the last unit, and refused for one less."""
        self.placed += 1
        order = Order(self.placed, account, market, side, price, quantity)
        missing = order.hold(self.units(market)) - short
        missing -= int(
            self.available(account, order.asset) * 10 ** self.ledger.decimals[order.asset]
        )
        if missing > 0:
            self.deposit(account, order.asset, missing)
            assert self.change(order) == (short == 0)

    @rule(pick=picks, price=prices, quantity=quantities)
    def amend(self, pick: int, price: int, quantity: int) -> None:
        if self.orders:
            order = self.pick(pick)
            self.change(replace(order, price=price, left=quantity))

    @rule(pick=picks)
    def cancel(self, pick: int) -> None:
        if self.orders:
            self.change(replace(self.pick(pick), left=0))

    def pick(self, pick: int) -> Order:
        return list(self.orders.values())[pick % len(self.orders)]

    @rule(pick=picks, account=accounts, quantity=quantities, better=st.integers(0, 5))
    def trade_here(self, pick: int, account: int, quantity: int, better: int) -> None:
        """An order of `account` that crosses comes in, at a price of its own, and takes."""
        if not self.orders:
            return
        maker = self.pick(pick)
        side = other(maker.side)
        limit = max(1, maker.price + (better if side == BUY else -better))
        quantity = min(quantity, maker.left)
        self.placed += 1
        taker = Order(self.placed, account, maker.market, side, limit, quantity)
        if not self.change(taker):
            return
        units = self.units(maker.market)
        buy, sell = (maker, taker) if maker.side == BUY else (taker, maker)
        trade = self.ledger.trade_here(
            *("n", 1, maker.market, units, side, maker.price, quantity, self.now(), 2, 1),
            *(taker.account, maker.account),
        )
        fees = trade.taker_fee, trade.maker_fee
        got = fees if side == BUY else fees[::-1]
        self.model.trade(
            maker.market,
            maker.price,
            quantity,
            f"account:{buy.account}",
            f"account:{sell.account}",
        )
        assert got == (
            self.pay_fee(buy, maker.price, quantity, "taker" if side == BUY else "maker"),
            self.pay_fee(sell, maker.price, quantity, "taker" if side == SELL else "maker"),
        )
        assert self.change(replace(maker, left=maker.left - quantity))
        assert self.change(replace(taker, left=0))

    @rule(
        pick=picks,
        peer=peers,
        quantity=quantities,
        role=st.sampled_from(["maker", "taker"]),
    )
    def trade_with(self, pick: int, peer: str, quantity: int, role: str) -> None:
        if not self.orders:
            return
        order = self.pick(pick)
        quantity = min(quantity, order.left)
        fee = self.ledger.trade_with(
            self.now(),
            "t",
            self.units(order.market),
            order.side,
            order.price,
            quantity,
            order.account,
            peer,
            role,
        )
        ours, theirs = f"account:{order.account}", f"peer:{peer}"
        buyer, seller = (ours, theirs) if order.side == BUY else (theirs, ours)
        self.model.trade(order.market, order.price, quantity, buyer, seller)
        assert fee == self.pay_fee(order, order.price, quantity, role)
        assert self.change(replace(order, left=order.left - quantity))

    def pay_fee(self, order: Order, price: int, quantity: int, role: str) -> int:
        if order.account == HOUSE:
            return 0
        market = MARKETS[order.market]
        received = quantity * Fraction(market.lot)
        asset = market.base
        if order.side == SELL:
            received *= price * Fraction(market.tick)
            asset = market.quote
        ppm = FEES[order.market][0 if role == "maker" else 1]
        decimals = self.ledger.decimals[asset]
        rounded = decimals if order.side == SELL else FEE_DECIMALS
        fee = self.model.fee(f"account:{order.account}", asset, received, ppm, rounded)
        return int(fee * 10**decimals)

    # What holds

    @rule()
    def drain(self) -> None:
        self.journal += unfolded(self.ledger.records)
        self.ledger.records.clear()
        self.commits.append(
            Commit(
                len(self.journal),
                self.balances(),
                {account: self.ledger.holdings(account) for account in ACCOUNTS},
                dict(self.ledger.credit),
                dict(self.ledger.decimals),
                dict(self.orders),
                self.ledger.next_transaction,
            )
        )

    def balances(self) -> dict[tuple[str, str], int]:
        holders = [f"account:{account}" for account in ACCOUNTS]
        holders += [f"peer:{peer}" for peer in PEERS] + ["fees", "outside"]
        return {(h, asset): self.ledger.balance(h, asset) for h in holders for asset in ASSETS}

    @invariant()
    def balances_are_the_models_and_sum_to_zero(self) -> None:
        exact = self.model.balances()
        sums: Counter[str] = Counter()
        for (holder, asset), balance in self.balances().items():
            assert self.amount(asset, balance) == exact.get((holder, asset), 0)
            sums[asset] += balance
        assert not any(sums.values())
        self.ledger.check()

    @invariant()
    def accounts_have_what_their_orders_hold(self) -> None:
        for account in ACCOUNTS:
            for asset in ASSETS:
                held = self.ledger.held(account, asset)
                assert held == self.hold(account, asset)
                if account != HOUSE:
                    assert 0 <= held <= self.ledger.balance(f"account:{account}", asset)

    @invariant()
    def limits_leave_room_for_what_is_not_owed_yet(self) -> None:
        for peer in PEERS:
            for asset in ASSETS:
                limit = self.credit.get((peer, asset), self.credit.get(("", asset)))
                debts = {each: -self.ledger.balance(f"peer:{each}", asset) for each in PEERS}
                rooms = [] if limit is None else [limit - debts[peer]]
                if rooms and (peer, asset) not in self.credit:
                    strangers = [each for each in PEERS if (each, asset) not in self.credit]
                    owed = sum(max(0, debts[each]) for each in strangers)
                    rooms.append(STRANGERS * limit - owed + max(0, -debts[peer]))
                assert self.ledger.room(peer, asset) == min(rooms, default=None)

    @invariant()
    def a_transactions_postings_sum_to_zero(self) -> None:
        for number, asset, total in _transactions(unfolded(self.ledger.records)):
            assert total == 0, (number, asset)

    def teardown(self) -> None:
        """Whenever the node stopped, it starts with the balances that it had at its last commit."""
        self.drain()
        seen: set[int] = set()
        start = 0
        for commit in self.commits:
            part = {
                record.number
                for record in self.journal[start : commit.records]
                if isinstance(record, Transaction)
            }
            assert not part & seen, "a transaction in two drains"
            seen |= part
            start = commit.records
            self.restart(commit)

    def restart(self, commit: Commit) -> None:
        balances: dict[tuple[str, str], int] = {}
        credit: dict[tuple[str, str], int | None] = {}
        last = 0
        for record in self.journal[: commit.records]:
            if isinstance(record, Transaction):
                balances.update({(line.holder, line.asset): line.balance for line in record.lines})
                last = max(last, record.number)
            elif isinstance(record, PutCredit):
                credit[record.peer, record.asset] = record.limit
        again = Ledger(commit.decimals)
        again.restore(balances, credit, last + 1)
        for order in commit.orders.values():
            units = units_of(MARKETS[order.market], *FEES[order.market], commit.decimals)
            again.hold(order.number, order.account, order.asset, order.hold(units))
        again.check()
        assert {key: again.balance(*key) for key in commit.balances} == commit.balances
        assert {account: again.holdings(account) for account in ACCOUNTS} == commit.holdings
        assert again.credit == commit.credit
        assert again.next_transaction == commit.next_transaction


def _transactions(records: Iterable[Record]) -> list[tuple[int, str, int]]:
    """For each transaction and asset: the sum of its amounts."""
    sums: dict[tuple[int, str], int] = {}
    for record in records:
        if isinstance(record, Transaction):
            for line in record.lines:
                key = (record.number, line.asset)
                sums[key] = sums.get(key, 0) + line.amount
    return [(*key, total) for key, total in sums.items()]


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40)


@given(
    st.lists(
        st.tuples(
            markets,
            sides,
            prices,
            quantities,
            st.tuples(accounts, accounts),
            st.sampled_from(["maker", "taker"]),
        ),
        max_size=30,
    )
)
def test_the_positions_of_two_nodes_mirror_each_other(
    trades: list[tuple[str, int, int, int, tuple[int, int], str]],
):
    decimals = decimals_of(MARKETS.values())
    left, right = Ledger(decimals), Ledger(decimals)
    for market, side, price, quantity, (one, two), role in trades:
        ours = units_of(MARKETS[market], 1000, 2000, decimals)
        theirs = units_of(MARKETS[market], 5, 0, decimals)  # fees are each node's own
        against = "taker" if role == "maker" else "maker"
        left.trade_with(1, "t", ours, side, price, quantity, one, "right", role)
        right.trade_with(2, "t", theirs, other(side), price, quantity, two, "left", against)
    mirrored = {asset: -amount for asset, amount in right.positions().get("left", {}).items()}
    assert left.positions().get("right", {}) == mirrored


@given(received=st.integers(1, 10**30), ppm=st.integers(-1_000_000, 1_000_000))
def test_a_fee_is_the_least_whole_number_not_below_the_rate(received: int, ppm: int):
    units = MarketUnits("BTC", "USD", received, 1, ppm, ppm)
    fee = Ledger({}).trade_with(1, "t", units, BUY, 1, 1, 1, "p", "maker")
    assert fee == ceil(Fraction(received * ppm, 1_000_000))
    assert abs(fee) <= received
