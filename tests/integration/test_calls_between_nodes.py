"""Services between real processes: calls, failures that callers do not notice, hints, metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from processes import NodeProcess, Nodes, eventually, run_cli, see_each_other
from prometheus_client.parser import text_string_to_metric_families

from config import HostPort, Settings
from node.client.exchange_client import ApiError, ClientError, ExchangeClient
from node.daemon.library import HandlerError, open_node
from node.views.node_views import CallRequest, CallView, RouteView
from p2p.adaptive import DEGRADED, Hint

JOBS = """
import asyncio, time
from p2p.base.errors import HandlerError

async def execute(payload):
    await asyncio.sleep(payload.get("seconds", 0.01))
    if "refuse" in payload:
        raise HandlerError("no_job", payload["refuse"])
    return {"done": payload.get("n")}

def in_thread(payload):
    time.sleep(0.01)
    return {"thread": payload}
"""
FAST = {
    "WORKER_ANNOUNCE_INTERVAL": "300",
    "GOSSIP_PUBLISH_INTERVAL": "500",
    "CIRCUIT_BREAKER_COOLDOWN_MS": "2000",
}
SERVICE = "job_service"


@dataclass
class Network:
    """A caller and its workers."""

    caller: NodeProcess
    workers: list[NodeProcess] = field(default_factory=list)

    def routes(self, asked: NodeProcess | None = None) -> dict[str, RouteView]:
        view = (asked or self.caller).ask(lambda client: client.router(events=1))
        return {row.node: row for row in view.routes if row.service == SERVICE}


def launch_worker(
    nodes: Nodes, network: Network, name: str, *options: str, handler: str = "jobs:execute"
) -> NodeProcess:
    if not network.workers:  # later ones must not find it half written
        (nodes.directory / "jobs.py").write_text(JOBS)
    worker = nodes.make(name, *options, bootstrap=network.caller.p2p_address, **FAST)
    worker.command = ("worker", "--service", SERVICE, "--handler", handler)
    worker.launch()
    network.workers.append(worker)
    return worker


def add_worker(
    nodes: Nodes, network: Network, name: str, *options: str, **more: str
) -> NodeProcess:
    return launch_worker(nodes, network, name, *options, **more).ready()


def offered(network: Network, asked: NodeProcess | None = None) -> None:
    """Wait until the caller knows all workers."""
    wanted = {worker.node_id for worker in network.workers}

    def known() -> bool:
        views = (asked or network.caller).ask(lambda client: client.services())
        return any(set(view.nodes) == wanted for view in views if view.name == SERVICE)

    eventually(known, what="all workers to be known")


def three(nodes: Nodes, *options: tuple[str, ...], **settings: str) -> Network:
    network = Network(nodes.start("caller", **FAST, **settings))
    for number, more in enumerate(options or ((), (), ())):
        launch_worker(nodes, network, f"w{number}", *more)
    for worker in network.workers:
        worker.ready()
    offered(network)
    return network


def call(node: NodeProcess, payload: Any = None, /, **more: Any) -> CallView:
    request = CallRequest(payload={} if payload is None else payload, **more)
    return node.ask(lambda client: client.call_service(SERVICE, request))


class Load:
    """Calls from several threads until it is stopped."""

    def __init__(self, node: NodeProcess, payload: Any, /, callers: int = 6, **more: Any) -> None:
        self.node, self.payload, self.more = node, payload, more
        self.results: list[CallView] = []
        self.times: list[float] = []
        self.errors: list[ClientError] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(callers)
        self._work = [self._pool.submit(self._run) for _ in range(callers)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.results.append(call(self.node, self.payload, **self.more))
                self.times.append(time.monotonic())
            except ClientError as error:
                self.errors.append(error)

    def shares(self, since: float) -> Counter[str]:
        pairs = zip(list(self.times), list(self.results), strict=False)
        return Counter(result.node for at, result in pairs if at >= since)

    def report(self, what: str, node: str, ill: float, well: float) -> None:
        """Prints the caller's errors, when the node was last heard of while ill, and when again (`-s`)."""
        heard = [
            at for at, result in zip(self.times, self.results, strict=False) if result.node == node
        ]
        away = max((at - ill for at in heard if ill <= at < well), default=0.0)
        back = min((at - well for at in heard if at >= well), default=float("nan"))
        calls = f"{len(self.results)} calls, {len(self.errors)} failed"
        print(f"{what}: {calls}; away after {away:.2f} s, back after {back:.2f} s")

    def stop(self) -> None:
        self._stop.set()
        for work in self._work:
            work.result(30)
        self._pool.shutdown()


