"""The money of each node as seen from outside: from its postings, its fills, and what it was told.

There are two of each, as it is on the disk and as it is in memory with what is not durable yet. A
crash makes the second one a copy of the first.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction

from exchange.engine.engine import Engine
from exchange.model.records import (
    Decision,
    Fill,
    Order,
    Posting,
    PutCredit,
    PutMeta,
    Transaction,
    unfolded,
)
from exchange.orders.engine_context import Drained
from tests.simulation import money
from tests.simulation.invariants import Violation
from tests.simulation.money import HOUSE, Key
from tests.simulation.operators import Operator


@dataclass(slots=True)
class _Sheet:
    balances: dict[Key, int] = field(default_factory=dict)  # by the postings
    expected: Counter[Key] = field(default_factory=Counter)  # by fills and money commands
    decimals: dict[str, int] = field(default_factory=dict)
    credit: dict[tuple[str, str], int | None] = field(default_factory=dict)
    orders: dict[int, Order] = field(default_factory=dict)  # open ones of clients
    kept: dict[tuple[str, int], Decision] = field(default_factory=dict)  # reservations
    notes: set[str] = field(default_factory=set)  # of money commands

    def holds(self, operator: Operator) -> dict[tuple[int, str], int]:
        worths = {market: operator.worth(market) for market in operator.markets}
        return money.holds_of(self.orders.values(), worths)


@dataclass(slots=True, frozen=True)
class Command:
    """Money that came in (above zero) or left: of an account, or as a payment of another node."""

    holder: str
    asset: str
    amount: Fraction


class Books:
    """Books of one node."""

    def __init__(self, node: int, node_id: str, operator: Operator) -> None:
        self.node = node
        self.node_id = node_id
        self.operator = operator
        self.disk = _Sheet()
        self.memory = _Sheet()
        self.commands: dict[str, Command] = {}  # by note, whether or not they became durable
        self._told: set[str] = set()  # notes of those that were acknowledged

    def commanded(self, note: str, account: int, asset: str, amount: int) -> None:
        scale = 10 ** self.operator.decimals(asset)
        self.commands[note] = Command(f"account:{account}", asset, Fraction(amount, scale))

    def settled(self, note: str, peer: str, asset: str, amount: Fraction) -> None:
        """A payment is about to be written down, in whole assets: above zero the peer has paid."""
        self.commands[note] = Command(f"peer:{peer}", asset, amount)

    def acknowledged(self, note: str) -> None:
        self._told.add(note)

    # Life

    def started(self, engine: Engine) -> None:
        """The node restarted with what is on its disk."""
        disk, operator = self.disk, self.operator
        reserved: Counter[int] = Counter()
        for decision in disk.kept.values():
            reserved[decision.order] += decision.quantity
        for order in disk.orders.values():
            # What was kept for an own fill-or-kill order went with the process.
            order.reserved = reserved[order.number]
        factors = {
            asset: 10 ** (operator.decimals(asset) - digits)
            for asset, digits in disk.decimals.items()
            if asset != "FINE"  # nobody has any
        }
        finer = operator.finer  # the holds on the disk are in the units of their time
        operator.finer = finer and all(factor == 1 for factor in factors.values())
        holds = disk.holds(operator)
        operator.finer = finer
        money.money_survives(self.node, engine.ledger, disk.balances, holds, factors)
        self.memory = copy.deepcopy(disk)

    def crashed(self) -> None:
        self.memory = copy.deepcopy(self.disk)

    # What is written

    def drained(self, engine: Engine, drained: Drained) -> None:
        """The records of a drain, before they are durable."""
        sheet = self.memory
        self._apply(sheet, drained, judge=True)
        if drained.balances or drained.orders:
            money.balances_follow(self.node, sheet.balances, sheet.expected, engine.ledger)
            everything = ((asset, amount) for (_, asset), amount in sheet.balances.items())
            money.sums_to_zero(self.node, "all balances", everything)
            holds = sheet.holds(self.operator)
            for account, asset, _, _ in drained.balances:
                if account:
                    holds.setdefault((account, asset), 0)
            money.covered(self.node, engine.ledger, holds)

    def durable(self, drained: Drained) -> None:
        self._apply(self.disk, drained, judge=False)

    def _apply(self, sheet: _Sheet, drained: Drained, *, judge: bool) -> None:
        for record in unfolded(drained.records):
            match record:
                case Transaction() as transaction:
                    for place, posting in enumerate(transaction.postings()):
                        self._post(sheet, posting, first=place == 0)
                        if judge and posting.kind == "trade" and posting.holder.startswith("peer:"):
                            money.within_credit(self.node, posting, _limit(sheet, posting))
                    if judge:
                        lines = ((line.asset, line.amount) for line in transaction.lines)
                        money.sums_to_zero(self.node, f"transaction {transaction.number}", lines)
                case Fill() as fill:
                    self._fill(sheet, fill, judge=judge)
                case Order() as order:
                    if order.account:
                        sheet.orders[order.number] = copy.copy(order)
                        if order.done:
                            del sheet.orders[order.number]
                case Decision() as decision:
                    key = decision.taker, decision.take
                    sheet.kept.pop(key, None)
                    if decision.until:
                        sheet.kept[key] = decision
                case PutCredit(peer, asset, limit):
                    sheet.credit[peer, asset] = limit
                case PutMeta(name, value) if name.startswith("decimals:"):
                    sheet.decimals[name.removeprefix("decimals:")] = value

    def _post(self, sheet: _Sheet, posting: Posting, *, first: bool) -> None:
        key = posting.holder, posting.asset
        balance = sheet.balances.get(key, 0) + posting.amount
        if posting.balance != balance:
            raise Violation("sums_to_zero", f"node {self.node}: {balance} after {posting}")
        sheet.balances[key] = balance
        if posting.kind == "transfer" and first:
            self._rescale(sheet, posting)
        elif posting.kind in ("deposit", "withdrawal", "settlement") and first:
            self._moved(sheet, posting)

    @staticmethod
    def _rescale(sheet: _Sheet, posting: Posting) -> None:
        _, before, _, after = posting.reference.split()
        for key in sheet.expected:
            if key[1] == posting.asset:
                sheet.expected[key] *= 10 ** (int(after) - int(before))

    def _moved(self, sheet: _Sheet, posting: Posting) -> None:
        note, asset = posting.reference, posting.asset
        command = self.commands.get(note)
        if command is None or note in sheet.notes or command.asset != asset:
            raise Violation("balances_follow", f"node {self.node} was not told to do {posting}")
        sheet.notes.add(note)
        amount = int(command.amount * 10 ** self.operator.decimals(asset))
        sheet.expected[command.holder, asset] += amount
        sheet.expected["outside", asset] -= amount

    def _fill(self, sheet: _Sheet, fill: Fill, *, judge: bool) -> None:
        worth = self.operator.worth(fill.market)
        if judge:
            money.fee_is_exact(fill, worth)
        base = fill.side * fill.quantity * worth.base_units
        quote = -fill.side * fill.price * fill.quantity * worth.quote_units
        account = f"account:{fill.account}"
        for asset, amount in ((worth.base, base), (worth.quote, quote)):
            sheet.expected[account, asset] += amount
            if fill.counterparty != self.node_id:
                sheet.expected[f"peer:{fill.counterparty}", asset] -= amount
        sheet.expected[account, fill.fee_asset] -= fill.fee
        sheet.expected["fees", fill.fee_asset] += fill.fee

    def house_posting(self, drained: Drained, fill: Fill) -> Posting | None:
        """Return the posting of a fill to the house's balance of the base asset; None: no posting."""
        base = self.operator.worth(fill.market).base
        transactions = [r for r in unfolded(drained.records) if isinstance(r, Transaction)]
        for transaction in transactions:
            for posting in transaction.postings():
                if (posting.holder, posting.asset) == (HOUSE, base) and posting.reference == (
                    f"{fill.taker}/{fill.take}"
                ):
                    return posting
        return None

    # The end

    def balances(self) -> dict[Key, Fraction]:
        """Of the disk, in whole assets."""
        return {
            key: Fraction(amount, 10 ** self.operator.decimals(key[1]))
            for key, amount in self.disk.balances.items()
        }

    def final(self) -> None:
        lost = self._told - self.disk.notes
        if lost:
            raise Violation("money_survives", f"node {self.node} was told and forgot {lost}")

    def deposited(self) -> dict[str, Fraction]:
        """Return deposits less withdrawals by asset, of the commands on the disk."""
        sums: dict[str, Fraction] = {}
        for note in self.disk.notes:
            command = self.commands[note]
            if command.holder.startswith("peer:"):
                continue
            sums[command.asset] = sums.get(command.asset, Fraction(0)) + command.amount
        return sums


def _limit(sheet: _Sheet, posting: Posting) -> int | None:
    key = posting.holder.removeprefix("peer:"), posting.asset
    return sheet.credit[key] if key in sheet.credit else sheet.credit.get(("", posting.asset))
