"""The order books of PyPI, each driven the way its own documentation and source say.

`prepare` turns the workload into the peer's own price and side types before the clock starts. `play`
is timed: it submits everything, keeps the peer's trades, and keeps what the peer needs for a cancel.
`trades` reads (price, quantity) from what `play` kept, afterwards. Peers are imported when they are
made, so that one that is not installed raises ImportError there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

LIMIT, MARKET, CANCEL = range(3)


class Operation(NamedTuple):
    kind: int
    key: int  # of the new order, or of the one to cancel
    side: int  # 1 or -1; also given for a cancel
    price: int | None
    quantity: int
    time: int


Trades = Iterable[tuple[Any, Any]]


class Ours:
    package = "exchange.market.order_book"
    note = ""

    def __init__(self) -> None:
        from exchange.market.order_book import OrderBook

        self.make = OrderBook

    def prepare(self, operations: list[Operation]) -> Any:
        return [tuple(operation) for operation in operations]

    def play(self, operations: Any) -> Any:
        book = self.make()
        submit, remove = book.submit, book.remove
        kept = []
        for kind, key, side, price, quantity, time in operations:
            if kind == CANCEL:
                remove(key)
            else:
                fills = submit(key, side, price, quantity, time, key)
                if fills:
                    kept.append(fills)
        return kept

    def trades(self, kept: Any) -> Trades:
        return ((price, quantity) for fills in kept for _, price, quantity in fills)


class OrderlyChaos:
    package = "orderly-chaos"
    note = "C++ through ctypes"

    def __init__(self) -> None:
        from orderly_chaos import LimitOrderBook, Side

        self.make, self.sides = LimitOrderBook, {1: Side.BUY, -1: Side.SELL}

    def prepare(self, operations: list[Operation]) -> Any:
        return [(o.kind, o.key, self.sides[o.side], o.price, o.quantity) for o in operations]

    def play(self, operations: Any) -> Any:
        kept: list[Any] = []
        book = self.make(on_trade=kept.append)
        for kind, key, side, price, quantity in operations:
            if kind == LIMIT:
                book.limit(side, key, quantity, price)
            elif kind == MARKET:
                book.market(side, key, quantity)
            else:
                book.cancel(key)
        return kept

    def trades(self, kept: Any) -> Trades:
        return ((trade.price, trade.quantity) for trade in kept)


class Akhil4n:
    package = "akhil4n-orderbook"
    note = "pure Python"

    def __init__(self) -> None:
        from orderbook import MarketOrder, Order, OrderBook, OrderSide

        self.make, self.limit, self.market = OrderBook, Order, MarketOrder
        self.sides = {1: OrderSide.BID, -1: OrderSide.ASK}

    def prepare(self, operations: list[Operation]) -> Any:
        return [
            (o.kind, o.key, self.sides[o.side], o.price and Decimal(o.price), o.quantity)
            for o in operations
        ]

    def play(self, operations: Any) -> Any:
        book, limit, market = self.make(), self.limit, self.market
        ids: dict[int, str] = {}
        for kind, key, side, price, quantity in operations:
            if kind == LIMIT:
                order = limit(side=side, price=price, original_quantity=quantity)
                book.add_limit_order(order)
                ids[key] = order.order_id
            elif kind == MARKET:
                book.add_market_order(market(side=side, original_quantity=quantity))
            else:
                book.cancel_order(ids[key])
        return book.trade_log

    def trades(self, kept: Any) -> Trades:
        return ((trade.price, trade.quantity_filled) for trade in kept)


class CythonOrderbook(Akhil4n):
    """By the same author, with the same methods; a market order is an Order without a price."""

    package = "cython-orderbook"
    note = "Cython"

    def __init__(self) -> None:
        from cython_orderbook.orderbook import Order, OrderBook, OrderSide

        self.make, self.limit, self.market = OrderBook, Order, Order
        self.sides = {1: OrderSide.BID, -1: OrderSide.ASK}


class LightMatchingEngine:
    package = "lightmatchingengine"
    note = "pure Python; what is left of a market order rests at price 0"

    def __init__(self) -> None:
        from lightmatchingengine.lightmatchingengine import LightMatchingEngine as Engine
        from lightmatchingengine.lightmatchingengine import Side

        self.make, self.sides = Engine, {1: Side.BUY, -1: Side.SELL}

    def prepare(self, operations: list[Operation]) -> Any:
        return [(o.kind, o.key, self.sides[o.side], o.price or 0, o.quantity) for o in operations]

    def play(self, operations: Any) -> Any:
        engine = self.make()
        kept, ids = [], {}
        for kind, key, side, price, quantity in operations:
            if kind == CANCEL:
                engine.cancel_order(ids[key], "X")
            else:
                order, trades = engine.add_order("X", price, quantity, side)
                ids[key] = order.order_id
                if trades:
                    kept.append((order.order_id, trades))
        return kept

    def trades(self, kept: Any) -> Trades:
        """The passive halves: the taker's own executions are reported as well."""
        return (
            (trade.trade_price, trade.trade_qty)
            for taker, trades in kept
            for trade in trades
            if trade.order_id != taker
        )


