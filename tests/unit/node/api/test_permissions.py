"""Every route and message of both dialects with every kind of caller.

Read and trade are apart: a key does what its permissions say, over REST and over WebSocket, and nothing
else. A caller that is let in may be refused for other reasons, for the bodies and names here are made up.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, get_args

import aiohttp
import pytest
from bitfinex_kit import Credentials
from trading_kit import TOKEN, Api, running_api

from exchange.model.records import Permission
from node.annexes.bitfinex.order_operations import KINDS
from node.api.access import AccessRules
from node.api.route import Route
from node.api.routes import ROUTES
from node.operations.operation import Access
from node.streams.stream_messages import NODE

CALLERS: Final[dict[str, set[Access]]] = {
    "nobody": {"public"},
    "reader": {"public", "read"},
    "trader": {"public", "trade"},
    "both": {"public", "read", "trade"},
    "house reader": {"public", "read", "node"},
    "house trader": {"public", "trade"},
    "operator": set(get_args(Access)),
}
GRANTS: Final[dict[str, tuple[str, tuple[Permission, ...]]]] = {
    "reader": ("alice", ("read",)),
    "trader": ("alice", ("trade",)),
    "both": ("alice", ("read", "trade")),
    "house reader": ("house", ("read",)),
    "house trader": ("house", ("trade",)),
}
STRANGERS: Final = {"wrong secret": 401, "unknown": 401, "revoked": 401}
DENIED: Final = {"key_required", "no_permission", "operator_only"}
LIMIT: Final = {"type": "EXCHANGE LIMIT", "symbol": "tBTCUSD", "amount": "0.1", "price": "20000"}


class Gates:
    """A server, and the keys of all callers."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.keys = {"operator": f"operator:{TOKEN}"}
        self.nonce = 10**15

    async def prepare(self) -> None:
        await self._as_operator("POST", "/v1/accounts", {"name": "alice"})
        for asset, amount in (("USD", "100000"), ("BTC", "10")):
            body = {"asset": asset, "amount": amount}
            await self._as_operator("POST", "/v1/accounts/alice/deposits", body)
        for caller, (account, permissions) in GRANTS.items():
            self.keys[caller] = await self._key(account, permissions)
        self.keys["revoked"] = await self._key("alice", ("read", "trade"))
        await self.revoke("revoked")
        name = self.keys["both"].partition(":")[0]
        self.keys["wrong secret"] = f"{name}:{'x' * 43}"
        self.keys["unknown"] = f"{'k' * 32}:{'x' * 43}"

    async def _key(self, account: str, permissions: tuple[Permission, ...]) -> str:
        body = {"permissions": permissions}
        made = await self._as_operator("POST", f"/v1/accounts/{account}/keys", body)
        return f"{made['key']}:{made['secret']}"

    async def _as_operator(self, method: str, path: str, body: Any = None) -> Any:
        status, found = await self.native(method, path, "operator", body)
        assert status < 300, found
        return found

    async def revoke(self, caller: str) -> None:
        await self._as_operator("DELETE", f"/v1/keys/{self.keys[caller].partition(':')[0]}")

    def headers(self, caller: str) -> dict[str, str]:
        key = self.keys.get(caller)
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    async def native(
        self, method: str, path: str, caller: str, body: Any = None
    ) -> tuple[int, dict[str, Any]]:
        async with self.api.session.request(
            method, self.api.url + path, json=body, headers=self.headers(caller)
        ) as response:
            text = await response.text()
            kind = response.content_type
            return response.status, json.loads(text) if "json" in kind and text else {}

    def credentials(self, caller: str) -> Credentials:
        self.nonce += 1
        key, _, secret = self.keys[caller].partition(":")
        return Credentials(key, secret, self.nonce)

    async def signed(self, path: str, caller: str, body: Any = None) -> Any:
        """The answer of a signed path of the Bitfinex dialect."""
        data = json.dumps(body or {}).encode()
        headers = self.credentials(caller).headers(path, data)
        async with self.api.session.post(
            self.api.url + path, data=data, headers=headers
        ) as response:
            return await response.json()


@pytest.fixture
async def gates(tmp_path: Path) -> AsyncIterator[Gates]:
    rules = AccessRules(keys_required=True, operator_token=TOKEN)
    async with running_api(tmp_path / "journal", rules=rules) as api:
        made = Gates(api)
        await made.prepare()
        yield made


# The node's own dialect


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation.name)
async def test_every_route_needs_its_permission(gates: Gates, route: Route) -> None:
    operation = route.operation
    path = re.sub(r"\{\w+\}", "x", operation.path)
    body = {} if operation.body is not None else None
    for caller, allowed in CALLERS.items():
        status, problem = await gates.native(operation.method, path, caller, body)
        denied = status in (401, 403) and problem.get("code") in DENIED
        assert denied == (operation.access not in allowed), (caller, status, problem)
        if denied:
            assert (status == 401) == (caller == "nobody")
    for caller, status in STRANGERS.items():
        assert (await gates.native(operation.method, path, caller, body))[0] == status


