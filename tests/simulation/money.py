"""Invariants of money. Each function raises `Violation` when its invariant does not hold.

The functions compare amounts that a `Books` has computed from the records on a node's disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from fractions import Fraction

from exchange.ledger.ledger import Ledger
from exchange.model.records import Fill, Order, Posting
from tests.simulation.invariants import Violation
from tests.simulation.operators import PPM, PROTECTION, Worth

HOUSE = "account:0"

Key = tuple[str, str]  # holder, asset


def sums_to_zero(node: int, what: str, amounts: Iterable[tuple[str, int]]) -> None:
    """Per asset, balances and bilateral positions over all nodes sum to what was deposited. Nothing is
    created or lost.

    Here: the amounts of one transaction, and all balances of one node, sum to zero for each asset.
    """
    sums: Counter[str] = Counter()
    for asset, amount in amounts:
        sums[asset] += amount
    odd = {asset: total for asset, total in sums.items() if total}
    if odd:
        raise Violation("sums_to_zero", f"node {node}, {what}: {odd} left over")


def balances_follow(
    node: int, told: Mapping[Key, int], expected: Mapping[Key, int], ledger: Ledger
) -> None:
    """Per asset, balances and bilateral positions over all nodes sum to what was deposited. Nothing is
    created or lost.

    Here: a balance is what follows from fills, fees, deposits and withdrawals (`expected`), from the
    postings (`told`), and in the ledger of the node.
    """
    for key in {*told, *expected}:
        figures = told.get(key, 0), expected.get(key, 0), ledger.balance(*key)
        if len(set(figures)) != 1:
            raise Violation(
                "balances_follow",
                f"node {node}, {key}: postings, fills and ledger say {figures}",
            )


def covered(node: int, ledger: Ledger, holds: Mapping[tuple[int, str], int]) -> None:
    """No client has less than its open orders may cost; what is held is just that.

    `holds` are worked out from the orders, by (account, asset).
    """
    for (account, asset), amount in holds.items():
        held, balance = ledger.held(account, asset), ledger.balance(f"account:{account}", asset)
        if held != amount or not 0 <= held <= balance:
            raise Violation(
                "covered",
                f"node {node}, account {account}: its orders need {amount} {asset}, {held} of "
                f"{balance} are held",
            )


def holds_of(orders: Iterable[Order], worths: Mapping[str, Worth]) -> dict[tuple[int, str], int]:
    """Return the most that open orders of clients may still cost, by (account, asset); of a pair the greater."""
    orders = [order for order in orders if order.account and not order.done]
    numbers = {order.number for order in orders}
    most: dict[tuple[int, str, int], int] = {}
    for order in orders:
        worth = worths[order.market]
        left = order.quantity - order.filled
        if order.cancelled:
            left = order.pending + order.reserved
        if order.side > 0:
            limit = order.price or order.worst_price
            if not limit and order.stop > 0:
                limit = max(order.stop + order.stop * PROTECTION // PPM, 1)
            asset, amount = worth.quote, left * limit * worth.quote_units
        else:
            asset, amount = worth.base, left * worth.base_units
        pair = (
            min(order.number, order.linked_order) if order.linked_order in numbers else order.number
        )
        key = order.account, asset, pair
        most[key] = max(most.get(key, 0), amount)
    holds: Counter[tuple[int, str]] = Counter()
    for (account, asset, _), amount in most.items():
        holds[account, asset] += amount
    return holds


def money_survives(
    node: int,
    ledger: Ledger,
    balances: Mapping[Key, int],
    holds: Mapping[tuple[int, str], int],
    factors: Mapping[str, int],
) -> None:
    """Acknowledged commands survive kill -9.

    Here: balances and holds after a restart are those on the disk. `factors`: an asset may be counted
    in smaller units since.
    """
    for (holder, asset), balance in balances.items():
        if ledger.balance(holder, asset) != balance * factors[asset]:
            raise Violation(
                "money_survives",
                f"node {node} restarts with {ledger.balance(holder, asset)} {asset} of {holder}, its "
                f"disk says {balance} times {factors[asset]}",
            )
    for (account, asset), amount in holds.items():
        if ledger.held(account, asset) != amount * factors[asset]:
            raise Violation(
                "money_survives",
                f"node {node} restarts with {ledger.held(account, asset)} {asset} held of account "
                f"{account}, before it were {amount} times {factors[asset]}",
            )


def fee_is_exact(fill: Fill, worth: Worth) -> None:
    """The recorded fee is the rate of the amount received, rounded up to steps of 1e-8 in the base asset
    and to units in the quote asset; the house pays none."""
    received = fill.quantity * worth.base_units
    asset, rate = worth.base, worth.maker if fill.role == "maker" else worth.taker
    step = worth.fee_units
    if fill.side < 0:
        received = fill.price * fill.quantity * worth.quote_units
        asset = worth.quote
        step = 1
    fee = -(-received * rate // (PPM * step)) * step if fill.account else 0
    if (fill.fee, fill.fee_asset) != (fee, asset):
        raise Violation("fee_is_exact", f"{fill} should cost {fee} {asset}")


def within_credit(node: int, posting: Posting, limit: int | None) -> None:
    """No trade takes what another node owes beyond its credit limit.

    Exact while a limit is only ever raised: what was under way when it was lowered still counts.
    """
    if limit is not None and posting.amount < 0 and -posting.balance > limit:
        raise Violation("within_credit", f"node {node} allows {limit}, and then {posting}")


def reduces_only(node: int, fill: Fill, posting: Posting) -> None:
    """A reduce-only order never takes the house's position further from nothing, or beyond it.

    `posting` is that of the house's base asset. Exact for what this node decides and fills at once. What
    another node decides about was within the position when it was asked for (`fits_position`);
    other trades of the house may come between.
    """
    before, after = posting.balance - posting.amount, posting.balance
    if before * after < 0 or abs(after) >= abs(before):
        raise Violation("reduces_only", f"node {node}: position {before} to {after} by {fill}")


def fits_position(node: int, order: Order, amount: int, position: int, under_way: int) -> None:
    """A reduce-only order never takes the house's position further from nothing, or beyond it.

    Here: it does not ask another node for more than the position that is not asked for yet.
    """
    if amount > -order.side * position - under_way:
        raise Violation(
            "reduces_only",
            f"node {node} asks for {amount} with position {position}, of which {under_way} is under "
            f"way: {order}",
        )


def positions_mirror(
    balances: Mapping[str, Mapping[Key, Fraction]], hostile: Container[str] = ()
) -> None:
    """Per asset, balances and bilateral positions over all nodes sum to what was deposited. Nothing is
    created or lost.

    Here, after quiet: what a node says another one owes it is what that one says it owes.
    """
    for node, own in balances.items():
        for (holder, asset), amount in own.items():
            kind, _, peer = holder.partition(":")
            if kind == "peer" and peer not in hostile:
                other = balances[peer].get((f"peer:{node}", asset), Fraction(0))
                if amount + other:
                    raise Violation(
                        "positions_mirror", f"{asset}: {node} and {peer} say {amount} and {other}"
                    )


def accounts_hold_the_deposits(
    balances: Mapping[str, Mapping[Key, Fraction]],
    deposited: Mapping[str, Fraction],
    hostile: Container[str] = (),
) -> None:
    """Per asset, balances and bilateral positions over all nodes sum to what was deposited. Nothing is
    created or lost.

    Here, after quiet: accounts, houses and fees of all nodes, and what dishonest nodes owe.
    """
    sums: dict[str, Fraction] = {}
    for own in balances.values():
        for (holder, asset), amount in own.items():
            if holder == "fees" or holder.startswith("account:") or holder[5:] in hostile:
                sums[asset] = sums.get(asset, Fraction(0)) + amount
    for asset, total in sums.items():
        if total != deposited.get(asset, 0):
            raise Violation(
                "accounts_hold_the_deposits",
                f"{asset}: {total} in accounts, {deposited.get(asset, 0)} deposited",
            )
