"""Acknowledgements and outcomes over the stream of orders that take from another node."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from exchange_kit import M, Mail, Network

from exchange.model.commands import Amend, NewOrder
from exchange.model.records import Order
from node.api import limits
from node.api.access import THE_OPERATOR
from node.api.stream_orders import StreamOrders
from node.api.stream_requests import ReadMessage
from node.http.rate_limit import RateVerdict
from node.http.request_figures import RequestFigures
from node.service.account_trading import AccountTrading
from node.streams.order_messages import AmendOrder, CancelOrder, SubmitOrder
from node.views.views import AmendRequest, OrderRequest

LONG = 30.0  # seconds; no test here takes as long


class Texts:
    """Order texts that are the integers themselves."""

    def new_order(self, request: OrderRequest, account: int) -> NewOrder:
        price = None if request.price is None else int(request.price)
        return NewOrder(
            market=M, side=1, price=price, quantity=int(request.quantity), account=account
        )

    def changes(self, market: str, request: AmendRequest) -> Amend:
        return Amend(quantity=int(cast(str, request.quantity)))

    def number(self, text: str) -> int:
        return int(text)

    def order(self, order: Order) -> Any:
        return {"number": order.number, "filled": order.filled, "pending": order.pending}


class Taker:
    """Orders of a connection to node 0 of a network of two. The test writes the disk and delivers mail."""

    def __init__(self, network: Network, wait: float = LONG) -> None:
        self.network = network
        self.mail: list[Mail] = []
        self.calls: list[Any] = []
        self.told: list[Any] = []
        self.journal = SimpleNamespace(behind=False, order=lambda number: None)
        self.trading = AccountTrading(
            network[0],
            cast(Any, self),
            lambda: network.now,
            take_answer_wait=wait,
        )
        service = SimpleNamespace(trading=self.trading, texts=Texts())
        self.orders = StreamOrders(
            cast(Any, service),
            lambda raw: self.told.append(msgspec.json.decode(raw)),
            lambda caller: RateVerdict(True, 0, 0, 0),
            RequestFigures(),
        )

    def when_durable(self, call: Any) -> None:
        self.calls.append(call)

    def commit(self) -> None:
        drained = self.network[0].drain(self.network.now)
        self.network.nodes[0].store.commit(drained.records)
        self.trading.publish(drained)
        self.mail += self.network.mail(0, drained)
        calls, self.calls = self.calls, []
        for call in calls:
            call(None)

    def decide(self) -> None:
        """The maker answers what it has been asked."""
        for mail in self.mail:
            self.network.deliver(mail)
        self.mail.clear()
        for mail in self.network.drain(1):
            self.network.deliver(mail)
        self.commit()

    async def take(self, *requests: Any, many: bool = False) -> None:
        message = ReadMessage("m" if many else requests[0].id, many, [*requests])
        if waits := self.orders.take(message, THE_OPERATOR):
            await waits

    def shown(self) -> list[tuple[Any, ...]]:
        """Answers since the last look: event, id, decided, (filled, pending) of each order."""
        told, self.told = self.told, []
        return [
            (
                e["event"],
                e["id"],
                e.get("decided"),
                [(o["filled"], o["pending"]) for o in e["orders"]],
            )
            for each in told
            for e in each.get("results", [each])
        ]


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network(2)
    network.sell(1, 100, 5)
    network.sell(1, 101, 5)
    network.settle()
    yield network
    network.close()


@pytest.fixture
async def taker(network: Network) -> Taker:
    return Taker(network)


def buy(request_id: str, price: int, quantity: int, *, wait: bool = False) -> SubmitOrder:
    order = OrderRequest(market=M, side="buy", price=str(price), quantity=str(quantity))
    return SubmitOrder(id=request_id, order=order, wait_for_takes=wait)


async def test_an_order_that_takes_is_accepted_and_has_its_outcome(taker: Taker) -> None:
    await taker.take(buy("a", 101, 8))
    taker.commit()
    assert taker.shown() == [("accepted", "a", False, [(0, 8)])]
    taker.decide()
    assert taker.shown() == [("outcome", "a", None, [(8, 0)])]
    taker.decide()
    assert taker.shown() == []
    assert not taker.trading._listeners  # nothing is followed that nothing waits for


async def test_the_acknowledgement_may_wait_for_the_decision(taker: Taker) -> None:
    await taker.take(buy("a", 101, 8, wait=True))
    taker.commit()
    assert taker.shown() == []
    taker.decide()
    assert taker.shown() == [("accepted", "a", True, [(8, 0)])]


async def test_the_wait_for_takes_is_bounded(network: Network) -> None:
    taker = Taker(network, wait=0.01)
    await taker.take(buy("a", 101, 8, wait=True))
    taker.commit()
    await asyncio.sleep(0.05)
    assert taker.shown() == [("accepted", "a", False, [(0, 8)])]
    taker.decide()
    assert taker.shown() == [("outcome", "a", None, [(8, 0)])]


async def test_each_request_of_many_has_its_outcome(taker: Taker) -> None:
    await taker.take(buy("a", 100, 5), buy("b", 50, 1), buy("c", 101, 5), many=True)
    taker.commit()
    assert taker.shown() == [
        ("accepted", "a", False, [(0, 5)]),
        ("accepted", "b", True, [(0, 0)]),
        ("accepted", "c", False, [(0, 5)]),
    ]
    taker.decide()
    assert sorted(taker.shown()) == [
        ("outcome", "a", None, [(5, 0)]),
        ("outcome", "c", None, [(5, 0)]),
    ]


async def test_many_waits_only_for_orders_that_request_it(taker: Taker) -> None:
    await taker.take(buy("a", 100, 5), buy("b", 50, 1, wait=True), many=True)
    taker.commit()
    assert [each[:3] for each in taker.shown()] == [
        ("accepted", "a", False),
        ("accepted", "b", True),
    ]


async def test_every_request_about_a_pending_order_has_its_outcome(taker: Taker) -> None:
    await taker.take(buy("a", 100, 8))
    taker.commit()
    (first,) = taker.told
    number = str(first["orders"][0]["number"])
    taker.told.clear()
    changes = AmendRequest(quantity="9")
    await taker.take(AmendOrder(id="b", order_id=number, changes=changes))
    await taker.take(CancelOrder(id="c", order_id=number))
    taker.commit()
    assert [each[:3] for each in taker.shown()] == [
        ("accepted", "b", False),
        ("accepted", "c", False),
    ]
    taker.decide()
    assert [(each[0], each[1]) for each in taker.shown()] == [
        ("outcome", "a"),
        ("outcome", "b"),
        ("outcome", "c"),
    ]


async def test_too_many_undecided_orders_are_refused(
    taker: Taker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_UNDECIDED", 1)
    await taker.take(buy("a", 100, 5), buy("b", 101, 5), many=True)
    taker.commit()
    (told,) = taker.told
    assert [each["event"] for each in told["results"]] == ["accepted", "refused"]
    assert told["results"][1]["problem"]["code"] == "too_many_undecided"
    taker.told.clear()
    taker.decide()
    taker.told.clear()
    await taker.take(buy("c", 101, 5))
    taker.commit()
    assert taker.shown() == [("accepted", "c", False, [(0, 5)])]


async def test_after_the_end_of_the_connection_nothing_is_followed(taker: Taker) -> None:
    await taker.take(buy("a", 101, 8))
    taker.commit()
    taker.told.clear()
    await taker.orders.close()
    taker.decide()
    assert taker.told == []
    assert not taker.trading._listeners
    assert taker.network.order(0, 1).filled == 8
