"""All rows of one moment can be read, however many there are: over pages, in both dialects and by the clients."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from bitfinex_kit import Credentials
from trading_kit import Api, client_of, running_api

from exchange.model.commands import NewOrder
from node.views.paging import Cursor, end_of_page, read_cursor

MANY: Final = 1200  # more than a page


class World:
    """A node where a buy of alice's has filled `MANY` asks of the house at once."""

    def __init__(self, api: Api, key: str) -> None:
        self.api = api
        self.key = key
        name, _, secret = key.partition(":")
        self.credentials = Credentials(name, secret, 10**15)

    async def get(self, path: str) -> tuple[list[Any], str | None]:
        answer = await self.api.get(path, key=self.key)
        assert answer.status == 200, answer.json
        return answer.json, answer.headers.get("Next-Cursor")

    async def signed(self, path: str, body: dict[str, Any]) -> tuple[list[Any], str | None]:
        data = json.dumps(body).encode()
        headers = self.credentials.headers(path, data)
        async with self.api.session.post(self.api.url + path, data=data, headers=headers) as answer:
            return await answer.json(), answer.headers.get("Next-Cursor")

    async def public(self, path: str) -> tuple[list[Any], str | None]:
        async with self.api.session.get(self.api.url + path) as answer:
            return await answer.json(), answer.headers.get("Next-Cursor")


async def fill_at_once(api: Api, account: int) -> None:
    """Fill `MANY` asks of the house by one buy: all trades have one time."""
    trading = api.node.trading
    (instrument,) = [each for each in api.node.instruments if each.symbol == "BTC-USD"]
    price, lots = instrument.to_ticks("20000"), instrument.to_lots("0.001")
    for _ in range(MANY):
        trading.place_now(NewOrder(market=instrument.key, side=-1, quantity=lots, price=price))
    await trading.durable()
    trading.place_now(
        NewOrder(market=instrument.key, side=1, quantity=lots * MANY, price=price, account=account)
    )
    await trading.durable()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running_api(tmp_path / "journal") as api:
        key = await api.account("alice", USD="1000000", BTC="1")
        await fill_at_once(api, 1)
        yield World(api, key)


async def every_page(
    read: Callable[[str | None], Any], identity: Callable[[Any], Any]
) -> tuple[list[Any], int]:
    """Follow the cursors; the rows' identities, and the number of pages."""
    found: list[Any] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        rows, cursor = await read(cursor)
        found += [identity(row) for row in rows]
        pages += 1
        assert pages < 100
    return found, pages


NATIVE: Final[list[tuple[str, int, Callable[[Any], Any]]]] = [
    ("/v1/fills?", MANY, lambda row: (row["id"], row["order_id"])),
    ("/v1/trades?", MANY, lambda row: row["id"]),
    ("/v1/trades?market=BTC-USD&", MANY, lambda row: row["id"]),
    ("/v1/fills?market=BTC-USD&", MANY, lambda row: row["id"]),
    ("/v1/ledger?asset=USD&", MANY + 1, lambda row: (row["transaction"], row["kind"])),
]


@pytest.mark.parametrize("sort", ["asc", "desc"])
async def test_cursors_lead_to_every_row_once(world: World, sort: str) -> None:
    for path, count, identity in NATIVE:

        async def rows_of(limit: int, path: str = path, identity: Any = identity) -> list[Any]:
            async def read(cursor: str | None) -> tuple[list[Any], str | None]:
                more = "" if cursor is None else f"&cursor={cursor}"
                return await world.get(f"{path}limit={limit}&sort={sort}{more}")

            return (await every_page(read, identity))[0]

        found = await rows_of(700)
        assert len(found) == len(set(found)) == count, path
        assert found == await rows_of(1000), "pages of another length have the same order"


@pytest.mark.parametrize("open_only", ["true", "false"])
async def test_orders_of_one_moment_are_on_pages_too(tmp_path: Path, open_only: str) -> None:
    async with running_api(tmp_path / "journal") as api:
        (instrument,) = [each for each in api.node.instruments if each.symbol == "BTC-USD"]
        price, lots = instrument.to_ticks("20000"), instrument.to_lots("0.001")
        for _ in range(250):
            api.node.trading.place_now(
                NewOrder(market=instrument.key, side=-1, quantity=lots, price=price)
            )
        await api.node.trading.durable()
        if open_only == "false":
            assert (await api.delete("/v1/orders?all=true")).status == 200

        async def read(cursor: str | None) -> tuple[list[Any], str | None]:
            more = "" if cursor is None else f"&cursor={cursor}"
            answer = await api.get(f"/v1/orders?open={open_only}&limit=100{more}")
            return answer.json, answer.headers.get("Next-Cursor")

        found, pages = await every_page(read, lambda row: row["number"])
        assert sorted(found) == list(range(1, 251))
        assert pages == 3, "the last one is empty"


