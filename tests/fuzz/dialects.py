"""Inputs of clients in both dialects of the API: bodies of requests and messages of streams."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import msgspec

from exchange.engine.engine import Engine
from exchange.model.commands import Amend, NewOrder, Selection
from exchange.model.instruments import Instruments
from exchange.model.records import Order
from exchange.orders.engine_context import CommandRejected
from node.annexes.bitfinex import account_arrays, order_inputs
from node.annexes.bitfinex.errors import BitfinexError
from node.annexes.bitfinex.symbols import Symbols
from node.api.route import decode_body
from node.api.stream_socket import ClientMessage
from node.views.order_mapping import OrderMapping
from node.views.views import AmendRequest, OrderRequest, ServiceError
from tests.fuzz.engine import EPOCH_US, TrustingKeys

INSTRUMENTS = Instruments.default()
SYMBOLS = Symbols(INSTRUMENTS)
KEYS = TrustingKeys()
MARKET = INSTRUMENTS["BTC-USD"].key
NOW_US = EPOCH_US + 1_000_000_000


def engine() -> Any:
    made: Any = Engine(
        KEYS,
        [instrument.key for instrument in INSTRUMENTS],
        network="fuzz",
        epoch_us=EPOCH_US,
        rng=random.Random(1),
        instruments=list(INSTRUMENTS),
        now=1000.0,
    )
    made.resume(1000.0)
    for side, price in ((1, 299_000), (-1, 301_000)):
        made.orders.place(1000.0, NewOrder(market=MARKET, side=side, price=price, quantity=10_000))
    return made


def carry_out(made: Any, command: NewOrder | Amend | Selection) -> list[Order]:
    """A command that was read is carried out or refused, and never half of it."""
    orders: list[Order] = []
    with suppress(CommandRejected):
        if isinstance(command, NewOrder):
            orders = made.orders.place(1000.0, command)
        elif isinstance(command, Amend):
            orders = [made.orders.amend(1000.0, 1, command)]
        else:
            orders = made.orders.cancel_many(1000.0, command)
    made.tick(1001.0)
    made.drain(1001.0)
    for order in orders:
        assert 0 <= order.filled <= order.quantity
    return orders


# REST and stream of the node


def fuzz_api(data: bytes) -> None:
    """Bodies of orders and of changes, and messages of the stream. The first byte says which."""
    kind, body = data[:1], data[1:]
    if kind == b"s":
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            message = msgspec.json.decode(body, type=ClientMessage)
            msgspec.json.encode(message)
        return
    mapping = OrderMapping(INSTRUMENTS, KEYS.node_id, lambda asset: 8)
    made = engine()
    try:
        if kind == b"a":
            carry_out(made, mapping.changes(MARKET, decode_body(body, AmendRequest)))
            return
        new = mapping.new_order(decode_body(body, OrderRequest), 0)
    except ServiceError as error:
        if not 400 <= error.status < 500:
            raise
        return
    for order in carry_out(made, new):
        msgspec.json.encode(mapping.order(order))


def seeds_api() -> list[bytes]:
    order = {"market": "BTC-USD", "side": "buy", "quantity": "0.1", "price": "30000"}
    shapes: list[dict[str, Any]] = [
        {},
        {"price": None},
        {"tif": "gtd", "expires": "2026-12-01T00:00:00Z"},
        {"stop": "30100", "reduce_only": True, "price": None},
        {"trailing_offset": "5.5", "price": None},
        {"oco_stop": "31000", "group": 7, "client_id": "mine"},
        {"display_quantity": "0.01", "self_trade": "decrement"},
        {"hidden": True, "post_only": True},
    ]
    found = [b"o" + msgspec.json.encode({**order, **more}) for more in shapes]
    found += [
        b"a" + msgspec.json.encode(changes)
        for changes in ({"price": "1"}, {"quantity": "0.05"}, {"expires": "2027-01-01T00:00:00Z"})
    ]
    return [
        *found,
        b's{"op":"subscribe","channel":"book","market":"BTC-USD","level":"L2","depth":25}',
        b's{"op":"subscribe","channel":"orders","resume":{"epoch":"x","sequence":3},"id":"1"}',
        b's{"op":"unsubscribe","subscription":1}',
    ]


# The Bitfinex dialect


def fuzz_bitfinex(data: bytes) -> None:
    """Bodies of new orders, updates and cancellations. The first byte says which."""
    kind, text = data[:1], data[1:]
    made = engine()
    try:
        body = order_inputs.decode(text)
        if not isinstance(body, dict):
            return
        if kind == b"u":
            order = made.order_store.get(1)
            carry_out(made, order_inputs.amend(body, order, SYMBOLS["tBTCUSD"], NOW_US))
            return
        if kind == b"c":
            with suppress(BitfinexError):
                order_inputs.named_order(body, NOW_US)
            for selection in order_inputs.selections(body, 0, NOW_US):
                carry_out(made, selection)
            return
        new = order_inputs.new_order(body, 0, SYMBOLS, NOW_US)
    except BitfinexError:
        return
    carry_out(made, new)


def seeds_bitfinex() -> list[bytes]:
    order = {"type": "EXCHANGE LIMIT", "symbol": "tBTCUSD", "amount": "0.1", "price": "30000"}
    shapes: list[dict[str, Any]] = [
        {},
        {"amount": "-0.1", "flags": 4096, "cid": 12345, "gid": 7},
        {"type": "EXCHANGE STOP LIMIT", "price_aux_limit": "30001"},
        {"type": "EXCHANGE TRAILING STOP", "price_trailing": "5.5"},
        {"flags": account_arrays.OCO, "price_oco_stop": "29000"},
        {"tif": "2026-12-01 00:00:00", "flags": 64},
        {"type": "EXCHANGE FOK"},
    ]
    found = [b"n" + msgspec.json.encode({**order, **more}) for more in shapes]
    found += [
        b"u" + msgspec.json.encode(changes)
        for changes in ({"price": "29000"}, {"amount": "0.2"}, {"delta": "-0.05", "cid": 1})
    ]
    found += [
        b"c" + msgspec.json.encode(which)
        for which in ({"id": 1}, {"cid": 1, "cid_date": "2026-09-21"}, {"all": 1}, {"gid": [[7]]})
    ]
    return found
