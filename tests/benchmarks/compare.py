"""Orders in two working trees in turn, before and after a change: `python -m tests.benchmarks.compare TREE`.

TREE is another checkout with an environment like this one's. Nodes of both run beside each other with
`JOURNAL_SYNC=normal` and take turns, so that both see the same machine: a pair for orders over REST and end to
end, and one more for orders with the keys of accounts, signed and over WebSockets. The ratio is this tree's figure
to the other's.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import aiohttp
import uvloop

from node.views.account_views import NewKeyView
from tests.benchmarks import bench_api, bench_e2e
from tests.benchmarks.report import Row, table
from tests.integration import processes

ROUNDS = 6
SECONDS = 0.5
IDLE = 10.0  # seconds
SETTLED = 6.0  # seconds until a node that has just started does nothing any more

Figures = dict[str, list[float]]  # by what was measured


@contextmanager
def tree(path: Path) -> Iterator[None]:
    """Nodes that are started meanwhile are of this tree."""
    before, processes.ROOT = processes.ROOT, path
    try:
        yield
    finally:
        processes.ROOT = before


async def orders(market: bench_e2e.Market, found: Figures) -> None:
    """A turn: orders over REST, then end to end."""
    process = market.first.process
    assert process is not None
    assert market.first.api_port is not None
    connect = bench_api.http(market.first.api_port, lambda number: resting())
    for clients in (1, bench_api.CLIENTS):
        samples = await bench_api.turn(process.pid, connect, clients, 1, SECONDS)
        name = f"REST, {clients} clients" if clients > 1 else "REST, 1 client"
        note(found, f"{name}: processor time an order", bench_api.cost(samples))
        note(found, f"{name}: answered, p50", bench_api.latency(50)(samples))
    placed = await market.place(1, SECONDS)
    note(found, "end to end: visible on the other node, p50", bench_e2e.visible(50)(placed))
    taken = await market.take(SECONDS)
    note(found, "end to end: taken from the other node, p50", bench_e2e.visible(50)(taken))


def resting() -> bench_api.Make:
    """Bids below all of the end-to-end benchmark's, which end there by their own price."""
    body = bench_e2e.order("buy", bench_e2e.FIRST_BID - 1)
    request = bench_api.post("/v1/orders", body)
    return lambda: request


def note(found: Figures, what: str, value: float) -> None:
    found.setdefault(what, []).append(value)


async def keyed(port: int, pid: int, keys: list[NewKeyView], found: Figures) -> None:
    """A turn: orders of accounts with their keys."""
    ways = {
        "Bitfinex REST": (bench_api.http(port, lambda number: bench_api.signed(keys[number])), 1),
        "Bitfinex WebSocket": (
            lambda number: bench_api.bitfinex(port, keys[number]),
            bench_api.WINDOW,
        ),
        "stream": (lambda number: bench_api.native_stream(port, keys[number]), bench_api.WINDOW),
    }
    for name, (connect, window) in ways.items():
        samples = await bench_api.turn(pid, connect, bench_api.CLIENTS, window, SECONDS)
        note(
            found,
            f"{name}, {bench_api.CLIENTS} clients: processor time an order",
            bench_api.cost(samples),
        )
        samples = await bench_api.turn(pid, connect, 1, 1, SECONDS)
        note(found, f"{name}, 1 client: answered, p50", bench_api.latency(50)(samples))


async def idle(markets: list[bench_e2e.Market], found: list[Figures]) -> None:
    """Processor time of nodes that have one link and nothing to do, in 0.01 % of a core."""
    pids = [market.second.process.pid for market in markets if market.second.process]
    before, begin = [bench_api.cpu_of(pid) for pid in pids], time.perf_counter()
    await asyncio.sleep(IDLE)
    for pid, cpu, figures in zip(pids, before, found, strict=True):
        share = (bench_api.cpu_of(pid) - cpu) / (time.perf_counter() - begin)
        note(figures, "idle with one link: processor time a second", share * 1e6)


async def measure(trees: list[Path], directory: Path, rounds: int) -> list[Figures]:
    found: list[Figures] = [{} for _ in trees]
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        markets, alone = [], []
        for number, path in enumerate(trees):
            with tree(path):
                market = stack.enter_context(bench_e2e.pair(directory / str(number), "normal"))
                own = directory / f"{number}-alone"
                own.mkdir()
                alone.append(stack.enter_context(bench_api.trading_node(own)))
            markets.append(market)
        await asyncio.sleep(SETTLED)
        await idle(markets, found)
        for market in markets:
            ready = asyncio.Event()
            watcher = asyncio.create_task(market.watch(session, ready))
            stack.callback(watcher.cancel)
            await asyncio.wait_for(ready.wait(), bench_e2e.DRAIN)
        turns = list(zip(markets, alone, found, strict=True))
        for number in range(rounds):  # each tree is the first in half of the rounds
            for market, (node, keys), figures in turns if number % 2 else reversed(turns):
                await orders(market, figures)
                assert node.process is not None
                assert node.api_port is not None
                await keyed(node.api_port, node.process.pid, keys, figures)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare", description=__doc__)
    parser.add_argument("tree", type=Path, help="the other working tree")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    trees = [arguments.tree.resolve(), processes.ROOT]
    with (
        tempfile.TemporaryDirectory(prefix="exchange-node-bench-") as scratch,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        before, after = runner.run(measure(trees, Path(scratch), arguments.rounds))
    rows = [
        Row(
            what,
            statistics.median(after[what]),
            "us",
            statistics.median(after[what]) / statistics.median(before[what]),
            f"before: {statistics.median(before[what]):,.0f} us",
        )
        for what in after
    ]
    print(table(f"Medians of {arguments.rounds} turns of each tree", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
