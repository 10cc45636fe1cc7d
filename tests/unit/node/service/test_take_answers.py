"""Answers to orders that take from another node: they wait until the take is decided, for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from exchange_kit import M, Mail, Network

from exchange.model.commands import NewOrder
from node.service.account_trading import AccountTrading

LONG = 30.0  # seconds; no test here takes as long


class Taker:
    """Trading of node 0 of a network of two. Commits are immediate; the test delivers the messages."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.mail: list[Mail] = []
        self.journal = None
        self.trading = AccountTrading(network[0], cast(Any, self), lambda: network.now)

    def commit(self) -> None:
        drained = self.network[0].drain(self.network.now)
        self.network.nodes[0].store.commit(drained.records)
        self.trading.publish(drained)
        self.mail += self.network.mail(0, drained)

    async def durable(self) -> None:
        self.commit()

    async def durable_of(self, account: int) -> None:
        self.commit()

    def decide(self) -> None:
        """The maker answers what it has been asked."""
        for mail in self.mail:
            self.network.deliver(mail)
        self.mail.clear()
        for mail in self.network.drain(1):
            self.network.deliver(mail)
        self.commit()


@pytest.fixture
def taker() -> Iterator[Taker]:
    network = Network(2)
    network.sell(1, 100, 5)
    network.sell(1, 101, 5)
    network.settle()
    yield Taker(network)
    network.close()


def buy(price: int, quantity: int) -> NewOrder:
    return NewOrder(market=M, side=1, price=price, quantity=quantity)


async def until_sent(taker: Taker) -> None:
    for _ in range(100):
        if any(mail.type == "take" for mail in taker.mail):
            return
        await asyncio.sleep(0)
    raise AssertionError("no take was sent")


async def test_the_answer_comes_when_the_takes_are_decided(taker: Taker) -> None:
    placed = asyncio.create_task(taker.trading.place(buy(101, 8), wait=LONG))
    await until_sent(taker)
    await asyncio.sleep(0)
    assert not placed.done()
    taker.decide()
    (order,) = await placed
    assert (order.filled, order.pending, order.done) == (8, 0, True)


async def test_after_the_wait_the_answer_has_the_pending_quantity(taker: Taker) -> None:
    (order,) = await taker.trading.place(buy(101, 8), wait=0.01)
    assert (order.filled, order.pending, order.done) == (0, 8, False)
    taker.decide()  # nothing waits for it any more
    assert taker.network.order(0, order.number).filled == 8


async def test_a_caller_that_gives_up_leaves_nothing_behind(taker: Taker) -> None:
    placed = asyncio.create_task(taker.trading.place(buy(101, 8), wait=LONG))
    await until_sent(taker)
    await asyncio.sleep(0)
    placed.cancel()
    with pytest.raises(asyncio.CancelledError):
        await placed
    await asyncio.sleep(0)
    assert taker.trading._undecided == {}
    taker.decide()
