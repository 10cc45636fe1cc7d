"""Ends of takes: a maker that waits to see where the price goes gains nothing by it."""

from __future__ import annotations

import msgspec
import pytest
from exchange_kit import Mail, Network

from exchange.feeds.exchange_messages import Take, TakeResult, pack
from exchange.orders.engine_context import TradingRules
from exchange.takes.take_protocol import PendingTakes

END = 20.0  # seconds within which an owner has signed enough presences

replace = msgspec.structs.replace


class Desk:
    """Node 0 sells 10 at 100, and node 1 takes them."""

    def __init__(self) -> None:
        self.net = Network(2)
        self.held: list[Mail] = []
        self.sold = self.net.sell(0, 100, 10)
        self.net.exchange()
        self.net.sent.clear()

    def hold(self, kind: str) -> None:
        def on_mail(mail: Mail) -> list[Mail]:
            if mail.type != kind:
                return [mail]
            self.held.append(mail)
            return []

        self.net.on_mail = on_mail

    def release(self) -> None:
        self.net.on_mail = lambda mail: [mail]
        held, self.held = self.held, []
        for mail in held:
            self.net.deliver(mail)
        self.net.exchange()

    def take(self) -> int:
        order = self.net.buy(1, 100, 10)
        self.net.exchange()
        assert self.net.order(1, order.number).pending == 10
        return order.number

    @property
    def conduct(self) -> dict[str, int]:
        found = self.net[1].orders.taker_side.conduct.of(self.net.id(0))
        return {name: getattr(found, name) for name in found.__slots__}


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_take_names_a_later_time_of_its_makers_clock_as_its_end(desk: Desk) -> None:
    desk.hold("take")
    desk.take()
    take = desk.held[0].message
    clock = desk.net[1]._leases.clock(desk.net.id(0))
    assert clock is not None
    assert take.until == (clock[0], clock[1] + 4)


def test_a_take_that_its_maker_leaves_undecided_ends_and_the_order_is_free(desk: Desk) -> None:
    desk.hold("take")
    number = desk.take()
    desk.net[1].orders.cancel(desk.net.now, number)
    assert desk.net.order(1, number).pending == 10
    desk.net.run(END)
    order = desk.net.order(1, number)
    assert (order.pending, order.filled, order.done) == (0, 0, True)
    assert desk.conduct["ended"] == 1
    desk.release()  # all copies arrive: the maker refuses them
    assert desk.net.order(0, desk.sold.number).filled == 0
    results = [mail.message for mail in desk.net.sent if mail.type == "take_result"]
    assert {result.reason for result in results} == {"late"} or {r.quantity for r in results} == {0}
    desk.net.check()


def test_a_maker_refuses_a_take_after_its_end_though_it_is_asked_for_a_fill(desk: Desk) -> None:
    desk.hold("take")
    desk.take()
    first = desk.held[0].message
    assert isinstance(first, Take)
    assert not first.void
    desk.net.run(END)
    desk.net.on_mail = lambda mail: [mail]
    desk.net.sent.clear()
    again = replace(first, take=first.take + 1, below=first.take)
    desk.net.give(0, again, origin=desk.net.id(1))
    desk.net.exchange()
    results = [mail.message for mail in desk.net.sent if mail.type == "take_result"]
    found = next(result for result in results if result.take == first.take + 1)
    assert (found.quantity, found.reason) == (0, "late")


def test_the_fill_in_the_feed_is_an_answer_when_no_other_comes(desk: Desk) -> None:
    desk.hold("take_result")
    number = desk.net.buy(1, 100, 10).number
    desk.net.exchange()
    assert (desk.net.order(1, number).filled, desk.net.order(1, number).pending) == (10, 0)
    desk.net.run(END)
    assert desk.conduct["ended"] == 0
    desk.release()
    desk.net.check()
    assert desk.conduct["filled_late"] == 0


def test_a_take_stays_pending_while_its_maker_signs_nothing(desk: Desk) -> None:
    desk.net.on_mail = lambda mail: [] if mail.sender == 0 else [mail]  # cut off after it decided
    number = desk.take()
    desk.net.run(10 * END)
    assert desk.net.order(1, number).pending == 10
    desk.release()
    desk.net.settle()
    assert desk.net.order(1, number).filled == 10
    desk.net.check()


def test_a_take_does_not_end_while_events_before_the_head_are_missing(desk: Desk) -> None:
    desk.net.on_mail = lambda mail: [mail] if mail.type in ("presence", "take") else []
    number = desk.take()
    assert desk.net.order(0, desk.sold.number).filled == 10
    desk.net.run(END)
    assert desk.net.order(1, number).pending == 10
    desk.release()
    desk.net.settle()
    assert desk.net.order(1, number).filled == 10
    assert desk.conduct["ended"] == 0
    desk.net.check()


def test_an_owner_of_an_earlier_version_is_not_bound(desk: Desk) -> None:
    earlier = desk.net[0]._leases
    earlier._renewals, earlier._counted, earlier._next_count = 0, float("inf"), float("inf")
    desk.net[1]._leases._known.clear()
    desk.net.run(END)
    desk.hold("take")
    number = desk.take()
    assert {mail.message.until for mail in desk.held} == {msgspec.UNSET}
    desk.net.run(2 * END)
    assert desk.net.order(1, number).pending == 10


