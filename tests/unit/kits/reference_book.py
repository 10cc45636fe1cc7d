"""A slow, obvious order book with the same methods as `exchange.market.order_book.OrderBook`, to compare it with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class Order:
    key: int
    side: int
    price: int
    quantity: int
    time: int
    rank: Any


class ReferenceBook:
    """One list of orders, sorted whenever an order of any kind is needed."""

    def __init__(self) -> None:
        self.all: list[Order] = []

    def sorted_side(self, side: int) -> list[Order]:
        mine = [o for o in self.all if o.side == side]
        return sorted(mine, key=lambda o: (-o.price if side == 1 else o.price, o.time, o.rank))

    def find(self, key: int) -> Order:
        for order in self.all:
            if order.key == key:
                return order
        raise KeyError(key)

    @staticmethod
    def acceptable(side: int, price: int | None, resting: int) -> bool:
        if price is None:
            return True
        return resting <= price if side == 1 else resting >= price

    def match(self, side: int, price: int | None, quantity: int) -> list[tuple[int, int, int]]:
        fills = []
        for order in self.sorted_side(-side):
            if quantity == 0 or not self.acceptable(side, price, order.price):
                break
            filled = min(quantity, order.quantity)
            fills.append((order.key, order.price, filled))
            quantity -= filled
            order.quantity -= filled
        self.all = [o for o in self.all if o.quantity > 0]
        return fills

    def add(self, key: int, side: int, price: int, quantity: int, time: int, rank: Any) -> None:
        self.all.append(Order(key, side, price, quantity, time, rank))

    def submit(
        self, key: int, side: int, price: int | None, quantity: int, time: int, rank: Any
    ) -> list[tuple[int, int, int]]:
        fills = self.match(side, price, quantity)
        left = quantity - sum(filled for _, _, filled in fills)
        if left > 0 and price is not None:
            self.add(key, side, price, left, time, rank)
        return fills

    def set_quantity(self, key: int, quantity: int) -> None:
        self.find(key).quantity = quantity
        self.all = [o for o in self.all if o.quantity > 0]

    def remove(self, key: int) -> int:
        found = self.find(key)
        self.set_quantity(key, 0)
        return found.side * found.price

    def __contains__(self, key: int) -> bool:
        return any(o.key == key for o in self.all)

    def __len__(self) -> int:
        return len(self.all)

    def best(self, side: int) -> int | None:
        return self.sorted_side(side)[0].price if self.sorted_side(side) else None

    @property
    def crossed(self) -> bool:
        bid, ask = self.best(1), self.best(-1)
        return bid is not None and ask is not None and bid >= ask

    def crossing(self, side: int, price: int | None) -> Iterator[tuple[int, int, int]]:
        for order in self.sorted_side(-side):
            if self.acceptable(side, price, order.price):
                yield order.key, order.price, order.quantity

    def levels(self, side: int, depth: int | None = None) -> list[tuple[int, int, int]]:
        found: list[tuple[int, int, int]] = []
        for order in self.sorted_side(side):
            same = [o for o in self.all if o.side == side and o.price == order.price]
            row = (order.price, sum(o.quantity for o in same), len(same))
            if row not in found:
                found.append(row)
        return found if depth is None else found[:depth]

    def orders(self, side: int) -> Iterator[tuple[int, int, int, int, Any]]:
        for o in self.sorted_side(side):
            yield o.key, o.price, o.quantity, o.time, o.rank
