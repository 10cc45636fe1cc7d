"""Whole nodes in an existing Grenache network: real Grapes, real clients, real workers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from real import NodeProgram, RealGrape, eventually

from node.views.node_views import CallRequest
from tests.integration import processes
from tests.integration.processes import GRENACHE, NodeProcess, Nodes, same_books, see_each_other

T = TypeVar("T")

JOBS = """
from p2p.base.errors import HandlerError

def execute(payload):
    if payload == "refuse":
        raise HandlerError("no_job", "not this one")
    return {"python": payload}
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    found = Nodes(tmp_path)
    yield found
    found.cleanup()


def network(service: str) -> dict[str, str]:
    """Grapes are shared between tests, networks are not."""
    return {"P2P_NETWORK": service.replace("_", "-")}


def trade(seller: NodeProcess, buyer: NodeProcess, price: int) -> None:
    seller.sell(3, price)
    processes.eventually(lambda: str(price) in buyer.asks(), what=lambda: buyer.book())
    bought = buyer.buy(3, price)
    processes.eventually(lambda: buyer.get_order(bought.id).status == "filled")


async def soon(check: Callable[[], T]) -> T:
    """`processes.eventually` beside programs that are spoken to by this loop."""
    return await asyncio.to_thread(processes.eventually, check)


@pytest.mark.parametrize("direct", [True, False], ids=["hybrid", "Grenache only"])
def test_three_nodes_meet_through_real_grapes_and_trade(
    nodes: Nodes, grapes: list[RealGrape], service: str, direct: bool
) -> None:
    settings = {**GRENACHE, **network(service), "P2P_ENABLED": str(direct).lower()}
    urls = [grapes[0].url, grapes[1].url, f"{grapes[0].url},{grapes[1].url}"]
    a, b, c = (
        nodes.start(name, GRAPE_URL=url, **settings) for name, url in zip("abc", urls, strict=True)
    )
    see_each_other(a, b, c)
    for number, (seller, buyer) in enumerate([(a, b), (b, c), (c, a)]):
        trade(seller, buyer, 50 + number)
    same_books(a, b, c)
    carriers = {p.carrier for n in (a, b, c) for p in n.peers() if p.status == "connected"}
    assert carriers == {"tcp" if direct else "grenache"}


async def test_trading_goes_on_when_the_real_grapes_die(
    nodes: Nodes, own_grapes: list[RealGrape], service: str
) -> None:
    settings = {**GRENACHE, **network(service), "GRAPE_URL": ",".join(g.url for g in own_grapes)}
    a, b = (nodes.start(name, **settings) for name in "ab")
    await asyncio.to_thread(see_each_other, a, b)
    for grape in own_grapes:
        await grape.stop(signal.SIGKILL)
    await asyncio.to_thread(trade, a, b, 50)
    c = nodes.start("c", bootstrap=a.p2p_address, **settings)
    await asyncio.to_thread(see_each_other, a, b, c)
    await asyncio.to_thread(trade, c, b, 51)


def test_a_node_with_a_grape_inside_joins_the_dht_of_real_ones(
    nodes: Nodes, grapes: list[RealGrape], service: str
) -> None:
    settings = {**GRENACHE, **network(service)}
    a = nodes.start("a", GRAPE_URL=grapes[0].url, **settings)
    b = nodes.start(
        "b",
        GRAPE_BOOTSTRAP=grapes[1].dht_address,
        GRAPE_EMBEDDED="true",
        GRAPE_DHT_PORT="0",
        GRAPE_API_PORT="0",
        **settings,
    )
    see_each_other(a, b)
    trade(a, b, 50)
    trade(b, a, 51)


@pytest.mark.parametrize("transport", ["http", "ws"])
async def test_real_clients_call_a_service_that_a_node_serves(
    nodes: Nodes, grapes: list[RealGrape], service: str, transport: str, tmp_path: Path
) -> None:
    (nodes.directory / "jobs.py").write_text(JOBS)
    worker = nodes.make(
        "worker", GRAPE_URL=grapes[0].url, GRENACHE_SERVICES="true", **GRENACHE, **network(service)
    )
    worker.command = ("worker", "--service", service, "--handler", "jobs:execute")
    worker.start()
    async with NodeProgram(
        f"{transport}_client.js", tmp_path / "client.log", {"grape": grapes[1].url}
    ) as client:

        async def ask(payload: Any) -> tuple[Any, Any]:
            command = {"service": service, "id": 1, "payload": payload, "opts": {"timeout": 9000}}
            line = await client.ask(command)
            return line["error"], line.get("result")

        assert (await client.line())["ready"]
        await eventually(
            lambda: grapes[1].ask("lookup", service)
        )  # their client caches what is empty
        error, result = await ask({"n": 1})
        assert (error, result) == (None, {"python": {"n": 1}})
        assert await ask("refuse") == ("no_job: not this one", None)


async def test_a_node_calls_a_service_that_only_a_real_worker_serves(
    nodes: Nodes, grapes: list[RealGrape], service: str, tmp_path: Path
) -> None:
    caller = nodes.start(
        "caller", GRAPE_URL=grapes[0].url, GRENACHE_SERVICES="true", **GRENACHE, **network(service)
    )
    settings = {"grape": grapes[1].url, "service": service, "interval": 500}
    async with NodeProgram("http_worker.js", tmp_path / "worker.log", settings) as worker:
        assert (await worker.line())["ready"]

        def call(payload: Any) -> Any:
            request = CallRequest(payload=payload, timeout_ms=9000)
            return caller.ask(lambda client: client.call_service(service, request))

        view = await soon(lambda: call({"n": 1}))
        assert (view.node, view.result) == ("grenache", {"n": 1})
