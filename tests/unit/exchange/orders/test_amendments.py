"""Changing open orders in place: what keeps its priority, what loses it, what is refused."""

from __future__ import annotations

import pytest
from order_kit import KEY, CoinNetwork, with_fees

from exchange.orders.engine_context import CommandRejected


def refusal(call: object, *args: object, **more: object) -> str:
    with pytest.raises(CommandRejected) as refused:
        call(*args, **more)  # type: ignore[operator]
    return refused.value.code


def queue(network: CoinNetwork, i: int) -> list[tuple[int, int, int]]:
    """(order, price, quantity) of what node i sees, best first."""
    return [
        (number, price, quantity)
        for _, price, _, _, number, quantity in network[i].markets[KEY].contents()
    ]


def test_an_iceberg_that_became_small_is_one_again_when_it_grows() -> None:
    network = CoinNetwork(2)
    iceberg = network.ask(0, 100, 6, display_quantity=2)
    network.amend(0, iceberg, quantity=1)
    network.amend(0, iceberg, quantity=8)
    network.exchange()
    assert queue(network, 1) == [(iceberg.number, 100, 2)]
    network.amend(0, iceberg, display_quantity=8)
    network.exchange()
    assert queue(network, 1) == [(iceberg.number, 100, 8)]
    network.check()


def test_holds_follow_amendments_and_an_uncovered_one_changes_nothing() -> None:
    network = CoinNetwork(instrument=with_fees("0", "0", max_notional="100000"))
    alice = network.account(0, usd=1000)
    bid = network.bid(0, 100, 5, account=alice)
    assert refusal(network.amend, 0, bid, price=201) == "insufficient_balance"
    assert (bid.price, bid.quantity) == (100, 5)
    assert network.money(0, alice)["USD"] == (1000, 500)
    network.amend(0, bid, price=200)
    assert network.money(0, alice)["USD"] == (1000, 1000)
    network.amend(0, bid, price=50, quantity=2)
    assert network.money(0, alice)["USD"] == (1000, 100)
    assert refusal(network.amend, 0, bid, price=70_000, quantity=2) == "notional_too_large"
    network.same_after_restart(0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"quantity": 2}, "out_of_range"),
        ({"quantity": 0}, "out_of_range"),
        ({"change": -3}, "out_of_range"),
        ({"change": -9}, "out_of_range"),
        ({"quantity": 9, "change": 1}, "bad_order"),
        ({"price": 0}, "out_of_range"),
        ({"price": 2**48}, "out_of_range"),
        ({"stop": 90}, "bad_order"),
        ({"trailing_offset": 5}, "bad_order"),
        ({"display_quantity": 0}, "out_of_range"),
        ({"expires": 5}, "bad_order"),
    ],
)
def test_changes_that_cannot_be_are_refused(changes: dict[str, int], code: str) -> None:
    network = CoinNetwork()
    bid = network.bid(0, 100, 5)
    network.ask(0, 100, 2)
    network.drain(0)
    assert refusal(network.amend, 0, bid, **changes) == code
    assert (bid.price, bid.quantity, bid.shown) == (100, 5, 3)
    assert network[0].drain(network.now).records == []


def test_the_filled_quantity_in_a_message_is_in_the_asset() -> None:
    network = CoinNetwork()
    bid = network.bid(0, 100, 5)
    network.ask(0, 100, 2)
    with pytest.raises(CommandRejected, match=r"^2 COIN of the order are filled"):
        network.amend(0, bid, quantity=1)


def test_finished_and_unknown_orders_are_not_amended() -> None:
    network = CoinNetwork()
    bid = network.bid(0, 100, 5)
    network[0].orders.cancel(network.now, bid.number)
    assert refusal(network.amend, 0, bid, quantity=2) == "order_done"
    bid.number = 77
    assert refusal(network.amend, 0, bid, quantity=2) == "unknown_order"


def test_a_price_is_not_changed_while_a_part_is_being_settled() -> None:
    network = CoinNetwork(2)
    network.ask(1, 100, 3)
    network.exchange()
    bid = network.bid(0, 100, 5)
    assert bid.pending == 3
    assert refusal(network.amend, 0, bid, price=99) == "bad_order"
    assert refusal(network.amend, 0, bid, quantity=2) == "out_of_range"
    network.amend(0, bid, quantity=4)
    assert bid.shown == 1
    network.exchange()
    network.amend(0, bid, price=99)
    assert (bid.price, bid.shown) == (99, 1)
    network.settle()
    network.check()


def test_stops_and_distances_are_changed_while_they_wait() -> None:
    network = CoinNetwork()
    network.trade(0, 100)
    stop = network.ask(0, 80, 1, stop=90)
    trailing = network.ask(0, None, 1, trailing_offset=20)
    network.amend(0, stop, stop=95, price=70)
    network.amend(0, trailing, trailing_offset=10)
    assert (stop.stop, stop.price, trailing.stop, trailing.trailing_offset) == (95, 70, 90, 10)
    assert refusal(network.amend, 0, trailing, stop=95) == "bad_order"
    assert refusal(network.amend, 0, trailing, stop=95, trailing_offset=5) == "bad_order"
    assert refusal(network.amend, 0, stop, trailing_offset=5) == "bad_order"
    assert refusal(network.amend, 0, trailing, price=5) == "bad_order"
    network.same_after_restart(0)
    network.bid(0, 60, 9)
    network.trade(0, 95)
    stop, trailing = network.order(0, stop.number), network.order(0, trailing.number)
    assert (stop.untriggered, trailing.untriggered) == (False, True)
    network.trade(0, 90)
    assert trailing.reason == "filled"


def test_an_order_is_given_a_date() -> None:
    network = CoinNetwork()
    bid = network.bid(0, 100, 5)
    other = network.bid(0, 100, 5)
    assert network[0].orders.next_expiry is None
    expires = network[0].us(network.now) + 1_000_000
    network.amend(0, other, expires=expires - 500_000)
    network.amend(0, bid, expires=expires)
    assert (bid.tif, network[0].orders.next_expiry) == ("gtd", expires - 500_000)
    network.run(0.6)
    assert (other.reason, bid.done, network[0].orders.next_expiry) == ("expired", False, expires)
    network.same_after_restart(0)
    network.run(0.5)
    assert network.order(0, bid.number).reason == "expired"
