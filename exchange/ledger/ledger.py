"""Double-entry ledger of a node: balances of accounts, other nodes, fee income and the outside world.

Theory of operation. Amounts are whole units, 10 ** -decimals of an asset (`market_units.decimals_of`). A positive
balance is an amount that the node owes the holder; another node's debt to this node is a negative
balance. Every movement is a transaction whose postings sum to zero for each asset: nothing is created
or lost.

A hold reserves a part of an account's balance for an open order. Holds are not posted and not
recorded: they follow from the open orders, which set them again after a restart.

Account 0, the house, belongs to the operator. Its balances may become negative, so no holds are kept
for it, and it pays no fees, which it would pay to itself.

Rules of this file:
- Balances change in `_post` and in `trade_here`, nowhere else.
- Integers have any size; the journal stores those beyond 64 bits as text. A deposit beyond MAX_BALANCE is
  refused. The house, peers, fees and the outside have no such bound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from exchange.ledger.balances import (
    ACCOUNT,
    PEER,
    AccountBalance,
    BalanceTable,
    HolderBalance,
    LedgerError,
    PeerBalance,
)
from exchange.ledger.market_units import MarketUnits
from exchange.model.commands import HOUSE
from exchange.model.decimals import plain
from exchange.model.events import BUY
from exchange.model.instruments import PPM
from exchange.model.records import (
    LocalTrade,
    PostingKind,
    PutCredit,
    Record,
    Transaction,
    TransactionLine,
)

MAX_BALANCE = 10**27  # largest balance that a deposit may lead to: 10**15 with 12 decimals
MAX_NOTE = 200  # characters of a note
STRANGERS = 10  # default limits that all peers without their own have together


class InsufficientBalance(Exception):
    """An account has less available than a command needs. Units of `asset`."""

    def __init__(self, asset: str, needed: int, available: int) -> None:
        super().__init__(f"{needed} units of {asset} are needed and {available} are available")
        self.asset = asset
        self.needed = needed
        self.available = available


class Obligation(msgspec.Struct, frozen=True):
    """Open amount between this node and another node in one asset."""

    peer: str
    asset: str
    amount: int  # positive: this node owes the peer; negative: the peer owes this node
    limit: int | None  # most that the peer may owe; None: no limit


_Leg = tuple[
    HolderBalance, int, PostingKind
]  # a posting before it is made: balance, amount added, kind


class Ledger:
    """Balances, holds and credit limits of a node. The callers check accounts, orders and prices."""

    def __init__(self, decimals: Mapping[str, int], strangers: int = STRANGERS) -> None:
        """`strangers`: peers without a credit limit of their own owe at most this many times the default limit
        together; 0: any number of times."""
        self._strangers = strangers
        self.decimals = dict(decimals)
        self.records: list[Record] = []  # not yet durable; cleared by the drain
        self.changed: dict[AccountBalance, None] = {}  # since the last drain, in order
        self.credit: dict[tuple[str, str], int | None] = {}  # (peer, asset)
        self.next_transaction = 1
        self._balances = BalanceTable()
        self.accounts = self._balances.accounts  # balances ever touched; for reading only

    def restore(
        self,
        balances: Mapping[tuple[str, str], int],
        credit: Mapping[tuple[str, str], int | None],
        next_transaction: int,
    ) -> None:
        """Continue from the last balance of each (holder, asset). Open orders set their holds again.

        Raises:
            LedgerError: the balances do not sum to zero.
        """
        for (holder, asset), balance in balances.items():
            self._balances.restore(holder, asset, balance)
        self.credit.update(credit)
        self.next_transaction = next_transaction
        self.check()

    # Reading

    def balance(self, holder: str, asset: str) -> int:
        holding = self._balances.find(holder, asset)
        return 0 if holding is None else holding.balance

    def held(self, account: int, asset: str) -> int:
        holding = self._balances.accounts.get(account, {}).get(asset)
        return 0 if holding is None else holding.held

    def available(self, account: int, asset: str) -> int:
        try:
            holding = self.accounts[account][asset]
        except KeyError:
            return 0
        return holding.balance - holding.held

    def holdings(self, account: int) -> dict[str, tuple[int, int]]:
        """Return (balance, held) for each asset that the account ever had."""
        holdings = self._balances.accounts.get(account, {})
        return {asset: (holding.balance, holding.held) for asset, holding in holdings.items()}

    def room(self, peer: str, asset: str) -> int | None:
        """Return the unused credit of a peer; None: no limit. Negative when its debt exceeds a limit that
        was lowered later. All strangers share a total besides."""
        alone = self.room_alone(peer, asset)
        together = self.room_of_strangers(asset) if self.is_stranger(peer, asset) else None
        if together is None or alone is None:
            return alone
        return min(alone, together + self.due_to(peer, asset))

    def due_to(self, peer: str, asset: str) -> int:
        """Return what this node owes a peer, which the peer may receive before it owes anything."""
        return max(0, self.balance(PEER + peer, asset))

    def room_alone(self, peer: str, asset: str) -> int | None:
        """Return the same without the total of all strangers."""
        limit = self._limit(peer, asset)
        return None if limit is None else limit + self.balance(PEER + peer, asset)

    def has_dealt_with(self, peer: str) -> bool:
        """Report if there ever was a trade or a payment with a peer."""
        return peer in self._balances.peers

    def is_stranger(self, peer: str, asset: str) -> bool:
        """Report if a peer has no credit limit of its own."""
        return (peer, asset) not in self.credit

    def known(self, asset: str) -> list[str]:
        """List the peers with a credit limit of their own."""
        return [peer for peer, of in self.credit if of == asset and peer]

    def strangers(self, asset: str) -> tuple[int, int | None]:
        """Return what all strangers owe together, and the most that they may; None: any amount."""
        owed = self._balances.owed[asset] - sum(
            max(0, -self.balance(PEER + peer, asset)) for peer in self.known(asset)
        )
        limit = self.credit.get(("", asset))
        return owed, limit * self._strangers if limit is not None and self._strangers else None

    def room_of_strangers(self, asset: str) -> int | None:
        """Return the unused credit of all strangers together; None: no limit."""
        owed, most = self.strangers(asset)
        return None if most is None else most - owed

    def positions(self) -> dict[str, dict[str, int]]:
        """Return the non-zero balances of each peer by asset."""
        found = {}
        for peer, holdings in self._balances.peers.items():
            open_ = {
                asset: holding.balance for asset, holding in holdings.items() if holding.balance
            }
            if open_:
                found[peer] = open_
        return found

    def obligations(self) -> list[Obligation]:
        """List the payments that would settle all positions, by asset and peer."""
        return sorted(
            (
                Obligation(peer, asset, amount, self._limit(peer, asset))
                for peer, amounts in self.positions().items()
                for asset, amount in amounts.items()
            ),
            key=lambda obligation: (obligation.asset, obligation.peer),
        )

    def check(self) -> None:
        """Check that the balances of each asset sum to zero and that every account covers its holds.

        Holds after every command, but not between a trade and the release of its holds.

        Raises:
            LedgerError: the check failed.
        """
        sums: Counter[str] = Counter()
        for holding in self._balances:
            sums[holding.asset] += holding.balance
            if isinstance(holding, AccountBalance):
                holding.check()
        for asset, total in sums.items():
            if total:
                raise LedgerError(f"{asset}: the balances of all holders sum to {total}, not to 0")

    # Deposits, withdrawals, settlements, credit

    def deposit(self, time: int, account: int, asset: str, amount: int, note: str) -> int:
        """Credit a deposit to an account. Returns the transaction's number.

        Raises:
            ValueError: a non-positive amount, a balance beyond MAX_BALANCE, an unknown asset or a note
                that is too long. Nothing has changed then.
        """
        self._check(asset, amount, note)
        if self.balance(f"{ACCOUNT}{account}", asset) + amount > MAX_BALANCE:
            raise ValueError(f"an account has at most {self._most(asset)} {asset}")
        holding = self._balances.account(account, asset)
        return self._move(time, self._balances.outside(asset), holding, amount, "deposit", note)

    def withdraw(self, time: int, account: int, asset: str, amount: int, note: str) -> int:
        """Pay out a withdrawal from an account. Returns the transaction's number.

        Raises:
            InsufficientBalance: more than the available balance.
            ValueError: as for `deposit`.
        """
        self._check(asset, amount, note)
        available = self.available(account, asset)
        if account == HOUSE:
            if available - amount < -MAX_BALANCE:
                raise ValueError(f"an account has at least -{self._most(asset)} {asset}")
        elif amount > available:
            raise InsufficientBalance(asset, amount, available)
        holding = self._balances.account(account, asset)
        return self._move(time, holding, self._balances.outside(asset), amount, "withdrawal", note)

    def settle(self, time: int, peer: str, asset: str, amount: int, note: str) -> int:
        """Record a payment outside the exchange: from the peer if `amount` is positive, else to the peer.
        Returns the transaction's number.

        Raises:
            ValueError: an amount of zero, an unknown asset or a note that is too long.
        """
        self._check(asset, abs(amount), note)
        outside = self._balances.outside(asset)
        return self._move(
            time, outside, self._balances.peer(peer, asset), amount, "settlement", note
        )

    def set_credit(self, peer: str, asset: str, limit: int | None) -> None:
        """Limit the debt of `peer` in `asset`; peer "" sets the default for peers without a limit of their
        own. None: no limit.

        Raises:
            ValueError: a negative limit or an unknown asset.
        """
        self._known(asset)
        if limit is not None and limit < 0:
            raise ValueError(f"{asset}: a credit limit is at least 0, got {limit}")
        self.credit[peer, asset] = limit
        self.records.append(PutCredit(peer, asset, limit))

    def rescale(self, time: int, asset: str, old_decimals: int, new_decimals: int) -> None:
        """Count `asset` in smaller units, when a restart brings instruments that need more decimals.

        Multiplies every balance by the postings of one transaction, and every limit and hold. Earlier
        postings keep the units of their time; a peer gets a posting even at a balance of zero, so that
        its history shows where the units change. The caller makes the new decimals durable together
        with the records of this transaction.

        Raises:
            ValueError: not more decimals than before; a division could lose amounts.
        """
        if not 0 <= old_decimals < new_decimals:
            raise ValueError(
                f"{asset}: decimals only grow, not from {old_decimals} to {new_decimals}"
            )
        factor = 10 ** (new_decimals - old_decimals)
        self.decimals[asset] = new_decimals
        legs: list[_Leg] = []
        for holding in self._balances:
            if holding.asset != asset or not (holding.balance or holding.holder.startswith(PEER)):
                continue
            legs.append((holding, holding.balance * (factor - 1), "transfer"))
            if isinstance(holding, AccountBalance):
                holding.held *= factor
                holding.holds = {order: held * factor for order, held in holding.holds.items()}
        if legs:
            self._post(time, f"decimals {old_decimals} to {new_decimals}", legs)
        for (peer, of), limit in self.credit.items():
            if of == asset and limit is not None:
                self.set_credit(peer, asset, limit * factor)

    # Orders and trades

    def hold(self, order: int, account: int, asset: str, amount: int) -> None:
        """Set the hold of an order to exactly `amount`; 0 releases it. An order always holds of the same
        account and asset.

        Raises:
            InsufficientBalance: the hold would grow by more than the available balance. Nothing has
                changed then.
        """
        if account == HOUSE:
            return
        try:
            holding = self.accounts[account][asset]
        except KeyError:
            if not amount:
                return
            raise InsufficientBalance(asset, amount, 0) from None
        holds = holding.holds
        growth = amount - holds.get(order, 0)
        if not growth:
            return
        held = holding.held + growth
        if growth > 0 and held > holding.balance:
            raise InsufficientBalance(asset, growth, holding.balance - holding.held)
        holding.held = held
        if amount:
            holds[order] = amount
        else:
            del holds[order]
        self.changed[holding] = None

    def release(self, order: int, account: int, asset: str) -> None:
        """Release the hold of an order, if it has one."""
        try:
            holding = self.accounts[account][asset]
        except KeyError:
            return
        amount = holding.holds.pop(order, 0)
        if amount:
            holding.held -= amount
            self.changed[holding] = None

    def trade_here(
        self,
        node: str,
        take: int,
        market: str,
        units: MarketUnits,
        side: int,
        price: int,
        quantity: int,
        time: int,
        taker_order: int,
        maker_order: int,
        taker: int,
        maker: int,
        posted: int = 0,
    ) -> LocalTrade:
        """Post and record a trade between two accounts of this node, `taker` and `maker`. `side` is the
        taker's.

        Fees are in the asset that a side receives; negative: a rebate. Nothing moves between two orders of the
        house. The amounts given must have been held; the caller lowers the holds afterwards. `posted`: time of the
        movements if it is not the trade's.
        """
        # The arguments of a record are listed one by one: this runs for each trade.
        if taker == HOUSE == maker:
            trade = LocalTrade(
                node, take, market, side, price, quantity, time, taker_order, maker_order
            )
            self.records.append(trade)
            return trade
        base_amount = quantity * units.base_units
        quote_amount = price * quantity * units.quote_units
        if side == BUY:
            buyer, seller = taker, maker
            buyer_ppm, seller_ppm = units.taker_ppm, units.maker_ppm
        else:
            buyer, seller = maker, taker
            buyer_ppm, seller_ppm = units.maker_ppm, units.taker_ppm
        buyer_fee = seller_fee = 0
        if buyer_ppm and buyer != HOUSE:
            step = units.fee_units
            buyer_fee = (base_amount // step * buyer_ppm + PPM - 1) // PPM * step  # rounded up
        if seller_ppm and seller != HOUSE:
            seller_fee = (quote_amount * seller_ppm + PPM - 1) // PPM
        if buyer == seller and not (buyer_fee or seller_fee):
            trade = LocalTrade(
                node,
                take,
                market,
                side,
                price,
                quantity,
                time,
                taker_order,
                maker_order,
                taker,
                maker,
            )
            self.records.append(trade)
            return trade
        base, quote = units.base, units.quote
        try:
            buys, sells = self.accounts[buyer], self.accounts[seller]
            bought, paid, sold, earned = buys[base], buys[quote], sells[base], sells[quote]
        except KeyError:
            account = self._balances.account
            bought, paid = account(buyer, base), account(buyer, quote)
            sold, earned = account(seller, base), account(seller, quote)
        bought.balance += base_amount - buyer_fee
        sold.balance -= base_amount
        paid.balance -= quote_amount
        earned.balance += quote_amount - seller_fee
        base_fees = quote_fees = 0
        if buyer_fee:
            fees = self._balances.fees(base)
            fees.balance = base_fees = fees.balance + buyer_fee
        if seller_fee:
            fees = self._balances.fees(quote)
            fees.balance = quote_fees = fees.balance + seller_fee
        changed = self.changed
        changed[bought] = changed[sold] = changed[paid] = changed[earned] = None
        number = self.next_transaction
        self.next_transaction = number + 1
        trade = LocalTrade(
            node,
            take,
            market,
            side,
            price,
            quantity,
            time,
            taker_order,
            maker_order,
            taker,
            maker,
            buyer_fee if side == BUY else seller_fee,
            seller_fee if side == BUY else buyer_fee,
            number,
            base_amount,
            quote_amount,
            (
                bought.balance,
                sold.balance,
                paid.balance,
                earned.balance,
                base_fees,
                quote_fees,
            ),
            posted,
        )
        self.records.append(trade)
        return trade

    def record(self, record: Record) -> None:
        """Add a record that follows from the postings made last."""
        self.records.append(record)

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
        """Post a trade between an account of this node and another node. Returns the fee in the asset
        received; negative: a rebate.

        `side` and `role` (maker or taker) are those of the account's order. Which account of the other
        node traded is recorded there.
        """
        base_amount = quantity * units.base_units
        quote_amount = price * quantity * units.quote_units
        if side == BUY:
            received, gain, given, loss = units.base, base_amount, units.quote, quote_amount
        else:
            received, gain, given, loss = units.quote, quote_amount, units.base, base_amount
        ppm = units.maker_ppm if role == "maker" else units.taker_ppm
        step = units.fee_units if side == BUY else 1
        fee = (gain // step * ppm + PPM - 1) // PPM * step if ppm and account != HOUSE else 0
        got = self._balances.account(account, received)
        gave = self._balances.account(account, given)
        legs: list[_Leg] = [
            (got, gain, "trade"),
            (self._balances.peer(peer, received), -gain, "trade"),
            (gave, -loss, "trade"),
            (self._balances.peer(peer, given), loss, "trade"),
        ]
        if fee:
            self._add_fee(legs, account, received, fee)
        self._post(time, reference, legs)
        return fee

    # Internals

    def _add_fee(self, legs: list[_Leg], account: int, asset: str, fee: int) -> None:
        holding = self._balances.account(account, asset)
        legs.append((holding, -fee, "fee"))
        legs.append((self._balances.fees(asset), fee, "fee"))

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
        """Change balances and record the transaction."""
        number = self.next_transaction
        self.next_transaction = number + 1
        changed = self.changed
        lines = []
        for holding, amount, kind in legs:
            holding.balance = balance = holding.balance + amount
            lines.append(TransactionLine(holding.holder, holding.asset, amount, balance, kind))
            if type(holding) is AccountBalance:
                changed[holding] = None
            elif type(holding) is PeerBalance:
                self._balances.owe(holding, amount)
        self.records.append(Transaction(number, time, reference, tuple(lines)))
        return number

    def _limit(self, peer: str, asset: str) -> int | None:
        key = (peer, asset)
        return self.credit[key] if key in self.credit else self.credit.get(("", asset))

    def _most(self, asset: str) -> str:
        return plain(MAX_BALANCE, self.decimals[asset])

    def _known(self, asset: str) -> None:
        if asset not in self.decimals:
            known = ", ".join(sorted(self.decimals))
            raise ValueError(f"unknown asset {asset!r}; the assets of this node are {known}")

    def _check(self, asset: str, amount: int, note: str) -> None:
        self._known(asset)
        if amount <= 0:
            raise ValueError(f"{asset}: an amount must be more than 0, got {amount}")
        if len(note) > MAX_NOTE:
            raise ValueError(f"a note has at most {MAX_NOTE} characters, got {len(note)}")
