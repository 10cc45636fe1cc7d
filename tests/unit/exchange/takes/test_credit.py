"""Credit between nodes: what is under way counts, and the owner of an order that is refused sees why."""

from __future__ import annotations

import msgspec
from order_kit import KEY, UNIT, Desks

from exchange.feeds.exchange_messages import Take, TakeResult, pack
from exchange.model.events import BUY, SELL
from exchange.model.ports import Send


def refusals(desks: Desks, i: int, ask: Take, taker: int) -> str:
    """The reason with which node i answers a take."""
    desks[i].receive(desks.now, "take", pack(ask), desks.id(taker), desks.id(taker))
    answers = [
        message.payload
        for message in desks[i].drain(desks.now).messages
        if isinstance(message, Send) and message.type == "take_result"
    ]
    return msgspec.msgpack.decode(answers[-1], type=TakeResult).reason


def test_two_takes_that_each_fit_are_not_both_granted_when_together_they_do_not() -> None:
    desks = Desks(2)
    desks[1].ledger.set_credit(desks.id(0), "USD", 500 * UNIT)
    ask = desks.ask(1, 100, 8)
    desks.exchange()
    take = Take(1, KEY, ask.number, 1, 100, 3, 1)
    assert refusals(desks, 1, take, 0) == ""
    assert refusals(desks, 1, Take(2, KEY, ask.number, 1, 100, 3, 1), 0) == "credit"
    assert refusals(desks, 1, Take(3, KEY, ask.number, 1, 100, 2, 1), 0) == ""
    assert desks[1].ledger.room(desks.id(0), "USD") == 0


def test_what_is_reserved_for_a_peer_counts_before_it_is_filled() -> None:
    desks = Desks(2)
    desks[1].ledger.set_credit(desks.id(0), "USD", 500 * UNIT)
    ask = desks.ask(1, 100, 8)
    desks.exchange()
    first = Take(1, KEY, ask.number, 1, 100, 3, 1, phase="reserve")
    assert refusals(desks, 1, first, 0) == "reserved"
    assert desks[1].ledger.room(desks.id(0), "USD") == 500 * UNIT  # nothing is posted yet
    assert refusals(desks, 1, Take(2, KEY, ask.number, 1, 100, 3, 1), 0) == "credit"
    assert refusals(desks, 1, Take(3, KEY, ask.number, 1, 100, 2, 1), 0) == ""


def test_what_this_node_has_asked_of_a_peer_counts_when_that_peer_asks() -> None:
    desks = Desks(2)
    desks[1].ledger.set_credit(desks.id(0), "USD", 500 * UNIT)
    desks.bid(0, 90, 3)
    desks.exchange()
    own = desks.ask(1, 90, 3)  # asks node 0, who would owe 270 USD
    assert own.pending == 3
    more = desks.ask(1, 100, 8)
    desks.drain(1)
    assert refusals(desks, 1, Take(1, KEY, more.number, 1, 100, 3, 1), 0) == "credit"
    assert refusals(desks, 1, Take(2, KEY, more.number, 1, 100, 2, 1), 0) == ""


def test_the_owner_of_a_refused_order_sees_the_reason() -> None:
    desks = Desks(2)
    desks[1].ledger.set_credit(desks.id(0), "USD", 100 * UNIT)
    desks.ask(1, 100, 10)
    desks.exchange()
    rests = desks.bid(0, 100, 2)
    ends = desks.bid(0, 100, 2, tif="ioc")
    market = desks.bid(0, None, 2)
    desks.exchange()
    assert (rests.done, rests.filled, rests.reason) == (False, 0, "credit")
    for order in (ends, market):
        assert (order.done, order.filled, order.reason) == (True, 0, "credit")
    desks.drain(0)
    desks.restart(0)
    assert [o.reason for o in desks[0].order_store.open_orders] == ["credit"]


def test_the_owner_of_an_order_that_is_not_asked_for_sees_the_reason() -> None:
    desks = Desks(2)
    desks[0].ledger.set_credit("", "COIN", 3 * UNIT)
    desks.ask(1, 100, 5)
    desks.exchange()
    order = desks.place(0, BUY, 100, 5, tif="ioc")
    desks.exchange()
    assert (order.filled, order.done, order.reason) == (3, True, "credit")
    sale = desks.place(0, SELL, 100, 1, tif="ioc")
    assert sale.reason == "ioc"  # nobody buys: that has nothing to do with credit


def test_an_order_that_was_refused_and_then_filled_says_filled() -> None:
    desks = Desks(2)
    desks[1].ledger.set_credit(desks.id(0), "USD", 300 * UNIT)
    desks.ask(1, 100, 5)
    desks.exchange()
    bid = desks.bid(0, 100, 4)
    desks.exchange()
    assert bid.reason == "credit"
    desks[1].ledger.set_credit(desks.id(0), "USD", None)
    desks.run(12.0)
    assert (bid.filled, bid.reason) == (4, "filled")
    desks.check_money()
