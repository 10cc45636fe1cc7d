"""Nodes with accounts: a market in which money counts, and orders of every type in one line."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
from exchange_kit import Network

from exchange.engine.engine import Engine
from exchange.model.commands import Amend, NewOrder, Selection
from exchange.model.events import BUY, SELL
from exchange.model.instruments import Instrument
from exchange.model.records import Order

# A tick is 1 USD, a lot 1 COIN; one unit of either asset is 10 ** -8 of it.
COIN = Instrument("COIN-USD", Decimal(1), Decimal(1))
KEY = COIN.key
UNIT = 10**8


def with_fees(maker: str, taker: str, **rules: Any) -> Instrument:
    return Instrument(
        "COIN-USD",
        Decimal(1),
        Decimal(1),
        maker_fee=Decimal(maker),
        taker_fee=Decimal(taker),
        **{name: Decimal(value) for name, value in rules.items()},
    )


class CoinNetwork(Network):
    """n nodes that trade COIN-USD."""

    def __init__(self, n: int = 1, *, instrument: Instrument = COIN, **options: Any) -> None:
        super().__init__(n, markets=[instrument.key], instruments=[instrument], **options)

    def account(self, i: int, *, coin: int = 0, usd: int = 0, **limits: int) -> int:
        """A new account of node i, with so many whole COIN and USD."""
        engine = self[i]
        name = f"a{len(engine.accounts)}"
        number = engine.accounts.create(engine.us(self.now), name, **limits).number
        for asset, amount in (("COIN", coin), ("USD", usd)):
            if amount:
                engine.ledger.deposit(engine.us(self.now), number, asset, amount * UNIT, "")
        self.exchange()
        return number

    def place(self, i: int, side: int, price: int | None, quantity: int, **more: Any) -> Order:
        return self.place_all(i, side, price, quantity, **more)[0]

    def place_all(
        self, i: int, side: int, price: int | None, quantity: int, **more: Any
    ) -> list[Order]:
        new = NewOrder(market=KEY, side=side, price=price, quantity=quantity, **more)
        return self[i].orders.place(self.now, new)

    def bid(self, i: int, price: int | None, quantity: int, **more: Any) -> Order:
        return self.place(i, BUY, price, quantity, **more)

    def ask(self, i: int, price: int | None, quantity: int, **more: Any) -> Order:
        return self.place(i, SELL, price, quantity, **more)

    def amend(self, i: int, order: Order, **changes: Any) -> Order:
        return self[i].orders.amend(self.now, order.number, Amend(**changes))

    def cancel_many(self, i: int, **which: Any) -> list[Order]:
        return self[i].orders.cancel_many(self.now, Selection(**which))

    def trade(self, i: int, price: int, quantity: int = 1) -> None:
        """Two orders of the house that meet at `price`."""
        self.ask(i, price, quantity)
        self.bid(i, price, quantity)

    # Looking

    def shown(self, i: int) -> list[tuple[int, int, int]]:
        """(side, price, quantity) of what node i sees, best bids first, then best asks."""
        return [
            (side, price, quantity)
            for side, price, _, _, _, quantity in self[i].markets[KEY].contents()
        ]

    def money(self, i: int, account: int) -> dict[str, tuple[float, float]]:
        """Balance and held of each asset, in whole units."""
        holdings = self[i].ledger.holdings(account)
        return {asset: (a / UNIT, b / UNIT) for asset, (a, b) in sorted(holdings.items())}

    def check_money(self) -> None:
        """Books balance on each node, and of each pair one owes what the other is owed."""
        for i, node in enumerate(self.nodes):
            if node.engine is None:
                continue
            node.engine.ledger.check()
            for j, other in enumerate(self.nodes):
                if other.engine is None or j <= i:
                    continue
                for asset in ("COIN", "USD"):
                    owed = node.engine.ledger.balance(f"peer:{self.id(j)}", asset)
                    due = other.engine.ledger.balance(f"peer:{self.id(i)}", asset)
                    assert owed + due == 0, (i, j, asset, owed, due)

    def same_after_restart(self, i: int) -> None:
        """Node i goes on after kill -9 with the orders and balances that it had."""
        before = state(self[i])
        self.drain(i)
        self.restart(i)
        after = state(self[i])
        assert after == before


def state(engine: Engine) -> tuple[list[Any], dict[int, Any]]:
    orders = [
        {**msgspec.structs.asdict(order), "updated": 0}
        for order in sorted(engine.order_store.open_orders, key=lambda o: o.number)
    ]
    accounts = {a.number: engine.ledger.holdings(a.number) for a in engine.accounts.all()}
    return orders, accounts
