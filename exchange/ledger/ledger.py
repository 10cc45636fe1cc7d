"""What the node owes whom, in double entry: accounts, other nodes, its fees, and the world outside.

Amounts are whole units, 10 ** -decimals of an asset (`decimals_of`). A balance above zero is what the
node owes the holder, so another node's debt to this one is a balance below zero. Whatever moves is one
transaction, and the postings of a transaction sum to zero for each asset: nothing is created or lost.

A hold keeps a part of an account's balance for an open order. It is not a posting and makes no record:
it follows from the order, and is set again from it after a restart. Account 0, the house, is the
operator's own: its balances may fall below zero, so a hold would bind nothing and none is kept; and it
pays no fees, which would be to itself.

Integers are of any size. A deposit is refused when it would take a balance beyond MAX_BALANCE, which
leaves it a 64-bit integer for every client and API; trades add to that at most what somebody else of
this node or of another one parts with. The house, other nodes, the fees and the outside have no such
bound, which is why the journal keeps amounts as text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from fractions import Fraction

import msgspec

from exchange.ledger.balances import (
    ACCOUNT,
    FEES,
    PEER,
    AccountBalance,
    BalanceTable,
    HolderBalance,
    LedgerError,
)
from exchange.model.commands import HOUSE
from exchange.model.events import BUY
from exchange.model.instruments import Instrument
from exchange.model.records import Line, PostingKind, PutCredit, Record, Transaction

MIN_DECIMALS = 8  # of every asset: what most exchanges account in, so few instruments need more
MAX_BALANCE = 2**62  # that a deposit may lead to
MAX_NOTE = 200  # characters of a note
PPM = 1_000_000


class InsufficientBalance(Exception):
    """An account has less than is asked of it. Units of `asset`."""

    def __init__(self, asset: str, needed: int, available: int) -> None:
        super().__init__(f"{needed} units of {asset} are needed and {available} are available")
        self.asset = asset
        self.needed = needed
        self.available = available


class MarketUnits(msgspec.Struct, frozen=True):
    """What a market's ticks and lots are worth in units of its two assets, and what trading costs."""

    base: str
    quote: str
    base_units: int  # per lot
    quote_units: int  # per tick * lot
    maker_ppm: int  # fees, in parts per million of what the side receives; below zero: a rebate
    taker_ppm: int


class Obligation(msgspec.Struct, frozen=True):
    """What is open between this node and another in one asset."""

    peer: str
    asset: str
    amount: int  # above zero: this node owes it; below: it owes this node
    limit: int | None  # how much it may owe; None: no limit


def decimals_of(instruments: Iterable[Instrument]) -> dict[str, int]:
    """Decimals for each asset so that a lot of every base and a tick of a lot of every quote are whole
    numbers of units."""
    found: dict[str, int] = {}
    for instrument in instruments:
        lot = instrument.quantity_decimals
        for asset, needed in (
            (instrument.base, lot),
            (instrument.quote, lot + instrument.price_decimals),
        ):
            found[asset] = max(MIN_DECIMALS, needed, found.get(asset, 0))
    return found


def units_of(
    instrument: Instrument, maker_ppm: int, taker_ppm: int, decimals: Mapping[str, int]
) -> MarketUnits:
    """ValueError when a fee is not one, or `decimals` are too few for the instrument."""
    for name, rate in (("maker", maker_ppm), ("taker", taker_ppm)):
        if abs(rate) > PPM:
            raise ValueError(f"{name} fee: expected at most {PPM} parts per million, got {rate}")
    base, quote = instrument.base, instrument.quote
    return MarketUnits(
        base,
        quote,
        _whole(instrument.lot, base, decimals),
        _whole(instrument.notional(1, 1), quote, decimals),
        maker_ppm,
        taker_ppm,
    )


def _whole(amount: Decimal, asset: str, decimals: Mapping[str, int]) -> int:
    units = Fraction(amount) * Fraction(10) ** decimals[asset]
    if units.denominator != 1:
        raise ValueError(f"{asset}: {decimals[asset]} decimals are too few for steps of {amount}")
    return units.numerator


_Leg = tuple[HolderBalance, int, PostingKind]  # one posting to be: whose, and what is added


