"""Trades that trigger a stop: those that arrive at its node after it was placed, with any clocks, over
halts and restarts."""

from __future__ import annotations

import pytest
from exchange_kit import Crash
from order_kit import KEY, CoinNetwork

from exchange.model.records import Order
from exchange.orders.conditional_orders import LATE_US

AHEAD = {1: 6_000_000}  # us: node 1's clock against node 0's
BEHIND = {1: -6_000_000}


def untriggered(network: CoinNetwork, order: Order) -> bool:
    return network.order(0, order.number).untriggered


def start_listening(network: CoinNetwork) -> None:
    """Node 0 is killed and starts again; it does not write yet, and nobody has spoken to it."""
    network.drain(0)
    network.kill(0)
    network.fence_max = 10.0
    network._start(0)
    network[0].neighbour_up(network.now, network.id(1))
    assert network[0].fenced


def hear_of_a_trade(network: CoinNetwork, price: int) -> None:
    """Node 0 takes in node 1's trade, and nothing else that node 1 sends."""
    network.trade(1, price)
    for mail in network.drain(1):
        if mail.type == "trade" and mail.to == 0:
            network.deliver(mail)


def write(network: CoinNetwork) -> None:
    """Time passes until node 0 writes again."""
    network.run(11.0)
    assert not network[0].fenced


# Clocks


def test_a_trade_seen_before_the_stop_does_not_trigger_it_after_a_restart() -> None:
    network = CoinNetwork(2, skew_us=AHEAD)
    network.trade(1, 90)
    network.exchange()
    stop = network.ask(0, 95, 3, stop=96)
    network.drain(0)
    assert network[0].markets[KEY].tape[-1].event.time > stop.time
    network.restart(0)
    assert untriggered(network, stop)
    network.trade(1, 91)
    network.exchange()
    assert not untriggered(network, stop)


def test_a_trade_seen_before_the_stop_does_not_trigger_it_after_a_halt() -> None:
    network = CoinNetwork(2, skew_us=AHEAD)
    network.trade(1, 90)
    network.exchange()
    stop = network.ask(0, 95, 3, stop=96)
    assert network[0].markets[KEY].tape[-1].event.time > stop.time
    network[0].orders.halt(KEY)
    network[0].orders.resume_market(network.now, KEY)
    assert untriggered(network, stop)


def test_a_trade_seen_in_a_halt_triggers_after_it_though_its_makers_clock_is_behind() -> None:
    network = CoinNetwork(2, skew_us=BEHIND)
    stop = network.ask(0, 95, 3, stop=96)
    network[0].orders.halt(KEY)
    network.trade(1, 90)
    network.exchange()
    assert network[0].markets[KEY].tape[-1].event.time < stop.time
    assert untriggered(network, stop)
    network[0].orders.resume_market(network.now, KEY)
    assert not untriggered(network, stop)


# Halts


def test_a_halt_is_remembered_with_its_last_trade() -> None:
    network = CoinNetwork(2)
    high, low = network.ask(0, 80, 1, stop=90), network.ask(0, 70, 1, stop=75)
    network[0].orders.halt(KEY)
    network.trade(1, 70)
    network.trade(1, 85)
    network.exchange()
    network.restart(0)
    assert untriggered(network, high)
    network[0].orders.resume_market(network.now, KEY)
    assert (untriggered(network, high), untriggered(network, low)) == (False, True)
    network.settle()
    network.check()


def test_the_trade_of_a_halt_counts_once() -> None:
    network = CoinNetwork(2)
    first = network.ask(0, 80, 1, stop=90)
    network[0].orders.halt(KEY)
    network.trade(1, 85)
    network.exchange()
    network[0].orders.resume_market(network.now, KEY)
    assert not untriggered(network, first)
    second = network.ask(0, 80, 1, stop=90)
    network[0].orders.halt(KEY)
    network[0].orders.resume_market(network.now, KEY)
    assert untriggered(network, second)
    network.drain(0)
    network.restart(0)
    assert untriggered(network, second)


@pytest.mark.parametrize("clock", [-86_400, -3600, 0, 3600, 86_400])
def test_a_trade_triggers_wherever_its_makers_clock_is(clock: int) -> None:
    network = CoinNetwork(2, skew_us={1: clock * 1_000_000})
    network.trade(1, 100)
    network.run(4.0)  # and node 1 says how far its feed goes
    stop = network.ask(0, 95, 3, stop=96)
    network.trade(1, 90)
    network.exchange()
    assert not untriggered(network, stop)


