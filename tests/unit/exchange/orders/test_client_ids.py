"""A client id that comes again: the same order, whatever has become of it, or a refusal."""

from __future__ import annotations

from typing import Any

import pytest
from order_kit import CoinNetwork

from exchange.model.commands import Amend
from exchange.model.events import BUY, SELL
from exchange.orders.engine_context import CommandRejected

LIMIT = {"side": BUY, "price": 100, "quantity": 5}
MARKET = {"side": BUY, "price": None, "quantity": 5}
# What was placed, and what of it may come as something else.
PLACED: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (
        LIMIT,
        [
            {"side": SELL},
            {"price": 101},
            {"price": None},
            {"quantity": 6},
            {"tif": "ioc"},
            {"tif": "fok"},
            {"tif": "gtd", "expires": 2 * 10**15},
            {"post_only": True},
            {"hidden": True},
            {"display_quantity": 2},
            {"stop": 90},
            {"group": 1},
            {"self_trade": "cancel_both"},
            {"oco_stop": 120},
            {"account": 1, "reduce_only": True},
        ],
    ),
    (
        MARKET,
        [
            {"worst_price": 200},
            {"stop": 90},
            {"trailing_offset": 5},
            {"tif": "ioc"},
            {"tif": "fok"},
        ],
    ),
    (MARKET | {"worst_price": 200}, [{"worst_price": 201}]),
    (LIMIT | {"stop": 90}, [{"stop": 91}, {"stop": None}, {"tif": "ioc"}, {"price": None}]),
    (
        MARKET | {"trailing_offset": 7},
        [{"trailing_offset": 8}, {"trailing_offset": None}, {"trailing_offset": None, "stop": 107}],
    ),
    (LIMIT | {"display_quantity": 2}, [{"display_quantity": 3}, {"display_quantity": None}]),
    (LIMIT | {"display_quantity": 9}, [{"display_quantity": 2}]),
    (LIMIT | {"oco_stop": 120}, [{"oco_stop": 121}, {"oco_stop": None}]),
    (LIMIT | {"tif": "ioc"}, [{"tif": "fok"}, {"tif": "gtc"}]),
    (LIMIT | {"hidden": True}, [{"hidden": False}]),
    (LIMIT | {"self_trade": "decrement"}, [{"self_trade": None}]),
]


def place(network: CoinNetwork, **what: Any) -> int:
    return network.place_all(0, client_id="mine", **what)[0].number


def refusal(network: CoinNetwork, **what: Any) -> str:
    with pytest.raises(CommandRejected) as refused:
        place(network, **what)
    return refused.value.code


def network_with_a_trade() -> CoinNetwork:
    network = CoinNetwork()
    network.trade(0, 100)
    return network


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("placed", [placed for placed, _ in PLACED], ids=str)
def test_the_same_again_is_the_first_order(placed: dict[str, Any], *, restart: bool) -> None:
    network = network_with_a_trade()
    number = place(network, **placed)
    network.exchange()
    if restart:
        network.restart(0)
    assert place(network, **placed) == number
    network.trade(0, 110)  # a trailing stop follows, others are triggered
    network.run(2.5)
    assert place(network, **placed) == number


@pytest.mark.parametrize(
    ("placed", "other"), [(placed, other) for placed, others in PLACED for other in others], ids=str
)
def test_anything_else_under_the_same_id_is_refused(
    placed: dict[str, Any], other: dict[str, Any]
) -> None:
    network = network_with_a_trade()
    other = placed | other
    if "account" in other:
        placed = placed | {"account": network.account(0, usd=1000, coin=9)}
        other = other | {"side": SELL}
    number = place(network, **placed)
    assert refusal(network, **other) == "client_id_reused"
    network.same_after_restart(0)
    assert refusal(network, **other) == "client_id_reused"
    assert network[0].order_store.by_client_id("mine", placed.get("account", 0)) is network.order(
        0, number
    )


@pytest.mark.parametrize(
    ("placed", "changes", "other"),
    [
        (LIMIT, {"price": 99}, {"post_only": True}),
        (LIMIT, {"quantity": 4}, {"hidden": True}),
        (LIMIT, {"display_quantity": 2}, {"group": 3}),
        (LIMIT, {"expires": 2 * 10**15}, {"self_trade": "decrement"}),
        (LIMIT | {"stop": 110}, {"stop": 111}, {"side": SELL}),
        (MARKET | {"trailing_offset": 7}, {"trailing_offset": 8}, {"trailing_offset": None}),
    ],
    ids=str,
)
def test_amended_fields_are_not_compared_and_the_others_are(
    placed: dict[str, Any], changes: dict[str, Any], other: dict[str, Any]
) -> None:
    network = network_with_a_trade()
    number = place(network, **placed)
    network[0].orders.amend(network.now, number, Amend(**changes))
    network.same_after_restart(0)
    assert place(network, **placed) == number
    assert refusal(network, **placed | other) == "client_id_reused"


def test_the_stop_of_a_pair_may_have_been_amended() -> None:
    network = CoinNetwork()
    pair = LIMIT | {"oco_stop": 120}
    number = place(network, **pair)
    network[0].orders.amend(network.now, number + 1, Amend(stop=130))
    assert place(network, **pair) == number
