"""Accounts, keys, money and every kind of order over the REST API, on a real engine and journal."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from api_kit import Answer
from trading_kit import TOKEN, Api, client_of, running_api

from node.api.access import AccessRules
from node.api.problems import CODES
from node.client.exchange_client import ApiError
from node.views.account_views import AccountRequest, NewKeyView
from node.views.views import AmendRequest, OrderRequest
from p2p.base.identity import Identity

BUY = {"market": "BTC-USD", "side": "buy", "quantity": "0.1", "price": "30000"}
SELL = BUY | {"side": "sell"}
HOUR = 3600.0


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path / "journal") as api:
        yield api


def assert_problem(answer: Answer, status: int, code: str, *words: str) -> None:
    assert (answer.status, answer.json["code"]) == (status, code)
    assert code in CODES, "a code without an explanation at /docs"
    for word in words:
        assert word in answer.json["detail"]


# Accounts


async def test_accounts_are_made_listed_and_shown_by_name_and_number(api: Api) -> None:
    made = await api.post("/v1/accounts", {"name": "Alice", "max_open_orders": 5})
    assert made.status == 201
    assert made.json["number"] == 1
    assert made.json["max_open_orders"] == 5
    assert (await api.get(made.headers["Location"])).json == made.json
    assert (await api.get("/v1/accounts/alice")).json == made.json
    assert [view["name"] for view in (await api.get("/v1/accounts")).json] == ["house", "Alice"]
    assert (await api.get("/v1/accounts/0")).json["name"] == "house"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "house"}, 409, "name_taken"),
        ({"name": "HOUSE"}, 409, "name_taken"),
        ({"name": "12"}, 400, "bad_name"),
        ({"name": "a b"}, 422, "bad_name"),
        ({"name": ""}, 422, "bad_name"),
        ({"name": "x" * 33}, 422, "bad_name"),
        ({"name": "a", "max_open_orders": -1}, 422, "bad_limit"),
        ({"name": "a", "colour": "red"}, 400, "invalid_body"),
        ({}, 400, "invalid_body"),
    ],
)
async def test_accounts_that_cannot_be_are_refused(
    api: Api, body: dict[str, Any], status: int, code: str
) -> None:
    assert_problem(await api.post("/v1/accounts", body), status, code)
    assert len((await api.get("/v1/accounts")).json) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/accounts/nobody"),
        ("GET", "/v1/accounts/7"),
        ("GET", "/v1/accounts/nobody/keys"),
        ("GET", "/v1/balances?account=nobody"),
        ("GET", "/v1/orders?account=nobody"),
    ],
)
async def test_an_unknown_account_is_not_found(api: Api, method: str, path: str) -> None:
    assert_problem(await api.call(method, path), 404, "unknown_account", "account create")


async def test_deposits_and_withdrawals_are_exact(api: Api) -> None:
    await api.account("alice")
    body = {"asset": "usd", "amount": "0.10000001", "note": "wire 7"}
    for _ in range(3):
        moved = await api.post("/v1/accounts/alice/deposits", body)
    assert moved.json["balance"] == "0.30000003"
    taken = await api.post("/v1/accounts/1/withdrawals", {"asset": "USD", "amount": "0.3"})
    assert taken.status == 201
    assert (taken.json["amount"], taken.json["balance"]) == ("-0.3", "0.00000003")
    lines = (await api.get("/v1/ledger?account=alice&sort=asc")).json
    assert [line["amount"] for line in lines] == ["0.10000001"] * 3 + ["-0.3"]
    assert lines[0]["reference"] == "wire 7"
    outside = (await api.get("/v1/postings?asset=USD")).json
    assert outside[0]["balance"] == "-0.00000003"


@pytest.mark.parametrize(
    ("body", "status", "code", "words"),
    [
        ({"asset": "USD", "amount": "0"}, 400, "bad_amount", "more than 0"),
        ({"asset": "USD", "amount": "-1"}, 400, "bad_amount", "negative"),
        ({"asset": "USD", "amount": "1e3"}, 400, "bad_amount", "plain decimal"),
        ({"asset": "USD", "amount": "NaN"}, 400, "bad_amount", "plain decimal"),
        ({"asset": "USD", "amount": "٣"}, 400, "bad_amount", "plain decimal"),
        ({"asset": "USD", "amount": "1.123456789"}, 422, "bad_amount", "below is 1.12345678"),
        ({"asset": "USD", "amount": "9" * 30}, 422, "out_of_range", ""),
        ({"asset": "USD", "amount": 5}, 400, "number_not_string", "as strings"),
        ({"asset": "EUR", "amount": "5"}, 422, "unknown_asset", "BTC, ETH, TEST, USD"),
        ({"asset": "USD", "amount": "5", "note": "a\nb"}, 422, "bad_note", "printable"),
        ({"asset": "USD", "amount": "5", "note": "x" * 201}, 400, "bad_note", "200"),
    ],
)
async def test_amounts_that_cannot_be_are_refused_and_move_nothing(
    api: Api, body: dict[str, Any], status: int, code: str, words: str
) -> None:
    await api.account("alice")
    answer = await api.post("/v1/accounts/alice/deposits", body)
    assert_problem(answer, status, code, words)
    assert await api.balances("alice") == {}


async def test_no_more_is_withdrawn_than_is_available(api: Api) -> None:
    key = await api.account("alice", USD="3000")
    await api.post("/v1/orders", BUY | {"quantity": "0.05"}, key=key)
    answer = await api.post("/v1/accounts/1/withdrawals", {"asset": "USD", "amount": "1500.01"})
    assert_problem(answer, 422, "insufficient_balance", "alice has 1500 USD", "1500.01 are needed")
    answer = await api.post("/v1/accounts/1/withdrawals", {"asset": "USD", "amount": "1500"})
    assert answer.json["available"] == "0"


async def test_a_frozen_account_looks_and_cancels_only(api: Api) -> None:
    key = await api.account("alice", USD="6000")
    order = (await api.post("/v1/orders", BUY, key=key)).json["id"]
    await api.post("/v1/orders", BUY | {"price": "1"}, key=key)
    await api.delete(f"/v1/orders/{order}", key=key)
    frozen = (await api.patch("/v1/accounts/alice", {"frozen": True})).json
    assert (frozen["frozen"], frozen["cancelled_orders"]) == (True, 1)
    ended = (await api.get("/v1/orders?open=false", key=key)).json
    assert [order["reason"] for order in ended] == ["frozen", "cancelled"]
    assert_problem(await api.post("/v1/orders", BUY, key=key), 403, "account_frozen")
    money = {"asset": "USD", "amount": "1"}
    answer = await api.post("/v1/accounts/alice/withdrawals", money)
    assert_problem(answer, 403, "account_frozen", "account thaw alice")
    assert (await api.get("/v1/balances", key=key)).status == 200
    assert_problem(await api.delete(f"/v1/orders/{order}", key=key), 409, "order_done")
    thawed = (await api.patch("/v1/accounts/alice", {"frozen": False})).json
    assert (thawed["frozen"], thawed["cancelled_orders"]) == (False, 0)
    assert (await api.post("/v1/orders", BUY, key=key)).status == 201
    assert_problem(await api.patch("/v1/accounts/0", {"frozen": True}), 404, "unknown_account")


async def test_the_limits_of_an_account_bind_it_and_are_changed(api: Api) -> None:
    key = await api.account("alice", USD="100000")
    changed = await api.patch("/v1/accounts/alice", {"max_open_orders": 2})
    assert (changed.json["max_open_orders"], changed.json["orders_per_minute"]) == (2, 6000)
    for _ in range(2):
        assert (await api.post("/v1/orders", BUY, key=key)).status == 201
    assert_problem(await api.post("/v1/orders", BUY, key=key), 422, "too_many_orders")
    await api.patch("/v1/accounts/alice", {"max_open_orders": 10, "orders_per_minute": 0})
    answer = await api.post("/v1/orders", BUY, key=key)
    assert_problem(answer, 429, "rate_limited")
    assert answer.headers["Retry-After"] == "1"
    answer = await api.patch("/v1/accounts/alice", {"frozen": True, "max_open_orders": -1})
    assert_problem(answer, 422, "bad_limit")
    assert not (await api.get("/v1/accounts/alice")).json["frozen"]


# Keys


async def test_a_secret_is_shown_once(api: Api) -> None:
    await api.account("alice")
    body = {"permissions": ["read"], "label": "dashboard"}
    made = await api.post("/v1/accounts/alice/keys", body)
    assert made.status == 201
    assert len(made.json["secret"]) >= 40
    listed = await api.get("/v1/accounts/alice/keys")
    assert made.json["secret"] not in listed.body.decode()
    assert listed.json[1]["label"] == "dashboard"
    assert "secret" not in repr(NewKeyView(**made.json))
    assert made.json["secret"] not in repr(NewKeyView(**made.json))


async def test_a_key_acts_for_its_account_and_no_other(api: Api) -> None:
    alice, bob = await api.account("alice", USD="3000"), await api.account("bob", USD="3000")
    order = (await api.post("/v1/orders", BUY, key=alice)).json
    assert order["account"] == 1
    for path in (f"/v1/orders/{order['id']}", f"/v1/orders/{order['number']}"):
        assert_problem(await api.get(path, key=bob), 404, "unknown_order")
        assert_problem(await api.delete(path, key=bob), 404, "unknown_order")
        assert_problem(await api.patch(path, {"price": "1"}, key=bob), 404, "unknown_order")
        assert_problem(await api.get(path), 404, "unknown_order")  # nor for the house
    assert (await api.get("/v1/orders?open=false", key=bob)).json == []
    assert (await api.delete("/v1/orders?all=true", key=bob)).json == []
    assert (await api.get("/v1/orders", key=alice)).json[0]["id"] == order["id"]
    answer = await api.get("/v1/orders?account=alice", key=bob)
    assert_problem(answer, 403, "operator_only", "its own account")


async def test_the_permissions_of_a_key_bind_it(api: Api) -> None:
    await api.account("alice", USD="3000")
    keys = {}
    for permission in ("read", "trade"):
        body = {"permissions": [permission]}
        made = (await api.post("/v1/accounts/alice/keys", body)).json
        keys[permission] = f"{made['key']}:{made['secret']}"
    assert (await api.get("/v1/balances", key=keys["read"])).status == 200
    answer = await api.post("/v1/orders", BUY, key=keys["read"])
    assert_problem(answer, 403, "no_permission", "needs trade")
    assert (await api.post("/v1/orders", BUY, key=keys["trade"])).status == 201
    assert_problem(await api.get("/v1/orders", key=keys["trade"]), 403, "no_permission")
    answer = await api.post("/v1/accounts/alice/keys", {"permissions": []})
    assert_problem(answer, 422, "bad_label")


async def test_wrong_keys_are_refused_alike(api: Api) -> None:
    key = await api.account("alice")
    name, _, secret = key.partition(":")
    details = set()
    for wrong in (f"{name}:{secret[:-1]}", f"{name}:x", f"nobody:{secret}", f"{name}:ü", "a:b"):
        answer = await api.get("/v1/balances", key=wrong)
        assert_problem(answer, 401, "bad_key")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert secret not in answer.body.decode()
        details.add(answer.json["detail"])
    assert len(details) == 1
    assert_problem(await api.get("/v1/balances", key=secret), 401, "bad_authorization")
    headers = {"Authorization": f"Basic {key}"}
    async with api.session.get(f"{api.url}/v1/balances", headers=headers) as basic:
        assert basic.status == 401
    assert_problem(await api.get("/v1/markets", key="operator:guess"), 401, "bad_token")
    assert_problem(await api.get("/v1/markets", key="operator:"), 401, "bad_authorization")


async def test_a_revoked_key_is_of_no_use(api: Api) -> None:
    key = await api.account("alice")
    revoked = await api.delete(f"/v1/keys/{key.partition(':')[0]}")
    assert revoked.json["revoked"] is not None
    assert_problem(await api.get("/v1/balances", key=key), 401, "key_revoked")
    assert_problem(await api.delete("/v1/keys/0123456789abcdef"), 404, "unknown_key")


# Access


async def test_no_request_is_the_operators_where_keys_are_required(tmp_path: Path) -> None:
    rules = AccessRules(keys_required=True, operator_token=TOKEN)
    async with running_api(tmp_path / "journal", rules=rules) as api:
        operator = f"operator:{TOKEN}"
        assert_problem(await api.post("/v1/orders", BUY), 401, "key_required")
        for path in ("/v1/balances", "/v1/accounts", "/v1/status", "/metrics"):
            assert_problem(await api.get(path), 401, "key_required")
        for path in ("/v1/markets", "/v1/book/BTC-USD", "/v1/trades", "/v1/halts"):
            assert (await api.get(path)).status == 200
        made = await api.post("/v1/accounts", {"name": "alice"}, key=operator)
        assert made.status == 201
        assert (await api.post("/v1/orders", BUY, key=operator)).json["account"] == 0
        answer = await api.get("/v1/book/BTC-USD")
        assert answer.json["bids"][0]["own"] == "0"  # nobody's
        answer = await api.get("/v1/book/BTC-USD", key=operator)
        assert answer.json["bids"][0]["own"] == "0.1"
        assert_problem(await api.get("/v1/accounts", key=f"operator:{TOKEN}x"), 401, "bad_token")


async def test_requests_beyond_the_rate_are_refused_until_it_allows_them(tmp_path: Path) -> None:
    rules = AccessRules(rate_limit=3, operator_token=TOKEN)
    async with running_api(tmp_path / "journal", rules=rules) as api:
        key = await api.account("alice")
        answers = [await api.get("/v1/balances", key=key) for _ in range(3)]
        assert [a.headers["RateLimit-Remaining"] for a in answers] == ["2", "1", "0"]
        answer = await api.get("/v1/balances", key=key)
        assert_problem(answer, 429, "rate_limited", "3 requests a minute")
        assert 1 <= int(answer.headers["Retry-After"]) <= 20
        assert answer.headers["RateLimit-Limit"] == "3"
        # Others are not held up by it, and who guesses keys is counted by address.
        assert "RateLimit-Limit" not in (await api.get("/v1/accounts")).headers
        guesses = [(await api.get("/v1/markets", key=f"{n:032}:x")).status for n in range(4)]
        assert guesses == [401, 401, 401, 429]


# Orders


async def test_an_order_holds_its_maximum_cost_until_it_ends(api: Api) -> None:
    key = await api.account("alice", USD="3000")
    order = (await api.post("/v1/orders", BUY, key=key)).json
    assert await api.balances("alice") == {"USD": ("3000", "3000")}
    answer = await api.post("/v1/orders", BUY | {"quantity": "0.00001"}, key=key)
    assert_problem(answer, 422, "insufficient_balance", "USD")
    await api.delete(f"/v1/orders/{order['id']}", key=key)
    assert await api.balances("alice") == {"USD": ("3000", "0")}


async def test_a_trade_moves_money_and_takes_fees(api: Api) -> None:
    alice, bob = await api.account("alice", USD="3000"), await api.account("bob", BTC="1")
    await api.post("/v1/orders", SELL, key=bob)
    bought = (await api.post("/v1/orders", BUY, key=alice)).json
    assert (bought["status"], bought["reason"]) == ("filled", "filled")
    assert await api.balances("alice") == {"BTC": ("0.0998", "0"), "USD": ("0", "0")}
    assert await api.balances("bob") == {"BTC": ("0.9", "0"), "USD": ("2997", "0")}
    (fill,) = (await api.get("/v1/fills", key=alice)).json
    assert (fill["fee"], fill["fee_asset"], fill["account"]) == ("0.0002", "BTC", 1)
    (fill,) = (await api.get("/v1/fills?account=bob")).json
    assert (fill["fee"], fill["fee_asset"], fill["role"]) == ("3", "USD", "maker")
    fees = (await api.get("/v1/postings?holder=fees&sort=asc")).json
    assert sorted((line["asset"], line["amount"]) for line in fees) == [
        ("BTC", "0.0002"),
        ("USD", "3"),
    ]
    rates = (await api.get("/v1/fees", key=alice)).json[0]
    assert rates == {"market": "BTC-USD", "maker_fee": "0.001", "taker_fee": "0.002"}
    assert (await api.get("/v1/fees")).json[0]["taker_fee"] == "0"


@pytest.mark.parametrize(
    ("more", "status", "code", "words"),
    [
        ({"tif": "later"}, 400, "invalid_body", "later"),
        ({"tif": "gtd"}, 422, "bad_order", ""),
        ({"expires": "tomorrow", "tif": "gtd"}, 400, "bad_time", "expires must be a time"),
        ({"stop": "31000.05"}, 422, "bad_number", "stop: price 31000.05 is not a multiple"),
        ({"display_quantity": "x"}, 400, "bad_number", "display_quantity"),
        ({"display_quantity": 1}, 400, "number_not_string", "display_quantity"),
        ({"quantity": "0"}, 400, "bad_number", "more than 0"),
        ({"client_id": ""}, 400, "bad_client_id", "1 to 64"),
        ({"client_id": "a\u0000"}, 400, "bad_client_id", "printable"),
        ({"group": -1}, 400, "bad_group", "from 0"),
        ({"side": "short"}, 400, "invalid_body", "short"),
        ({"market": "BTC-EUR"}, 404, "unknown_market", "BTC-EUR"),
        ({"post_only": True, "price": None}, 422, "bad_order", ""),
        ({"post_only": True, "tif": "ioc"}, 422, "bad_order", ""),
    ],
)
async def test_orders_that_cannot_be_are_refused(
    api: Api, more: dict[str, Any], status: int, code: str, words: str
) -> None:
    key = await api.account("alice", USD="1000000")
    assert_problem(await api.post("/v1/orders", BUY | more, key=key), status, code, words)
    assert (await api.get("/v1/orders?open=false", key=key)).json == []


async def test_an_order_is_amended_in_place(api: Api) -> None:
    key = await api.account("alice", USD="6000")
    order = (await api.post("/v1/orders", BUY, key=key)).json["id"]
    smaller = (await api.patch(f"/v1/orders/{order}", {"quantity": "0.05"}, key=key)).json
    assert (smaller["quantity"], smaller["price"], smaller["id"]) == ("0.05", "30000", order)
    dearer = (await api.patch(f"/v1/orders/{order}", {"price": "30001"}, key=key)).json
    assert dearer["price"] == "30001"
    assert await api.balances("alice") == {"USD": ("6000", "1500.05")}
    answer = await api.patch(f"/v1/orders/{order}", {"quantity": "1"}, key=key)
    assert_problem(answer, 422, "insufficient_balance")
    answer = await api.patch(f"/v1/orders/{order}", {}, key=key)
    assert_problem(answer, 400, "invalid_body", "nothing to change")
    await api.delete(f"/v1/orders/{order}", key=key)
    answer = await api.patch(f"/v1/orders/{order}", {"price": "1"}, key=key)
    assert_problem(answer, 409, "order_done", "cancelled")


async def test_orders_are_cancelled_by_market_group_client_id_and_all(api: Api) -> None:
    key = await api.account("alice", USD="100000")

    async def place(**more: Any) -> None:
        assert (await api.post("/v1/orders", BUY | more, key=key)).status == 201

    async def cancelled(query: str) -> list[int]:
        answer = await api.delete(f"/v1/orders?{query}", key=key)
        assert answer.status == 200
        return [order["number"] for order in answer.json]

    await place(group=7)
    await place(market="ETH-USD", price="10")
    await place(client_id="mine")
    await place(group=7)
    await place()
    assert_problem(await api.delete("/v1/orders", key=key), 400, "invalid_parameter", "all=true")
    assert_problem(
        await api.delete("/v1/orders?group=x", key=key), 400, "invalid_parameter", "group"
    )
    assert await cancelled("market=ETH-USD") == [2]
    assert await cancelled("market=ETH-USD&group=7") == []
    assert await cancelled("group=7") == [1, 4]
    assert await cancelled("client_id=mine") == [3]
    assert await cancelled("all=true") == [5]
    assert await api.balances("alice") == {"USD": ("100000", "0")}


async def test_a_client_id_is_the_accounts_own(api: Api) -> None:
    alice, bob = await api.account("alice", USD="6000"), await api.account("bob", USD="6000")
    first = (await api.post("/v1/orders", BUY | {"client_id": "a/1"}, key=alice)).json
    again = (await api.post("/v1/orders", BUY | {"client_id": "a/1"}, key=alice)).json
    other = (await api.post("/v1/orders", BUY | {"client_id": "a/1"}, key=bob)).json
    assert first == again
    assert other["id"] != first["id"]
    found = await api.get("/v1/orders/by-client-id/a%2F1", key=bob)
    assert found.json["id"] == other["id"]
    assert_problem(await api.get("/v1/orders/by-client-id/b", key=bob), 404, "unknown_order")
    answer = await api.post("/v1/orders", SELL | {"client_id": "a/1"}, key=alice)
    assert_problem(answer, 409, "client_id_reused")


async def test_the_dead_mans_switch_cancels_unless_it_is_reset(api: Api) -> None:
    alice, bob = await api.account("alice", USD="6000"), await api.account("bob", USD="6000")
    for key in (alice, bob):
        await api.post("/v1/orders", BUY, key=key)
    set_ = await api.post("/v1/orders/cancel-after", {"timeout_ms": 5000}, key=alice)
    assert set_.json["at"] is not None
    api.node.tick(4.0)
    await api.post("/v1/orders/cancel-after", {"timeout_ms": 5000}, key=alice)
    api.node.tick(4.0)
    assert len((await api.get("/v1/orders", key=alice)).json) == 1
    api.node.tick(2.0)
    (order,) = (await api.get("/v1/orders?open=false", key=alice)).json
    assert (order["status"], order["reason"]) == ("cancelled", "dead_man")
    assert len((await api.get("/v1/orders", key=bob)).json) == 1
    await api.post("/v1/orders/cancel-after", {"timeout_ms": 5000}, key=bob)
    off = await api.post("/v1/orders/cancel-after", {"timeout_ms": 0}, key=bob)
    assert off.json == {"at": None}
    api.node.tick(HOUR)
    assert len((await api.get("/v1/orders", key=bob)).json) == 1
    answer = await api.post("/v1/orders/cancel-after", {"timeout_ms": 5}, key=bob)
    assert_problem(answer, 400, "bad_timeout", "1000")


async def test_a_halted_market_takes_no_orders_and_lets_cancel(api: Api) -> None:
    order = (await api.post("/v1/orders", BUY)).json["id"]
    halted = await api.post("/v1/markets/btcusd/halt", {"reason": "prices in doubt"})
    assert halted.json == {"market": "BTC-USD", "halted": True, "reason": "prices in doubt"}
    assert_problem(await api.post("/v1/orders", BUY), 409, "halted", "prices in doubt")
    assert (await api.post("/v1/orders", BUY | {"market": "ETH-USD"})).status == 201
    assert (await api.delete(f"/v1/orders/{order}")).status == 200
    assert not (await api.post("/v1/markets/BTC-USD/resume")).json["halted"]
    assert_problem(await api.post("/v1/markets/BTC-USD/resume"), 409, "not_halted")
    assert (await api.post("/v1/orders", BUY)).status == 201
    answer = await api.post("/v1/markets/BTC-USD/halt", {"reason": ""})
    assert_problem(answer, 400, "bad_reason")


async def test_a_node_that_was_never_met_can_have_a_limit_by_its_whole_id(api: Api) -> None:
    stranger = Identity.from_seed(bytes(32)).node_id
    body = {"asset": "USD", "limit": "5"}
    of_one = {"asset": "USD", "total": None, "owed": None}
    for nobody in (stranger[:-1], api.node.node_id):
        answer = await api.post("/v1/credit", body | {"peer": nobody})
        assert_problem(answer, 404, "unknown_node")
    paid = {"peer": stranger, "asset": "USD", "amount": "1", "direction": "paid"}
    assert_problem(await api.post("/v1/settlements", paid), 404, "unknown_node")
    answer = await api.post("/v1/credit", body | {"peer": stranger.upper()})
    assert answer.json == {"peer": stranger, "limit": "5"} | of_one
    answer = await api.post("/v1/credit", body | {"peer": stranger[:8], "limit": None})
    assert answer.json == {"peer": stranger, "limit": None} | of_one


async def test_credit_is_set_shown_and_taken_back(api: Api) -> None:
    set_ = await api.post("/v1/credit", {"asset": "usd", "limit": "10000.5"})
    together = {"total": "100005", "owed": "0"}
    assert set_.json == {"peer": None, "asset": "USD", "limit": "10000.5"} | together
    assert (await api.post("/v1/credit", {"asset": "BTC", "limit": "0"})).json["limit"] == "0"
    assert len((await api.get("/v1/credit")).json) == 2
    assert (await api.post("/v1/credit", {"asset": "USD"})).json["limit"] is None
    answer = await api.post("/v1/credit", {"asset": "USD", "peer": "nobody"})
    assert_problem(answer, 404, "unknown_node")
    body = {"peer": "nobody", "asset": "USD", "amount": "1", "direction": "paid"}
    assert_problem(await api.post("/v1/settlements", body), 404, "unknown_node")
    assert (await api.get("/v1/positions")).json == []
    assert (await api.get("/v1/obligations")).json == []
    answer = await api.get("/v1/postings?holder=everybody")
    assert_problem(answer, 400, "bad_holder", "account:NAME")


# What stays


async def test_a_restart_finds_everything_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with running_api(path) as api:
        key = await api.account("alice", USD="6000")
        order = (await api.post("/v1/orders", BUY | {"client_id": "a"}, key=key)).json
        await api.post("/v1/orders/cancel-after", {"timeout_ms": 10_000}, key=key)
        await api.account("bob")
        await api.patch("/v1/accounts/bob", {"frozen": True})
        await api.post("/v1/markets/ETH-USD/halt", {"reason": "in doubt"})
    async with running_api(path, now=2.0) as api:
        api.node.tick()
        assert (await api.get("/v1/accounts/bob")).json["frozen"]
        halt = next(h for h in (await api.get("/v1/halts")).json if h["halted"])
        assert halt == {"market": "ETH-USD", "halted": True, "reason": "in doubt"}
        assert (await api.get("/v1/orders", key=key)).json == [order]
        assert await api.balances("alice") == {"USD": ("6000", "3000")}
        api.node.tick(10.0)
        found = await api.get("/v1/orders/by-client-id/a", key=key)
        assert found.json["reason"] == "dead_man"
        assert await api.balances("alice") == {"USD": ("6000", "0")}


async def test_an_order_waits_for_other_nodes_on_request(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    trading = api.node.trading
    trading.take_answer_wait = 0.25
    place, place_now, amend = trading.place, trading.place_now, trading.amend

    def placing_now(order: Any) -> Any:
        waits.append(0.0)
        return place_now(order)

    async def placing(*arguments: Any, wait: float) -> Any:
        waits.append(wait)
        return await place(*arguments, wait=wait)

    async def amending(*arguments: Any, wait: float) -> Any:
        waits.append(wait)
        return await amend(*arguments, wait=wait)

    monkeypatch.setattr(trading, "place_now", placing_now)
    monkeypatch.setattr(trading, "place", placing)
    monkeypatch.setattr(trading, "amend", amending)
    request, price = OrderRequest(**BUY), AmendRequest(price="29999")
    async with client_of(api) as client:
        for waiting in (False, True):
            order = await client.submit(request, wait_for_takes=waiting)
            await client.amend(order.id, price, wait_for_takes=waiting)
    assert waits == [0.0, 0.0, 0.25, 0.25]
    refused = await api.post("/v1/orders?wait_for_takes=1", BUY)
    assert_problem(refused, 400, "invalid_parameter", "wait_for_takes must be true or false")


async def test_requests_are_taken_and_refused_as_their_schemas_say(api: Api) -> None:
    assert (await api.post("/v1/orders", BUY | {"group": 7.0})).json[
        "group"
    ] == 7  # to JSON it is 7
    assert_problem(await api.post("/v1/orders", BUY | {"group": 7.5}), 400, "invalid_body", "int")
    numbers = await api.post("/v1/orders", BUY | {"group": 7.0, "quantity": 1.0})
    assert_problem(numbers, 400, "number_not_string", "quantity")
    answer = await api.patch("/v1/orders/1", {"price": None})
    assert_problem(answer, 400, "invalid_body", "price")
    assert_problem(await api.patch("/v1/orders/1", {}), 400, "invalid_body")
    for path in ("?all=false", "?all=no&market=BTC-USD", ""):
        assert (await api.delete(f"/v1/orders{path}")).status == 400
    answer = await api.delete("/v1/orders?client_id=%C3%97")
    assert_problem(answer, 400, "bad_client_id", "ASCII")
    assert (await api.patch("/v1/orders/cancel-after", {"timeout_ms": 0})).status == 405
    assert (await api.post("/v1/orders/cancel-after", {"timeout_ms": 0})).status == 200


async def test_the_client_has_a_method_for_everything(api: Api) -> None:
    async with client_of(api) as operator:
        await operator.create_account(AccountRequest(name="alice"))
        await operator.deposit("alice", "USD", "6000", note="wire")
        await operator.withdraw("alice", "USD", "1000")
        made = await operator.create_key("alice", label="bot")
        assert [account.name for account in await operator.accounts()] == ["house", "alice"]
        assert (await operator.account("1")).name == "alice"
        assert (await operator.keys("alice"))[0].label == "bot"
        assert (await operator.halt("BTC-USD", "x")).halted
        assert (await operator.resume("BTC-USD")).reason == ""
        assert not any(halt.halted for halt in await operator.halts())
        assert (await operator.set_credit("USD", "5")).limit == "5"
        assert len(await operator.credit()) == 1
        assert await operator.positions() == []
        assert await operator.obligations() == []
        assert len(await operator.postings("account:alice")) == 2
        async with client_of(api, f"{made.key}:{made.secret}") as client:
            request = OrderRequest(
                market="BTC-USD", side="buy", quantity="0.1", price="30000", client_id="mine"
            )
            placed = await client.submit(request)
            amended = await client.amend(placed.id, AmendRequest(price="29999"))
            assert await client.order(placed.id) == amended
            assert await client.order_by_client_id("mine") == amended
            assert [view.held for view in await client.balances()] == ["2999.9"]
            assert (await client.cancel_after(0)).at is None
            assert [o.number for o in await client.cancel_many(market="BTC-USD")] == [1]
            assert [o.number for o in await client.orders(open_only=False)] == [1]
            assert await client.fills() == []
            assert len(await client.ledger(newest_first=False)) == 2
            assert (await client.fees())[0].taker_fee == "0.002"
            with pytest.raises(ApiError, match="not for a key"):
                await client.accounts()
        assert (await operator.orders(account="alice", open_only=False))[0].account == 1
        assert (await operator.freeze("alice")).frozen
        assert (await operator.revoke_key(made.key)).revoked
