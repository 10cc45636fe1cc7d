"""Orders on real nodes with and without sinks: latency, rate and processor time an order."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.bench_e2e import Http, connections, order
from tests.integration.processes import NodeProcess, eventually

SETTINGS = {"JOURNAL_SYNC": "normal", "LOG_LEVEL": "warning", "API_RATE_LIMIT": "0"}


def cpu(pid: int) -> float:
    """Seconds of processor that the threads of a process have had."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that ended
            nanoseconds += int((task / "schedstat").read_text("utf-8").split()[0])
    return nanoseconds / 1e9


@dataclass
class Load:
    """Orders on one node, in pairs that fill each other, and their cost. Times in seconds."""

    node: NodeProcess
    latencies: list[float] = field(default_factory=list)
    orders: int = 0
    elapsed: float = 0.0
    cpu: float = 0.0  # of the node's process alone
    _prices: itertools.count[int] = field(default_factory=lambda: itertools.count(0))

    def caught_up(self) -> bool:
        return not any(view.behind for view in self.node.status().exports)

    async def _orders(self, http: Http, pairs: int, pace: float) -> None:
        for _ in range(pairs):
            price = 2_500_000 + next(self._prices) % 5
            begun = time.perf_counter()
            for side in ("sell", "buy"):
                now = time.perf_counter()
                await http.post(order(side, price))
                self.latencies.append(time.perf_counter() - now)
            if pace:
                await asyncio.sleep(max(0.0, pace - (time.perf_counter() - begun)))

    def run(self, pairs: int, clients: int = 1, pace: float = 0.0) -> None:
        """Place `pairs` from each of `clients`. `pace`: seconds from one pair to the next."""

        async def all_of_them() -> None:
            async with connections(self.node.api_url, clients) as opened:
                await asyncio.gather(*(self._orders(http, pairs, pace) for http in opened))

        assert self.node.process is not None
        used, begun = cpu(self.node.process.pid), time.perf_counter()
        asyncio.run(all_of_them())
        self.elapsed += time.perf_counter() - begun
        self.cpu += cpu(self.node.process.pid) - used
        self.orders += 2 * pairs * clients

    def settle(self) -> None:
        """Wait until every sink has everything."""
        eventually(self.caught_up, 120, what=lambda: self.node.log)

    def milliseconds(self, percent: int) -> float:
        return statistics.quantiles(self.latencies, n=100)[percent - 1] * 1e3

    @property
    def rate(self) -> float:
        return self.orders / self.elapsed

    @property
    def cpu_us(self) -> float:
        """Processor time an order, in microseconds."""
        return self.cpu / self.orders * 1e6