@contextlib.contextmanager
def load(node: NodeProcess, payload: Any, /, **more: Any) -> Iterator[Load]:
    made = Load(node, payload, **more)
    try:
        yield made
    finally:
        made.stop()


def test_worker_call_services_and_router_by_command_line(nodes: Nodes) -> None:
    network = Network(nodes.start("caller", **FAST))
    worker = add_worker(nodes, network, "w", handler="jobs:in_thread")
    offered(network)
    caller = network.caller
    answer = caller.cli("call", SERVICE, '{"action":"execute"}', "--timeout", "3000")
    assert (answer["node"], answer["result"]) == (worker.node_id, {"thread": {"action": "execute"}})
    (listed,) = [s for s in caller.cli("services") if s["name"] == SERVICE]
    assert listed["nodes"] == [worker.node_id]
    (route,) = [r for r in caller.cli("router")["routes"] if r["service"] == SERVICE]
    assert (route["node"], route["state"], route["success_count"]) == (worker.node_id, "CLOSED", 1)
    assert SERVICE in worker.status().services
    assert f"serves     {SERVICE}" in worker.log
    here = worker.cli("call", SERVICE, '{"at":"home"}')  # a worker may ask itself
    assert here["node"] == worker.node_id
    missing = run_cli("call", "nix", "--data-dir", str(caller.data_dir))
    assert missing.returncode == 1
    assert "offers the service 'nix'" in missing.stderr
    wrong = run_cli("worker", "--handler", "nix_here:f", "--data-dir", str(caller.data_dir))
    assert wrong.returncode == 2
    assert worker.stop() == 0
    eventually(
        lambda: SERVICE not in [s.name for s in caller.ask(lambda client: client.services())],
        timeout=0.9,  # by its goodbye: the lease runs for a second and more
    )


def test_every_node_offers_its_public_data(nodes: Nodes) -> None:
    a, b = nodes.pair(**FAST)
    a.sell(2, 30)
    eventually(lambda: b.asks() == {"30": "2"})

    def ask(service: str, payload: Any) -> Any:
        request = CallRequest(payload=payload, node=a.node_id[:12])
        return b.ask(lambda client: client.call_service(service, request)).result

    eventually(lambda: len(b.ask(lambda client: client.services())) == 4)
    book = ask("book", {"market": "TEST-USD"})
    assert [(level["price"], level["quantity"], level["own"]) for level in book["asks"]] == [
        ("30", "2", "0")
    ]
    b.buy(1, 30)
    eventually(lambda: ask("trades", {"market": "TEST-USD", "limit": 5}))
    assert "TEST-USD" in [market["symbol"] for market in ask("markets", None)]
    status = ask("status", None)
    assert status["node_id"] == a.node_id
    assert "data_dir" not in status
    assert "api_url" not in status
    for payload, code in (
        ({"market": "NIX"}, "unknown_market"),
        ({}, "bad_request"),
        ({"market": "TEST-USD", "depth": 0}, "bad_request"),
    ):
        with pytest.raises(ApiError) as caught:
            ask("book", payload)
        assert caught.value.problem["service_code"] == code


def test_a_worker_killed_mid_call_is_not_noticed_by_callers(nodes: Nodes) -> None:
    network = three(nodes)
    victim = network.workers[0]
    with load(network.caller, {"seconds": 0.05}, idempotent=True) as running:
        eventually(lambda: len(running.results) > 60)
        victim.kill9()
        killed = time.monotonic()
        eventually(lambda: len(running.results) > 300)
        away = running.shares(killed + 1.0)
        victim.restart()
        restarted = time.monotonic()
        eventually(lambda: running.shares(time.monotonic() - 1.0)[victim.node_id] > 5)
    running.report("kill -9", victim.node_id, killed, restarted)
    assert running.errors == []
    assert away[victim.node_id] == 0
    assert len(away) == 2