class Lobby:
    package = "lobby"
    note = "pure Python (PyLOB)"

    def __init__(self) -> None:
        from lobby.orderbook import OrderBook

        self.make = OrderBook

    def prepare(self, operations: list[Operation]) -> Any:
        return [
            (o.kind, o.key, "bid" if o.side == 1 else "ask", o.price, o.quantity)
            for o in operations
        ]

    def play(self, operations: Any) -> Any:
        book = self.make(price_digits=0)
        kept, ids = [], {}
        for kind, key, side, price, quantity in operations:
            if kind == CANCEL:
                book.cancelOrder(side, ids[key])
                continue
            if kind == LIMIT:
                quote = {"type": "limit", "side": side, "qty": quantity, "price": price, "tid": key}
            else:
                quote = {"type": "market", "side": side, "qty": quantity, "tid": key}
            trades, resting = book.processOrder(quote, False, False)
            if resting:
                ids[key] = resting["idNum"]
            if trades:
                kept.append(trades)
        return kept

    def trades(self, kept: Any) -> Trades:
        return ((trade["price"], trade["qty"]) for trades in kept for trade in trades)


class PyOrderbook:
    package = "pyorderbook"
    note = "pure Python; has no market orders: a limit at the edge of prices, then a cancel"

    def __init__(self) -> None:
        level, handlers = logging.root.level, logging.root.handlers[:]
        try:
            from pyorderbook import OrderBook, ask, bid
        finally:  # importing it sets up the root logger
            logging.root.setLevel(level)
            logging.root.handlers[:] = handlers
        self.make, self.sides = OrderBook, {1: bid, -1: ask}

    def prepare(self, operations: list[Operation]) -> Any:
        edge = {1: 10**9, -1: 1}
        return [
            (o.kind, o.key, self.sides[o.side], o.price or edge[o.side], o.quantity)
            for o in operations
        ]

    def play(self, operations: Any) -> Any:
        book = self.make()
        kept, orders = [], {}
        for kind, key, side, price, quantity in operations:
            if kind == CANCEL:
                book.cancel(orders[key])
                continue
            order = side("X", price, quantity)
            blotter = book.match(order)
            if blotter.trades:
                kept.append(blotter.trades)
            if kind == LIMIT:
                orders[key] = order
            elif order.quantity:
                book.cancel(order)
        return kept

    def trades(self, kept: Any) -> Trades:
        return ((trade.fill_price, trade.fill_quantity) for trades in kept for trade in trades)


PEERS = (OrderlyChaos, Akhil4n, CythonOrderbook, Lobby, LightMatchingEngine, PyOrderbook)
