"""Sums over the own nodes of a desk: balances, obligations, and trades between two of them.

Amounts are plain decimal texts, as in the API; sums are exact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from exchange.ledger.statements import text_of, units
from node.annexes.desk.desk_views import DeskBalance, DeskFill, DeskObligation
from node.views.account_views import ObligationView
from node.views.views import BalanceView, FillView


def sum_balances(views: Iterable[BalanceView]) -> list[DeskBalance]:
    """Sum by asset, sorted by its name."""
    sums: dict[str, list[int]] = {}
    for view in views:
        of = sums.setdefault(view.asset, [0, 0, 0])
        for place, amount in enumerate((view.total, view.held, view.available)):
            of[place] += units(amount)
    return [
        DeskBalance(
            asset=asset, total=text_of(total), held=text_of(held), available=text_of(available)
        )
        for asset, (total, held, available) in sorted(sums.items())
    ]


def net_obligations(
    views: Iterable[ObligationView], own: Collection[str]
) -> tuple[list[DeskObligation], list[DeskObligation]]:
    """Net the payments by peer and asset; those among own nodes (`own`: their ids) apart.

    Returns:
        With nodes outside, and among own nodes. The latter are zero where both nodes agree.
    """
    nets: dict[tuple[str, str], int] = {}
    for view in views:
        amount = units(view.amount)
        name = view.peer, view.asset
        nets[name] = nets.get(name, 0) + (amount if view.direction == "collect" else -amount)
    outside: list[DeskObligation] = []
    inside: dict[str, int] = {}
    for (peer, asset), net in sorted(nets.items()):
        if peer in own:
            inside[asset] = inside.get(asset, 0) + net
        elif net:
            outside.append(DeskObligation(peer=peer, asset=asset, net=text_of(net)))
    return outside, [
        DeskObligation(peer="", asset=asset, net=text_of(net))
        for asset, net in sorted(inside.items())
    ]


def join_fills(fills: Iterable[tuple[str, FillView]], own: Collection[str]) -> list[DeskFill]:
    """Join fills of several nodes, newest first. `fills`: pairs of a node's name and its fill."""
    joined: dict[tuple[str, str, str], DeskFill] = {}
    for node, fill in fills:
        internal = fill.counterparty in own
        # Both sides of a trade have one id; an order that meets its own node has both there.
        key = (fill.id, "", "") if internal else (fill.id, node, fill.order_id)
        known = joined.get(key)
        if known is None or fill.role == "taker":
            joined[key] = DeskFill(node=node, internal=internal, fill=fill)
    return sorted(joined.values(), key=lambda each: each.fill.time, reverse=True)
