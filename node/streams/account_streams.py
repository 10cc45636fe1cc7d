"""The streams of an account: its orders, fills and balances."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from exchange.model.decimals import plain
from exchange.model.records import Fill, Order
from node.service.trading import AccountNews, Balance, Span, Trading
from node.streams.stream import FAILED, NumberedStream
from node.streams.stream_messages import (
    Balances,
    BalancesSnapshot,
    Fills,
    FillsSnapshot,
    Orders,
    OrdersSnapshot,
)
from node.views.order_mapping import OrderMapping
from node.views.views import BalanceView

SNAPSHOT_FILLS: Final = 50

log = logging.getLogger(__name__)


class AccountStream(NumberedStream):
    """A stream about one account."""

    def __init__(
        self, name: str, epoch: str, trading: Trading, texts: OrderMapping, account: int
    ) -> None:
        super().__init__(name, epoch)
        self.trading = trading
        self.texts = texts
        self.account = account
        self._stop: Callable[[], None] | None = None

    async def open(self) -> None:
        self._stop = self.trading.listen(self.account, self._offer)

    def close(self) -> None:
        if self._stop is not None:
            self._stop()
            self._stop = None

    def offer(self, news: AccountNews) -> None:
        """Something happened to the account."""
        raise NotImplementedError

    def _offer(self, news: AccountNews) -> None:
        """Receive durable changes; exceptions are contained here."""
        try:
            self.offer(news)
        except Exception:
            log.exception("the stream %s of account %d failed", self.name, self.account)
            self.end(*FAILED)


class OrdersStream(AccountStream):
    snapshot_message, changes_message = OrdersSnapshot, Orders

    def __init__(
        self, name: str, epoch: str, trading: Trading, texts: OrderMapping, account: int
    ) -> None:
        super().__init__(name, epoch, trading, texts, account)
        self._open: dict[int, Order] = {}  # as they are on the disk, once this is open

    async def open(self) -> None:
        await super().open()
        found = self.trading.open_orders_of(self.account)
        self._open = {order.number: msgspec.structs.replace(order) for order in found}
        await self.trading.durable(self.account)  # and what comes until then is no older than that

    def offer(self, news: AccountNews) -> None:
        for order in news.orders:
            if order.done:
                self._open.pop(order.number, None)
            else:
                self._open[order.number] = order
        self.publish({order.number: self.texts.order(order) for order in news.orders})

    def state(self) -> dict[str, Any]:
        return {"orders": [self.texts.order(order) for _, order in sorted(self._open.items())]}

    def changed(self, changes: Mapping[object, Any]) -> dict[str, Any]:
        return {"orders": list(changes.values())}


class FillsStream(AccountStream):
    snapshot_message, changes_message = FillsSnapshot, Fills
    complete = True

    def __init__(
        self, name: str, epoch: str, trading: Trading, texts: OrderMapping, account: int
    ) -> None:
        super().__init__(name, epoch, trading, texts, account)
        self._newest: deque[Fill] = deque(maxlen=SNAPSHOT_FILLS)

    async def open(self) -> None:
        await super().open()
        stored = await self.trading.fills_of(self.account, Span(limit=SNAPSHOT_FILLS))
        newer = {_key(fill): fill for fill in self._newest}  # what came meanwhile may be in both
        older = [fill for fill in reversed(stored) if _key(fill) not in newer]
        self._newest = deque([*older, *newer.values()], maxlen=SNAPSHOT_FILLS)

    def offer(self, news: AccountNews) -> None:
        self._newest.extend(news.fills)
        self.publish({_key(fill): self.texts.fill(fill) for fill in news.fills})

    def state(self) -> dict[str, Any]:
        return {"fills": [self.texts.fill(fill) for fill in reversed(self._newest)]}

    def changed(self, changes: Mapping[object, Any]) -> dict[str, Any]:
        return {"fills": list(changes.values())}


class BalancesStream(AccountStream):
    snapshot_message, changes_message = BalancesSnapshot, Balances

    def __init__(
        self, name: str, epoch: str, trading: Trading, texts: OrderMapping, account: int
    ) -> None:
        super().__init__(name, epoch, trading, texts, account)
        self._balances: dict[str, Balance] = {}  # as they are on the disk, once this is open

    async def open(self) -> None:
        await super().open()
        found = self.trading.balances_of(self.account)
        self._balances = {balance.asset: balance for balance in found}
        await self.trading.durable(self.account)

    def offer(self, news: AccountNews) -> None:
        self._balances.update((balance.asset, balance) for balance in news.balances)
        self.publish({balance.asset: self._view(balance) for balance in news.balances})

    def _view(self, balance: Balance) -> BalanceView:
        decimals = self.trading.decimals(balance.asset)
        return BalanceView(
            asset=balance.asset,
            total=plain(balance.total, decimals),
            held=plain(balance.held, decimals),
            available=plain(balance.total - balance.held, decimals),
        )

    def state(self) -> dict[str, Any]:
        return {"balances": [self._view(balance) for _, balance in sorted(self._balances.items())]}

    def changed(self, changes: Mapping[object, Any]) -> dict[str, Any]:
        return {"balances": list(changes.values())}


def _key(fill: Fill) -> tuple[str, int, str]:
    return fill.taker, fill.take, fill.role
