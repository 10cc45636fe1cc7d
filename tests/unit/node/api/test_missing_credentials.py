"""Requests whose key got lost on the way are refused; they are not the operator's, who needs none."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from trading_kit import TOKEN, CheckedApi, client_of, running_api

from node.api.access import AccessRules

ORDER: Final = {"market": "BTC-USD", "side": "buy", "quantity": "0.1", "price": "20000"}
HEADERS: Final = (
    {"Authorization": ""},
    {"Authorization": " "},
    {"Authorization": "Bearer"},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer :"},
    {"Authorization": "Bearer operator:"},
    {"X-API-Key": ""},
    {"X-API-Key": "a:b"},
    {"bfx-apikey": ""},
    {"bfx-apikey": "a", "bfx-nonce": "1", "bfx-signature": "b"},
    {"X-Auth-Token": " "},
    {"EXCHANGE-NODE-KEY": ""},
    {"X-Key": "a:b"},
)
QUERIES: Final = (
    "api_key=",
    "apiKey=",
    "token=",
    "access_token=a",
    "authorization=",
    "X-API-Key=",
    "key=",
    "secret=a",
    "exchange_node_key=",
)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[CheckedApi]:
    rules = AccessRules(operator_token=TOKEN)
    async with running_api(tmp_path / "journal", rules=rules) as api:
        yield api


@pytest.mark.parametrize("headers", HEADERS, ids=str)
async def test_lost_keys_in_headers_are_refused(api: CheckedApi, headers: dict[str, str]) -> None:
    requests = (
        ("POST", "/v1/orders", ORDER),
        ("POST", "/v1/orders?wait_for_takes=true", ORDER),
        ("GET", "/v1/orders", None),
        ("GET", "/v1/session", None),
        ("GET", "/metrics", None),
        ("DELETE", "/v1/orders?all=true", None),
        ("GET", "/v1/stream", None),
    )
    for method, path, body in requests:
        async with api.session.request(
            method, api.url + path, json=body, headers=headers
        ) as answer:
            problem = await answer.json(content_type=None)
            assert (answer.status, problem["code"]) == (401, "bad_authorization"), path
            assert "Authorization: Bearer KEY:SECRET" in problem["detail"]
    assert (await api.get("/v1/orders?open=false")).json == []


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("path", ["/v1/orders", "/v1/session", "/v1/stream", "/metrics"])
async def test_keys_in_the_query_are_refused(api: CheckedApi, path: str, query: str) -> None:
    async with api.session.get(f"{api.url}{path}?{query}") as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"]) == (401, "bad_authorization")


async def test_two_authorizations_are_refused(api: CheckedApi) -> None:
    headers = [("Authorization", f"Bearer operator:{TOKEN}"), ("Authorization", "")]
    for both in (headers, headers[::-1]):
        async with api.session.get(f"{api.url}/v1/orders", headers=both) as answer:
            assert answer.status == 401


@pytest.mark.parametrize(
    "credentials",
    [
        {"key": "", "secret": ""},
        {"key": " ", "secret": " "},
        {"key": "a", "secret": ""},
        {"key": "", "secret": "a"},
        {"key": "operator", "secret": ""},
        {"key": "operator", "secret": "a"},
        {"key": "a", "secret": "b"},
        {},
        {"key": "a"},
        {"key": None, "secret": None},
        {"apiKey": "a", "secret": "b"},
    ],
    ids=str,
)
async def test_a_stream_that_failed_to_authenticate_is_nobodys(
    api: CheckedApi, credentials: dict[str, str]
) -> None:
    async with api.session.ws_connect(f"{api.url}/v1/stream") as socket:

        async def ask(**message: object) -> dict[str, Any]:
            await socket.send_json(message)
            return dict(await socket.receive_json(timeout=5))

        assert (await ask(op="submit", id="1", order=ORDER))["event"] == "accepted"
        refused = await ask(op="auth", **credentials)
        assert refused["event"] == "error"
        assert refused["code"] in ("bad_authorization", "bad_token", "bad_key", "invalid_message")
        unplaced = await ask(op="submit", id="2", order=ORDER)
        assert unplaced["event"] == "refused"
        assert unplaced["problem"]["code"] == "key_required"
        told = await ask(op="auth", key="operator", secret=TOKEN)
        assert told["event"] == "authenticated"
        assert (await ask(op="submit", id="3", order=ORDER))["event"] == "accepted"
    assert len((await api.get("/v1/orders")).json) == 2


@pytest.mark.parametrize(
    "fields",
    [{}, {"apiKey": ""}, {"apiKey": " "}, {"apiKey": None}, {"apiKey": "", "authSig": ""}],
    ids=str,
)
async def test_the_dialects_authentication_needs_a_key(
    api: CheckedApi, fields: dict[str, object]
) -> None:
    event = {"event": "auth", "authNonce": 1, "authPayload": "AUTH1", "authSig": "0"} | fields
    async with api.session.ws_connect(f"{api.url}/ws/2") as socket:
        await socket.receive_json(timeout=5)
        await socket.send_json(event)
        assert (await socket.receive_json(timeout=5))["status"] == "FAILED"
        await socket.send_json([0, "on", None, {"type": "EXCHANGE LIMIT", "symbol": "tBTCUSD"}])
        assert (await socket.receive_json(timeout=5))["msg"] == "auth: required"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"bfx-apikey": ""},
        {"bfx-apikey": " ", "bfx-nonce": "1", "bfx-signature": ""},
        {"bfx-token": ""},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer operator:{TOKEN}"},
    ],
    ids=str,
)
async def test_the_dialects_paths_need_a_key(api: CheckedApi, headers: dict[str, str]) -> None:
    body = {"type": "EXCHANGE LIMIT", "symbol": "tBTCUSD", "amount": "0.1", "price": "20000"}
    for path in ("/v2/auth/w/order/submit", "/v2/auth/r/orders"):
        async with api.session.post(api.url + path, json=body, headers=headers) as answer:
            assert (await answer.json())[:2] == ["error", 10100]


async def test_the_session_says_who_the_caller_is_and_why(api: CheckedApi) -> None:
    key = await api.account("alice", USD="10")
    cases = (
        ("", ("operator", "nothing", "house", None)),
        (f"operator:{TOKEN}", ("operator", "token", "house", None)),
        (key, ("account", "key", "alice", "")),
    )
    for credentials, expected in cases:
        async with client_of(api, credentials) as client:
            found = await client.session()
        shown = (found.access, found.authenticated_by, found.account_name, found.key_label)
        assert shown == expected
        assert found.operator == (found.access == "operator")
    assert key.partition(":")[2] not in json.dumps((await api.get("/v1/session", key=key)).json)


async def test_the_session_of_a_caller_without_a_key_is_public_where_keys_are_required(
    tmp_path: Path,
) -> None:
    rules = AccessRules(keys_required=True, operator_token=TOKEN)
    async with running_api(tmp_path / "journal", rules=rules) as api:
        found = (await api.get("/v1/session")).json
        assert (found["access"], found["authenticated_by"], found["account"]) == (
            "public",
            "nothing",
            None,
        )
