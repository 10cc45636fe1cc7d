"""Interface of the own nodes of a desk, read together."""

from __future__ import annotations

from typing import Protocol

from node.annexes.desk.desk_views import (
    DeskBalancesView,
    DeskObligationsView,
    DeskOrdersView,
    DeskStatusView,
    DeskTradesView,
)


class Desk(Protocol):
    """Reads from all own nodes side by side. A node that does not answer is named in the view.

    Each raises `ValueError` if the profile of the desk cannot be used.
    """

    async def status(self) -> DeskStatusView: ...

    async def balances(self, *, account: str | None = None) -> DeskBalancesView: ...

    async def orders(
        self,
        *,
        market: str | None = None,
        open_only: bool = True,
        limit: int = 100,
        account: str | None = None,
    ) -> DeskOrdersView: ...

    async def trades(
        self, *, market: str | None = None, limit: int = 100, account: str | None = None
    ) -> DeskTradesView: ...

    async def obligations(self) -> DeskObligationsView: ...