async def test_metrics_need_the_permission_to_see_the_node(gates: Gates) -> None:
    for caller, allowed in CALLERS.items():
        status, _ = await gates.native("GET", "/metrics", caller)
        assert (status in (401, 403)) == ("node" not in allowed), caller


async def test_the_part_of_a_book_that_is_ones_own_is_for_readers(gates: Gates) -> None:
    order = {"market": "BTC-USD", "side": "buy", "quantity": "0.1", "price": "20000"}
    status, _ = await gates.native("POST", "/v1/orders", "trader", order)
    assert status == 201
    for caller, own in (("nobody", "0"), ("trader", "0"), ("reader", "0.1"), ("both", "0.1")):
        _, book = await gates.native("GET", "/v1/book/BTC-USD", caller)
        assert [level["own"] for level in book["bids"]] == [own], caller


async def test_only_the_operator_reads_the_channels_of_any_account(gates: Gates) -> None:
    for caller, allowed in CALLERS.items():
        async with gates.api.session.ws_connect(
            gates.api.url + "/v1/stream", headers=gates.headers(caller)
        ) as socket:
            asked = {"op": "subscribe", "channel": "balances", "account": "alice"}
            await socket.send_json(asked)
            told = await socket.receive_json(timeout=5)
            if "operator" in allowed:
                assert told["stream"] == "balances/1"
                snapshot = await socket.receive_json(timeout=5)
                assert {row["asset"]: row["total"] for row in snapshot["balances"]} == {
                    "USD": "100000",
                    "BTC": "10",
                }
                await socket.send_json(asked | {"channel": "fills", "account": "nobody"})
                assert (await socket.receive_json(timeout=5))["code"] == "unknown_account"
            else:
                assert told["code"] in DENIED, told


@pytest.mark.parametrize("channel", sorted(NODE))
async def test_the_nodes_channels_need_the_permission_to_see_the_node(
    gates: Gates, channel: str
) -> None:
    for caller, allowed in CALLERS.items():
        async with gates.api.session.ws_connect(
            gates.api.url + "/v1/stream", headers=gates.headers(caller)
        ) as socket:
            await socket.send_json({"op": "subscribe", "channel": channel})
            told = await socket.receive_json(timeout=5)
            # The accounts of this test have no node around them: who may see one learns that.
            assert (told["code"] == "no_channel") == ("node" in allowed), told
            assert told["code"] in DENIED | {"no_channel"}


STREAM_ORDERS: Final[dict[str, dict[str, Any]]] = {
    "submit": {"order": {"market": "BTC-USD", "side": "buy", "quantity": "0.1", "price": "1000"}},
    "amend": {"order_id": "1", "changes": {"price": "1"}},
    "cancel": {"order_id": "1"},
    "cancel_many": {"all": True},
    "cancel_after": {"timeout_ms": 0},
    "cancel_on_disconnect": {"enabled": False},
}


@pytest.mark.parametrize("op", STREAM_ORDERS)
async def test_orders_over_the_stream_need_the_trade_permission(gates: Gates, op: str) -> None:
    for caller, allowed in CALLERS.items():
        async with gates.api.session.ws_connect(
            gates.api.url + "/v1/stream", headers=gates.headers(caller)
        ) as socket:
            request = {"op": op, "id": "1", **STREAM_ORDERS[op]}
            await socket.send_json(request)
            told = [await socket.receive_json(timeout=5)]
            if op in ("submit", "amend", "cancel", "cancel_many"):
                await socket.send_json({"op": "many", "id": "2", "requests": [request]})
                told += (await socket.receive_json(timeout=5))["results"]
            for each in told:
                problem = each.get("problem", {})
                denied = problem.get("code") in DENIED
                assert denied == ("trade" not in allowed), (caller, each)
                if denied:
                    assert problem["status"] == (401 if caller == "nobody" else 403)
            if "operator" not in allowed and "trade" in allowed:
                await socket.send_json(request | {"account": "house"})
                told_problem = (await socket.receive_json(timeout=5))["problem"]
                assert (told_problem["status"], told_problem["code"]) == (403, "operator_only")


async def test_a_revoked_key_on_an_open_stream_trades_no_more(gates: Gates) -> None:
    async with gates.api.session.ws_connect(
        gates.api.url + "/v1/stream", headers=gates.headers("both")
    ) as socket:
        await gates.revoke("both")
        for op, fields in STREAM_ORDERS.items():
            await socket.send_json({"op": op, "id": "1", **fields})
            problem = (await socket.receive_json(timeout=5))["problem"]
            assert (problem["status"], problem["code"]) == (401, "key_revoked")


# The Bitfinex dialect

