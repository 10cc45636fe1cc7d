"""The signed REST paths: orders, histories, balances, ledger, and how refusals read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from bitfinex_kit import ALICE, BOB, Credentials, Exchange, running_exchange
from market_kit import NOW

from exchange.orders.engine_context import CommandRejected
from node.annexes.bitfinex.limits import MULTI_MAX
from node.annexes.bitfinex.order_ids import OWN, trade_id

LIMIT = {"type": "EXCHANGE LIMIT", "symbol": "tBTCUSD", "amount": "0.3", "price": "30000"}


@pytest.fixture
async def exchange() -> AsyncIterator[Exchange]:
    async with running_exchange() as exchange:
        yield exchange


@pytest.fixture
def key(exchange: Exchange) -> Credentials:
    return exchange.key()


async def ask(exchange: Exchange, key: Credentials, path: str, body: Any = None) -> Any:
    answer = await exchange.post(key, path, body)
    assert answer.status == 200, answer.json
    assert isinstance(answer.json, list)
    return answer.json


async def submit(exchange: Exchange, key: Credentials, **more: Any) -> int:
    """The id of a new order."""
    told = await ask(exchange, key, "w/order/submit", {**LIMIT, **more})
    return int(told[4][0][0])


async def refused(
    exchange: Exchange, key: Credentials, path: str, body: Any = None, status: int = 500
) -> tuple[int, str]:
    answer = await exchange.post(key, path, body)
    word, code, text = answer.json
    assert (answer.status, word) == (status, "error")
    return code, text


# Changing something


async def test_of_a_pair_the_first_is_answered_and_both_exist(
    exchange: Exchange, key: Credentials
) -> None:
    told = await ask(
        exchange, key, "w/order/submit", {**LIMIT, "flags": 16384, "price_oco_stop": 29000}
    )
    assert [row[0] for row in told[4]] == [OWN + 1]
    assert told[7] == "Submitting 2 orders."
    first, second = await ask(exchange, key, "r/orders")
    assert (first[8], first[12], first[25]) == ("EXCHANGE LIMIT", 16384, None)
    assert (second[8], second[12], second[25]) == ("EXCHANGE STOP", 16384, OWN + 1)
    assert second[16] == 29000


async def test_an_order_is_updated_flat(exchange: Exchange, key: Credentials) -> None:
    order_id = await submit(exchange, key)
    exchange.trading.fill(1, "30000", "0.1")
    body = {"id": order_id, "price": "29999.5", "amount": "0.5"}
    told = await ask(exchange, key, "w/order/update", body)
    assert (told[1], told[6]) == ("ou-req", "SUCCESS")
    order = told[4]
    assert (order[0], order[6], order[7], order[16]) == (order_id, 0.5, 0.6, 29999.5)
    assert await refused(exchange, key, "w/order/update", {"id": OWN + 9}) == (
        10001,
        "Order not found.",
    )


async def test_an_order_is_cancelled_by_id_and_by_cid(exchange: Exchange, key: Credentials) -> None:
    order_id = await submit(exchange, key)
    told = await ask(exchange, key, "w/order/cancel", {"id": order_id})
    assert (told[1], told[4][0], told[4][13], told[6]) == (
        "oc-req",
        order_id,
        "CANCELED",
        "SUCCESS",
    )
    exchange.trading.orders[1].done = False  # as while another node's answer is awaited
    told = await ask(exchange, key, "w/order/cancel", {"id": order_id})
    assert (told[6], told[4][0]) == ("SUCCESS", order_id)
    exchange.trading.orders[1].done = True
    code, text = await refused(exchange, key, "w/order/cancel", {"id": order_id})
    assert code == 10001
    assert text.startswith("Order not found.")
    await submit(exchange, key, cid=9)
    (order,) = await ask(exchange, key, "r/orders")
    date = exchange.trading.placed[-1].client_id
    assert date is not None
    told = await ask(exchange, key, "w/order/cancel", {"cid": 9, "cid_date": date.split(":")[1]})
    assert told[4][:3] == order[:3]


async def test_many_orders_are_cancelled_at_once(exchange: Exchange, key: Credentials) -> None:
    ids = [await submit(exchange, key, gid=gid) for gid in (1, 1, 2, 3, 3)]

    async def cancelled(body: Any) -> list[int]:
        told = await ask(exchange, key, "w/order/cancel/multi", body)
        assert (told[1], told[6]) == ("oc_multi-req", "SUCCESS")
        assert all(row[13] == "CANCELED" for row in told[4])
        return [row[0] for row in told[4]]

    assert await cancelled({"id": [ids[0], OWN + 99]}) == [ids[0]]
    assert await cancelled({"gid": [2]}) == [ids[2]]
    assert await cancelled({"id": [ids[1]], "gid": 3}) == [ids[1], *ids[3:]]
    assert await cancelled({"all": 1}) == []
    assert (await refused(exchange, key, "w/order/cancel/multi", {}))[0] == 10020


async def test_operations_are_carried_out_one_after_another(
    exchange: Exchange, key: Credentials
) -> None:
    ops = [
        ["on", {**LIMIT, "cid": 1}],
        ["on", {**LIMIT, "price": "0.05"}],
        ["ou", {"id": OWN + 1, "delta": "0.1"}],
        ["on", LIMIT],
        ["oc", {"id": OWN + 1}],
        ["oc_multi", {"all": 1}],
    ]
    told = await ask(exchange, key, "w/order/multi", {"ops": ops})
    assert (told[1], told[6]) == ("ox_multi-req", "SUCCESS")
    assert [(row[1], row[6]) for row in told[4]] == [
        ("on-req", "SUCCESS"),
        ("on-req", "ERROR"),
        ("ou-req", "SUCCESS"),
        ("on-req", "SUCCESS"),
        ("oc-req", "SUCCESS"),
        ("oc_multi-req", "SUCCESS"),
    ]
    assert told[4][0][4][0][0] == OWN + 1
    failed = told[4][1]
    assert len(failed[4]) == 32
    assert (failed[4][3], failed[5]) == ("tBTCUSD", 10020)
    assert failed[7].startswith("price: invalid")
    assert told[4][2][4][7] == 0.4
    assert [row[0] for row in told[4][5][4]] == [OWN + 2]


@pytest.mark.parametrize(
    "ops",
    [None, [], {}, [["on"]], [["xx", {}]], [[["on"], {}]], [["ox_multi", []]], ["on"],
     [["on", LIMIT]] * (MULTI_MAX + 1)],
)  # fmt: skip
async def test_operations_that_are_none_are_refused_together(
    exchange: Exchange, key: Credentials, ops: Any
) -> None:
    assert (await refused(exchange, key, "w/order/multi", {"ops": ops}))[0] == 10020
    assert exchange.trading.placed == []


@pytest.mark.parametrize(
    ("refusal", "status", "code", "text"),
    [
        ("insufficient_balance", 500, 10001, "not enough exchange balance: sorry"),
        ("unknown_order", 500, 10001, "Order not found. sorry"),
        ("order_done", 500, 10001, "Order not found. sorry"),
        ("account_frozen", 500, 10001, "sorry"),
        ("unknown_market", 500, 10020, "symbol: invalid"),
        ("price_band", 500, 10020, "sorry"),
        ("notional_too_small", 500, 10020, "sorry"),
        ("client_id_reused", 500, 10020, "sorry"),
        ("halted", 500, 10000, "sorry"),
        ("too_many_orders", 500, 10000, "sorry"),
        ("stale_data", 500, 10000, "sorry"),
        ("starting", 500, 20060, "sorry"),
        ("storage_failed", 500, 20060, "sorry"),
        ("rate_limited", 429, 11010, "ratelimit: error"),
    ],
)
async def test_refusals_have_the_codes_and_words_that_clients_know(
    exchange: Exchange, key: Credentials, refusal: str, status: int, code: int, text: str
) -> None:
    exchange.trading.refuse = CommandRejected(refusal, "sorry")
    said = await refused(exchange, key, "w/order/submit", LIMIT, status)
    assert said == (code, text)


# Reading


async def test_open_orders_of_all_markets_one_market_or_by_id(
    exchange: Exchange, key: Credentials
) -> None:
    ids = [await submit(exchange, key), await submit(exchange, key)]
    ids.append(await submit(exchange, key, symbol="tTEST:USD", amount="5", price="12"))
    assert [row[0] for row in await ask(exchange, key, "r/orders")] == ids
    assert [row[0] for row in await ask(exchange, key, "r/orders/tBTCUSD")] == ids[:2]
    assert [row[0] for row in await ask(exchange, key, "r/orders/tTEST:USD")] == ids[2:]
    for wanted in ([ids[1]], [str(ids[1])], ids[1]):
        found = await ask(exchange, key, "r/orders/tBTCUSD", {"id": wanted})
        assert [row[0] for row in found] == [ids[1]]
    assert await ask(exchange, key, "r/orders", {"id": [3]}) == []
    assert await refused(exchange, key, "r/orders/tNOSUCH") == (10020, "symbol: invalid")


async def test_an_open_order_shows_its_fills(exchange: Exchange, key: Credentials) -> None:
    await submit(exchange, key)
    await submit(exchange, key)
    exchange.trading.fill(1, "30000", "0.1")
    exchange.trading.fill(2, "30000", "0.05")
    exchange.trading.fill(1, "30001", "0.1")
    first, second = await ask(exchange, key, "r/orders")
    assert first[13] == "PARTIALLY FILLED @ 30001(0.1), PARTIALLY FILLED @ 30000(0.1)"
    assert (first[6], first[7], first[17]) == (0.1, 0.3, 30000.5)
    assert second[13] == "PARTIALLY FILLED @ 30000(0.05)"


async def test_finished_orders_newest_first_within_bounds(
    exchange: Exchange, key: Credentials
) -> None:
    ids = [await submit(exchange, key) for _ in range(4)]
    for number, reason in ((2, "cancelled"), (1, "expired"), (3, "post_only")):
        exchange.trading.end(number, reason)
    found = await ask(exchange, key, "r/orders/hist")
    assert [row[0] for row in found] == [ids[2], ids[0], ids[1]]
    assert found[0][13] == "POSTONLY CANCELED"
    assert await ask(exchange, key, "r/orders/tBTCUSD/hist", {"limit": 1}) == found[:1]
    at = found[1][5]
    assert await ask(exchange, key, "r/orders/hist", {"start": at, "end": str(at)}) == found[1:2]
    assert await ask(exchange, key, "r/orders/hist", {"id": [ids[1], ids[3]]}) == found[2:]
    assert await ask(exchange, key, "r/orders/tETHUSD/hist") == []
    for body in ({"limit": 0}, {"start": "x"}, {"end": 1.5}, {"limit": True}):
        assert (await refused(exchange, key, "r/orders/hist", body))[0] == 10020


async def test_own_trades_with_their_fees(exchange: Exchange, key: Credentials) -> None:
    order_id = await submit(exchange, key, cid=4)
    first = exchange.trading.fill(1, "30000", "0.1", fee=10_000, fee_asset="BTC")
    exchange.trading.fill(1, "30000", "0.1", role="taker", fee=20_000, fee_asset="BTC")
    found = await ask(exchange, key, "r/trades/hist")
    assert [row[9] for row in found] == [-0.0002, -0.0001]
    assert [row[8] for row in found] == [-1, 1]
    assert found[1] == [
        *(trade_id(first.taker, first.take), "tBTCUSD", first.time // 1000, order_id, 0.1, 30000),
        *("EXCHANGE LIMIT", 30000, 1, -0.0001, "BTC", 4),
    ]
    assert await ask(exchange, key, "r/trades/tBTCUSD/hist", {"sort": 1}) == found[::-1]
    assert await ask(exchange, key, "r/trades/tBTCUSD/hist", {"end": found[1][2]}) == found[1:]
    assert await ask(exchange, key, "r/trades/tETHUSD/hist") == []
    assert await ask(exchange, key, f"r/order/tBTCUSD:{order_id}/trades") == found
    for path in (f"tETHUSD:{order_id}", f"tBTCUSD:{OWN + 9}", "tBTCUSD:7"):
        said = await refused(exchange, key, f"r/order/{path}/trades")
        assert said == (10001, "Order not found.")
    for path in ("7", "tBTCUSD:", "tBTCUSD:x"):
        assert (await refused(exchange, key, f"r/order/{path}/trades"))[0] == 10020


async def test_the_ledger_has_the_words_that_clients_parse(
    exchange: Exchange, key: Credentials
) -> None:
    exchange.trading.post(ALICE, "USD", 10**10, "deposit", "wire 7")
    exchange.trading.post(ALICE, "USD", -(10**9), "trade", "5")
    exchange.trading.post(ALICE, "BTC", -(10**4), "fee", "5")
    exchange.trading.post(ALICE, "USD", -(10**8), "withdrawal", "")
    found = await ask(exchange, key, "r/ledgers/hist")
    assert [row[8] for row in found] == [
        "Withdrawal on wallet exchange",
        "Trading fee @ 5 on wallet exchange",
        "Exchange @ 5 on wallet exchange",
        "Deposit @ wire 7 on wallet exchange",
    ]
    assert {len(row) for row in found} == {9}
    assert found[3][1] == "USD"
    assert found[3][5:7] == [100, 100]
    assert len({row[0] for row in found}) == 4
    assert await ask(exchange, key, "r/ledgers/BTC/hist") == [found[1]]
    assert await ask(exchange, key, "r/ledgers/hist", {"limit": 2}) == found[:2]
    assert await ask(exchange, key, "r/ledgers/hist", {"category": 201}) == [found[1]]
    assert await ask(exchange, key, "r/ledgers/USD/hist", {"category": "101"}) == [found[3]]
    assert await ask(exchange, key, "r/ledgers/hist", {"category": 28}) == []
    assert await refused(exchange, key, "r/ledgers/XXX/hist") == (10020, "currency: invalid")


async def test_the_largest_affordable_order_is_computed(
    exchange: Exchange, key: Credentials
) -> None:
    exchange.trading.set_balance(ALICE, "BTC", "1.5", "0.25")
    exchange.trading.set_balance(ALICE, "USD", "1000", "100")
    path = "calc/order/avail"
    body = {"symbol": "tBTCUSD", "type": "EXCHANGE"}
    assert await ask(exchange, key, path, {**body, "dir": -1, "rate": "1"}) == [1.25]
    assert await ask(exchange, key, path, {**body, "dir": 1, "rate": "30000"}) == [0.03]
    assert await ask(exchange, key, path, {**body, "dir": "1", "rate": 31000.1}) == [0.02903]
    assert (await refused(exchange, key, path, body))[0] == 10020
    exchange.markets.order("BTC-USD", -1, "45000", "1", number=1)
    assert await ask(exchange, key, path, body) == [0.02]
    poor = exchange.key(BOB)
    assert await ask(exchange, poor, path, body) == [0]
    for wrong in ({"dir": 2}, {"type": "MARGIN"}, {"rate": "0"}, {"symbol": "tX"}):
        assert (await refused(exchange, key, path, {**body, **wrong}))[0] == 10020


async def test_identity_and_permissions_of_the_caller(exchange: Exchange, key: Credentials) -> None:
    user = await ask(exchange, key, "r/info/user")
    assert len(user) >= 55
    assert user[:4] == [ALICE, "", "alice", NOW // 1000]
    permissions = await ask(exchange, key, "r/permissions")
    assert ["orders", 1, 1] in permissions
    assert ["withdraw", 1, 0] in permissions
    reader = exchange.key(ALICE, ("read",))
    assert ["orders", 1, 0] in await ask(exchange, reader, "r/permissions")
    assert await ask(exchange, key, "r/positions") == []


async def test_fees_are_where_clients_look_for_them(exchange: Exchange, key: Credentials) -> None:
    summary = await ask(exchange, key, "r/summary")
    assert len(summary) >= 10
    maker, taker = summary[4]
    assert len(maker) == len(taker) == 6
    greatest = max(i.taker_fee for i in exchange.markets.instruments)
    assert taker[0] == taker[2] == float(greatest)


async def test_accounts_do_not_see_each_other(exchange: Exchange, key: Credentials) -> None:
    order_id = await submit(exchange, key)
    exchange.trading.fill(1, "30000", "0.1")
    other = exchange.key(BOB)
    for path in ("r/orders", "r/orders/hist", "r/trades/hist", "r/ledgers/hist", "r/wallets"):
        assert await ask(exchange, other, path) == []
    for path in ("w/order/cancel", "w/order/update"):
        assert (await refused(exchange, other, path, {"id": order_id}))[1] == "Order not found."
    assert (await ask(exchange, other, "w/order/cancel/multi", {"all": 1}))[4] == []
    assert not exchange.trading.orders[1].done


async def test_get_finds_no_signed_path(exchange: Exchange, key: Credentials) -> None:
    path = "/v2/auth/r/wallets"
    answer = await exchange.send(path, b"", key.headers(path, b""), "GET")
    assert (answer.status, answer.json) == (404, ["error", 10000, "path: unknown"])


async def test_a_key_beyond_its_rate_gets_an_error_and_no_other_key_does() -> None:
    async with running_exchange(rate_limit=30) as exchange:  # five of them at once
        key, other = exchange.key(), exchange.key()
        for _ in range(5):
            await ask(exchange, key, "r/positions")
        said = await refused(exchange, key, "r/positions", status=429)
        assert said == (11010, "ratelimit: error")
        await ask(exchange, other, "r/positions")


async def test_refused_credentials_are_counted_by_address_and_hold_up_no_key() -> None:
    async with running_exchange(rate_limit=30) as exchange:
        key = exchange.key()
        wrong = Credentials(key.key, "x" * 20)
        statuses = [(await exchange.post(wrong, "r/positions")).status for _ in range(6)]
        assert statuses == [500] * 5 + [429]
        assert (await exchange.post(key, "r/positions")).status == 200


async def test_a_fault_of_the_node_is_an_error_with_its_number_in_the_log(
    exchange: Exchange, key: Credentials, caplog: pytest.LogCaptureFixture
) -> None:
    exchange.trading.balances_of = None  # type: ignore[method-assign,assignment]
    code, text = await refused(exchange, key, "r/wallets")
    assert code == 10000
    assert text.rpartition(" ")[2] in caplog.text


async def test_orders_wait_for_other_nodes_and_several_share_the_wait(
    exchange: Exchange, key: Credentials
) -> None:
    order_id = await submit(exchange, key)
    await ask(exchange, key, "w/order/update", {"id": order_id, "price": "29000"})
    assert exchange.trading.waits == [0.25, 0.25]
    exchange.trading.take_answer_wait = 0.001
    await ask(exchange, key, "w/order/multi", {"ops": [["on", LIMIT]] * 50})
    shared = exchange.trading.waits[2:]
    assert shared == sorted(shared, reverse=True)
    assert max(shared) <= 0.001


async def test_finished_orders_are_found_by_id(exchange: Exchange, key: Credentials) -> None:
    ids = [await submit(exchange, key) for _ in range(3)]
    exchange.trading.end(2, "cancelled")
    assert [row[0] for row in await ask(exchange, key, "r/orders")] == [ids[0], ids[2]]
    found = await ask(exchange, key, "r/orders", {"id": [*ids[:2], OWN + 99]})
    assert [(row[0], row[13]) for row in found] == [(ids[0], "ACTIVE"), (ids[1], "CANCELED")]
    assert await ask(exchange, key, "r/orders/tETHUSD", {"id": ids}) == []
    stranger = exchange.key(BOB)
    assert await ask(exchange, stranger, "r/orders", {"id": ids}) == []