def test_a_stopped_worker_costs_callers_no_call_and_comes_back(nodes: Nodes) -> None:
    network = three(nodes)
    victim = network.workers[1]
    with load(network.caller, {"seconds": 0.02}, idempotent=True, timeout_ms=4000) as running:
        eventually(lambda: len(running.results) > 60)
        victim.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        time.sleep(3.0)
        away = running.shares(stopped + 1.0)
        victim.send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        eventually(lambda: running.shares(time.monotonic() - 1.0)[victim.node_id] > 5)
    running.report("SIGSTOP", victim.node_id, stopped, resumed)
    assert running.errors == []
    assert away[victim.node_id] == 0
    assert sum(away.values()) > 50


def test_a_slow_worker_gets_the_smaller_share(nodes: Nodes) -> None:
    network = three(nodes, (), (), ("--latency", "150ms"))
    slow = network.workers[2]
    assert any("latency 0.15 s" in warning for warning in slow.status().warnings)
    with load(network.caller, {"seconds": 0.01}) as running:
        eventually(lambda: len(running.results) > 300)
    assert running.errors == []
    shares = running.shares(0.0)
    assert shares[slow.node_id] < 0.15 * shares.total()
    assert min(shares[worker.node_id] for worker in network.workers[:2]) > 0.25 * shares.total()


def test_a_breaker_opens_and_closes_and_hints_about_it_reach_the_others(nodes: Nodes) -> None:
    """One caller insists on the sick worker: the others are sent there so seldom that its breaker may
    open after half a minute only, or for less than the second from one look for hints to the next."""
    network = three(nodes, (), (), ("--flap", "3s"), CIRCUIT_BREAKER_FAILURE_THRESHOLD="2")
    caller, sick = network.caller, network.workers[2].node_id
    witness = nodes.start("witness", bootstrap=caller.p2p_address, **FAST)
    offered(network, witness)
    work = {"seconds": 0.005}
    with (
        load(caller, work, callers=2, idempotent=True) as running,
        load(caller, work, callers=1, node=sick) as insisting,
    ):

        def changed(*texts: str) -> bool:
            view = caller.ask(lambda client: client.router(events=1000, kind="breaker"))
            reasons = [event.reason for event in view.events if event.node == sick]
            return any(reason.startswith(texts) for reason in reasons)

        def heard(signal: str) -> bool:
            view = witness.ask(lambda client: client.router(events=1000, kind="hint"))
            reasons = [event.reason for event in view.events if event.node == sick]
            return f"{signal} from {caller.node_id}" in reasons

        eventually(lambda: changed("CLOSED to OPEN"), what="the breaker to open")
        eventually(lambda: heard("DEGRADED"), what="the witness to hear of it")
        eventually(lambda: changed("OPEN to HALF_OPEN"), what="a probe")
        eventually(lambda: changed("HALF_OPEN to CLOSED", "OPEN to CLOSED"), what="it to close")
        eventually(lambda: heard("HEALTHY"), what="the witness to hear of that")
        believed = witness.ask(lambda client: client.router()).hints
    assert running.errors == []
    assert insisting.results
    assert {type(error) for error in insisting.errors} == {ApiError}
    assert (sick, caller.node_id) in {(hint.node, hint.origin) for hint in believed}


def test_false_hints_do_not_take_a_healthy_worker_out_of_service(nodes: Nodes) -> None:
    network = three(nodes)
    victim = network.workers[0].node_id

    async def lie(seconds: float) -> None:
        """A rogue node that says without end that the victim is DEGRADED."""
        host, _, port = network.caller.p2p_address.rpartition(":")
        settings = Settings(
            data_dir=nodes.directory / "rogue",
            p2p_host="127.0.0.1",
            p2p_port=0,
            api_port=0,
            discovery_mdns=False,
            bootstrap_peers=(HostPort(host, int(port)),),
        )
        async with open_node(settings) as rogue:
            until = asyncio.get_running_loop().time() + seconds
            while asyncio.get_running_loop().time() < until:
                payload = rogue.mesh.hints.publish([Hint(victim, DEGRADED, 9.0, 1.0, "a lie")])
                assert payload is not None
                rogue.overlay.broadcast("hint", payload)
                await asyncio.sleep(0.5)

    with load(network.caller, {"seconds": 0.01}) as running:
        eventually(lambda: len(running.results) > 100)
        before = time.monotonic()
        asyncio.run(lie(4.0))
        heard = network.caller.ask(lambda client: client.router(events=1000, kind="hint")).events
        shares = running.shares(before)
    assert [event for event in heard if event.node == victim]
    assert running.errors == []
    assert network.routes()[victim].state == "CLOSED"
    assert shares[victim] > 0.2 * shares.total()  # a third is fair


