"""Order messages of clients, read into commands: every type, every flag, every refusal."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from bitfinex_kit import ALICE, INSTRUMENTS, MARKET
from hypothesis import given
from hypothesis import strategies as st
from market_kit import NOW

from exchange.model.commands import Amend, NewOrder, Selection
from exchange.model.records import EarlierOrder, Order
from node.annexes.bitfinex import order_inputs
from node.annexes.bitfinex.errors import BitfinexError
from node.annexes.bitfinex.order_ids import OWN
from node.annexes.bitfinex.symbols import Symbols

SYMBOLS = Symbols(INSTRUMENTS)
PAIR = SYMBOLS["tBTCUSD"]
LIMIT = {"type": "EXCHANGE LIMIT", "symbol": "tBTCUSD", "amount": "0.1", "price": "30000"}


def read(**more: Any) -> NewOrder:
    return order_inputs.new_order({**LIMIT, **more}, ALICE, SYMBOLS, NOW)


def refused(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(BitfinexError) as error:
        call(*arguments)
    return error.value.code, error.value.text


def new(**more: Any) -> NewOrder:
    return NewOrder(**{"market": MARKET, "side": 1, "quantity": 10_000, "account": ALICE, **more})


@pytest.mark.parametrize(
    ("body", "order"),
    [
        ({}, new(price=300_000)),
        ({"amount": "-0.1"}, new(side=-1, price=300_000)),
        ({"type": "exchange limit"}, new(price=300_000)),
        ({"type": "EXCHANGE MARKET"}, new()),
        ({"type": "EXCHANGE MARKET", "price": None}, new()),
        ({"type": "EXCHANGE IOC"}, new(price=300_000, tif="ioc")),
        ({"type": "EXCHANGE FOK"}, new(price=300_000, tif="fok")),
        ({"type": "EXCHANGE STOP"}, new(stop=300_000)),
        (
            {"type": "EXCHANGE STOP LIMIT", "price_aux_limit": "30001"},
            new(stop=300_000, price=300_010),
        ),
        ({"type": "EXCHANGE TRAILING STOP", "price_trailing": "5.5"}, new(trailing_offset=55)),
        ({"flags": 64}, new(price=300_000, hidden=True)),
        ({"flags": 1024}, new(price=300_000, reduce_only=True)),
        ({"flags": 4096}, new(price=300_000, post_only=True)),
        ({"flags": "4096"}, new(price=300_000, post_only=True)),
        ({"flags": 16384, "price_oco_stop": "29000"}, new(price=300_000, oco_stop=290_000)),
        ({"flags": 524288}, new(price=300_000)),
        ({"gid": 7}, new(price=300_000, group=7)),
        ({"cid": 12345}, new(price=300_000, client_id="bfx:2026-01-02:12345")),
        ({"cid": "12345"}, new(price=300_000, client_id="bfx:2026-01-02:12345")),
        ({"lev": 10, "meta": {"aff_code": "x"}, "nonsense": [1]}, new(price=300_000)),
        (
            {"tif": "2026-01-02 04:00:00"},
            new(price=300_000, tif="gtd", expires=1_767_326_400_000_000),
        ),
        # Of the past: refused by the trading service, which first looks whether it has the order already.
        ({"tif": "2026-01-01"}, new(price=300_000, tif="gtd", expires=1_767_225_600_000_000)),
        ({"tif": "2026-01-03"}, new(price=300_000, tif="gtd", expires=1_767_398_400_000_000)),
        ({"tif": NOW // 1000 + 1}, new(price=300_000, tif="gtd", expires=NOW // 1000 * 1000 + 1000)),
    ],
)  # fmt: skip
def test_orders_of_every_type(body: dict[str, Any], order: NewOrder) -> None:
    assert read(**body) == order


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"type": "LIMIT"}, "type: invalid: margin trading is not supported; use EXCHANGE LIMIT"),
        ({"type": "TRAILING STOP"}, "type: invalid: margin trading is not supported"),
        ({"type": "EXCHANGE ICEBERG"}, "type: invalid: there are EXCHANGE LIMIT, EXCHANGE MARKET"),
        ({"type": 7}, "type: invalid"),
        ({"symbol": "tNOSUCH"}, "symbol: invalid"),
        ({"symbol": ["tBTCUSD"]}, "symbol: invalid"),
        ({"amount": "0"}, "amount: invalid: quantity must be more than 0"),
        ({"amount": None}, "amount: invalid: a number is expected"),
        ({"amount": True}, "amount: invalid: a number is expected"),
        ({"amount": "--1"}, "amount: invalid"),
        ({"amount": "0.000001"}, "amount: invalid: quantity 0.000001 is below the lot 0.00001"),
        (
            {"amount": "-0.00000999"},
            "amount: invalid: quantity 0.00000999 is below the lot 0.00001",
        ),
        ({"amount": "9" * 50}, "amount: invalid"),
        ({"price": "0.05"}, "price: invalid: price 0.05 is below the tick 0.1"),
        ({"price": "100000000.01"}, "price: invalid: price 100000000.01 is too large"),
        ({"price": None}, "price: invalid"),
        ({"price": "nan"}, "price: invalid"),
        ({"price": "-30000"}, "price: invalid"),
        ({"type": "EXCHANGE STOP LIMIT"}, "price_aux_limit: invalid"),
        ({"type": "EXCHANGE TRAILING STOP"}, "price_trailing: invalid"),
        ({"flags": 16384}, "price_oco_stop: invalid"),
        ({"flags": 512}, "flags: invalid: close (512) is for positions"),
        ({"flags": 3}, "flags: invalid: 3 is not known here"),
        ({"flags": -1}, "flags: invalid"),
        ({"cid": -1}, "cid: invalid"),
        ({"cid": 2**53}, "cid: invalid"),
        ({"cid": "x"}, "cid: invalid"),
        ({"cid": 1.5}, "cid: invalid"),
        ({"gid": []}, "gid: invalid"),
        ({"tif": "9999-01-01 00:00:00"}, "tif: invalid: it is out of range"),
        ({"tif": "soon"}, "tif: invalid: YYYY-MM-DD HH:MM:SS in UTC is expected"),
        ({"tif": {}}, "tif: invalid"),
        ({"tif": 10**30}, "tif: invalid"),
        ({"type": "EXCHANGE IOC", "tif": "2027-01-01"}, "tif: invalid: IOC orders end at once"),
    ],
)
def test_invalid_orders_are_refused_with_the_parameter(body: dict[str, Any], text: str) -> None:
    code, said = refused(order_inputs.new_order, {**LIMIT, **body}, ALICE, SYMBOLS, NOW)
    assert code == 10020
    assert said.startswith(text)


def resting(**more: Any) -> Order:
    fields = {"side": 1, "price": 300_000, "quantity": 10_000, "group": 3, "filled": 4_000}
    return EarlierOrder(number=7, market=MARKET, time=NOW, **(fields | more)).order()


def changes(body: dict[str, Any], **more: Any) -> Amend:
    return order_inputs.amend(body, resting(**more), PAIR, NOW)


def test_changes_of_an_order() -> None:
    assert changes({"id": 1}) == Amend()
    assert changes({"price": "30001"}) == Amend(price=300_010)
    assert changes({"amount": "0.2"}) == Amend(quantity=24_000)  # that much is to be left of it
    assert changes({"delta": "0.02"}) == Amend(change=2_000)
    assert changes({"delta": "-0.02"}) == Amend(change=-2_000)
    assert changes({"delta": "-0.02"}, side=-1) == Amend(change=2_000)
    assert changes({"tif": "2026-01-03"}) == Amend(expires=1_767_398_400_000_000)
    assert changes({"flags": 4096, "gid": 3}, post_only=True) == Amend()
    assert changes({"flags": 524288}) == Amend()
    stop = {"kind": "stop_limit", "stop": 310_000, "untriggered": True}
    both = {"price": "31500", "price_aux_limit": "30500"}
    assert changes(both, **stop) == Amend(stop=315_000, price=305_000)
    assert changes({"price": "31500"}, **{**stop, "untriggered": False}) == Amend(price=315_000)
    only = {"kind": "stop", "price": None, "untriggered": True}
    assert changes({"price": "31500"}, **only) == Amend(stop=315_000)
    trailing = {"kind": "trailing_stop", "price": None, "untriggered": True}
    assert changes({"price_trailing": "45"}, **trailing) == Amend(trailing_offset=450)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"amount": "-0.1"}, "amount: invalid: an order keeps its side"),
        ({"flags": 4096}, "flags: invalid: an order keeps those it was placed with"),
        ({"gid": 4}, "gid: invalid: an order keeps the group"),
        ({"price_aux_limit": "30000"}, "price_aux_limit: invalid: the order has none"),
        ({"price": "0"}, "price: invalid"),
        ({"delta": "0"}, "delta: invalid"),
    ],
)
def test_changes_that_are_none_are_refused(body: dict[str, Any], text: str) -> None:
    code, said = refused(changes, body)
    assert code == 10020
    assert said.startswith(text)


def test_a_market_order_has_no_price_to_change() -> None:
    with pytest.raises(BitfinexError, match="price: invalid: the order has none"):
        changes({"price": "30000"}, kind="market", price=None)


def test_an_order_is_named_by_id_or_by_cid_and_day() -> None:
    assert order_inputs.named_order({"id": OWN + 7}, NOW) == 7
    assert order_inputs.named_order({"id": str(OWN + 7)}, NOW) == 7
    assert order_inputs.named_order({"cid": 5, "cid_date": "2026-01-01"}, NOW) == "bfx:2026-01-01:5"
    assert order_inputs.named_order({"cid": 5}, NOW) == "bfx:2026-01-02:5"
    assert refused(order_inputs.named_order, {"id": 7}, NOW) == (10001, "Order not found.")
    assert refused(order_inputs.named_order, {"id": 2**53 - 1}, NOW) == (10001, "Order not found.")
    assert refused(order_inputs.named_order, {}, NOW)[0] == 10020
    assert refused(order_inputs.named_order, {"id": "seven"}, NOW) == (10020, "id: invalid")
    assert refused(order_inputs.named_order, {"cid": 5, "cid_date": 1}, NOW)[0] == 10020


def test_many_orders_are_chosen_by_id_group_cid_or_altogether() -> None:
    def chosen(body: dict[str, Any]) -> list[Selection]:
        return order_inputs.selections(body, ALICE, NOW)

    assert chosen({"all": 1}) == [Selection(account=ALICE)]
    numbers = Selection(account=ALICE, numbers=frozenset({7, 8}))
    assert chosen({"id": [OWN + 7, f"{OWN + 8}", 3]}) == [numbers]
    groups = Selection(account=ALICE, groups=frozenset({4}))
    assert chosen({"gid": 4}) == chosen({"gid": [4, 0]}) == [groups]  # 0 is no group
    names = Selection(account=ALICE, client_ids=frozenset({"bfx:2026-01-01:5"}))
    assert chosen({"cid": [[5, "2026-01-01"]]}) == [names]
    assert chosen({"id": [OWN + 7, OWN + 8], "gid": [4]}) == [numbers, groups]
    for body in ({}, {"all": 0}, {"cid": [5]}, {"cid": [[5]]}, {"id": [None]}, {"gid": ["x"]}):
        assert refused(chosen, body)[0] == 10020


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["type", "symbol", "amount", "price", "cid", "gid", "flags", "tif", "price_aux_limit",
     "price_trailing", "price_oco_stop", "id", "delta", "cid_date", "all"]
)  # fmt: skip


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_message_is_understood_or_refused(body: dict[str, Any]) -> None:
    for call in (
        lambda: order_inputs.new_order({**LIMIT, **body}, ALICE, SYMBOLS, NOW),
        lambda: order_inputs.amend(body, resting(), PAIR, NOW),
        lambda: order_inputs.named_order(body, NOW),
        lambda: order_inputs.selections(body, ALICE, NOW),
        lambda: order_inputs.wanted_ids(body),
    ):
        with suppress(BitfinexError):
            call()
