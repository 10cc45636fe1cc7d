"""Clients: orders of every type, amendments, deposits and withdrawals, drawn from one generator."""

from __future__ import annotations

import random
from collections.abc import Callable

from exchange.model.commands import Amend, NewOrder, Selection
from exchange.model.records import Order
from tests.simulation.settings import Settings
from tests.simulation.simulated_node import Node

MID = 1000  # ticks
# How often each kind is among the special ones.
KINDS = {
    "plain": 12,
    "ioc": 8,
    "fok": 12,
    "post_only": 8,
    "stop": 8,
    "stop_limit": 7,
    "trailing": 7,
    "oco": 8,
    "hidden": 10,
    "iceberg": 12,
    "reduce_only": 9,
    "gtd": 8,
}
SELF_TRADE = (None, None, "none", "cancel_newest", "cancel_oldest", "cancel_both", "decrement")


class Bots:
    """Acts on the nodes it is given; keeps nothing but its generator and the last client id."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._rng = random.Random(f"bots {settings.seed}")
        self._client_ids = 0

    # Orders

    def place(self, node: Node) -> list[Order]:
        """A special order."""
        return node.place(self.draw(node))

    def draw(self, node: Node) -> NewOrder:
        rng, spread = self._rng, self._settings.spread
        kind = rng.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        side = rng.choice((1, -1))
        fields: dict[str, object] = {
            "market": rng.choice(node.markets),
            "side": side,
            "quantity": self._quantity(),
            "price": MID + rng.randint(-spread, spread),
            "account": rng.randint(0, node.operator.accounts),
            "self_trade": rng.choice(SELF_TRADE),
            "group": rng.randint(0, 3),
            "client_id": self._client_id(),
        }
        at_market = rng.random() < 0.3
        getattr(self, f"_{kind}")(node, fields, side, at_market)
        if fields["price"] is None and "stop" not in fields and "trailing_offset" not in fields:
            fields["worst_price"] = rng.choice((None, MID + side * rng.randint(0, spread + 1)))
        if fields.get("tif") == "gtd":
            fields["expires"] = node.engine.us(node.now) + int(rng.uniform(0.05, 6.0) * 1e6)
        return NewOrder(**fields)  # type: ignore[arg-type]

    def _quantity(self) -> int:
        quantity = self._rng.randint(1, 20)
        return quantity * (10 if self._rng.random() < self._settings.large else 1)

    def _client_id(self) -> str | None:
        if self._rng.random() < 0.6:
            return None
        self._client_ids += 1
        return f"bot-{self._client_ids}"

    def _plain(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        if at_market:
            fields["price"] = None

    def _ioc(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["tif"] = "ioc"

    def _fok(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["tif"] = "fok"
        fields["price"] = None if at_market else MID + side * self._settings.spread
        if self._rng.random() < 0.1:
            fields["stop"] = MID + side * self._rng.randint(0, 2)
        elif self._rng.random() < 0.1:
            fields["reduce_only"] = True

    def _post_only(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["post_only"] = True
        self._maybe_dated(fields)

    def _stop(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["price"] = None
        fields["stop"] = self._beyond(side)
        fields["reduce_only"] = self._rng.random() < 0.2
        self._maybe_dated(fields)

    def _stop_limit(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["stop"] = self._beyond(side)
        if self._rng.random() < 0.2:
            fields["hidden"] = True

    def _trailing(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["price"] = None
        fields["trailing_offset"] = self._rng.randint(1, self._settings.spread + 2)
        if self._rng.random() < 0.3:
            fields["stop"] = self._beyond(side)

    def _oco(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        price = MID - side * self._rng.randint(0, self._settings.spread)
        fields["price"] = price
        fields["oco_stop"] = price + side * self._rng.randint(1, self._settings.spread + 2)
        self._maybe_dated(fields)

    def _hidden(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["hidden"] = True
        self._maybe_dated(fields)

    def _iceberg(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["quantity"] = self._rng.randint(4, 60)
        fields["display_quantity"] = self._rng.randint(1, 8)
        fields["post_only"] = self._rng.random() < 0.1
        self._maybe_dated(fields)

    def _reduce_only(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["reduce_only"] = True
        if self._rng.random() < 0.8:
            fields["account"] = 0
        if at_market:
            fields["price"] = None
        elif self._rng.random() < 0.2:
            fields["tif"] = "ioc"

    def _gtd(self, node: Node, fields: dict, side: int, at_market: bool) -> None:
        fields["tif"] = "gtd"

    def _maybe_dated(self, fields: dict) -> None:
        if self._rng.random() < 0.15:
            fields["tif"] = "gtd"

    def _beyond(self, side: int) -> int:
        return MID + side * self._rng.randint(0, self._settings.spread + 2)

    # Changes

    def change(self, node: Node) -> None:
        """Amend one, or cancel some, of the open orders."""
        rng, orders = self._rng, node.engine.order_store.open_orders
        if not orders:
            return
        order = rng.choice(orders)
        if rng.random() < 0.65:
            node.amend(order.number, self._amend(node, order))
            return
        which = rng.choice(("numbers", "client_ids", "groups", "market", "side", "all"))
        given: dict[str, object] = {"account": order.account}
        match which:
            case "numbers":
                given["numbers"] = frozenset({order.number, order.number + 1})
            case "client_ids" if order.client_id is not None:
                given["client_ids"] = frozenset({order.client_id})
            case "groups":
                given["groups"] = frozenset({order.group})
            case "market" | "side":
                given["market"], given["side"] = order.market, order.side
        node.cancel_many(Selection(**given))  # type: ignore[arg-type]

    def _amend(self, node: Node, order: Order) -> Amend:
        rng, spread = self._rng, self._settings.spread
        choices: list[Callable[[], Amend]] = [
            lambda: Amend(quantity=max(1, order.quantity - rng.randint(1, 5))),
            lambda: Amend(change=rng.randint(-5, 10)),
            lambda: Amend(price=MID + rng.randint(-spread, spread)),
            lambda: Amend(price=MID + rng.randint(-spread, spread), quantity=self._quantity()),
            lambda: Amend(
                expires=node.engine.us(node.now) + int(rng.uniform(0.05, 4.0) * 1e6),
            ),
        ]
        if order.display_quantity:
            choices.append(lambda: Amend(display_quantity=rng.randint(1, 10)))
        if order.untriggered:
            choices.append(
                lambda: (
                    Amend(trailing_offset=rng.randint(1, 6))
                    if order.trailing_offset
                    else Amend(stop=self._beyond(order.side))
                )
            )
        return rng.choice(choices)()

    def move_money(self, node: Node) -> None:
        """A deposit, or a withdrawal that may be too much; of the house too."""
        rng = self._rng
        account = rng.randint(0, node.operator.accounts)
        asset, amount = rng.choice(node.operator.first_deposit(rng.choice(node.markets)))
        node.move_money(account, asset, rng.choice((1, -1)) * rng.randint(1, amount))
