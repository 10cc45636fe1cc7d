"""Orders over the stream: the same effects, refusals and limits as over REST."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from stream_kit import check_sent
from trading_kit import TOKEN, Api, running_api

from node.api import limits
from node.api.access import AccessRules
from node.client.exchange_client import ApiError, StreamClosed
from node.client.streaming_client import StreamingClient
from node.views.views import AmendRequest, OrderRequest

BUY = {"market": "BTC-USD", "side": "buy", "quantity": "0.1", "price": "20000"}


class Line:
    """A connection whose every message is checked against the AsyncAPI document."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def send(self, **message: Any) -> None:
        await self.socket.send_str(json.dumps(message))

    async def next(self) -> dict[str, Any]:
        event: dict[str, Any] = json.loads(await self.socket.receive_str(timeout=5))
        check_sent(event)
        return event

    async def ask(self, **message: Any) -> dict[str, Any]:
        await self.send(**message)
        return await self.next()

    async def submit(self, request_id: str = "1", **order: Any) -> dict[str, Any]:
        return await self.ask(op="submit", id=request_id, order=BUY | order)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path / "journal") as api:
        yield api


def connect(api: Api, key: str = "") -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return api.session.ws_connect(f"{api.url}/v1/stream", headers=headers)


@pytest.fixture
async def line(api: Api) -> AsyncIterator[Line]:
    key = await api.account("alice", USD="100000", BTC="10")
    async with connect(api, key) as socket:
        yield Line(socket)


async def open_orders(api: Api) -> list[str]:
    return [row["id"] for row in (await api.get("/v1/orders?account=alice")).json]


def problem(told: dict[str, Any]) -> tuple[int, str]:
    assert told["event"] == "refused", told
    return told["problem"]["status"], told["problem"]["code"]


# Effects


async def test_orders_are_cancelled_together(api: Api, line: Line) -> None:
    for number in range(4):
        await line.submit(str(number), group=number % 2)
    told = await line.ask(op="cancel_many", id="x", group=1)
    assert [order["group"] for order in told["orders"]] == [1, 1]
    told = await line.ask(op="cancel_many", id="x", all=True)
    assert len(told["orders"]) == 2
    assert await open_orders(api) == []


async def test_many_has_a_result_for_each(api: Api, line: Line) -> None:
    requests = [
        {"op": "submit", "id": "a", "order": BUY | {"client_id": "a"}},
        {"op": "submit", "id": "b", "order": BUY | {"quantity": "1000"}},
        {"op": "submit", "id": "c", "order": BUY | {"quantity": 5}},
        {"op": "amend", "id": "d", "client_id": "a", "changes": {"quantity": "0.2"}},
        {"op": "cancel", "id": "e", "order_id": "999"},
    ]
    told = await line.ask(op="many", id="m", requests=requests)
    assert (told["event"], told["id"]) == ("results", "m")
    found = told["results"]
    assert [each["id"] for each in found] == ["a", "b", "c", "d", "e"]
    assert [each["event"] for each in found] == [
        "accepted", "refused", "refused", "accepted", "refused",
    ]  # fmt: skip
    assert [each["problem"]["code"] for each in found if each["event"] == "refused"] == [
        "insufficient_balance", "number_not_string", "unknown_order",
    ]  # fmt: skip
    assert found[2]["problem"]["pointer"] == "/order/quantity"
    assert found[3]["orders"][0]["quantity"] == "0.2"
    assert len(await open_orders(api)) == 1


async def test_the_dead_mans_switch(api: Api, line: Line) -> None:
    await line.submit()
    told = await line.ask(op="cancel_after", id="t", timeout_ms=2000)
    assert told["event"] == "cancel_after_set"
    assert told["at"]
    api.node.tick(3.0)
    await api.node.committer.durable()
    assert await open_orders(api) == []
    assert (await line.ask(op="cancel_after", id="t", timeout_ms=0))["at"] is None
    told = await line.ask(op="cancel_after", id="t", timeout_ms=3)
    assert problem(told) == (400, "bad_timeout")
    assert told["problem"]["pointer"] == "/timeout_ms"


@pytest.mark.parametrize("enabled", [True, False])
async def test_orders_outlive_the_connection_unless_cancel_on_disconnect_is_set(
    api: Api, enabled: bool
) -> None:
    key = await api.account("alice", USD="100000")
    async with connect(api, key) as socket:
        line = Line(socket)
        await line.submit()
        told = await line.ask(op="cancel_on_disconnect", id="d", enabled=True)
        assert told == {"event": "cancel_on_disconnect_set", "id": "d", "enabled": True}
        await line.ask(op="cancel_on_disconnect", id="d", enabled=enabled)
    for _ in range(200):
        if not await open_orders(api):
            break
        await asyncio.sleep(0.01 if enabled else 0.001)
    assert len(await open_orders(api)) == (0 if enabled else 1)