def test_a_fill_after_the_end_is_a_fault_and_is_not_booked(desk: Desk) -> None:
    desk.hold("take")
    number = desk.take()
    first = desk.held[0].message
    desk.net.run(END)
    assert desk.net.order(1, number).pending == 10  # of the next take
    (maker,) = {desk.net.id(0)}
    late = TakeResult(
        first.take, first.market, first.order, 100, 10, desk.net[0].us(desk.net.now), 5
    )
    assert desk.net[1].receive(desk.net.now, "take_result", pack(late), maker, maker)
    assert desk.net.order(1, number).filled == 0
    assert desk.conduct["filled_late"] == 1
    assert "after its end" in desk.net.nodes[1].warnings[-1]


@pytest.mark.parametrize(("reason", "counted"), [("gone", 1), ("halted", 0), ("credit", 0)])
def test_refusals_of_an_order_that_is_still_shown_are_counted(
    desk: Desk, reason: str, counted: int
) -> None:
    desk.hold("take")
    desk.net.buy(1, 100, 10)
    desk.net.exchange()
    first = desk.held[0].message
    number = desk.net[0].markets[first.market].writer.number
    refusal = TakeResult(first.take, first.market, first.order, 100, 0, 1, number, reason)
    assert desk.net[1].receive(desk.net.now, "take_result", pack(refusal), *2 * [desk.net.id(0)])
    desk.net.run(1.0)
    assert (desk.conduct["answers"], desk.conduct["refused_shown"]) == (1, counted)


def test_an_honest_refusal_of_an_order_that_went_is_not_counted(desk: Desk) -> None:
    desk.hold("take")
    desk.take()
    desk.net[0].orders.cancel(desk.net.now, desk.sold.number)
    desk.release()
    desk.net.run(1.0)
    assert desk.conduct == {
        "answers": 1,
        "late": 0,
        "refused_shown": 0,
        "ended": 0,
        "filled_late": 0,
    }


def test_an_answer_after_ten_seconds_counts_as_late(desk: Desk) -> None:
    desk.net.on_mail = lambda mail: (
        [] if mail.type in ("take_result", "trade", "presence", "feed") else [mail]
    )
    number = desk.take()
    desk.net.run(11.0)
    desk.release()
    desk.net.run(6.0)
    assert desk.net.order(1, number).filled == 10
    assert (desk.conduct["answers"], desk.conduct["late"]) == (1, 1)


def test_a_late_take_lets_the_next_one_last_longer_and_an_answer_in_time_does_not(
    desk: Desk,
) -> None:
    net = desk.net
    assert net.buy(1, 100, 1).pending == 1
    net.exchange()
    assert desk.conduct["answers"] == 1
    for renewals in (4, 8):
        desk.hold("take")
        number = net.buy(1, 100, 1).number
        clock = net[1]._leases.clock(net.id(0))
        (take,) = net[1].orders.takes.of_order(number)
        assert clock is not None
        assert take.until == (clock[0], clock[1] + renewals)
        net[1].orders.cancel(net.now, number)
        net.run(END)
        desk.release()


def test_a_maker_that_takes_reach_late_gets_twice_as_long_each_time_and_half_again_after() -> None:
    takes = PendingTakes(clocks := Clocks())
    clocks["far"] = (7, 1)
    assert takes.end_of("far") == (7, 1 + 4)
    for late, renewals in ((True, 8), (True, 16), (True, 32), (True, 32), (False, 16), (False, 8)):
        takes.learn("far", late=late)
        assert takes.end_of("far") == (7, 1 + renewals)
    takes.learn("far", late=False)
    takes.learn("far", late=False)
    assert takes.end_of("far") == (7, 1 + 4)
    assert takes.end_of("unknown") is None
    clocks.renewal = 0.9  # a presence every second: 10 s all the same
    assert takes.end_of("far") == (7, 1 + 12)


@pytest.mark.parametrize("last", [False, True])
def test_orders_of_unreliable_makers_are_last_at_their_price_where_the_operator_wants_it(
    last: bool,
) -> None:
    net = Network(3)
    net[0]._context.rules = TradingRules(unreliable_last=last)
    net.sell(1, 100, 10)  # the earlier one
    net.exchange()
    net.sell(2, 100, 10)
    net.sell(2, 101, 10)
    net.exchange()
    of_first = net[0].orders.taker_side.conduct.of(net.id(1))
    of_first.answers, of_first.late = 20, 3
    bought = net.buy(0, 101, 10)
    net.exchange()
    (fill,) = net.fills(0)
    assert (fill.order, fill.price) == (bought.number, 100)
    assert fill.counterparty == net.id(2 if last else 1)


class Clocks(dict[str, tuple[int, int]]):
    own_clock = (7, 1)
    renewal = 3.0

    def clock(self, owner: str) -> tuple[int, int] | None:
        return self.get(owner)


def test_presences_that_others_provoke_do_not_make_the_clock_faster(desk: Desk) -> None:
    leases = desk.net[0]._leases
    renewals = leases.own_clock[1]
    now = leases.next_renewal
    for second in range(int(3 * leases.renewal)):
        leases.make(now + second, [])
    assert leases.own_clock[1] - renewals <= 3