class Ledger:
    """See the module's docstring. Accounts, orders and prices are checked by the callers."""

    def __init__(self, decimals: Mapping[str, int]) -> None:
        self.decimals = dict(decimals)
        self.records: list[Record] = []  # to be made durable, until they are drained
        self.changed: dict[AccountBalance, None] = {}  # until they are read
        self.credit: dict[tuple[str, str], int | None] = {}  # (peer, asset)
        self.next_transaction = 1
        self._purses = BalanceTable()
        self.accounts = self._purses.accounts  # purses that were ever touched; to be looked at only

    def restore(
        self,
        balances: Mapping[tuple[str, str], int],
        credit: Mapping[tuple[str, str], int | None],
        next_transaction: int,
    ) -> None:
        """Continue from the last balance of each (holder, asset). Holds are set anew by their orders.

        LedgerError when the balances are not those of a ledger.
        """
        for (holder, asset), balance in balances.items():
            self._purses.named(holder, asset).balance = balance
        self.credit.update(credit)
        self.next_transaction = next_transaction
        self.check()

    # Reading

    def balance(self, holder: str, asset: str) -> int:
        purse = self._purses.find(holder, asset)
        return 0 if purse is None else purse.balance

    def held(self, account: int, asset: str) -> int:
        purse = self._purses.accounts.get(account, {}).get(asset)
        return 0 if purse is None else purse.held

    def available(self, account: int, asset: str) -> int:
        purse = self._purses.accounts.get(account, {}).get(asset)
        return 0 if purse is None else purse.balance - purse.held

    def holdings(self, account: int) -> dict[str, tuple[int, int]]:
        """Balance and held for each asset that the account ever had."""
        purses = self._purses.accounts.get(account, {})
        return {asset: (purse.balance, purse.held) for asset, purse in purses.items()}

    def room(self, peer: str, asset: str) -> int | None:
        """How much more the peer may come to owe; None: no limit. Below zero when a limit was set
        under what it owes already."""
        limit = self._limit(peer, asset)
        return None if limit is None else limit + self.balance(PEER + peer, asset)

    def positions(self) -> dict[str, dict[str, int]]:
        """The balance of each peer in each asset, where it is not zero."""
        found = {}
        for peer, purses in self._purses.peers.items():
            open_ = {asset: purse.balance for asset, purse in purses.items() if purse.balance}
            if open_:
                found[peer] = open_
        return found

    def obligations(self) -> list[Obligation]:
        """What would have to be paid for all to be even, by asset and peer."""
        return sorted(
            (
                Obligation(peer, asset, amount, self._limit(peer, asset))
                for peer, amounts in self.positions().items()
                for asset, amount in amounts.items()
            ),
            key=lambda obligation: (obligation.asset, obligation.peer),
        )

    def check(self) -> None:
        """LedgerError unless the balances of each asset sum to zero and every account has what its
        orders hold. True after every command; not between a trade and the holds that follow it."""
        sums: Counter[str] = Counter()
        for purse in self._purses:
            sums[purse.asset] += purse.balance
            if isinstance(purse, AccountBalance):
                purse.check()
        for asset, total in sums.items():
            if total:
                raise LedgerError(f"{asset}: the balances of all holders sum to {total}, not to 0")

    # What comes in and leaves

    def deposit(self, time: int, account: int, asset: str, amount: int, note: str) -> int:
        """The account handed over `amount`. The transaction's number.

        ValueError for an amount that is not above zero or takes the balance beyond MAX_BALANCE, an
        unknown asset, and a note that is too long; then nothing was done.
        """
        self._check(asset, amount, note)
        if self.balance(f"{ACCOUNT}{account}", asset) + amount > MAX_BALANCE:
            raise ValueError(f"an account has at most {self._most(asset)} {asset}")
        purse = self._purses.account(account, asset)
        return self._move(time, self._purses.outside(asset), purse, amount, "deposit", note)

    def withdraw(self, time: int, account: int, asset: str, amount: int, note: str) -> int:
        """The account got `amount` back. The transaction's number.

        Raises InsufficientBalance beyond what is available; ValueError as `deposit` does.
        """
        self._check(asset, amount, note)
        available = self.available(account, asset)
        if account == HOUSE:
            if available - amount < -MAX_BALANCE:
                raise ValueError(f"an account has at least -{self._most(asset)} {asset}")
        elif amount > available:
            raise InsufficientBalance(asset, amount, available)
        purse = self._purses.account(account, asset)
        return self._move(time, purse, self._purses.outside(asset), amount, "withdrawal", note)

    def settle(self, time: int, peer: str, asset: str, amount: int, note: str) -> int:
        """The peer paid `amount` outside, or was paid `-amount`. The transaction's number.

        ValueError for an amount of zero, an unknown asset, and a note that is too long.
        """
        self._check(asset, abs(amount), note)
        outside = self._purses.outside(asset)
        return self._move(time, outside, self._purses.peer(peer, asset), amount, "settlement", note)

    def set_credit(self, peer: str, asset: str, limit: int | None) -> None:
        """How much `peer` may owe in `asset`; peer "" is every one without a limit of its own. None:
        no limit. ValueError for a limit below zero or an unknown asset."""
        self._known(asset)
        if limit is not None and limit < 0:
            raise ValueError(f"{asset}: a credit limit is at least 0, got {limit}")
        self.credit[peer, asset] = limit
        self.records.append(PutCredit(peer, asset, limit))

    def rescale(self, time: int, asset: str, old_decimals: int, new_decimals: int) -> None:
        """Count `asset` in smaller units: for a start with instruments that need more decimals.

        Every balance is multiplied, by the postings of one transaction that is about nothing else;
        limits and holds are too. Postings before it are in the units of their time; a peer gets one even
        at a balance of zero, so that its lines say where that time ended. The caller makes the new
        decimals durable together with the records of this. ValueError unless there are more
        decimals than there were: to divide could lose something.
        """
        if not 0 <= old_decimals < new_decimals:
            raise ValueError(
                f"{asset}: decimals only grow, not from {old_decimals} to {new_decimals}"
            )
        factor = 10 ** (new_decimals - old_decimals)
        self.decimals[asset] = new_decimals
        legs: list[_Leg] = []
        for purse in self._purses:
            if purse.asset != asset or not (purse.balance or purse.holder.startswith(PEER)):
                continue
            legs.append((purse, purse.balance * (factor - 1), "transfer"))
            if isinstance(purse, AccountBalance):
                purse.held *= factor
                purse.holds = {order: held * factor for order, held in purse.holds.items()}
        if legs:
            self._post(time, f"decimals {old_decimals} to {new_decimals}", legs)
        for (peer, of), limit in self.credit.items():
            if of == asset and limit is not None:
                self.set_credit(peer, asset, limit * factor)

    # Orders and trades

    def hold(self, order: int, account: int, asset: str, amount: int) -> None:
        """Hold exactly `amount` for an order from now on; 0 releases what it held.

        Raises InsufficientBalance, and changes nothing, when the hold would grow by more than what is
        available. Of an order always the same account and asset.
        """
        if account == HOUSE:
            return
        try:
            purse = self._purses.accounts[account][asset]
        except KeyError:
            if not amount:
                return
            raise InsufficientBalance(asset, amount, 0) from None
        holds = purse.holds
        growth = amount - holds.get(order, 0)
        if not growth:
            return
        held = purse.held + growth
        if growth > 0 and held > purse.balance:
            raise InsufficientBalance(asset, growth, purse.balance - purse.held)
        purse.held = held
        if amount:
            holds[order] = amount
        else:
            del holds[order]
        self.changed[purse] = None

    def trade_here(
        self,
        time: int,
        reference: str,
        units: MarketUnits,
        price: int,
        quantity: int,
        buyer: int,
        seller: int,
        taker_side: int,
    ) -> tuple[int, int]:
        """Two accounts of this node traded. What the buyer paid of the base asset in fees, and the
        seller of the quote asset; below zero: a rebate.

        What they part with must have been held; the holds are for the caller to lower afterwards.
        """
        base_amount = quantity * units.base_units
        quote_amount = price * quantity * units.quote_units
        if taker_side == BUY:
            buyer_ppm, seller_ppm = units.taker_ppm, units.maker_ppm
        else:
            buyer_ppm, seller_ppm = units.maker_ppm, units.taker_ppm
        buyer_fee = seller_fee = 0
        if buyer_ppm and buyer != HOUSE:
            buyer_fee = (base_amount * buyer_ppm + PPM - 1) // PPM  # rounded up
        if seller_ppm and seller != HOUSE:
            seller_fee = (quote_amount * seller_ppm + PPM - 1) // PPM
        if buyer == seller and not (buyer_fee or seller_fee):
            return 0, 0
        base, quote = units.base, units.quote
        bought, paid = self._pair(buyer, base, quote)
        sold, earned = (bought, paid) if buyer == seller else self._pair(seller, base, quote)
        # What `_post` does, spelled out: this is most of what a trade costs.
        changed = self.changed
        lines: list[Line] = []
        if buyer != seller:  # else only fees move
            bought.balance += base_amount
            sold.balance -= base_amount
            paid.balance -= quote_amount
            earned.balance += quote_amount
            lines = [
                Line(bought.holder, base, base_amount, bought.balance, "trade"),
                Line(sold.holder, base, -base_amount, sold.balance, "trade"),
                Line(paid.holder, quote, -quote_amount, paid.balance, "trade"),
                Line(earned.holder, quote, quote_amount, earned.balance, "trade"),
            ]
        if buyer_fee:
            fees = self._purses.fees(base)
            bought.balance -= buyer_fee
            fees.balance += buyer_fee
            lines.append(Line(bought.holder, base, -buyer_fee, bought.balance, "fee"))
            lines.append(Line(FEES, base, buyer_fee, fees.balance, "fee"))
        if seller_fee:
            fees = self._purses.fees(quote)
            earned.balance -= seller_fee
            fees.balance += seller_fee
            lines.append(Line(earned.holder, quote, -seller_fee, earned.balance, "fee"))
            lines.append(Line(FEES, quote, seller_fee, fees.balance, "fee"))
        changed[bought] = changed[sold] = changed[paid] = changed[earned] = None
        number = self.next_transaction
        self.next_transaction = number + 1
        self.records.append(Transaction(number, time, reference, tuple(lines)))
        return buyer_fee, seller_fee

    def trade_with(
        self,
        time: int,
        reference: str,
        units: MarketUnits,
        side: int,
        price: int,
        quantity: int,
        account: int,
        peer: str,
        role: str,
    ) -> int:
        """An account of this node (its order's `side`, and its `role`: maker or taker) traded with
        another node, whose own account is that node's business. The fee, of the asset received;
        below zero: a rebate."""
        base_amount = quantity * units.base_units
        quote_amount = price * quantity * units.quote_units
        if side == BUY:
            received, gain, given, loss = units.base, base_amount, units.quote, quote_amount
        else:
            received, gain, given, loss = units.quote, quote_amount, units.base, base_amount
        ppm = units.maker_ppm if role == "maker" else units.taker_ppm
        fee = (gain * ppm + PPM - 1) // PPM if ppm and account != HOUSE else 0
        got = self._purses.account(account, received)
        gave = self._purses.account(account, given)
        legs: list[_Leg] = [
            (got, gain, "trade"),
            (self._purses.peer(peer, received), -gain, "trade"),
            (gave, -loss, "trade"),
            (self._purses.peer(peer, given), loss, "trade"),
        ]
        if fee:
            self._add_fee(legs, account, received, fee)
        self._post(time, reference, legs)
        return fee

    # Inside

    def _pair(self, account: int, base: str, quote: str) -> tuple[AccountBalance, AccountBalance]:
        """An account's purses of two assets."""
        try:
            purses = self._purses.accounts[account]
            return purses[base], purses[quote]
        except KeyError:
            return self._purses.account(account, base), self._purses.account(account, quote)

    def _add_fee(self, legs: list[_Leg], account: int, asset: str, fee: int) -> None:
        purse = self._purses.account(account, asset)
        legs.append((purse, -fee, "fee"))
        legs.append((self._purses.fees(asset), fee, "fee"))

    def _move(
        self,
        time: int,
        source: HolderBalance,
        target: HolderBalance,
        amount: int,
        kind: PostingKind,
        note: str,
    ) -> int:
        return self._post(time, note, [(source, -amount, kind), (target, amount, kind)])

    def _post(self, time: int, reference: str, legs: list[_Leg]) -> int:
        """The only place where a balance changes."""
        number = self.next_transaction
        self.next_transaction = number + 1
        changed = self.changed
        lines = []
        for purse, amount, kind in legs:
            purse.balance = balance = purse.balance + amount
            lines.append(Line(purse.holder, purse.asset, amount, balance, kind))
            if type(purse) is AccountBalance:
                changed[purse] = None
        self.records.append(Transaction(number, time, reference, tuple(lines)))
        return number

    def _limit(self, peer: str, asset: str) -> int | None:
        key = (peer, asset)
        return self.credit[key] if key in self.credit else self.credit.get(("", asset))

    def _most(self, asset: str) -> str:
        return format(Decimal(MAX_BALANCE).scaleb(-self.decimals[asset]), "f")

    def _known(self, asset: str) -> None:
        if asset not in self.decimals:
            raise ValueError(f"no asset {asset!r} (known: {', '.join(sorted(self.decimals))})")

    def _check(self, asset: str, amount: int, note: str) -> None:
        self._known(asset)
        if amount <= 0:
            raise ValueError(f"{asset}: an amount must be more than 0")
        if len(note) > MAX_NOTE:
            raise ValueError(f"a note has at most {MAX_NOTE} characters")
