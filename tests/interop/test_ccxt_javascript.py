"""ccxt for JavaScript trades on a node, with requests and streams (ccxt.pro), unmodified from npm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bitfinex_world import IGNORED, SYMBOL, World, linked_pair, world_of
from processes import NodeProcess
from real import NodeProgram, eventually

pytestmark = [*IGNORED]
PRICE, STEP, ORDERS = 29_000, 10, 48
AMENDED, CANCELLED = 16, 24  # every third and every second of the orders
READS = 16
CHECKSUMS = 6  # changes that come together have one


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    yield from linked_pair(tmp_path_factory.mktemp("ccxt-javascript"))


@pytest.fixture(params=[1, 2], ids=["one node", "two nodes"])
def world(pair: tuple[NodeProcess, NodeProcess], request: pytest.FixtureRequest) -> Iterator[World]:
    with world_of(pair, request.param) as world:
        yield world


async def asked(bot: NodeProgram, **command: Any) -> Any:
    answer = await bot.ask({"id": 1, **command})
    assert answer["error"] is None, answer
    return answer["data"]


@pytest.mark.parametrize("precision", ["P0", "R0"])
async def test_a_bot_trades_and_follows_its_orders_and_verified_books(
    npm: Path, world: World, tmp_path: Path, precision: str
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
        **{"key": key, "secret": secret, "symbol": SYMBOL, "precision": precision},
    }
    bot = await NodeProgram("ccxt_bot.js", tmp_path / "bot.log", settings).start()
    try:
        assert await bot.line() == {"ready": True}
        done = await asked(bot, trade={"price": PRICE, "step": STEP, "orders": ORDERS})
        reads = await asked(bot, rest={"order": done["filled"]})
        client = world.client(owner)

        async def settled() -> bool:
            return bool(client.fetch_order(done["filled"], SYMBOL)["status"] == "closed")

        await eventually(settled, what="both purchases filled")
        counts = await asked(bot, end=True)
    finally:
        await bot.stop()
    assert (done["placed"], done["amended"], done["cancelled"]) == (ORDERS + 2, AMENDED, CANCELLED)
    assert counts["errors"] == []  # a wrong checksum is one
    assert counts["checksums"] >= CHECKSUMS
    assert counts["same"]  # the followed book and the fetched one
    assert set(counts["closed"]) == {done["taken"], done["filled"]}
    assert abs(counts["bought"] - 0.025) < 1e-9
    assert counts["known"] == ORDERS + 2
    assert min(counts[name] for name in ("book", "ticker", "trades", "balance", "myTrades")) >= 1
    assert len(reads) == READS
    assert min(reads.values()) >= 1
