"""Signed orders on the short way: the same bytes are answered the same, and checked the same, on both ways."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from direct_kit import HOST, KEY, WARM_UP, Pair, post, running

from node.annexes.bitfinex import authentication, dialect
from node.annexes.bitfinex.direct_submit import PATH, DirectSubmit
from node.api.access import AccessRules

ORDER = {"type": "EXCHANGE LIMIT", "symbol": "tBTCUSD", "amount": "0.1", "price": "30000"}


def signed(body: object = ORDER, *, nonce: int = 1, path: str = PATH, wrong: bool = False) -> bytes:
    key, secret = KEY.split(":")
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    message = f"/api{path}{nonce}".encode() + raw + (b"!" if wrong else b"")
    signature = hmac.digest(secret.encode(), message, "sha384").hex()
    headers = f"bfx-nonce: {nonce}\r\nbfx-apikey: {key}\r\nbfx-signature: {signature}\r\n"
    return post(raw, headers, path=path)


async def ask(pair: Pair, sent: bytes) -> tuple[int, bytes]:
    """Status and body, which are the same on both ways but for the time of the notification."""
    found = []
    for status, headers, body in await pair.both(sent):
        text = re.sub(rb"^\[\d{13},", b"[", body)
        lines = tuple(line for line in headers if not line.startswith("Content-Length"))
        found.append((status, lines, text))
    assert found[0] == found[1]
    return int(found[0][0].split(" ")[1]), found[0][2]


async def test_both_ways_answer_the_same(tmp_path: Path) -> None:
    async with running(tmp_path, AccessRules(keys_required=True), DirectSubmit) as pair:
        assert await ask(pair, signed()) == (500, b'["error",10100,"apikey: digest invalid"]')
        await pair.account("read", "trade")
        cases: list[tuple[bytes, int, bytes, bool]] = [
            (signed(nonce=5), 200, b"SUCCESS", True),
            (signed(nonce=5), 500, b"nonce: small", False),
            (signed(nonce=6, wrong=True), 500, b"digest invalid", False),
            (signed(ORDER | {"symbol": "tX"}, nonce=7), 500, b"symbol: invalid", True),
            (signed(ORDER | {"symbol": "tX"}, nonce=7), 500, b"nonce: small", False),
            (signed(ORDER | {"amount": "5"}, nonce=8), 500, b"not enough exchange", True),
            (signed(ORDER | {"price": "x"}, nonce=9), 500, b"price: invalid", True),
            (signed(b"{", nonce=10), 500, b"json: invalid", True),
            (signed(b"[]", nonce=11), 500, b"a JSON object is expected", True),
            (signed(ORDER | {"cid": 7}, nonce=12), 200, b"SUCCESS", True),
            (signed(ORDER | {"cid": 7}, nonce=13), 200, b"SUCCESS", True),
            (signed(ORDER | {"cid": 7, "amount": "0.2"}, nonce=14), 500, b"cid", True),
            (signed(nonce=15).replace(b"127.0.0.1", b"evil.test"), 403, b"forbidden_host", False),
            (signed(nonce=16, path=f"{PATH}?a=b"), 500, b"digest invalid", False),
            (post(ORDER, path=PATH), 500, b"apikey: invalid", False),
            (signed(nonce=17).replace(b"bfx-nonce: ", b"bfx-nonce: +"), 500, b"nonce", False),
        ]
        for sent, status, text, direct in cases:
            before = sum(pair.taken)
            found = await ask(pair, sent)
            assert found[0] == status, (sent, found)
            assert text in found[1] or text == b"cid", (sent, found)
            assert (sum(pair.taken) > before) == direct, sent
        first, second = pair.sides
        assert first.node.trading.order_count == second.node.trading.order_count == 3
        assert first.server.figures.requests == second.server.figures.requests


async def test_a_key_that_may_not_trade_is_refused_the_same(tmp_path: Path) -> None:
    async with running(tmp_path, AccessRules(keys_required=True), DirectSubmit) as pair:
        await pair.account("read")
        status, text = await ask(pair, signed())
        assert (status, b"permission invalid" in text) == (500, True)
        assert pair.taken == [True]


async def test_the_rate_is_counted_the_same(tmp_path: Path) -> None:
    rules = AccessRules(keys_required=True, rate_limit=60)
    async with running(tmp_path, rules, DirectSubmit) as pair:
        await pair.account("read", "trade")
        small = ORDER | {"amount": "0.001"}
        found = [await ask(pair, signed(small, nonce=nonce)) for nonce in range(1, 30)]
        statuses = [status for status, _ in found]
        assert 429 in statuses
        assert statuses == sorted(statuses)
        assert all(pair.taken)


async def test_a_fault_of_the_node_has_its_number_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with running(tmp_path, AccessRules(), DirectSubmit) as pair:
        await pair.account("read", "trade")
        monkeypatch.setattr(pair.sides[0].node.engine.orders, "place", fail)
        async with pair.sides[0].connection() as connection:
            await connection.ask(f"GET /v1/orders HTTP/1.1\r\n{HOST}\r\n".encode())
            _, _, body = await connection.ask(signed())
        incident = orjson.loads(body)[2].rpartition(" ")[2]
        assert f"incident {incident}: POST '{PATH}' failed" in caplog.text
        assert pair.taken == [True]


async def test_an_order_that_waits_for_other_nodes_is_answered_when_they_have_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, AccessRules(), DirectSubmit) as pair:
        await pair.account("read", "trade")
        side = pair.sides[0]
        trading = side.node.trading
        trading.take_answer_wait = 5.0
        place_now: Callable = trading.place_now
        placed: list = []

        def pending(order: object) -> object:
            placed.extend(place_now(order))
            placed[0].pending = 1
            return placed

        monkeypatch.setattr(trading, "place_now", pending)
        async with side.connection() as connection:
            await connection.ask(f"GET /v1/orders HTTP/1.1\r\n{HOST}\r\n".encode())
            asking = asyncio.create_task(connection.ask(signed()))
            while not placed:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            await trading.durable()
            assert not asking.done()
            placed[0].pending = 0
            side.node.engine.order_store.publish(side.node.now, placed[0])
            side.node.committer.wake()
            status, _, body = await asking
        assert status.startswith("HTTP/1.1 200 ")
        assert b"SUCCESS" in body


MILLISECOND = 1_795_473_194_887


@pytest.mark.parametrize("order", [ORDER, {**ORDER, "symbol": "tX"}], ids=["taken", "refused"])
async def test_an_answer_waits_until_a_clock_of_milliseconds_gives_another_nonce(
    order: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients on the same machine would else send the nonce of the first request again."""
    now = MILLISECOND * 1000 + 300
    monkeypatch.setattr(dialect, "_now", lambda: now)
    async with running(tmp_path, AccessRules(), DirectSubmit) as pair:
        await pair.account("read", "trade")
        for side in pair.sides:
            async with side.connection() as connection:
                await connection.ask(WARM_UP)
                monkeypatch.setattr(authentication, "PAUSE", 0.3)
                began = time.monotonic()
                await connection.ask(signed(order, nonce=MILLISECOND))
                assert time.monotonic() - began >= 0.3
                # Of the past or of microseconds: no wait, which would be longer than that of `ask`.
                monkeypatch.setattr(authentication, "PAUSE", 30.0)
                await connection.ask(signed(order, nonce=MILLISECOND + 1))
                await connection.ask(signed(order, nonce=now))
        assert pair.taken == [True] * 3


async def test_requests_one_after_another_with_milliseconds_as_nonces_are_all_taken(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, AccessRules(), DirectSubmit) as pair:
        await pair.account("read", "trade")
        for side in pair.sides:
            async with side.connection() as connection:
                await connection.ask(WARM_UP)
                for _ in range(100):
                    sent = signed({**ORDER, "symbol": "tX"}, nonce=time.time_ns() // 1_000_000)
                    _, _, body = await connection.ask(sent)
                    assert b"symbol: invalid" in body
