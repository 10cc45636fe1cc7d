"""Hidden quantities: hidden orders, and the rest of icebergs."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from order_kit import KEY, CoinNetwork

from exchange.feeds.exchange_messages import pack
from exchange.model.events import BUY, SELL, Filled, Moved, Opened
from exchange.orders.engine_context import CommandRejected


def events(network: CoinNetwork, i: int) -> list[Any]:
    """Return the feed events of node i's next drain."""
    records = network[i].drain(network.now).records
    return [event for r in records if hasattr(r, "batch") for event in r.batch.events]


# Hidden


def test_a_hidden_order_is_in_no_message_before_it_trades() -> None:
    network = CoinNetwork(2)
    ask = network.ask(0, 100, 777, hidden=True)
    assert (ask.opened, ask.shown, ask.free) == (False, 0, 777)
    assert events(network, 0) == []
    network.settle()
    assert network.shown(0) == network.shown(1) == []
    assert network[0].markets[KEY].writer.number == 0
    network.bid(0, 105, 5)
    assert ask.filled == 5
    public = events(network, 0)
    assert public == [
        Opened(1, SELL, 100, 5, ask.time),
        Filled(1, SELL, 5, 100, 0, 0, network.id(0), public[1].take, public[1].time),
    ]
    assert network[0].markets[KEY].tape[-1].event.price == 100


def test_hidden_orders_stand_in_line_by_time() -> None:
    network = CoinNetwork()
    first, second = network.ask(0, 100, 2, hidden=True), network.ask(0, 100, 2, hidden=True)
    network.bid(0, 100, 3)
    assert (first.filled, second.filled) == (2, 1)


def test_a_hidden_order_takes_from_crossing_orders_of_other_nodes_even_if_earlier() -> None:
    network = CoinNetwork(2)
    ask = network.ask(0, 100, 5, hidden=True)
    network.exchange()
    bid = network.bid(1, 101, 3)
    assert network.shown(1) == [(BUY, 101, 3)]
    network.exchange()
    assert (bid.filled, ask.filled, ask.value) == (3, 3, 303)
    assert [fill.role for fill in network.fills(0)] == ["taker"]
    network.settle()
    network.check()
    network.check_money()


def test_post_only_does_not_take_hidden_orders_either() -> None:
    network = CoinNetwork()
    network.ask(0, 100, 5, hidden=True)
    assert network.bid(0, 100, 1, post_only=True).reason == "post_only"


# Icebergs


def test_an_iceberg_publishes_its_slice_only() -> None:
    network = CoinNetwork(2)
    ask = network.ask(0, 100, 977, display_quantity=5)
    assert events(network, 0) == [Opened(1, SELL, 100, 5, ask.time)]
    network.bid(0, 100, 2)
    (fill,) = events(network, 0)
    assert (fill.shown, fill.left) == (3, 3)
    network.bid(0, 100, 3)
    first, second = events(network, 0)
    assert (first.shown, first.left) == (0, 1)
    assert second == Moved(1, 100, 5, ask.priority)
    for event in (fill, first, second):
        assert not any(value in (972, 974, 975, 977) for value in msgspec.structs.astuple(event))
    assert pack(first)


@pytest.mark.parametrize(("asked", "kept", "shown"), [(4, 4, 4), (5, 0, 5), (9, 0, 5)])
def test_an_order_displayed_in_full_is_no_iceberg(asked: int, kept: int, shown: int) -> None:
    ask = CoinNetwork().ask(0, 100, 5, display_quantity=asked)
    assert (ask.display_quantity, ask.shown) == (kept, shown)


def test_an_iceberg_survives_a_restart_in_the_middle_of_a_slice() -> None:
    network = CoinNetwork(2)
    ice = network.ask(0, 100, 9, display_quantity=3)
    network.bid(0, 100, 2)
    network.same_after_restart(0)
    ice = network.order(0, ice.number)
    assert ice.shown == 1
    network.bid(0, 100, 1)
    assert ice.shown == 3
    network.settle()
    assert network.shown(1) == [(SELL, 100, 3)]
    network.check()


def test_the_slices_of_an_iceberg_are_limited() -> None:
    network = CoinNetwork()
    with pytest.raises(CommandRejected, match="1000 slices"):
        network.ask(0, 100, 1001, display_quantity=1)
    ice = network.ask(0, 100, 1000, display_quantity=1)
    with pytest.raises(CommandRejected, match="1000 slices"):
        network.amend(0, ice, quantity=1001)
    network.bid(0, 100, 1000)
    assert ice.reason == "filled"
