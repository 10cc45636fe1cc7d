"""Short forms for tests of whole nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from exchange_kit import EPOCH_US, FIRST_TAKE, NETWORK, Keys, M, Mail, Network, Owner

from exchange.feeds.exchange_messages import Take, TakeResult
from exchange.feeds.presence import PresenceLeases
from exchange.model.events import SELL, Opened
from exchange.model.ports import Send
from exchange.model.records import Order, PendingTake, PutBatch, PutMeta, PutSnapshot, Recovered

replace = msgspec.structs.replace


def state(order: Order) -> tuple[int, int, int, bool, bool]:
    return order.filled, order.pending, order.shown, order.cancelled, order.done


def lost(*kinds: str) -> Callable[[Mail], list[Mail]]:
    return lambda mail: [] if mail.type in kinds else [mail]


def taken(net: Network, i: int) -> list[tuple[int, int]]:
    """(price, quantity) of node i's fills as taker."""
    return [(f.price, f.quantity) for f in net.fills(i) if f.role == "taker"]


def ask(take: int = 1, order: int = 1, quantity: int = 5, **more: Any) -> Take:
    values = {"price": 100, "below": 1, "market": M, "taker_order": 1, "void": False, **more}
    return Take(take=take, order=order, quantity=quantity, **values)


def asked(net: Network, message: Take, taker: str = "") -> TakeResult | None:
    """A stranger's take and the maker's answer, if any."""
    taker = taker or Keys(99).node_id
    assert net.give(0, message, origin=taker)
    drained = net[0].drain(net.now)
    net.nodes[0].store.commit(drained.records)
    results = [m for m in drained.messages if isinstance(m, Send) and m.type == "take_result"]
    assert all(m.to == taker for m in results)
    assert len(results) <= 1
    return msgspec.msgpack.decode(results[0].payload, type=TakeResult) if results else None


def maker(quantity: int = 10, price: int = 100) -> Network:
    net = Network(1)
    net.sell(0, price, quantity)
    net.settle()
    return net


def pending() -> tuple[Network, Order, PendingTake]:
    """Node 0 (no other is up) has asked the owner with seed 50 for 5 at 100."""
    net = Network(1)
    owner = Owner(50)
    leases = PresenceLeases(owner.keys, NETWORK, incarnation=1, lease_ms=600_000)
    assert net.give(0, leases.make(net.now, []))
    assert net.give(0, owner.batch(Opened(1, SELL, 100, 5, EPOCH_US)))
    order = net.buy(0, 100, 5)
    (put,) = [r for r in net[0].drain(net.now).records if isinstance(r, PendingTake)]
    return net, order, put


def result(**change: Any) -> TakeResult:
    values = {"quantity": 5, "price": 100, "number": 2, "reason": "", "order": 1, **change}
    return TakeResult(take=FIRST_TAKE, market=M, time=EPOCH_US, **values)


def crossed(skew_us: dict[int, int] | None = None) -> tuple[Network, Order, Order]:
    """A buy on node 0 and a sell on node 1, each placed before it heard of the other."""
    net = Network(3, skew_us=skew_us)
    buy, sell = net.buy(0, 101, 5), net.sell(1, 99, 7)
    assert (buy.shown, sell.shown) == (5, 7)
    return net, buy, sell


def old_copy(events: int, *, later: int = 3) -> Network:
    """Node 0 is started again from what its journal held `later` orders ago."""
    net = Network(2)
    for i in range(events):
        net.sell(0, 100 + i, 5)
        net.exchange()
    past = net.nodes[0].store.recover()
    for i in range(later):
        net.sell(0, 200 + i, 5)
        net.exchange()
    net.kill(0)
    store = net.nodes[0].store
    net.nodes[0].store = type(store)()
    put_all(net, past)
    return net


def put_all(net: Network, past: Recovered) -> None:
    store = net.nodes[0].store
    store.commit([PutMeta(name, value) for name, value in past.meta.items()])
    store.commit(list(past.orders))
    for feed in past.feeds:
        if feed.snapshot is not None:
            store.commit([PutSnapshot(feed.owner, feed.market, feed.snapshot)])
        store.commit([PutBatch(feed.owner, batch) for batch in feed.batches])
