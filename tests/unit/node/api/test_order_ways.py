"""Orders of all kinds, generated: one that is placed in the turn in which it comes is answered as one that has to wait
before, over REST and the stream of both dialects, and leaves equal books.

Two equal nodes with equal clocks get the same bytes. On one of them no order is placed before its task runs.
"""

from __future__ import annotations

import asyncio
import hmac
import itertools
import json
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from raw_kit import KEY, Connection, RawNode, post, running
from trading_kit import TOKEN

from node.api.access import AccessRules
from node.views.account_views import MoneyRequest

SUBMIT = "/v2/auth/w/order/submit"
JUNK = st.sampled_from([None, True, -1, 0, 1.5, "", "x", "-1", "1e9", [], {}, 10**25, "\ud7ff"])
PRICES = st.sampled_from(["30000", "29999.9", "30000.1", "31000", "29000", "30000.05", "1", "-5"])
AMOUNTS = st.sampled_from(["0.1", "0.00000001", "0.02", "0.01", "3", "-0.01", "-0.02", "0", "1e-3"])
FLAGS = st.sampled_from([0, 64, 64, 512, 1024, 4096, 4096, 16_384, 16_384, 1 << 40, "64"])


@st.composite
def bodies(
    draw: st.DrawFn,
    required: dict[str, st.SearchStrategy[Any]],
    optional: dict[str, st.SearchStrategy[Any]],
) -> dict[str, Any]:
    """A body with a few of the optional fields; one field in thirty has a value of another type."""
    names = [*required, *draw(st.lists(st.sampled_from([*optional]), max_size=3, unique=True))]
    if "price_oco_stop" in names and "flags" not in names:
        names.append("flags")
    fields = {**required, **optional}
    return {name: draw(JUNK if draw(st.integers(0, 19)) == 13 else fields[name]) for name in names}