# Refusals


@pytest.mark.parametrize(
    ("message", "code", "pointer"),
    [
        ({"op": "submit", "order": BUY | {"quantity": 1}}, "number_not_string", "/order/quantity"),
        ({"op": "submit", "order": BUY | {"quantity": "x"}}, "bad_number", "/order/quantity"),
        ({"op": "submit", "order": BUY | {"side": "up"}}, "invalid_body", "/order/side"),
        ({"op": "submit", "order": BUY | {"stopp": "1"}}, "invalid_body", "/order/stopp"),
        ({"op": "submit", "order": BUY | {"market": "XX-YY"}}, "unknown_market", None),
        ({"op": "submit"}, "invalid_body", ""),
        ({"op": "submit", "order": BUY, "extra": 1}, "invalid_body", "/extra"),
        ({"op": "amend", "changes": {"price": "1"}}, "invalid_body", None),
        ({"op": "amend", "order_id": "1", "client_id": "a", "changes": {"price": "1"}},
         "invalid_body", None),
        ({"op": "amend", "order_id": "9", "changes": {"price": "1"}}, "unknown_order", None),
        ({"op": "cancel", "order_id": "zz"}, "bad_order_id", None),
        ({"op": "cancel", "client_id": "nothing"}, "unknown_order", None),
        ({"op": "cancel_many"}, "invalid_body", "/all"),
        ({"op": "cancel_many", "group": -1}, "bad_group", None),
        ({"op": "many", "requests": []}, "invalid_body", "/requests"),
        ({"op": "many", "requests": [{"op": "submit", "order": BUY}]}, "invalid_body",
         "/requests/0/id"),
        ({"op": "many", "requests": [{"op": "cancel_after", "id": "1", "timeout_ms": 0}]},
         "invalid_body", "/requests/0/op"),
        ({"op": "many", "requests": [], "account": "house"}, "invalid_body", "/account"),
        ({"op": "submit", "order": BUY, "account": "house"}, "operator_only", "/account"),
    ],
)  # fmt: skip
async def test_a_refusal_is_a_problem_document_with_the_id(
    line: Line, message: dict[str, Any], code: str, pointer: str | None
) -> None:
    told = await line.ask(id="77", **message)
    assert told["id"] == "77"
    assert told["op"] == message["op"]
    assert told["problem"]["code"] == code
    assert told["problem"].get("pointer") == pointer
    assert told["problem"]["instance"] == "/v1/stream"
    assert (await line.submit())["event"] == "accepted"  # the connection goes on


@pytest.mark.parametrize("wrong", [{"op": "submit", "order": BUY}, {"op": "submit", "id": ""}])
async def test_a_request_without_an_id_is_an_error_of_the_stream(
    line: Line, wrong: dict[str, Any]
) -> None:
    assert (await line.ask(**wrong))["code"] == "invalid_message"


async def test_a_whole_number_may_be_written_as_a_float(line: Line) -> None:
    assert (await line.submit(group=7.0))["orders"][0]["group"] == 7


async def test_a_frozen_account_and_a_halted_market(api: Api, line: Line) -> None:
    await api.patch("/v1/accounts/alice", {"frozen": True})
    assert problem(await line.submit()) == (403, "account_frozen")
    await api.patch("/v1/accounts/alice", {"frozen": False})
    await line.submit("1", client_id="kept")
    await api.post("/v1/markets/BTC-USD/halt", {"reason": "test"})
    assert problem(await line.submit()) == (409, "halted")
    assert (await line.ask(op="cancel", id="c", client_id="kept"))["event"] == "accepted"


async def test_a_revoked_key_trades_no_more(api: Api, line: Line) -> None:
    await line.submit()
    (key,) = (await api.get("/v1/accounts/alice/keys")).json
    assert (await api.delete(f"/v1/keys/{key['key']}")).status == 200
    assert problem(await line.submit()) == (401, "key_revoked")


async def test_requests_count_against_the_rate_of_the_key(tmp_path: Path) -> None:
    rules = AccessRules(operator_token=TOKEN, rate_limit=6)
    async with running_api(tmp_path / "journal", rules=rules) as api:
        key = await api.account("alice", USD="100000")
        async with connect(api, key) as socket:  # the first of six
            line = Line(socket)
            requests = [{"op": "submit", "id": str(n), "order": BUY} for n in range(7)]
            told = await line.ask(op="many", id="m", requests=requests)
    events = [each["event"] for each in told["results"]]
    assert events == ["accepted"] * 5 + ["refused"] * 2
    assert told["results"][-1]["problem"]["retry_after"] >= 1


