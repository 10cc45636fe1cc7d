"""Streams of real nodes: one book seen from two of them, through storms, cuts and restarts."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

from processes import MARKET, ROOT, NodeProcess, Nodes, environment, eventually

from node.client.streaming_client import BookSubscription, StreamingClient
from node.streams.stream_messages import (
    BookL2Snapshot,
    FillsSnapshot,
    Level,
    Orders,
    OrdersSnapshot,
)

WAIT = 20.0


def stream_of(node: NodeProcess) -> StreamingClient:
    return StreamingClient(node.api_url, node_id=node.node_id)


async def until(feed: BookSubscription[Any, Any], done: Callable[[], bool]) -> None:
    """Read a feed until this holds."""
    async with asyncio.timeout(WAIT):
        while not done():
            await anext(feed)


async def test_the_network_and_ones_own_part_of_it(nodes: Nodes) -> None:
    a, b = nodes.pair()
    a.sell(5, 10)
    b.sell(3, 10)
    b.sell(2, 11)
    eventually(lambda: a.asks() == b.asks() == {"10": "8", "11": "2"})
    async with stream_of(a) as at_a, stream_of(b) as at_b:
        whole = [client.book(MARKET, depth="full") for client in (at_a, at_b)]
        for feed in whole:
            await anext(feed)
            assert feed.book.asks() == [Level("10", "8", 2), Level("11", "2", 1)]
        assert whole[0].book.checksum == whole[1].book.checksum  # equal books, equal checksums
        own = [client.book(MARKET, depth="full", scope="own") for client in (at_a, at_b)]
        for feed in own:
            await anext(feed)
        assert own[0].book.asks() == [Level("10", "5", 1)]
        assert own[1].book.asks() == [Level("10", "3", 1), Level("11", "2", 1)]
        single = at_a.book(MARKET, level="L3", depth="full")
        await anext(single)
        assert [(entry.id.partition("-")[0], entry.own) for entry in single.book.asks()] == [
            (a.node_id, True),
            (b.node_id, False),
            (b.node_id, False),
        ]
        await asyncio.to_thread(a.buy, 6, 10)  # one's own, and one of the other's
        await until(whole[1], lambda: whole[1].book.asks()[:1] == [Level("10", "2", 1)])
        await until(own[0], lambda: not len(own[0].book))


async def test_books_are_right_through_a_storm_and_cuts(nodes: Nodes) -> None:
    a, b = nodes.pair()
    rng = random.Random(5)
    stop = asyncio.Event()
    seen: list[int] = []

    async def trade(node: NodeProcess) -> None:
        for done in itertools.count():
            if done >= 60 and min(seen) > 10:  # a conflated feed counts time, not orders
                return
            side = rng.choice([node.buy, node.sell])
            order = await asyncio.to_thread(side, rng.randrange(1, 9), rng.randrange(95, 106))
            if rng.random() < 0.3 and order.status == "open":
                await asyncio.gather(
                    asyncio.to_thread(node.cancel, order.id), return_exceptions=True
                )

    async with stream_of(a) as at_a, stream_of(b) as at_b:
        feeds: list[BookSubscription[Any, Any]] = [
            at_a.book(MARKET, depth="full"),
            at_b.book(MARKET, depth="full"),
            at_a.book(MARKET, level="L3", depth="full"),
            at_b.book(MARKET, level="L3", depth=25, conflate_ms=50),
            at_b.book(MARKET, level="L1"),
        ]
        seen.extend([0] * len(feeds))

        async def follow(number: int) -> None:  # every message is verified, or this fails
            async for _ in feeds[number]:
                seen[number] += 1

        async def cut() -> None:
            while not stop.is_set():
                await asyncio.sleep(0.2)
                for client in (at_a, at_b):
                    if client._socket is not None:
                        client._socket.abort("cut")

        async with asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(follow(number)) for number in range(len(feeds))]
            cutter = tasks.create_task(cut())
            async with asyncio.TaskGroup() as traders:
                for node in (a, b):
                    traders.create_task(trade(node))
            stop.set()
            await cutter
            await asyncio.to_thread(
                eventually, lambda: a.book().digest == b.book().digest, what="equal books"
            )
            true = await asyncio.to_thread(a.ask, lambda client: client.book(MARKET, depth=1000))
            expected = [
                [Level(level.price, level.quantity, level.orders) for level in levels]
                for levels in (true.bids, true.asks)
            ]

            def arrived() -> bool:
                return all([f.book.bids(), f.book.asks()] == expected for f in feeds[:2])

            async with asyncio.timeout(WAIT):
                while not arrived():  # noqa: ASYNC110 - the books are kept by other tasks
                    await asyncio.sleep(0.02)
                while feeds[4].book.bids() != expected[0][:1]:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            for follower in followers:
                follower.cancel()
        assert feeds[0].book.checksum == feeds[1].book.checksum
        assert sum(float(e.quantity) for e in feeds[2].book.asks()) == sum(
            float(level.quantity) for level in true.asks
        )
        assert min(seen) > 10


async def test_a_restarted_node_begins_anew_and_its_orders_are_there(nodes: Nodes) -> None:
    node = nodes.start("a")
    node.sell(5, 10)
    async with stream_of(node) as client:
        feed = client.book(MARKET)
        await anext(feed)
        node.kill9()
        await asyncio.to_thread(node.restart)
        async with asyncio.timeout(WAIT):
            message = await anext(feed)
        assert isinstance(message, BookL2Snapshot)
        assert message.reason == "restarted"
        await until(feed, lambda: feed.book.asks() == [Level("10", "5", 1)])


async def test_an_account_gets_its_orders_fills_and_balances(nodes: Nodes) -> None:
    a, b = nodes.pair()
    async with stream_of(b) as client:
        orders, fills, balances = client.orders(), client.fills(), client.balances()
        assert isinstance(await anext(orders), OrdersSnapshot)
        assert isinstance(await anext(fills), FillsSnapshot)
        await anext(balances)
        await asyncio.to_thread(a.sell, 5, 10)
        await asyncio.to_thread(eventually, b.asks)
        bought = await asyncio.to_thread(b.buy, 3, 10)
        async with asyncio.timeout(WAIT):
            states: list[str] = []
            while "filled" not in states:
                message = await anext(orders)
                assert isinstance(message, Orders)
                states += [order.status for order in message.orders if order.id == bought.id]
            (fill,) = (await anext(fills)).fills
            assert (fill.order_id, fill.quantity, fill.counterparty) == (bought.id, "3", a.node_id)
            held: dict[str, str] = {}
            while set(held) < {"TEST", "USD"}:
                held |= {view.asset: view.total for view in (await anext(balances)).balances}
        assert (held["TEST"], held["USD"]) == ("3", "-30")


def test_the_command_prints_a_message_a_line(nodes: Nodes) -> None:
    node = nodes.start("a")
    command = [sys.executable, "-m", "node.cli.main", "stream", MARKET, "--level", "L3"]
    with subprocess.Popen(
        [*command, "--data-dir", str(node.data_dir)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["event"] == "book_l3_snapshot"
        order = node.sell(5, 10)
        message = json.loads(process.stdout.readline())
        assert (message["event"], message["asks"][0][0]) == ("book_l3", order.id)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_the_example_of_orders_over_the_stream_runs_as_it_is_shown(nodes: Nodes) -> None:
    node = nodes.start("a")
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    (example,) = re.findall(r"(?m)^    import asyncio, os\n(?:(?:    .*)?\n)+", page)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(example)],
        env=environment(URL=node.api_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "accepted: open 0.5",
        "outcome: open 0",
        "30010",
        "31000",
        "unknown_order",
        "cancelled: 2",
    ], done.stderr
