"""Requests whose key got lost on the way are refused; they are not the operator's, who needs none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from trading_kit import TOKEN, Api, running_api

from node.api.access import AccessRules

ORDER: Final = {"market": "BTC-USD", "side": "buy", "quantity": "0.1", "price": "20000"}
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
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    rules = AccessRules(operator_token=TOKEN)
    async with running_api(tmp_path / "journal", rules=rules) as api:
        yield api


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("path", ["/v1/orders", "/v1/session", "/v1/stream", "/metrics"])
async def test_keys_in_the_query_are_refused(api: Api, path: str, query: str) -> None:
    async with api.session.get(f"{api.url}{path}?{query}") as answer:
        problem = await answer.json(content_type=None)
        assert (answer.status, problem["code"]) == (401, "bad_authorization")


async def test_two_authorizations_are_refused(api: Api) -> None:
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
async def test_a_stream_that_failed_to_authenticate_belongs_to_no_account(
    api: Api, credentials: dict[str, str]
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