def test_without_own_experience_the_only_worker_is_called_despite_bad_hints(nodes: Nodes) -> None:
    """Hints decide where there is no experience, and even then there is always somebody to ask."""
    network = Network(nodes.start("caller", **FAST))
    add_worker(nodes, network, "w")
    offered(network)
    assert call(network.caller, {"n": 7}).result == {"done": 7}


def test_refusals_and_busy_answers_of_a_service_reach_the_caller(nodes: Nodes) -> None:
    # Without further attempts: the last of them could run out of time instead of being refused.
    network = Network(nodes.start("caller", **FAST, CLIENT_MAX_RETRIES="0"))
    add_worker(nodes, network, "w", "--concurrency", "1")
    offered(network)
    with pytest.raises(ApiError) as caught:
        call(network.caller, {"refuse": "not today"})
    assert (caught.value.status, caught.value.code) == (422, "service_refused")
    assert caught.value.problem["service_code"] == "no_job"
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(call, network.caller, {"seconds": 1.5})
        time.sleep(0.5)
        with pytest.raises(ApiError) as caught:
            call(network.caller, {"seconds": 0}, timeout_ms=500)
        assert (caught.value.status, caught.value.code) == (503, "service_busy")
        assert long.result(10).result == {"done": None}
    with pytest.raises(ApiError) as caught:
        call(network.caller, {"seconds": 5}, timeout_ms=200)
    assert (caught.value.status, caught.value.code) == (504, "call_timeout")


def test_metrics_parse_and_have_orders_calls_and_breakers(nodes: Nodes) -> None:
    network = Network(nodes.start("caller", **FAST))
    worker = add_worker(nodes, network, "w")
    offered(network)
    caller = network.caller
    see_each_other(caller, worker)
    caller.sell(3, 20)
    for _ in range(3):
        call(caller)
    with pytest.raises(ApiError):
        call(caller, {"refuse": "x"})
    with urllib.request.urlopen(f"{caller.api_url}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }
    name = "exchange_node_"
    assert found[name + "peers",] == 1
    assert found[name + "orders_total",] == 1
    assert found[name + "open_orders",] == 1
    assert found[name + "book_levels", "TEST-USD", "sell"] == 1
    assert found[name + "commit_seconds_count",] >= 1
    assert found[name + "calls_total", SERVICE, "ok"] == 3
    assert found[name + "calls_total", SERVICE, "refused"] == 1
    assert found[name + "call_seconds_count", SERVICE] == 3
    assert found[name + "breaker_state", *sorted([SERVICE, worker.node_id, "CLOSED"])] == 1
    assert found[name + "router_cost", *sorted([SERVICE, worker.node_id])] > 0
    assert all(family.documentation for family in families)


async def test_a_node_inside_another_program_serves_and_calls(tmp_path: Path) -> None:
    async def execute(payload: Any) -> Any:
        if "action" not in payload:
            raise HandlerError("no_action", "say what to do")
        return {"done": payload["action"]}

    def settings(name: str, *bootstrap: HostPort) -> Settings:
        return Settings(
            data_dir=tmp_path / name,
            p2p_host="127.0.0.1",
            p2p_port=0,
            api_port=0,
            discovery_mdns=False,
            bootstrap_peers=bootstrap,
            worker_announce_interval=200,
        )

    async with open_node(settings("a")) as a:
        a.serve(SERVICE, execute)
        host, port = a.overlay.address
        async with open_node(settings("b", HostPort(host, port))) as b:
            async with asyncio.timeout(10):
                while SERVICE not in b.mesh.directory.services():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert await b.call(SERVICE, {"action": "x"}, timeout=2.0) == {"done": "x"}
            with pytest.raises(HandlerError) as caught:
                await b.call(SERVICE, {})
            assert caught.value.code == "no_action"
            with pytest.raises(ValueError, match="served already"):
                a.serve(SERVICE, execute)
            async with ExchangeClient(b.api.url, node_id=b.node_id) as client:
                assert (await client.router()).routes[0].total_calls == 2
            a.withdraw(SERVICE)
            async with asyncio.timeout(10):
                while SERVICE in b.mesh.directory.services():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
    assert json.loads((tmp_path / "a" / ".peers.json").read_text())
