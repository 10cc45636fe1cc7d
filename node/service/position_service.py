"""Positions between this node and others, the obligations that settle them, and credit limits."""

from __future__ import annotations

from collections.abc import Callable

from exchange.engine.engine import Engine
from node.service.amounts import Amounts, note
from node.service.committer import Committer
from node.service.peer_service import only_fit
from node.views.account_views import (
    CreditRequest,
    CreditView,
    ObligationView,
    PositionView,
    SettlementRequest,
    SettlementView,
)
from node.views.views import ServiceError
from p2p.base.identity import is_node_id


class PositionService:
    """See the module's docstring. `clock` is the engine's."""

    def __init__(
        self, engine: Engine, money: Amounts, committer: Committer, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._ledger = engine.ledger
        self._money = money
        self._committer = committer
        self._clock = clock

    def positions(self) -> list[PositionView]:
        """Position of each peer in each asset, with its limit."""
        views = []
        for entry in self._ledger.obligations():
            room = self._ledger.room(entry.peer, entry.asset)
            views.append(
                PositionView(
                    peer=entry.peer,
                    asset=entry.asset,
                    balance=self._money.text(entry.asset, entry.amount),
                    limit=self._limit(entry.asset, entry.limit),
                    room=self._limit(entry.asset, room),
                )
            )
        return views

    def obligations(self) -> list[ObligationView]:
        """The payments that would even everything out."""
        return [
            ObligationView(
                peer=entry.peer,
                asset=entry.asset,
                amount=self._money.text(entry.asset, abs(entry.amount)),
                direction="pay" if entry.amount > 0 else "collect",
                limit=self._limit(entry.asset, entry.limit),
                room=self._limit(entry.asset, self._ledger.room(entry.peer, entry.asset)),
            )
            for entry in self._ledger.obligations()
        ]

    async def settle(self, request: SettlementRequest) -> SettlementView:
        """Record a payment that was made outside."""
        asset = self._money.asset(request.asset)
        amount = self._money.amount(asset, request.amount)
        peer = self.peer(request.peer)
        # A payment to the peer lowers this node's debt.
        moved = -amount if request.direction == "paid" else amount
        time = self._engine.us(self._clock())
        with self._money.refusals(peer):
            transaction = self._ledger.settle(time, peer, asset, moved, note(request.note))
        balance = self._ledger.balance(f"peer:{peer}", asset)
        await self._committer.durable()
        return SettlementView(
            transaction=transaction,
            peer=peer,
            asset=asset,
            balance=self._money.text(asset, balance),
        )

    def credit(self) -> list[CreditView]:
        """Every limit that was set, those for all peers first."""
        return [self._credit_view(peer, asset) for peer, asset in sorted(self._ledger.credit)]

    async def set_credit(self, request: CreditRequest) -> CreditView:
        asset = self._money.asset(request.asset)
        peer = "" if request.peer is None else self.peer(request.peer, unmet=True)
        limit = None
        if request.limit is not None:
            limit = self._money.amount(asset, request.limit, name="limit", zero=True)
        self._ledger.set_credit(peer, asset, limit)
        await self._committer.durable()
        return self._credit_view(peer, asset)

    def _credit_view(self, peer: str, asset: str) -> CreditView:
        limit = self._limit(asset, self._ledger.credit[peer, asset])
        owed, most = (None, None) if peer else self._ledger.strangers(asset)
        return CreditView(
            peer=peer or None,
            asset=asset,
            limit=limit,
            total=self._limit(asset, most),
            owed=self._limit(asset, owed),
        )

    def _limit(self, asset: str, limit: int | None) -> str | None:
        return None if limit is None else self._money.text(asset, limit)

    def peer(self, node: str, *, unmet: bool = False) -> str:
        """The full id of another node, from the beginning of it. With `unmet` a whole id may be
        that of an unknown node."""
        known = {peer for peer, _ in self._ledger.credit if peer}
        known |= {*self._engine.present, *self._ledger.positions()}
        found = only_fit(node, known)
        if found is not None:
            return found
        if unmet and is_node_id(node.lower()) and node.lower() != self._engine.node_id:
            return node.lower()
        raise ServiceError(
            404,
            "unknown_node",
            f"no node that this one trades with has an id that begins with {node[:40]!r}; "
            "see 'exchange-node peers'",
        )
