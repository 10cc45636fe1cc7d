"""Requests that can be read in two ways are refused, however they come in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from bitfinex_kit import Credentials
from trading_kit import Api, running_api

ORDER: Final = '"market":"BTC-USD","side":"buy","quantity":"0.1","price":"20000"'
REPEATED: Final = (
    ORDER + ',"quantity":"9"',
    ORDER + ',"side":"sell"',
    ORDER + ',"price":"30000"',
    ORDER + ',"quantity":"0.1"',
    ORDER + ',"m\\u0061rket":"ETH-USD"',
    ORDER + ',"group":1,"group":1.0',
)
DIALECT: Final = '"type":"EXCHANGE LIMIT","symbol":"tBTCUSD","amount":"0.1","price":"20000"'
REPEATED_DIALECT: Final = (
    DIALECT + ',"amount":"9"',
    DIALECT + ',"amount":"-0.1"',
    DIALECT + ',"pric\\u0065":"30000"',
    DIALECT + ',"meta":{"aff_code":"a","aff_code":"b"}',
)
FORMS: Final = (
    "+1",
    "1.",
    ".5",
    "1e0",
    "1E-1",
    " 1",
    "1 ",
    "1_0",
    "0x1",
    "1,0",
    "١",
    "",
    "1..0",
    "NaN",
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running_api(tmp_path / "journal") as api:
        yield api


async def post(api: Api, path: str, text: str, method: str = "POST") -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    answer = await api.session.request(method, api.url + path, data=text, headers=headers)
    async with answer:
        return answer.status, await answer.json(content_type=None)


async def nothing_was_placed(api: Api) -> None:
    assert (await api.get("/v1/orders?open=false")).json == []


@pytest.mark.parametrize("members", REPEATED)
@pytest.mark.parametrize("path", ["/v1/orders", "/v1/orders?wait_for_takes=true"])
async def test_repeated_members_of_a_body_are_refused(api: Api, path: str, members: str) -> None:
    status, problem = await post(api, path, f"{{{members}}}")
    assert (status, problem["code"]) == (400, "repeated_member")
    assert "twice" in problem["detail"]
    await nothing_was_placed(api)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/accounts", '"name":"alice","name":"bob"'),
        ("/v1/accounts/house/deposits", '"asset":"USD","amount":"1","amount":"9"'),
        ("/v1/orders/cancel-after", '"timeout_ms":5000,"timeout_ms":6000'),
        ("/v1/markets/BTC-USD/halt", '"reason":"a","reason":"b"'),
    ],
)
async def test_repeated_members_of_every_body_are_refused(api: Api, path: str, body: str) -> None:
    status, problem = await post(api, path, f"{{{body}}}")
    assert (status, problem["code"]) == (400, "repeated_member")


@pytest.mark.parametrize("members", REPEATED)
@pytest.mark.parametrize(
    "message",
    [
        '{"op":"submit","id":"1","order":{%s}}',
        '{"op":"submit","id":"1","order":{"market":"BTC-USD"},"order":{%s}}',
        '{"op":"many","id":"1","requests":[{"op":"submit","id":"2","order":{%s}}]}',
    ],
)
async def test_repeated_members_on_the_stream_are_refused(
    api: Api, message: str, members: str
) -> None:
    async with api.session.ws_connect(f"{api.url}/v1/stream") as socket:
        await socket.send_str(message % members)
        told = await socket.receive_json(timeout=5)
        assert (told["event"], told["id"]) == ("refused", "1")
        assert (told["problem"]["status"], told["problem"]["code"]) == (400, "repeated_member")
    await nothing_was_placed(api)


@pytest.mark.parametrize(
    "message",
    [
        f'{{"op":"submit","id":"1","id":"2","order":{{{ORDER}}}}}',
        '{"op":"subscribe","channel":"book","market":"BTC-USD","market":"ETH-USD"}',
        '{"op":"auth","key":"a","secret":"b","key":"c"}',
        '{"op":"ping","op":"ping"}',
    ],
)
async def test_repeated_members_of_other_messages_are_refused(api: Api, message: str) -> None:
    async with api.session.ws_connect(f"{api.url}/v1/stream") as socket:
        await socket.send_str(message)
        told = await socket.receive_json(timeout=5)
        assert (told["event"], told["code"]) == ("error", "invalid_message")
    await nothing_was_placed(api)


async def credentials(api: Api) -> Credentials:
    key, _, secret = (await api.account("alice", USD="100000", BTC="10")).partition(":")
    return Credentials(key, secret, 10**15)


@pytest.mark.parametrize("members", REPEATED_DIALECT)
async def test_repeated_members_in_the_dialect_are_refused(api: Api, members: str) -> None:
    holder, path = await credentials(api), "/v2/auth/w/order/submit"
    for text in (f"{{{members}}}", f" {{{members}}}"):
        data = text.encode()
        async with api.session.post(
            api.url + path, data=data, headers=holder.headers(path, data)
        ) as answer:
            assert answer.status == 400
            assert (await answer.json())[:2] == ["error", 10020]
    async with api.session.ws_connect(f"{api.url}/ws/2") as socket:
        await socket.receive_json(timeout=5)
        await socket.send_json(holder.event())
        assert (await socket.receive_json(timeout=5))["status"] == "OK"
        await socket.send_str(f'[0,"on",null,{{{members}}}]')
        told = await socket.receive_json(timeout=5)
        while isinstance(told, list):
            told = await socket.receive_json(timeout=5)
        assert (told["event"], told["code"]) == ("error", 10020)
        await socket.send_str('{"event":"ping","cid":1,"cid":2}')
        assert (await socket.receive_json(timeout=5))["msg"].startswith("json: invalid")
    assert (await api.get("/v1/orders?account=alice&open=false")).json == []


@pytest.mark.parametrize(
    "path",
    [
        "/v2/trades/tBTCUSD/hist?limit=1&limit=2",
        "/v2/tickers?symbols=ALL&symbols=tBTCUSD",
        "/v2/candles/trade:1m:tBTCUSD/hist?sort=1&sort=-1",
        "/v2/book/tBTCUSD/P0?len=1&len=25",
    ],
)
async def test_repeated_parameters_in_the_dialect_are_refused(api: Api, path: str) -> None:
    async with api.session.get(api.url + path) as answer:
        assert (answer.status, (await answer.json())[:2]) == (400, ["error", 10020])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "field", ["price", "quantity", "stop", "oco_stop", "display_quantity", "trailing_offset"]
)
async def test_numbers_in_other_forms_than_the_documents_show_are_refused(
    api: Api, field: str, form: str
) -> None:
    body = json.loads(f"{{{ORDER}}}") | {field: form}
    status, problem = await post(api, "/v1/orders", json.dumps(body))
    assert (status, problem["code"], problem["pointer"]) == (400, "bad_number", f"/{field}")
    async with api.session.ws_connect(f"{api.url}/v1/stream") as socket:
        await socket.send_json({"op": "submit", "id": "1", "order": body})
        assert (await socket.receive_json(timeout=5))["problem"]["code"] == "bad_number"
    await nothing_was_placed(api)


@pytest.mark.parametrize("form", FORMS)
async def test_amendments_and_amounts_take_plain_numbers_only(api: Api, form: str) -> None:
    placed = (await api.post("/v1/orders", json.loads(f"{{{ORDER}}}"))).json
    for field in ("price", "quantity"):
        body = json.dumps({field: form})
        status, problem = await post(api, f"/v1/orders/{placed['id']}", body, "PATCH")
        assert (status, problem["code"]) == (400, "bad_number")
    body = json.dumps({"asset": "USD", "amount": form})
    assert (await post(api, "/v1/accounts/house/deposits", body))[0] == 400


@pytest.mark.parametrize("value", ["1700000000", "1", "978307199", "20261125", "978307199999"])
@pytest.mark.parametrize("name", ["start", "end"])
@pytest.mark.parametrize(
    "path",
    ["/v1/orders", "/v1/fills", "/v1/trades", "/v1/candles/BTC-USD", "/v1/ledger", "/v1/postings"],
)
async def test_times_that_may_be_seconds_are_refused_with_the_milliseconds(
    api: Api, path: str, name: str, value: str
) -> None:
    answer = await api.get(f"{path}?{name}={value}")
    assert (answer.status, answer.json["code"], answer.json["parameter"]) == (
        400,
        "invalid_parameter",
        name,
    )
    assert f"{value}000" in answer.json["detail"]
    assert (await api.get(f"{path}?start=0")).status == 200


@pytest.mark.parametrize("value", ["1700000000", "4102444800"])
async def test_an_end_of_an_order_in_seconds_is_refused(api: Api, value: str) -> None:
    body = f'{{{ORDER},"tif":"gtd","expires":"{value}"}}'
    status, problem = await post(api, "/v1/orders", body)
    assert (status, problem["code"]) == (400, "bad_time")
    assert f"{value}000" in problem["detail"]