@pytest.mark.parametrize("halted", [False, True])
@pytest.mark.parametrize("clock", [-86_400, 0, 3600])
def test_a_late_trade_triggers_nothing_with_any_clock_of_its_maker(
    clock: int, *, halted: bool
) -> None:
    network = CoinNetwork(2, skew_us={1: clock * 1_000_000})
    network.trade(1, 100)
    network.run(4.0)
    stop = network.ask(0, 95, 3, stop=96)
    if halted:
        network[0].orders.halt(KEY)
    network.on_mail = lambda mail: []
    network.trade(1, 90)
    network.run(LATE_US / 1_000_000 + 5.0)
    network.on_mail = lambda mail: [mail]
    network.run(6.0)
    assert network[0].markets[KEY].tape[-1].event.price == 90
    if halted:
        network[0].orders.resume_market(network.now, KEY)
    assert untriggered(network, stop)


def test_a_trailing_stop_goes_on_from_the_last_trade_of_a_halt() -> None:
    network = CoinNetwork(2)
    network.trade(1, 100)
    network.exchange()
    stop = network.ask(0, None, 2, trailing_offset=10)
    network[0].orders.halt(KEY)
    network.trade(1, 130)
    network.exchange()
    network[0].orders.resume_market(network.now, KEY)
    network.run(0.1)
    assert (stop.untriggered, stop.stop) == (True, 120)


# Restarts


def test_trades_during_the_startup_fence_trigger_after_it() -> None:
    network = CoinNetwork(2)
    stop = network.ask(0, 80, 1, stop=90)
    start_listening(network)
    hear_of_a_trade(network, 85)
    hear_of_a_trade(network, 95)
    assert untriggered(network, stop)
    write(network)
    assert not untriggered(network, stop)


def test_orders_that_a_missed_trade_triggers_enter_one_after_another_as_without_a_restart() -> None:
    network = CoinNetwork(2)
    sell = network.ask(0, None, 2, stop=100)
    bid = network.bid(0, 101, 5, hidden=True, stop=100)
    all_of_it = network.bid(0, 102, 1, tif="fok", stop=100)
    network.bid(0, 84, 5)
    network.ask(0, 102, 5)
    network.exchange()
    start_listening(network)
    hear_of_a_trade(network, 100)
    write(network)
    network.settle()
    sell, bid = network.order(0, sell.number), network.order(0, bid.number)
    assert (sell.value, bid.filled) == (2 * 101, 2)  # and not 84
    all_of_it = network.order(0, all_of_it.number)
    assert (all_of_it.reason, all_of_it.value) == ("filled", 102)  # it was never tried before
    network.check()


@pytest.mark.parametrize("again", [1, 2])
def test_a_trade_during_the_startup_fence_survives_a_crash(again: int) -> None:
    network = CoinNetwork(2)
    stop = network.ask(0, 80, 1, stop=90)
    start_listening(network)
    hear_of_a_trade(network, 85)
    for _ in range(again):
        start_listening(network)
        assert untriggered(network, stop)
    write(network)
    assert not untriggered(network, stop)


def test_a_triggered_order_stays_triggered_after_a_crash_before_any_message() -> None:
    network = CoinNetwork(2)
    stop = network.ask(0, 80, 1, stop=90)
    network.drain(0)

    def crash(node: int, phase: str) -> None:
        if (node, phase) == (0, "after"):
            raise Crash

    hear_of_a_trade(network, 85)
    network.on_drain = crash
    network.drain(0)
    network.on_drain = lambda node, phase: None
    network.restart(0)
    assert not untriggered(network, stop)


def test_a_market_resumed_during_the_startup_fence_continues_after_it() -> None:
    network = CoinNetwork(2)
    sell, hidden = network.ask(0, None, 1, stop=90), network.ask(0, 99, 1, hidden=True)
    network.bid(1, 84, 5)
    network.exchange()
    network[0].orders.halt(KEY)
    hear_of_a_trade(network, 85)
    start_listening(network)
    written = network[0].markets[KEY].writer.number
    assert network[0].orders.resume_market(network.now, KEY)
    assert untriggered(network, sell)
    assert network[0].markets[KEY].writer.number == written
    write(network)
    sell = network.order(0, sell.number)
    assert (sell.filled, sell.reason) == (1, "filled")
    assert network.order(0, hidden.number).free == 1
    network.check()
