"""All types of orders at once, on three nodes over a bad network with restarts: what always holds.

After every step: books balance, nobody has ordered beyond what it has, no order is more than it is,
what is on show is what is free. In the end, with the network whole: both sides of every trade are
recorded, all books are alike, and nothing is pending or kept for anybody.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from exchange_kit import Mail
from order_kit import KEY, UNIT, CoinNetwork, with_fees

from exchange.engine.engine import Engine
from exchange.model.events import BUY, SELL
from exchange.model.records import Order
from exchange.orders.engine_context import CommandRejected

NODES = 3
STEPS = 60


class Storm:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        fees = self.rng.choice((("0", "0"), ("0.001", "0.002"), ("-0.0005", "0.001")))
        self.network = CoinNetwork(NODES, instrument=with_fees(*fees))
        self.accounts = [
            (i, self.network.account(i, usd=1500, coin=15)) for i in range(NODES) for _ in range(2)
        ]
        self.late: list[Mail] = []
        self.loss = self.rng.choice((0.0, 0.1, 0.3))
        self.network.on_mail = self._on_mail
        self.refused: dict[str, int] = {}
        if self.rng.random() < 0.3:
            i, j = self.rng.sample(range(NODES), 2)
            self.network[i].ledger.set_credit(self.network.id(j), "COIN", 5 * UNIT)

    def _on_mail(self, mail: Mail) -> list[Mail]:
        roll = self.rng.random()
        if roll < self.loss:
            return []
        if roll < self.loss + 0.1:
            self.late.append(mail)
            return []
        return [mail, mail] if roll < self.loss + 0.15 else [mail]

    def step(self) -> None:
        action = self.rng.choices(
            (self.place, self.amend, self.cancel, self.halt, self.restart),
            (60, 15, 10, 2, 4),
        )[0]
        try:
            action()
        except CommandRejected as refusal:
            self.refused[refusal.code] = self.refused.get(refusal.code, 0) + 1
        for engine in self.engines():
            check_node(engine)
        for engine in self.engines():
            if engine.halts.reason(KEY) is not None and self.rng.random() < 0.3:
                engine.orders.resume_market(self.network.now, KEY)
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            self.round()

    def engines(self) -> list[Engine]:
        return [self.network[i] for i in range(NODES)]

    def place(self) -> None:
        rng = self.rng
        i, account = rng.choice(self.accounts)
        if rng.random() < 0.3:
            account = 0
        side = rng.choice((BUY, SELL))
        price = 100 + rng.randint(-6, 6)
        more: dict[str, Any] = rng.choice(
            (
                {},
                {},
                {},
                {"price": None},
                {"tif": "ioc"},
                {"tif": "fok"},
                {"tif": "fok"},
                {"post_only": True},
                {"hidden": True},
                {"display_quantity": rng.randint(1, 3)},
                {"reduce_only": True},
                {"tif": "gtd", "expires": self.network[i].us(self.network.now) + 2_000_000},
                {"stop": price + side * rng.randint(0, 3)},
                {"price": None, "stop": 100 + side * rng.randint(1, 5)},
                {"price": None, "trailing_offset": rng.randint(1, 4)},
                {"oco_stop": price + side * rng.randint(1, 5)},
                {"oco_stop": price + side * rng.randint(1, 5), "hidden": True},
                {"oco_stop": price + side * rng.randint(1, 5), "display_quantity": 1},
            )
        )
        if rng.random() < 0.5:
            more = {
                **more,
                "self_trade": rng.choice(
                    ("none", "cancel_newest", "cancel_oldest", "cancel_both", "decrement")
                ),
            }
        price_ = more.pop("price", price) if "price" in more else price
        self.network.place_all(i, side, price_, rng.randint(1, 7), account=account, **more)

    def _any(self) -> tuple[int, Order] | None:
        i = self.rng.randrange(NODES)
        found = self.network[i].order_store.open_orders
        return (i, self.rng.choice(found)) if found else None

    def amend(self) -> None:
        found = self._any()
        if found is not None:
            i, order = found
            changes = self.rng.choice(
                (
                    {"price": 100 + self.rng.randint(-6, 6)},
                    {"quantity": self.rng.randint(1, 12)},
                    {"change": self.rng.randint(-3, 3)},
                    {"display_quantity": self.rng.randint(1, 4)},
                    {"stop": 100 + self.rng.randint(-6, 6)},
                    {"trailing_offset": self.rng.randint(1, 6)},
                )
            )
            self.network.amend(i, order, **changes)

    def cancel(self) -> None:
        found = self._any()
        if found is not None:
            self.network[found[0]].orders.cancel(self.network.now, found[1].number)

    def halt(self) -> None:
        self.rng.choice(self.engines()).orders.halt(KEY, "storm")

    def restart(self) -> None:
        i = self.rng.randrange(NODES)
        if self.rng.random() < 0.7:
            for mail in self.network.drain(i):
                self.network.deliver(mail)
        self.network.restart(i)

    def round(self) -> None:
        network = self.network
        network.now += self.rng.choice((0.0, 0.01, 0.2, 1.0))
        for i in range(NODES):
            network[i].tick(network.now)
        under_way = [mail for i in range(NODES) for mail in network.drain(i)]
        self.rng.shuffle(under_way)
        while self.late and self.rng.random() < 0.6:
            under_way.append(self.late.pop(self.rng.randrange(len(self.late))))
        for mail in under_way:
            network.deliver(mail)
            check_node(network[mail.to])

    def end(self) -> None:
        network = self.network
        network.on_mail = lambda mail: [mail]
        for i in range(NODES):
            network[i].orders.resume_market(network.now, KEY)
            for j in range(NODES):
                if i != j:
                    network[i].ledger.set_credit(network.id(j), "COIN", None)
        network.run(75.0, step=0.5)
        for i in range(NODES):
            check_node(network[i])
            for order in network[i].order_store.open_orders:
                assert order.pending == order.reserved == 0
                assert order.tif in ("gtc", "gtd"), order
                assert order.price is not None or order.untriggered
        network.check()
        network.check_money()


def check_node(engine: Engine) -> None:
    engine.ledger.check()
    market = engine.markets[KEY]
    shown = market.writer.feed.state.orders
    for order in engine.order_store.open_orders:
        assert 0 <= order.filled + order.pending + order.reserved <= order.quantity, order
        assert not order.done
        number = order.number
        if order.opened:
            assert shown[number].shown == order.shown, order
            assert (shown[number].price, shown[number].time) == (
                order.price,
                order.priority or order.time,
            )
            limit = order.display_quantity or order.free
            assert order.shown <= min(order.free, limit), order
            assert order.shown or not order.free, order
        elif order.hidden:
            hidden = market.hidden.quantity(number) if number in market.hidden else 0
            assert hidden == order.free
        else:
            assert number not in shown
        if order.linked_order:
            other = engine.order_store.get(order.linked_order)
            assert other is not None
            assert not (other.filled and order.filled), "both of a pair were filled"
    open_ = {order.number for order in engine.order_store.open_orders}
    assert set(shown) <= open_
    for order in engine.order_store.recent.values():
        assert order.done
        assert order.reason, order
        assert (order.reason == "filled") == (order.filled == order.quantity), order
        if order.tif == "fok":
            assert order.filled in (0, order.quantity), order


@pytest.mark.parametrize("seed", range(40))
def test_a_storm_of_orders(seed: int) -> None:
    storm = Storm(seed)
    for _ in range(STEPS):
        storm.step()
    storm.end()
