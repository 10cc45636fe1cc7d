"""Bitfinex's own libraries for Node.js, unmodified: sequence numbers audited, books checked, REST called."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bitfinex_world import BFX, IGNORED, SYMBOL, World, linked_pair, world_of
from processes import NodeProcess
from real import NodeProgram, eventually

pytestmark = [*IGNORED]
PRICE, STEP, ORDERS = 29_000, 10, 12


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    yield from linked_pair(tmp_path_factory.mktemp("node-programs"))


@pytest.fixture(params=[1, 2], ids=["one node", "two nodes"])
def world(pair: tuple[NodeProcess, NodeProcess], request: pytest.FixtureRequest) -> Iterator[World]:
    with world_of(pair, request.param) as world:
        yield world


async def asked(bot: NodeProgram, **command: Any) -> Any:
    await bot.send({"id": 1, **command})
    answer = await bot.line()
    assert answer["error"] is None, answer
    return answer["data"]


async def test_a_bot_trades_with_audited_sequence_numbers_and_verified_books(
    npm: Path, world: World, tmp_path: Path
) -> None:
    maker, owner = world.client(world.maker()), world.taker()
    # The first is so small that JavaScript prints it with an exponent; books do not show it.
    for price, amount in ((29_990, 0.0000005), (30_000, 0.02), (30_100, 0.02)):
        maker.create_order(SYMBOL, "limit", "sell", amount, price)
    for price, amount in ((30_000, 0.02), (30_100, 0.02)):
        world.seen(world.client(owner), "asks", price, amount)
    key, secret = owner.key()
    url = owner.node.api_url
    settings = {
        **{"api": url, "ws": url.replace("http", "ws", 1) + "/ws/2"},
        **{"key": key, "secret": secret, "symbol": BFX},
    }
    bot = await NodeProgram("bitfinex_bot.js", tmp_path / "bot.log", settings).start()
    try:
        assert await bot.line() == {"ready": True}
        done = await asked(bot, trade={"price": PRICE, "step": STEP, "orders": ORDERS})
        reads = await asked(bot, rest=True)
        client = world.client(owner)

        async def settled() -> bool:
            return bool(client.fetch_order(str(done["filled"]), SYMBOL)["status"] == "closed")

        await eventually(settled, what="both purchases filled")
        counts = await asked(bot, end=True)
    finally:
        await bot.stop()
    assert counts["errors"] == []  # sequence and checksum errors are emitted as errors
    assert counts["on"] + counts["oc"] >= ORDERS + 2
    assert counts["oc"] >= ORDERS / 2 + 2
    assert counts["ou"] >= ORDERS / 3
    assert counts["te"] == counts["tu"] >= 2
    assert counts["checksums"] >= 5
    assert reads["byToken"] == 1
    assert min(reads[name] for name in ("tickers", "trades", "accountTrades", "orderHistory")) >= 1
    bought = sum(trade["amount"] for trade in client.fetch_my_trades(SYMBOL))
    assert abs(bought - 0.025) < 1e-9
