"""Signed orders: what is refused, which nonces are used up, and when the answer leaves."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from raw_kit import KEY, post, running

from node.annexes.bitfinex import authentication, dialect
from node.api.access import AccessRules

PATH = "/v2/auth/w/order/submit"
ORDER = {"type": "EXCHANGE LIMIT", "symbol": "tBTCUSD", "amount": "0.1", "price": "30000"}


def signed(body: object = ORDER, *, nonce: int = 1, path: str = PATH, wrong: bool = False) -> bytes:
    key, secret = KEY.split(":")
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    message = f"/api{path}{nonce}".encode() + raw + (b"!" if wrong else b"")
    signature = hmac.digest(secret.encode(), message, "sha384").hex()
    headers = f"bfx-nonce: {nonce}\r\nbfx-apikey: {key}\r\nbfx-signature: {signature}\r\n"
    return post(raw, headers, path=path)


@pytest.mark.parametrize("waiting", [False, True])
async def test_signed_orders_are_answered(tmp_path: Path, waiting: bool) -> None:
    rules = AccessRules(keys_required=True)
    async with running(tmp_path, rules, waiting=waiting) as node:
        answer = await node.ask(signed())
        assert answer[::2] == (500, b'["error",10100,"apikey: digest invalid"]')
        await node.account("read", "trade")
        cases: list[tuple[bytes, int, bytes]] = [
            (signed(nonce=5), 200, b"SUCCESS"),
            (signed(nonce=5), 500, b"nonce: small"),
            (signed(nonce=6, wrong=True), 500, b"digest invalid"),
            (signed(ORDER | {"symbol": "tX"}, nonce=7), 500, b"symbol: invalid"),
            (signed(ORDER | {"symbol": "tX"}, nonce=7), 500, b"nonce: small"),
            (signed(ORDER | {"amount": "5"}, nonce=8), 500, b"not enough exchange"),
            (signed(ORDER | {"price": "x"}, nonce=9), 500, b"price: invalid"),
            (signed(b"{", nonce=10), 500, b"json: invalid"),
            (signed(b"[]", nonce=11), 500, b"a JSON object is expected"),
            (signed(ORDER | {"cid": 7}, nonce=12), 200, b"SUCCESS"),
            (signed(ORDER | {"cid": 7}, nonce=13), 200, b"SUCCESS"),
            (signed(ORDER | {"cid": 7, "amount": "0.2"}, nonce=14), 500, b"client id"),
            (signed(nonce=15).replace(b"127.0.0.1", b"evil.test"), 403, b"forbidden_host"),
            (signed(nonce=16, path=f"{PATH}?a=b"), 500, b"digest invalid"),
            (post(ORDER, path=PATH), 500, b"apikey: invalid"),
            (signed(nonce=17).replace(b"bfx-nonce: ", b"bfx-nonce: +"), 500, b"nonce"),
        ]
        for sent, status, text in cases:
            answer = await node.ask(sent)
            assert answer.status == status, (sent, answer)
            assert text in answer.body, (sent, answer)
        assert node.node.trading.order_count == 3


async def test_a_key_that_may_not_trade_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path, AccessRules(keys_required=True)) as node:
        await node.account("read")
        answer = await node.ask(signed())
        assert (answer.status, b"permission invalid" in answer.body) == (500, True)


async def test_requests_are_counted_by_key(tmp_path: Path) -> None:
    async with running(tmp_path, AccessRules(keys_required=True, rate_limit=60)) as node:
        await node.account("read", "trade")
        small = ORDER | {"amount": "0.001"}
        async with node.connection() as connection:
            found = [await connection.ask(signed(small, nonce=n)) for n in range(1, 30)]
        statuses = [answer.status for answer in found]
        assert 429 in statuses
        assert statuses == sorted(statuses)


async def test_a_fault_of_the_node_has_its_number_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with running(tmp_path) as node:
        await node.account("read", "trade")
        monkeypatch.setattr(node.node.engine.orders, "place", fail)
        answer = await node.ask(signed())
        incident = orjson.loads(answer.body)[2].rpartition(" ")[2]
        assert f"incident {incident}: POST '{PATH}' failed" in caplog.text


async def test_an_order_that_waits_for_other_nodes_is_answered_when_they_have_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as node:
        await node.account("read", "trade")
        trading = node.node.trading
        trading.take_answer_wait = 5.0
        place_now: Callable = trading.place_now
        placed: list = []

        def pending(order: object) -> object:
            placed.extend(place_now(order))
            placed[0].pending = 1
            return placed

        monkeypatch.setattr(trading, "place_now", pending)
        asking = asyncio.create_task(node.ask(signed()))
        while not placed:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        await trading.durable()
        assert not asking.done()
        placed[0].pending = 0
        node.node.engine.order_store.publish(node.node.now, placed[0])
        node.node.committer.wake()
        answer = await asking
        assert (answer.status, b"SUCCESS" in answer.body) == (200, True)


MILLISECOND = 1_795_473_194_887


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("order", [ORDER, {**ORDER, "symbol": "tX"}], ids=["taken", "refused"])
async def test_an_answer_waits_until_a_clock_of_milliseconds_gives_another_nonce(
    order: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: bool
) -> None:
    """Clients on the same machine would else send the nonce of the first request again."""
    now = MILLISECOND * 1000 + 300
    monkeypatch.setattr(dialect, "_now", lambda: now)
    async with running(tmp_path, waiting=waiting) as node:
        await node.account("read", "trade")
        async with node.connection() as connection:
            monkeypatch.setattr(authentication, "PAUSE", 0.3)
            began = time.monotonic()
            await connection.ask(signed(order, nonce=MILLISECOND))
            assert time.monotonic() - began >= 0.3
            # Of the past or of microseconds: no wait, which would be longer than that of `ask`.
            monkeypatch.setattr(authentication, "PAUSE", 30.0)
            await connection.ask(signed(order, nonce=MILLISECOND + 1))
            await connection.ask(signed(order, nonce=now))


async def test_requests_one_after_another_with_milliseconds_as_nonces_are_all_taken(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as node:
        await node.account("read", "trade")
        async with node.connection() as connection:
            for _ in range(100):
                sent = signed({**ORDER, "symbol": "tX"}, nonce=time.time_ns() // 1_000_000)
                assert b"symbol: invalid" in (await connection.ask(sent)).body
