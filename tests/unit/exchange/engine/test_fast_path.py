"""The short way of plain orders comes to what the general way comes to, in everything that can be seen."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

import pytest
from exchange_kit import EPOCH_US, Keys, submit

from exchange.engine.engine import Engine
from exchange.engine.fast_path import FastPath
from exchange.model.commands import Amend, NewOrder, Selection
from exchange.model.instruments import Instrument
from exchange.model.ports import Broadcast
from exchange.model.records import Order, PutMeta
from exchange.orders.engine_context import CommandRejected, Drained

STEPS = 400
ACCOUNTS = (0, 0, 1, 2, 3)
LISTED = Instrument(
    "BTC-USD",
    Decimal("0.1"),
    Decimal("0.00001"),
    maker_fee=Decimal("-0.0002"),
    taker_fee=Decimal("0.001"),
    price_band=Decimal("0.2"),
    max_quantity=Decimal("0.004"),
)
MARKETS = (LISTED.key, "ETH-USD@1/1")


def engine_of(seed: int, now: float) -> Engine:
    engine = Engine(
        Keys(seed),
        MARKETS,
        network="test",
        epoch_us=EPOCH_US,
        rng=random.Random(seed),
        instruments=[LISTED],
        now=now,
    )
    engine.resume(now)
    for name in ("ann", "bob", "cat"):
        account = engine.accounts.create(1, name, max_open_orders=9, orders_per_minute=300)
        engine.ledger.deposit(1, account.number, "BTC", 10**6, "")
        engine.ledger.deposit(1, account.number, "USD", 3 * 10**10, "")
    return engine


class Trial:
    """Two engines of one node, of which one has no short way, and another node that both hear."""

    def __init__(self, seed: int, *, specials: float) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.specials = specials
        self.short, self.general, self.other = (engine_of(s, self.now) for s in (5, 5, 9))
        never: Any = lambda *args: None  # noqa: E731
        self.general.orders._fast_path.try_place = never  # type: ignore[method-assign]
        self.general.orders._fast_path.try_cancel = never  # type: ignore[method-assign]
        self.went: Counter[str] = Counter()

    def both(self, call: Callable[[Engine], Any]) -> None:
        """Run a command on both engines and compare result or rejection."""
        answers = []
        for engine in (self.short, self.general):
            try:
                answers.append(call(engine))
            except CommandRejected as error:
                answers.append((error.code, error.detail))
        assert answers[0] == answers[1]
        if isinstance(answers[0], tuple):
            self.went[answers[0][0]] += 1

    def new_order(self) -> NewOrder:
        rng = self.rng
        side = rng.choice((1, -1))
        price = 1000 + round(rng.gauss(-4 * side, 6))
        made = {
            "market": MARKETS[0] if rng.random() < 0.8 else MARKETS[1],
            "side": side,
            "quantity": rng.randint(1, 30) if rng.random() < 0.97 else 500,
            "price": price if rng.random() < 0.85 else None,
            "account": rng.choice(ACCOUNTS),
            "client_id": rng.choice((None, None, f"c{rng.randrange(60)}")),
            "group": rng.choice((0, 0, 7)),
        }
        if rng.random() < self.specials:
            made |= rng.choice(self._special(price, side))
        elif rng.random() < 0.03:
            made |= rng.choice(
                (
                    {"price": 2**60},
                    {"side": 3},
                    {"market": "no"},
                    {"quantity": 0},
                    {"group": 2**70},
                    {"client_id": "x" * 65},
                    {"account": 77},
                    {"price": 3000},
                )
            )
        return NewOrder(**made)

    def _special(self, price: int, side: int) -> list[dict[str, Any]]:
        now_us = self.short.us(self.now)
        return [
            {"tif": "ioc"},
            {"tif": "fok"},
            {"tif": "gtd", "expires": now_us + 3_000_000, "price": price},
            {"price": price, "post_only": True},
            {"price": price, "hidden": True},
            {"price": price, "display_quantity": 3},
            {"reduce_only": True},
            {"stop": price + 5 * side},
            {"price": None, "trailing_offset": 3},
            {"price": price, "oco_stop": price + 9 * side},
            {"self_trade": self.rng.choice(("none", "cancel_oldest", "cancel_both", "decrement"))},
            {"price": None, "worst_price": price},
        ]

    def step(self) -> None:
        rng = self.rng
        now = self.now = self.now + rng.choice((0.0, 0.001, 0.2))
        what = rng.random()
        number = rng.randint(1, self.short.order_store.next_number)
        if what < 0.6:
            new = self.new_order()
            self.both(lambda engine: engine.orders.place(now, new))
        elif what < 0.8:
            self.both(lambda engine: engine.orders.cancel(now, number))
        elif what < 0.84:
            change = Amend(quantity=rng.randint(1, 30), price=1000 + rng.randint(-9, 9))
            self.both(lambda engine: engine.orders.amend(now, number, change))
        elif what < 0.85:
            which = Selection(account=rng.choice(ACCOUNTS), side=1)
            self.both(lambda engine: engine.orders.cancel_many(now, which))
        elif what < 0.87:
            self._others_trade(now)
        elif what < 0.88:
            self.both(lambda engine: engine.orders.halt(MARKETS[0], "why"))
        elif what < 0.90:
            self.both(lambda engine: engine.orders.resume_market(now, MARKETS[0]))
        elif what < 0.91:
            self.both(lambda engine: engine.orders.freeze(now, 3))
        elif what < 0.92:
            self.both(lambda engine: engine.accounts.thaw(3))
        elif what < 0.96:
            self.both(lambda engine: engine.tick(now))
        else:
            self.drain()

    def _others_trade(self, now: float) -> None:
        side = self.rng.choice((1, -1))
        submit(self.other, now, MARKETS[0], side, 1000 - 3 * side, self.rng.randint(1, 9))
        node = self.other.node_id
        for message in self.other.drain(now).messages:
            if isinstance(message, Broadcast):
                heard = (now, message.type, message.payload, node, node)
                self.both(lambda engine, heard=heard: engine.receive(*heard))  # type: ignore[misc]

    def drain(self) -> None:
        one, two = (engine.drain(self.now) for engine in (self.short, self.general))
        for what, found in seen(one).items():
            assert found == seen(two)[what], what
        for engine in (self.short, self.general):
            engine.ledger.check()
        books = [
            (market.contents(), list(market.hidden.orders(1)), list(market.hidden.orders(-1)))
            for engine in (self.short, self.general)
            for market in engine.markets.values()
        ]
        assert books[:2] == books[2:]
        for account in set(ACCOUNTS):
            short, general = (
                list(engine.order_store.of_account(account))
                for engine in (self.short, self.general)
            )
            assert short == general
            assert self.short.ledger.holdings(account) == self.general.ledger.holdings(account)
        assert list(self.short.order_store.recent.values()) == list(
            self.general.order_store.recent.values()
        )
        assert self.short.orders.takes.pending == self.general.orders.takes.pending


def seen(drained: Drained) -> dict[str, list[Any]]:
    """Everything, with what has no order of its own sorted."""
    kinds: dict[str, list[Any]] = {}
    for record in drained.records:
        kinds.setdefault(type(record).__name__, []).append(record)
    for kind, records in kinds.items():
        if kind not in ("Fill", "PutBatch", "Transaction"):
            kinds[kind] = by_text(records)
    return kinds | {
        "messages": drained.messages,
        "levels": by_text(drained.levels),
        "trades": drained.trades,
        "orders": by_text(drained.orders),
        "fills": drained.fills,
        "balances": by_text(drained.balances),
    }


def by_text(found: Iterable[Any]) -> list[str]:
    return sorted(map(repr, found))


@pytest.mark.parametrize("specials", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("seed", range(12))
def test_fast_path_and_general_path_agree(
    seed: int, specials: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: Counter[str] = Counter()
    place, cancel = FastPath.try_place, FastPath.try_cancel

    def placed(self: FastPath, now: float, new: NewOrder) -> Order | None:
        order = place(self, now, new)
        taken["placed" if order is not None else "left"] += 1
        taken["met others"] += order is not None and order.filled > 0
        return order

    def cancelled(self: FastPath, now: float, order: Order, reason: str) -> bool:
        done = cancel(self, now, order, reason)
        taken["cancelled"] += done
        return done

    monkeypatch.setattr(FastPath, "try_place", placed)
    monkeypatch.setattr(FastPath, "try_cancel", cancelled)
    trial = Trial(seed, specials=specials)
    for _ in range(STEPS):
        trial.step()
    trial.drain()
    assert min(taken[what] for what in ("placed", "left", "met others", "cancelled")) > 2, taken


def test_counters_are_durable_with_the_next_drain_and_only_when_they_moved() -> None:
    engine = engine_of(5, 1000.0)
    engine.drain(1000.0)
    engine.orders.place(1000.0, NewOrder(market=MARKETS[1], side=1, price=5, quantity=2))
    engine.orders.place(1000.0, NewOrder(market=MARKETS[1], side=-1, price=5, quantity=1))
    meta = {r.name: r.value for r in engine.drain(1000.0).records if isinstance(r, PutMeta)}
    assert meta == {"next_order": 3, "next_take": EPOCH_US + 10**9 + 1}
    assert not [r for r in engine.drain(1000.0).records if isinstance(r, PutMeta)]
