"""Gates of a program in the metrics of its node."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from node.daemon.machine_metrics import MAX_GATES, gates
from p2p.flow import Gate, GateStatus

pytestmark = pytest.mark.looptime


class Only(Collector):
    def __init__(self, found: Iterable[GateStatus]) -> None:
        self._found = list(found)

    def collect(self) -> Iterator[Metric]:
        yield from gates(self._found)


def lines(*found: GateStatus) -> list[str]:
    registry = CollectorRegistry()
    registry.register(Only(found))
    return [line for line in generate_latest(registry).decode().splitlines() if line[:1] != "#"]


async def test_a_gate_is_in_the_metrics_with_the_time_to_delivery() -> None:
    tries = iter([False, True])

    async def flaky() -> str:
        await asyncio.sleep(0.1)
        if next(tries, True):
            return "ok"
        raise TimeoutError

    async with Gate(name="chat", rng=random.Random(1)) as gate:
        began = asyncio.get_running_loop().time()
        await gate.call(flaky)
        took = asyncio.get_running_loop().time() - began
        status = gate.status()
        found = dict(line.rsplit(" ", 1) for line in lines(status))
    assert took > 0.2  # two attempts and a wait
    assert status.delivery.count == 1
    assert float(found['exchange_node_gate_delivery_seconds{gate="chat",quantile="0.5"}']) == (
        pytest.approx(took, rel=0.06)
    )
    assert found['exchange_node_gate_actions_total{gate="chat",kind="attempts"}'] == "2.0"
    assert found['exchange_node_gate_actions_total{gate="chat",kind="delivered"}'] == "1.0"
    assert found['exchange_node_gate_breaker_open{gate="chat"}'] == "0.0"


async def test_the_number_of_gates_is_bounded_and_names_are_unique() -> None:
    assert lines() == []
    async with Gate(name="one", rng=random.Random(1)) as gate:
        status = gate.status()
    assert (
        len(
            [line for line in lines(status, status) if line.startswith("exchange_node_gate_window")]
        )
        == 1
    )
    many = [replace(status, name=f"gate {n}") for n in range(2 * MAX_GATES)]
    shown = [line for line in lines(*many) if line.startswith("exchange_node_gate_window")]
    assert len(shown) == MAX_GATES
