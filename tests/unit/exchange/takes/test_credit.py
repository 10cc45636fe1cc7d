"""Credit between nodes: what is under way counts, and the owner of an order that is refused sees why."""

from __future__ import annotations

import msgspec
from order_kit import KEY, UNIT, CoinNetwork

from exchange.feeds.exchange_messages import Take, TakeResult, pack
from exchange.model.events import BUY, SELL
from exchange.model.ports import Send


def answered(network: CoinNetwork, i: int, ask: Take, taker: int) -> TakeResult:
    """The answer of node i to a take."""
    network[i].receive(network.now, "take", pack(ask), network.id(taker), network.id(taker))
    answers = [
        message.payload
        for message in network[i].drain(network.now).messages
        if isinstance(message, Send) and message.type == "take_result"
    ]
    return msgspec.msgpack.decode(answers[-1], type=TakeResult)


def refusals(network: CoinNetwork, i: int, ask: Take, taker: int) -> str:
    """The reason with which node i answers a take."""
    return answered(network, i, ask, taker).reason


def test_reservations_for_a_peer_count_against_its_limit() -> None:
    network = CoinNetwork(2)
    network[1].ledger.set_credit(network.id(0), "USD", 500 * UNIT)
    ask = network.ask(1, 100, 8)
    network.exchange()
    first = Take(1, KEY, ask.number, 1, 100, 3, 1, phase="reserve")
    assert refusals(network, 1, first, 0) == "reserved"
    assert network[1].ledger.room(network.id(0), "USD") == 500 * UNIT  # nothing is posted yet
    assert refusals(network, 1, Take(2, KEY, ask.number, 1, 100, 3, 1), 0) == "credit"
    assert refusals(network, 1, Take(3, KEY, ask.number, 1, 100, 2, 1), 0) == ""


def test_pending_takes_of_a_peer_count_against_its_limit() -> None:
    network = CoinNetwork(2)
    network[1].ledger.set_credit(network.id(0), "USD", 500 * UNIT)
    network.bid(0, 90, 3)
    network.exchange()
    own = network.ask(1, 90, 3)  # asks node 0, who would owe 270 USD
    assert own.pending == 3
    more = network.ask(1, 100, 8)
    network.drain(1)
    assert refusals(network, 1, Take(1, KEY, more.number, 1, 100, 3, 1), 0) == "credit"
    assert refusals(network, 1, Take(2, KEY, more.number, 1, 100, 2, 1), 0) == ""


def test_the_owner_of_a_refused_order_sees_the_reason() -> None:
    network = CoinNetwork(2)
    network[1].ledger.set_credit(network.id(0), "USD", 100 * UNIT)
    network.ask(1, 100, 10)
    network.exchange()
    rests = network.bid(0, 100, 2)
    ends = network.bid(0, 100, 2, tif="ioc")
    market = network.bid(0, None, 2)
    network.exchange()
    assert (rests.done, rests.filled, rests.reason) == (False, 0, "credit")
    for order in (ends, market):
        assert (order.done, order.filled, order.reason) == (True, 0, "credit")
    network.drain(0)
    network.restart(0)
    assert [o.reason for o in network[0].order_store.open_orders] == ["credit"]


def test_an_order_that_ends_for_lack_of_credit_has_that_reason() -> None:
    network = CoinNetwork(2)
    network[0].ledger.set_credit("", "COIN", 3 * UNIT)
    network.ask(1, 100, 5)
    network.exchange()
    order = network.place(0, BUY, 100, 5, tif="ioc")
    network.exchange()
    assert (order.filled, order.done, order.reason) == (3, True, "credit")
    sale = network.place(0, SELL, 100, 1, tif="ioc")
    assert sale.reason == "ioc"  # nobody buys: that has nothing to do with credit


def test_an_order_refused_for_credit_and_then_filled_ends_as_filled() -> None:
    network = CoinNetwork(2)
    network[1].ledger.set_credit(network.id(0), "USD", 300 * UNIT)
    network.ask(1, 100, 5)
    network.exchange()
    bid = network.bid(0, 100, 4)
    network.exchange()
    assert bid.reason == "credit"
    network[1].ledger.set_credit(network.id(0), "USD", None)
    network.run(12.0)
    assert (bid.filled, bid.reason) == (4, "filled")
    network.check_money()


def test_a_maker_that_may_only_reduce_grants_what_it_may_and_shows_the_rest() -> None:
    network = CoinNetwork(3)
    network.bid(0, 100, 10)
    network.ask(0, 100, 10)
    network.ask(1, 90, 6)
    network.exchange()
    network.bid(0, 90, 6)
    network.settle()  # the house of node 0 is long six
    ask = network.ask(0, 110, 9, reduce_only=True)
    assert (ask.quantity, ask.shown) == (6, 6)
    network.bid(0, 80, 4)
    network.settle()
    network.ask(1, 80, 4)  # and now ten
    network.settle()
    network[0].ledger.withdraw(1, 0, "COIN", 7 * UNIT, "")  # three
    network.drain(0)
    number = network[0].markets[KEY].writer.number
    for take, (reason, quantity) in {1: ("", 3), 2: ("gone", 0)}.items():
        answer = answered(network, 0, Take(take, KEY, ask.number, 1, 110, 5, 1), 2)
        assert (answer.reason, answer.quantity) == (reason, quantity)
        assert answer.number > number
    network.settle()
    assert (ask.quantity, ask.filled, ask.done, network.shown(1)) == (3, 3, True, [])


def test_identities_without_a_limit_of_their_own_share_a_total() -> None:
    network = CoinNetwork(13)
    ledger = network[0].ledger
    ledger.set_credit("", "USD", 100 * UNIT)  # each; ten times that together
    ledger.set_credit(network.id(12), "USD", 300 * UNIT)
    ask = network.ask(0, 100, 20)
    network.exchange()
    reasons = [
        refusals(network, 0, Take(1, KEY, ask.number, 1, 100, 1, 1), i) for i in range(1, 12)
    ]
    assert reasons == [""] * 10 + ["credit"]
    assert refusals(network, 0, Take(1, KEY, ask.number, 1, 100, 3, 1), 12) == ""
    assert ledger.strangers("USD") == (1000 * UNIT, 1000 * UNIT)
    assert ledger.room(network.id(11), "USD") == 0
    ledger.settle(1, network.id(1), "USD", 100 * UNIT, "")
    assert refusals(network, 0, Take(2, KEY, ask.number, 1, 100, 1, 1), 11) == ""


def test_one_order_takes_from_strangers_within_their_total() -> None:
    network = CoinNetwork(13)
    network[0].ledger.set_credit("", "COIN", UNIT)
    for i in range(1, 13):
        network.ask(i, 100, 1)
    network.exchange()
    first = network.bid(0, 100, 7)
    second = network.bid(0, 100, 7)  # while the takes of the first are under way
    assert (first.pending, second.pending, second.reason) == (7, 3, "credit")
    network.exchange()
    assert (first.filled, second.filled) == (7, 3)
    assert network[0].ledger.strangers("COIN") == (10 * UNIT, 10 * UNIT)
