"""Own orders and trades as Bitfinex's arrays: fields, types, flags, statuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bitfinex_kit import BTC, MARKET
from market_kit import ME, NOW, PEER

from exchange.model.records import EarlierOrder, Fill, Order
from node.annexes.bitfinex.account_arrays import (
    client_id,
    order_text,
    status,
    trade_text,
)
from node.annexes.bitfinex.order_ids import OWN, trade_id
from node.annexes.bitfinex.symbols import Pair
from node.views.scales import Scale

PAIR = Pair(BTC, "BTCUSD", Scale(BTC))
LOT = 10_000  # a tenth of a bitcoin


def order(side: int = 1, price: str | None = "30000", quantity: str = "0.3", **more: Any) -> Order:
    ticks = None if price is None else BTC.to_ticks(price)
    return EarlierOrder(
        *(7, MARKET, side, ticks, BTC.to_lots(quantity), NOW), **{"updated": NOW + 5000, **more}
    ).order()


def filled(of: Order, *parts: tuple[str, str]) -> list[Fill]:
    fills = []
    for take, (price, quantity) in enumerate(parts, 1):
        ticks, lots = BTC.to_ticks(price), BTC.to_lots(quantity)
        of.filled += lots
        of.value += ticks * lots
        fills.append(
            Fill(
                PEER, take, "maker", MARKET, of.number, of.side, ticks, lots, NOW, PEER, 9,
                of.account, 150, "BTC",
            )
        )  # fmt: skip
    return fills


def fields(of: Order, fills: list[Fill] | None = None) -> list[Any]:
    found = json.loads(order_text(of, PAIR, fills or []))
    assert len(found) == 32
    return list(found)


def test_the_price_of_a_conditional_order_is_its_trigger_until_then() -> None:
    stop = BTC.to_ticks("31000")
    waiting = fields(order(kind="stop_limit", stop=stop, untriggered=True))
    assert (waiting[16], waiting[18], waiting[19]) == (31000, 0, 30000)
    entered = fields(order(kind="stop_limit", stop=stop))
    assert (entered[16], entered[19]) == (30000, 0)
    market = fields(order(price=None, kind="stop", stop=stop, untriggered=True))
    assert (market[16], market[19]) == (31000, 0)
    trailing_offset = BTC.to_ticks("12.5")
    trailing = fields(
        order(
            price=None,
            kind="trailing_stop",
            stop=stop,
            trailing_offset=trailing_offset,
            untriggered=True,
        )
    )
    assert (trailing[16], trailing[18]) == (31000, 12.5)
    assert fields(order(price=None, kind="market"))[16] == 0


def test_a_status_joins_the_fills_newest_first() -> None:
    of = order(-1)
    assert status(of, PAIR, []) == "ACTIVE"
    fills = filled(of, ("30000", "0.1"))
    assert status(of, PAIR, fills) == "PARTIALLY FILLED @ 30000(-0.1)"
    fills += filled(of, ("30000.5", "0.05"))
    assert status(of, PAIR, fills) == (
        "PARTIALLY FILLED @ 30000.5(-0.05), PARTIALLY FILLED @ 30000(-0.1)"
    )
    fills += filled(of, ("30001", "0.15"))
    of.done, of.reason = True, "filled"
    assert status(of, PAIR, fills) == (
        "EXECUTED @ 30001(-0.15): was PARTIALLY FILLED @ 30000.5(-0.05), "
        "PARTIALLY FILLED @ 30000(-0.1)"
    )


def test_an_order_filled_at_once_is_executed_at_that_price() -> None:
    of = order()
    fills = filled(of, ("30000", "0.3"))
    of.done, of.reason = True, "filled"
    assert status(of, PAIR, fills) == "EXECUTED @ 30000(0.3)"
    found = fields(of, fills)
    assert (found[6], found[7], found[17]) == (0, 0.3, 30000)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("cancelled", "CANCELED"),
        ("expired", "CANCELED"),
        ("oco", "CANCELED"),
        ("self_trade", "CANCELED"),
        ("dead_man", "CANCELED"),
        ("no_liquidity", "CANCELED"),
        ("reduce_only", "CANCELED"),
        ("ioc", "IOC CANCELED"),
        ("fok", "FILLORKILL CANCELED"),
        ("post_only", "POSTONLY CANCELED"),
        ("insufficient_balance", "INSUFFICIENT BALANCE (U1)"),
        ("halted", "RSN_PAUSE"),
    ],
)
def test_the_status_shows_how_an_order_ended(reason: str, text: str) -> None:
    of = order(done=True, cancelled=True, reason=reason)
    assert status(of, PAIR, []) == text
    fills = filled(of, ("30000", "0.1"))
    assert status(of, PAIR, fills) == f"{text} was: PARTIALLY FILLED @ 30000(0.1)"
    assert fields(of, fills)[6] == 0.2


def test_an_order_amended_down_to_its_filled_quantity_is_not_executed() -> None:
    of = order(done=True, cancelled=True, reason="self_trade")
    fills = filled(of, ("30000", "0.3"))
    assert status(of, PAIR, fills) == "CANCELED was: PARTIALLY FILLED @ 30000(0.3)"


def test_a_trade_has_its_12_fields() -> None:
    of = order(-1, client_id=client_id(5, "2026-01-02"))
    (fill,) = filled(of, ("30000", "0.1"))
    assert json.loads(trade_text(fill, PAIR, of, 8)) == [
        *(trade_id(PEER, 1), "tBTCUSD", NOW // 1000, OWN + 7, -0.1, 30000, "EXCHANGE LIMIT"),
        *(30000, 1, -0.0000015, "BTC", 5),
    ]
    assert json.loads(trade_text(fill, PAIR, of, 8, with_fee=False))[9:11] == [None, None]
    assert json.loads(trade_text(fill, PAIR, None, 8))[6:8] == [None, None]


def test_a_trade_without_a_fee_names_the_fee_asset() -> None:
    taken = Fill(ME, 3, "taker", MARKET, 7, 1, 300_000, LOT, NOW, PEER, 9)
    assert json.loads(trade_text(taken, PAIR, None, 0))[8:11] == [-1, 0, "BTC"]


def test_a_triggered_order_trades_under_the_type_it_was_placed_with() -> None:
    of = order(price=None, kind="stop", stop=300_000)
    (fill,) = filled(of, ("30000", "0.1"))
    assert json.loads(trade_text(fill, PAIR, of, 8))[6] == "EXCHANGE STOP"
