"""Reads of an account: orders, trades, balances, ledger. The answers of `/v2/auth/r/...`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from exchange.market.candles import LATEST
from exchange.model.records import Fill, Order, Posting
from node.annexes.bitfinex import account_arrays, order_inputs
from node.annexes.bitfinex.account_arrays import order_text, trade_text
from node.annexes.bitfinex.errors import bad, order_not_found
from node.annexes.bitfinex.limits import ORDERS_DEFAULT, ORDERS_MAX, ROWS_MAX
from node.annexes.bitfinex.order_inputs import Body
from node.annexes.bitfinex.pages import whole_page
from node.annexes.bitfinex.public_arrays import array
from node.annexes.bitfinex.symbols import Pair, Symbols
from node.http.server_connection import Request
from node.service.market_data import MarketData
from node.service.trading import Span, Trading

_LAST_MS = LATEST // 1000


class AccountReads:
    """Each method returns the JSON text of an array, or raises BitfinexError."""

    def __init__(self, trading: Trading, symbols: Symbols, market_data: MarketData) -> None:
        self._trading = trading
        self._symbols = symbols
        self._market_data = market_data

    async def durable(self, account: int) -> None:
        """Wait until all that was answered so far about an account is on the disk."""
        await self._trading.durable(account)

    async def open_orders(self, account: int, body: Body, pair: Pair | None) -> str:
        """All open orders; or those with the ids that are asked for, finished ones too.

        Clients look up an order here whatever has become of it: `fetch_order` of ccxt does.
        """
        key = None if pair is None else pair.key
        wanted = order_inputs.wanted_ids(body)
        if wanted is None:
            found = self._trading.open_orders_of(account, key)
        else:
            found = self._known(account, wanted, key)
        return await self._orders(account, found)

    async def past_orders(
        self, request: Request, account: int, body: Body, pair: Pair | None
    ) -> str:
        key = None if pair is None else pair.key
        wanted = order_inputs.wanted_ids(body)
        if wanted is None:
            span = _span(body, ORDERS_DEFAULT, ORDERS_MAX)
            found = await whole_page(
                request,
                body.get("cursor"),
                span,
                lambda part: self._trading.past_orders(account, part, market=key),
                lambda order: order.updated,
            )
        else:
            found = [order for order in self._known(account, wanted, key) if order.done]
            found.sort(key=lambda order: order.updated, reverse=True)
        return await self._orders(account, found)

    def _known(self, account: int, numbers: Iterable[int], market: str | None) -> list[Order]:
        """The account's orders with those numbers, oldest first."""
        known = [self._trading.order_of(account, number) for number in sorted(numbers)]
        return [o for o in known if o is not None and market in (None, o.market)]

    async def _orders(self, account: int, orders: Sequence[Order]) -> str:
        fills = await fills_by_order(self._trading, account, orders)
        return array(
            order_text(order, pair, fills.get(order.number, ()))
            for order in orders
            if (pair := self._symbols.find(order.market)) is not None
        )

    async def trades(self, request: Request, account: int, body: Body, pair: Pair | None) -> str:
        span = _span(body, ORDERS_DEFAULT, ORDERS_MAX)
        key = None if pair is None else pair.key
        found = await whole_page(
            request,
            body.get("cursor"),
            span,
            lambda part: self._trading.fills_of(account, part, market=key),
            lambda fill: fill.time,
        )
        return self._trades(account, found)

    async def trades_of_order(self, account: int, body: Body, pair: Pair, order_id: str) -> str:
        number = order_inputs.order_number(order_id)
        order = self._trading.order_of(account, number)
        if order is None or order.market != pair.key:
            raise order_not_found()
        span = Span(limit=ROWS_MAX)
        return self._trades(account, await self._trading.fills_of(account, span, order=number))

    def _trades(self, account: int, fills: Iterable[Fill]) -> str:
        return array(
            fill_text(self._trading, pair, fill)
            for fill in fills
            if (pair := self._symbols.find(fill.market)) is not None
        )

    async def wallets(self, account: int) -> str:
        return array(wallet_texts(self._trading, account))

    async def ledger(self, request: Request, account: int, body: Body, asset: str | None) -> str:
        if asset is not None and asset not in self._symbols.currencies:
            raise bad("currency")
        span = _span(body, ORDERS_DEFAULT, ORDERS_MAX)
        category = order_inputs.integer(body, "category", 0)

        async def read(part: Span) -> list[Posting]:
            if not category:
                return await self._trading.postings(account, part, asset=asset)
            kind = account_arrays.CATEGORIES.get(category)
            widest = msgspec.structs.replace(part, limit=ROWS_MAX, skip=0)
            every = await self._trading.postings(account, widest, asset=asset) if kind else []
            of_kind = [posting for posting in every if posting.kind == kind]
            return of_kind[part.skip :][: part.limit]

        found = await whole_page(
            request, body.get("cursor"), span, read, lambda posting: posting.time
        )
        decimals = self._trading.decimals
        return array(account_arrays.ledger_text(each, decimals(each.asset)) for each in found)

    async def available(self, account: int, body: Body) -> str:
        """Largest possible quantity of an order in the base asset; `dir` 1 buys and -1 sells."""
        pair = self._symbols[body.get("symbol")]
        if body.get("type", "EXCHANGE") not in ("EXCHANGE", "EXCHANGE LIMIT", "EXCHANGE MARKET"):
            raise bad("type", "EXCHANGE is expected")
        side = order_inputs.integer(body, "dir", 1)
        if side not in (1, -1):
            raise bad("dir", "1 (buy) or -1 (sell) is expected")
        instrument = pair.instrument
        asset = instrument.quote if side == 1 else instrument.base
        units = next(
            (b.total - b.held for b in self._trading.balances_of(account) if b.asset == asset), 0
        )
        exponent = self._trading.decimals(asset)
        if side == -1:
            lot = int(instrument.lot.scaleb(exponent))
            return f"[{pair.scale.amount(max(units, 0) // lot)}]"
        if body.get("rate") is None:
            price = self._market_data.ticker(pair.key).ask
            if price is None:
                raise bad("rate", "no sell orders, so the market has no reference price")
        else:
            price = order_inputs.limit_price(pair, body, "rate", side)
        per_lot = int((instrument.tick * instrument.lot).scaleb(exponent)) * price
        return f"[{pair.scale.amount(max(units, 0) // per_lot)}]"


