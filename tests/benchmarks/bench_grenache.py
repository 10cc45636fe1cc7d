"""Grenache RPC, ours and that of Node.js: calls a second, and 12 workers of which one dies

Everything on 127.0.0.1 with two real Grapes; each client and each worker is a process of its own. Calls are
a closed loop: so many in flight, each the echo of a JSON value of 200 bytes; ratios are to Node.js with
Node.js. In the second part 2,000 calls, 8 in flight, go to 12 Node.js workers, and after half of them the
process that answered the first call is killed. `idempotent` tells our client that a call may be repeated
when nobody knows whether it was done; without it, calls under way to the worker that dies fail.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import uvloop

from p2p.grenache.errors import GrenacheError
from p2p.grenache.link.link_client import Link
from p2p.grenache.rpc.rpc_client import Client
from tests.benchmarks.report import Row
from tests.interop.real import HERE, MODULES, NodeProgram, grape_pair

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("http", "ws")
IN_FLIGHT = (1, 64)
PAYLOAD = {"text": "x" * 189}  # 200 bytes as JSON
WORKERS, CALLS, AT_ONCE = 12, 2000, 8
WARM = 0.5  # seconds of calls that are not counted
NODE = "Node.js"


@dataclass
class Loop:
    """Results of closed loops: calls a second, quantiles in ms, and the client's processor time for a call in us, one
    entry for each round."""

    rates: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, calls: int, seconds: float, p50: float, p99: float, cpu: float) -> None:
        self.rates.append(calls / seconds)
        self.p50.append(p50)
        self.p99.append(p99)
        self.cpu.append(1e6 * cpu / calls)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    def row(self, what: str, base: Loop) -> Row:
        p50, p99 = statistics.median(self.p50), statistics.median(self.p99)
        cpu = statistics.median(self.cpu)
        note = f"p50 {p50:.3f} ms, p99 {p99:.3f} ms, client {cpu:.0f} us a call"
        return Row(what, self.rate, "/s", self.rate / base.rate, note)


async def our_loop(
    client: Client, service: str, in_flight: int, seconds: float, into: Loop
) -> None:
    took: list[float] = []
    now = time.perf_counter
    used = time.process_time()
    began = now()
    end = began + seconds

    async def work() -> None:
        while (sent := now()) < end:
            await client.request(service, PAYLOAD)
            took.append(now() - sent)

    await asyncio.gather(*(work() for _ in range(in_flight)))
    elapsed, used = now() - began, time.process_time() - used
    took.sort()
    p50, p99 = took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3
    into.add(len(took), elapsed, p50, p99, used)


async def node_loop(
    client: NodeProgram, service: str, in_flight: int, seconds: float, into: Loop
) -> None:
    command = {"service": service, "payload": PAYLOAD, "inFlight": in_flight, "seconds": seconds}
    said = await client.ask(command)
    assert not said["failed"], said["error"]
    into.add(said["calls"], said["ms"] / 1e3, said["p50"], said["p99"], said["cpu"] / 1e3)


@contextlib.asynccontextmanager
async def our_worker(grape: str, service: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.grenache_worker", grape, service),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline(), "our worker did not start"
        yield
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


async def speed(grape: str, logs: Path, rounds: int, seconds: float) -> list[Row]:
    rows = []
    for kind in KINDS:
        async with (
            Link([grape]) as link,
            Client(link, transport=cast(Literal["http", "ws"], kind)) as ours,
            NodeProgram("bench_client.js", logs / "client", {"kind": kind, "grape": grape}) as node,
            our_worker(grape, f"ours_{kind}"),
            NodeProgram(
                f"{kind}_worker.js", logs / "worker", {"grape": grape, "service": f"node_{kind}"}
            ) as worker,
        ):
            await node.line()
            await worker.line()
            for in_flight in IN_FLIGHT:
                found = {
                    (mine, served): Loop() for served in ("ours", "node") for mine in (True, False)
                }
                for number in range(rounds + 1):  # the first one warms up
                    for (mine, served), loop in found.items():
                        into, lasts = (loop, seconds) if number else (Loop(), WARM)
                        service = f"{served}_{kind}"
                        if mine:
                            await our_loop(ours, service, in_flight, lasts, into)
                        else:
                            await node_loop(node, service, in_flight, lasts, into)
                base = found[False, "node"]
                for (mine, served), loop in found.items():
                    what = f"{'our' if mine else NODE} client, {'our' if served == 'ours' else NODE} worker"
                    rows.append(loop.row(f"{kind}, {in_flight} in flight: {what}", base))
    return rows


# One of twelve dies


@contextlib.asynccontextmanager
async def workers(grape: str, service: str, logs: Path) -> AsyncIterator[list[NodeProgram]]:
    async with contextlib.AsyncExitStack() as stack:
        settings = {"grape": grape, "service": service}
        started = [
            await stack.enter_async_context(
                NodeProgram("http_worker.js", logs / f"worker-{n}", settings)
            )
            for n in range(WORKERS)
        ]
        for worker in started:
            await worker.line()
        yield started


async def our_calls(grape: str, service: str, *, idempotent: bool) -> tuple[int, int]:
    """Number of failed calls, and of workers used."""
    used: list[int] = []
    failed = 0
    numbers = count(1)

    async with Link([grape]) as link, Client(link) as client:

        async def work() -> None:
            nonlocal failed
            while (number := next(numbers)) <= CALLS:
                try:
                    used.append(
                        await client.request(service, {"action": "pid"}, idempotent=idempotent)
                    )
                except GrenacheError:
                    failed += 1
                if number == CALLS // 2:
                    os.kill(used[0], signal.SIGKILL)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return failed, len(set(used))


async def node_calls(grape: str, service: str, logs: Path) -> tuple[int, int]:
    settings = {"kind": "http", "grape": grape}
    async with NodeProgram("bench_client.js", logs / "client", settings) as client:
        await client.line()
        await client.send(
            {
                **{"service": service, "payload": {"action": "pid"}},
                **{"inFlight": AT_ONCE, "count": CALLS},
            }
        )
        os.kill((await client.line())["half"], signal.SIGKILL)
        said = await client.line()
    return said["failed"], len(said["used"])


async def one_dies(grape: str, logs: Path, rounds: int) -> list[Row]:
    found: dict[str, list[tuple[int, int]]] = {
        "our client": [],
        "our client, idempotent": [],
        NODE: [],
    }
    for number in range(rounds):
        for who, results in found.items():
            service = f"dying_{number}_{len(who)}"
            async with workers(grape, service, logs):
                if who == NODE:
                    results.append(await node_calls(grape, service, logs))
                else:
                    idempotent = who.endswith("idempotent")
                    results.append(await our_calls(grape, service, idempotent=idempotent))
    rows = []
    for who, results in found.items():
        rows.append(Row(f"one dies: failed calls, {who}", _worst(results, 0, max), f"of {CALLS:,}"))
        rows.append(Row(f"one dies: workers used, {who}", _worst(results, 1, min), f"of {WORKERS}"))
    return rows


def _worst(results: Sequence[tuple[int, int]], which: int, choose: Any) -> float:
    """Of all rounds."""
    return float(choose(result[which] for result in results))


async def measure(quick: bool) -> list[Row]:
    rounds, seconds = (3, 0.5) if quick else (7, 1.5)
    with tempfile.TemporaryDirectory() as directory:
        logs = Path(directory)
        async with grape_pair(logs) as pair:
            grape = pair[0].url
            return [
                *await speed(grape, logs, rounds, seconds),
                *await one_dies(grape, logs, 1 if quick else 3),
            ]


def run(quick: bool) -> list[Row]:
    if not (shutil.which("node") and shutil.which("npm")):
        return [Row("calls", None, "/s", note="Node.js and npm are not installed")]
    if not MODULES.exists():
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"],
            cwd=HERE,
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return uvloop.run(measure(quick))
