"""Views over the own nodes of a desk. Each says which nodes answered; sums are over those alone."""

from __future__ import annotations

import msgspec

from node.views.account_views import ObligationView
from node.views.field_types import Decimal, SignedDecimal
from node.views.node_views import StatusView
from node.views.views import BalanceView, FillView, OrderView


class DeskNodeView(msgspec.Struct, kw_only=True):
    """A node of the desk. `code` and `error` are None if it answered.

    `node_id` is None if it did not answer, or was asked with the key of an account.
    """

    name: str
    node_id: str | None
    code: str | None
    error: str | None


class DeskStatus(msgspec.Struct, kw_only=True):
    """Status of one node."""

    node: str
    status: StatusView


class DeskStatusView(msgspec.Struct, kw_only=True):
    """Status of each node that answered."""

    nodes: list[DeskNodeView]
    status: list[DeskStatus]


class DeskNodeBalance(msgspec.Struct, kw_only=True):
    """Balance in an asset at one node."""

    node: str
    balance: BalanceView


class DeskBalance(msgspec.Struct, kw_only=True):
    """Sum of the balances in an asset."""

    asset: str
    total: SignedDecimal
    held: Decimal
    available: SignedDecimal


class DeskBalancesView(msgspec.Struct, kw_only=True):
    """Balances by node, and their sums by asset."""

    nodes: list[DeskNodeView]
    balances: list[DeskNodeBalance]
    totals: list[DeskBalance]


class DeskOrder(msgspec.Struct, kw_only=True):
    """An order at one node."""

    node: str
    order: OrderView


class DeskOrdersView(msgspec.Struct, kw_only=True):
    """Orders of all nodes, newest first."""

    nodes: list[DeskNodeView]
    orders: list[DeskOrder]


class DeskFill(msgspec.Struct, kw_only=True):
    """A trade of the desk. One between two own nodes is here once, as its taker sees it."""

    node: str
    internal: bool  # both sides are own nodes
    fill: FillView


class DeskTradesView(msgspec.Struct, kw_only=True):
    """Own trades of all nodes, newest first."""

    nodes: list[DeskNodeView]
    trades: list[DeskFill]


class DeskObligation(msgspec.Struct, kw_only=True):
    """Net payment of all own nodes to a node outside, or from it. `net`: negative if they pay."""

    peer: str
    asset: str
    net: SignedDecimal


class DeskNodeObligations(msgspec.Struct, kw_only=True):
    """Obligations of one node."""

    node: str
    obligations: list[ObligationView]


class DeskObligationsView(msgspec.Struct, kw_only=True):
    """Net obligations to nodes outside; `own` are those among own nodes, zero where both agree."""

    nodes: list[DeskNodeView]
    obligations: list[DeskObligation]
    own: list[DeskObligation]
    by_node: list[DeskNodeObligations]
