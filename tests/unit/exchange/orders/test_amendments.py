"""Changing open orders in place: what keeps its priority, what loses it, what is refused."""

from __future__ import annotations

import pytest
from order_kit import KEY, Desks, with_fees

from exchange.model.events import BUY, SELL, Amended, Moved
from exchange.orders.engine_context import CommandRejected


def refusal(call: object, *args: object, **more: object) -> str:
    with pytest.raises(CommandRejected) as refused:
        call(*args, **more)  # type: ignore[operator]
    return refused.value.code


def queue(desks: Desks, i: int) -> list[tuple[int, int, int]]:
    """(order, price, quantity) of what node i sees, best first."""
    return [
        (number, price, quantity)
        for _, price, _, _, number, quantity in desks[i].markets[KEY].contents()
    ]


def test_a_smaller_quantity_keeps_its_place() -> None:
    desks = Desks(2)
    first, second = desks.bid(0, 100, 5), desks.bid(0, 100, 5)
    assert desks.amend(0, first, quantity=3) is first
    desks.amend(0, second, change=-1)
    desks.exchange()
    assert queue(desks, 1) == queue(desks, 0) == [(1, 100, 3), (2, 100, 4)]
    desks.check()


def test_an_iceberg_keeps_its_place_when_all_that_is_left_is_what_was_on_show() -> None:
    desks = Desks(2)
    iceberg = desks.ask(0, 100, 6, display_quantity=2)
    other = desks.ask(0, 100, 2)
    desks.amend(0, iceberg, quantity=2)
    desks.exchange()
    assert queue(desks, 1) == [(iceberg.number, 100, 2), (other.number, 100, 2)]
    desks.bid(0, 100, 2)
    assert (iceberg.filled, other.filled) == (2, 0)
    desks.exchange()
    desks.check()


def test_an_iceberg_that_became_small_is_one_again_when_it_grows() -> None:
    desks = Desks(2)
    iceberg = desks.ask(0, 100, 6, display_quantity=2)
    desks.amend(0, iceberg, quantity=1)
    desks.amend(0, iceberg, quantity=8)
    desks.exchange()
    assert queue(desks, 1) == [(iceberg.number, 100, 2)]
    desks.amend(0, iceberg, display_quantity=8)
    desks.exchange()
    assert queue(desks, 1) == [(iceberg.number, 100, 8)]
    desks.check()


def test_an_iceberg_that_shows_more_goes_to_the_end_of_the_queue() -> None:
    desks = Desks(2)
    iceberg = desks.ask(0, 100, 6, display_quantity=2)
    other = desks.ask(0, 100, 2)
    desks.bid(0, 100, 1)
    desks.amend(0, iceberg, quantity=4, display_quantity=4)
    desks.exchange()
    assert queue(desks, 1) == [(other.number, 100, 2), (iceberg.number, 100, 3)]
    desks.check()


def test_a_greater_quantity_goes_to_the_end_of_the_queue() -> None:
    desks = Desks(2)
    first = desks.bid(0, 100, 5)
    desks.bid(0, 100, 5)
    desks.exchange()
    desks.amend(0, first, quantity=6)
    assert first.priority > first.time
    desks.exchange()
    assert queue(desks, 1) == queue(desks, 0) == [(2, 100, 5), (1, 100, 6)]
    desks.same_after_restart(0)
    desks.settle()
    assert queue(desks, 0) == [(2, 100, 5), (1, 100, 6)]
    desks.check()


def test_another_price_moves_the_order_in_one_event() -> None:
    desks = Desks(2)
    first = desks.bid(0, 100, 5)
    desks.bid(0, 101, 5)
    desks.exchange()
    before = desks[0].markets[KEY].writer.number
    desks.amend(0, first, price=101)
    (mail,) = [m for m in desks.drain(0) if m.type == "order"]
    assert mail.message.events == (Moved(1, 101, 5, first.priority),)
    assert desks[0].markets[KEY].writer.number == before + 1
    desks.deliver(mail)
    assert queue(desks, 1) == queue(desks, 0) == [(2, 101, 5), (1, 101, 5)]


def test_a_price_that_crosses_trades_first_and_then_moves() -> None:
    desks = Desks(2)
    desks.ask(0, 105, 2)
    ask = desks.ask(1, 104, 1)
    bid = desks.bid(0, 100, 5)
    desks.exchange()
    desks.amend(0, bid, price=105)
    assert (bid.filled, bid.pending, bid.shown) == (2, 1, 2)
    desks.exchange()
    assert (bid.filled, bid.pending, ask.filled) == (3, 0, 1)
    assert desks.shown(1) == [(BUY, 105, 2)]
    desks.settle()
    desks.check()
    desks.check_money()


def test_an_order_that_is_amended_and_filled_at_once_is_closed() -> None:
    desks = Desks(2)
    desks.ask(0, 105, 5)
    bid = desks.bid(0, 100, 5)
    desks.amend(0, bid, price=105)
    assert (bid.reason, bid.value) == ("filled", 525)
    desks.exchange()
    assert desks.shown(1) == []
    desks.settle()
    desks.check()


def test_a_move_to_a_price_taken_meanwhile_is_refused_to_the_taker() -> None:
    desks = Desks(2)
    ask = desks.ask(0, 100, 5)
    desks.exchange()
    desks.amend(0, ask, price=110)
    bid = desks.bid(1, 100, 5)  # has not heard of it
    assert bid.pending == 5
    desks.exchange()
    assert (bid.filled, ask.filled) == (0, 0)
    assert desks.shown(0) == [(BUY, 100, 5), (SELL, 110, 5)]
    desks.settle()
    desks.check()


