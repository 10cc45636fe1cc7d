"""Trades that trigger a stop: those that arrive at its node after it was placed, with any clocks, over
halts and restarts."""

from __future__ import annotations

import pytest
from order_kit import KEY, CoinNetwork

from exchange.model.records import Order
from exchange.orders.conditional_orders import LATE_US


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


# Halts


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
