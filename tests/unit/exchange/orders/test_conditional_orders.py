"""Which trades count for a stop: those that its node sees after it was placed, whatever clocks say, and
over halts and restarts."""

from __future__ import annotations

import pytest
from exchange_kit import Crash
from order_kit import KEY, Desks

from exchange.model.records import Order
from exchange.orders.conditional_orders import LATE_US

AHEAD = {1: 6_000_000}  # us: node 1's clock against node 0's
BEHIND = {1: -6_000_000}


def untriggered(desks: Desks, order: Order) -> bool:
    return desks.order(0, order.number).untriggered


def start_listening(desks: Desks) -> None:
    """Node 0 is killed and starts again; it does not write yet, and nobody has spoken to it."""
    desks.drain(0)
    desks.kill(0)
    desks.fence_max = 10.0
    desks._start(0)
    desks[0].neighbour_up(desks.now, desks.id(1))
    assert desks[0].fenced


def hear_of_a_trade(desks: Desks, price: int) -> None:
    """Node 0 takes in node 1's trade, and nothing else that node 1 sends."""
    desks.trade(1, price)
    for mail in desks.drain(1):
        if mail.type == "trade" and mail.to == 0:
            desks.deliver(mail)


def write(desks: Desks) -> None:
    """Time passes until node 0 writes again."""
    desks.run(11.0)
    assert not desks[0].fenced


# Clocks


def test_a_trade_seen_before_the_stop_does_not_trigger_it_after_a_restart() -> None:
    desks = Desks(2, skew_us=AHEAD)
    desks.trade(1, 90)
    desks.exchange()
    stop = desks.ask(0, 95, 3, stop=96)
    desks.drain(0)
    assert desks[0].markets[KEY].tape[-1].event.time > stop.time
    desks.restart(0)
    assert untriggered(desks, stop)
    desks.trade(1, 91)
    desks.exchange()
    assert not untriggered(desks, stop)


def test_a_trade_seen_before_the_stop_does_not_trigger_it_after_a_halt() -> None:
    desks = Desks(2, skew_us=AHEAD)
    desks.trade(1, 90)
    desks.exchange()
    stop = desks.ask(0, 95, 3, stop=96)
    assert desks[0].markets[KEY].tape[-1].event.time > stop.time
    desks[0].orders.halt(KEY)
    desks[0].orders.resume_market(desks.now, KEY)
    assert untriggered(desks, stop)


def test_a_trade_seen_in_a_halt_triggers_after_it_though_its_makers_clock_is_behind() -> None:
    desks = Desks(2, skew_us=BEHIND)
    stop = desks.ask(0, 95, 3, stop=96)
    desks[0].orders.halt(KEY)
    desks.trade(1, 90)
    desks.exchange()
    assert desks[0].markets[KEY].tape[-1].event.time < stop.time
    assert untriggered(desks, stop)
    desks[0].orders.resume_market(desks.now, KEY)
    assert not untriggered(desks, stop)


# Halts


def test_a_halt_is_remembered_with_its_last_trade() -> None:
    desks = Desks(2)
    high, low = desks.ask(0, 80, 1, stop=90), desks.ask(0, 70, 1, stop=75)
    desks[0].orders.halt(KEY)
    desks.trade(1, 70)
    desks.trade(1, 85)
    desks.exchange()
    desks.restart(0)
    assert untriggered(desks, high)
    desks[0].orders.resume_market(desks.now, KEY)
    assert (untriggered(desks, high), untriggered(desks, low)) == (False, True)
    desks.settle()
    desks.check()


def test_the_trade_of_a_halt_counts_once() -> None:
    desks = Desks(2)
    first = desks.ask(0, 80, 1, stop=90)
    desks[0].orders.halt(KEY)
    desks.trade(1, 85)
    desks.exchange()
    desks[0].orders.resume_market(desks.now, KEY)
    assert not untriggered(desks, first)
    second = desks.ask(0, 80, 1, stop=90)
    desks[0].orders.halt(KEY)
    desks[0].orders.resume_market(desks.now, KEY)
    assert untriggered(desks, second)
    desks.drain(0)
    desks.restart(0)
    assert untriggered(desks, second)


@pytest.mark.parametrize("clock", [-86_400, -3600, 0, 3600, 86_400])
def test_a_trade_triggers_wherever_its_makers_clock_is(clock: int) -> None:
    desks = Desks(2, skew_us={1: clock * 1_000_000})
    desks.trade(1, 100)
    desks.run(4.0)  # and node 1 says how far its feed goes
    stop = desks.ask(0, 95, 3, stop=96)
    desks.trade(1, 90)
    desks.exchange()
    assert not untriggered(desks, stop)