def test_holds_follow_and_what_is_not_covered_changes_nothing() -> None:
    desks = Desks(instrument=with_fees("0", "0", max_notional="100000"))
    alice = desks.account(0, usd=1000)
    bid = desks.bid(0, 100, 5, account=alice)
    assert refusal(desks.amend, 0, bid, price=201) == "insufficient_balance"
    assert (bid.price, bid.quantity) == (100, 5)
    assert desks.money(0, alice)["USD"] == (1000, 500)
    desks.amend(0, bid, price=200)
    assert desks.money(0, alice)["USD"] == (1000, 1000)
    desks.amend(0, bid, price=50, quantity=2)
    assert desks.money(0, alice)["USD"] == (1000, 100)
    assert refusal(desks.amend, 0, bid, price=70_000, quantity=2) == "notional_too_large"
    desks.same_after_restart(0)


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
    desks = Desks()
    bid = desks.bid(0, 100, 5)
    desks.ask(0, 100, 2)
    desks.drain(0)
    assert refusal(desks.amend, 0, bid, **changes) == code
    assert (bid.price, bid.quantity, bid.shown) == (100, 5, 3)
    assert desks[0].drain(desks.now).records == []


def test_what_is_filled_already_is_said_in_the_asset() -> None:
    desks = Desks()
    bid = desks.bid(0, 100, 5)
    desks.ask(0, 100, 2)
    with pytest.raises(CommandRejected, match="2 COIN of the order are filled"):
        desks.amend(0, bid, quantity=1)


def test_what_is_done_or_unknown_is_not_amended() -> None:
    desks = Desks()
    bid = desks.bid(0, 100, 5)
    desks[0].orders.cancel(desks.now, bid.number)
    assert refusal(desks.amend, 0, bid, quantity=2) == "order_done"
    bid.number = 77
    assert refusal(desks.amend, 0, bid, quantity=2) == "unknown_order"


def test_nothing_changed_is_nothing_said() -> None:
    desks = Desks()
    bid = desks.bid(0, 100, 5)
    number = desks[0].markets[KEY].writer.number
    desks.amend(0, bid, quantity=5, price=100)
    assert desks[0].markets[KEY].writer.number == number
    assert bid.priority == 0


def test_a_price_is_not_changed_while_a_part_is_being_settled() -> None:
    desks = Desks(2)
    desks.ask(1, 100, 3)
    desks.exchange()
    bid = desks.bid(0, 100, 5)
    assert bid.pending == 3
    assert refusal(desks.amend, 0, bid, price=99) == "bad_order"
    assert refusal(desks.amend, 0, bid, quantity=2) == "out_of_range"
    desks.amend(0, bid, quantity=4)
    assert bid.shown == 1
    desks.exchange()
    desks.amend(0, bid, price=99)
    assert (bid.price, bid.shown) == (99, 1)
    desks.settle()
    desks.check()


def test_a_smaller_quantity_of_an_order_that_is_all_being_settled() -> None:
    desks = Desks(2)
    desks.ask(1, 100, 3)
    desks.exchange()
    bid = desks.bid(0, 100, 5)
    desks.amend(0, bid, quantity=3)
    assert (bid.free, bid.shown) == (0, 0)
    desks.exchange()
    assert bid.reason == "filled"
    desks.settle()
    desks.check()


def test_stops_and_distances_are_changed_while_they_wait() -> None:
    desks = Desks()
    desks.trade(0, 100)
    stop = desks.ask(0, 80, 1, stop=90)
    trailing = desks.ask(0, None, 1, trailing_offset=20)
    desks.amend(0, stop, stop=95, price=70)
    desks.amend(0, trailing, trailing_offset=10)
    assert (stop.stop, stop.price, trailing.stop, trailing.trailing_offset) == (95, 70, 90, 10)
    assert refusal(desks.amend, 0, trailing, stop=95) == "bad_order"
    assert refusal(desks.amend, 0, stop, trailing_offset=5) == "bad_order"
    assert refusal(desks.amend, 0, trailing, price=5) == "bad_order"
    desks.same_after_restart(0)
    desks.bid(0, 60, 9)
    desks.trade(0, 95)
    stop, trailing = desks.order(0, stop.number), desks.order(0, trailing.number)
    assert (stop.untriggered, trailing.untriggered) == (False, True)
    desks.trade(0, 90)
    assert trailing.reason == "filled"


def test_an_order_is_given_a_date() -> None:
    desks = Desks()
    bid = desks.bid(0, 100, 5)
    desks.amend(0, bid, expires=desks[0].us(desks.now) + 1_000_000)
    assert bid.tif == "gtd"
    desks.same_after_restart(0)
    desks.run(1.1)
    assert desks.order(0, bid.number).reason == "expired"


def test_a_post_only_order_that_is_moved_into_the_other_side_ends() -> None:
    desks = Desks()
    desks.ask(0, 105, 1)
    bid = desks.bid(0, 100, 5, post_only=True)
    desks.amend(0, bid, price=105)
    assert (bid.reason, bid.filled) == ("post_only", 0)
    assert desks.shown(0) == [(SELL, 105, 1)]


def test_no_feed_says_what_did_not_change() -> None:
    desks = Desks()
    bid = desks.bid(0, 100, 5)
    desks.drain(0)
    desks.amend(0, bid, quantity=4)
    (record,) = [r for r in desks[0].drain(desks.now).records if hasattr(r, "batch")]
    assert record.batch.events == (Amended(1, 4),)