async def test_the_operator_trades_for_any_account(api: Api, line: Line) -> None:
    async with connect(api) as socket:
        operator = Line(socket)
        told = await operator.ask(op="submit", id="1", order=BUY, account="alice")
        assert told["orders"][0]["account"] == 1
        told = await operator.ask(op="submit", id="1", order=BUY, account="nemo")
        assert problem(told) == (404, "unknown_account")
        told = await operator.ask(op="submit", id="1", order=BUY)
        assert told["orders"][0]["account"] == 0


async def test_a_fault_of_the_node_is_an_incident(
    api: Api, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(order: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(api.node.trading, "place_now", broken)
    told = await line.submit()
    assert problem(told) == (500, "internal_error")
    assert told["problem"]["incident"]


# Limits


async def stalled(api: Api, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Hold commits back until the event is set."""
    release, tasks = asyncio.Event(), set()
    turn = api.node.committer._turn

    async def later() -> None:
        await release.wait()
        turn()

    def held() -> None:
        tasks.add(asyncio.ensure_future(later()))

    monkeypatch.setattr(api.node.committer, "_turn", held)
    return release


async def test_reading_waits_while_too_many_requests_are_under_way(
    api: Api, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_IN_FLIGHT", 3)
    release = await stalled(api, monkeypatch)
    for number in range(5):
        await line.send(op="submit", id=str(number), order=BUY)
    await asyncio.sleep(0.05)
    assert api.node.trading.order_count == 3
    release.set()
    assert [(await line.next())["id"] for _ in range(5)] == list("01234")


async def test_a_request_without_an_answer_in_time_gets_a_timeout(
    api: Api, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDLER_TIMEOUT", 0.05)
    release = await stalled(api, monkeypatch)
    assert problem(await line.submit("late")) == (504, "no_answer")
    release.set()
    assert (await line.submit("next"))["id"] == "next"  # and nothing more about the late one


# The typed client


def client_of(api: Api, key: str) -> StreamingClient:
    name, _, secret = key.partition(":")
    return StreamingClient(api.url, key=name, secret=secret)


async def test_the_client_has_every_request(api: Api) -> None:
    key = await api.account("alice", USD="100000")
    request = OrderRequest(
        market="BTC-USD", side="buy", quantity="0.1", price="20000", client_id="c"
    )
    async with client_of(api, key) as client:
        placed = await client.submit(request)
        assert placed.decided
        assert await placed.outcome() == [placed.order]
        amended = await client.amend(placed.order.id, AmendRequest(price="20001"))
        assert amended.order.price == "20001"
        batch = client.batch()
        batch.submit(OrderRequest(market="BTC-USD", side="buy", quantity="0.2", price="1000"))
        batch.amend(None, AmendRequest(price="20002"), client_id="c")
        batch.cancel("999")
        batch.cancel_many(group=3)
        first, second, third, fourth = await batch.send()
        assert not isinstance(first, ApiError)
        assert first.order.quantity == "0.2"
        assert not isinstance(second, ApiError)
        assert second.order.price == "20002"
        assert isinstance(third, ApiError)
        assert (third.status, third.code) == (404, "unknown_order")
        assert not isinstance(fourth, ApiError)
        assert fourth.orders == []
        assert (await client.cancel(client_id="c")).order.status == "cancelled"
        assert len((await client.cancel_many()).orders) == 1
        assert await client.cancel_after(5000)
        assert await client.cancel_after(0) is None
        await client.cancel_on_disconnect()
        with pytest.raises(ApiError, match="which is different") as refused:
            await client.submit(
                OrderRequest(market="BTC-USD", side="buy", quantity="0.3", client_id="c")
            )
        assert refused.value.status == 409


async def test_a_request_without_an_answer_fails_with_the_connection(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await api.account("alice", USD="100000")
    async with client_of(api, key) as client:
        await client.cancel_after(0)
        release = await stalled(api, monkeypatch)
        request = OrderRequest(market="BTC-USD", side="buy", quantity="0.1", price="20000")
        placing = asyncio.create_task(client.submit(request))
        while api.node.trading.order_count == 0:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.01)
        client._socket.abort("cut")  # type: ignore[union-attr]
        with pytest.raises(StreamClosed):
            await placing
        release.set()
        assert (await client.submit(request)).order.status == "open"  # over a new connection
    assert len(await open_orders(api)) == 2