SIGNED: Final = {
    **dict.fromkeys(
        (
            "r/wallets", "r/orders", "r/orders/hist", "r/orders/tBTCUSD", "r/orders/tBTCUSD/hist",
            "r/order/tBTCUSD:1/trades", "r/trades/hist", "r/trades/tBTCUSD/hist",
            "r/ledgers/hist", "r/ledgers/USD/hist", "r/positions", "r/summary", "r/info/user",
            "calc/order/avail",
        ),
        "read",
    ),
    **dict.fromkeys(
        (
            "w/order/submit", "w/order/update", "w/order/cancel", "w/order/cancel/multi",
            "w/order/multi",
        ),
        "trade",
    ),
    **dict.fromkeys(("r/permissions", "w/token", "w/token/del"), ""),
}  # fmt: skip
KEYS: Final[dict[str, set[str]]] = {
    "reader": {"read", ""}, "trader": {"trade", ""}, "both": {"read", "trade", ""},
}  # fmt: skip


@pytest.mark.parametrize("path", SIGNED)
async def test_every_signed_path_needs_its_permission(gates: Gates, path: str) -> None:
    for caller, allowed in KEYS.items():
        told = await gates.signed(f"/v2/auth/{path}", caller)
        denied = told[:2] == ["error", 10100]
        assert denied == (SIGNED[path] not in allowed), (caller, told)
    for caller in STRANGERS:
        assert (await gates.signed(f"/v2/auth/{path}", caller))[:2] == ["error", 10100]
    async with gates.api.session.post(f"{gates.api.url}/v2/auth/{path}", json={}) as response:
        assert (await response.json())[:2] == ["error", 10100]


class Line:
    """An authenticated connection of the dialect."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def hear(self) -> Any:
        return json.loads(await self.socket.receive_str(timeout=5))

    async def until_quiet(self) -> list[Any]:
        await asyncio.sleep(0.15)  # the snapshots come a little after the answer to `auth`
        await self.socket.send_json({"event": "ping", "cid": 7})
        found: list[Any] = []
        while True:
            told = await self.hear()
            if isinstance(told, dict) and told["event"] == "pong":
                return found
            found.append(told)


async def connect(gates: Gates, caller: str, **more: Any) -> tuple[Line, dict[str, Any]]:
    url = gates.api.url.replace("http", "ws") + "/ws/2"
    line = Line(await gates.api.session.ws_connect(url))
    assert (await line.hear())["event"] == "info"
    await line.socket.send_json(gates.credentials(caller).event(**more))
    told: dict[str, Any] = await line.hear()
    return line, told


@pytest.mark.parametrize("caller", KEYS)
async def test_channel_0_follows_the_keys_permissions(gates: Gates, caller: str) -> None:
    line, told = await connect(gates, caller)
    assert told["status"] == "OK"
    assert {cap["read"] for cap in told["caps"].values()} == {int("read" in KEYS[caller])}
    snapshots = {message[1] for message in await line.until_quiet()}
    assert snapshots == ({"ps", "ws", "os", "bu"} if "read" in KEYS[caller] else set())
    await gates.signed("/v2/auth/w/order/submit", "both", LIMIT)
    events = {message[1] for message in await line.until_quiet()}
    assert events == ({"on", "wu", "bu"} if "read" in KEYS[caller] else set())
    await line.socket.close()


@pytest.mark.parametrize("caller", KEYS)
async def test_every_input_needs_its_permission(gates: Gates, caller: str) -> None:
    line, _ = await connect(gates, caller)
    await line.until_quiet()
    for kind in KINDS:
        payload: Any = [["on", LIMIT]] if kind == "ox_multi" else LIMIT if kind == "on" else {}
        await line.socket.send_json([0, kind, None, payload])
        heard = await line.until_quiet()
        (outcome,) = [message[2] for message in heard if message[1] == "n"]
        assert (outcome[5] == 10100) == ("trade" not in KEYS[caller]), (kind, outcome)
        if "read" not in KEYS[caller]:
            assert {message[1] for message in heard} == {"n"}
    await line.socket.send_json([0, "calc", None, [["balance"]]])
    heard = await line.until_quiet()
    if "read" in KEYS[caller]:
        assert {message[1] for message in heard} == {"bu"}
    else:
        assert [message["code"] for message in heard] == [10100]
    await line.socket.close()


async def test_the_dead_mans_switch_is_for_traders(gates: Gates) -> None:
    for caller, allowed in KEYS.items():
        line, told = await connect(gates, caller, dms=4)
        assert (told["status"] == "OK") == ("trade" in allowed)
        await line.socket.close()


async def test_a_revoked_key_does_nothing_more_on_an_open_connection(
    gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.annexes.bitfinex.bitfinex_socket.SEND_TIMEOUT", 0.4)
    line, _ = await connect(gates, "both")
    await line.until_quiet()
    await gates.revoke("both")
    await line.socket.send_json([0, "on", None, LIMIT])
    told = await line.hear()
    while not isinstance(told, dict):
        told = await line.hear()
    assert told["code"] == 10100
    async with asyncio.timeout(5):
        while (message := await line.socket.receive()).type is aiohttp.WSMsgType.TEXT:
            assert '"on"' not in message.data
    assert line.socket.close_code == 4001