def wallet_texts(trading: Trading, account: int) -> list[str]:
    return [
        account_arrays.wallet_text(balance, trading.decimals(balance.asset))
        for balance in trading.balances_of(account)
    ]


def fill_text(trading: Trading, pair: Pair, fill: Fill, *, with_fee: bool = True) -> str:
    """A fill with the known fields of its order."""
    order = trading.order_of(fill.account, fill.order)
    decimals = trading.decimals(fill.fee_asset) if fill.fee_asset else 0
    return trade_text(fill, pair, order, decimals, with_fee=with_fee)


async def fills_by_order(
    trading: Trading, account: int, orders: Sequence[Order]
) -> Mapping[int, Sequence[Fill]]:
    """The fills of those orders, oldest first, as far as one question to the history finds them."""
    traded = [order for order in orders if order.filled]
    if not traded:
        return {}
    if len(traded) == 1:
        number = traded[0].number
        only = await trading.fills_of(account, Span(limit=ROWS_MAX), order=number)
        return {number: only[::-1]}
    span = Span(
        start=min(order.time for order in traded),
        end=max(order.updated for order in traded),
        limit=ROWS_MAX,
    )
    found: dict[int, list[Fill]] = {order.number: [] for order in traded}
    for fill in reversed(await trading.fills_of(account, span)):
        if fill.order in found:
            found[fill.order].append(fill)
    return found


def _span(body: Body, default: int, most: int) -> Span:
    """`start` and `end` are milliseconds and both included; `sort` 1 is oldest first."""
    start = min(max(order_inputs.integer(body, "start", 0), 0), _LAST_MS)
    end = min(max(order_inputs.integer(body, "end", _LAST_MS), 0), _LAST_MS)
    limit = order_inputs.integer(body, "limit", default)
    if limit < 1:
        raise bad("limit")
    sort = order_inputs.integer(body, "sort", -1)
    if sort not in (-1, 1):
        raise bad("sort", "-1 (newest first) or 1 is expected")
    return Span(
        start=start * 1000, end=end * 1000 + 999, limit=min(limit, most), newest_first=sort == -1
    )