NATIVE = bodies(
    {
        "market": st.sampled_from(["BTC-USD", "BTC-USD", "ETH-USD", "btc-usd", "X-Y"]),
        "side": st.sampled_from(["buy", "sell"]),
        "quantity": AMOUNTS,
        "price": PRICES,
    },
    {
        "tif": st.sampled_from(["gtc", "ioc", "fok", "gtd"]),
        "post_only": st.booleans(),
        "hidden": st.booleans(),
        "reduce_only": st.booleans(),
        "display_quantity": AMOUNTS,
        "stop": PRICES,
        "trailing_offset": PRICES,
        "oco_stop": PRICES,
        "worst_price": PRICES,
        "client_id": st.sampled_from(["a", "b", "ü"]),
        "group": st.integers(-1, 3),
        "expires": st.just("2999-01-01T00:00:00Z"),
        "colour": st.just("red"),
    },
)
KINDS = ["LIMIT", "MARKET", "STOP", "STOP LIMIT", "TRAILING STOP", "FOK", "IOC"]
BITFINEX = bodies(
    {
        "type": st.sampled_from(
            [f"EXCHANGE {kind}" for kind in ("LIMIT", "LIMIT", *KINDS)] + ["LIMIT"]
        ),
        "symbol": st.sampled_from(["tBTCUSD", "tETHUSD", "tBTC:USD", "tXY"]),
        "amount": AMOUNTS,
        "price": PRICES,
    },
    {
        "price_aux_limit": PRICES,
        "price_trailing": PRICES,
        "price_oco_stop": PRICES,
        "flags": FLAGS,
        "cid": st.integers(1, 3),
        "gid": st.integers(0, 3),
        "tif": st.just("2999-01-01 00:00:00"),
        "colour": st.just("red"),
    },
)
PAIR = {  # two orders, of which one cancels the other
    "type": "EXCHANGE LIMIT",
    "symbol": "tBTCUSD",
    "amount": "0.01",
    "price": "29000",
    "flags": 16_384,
    "price_oco_stop": "31000",
}
FEW = settings(
    max_examples=250,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Run = Callable[[Coroutine[Any, Any, Any]], Any]
Pair = tuple[RawNode, RawNode]


@contextmanager
def nodes(directory: Path) -> Iterator[tuple[Run, Pair, AsyncExitStack]]:
    """Two nodes with an account; what is opened in the stack ends before they do."""
    rules = AccessRules(operator_token=TOKEN)
    with asyncio.Runner() as runner:
        outer, inner = AsyncExitStack(), AsyncExitStack()
        made = [
            runner.run(outer.enter_async_context(running(directory, rules, waiting=waiting)))
            for waiting in (False, True)
        ]
        for node in made:
            runner.run(node.account("read", "trade", per_minute=10**6))
            for asset in ("BTC", "ETH", "USD"):
                money = MoneyRequest(asset=asset, amount="10000000")
                runner.run(node.node.operations.deposit("alice", money))
        try:
            yield runner.run, (made[0], made[1]), inner
        finally:
            runner.run(inner.aclose())
            runner.run(outer.aclose())


def check_books(pair: Pair, least: int) -> None:
    """Both nodes have the same orders, and as many as make the test worth something."""
    first, second = (side.node for side in pair)
    assert first.trading.order_count == second.trading.order_count >= least
    books = [[m.digest() for m in node.engine.markets.values()] for node in (first, second)]
    assert books[0] == books[1]
    balances = [node.trading.balances_of(1) for node in (first, second)]
    assert balances[0] == balances[1]


class Talk:
    """A connection to each node."""

    def __init__(self, pair: Pair, stack: AsyncExitStack) -> None:
        self._pair = pair
        self._stack = stack
        self._connections: list[Connection] = []

    async def ask(self, sent: bytes) -> list[tuple[int, bytes]]:
        if not self._connections:
            for side in self._pair:
                connection = await self._stack.enter_async_context(side.connection())
                self._connections.append(connection)
        found = [await connection.ask(sent) for connection in self._connections]
        return [(answer.status, answer.body) for answer in found]


def test_orders_over_the_native_api(tmp_path: Path) -> None:
    with nodes(tmp_path) as (run, pair, stack):
        talk = Talk(pair, stack)
        callers = ["", f"Authorization: Bearer {KEY}\r\n", "Authorization: Bearer a:b\r\n"]

        @FEW
        @given(NATIVE, st.sampled_from(callers))
        def check(body: dict[str, Any], caller: str) -> None:
            first, second = run(talk.ask(post(json.dumps(body).encode(), caller)))
            assert first == second, body

        check()
        check_books(pair, 10)


def test_orders_over_signed_rest(tmp_path: Path) -> None:
    key, secret = KEY.split(":")
    with nodes(tmp_path) as (run, pair, stack):
        talk, nonces = Talk(pair, stack), itertools.count(1)

        @FEW
        @example(PAIR)
        @given(BITFINEX)
        def check(body: dict[str, Any]) -> None:
            raw, nonce = json.dumps(body).encode(), next(nonces)
            message = f"/api{SUBMIT}{nonce}".encode() + raw
            signature = hmac.digest(secret.encode(), message, "sha384").hex()
            headers = f"bfx-nonce: {nonce}\r\nbfx-apikey: {key}\r\nbfx-signature: {signature}\r\n"
            first, second = (
                (status, re.sub(rb"^\[\d{13},", b"[", body))
                for status, body in run(talk.ask(post(raw, headers, path=SUBMIT)))
            )
            assert first == second, body

        check()
        check_books(pair, 10)


async def hear(socket: aiohttp.ClientWebSocketResponse) -> list[str]:
    """The messages about an input, without the time of its outcome; `bu` may stand before or after that."""
    found, values = [], 0
    while True:
        text = await asyncio.wait_for(socket.receive_str(), 10)
        if text.startswith('{"event":"pong"'):
            return [*found, f"{values} bu"]
        if text.startswith('[0,"bu"'):
            values += 1
        elif text != '[0,"hb"]':
            found.append(re.sub(r'^(\[0,"n",\[)\d{13},', r"\1", text))
        if text.startswith('[0,"n"'):
            await socket.send_str('{"event":"ping"}')


async def enter(stack: AsyncExitStack, port: int) -> aiohttp.ClientWebSocketResponse:
    session = await stack.enter_async_context(aiohttp.ClientSession())
    socket = await stack.enter_async_context(session.ws_connect(f"http://127.0.0.1:{port}/ws/2"))
    key, secret = KEY.split(":")
    signature = hmac.digest(secret.encode(), b"AUTH1", "sha384").hex()
    event = {"event": "auth", "apiKey": key, "authNonce": "1", "authPayload": "AUTH1"}
    await socket.send_str(json.dumps({**event, "authSig": signature}))
    while not (await asyncio.wait_for(socket.receive_str(), 10)).startswith('[0,"bu"'):
        pass
    return socket


def test_orders_over_the_bitfinex_socket(tmp_path: Path) -> None:
    with nodes(tmp_path) as (run, pair, stack):
        sockets = [run(enter(stack, side.port)) for side in pair]

        async def ask(text: str) -> list[list[str]]:
            for socket in sockets:
                await socket.send_str(text)
            return [await hear(socket) for socket in sockets]

        @FEW
        @example(PAIR)
        @given(BITFINEX)
        def check(body: dict[str, Any]) -> None:
            first, second = run(ask(json.dumps([0, "on", None, body])))
            assert first == second, body

        check()
        check_books(pair, 10)