async def test_clients_iterate_over_all_pages(world: World) -> None:
    async with client_of(world.api, world.key) as client:
        fills = [fill.id async for fill in client.every_fill()]
        trades = [trade.id async for trade in client.every_trade(market="BTC-USD")]
        lines = [line async for line in client.every_ledger_line(asset="USD")]
        orders = [order.id async for order in client.every_order(open_only=False)]
    async with client_of(world.api) as operator:
        postings = [line async for line in operator.every_posting("account:alice", asset="USD")]
        own = [fill async for fill in operator.every_fill(account="alice")]
    assert len(set(fills)) == len(fills) == len(set(trades)) == len(trades) == len(own) == MANY
    assert len(lines) == len(postings) == MANY + 1
    assert len(orders) == 1


DIALECT: Final = [
    ("/v2/auth/r/trades/hist", MANY),
    ("/v2/auth/r/trades/tBTCUSD/hist", MANY),
    ("/v2/auth/r/ledgers/USD/hist", MANY + 1),
    ("/v2/trades/tBTCUSD/hist", MANY),
]


async def dialect_page(world: World, path: str, **body: Any) -> tuple[list[Any], str | None]:
    if path.startswith("/v2/auth"):
        return await world.signed(path, body)
    query = "&".join(f"{name}={value}" for name, value in body.items())
    return await world.public(f"{path}?{query}")


@pytest.mark.parametrize("sort", [1, -1])
async def test_clients_that_page_by_time_get_every_row(world: World, sort: int) -> None:
    """A loop as clients of Bitfinex have it: the next page begins a millisecond after the last row, or before it."""
    for path, count in DIALECT:
        time_at = 1 if path.startswith("/v2/trades") else (3 if "ledgers" in path else 2)
        for limit in (100, 1000):
            found: list[Any] = []
            bound: dict[str, int] = {}
            while True:
                rows, _ = await dialect_page(world, path, limit=limit, sort=sort, **bound)
                if not rows:
                    break
                found += [tuple(row) for row in rows]
                last = rows[-1][time_at]
                bound = {"start": last + 1} if sort == 1 else {"end": last - 1}
            assert len(found) == len(set(found)) == count, (path, limit)


async def test_cursors_work_in_the_dialect(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "node.annexes.bitfinex.pages.ROWS_MAX", 400
    )  # more rows of one moment than a page
    for path, count in DIALECT:

        async def read(cursor: str | None, path: str = path) -> tuple[list[Any], str | None]:
            more = {} if cursor is None else {"cursor": cursor}
            return await dialect_page(world, path, limit=300, **more)

        found, pages = await every_page(read, json.dumps)
        assert len(found) == len(set(found)) == count, path
        assert pages == 3, "the last one is empty"


@pytest.mark.parametrize(
    "cursor", ["", "1", "a.b", "1.", ".1", "-1.2", "1.9999999", "1.999999", "1 .2"]
)
async def test_other_texts_are_no_cursors(tmp_path: Path, cursor: str) -> None:
    async with running_api(tmp_path / "journal") as api:
        world = World(api, await api.account("alice"))
        for path in ("/v1/fills", "/v1/trades", "/v1/orders", "/v1/ledger"):
            answer = await api.get(f"{path}?cursor={cursor}", key=world.key)
            assert (answer.status, answer.json["parameter"]) == (400, "cursor")
        for path, _ in DIALECT:
            told, _ = await dialect_page(world, path, cursor=cursor)
            assert told[:2] == ["error", 10020]


def test_a_page_within_one_moment_counts_on() -> None:
    assert end_of_page([1, 2, 2], int, None) == Cursor(2, 2)
    assert end_of_page([2, 2, 2], int, Cursor(2, 5)) == Cursor(2, 8)
    assert end_of_page([2, 3], int, Cursor(2, 5)) == Cursor(3, 1)
    assert end_of_page([3, 3], int, Cursor(2, 5)) == Cursor(3, 2)
    assert read_cursor(str(Cursor(1_700_000_000_000, 7))) == Cursor(1_700_000_000_000, 7)
    with pytest.raises(ValueError, match="Next-Cursor"):
        read_cursor(None)
