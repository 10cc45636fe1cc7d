from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from p2p.base.errors import DeliveryError, RpcError, RpcTimeout
from p2p.ground.owned_tasks import OwnedTasks
from p2p.rpc.relayed_trips import AT_ONCE, CHECK, INTERVAL, RelayedTrips

pytestmark = pytest.mark.looptime


class Nodes:
    """Nodes behind a relay, in place of `Rpc` and `Delivery`. `answers`: what each does, an error or a delay."""

    def __init__(self, **answers: float | Exception) -> None:
        self.answers = answers
        self.calls: list[str] = []
        self.trips: dict[str, list[float]] = {}

    def relayed_in_clear(self, now: float) -> list[str]:
        return list(self.answers)

    def measured(self, node: str, trip: float) -> None:
        self.trips.setdefault(node, []).append(trip)

    async def call(self, node: str, method: str, *, timeout: float) -> Any:
        self.calls.append(node)
        answer = self.answers[node]
        await asyncio.sleep(0.2 if isinstance(answer, Exception) else answer)
        if isinstance(answer, Exception):
            raise answer
        return {}


async def run(nodes: Nodes, seconds: float) -> None:
    trips = RelayedTrips(nodes, nodes, asyncio.get_running_loop().time)  # type: ignore[arg-type]
    tasks = OwnedTasks(logging.getLogger("test"))
    tasks.every(CHECK, trips.check, name="trips")
    await asyncio.sleep(seconds)
    await tasks.close()


async def test_each_node_is_measured_once_a_minute() -> None:
    nodes = Nodes(near=0.01, far=0.3)
    await run(nodes, 2 * INTERVAL + 2 * CHECK)
    assert nodes.trips == {"near": [pytest.approx(0.01)] * 3, "far": [pytest.approx(0.3)] * 3}


async def test_a_node_that_does_not_serve_the_method_is_measured_by_its_refusal() -> None:
    nodes = Nodes(foreign=RpcError("unknown_method", "ping"))
    await run(nodes, 1.0)
    assert nodes.trips == {"foreign": [pytest.approx(0.2)]}


@pytest.mark.parametrize(
    "error", [RpcTimeout("late"), DeliveryError("lost", []), RpcError("busy", "much to do")]
)
async def test_no_answer_is_no_round_trip(error: Exception) -> None:
    nodes = Nodes(lost=error)
    await run(nodes, INTERVAL / 2)
    assert nodes.calls == ["lost"]
    assert nodes.trips == {}


async def test_many_nodes_are_measured_a_few_at_a_time() -> None:
    nodes = Nodes(**{f"n{i}": 0.1 for i in range(5 * AT_ONCE)})
    await run(nodes, CHECK / 2)
    assert len(nodes.calls) == AT_ONCE
    nodes = Nodes(**{f"n{i}": 0.1 for i in range(5 * AT_ONCE)})
    await run(nodes, 6 * CHECK)
    assert set(nodes.trips) == set(nodes.answers)
