"""Changing open orders in place: what keeps its priority, what loses it, what is refused."""

from __future__ import annotations

import pytest
from order_kit import KEY, CoinNetwork, with_fees

from exchange.model.events import BUY, SELL, Amended, Moved
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


def test_a_smaller_quantity_keeps_its_place() -> None:
    network = CoinNetwork(2)
    first, second = network.bid(0, 100, 5), network.bid(0, 100, 5)
    assert network.amend(0, first, quantity=3) is first
    network.amend(0, second, change=-1)
    network.exchange()
    assert queue(network, 1) == queue(network, 0) == [(1, 100, 3), (2, 100, 4)]
    network.check()


def test_an_iceberg_reduced_to_its_slice_keeps_its_priority() -> None:
    network = CoinNetwork(2)
    iceberg = network.ask(0, 100, 6, display_quantity=2)
    other = network.ask(0, 100, 2)
    network.amend(0, iceberg, quantity=2)
    network.exchange()
    assert queue(network, 1) == [(iceberg.number, 100, 2), (other.number, 100, 2)]
    network.bid(0, 100, 2)
    assert (iceberg.filled, other.filled) == (2, 0)
    network.exchange()
    network.check()


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


def test_an_iceberg_that_shows_more_goes_to_the_end_of_the_queue() -> None:
    network = CoinNetwork(2)
    iceberg = network.ask(0, 100, 6, display_quantity=2)
    other = network.ask(0, 100, 2)
    network.bid(0, 100, 1)
    network.amend(0, iceberg, quantity=4, display_quantity=4)
    network.exchange()
    assert queue(network, 1) == [(other.number, 100, 2), (iceberg.number, 100, 3)]
    network.check()


def test_a_greater_quantity_goes_to_the_end_of_the_queue() -> None:
    network = CoinNetwork(2)
    first = network.bid(0, 100, 5)
    network.bid(0, 100, 5)
    network.exchange()
    network.amend(0, first, quantity=6)
    assert first.priority > first.time
    network.exchange()
    assert queue(network, 1) == queue(network, 0) == [(2, 100, 5), (1, 100, 6)]
    network.same_after_restart(0)
    network.settle()
    assert queue(network, 0) == [(2, 100, 5), (1, 100, 6)]
    network.check()


def test_another_price_moves_the_order_in_one_event() -> None:
    network = CoinNetwork(2)
    first = network.bid(0, 100, 5)
    network.bid(0, 101, 5)
    network.exchange()
    before = network[0].markets[KEY].writer.number
    network.amend(0, first, price=101)
    (mail,) = [m for m in network.drain(0) if m.type == "order"]
    assert mail.message.events == (Moved(1, 101, 5, first.priority),)
    assert network[0].markets[KEY].writer.number == before + 1
    network.deliver(mail)
    assert queue(network, 1) == queue(network, 0) == [(2, 101, 5), (1, 101, 5)]


def test_a_price_that_crosses_trades_first_and_then_moves() -> None:
    network = CoinNetwork(2)
    network.ask(0, 105, 2)
    ask = network.ask(1, 104, 1)
    bid = network.bid(0, 100, 5)
    network.exchange()
    network.amend(0, bid, price=105)
    assert (bid.filled, bid.pending, bid.shown) == (2, 1, 2)
    network.exchange()
    assert (bid.filled, bid.pending, ask.filled) == (3, 0, 1)
    assert network.shown(1) == [(BUY, 105, 2)]
    network.settle()
    network.check()
    network.check_money()


def test_an_order_that_is_amended_and_filled_at_once_is_closed() -> None:
    network = CoinNetwork(2)
    network.ask(0, 105, 5)
    bid = network.bid(0, 100, 5)
    network.amend(0, bid, price=105)
    assert (bid.reason, bid.value) == ("filled", 525)
    network.exchange()
    assert network.shown(1) == []
    network.settle()
    network.check()


def test_a_move_to_a_price_taken_meanwhile_is_refused_to_the_taker() -> None:
    network = CoinNetwork(2)
    ask = network.ask(0, 100, 5)
    network.exchange()
    network.amend(0, ask, price=110)
    bid = network.bid(1, 100, 5)  # has not heard of it
    assert bid.pending == 5
    network.exchange()
    assert (bid.filled, ask.filled) == (0, 0)
    assert network.shown(0) == [(BUY, 100, 5), (SELL, 110, 5)]
    network.settle()
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
    with pytest.raises(CommandRejected, match="2 COIN of the order are filled"):
        network.amend(0, bid, quantity=1)


def test_finished_and_unknown_orders_are_not_amended() -> None:
    network = CoinNetwork()
    bid = network.bid(0, 100, 5)
    network[0].orders.cancel(network.now, bid.number)
    assert refusal(network.amend, 0, bid, quantity=2) == "order_done"
    bid.number = 77
    assert refusal(network.amend, 0, bid, quantity=2) == "unknown_order"


def test_an_amendment_without_a_change_publishes_nothing() -> None:
    network = CoinNetwork()
    bid = network.bid(0, 100, 5)
    number = network[0].markets[KEY].writer.number
    network.amend(0, bid, quantity=5, price=100)
    assert network[0].markets[KEY].writer.number == number
    assert bid.priority == 0


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


def test_a_smaller_quantity_of_an_order_that_is_all_being_settled() -> None:
    network = CoinNetwork(2)
    network.ask(1, 100, 3)
    network.exchange()
    bid = network.bid(0, 100, 5)
    network.amend(0, bid, quantity=3)
    assert (bid.free, bid.shown) == (0, 0)
    network.exchange()
    assert bid.reason == "filled"
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
    network.amend(0, bid, expires=network[0].us(network.now) + 1_000_000)
    assert bid.tif == "gtd"
    network.same_after_restart(0)
    network.run(1.1)
    assert network.order(0, bid.number).reason == "expired"


def test_a_post_only_order_that_is_moved_into_the_other_side_ends() -> None:
    network = CoinNetwork()
    network.ask(0, 105, 1)
    bid = network.bid(0, 100, 5, post_only=True)
    network.amend(0, bid, price=105)
    assert (bid.reason, bid.filled) == ("post_only", 0)
    assert network.shown(0) == [(SELL, 105, 1)]


def test_unchanged_quantities_are_not_published() -> None:
    network = CoinNetwork()
    bid = network.bid(0, 100, 5)
    network.drain(0)
    network.amend(0, bid, quantity=4)
    (record,) = [r for r in network[0].drain(network.now).records if hasattr(r, "batch")]
    assert record.batch.events == (Amended(1, 4),)