@pytest.mark.parametrize("halted", [False, True])
@pytest.mark.parametrize("clock", [-86_400, 0, 3600])
def test_a_trade_told_of_late_triggers_nothing_wherever_its_makers_clock_is(
    clock: int, *, halted: bool
) -> None:
    desks = Desks(2, skew_us={1: clock * 1_000_000})
    desks.trade(1, 100)
    desks.run(4.0)
    stop = desks.ask(0, 95, 3, stop=96)
    if halted:
        desks[0].orders.halt(KEY)
    desks.on_mail = lambda mail: []
    desks.trade(1, 90)
    desks.run(LATE_US / 1_000_000 + 5.0)
    desks.on_mail = lambda mail: [mail]
    desks.run(6.0)
    assert desks[0].markets[KEY].tape[-1].event.price == 90
    if halted:
        desks[0].orders.resume_market(desks.now, KEY)
    assert untriggered(desks, stop)


def test_a_trailing_stop_goes_on_from_the_last_trade_of_a_halt() -> None:
    desks = Desks(2)
    desks.trade(1, 100)
    desks.exchange()
    stop = desks.ask(0, None, 2, trailing_offset=10)
    desks[0].orders.halt(KEY)
    desks.trade(1, 130)
    desks.exchange()
    desks[0].orders.resume_market(desks.now, KEY)
    desks.run(0.1)
    assert (stop.untriggered, stop.stop) == (True, 120)


# Restarts


def test_trades_heard_of_while_a_restarted_node_listens_trigger_when_it_writes() -> None:
    desks = Desks(2)
    stop = desks.ask(0, 80, 1, stop=90)
    start_listening(desks)
    hear_of_a_trade(desks, 85)
    hear_of_a_trade(desks, 95)
    assert untriggered(desks, stop)
    write(desks)
    assert not untriggered(desks, stop)


def test_orders_that_a_missed_trade_triggers_enter_one_after_another_as_without_a_restart() -> None:
    desks = Desks(2)
    sell = desks.ask(0, None, 2, stop=100)
    bid = desks.bid(0, 101, 5, hidden=True, stop=100)
    all_of_it = desks.bid(0, 102, 1, tif="fok", stop=100)
    desks.bid(0, 84, 5)
    desks.ask(0, 102, 5)
    desks.exchange()
    start_listening(desks)
    hear_of_a_trade(desks, 100)
    write(desks)
    desks.settle()
    sell, bid = desks.order(0, sell.number), desks.order(0, bid.number)
    assert (sell.value, bid.filled) == (2 * 101, 2)  # and not 84
    all_of_it = desks.order(0, all_of_it.number)
    assert (all_of_it.reason, all_of_it.value) == ("filled", 102)  # it was never tried before
    desks.check()


@pytest.mark.parametrize("again", [1, 2])
def test_a_trade_heard_of_while_listening_is_not_forgotten_in_a_crash(again: int) -> None:
    desks = Desks(2)
    stop = desks.ask(0, 80, 1, stop=90)
    start_listening(desks)
    hear_of_a_trade(desks, 85)
    for _ in range(again):
        start_listening(desks)
        assert untriggered(desks, stop)
    write(desks)
    assert not untriggered(desks, stop)


def test_what_a_trade_triggered_is_triggered_though_nobody_was_told_before_a_crash() -> None:
    desks = Desks(2)
    stop = desks.ask(0, 80, 1, stop=90)
    desks.drain(0)

    def crash(node: int, phase: str) -> None:
        if (node, phase) == (0, "after"):
            raise Crash

    hear_of_a_trade(desks, 85)
    desks.on_drain = crash
    desks.drain(0)
    desks.on_drain = lambda node, phase: None
    desks.restart(0)
    assert not untriggered(desks, stop)


def test_a_market_resumed_while_its_node_listens_is_gone_on_with_when_it_writes() -> None:
    desks = Desks(2)
    sell, hidden = desks.ask(0, None, 1, stop=90), desks.ask(0, 99, 1, hidden=True)
    desks.bid(1, 84, 5)
    desks.exchange()
    desks[0].orders.halt(KEY)
    hear_of_a_trade(desks, 85)
    start_listening(desks)
    written = desks[0].markets[KEY].writer.number
    assert desks[0].orders.resume_market(desks.now, KEY)
    assert untriggered(desks, sell)
    assert desks[0].markets[KEY].writer.number == written
    write(desks)
    sell = desks.order(0, sell.number)
    assert (sell.filled, sell.reason) == (1, "filled")
    assert desks.order(0, hidden.number).free == 1
    desks.check()
