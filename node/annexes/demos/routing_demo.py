"""`exchange-node demo routing`: callers choose among workers of which one gets slow, one is flaky and one
crashes; the share of each, its cost and its breaker as they change."""

from __future__ import annotations

import asyncio
import contextlib
import json as jsonlib
import os
import random
import signal
import sys
import tempfile
import time as clock
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from node.annexes.demos.story import bars, figures, happening
from node.virtual.server_model import VirtualTime
from node.virtual.simulated_workers import (
    CallPlan,
    OutcomeCounts,
    Picker,
    RoundRobin,
    SimulatedCaller,
    SimulatedWorker,
)
from node.virtual.svg_plot import Band, Line, Panel, svg
from p2p.adaptive import AdaptiveRouter, BreakerState, RoutingEvent

SLICE: Final = 0.5  # seconds
PLAYBACK: Final = 5.0  # seconds of virtual time shown in one second
LENGTH: Final = 40.0
CALLERS: Final = 6
RATE: Final = 400.0  # calls a second of all callers; the workers could do 1000
SLOW: Final = (8.0, 20.0, 8.0)  # from, to, times slower
FLAKY: Final = (8.0, 28.0, 0.3)  # from, to, share that fails
CRASHES: Final = ((14.0, 18.0), (24.0, 28.0))
NAMES: Final = ("steady 1", "steady 2", "slow", "flaky", "crashing")
FAIR: Final = 1.0 / len(NAMES)
AWAY, BACK = 0.25, 0.5  # of the fair share: a worker counts as left, and as taken back

REAL_LENGTH: Final = 20.0
REAL_CRASH: Final = (6.0, 10.0)
REAL_CALLERS: Final = 8
SERVICE: Final = "demo"


@dataclass
class Show:
    """Record of a run. `costs` and `states` are one caller's view, by worker, per slice."""

    title: str
    length: float
    tally: OutcomeCounts = field(default_factory=lambda: OutcomeCounts(SLICE))
    costs: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    states: dict[str, str] = field(default_factory=lambda: dict.fromkeys(NAMES, "CLOSED"))
    events: list[tuple[float, str, str]] = field(default_factory=list)
    slices: int = 0

    def event(self, at: float, what: str, style: str = "") -> None:
        self.events.append((at, what, style))

    def shares(self, name: str) -> list[float]:
        return [self.tally.shares(number).get(name, 0.0) for number in range(self.slices)]


async def work(payload: Any) -> Any:
    """Handler of the workers of `--real`."""
    await asyncio.sleep(0.01)
    return payload


def run(seed: int, real: bool, as_json: bool, plot: Path | None, out: Console) -> int:
    """The demo; 0 when every call was answered (and, in virtual time, nothing was wrong)."""
    show = Show("calls to five workers", REAL_LENGTH if real else LENGTH)
    with _watched(show, out, real=real) as shown:
        if real:
            asyncio.run(_real(seed, show, shown))
        else:
            _virtual(seed, show, shown)
    summary = _summary(show, seed, real)
    if as_json:
        print(jsonlib.dumps(summary, indent=2))
    else:
        _print(show, summary, out)
    if plot is not None:
        plot.write_text(picture(show, summary), encoding="utf-8")
    return 0 if summary["failed_calls"] == 0 else 1


# Virtual time


def _simulate(
    seed: int, tally: OutcomeCounts, make: Callable[[int, random.Random], Picker]
) -> tuple[VirtualTime, dict[str, SimulatedWorker]]:
    """Workers, their troubles, and callers; to be run by the clock."""
    time = VirtualTime()
    workers = {name: SimulatedWorker(time, random.Random(f"{seed} {name}"), name) for name in NAMES}  # noqa: S311

    def change(name: str, **values: float) -> None:
        for key, value in values.items():
            setattr(workers[name], key, value)

    time.at(SLOW[0], lambda: change("slow", slow=SLOW[2]))
    time.at(SLOW[1], lambda: change("slow", slow=1.0))
    time.at(FLAKY[0], lambda: change("flaky", error_rate=FLAKY[2]))
    time.at(FLAKY[1], lambda: change("flaky", error_rate=0.0))
    for start, end in CRASHES:
        time.at(start, workers["crashing"].crash)
        time.at(end, workers["crashing"].rise)
    for number in range(CALLERS):
        rng = random.Random(f"{seed} caller {number}")  # noqa: S311 - the same story for the same seed
        picker = make(number, rng)
        plan = CallPlan(RATE / CALLERS, LENGTH)
        SimulatedCaller(time, rng, picker, list(workers.values()), tally, plan)
    return time, workers


def _virtual(seed: int, show: Show, shown: Callable[[], None]) -> None:
    first: list[AdaptiveRouter[str]] = []

    def make(number: int, rng: random.Random) -> Picker:
        router: AdaptiveRouter[str] = AdaptiveRouter(
            rng=rng, on_event=told if number == 0 else None
        )
        if number == 0:
            first.append(router)
        return router

    def told(event: RoutingEvent) -> None:
        if event.kind == "breaker":
            _breaker(show, event.at, str(event.peer), event.reason)

    time, workers = _simulate(seed, show.tally, make)
    for at, what in _troubles():
        time.at(at, show.event, at, what, "cyan")
    while show.slices * SLICE < LENGTH:
        time.run((show.slices + 1) * SLICE)
        for row in first[0].explain(time.now, list(workers)):
            show.costs[str(row.peer)].append(row.cost)
            show.states[str(row.peer)] = str(row.state)
        show.slices += 1
        shown()
    time.run(LENGTH + 5.0)  # what is still under way


def _troubles() -> list[tuple[float, str]]:
    found = [
        (SLOW[0], f"'slow' takes {SLOW[2]:g} times as long from now on"),
        (SLOW[1], "'slow' is as fast as the others again"),
        (FLAKY[0], f"'flaky' fails {100 * FLAKY[2]:.0f} % of its requests from now on"),
        (FLAKY[1], "'flaky' works again"),
    ]
    for start, end in CRASHES:
        found += [
            (start, "'crashing' crashes in the middle of its work"),
            (end, "'crashing' is back"),
        ]
    return sorted(found)


def _breaker(show: Show, at: float, name: str, reason: str) -> None:
    style = "red" if "to OPEN" in reason else "green" if "to CLOSED" in reason else "yellow"
    show.event(at, f"breaker of {name!r}: {reason}", style)


def _baseline(seed: int) -> OutcomeCounts:
    """The same calls, in turn to each worker."""
    tally = OutcomeCounts(SLICE)
    time, _ = _simulate(seed, tally, lambda number, rng: RoundRobin())
    time.run(LENGTH + 5.0)
    return tally


# Real nodes


class _Workers:
    """Worker nodes in processes of their own, each with a data directory below `scratch`."""

    def __init__(self, scratch: Path, bootstrap: str) -> None:
        self._scratch = scratch
        self._bootstrap = bootstrap
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def launch(self, name: str) -> None:
        faults = {"slow": ("--latency", "100ms"), "flaky": ("--error-rate", "0.3")}
        command = ["-m", "node.cli.main", "worker", "--service", SERVICE, "--no-mdns"]
        command += [
            "--handler",
            "node.annexes.demos.routing_demo:work",
            "--bootstrap",
            self._bootstrap,
        ]
        command += ["--data-dir", f"{self._scratch}/{name}", *faults.get(name, ())]
        command += ["--p2p-host", "127.0.0.1", "--p2p-port", "0", "--api-port", "0"]
        self._processes[name] = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={**os.environ, "WORKER_ANNOUNCE_INTERVAL": "500", "JOURNAL_SYNC": "normal"},
        )

    def names(self) -> dict[str, str]:
        """Names of the workers by node id, once all have started."""
        files = ((name, self._scratch / name / "node.json") for name in self._processes)
        return {jsonlib.loads(file.read_text())["node_id"]: name for name, file in files}

    async def kill(self, name: str) -> None:
        self._processes[name].send_signal(signal.SIGKILL)
        await self._processes[name].wait()

    async def end_all(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(process.wait() for process in self._processes.values()))


async def _real(seed: int, show: Show, shown: Callable[[], None]) -> None:
    """A node that calls, and workers in processes of their own, one of which is killed."""
    from config import Settings
    from node.daemon.library import CallError, open_node

    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory(prefix="exchange-node-demo-") as scratch:
        settings = Settings(
            data_dir=Path(scratch) / "caller",
            p2p_host="127.0.0.1",
            p2p_port=0,
            api_port=0,
            discovery_mdns=False,
            worker_announce_interval=500,
            circuit_breaker_cooldown_ms=4000,
        )
        async with open_node(settings) as node, contextlib.AsyncExitStack() as stack:
            host, port = node.overlay.address
            workers = _Workers(Path(scratch), f"{host}:{port}")
            stack.push_async_callback(workers.end_all)
            await asyncio.gather(*(workers.launch(name) for name in NAMES))
            async with asyncio.timeout(30):
                while len(node.mesh.directory.providers(SERVICE)) < len(NAMES):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            names = workers.names()

            started = loop.time()
            tally = show.tally

            async def caller() -> None:
                while (now := loop.time() - started) < REAL_LENGTH:
                    tally.calls += 1
                    try:
                        result = await node.mesh.caller.ask(SERVICE, tally.calls, idempotent=True)
                    except CallError as error:
                        tally.failed_calls += 1
                        show.event(now, f"a call failed: {error}", "bold red")
                    else:
                        tally.latencies.append(result.latency_s)
                        tally.attempt(now, names.get(result.node, "?"))
                        tally.attempts += result.attempts - 1

            async def kill_and_restart() -> None:
                await asyncio.sleep(REAL_CRASH[0])
                show.event(REAL_CRASH[0], "'crashing' is killed with SIGKILL", "cyan")
                await workers.kill("crashing")
                await asyncio.sleep(REAL_CRASH[1] - REAL_CRASH[0])
                show.event(loop.time() - started, "'crashing' is started again", "cyan")
                await workers.launch("crashing")

            async def look() -> None:
                told = started
                while loop.time() - started < REAL_LENGTH:
                    await asyncio.sleep(SLICE)
                    router = node.mesh.balancers.router(SERVICE)
                    for row in router.explain(loop.time(), list(names)):
                        show.costs[names[str(row.peer)]].append(row.cost)
                        show.states[names[str(row.peer)]] = str(row.state)
                    for noted in node.mesh.balancers.events.latest(100, kind="breaker"):
                        if noted.at > told:
                            name = names.get(noted.node, "?")
                            _breaker(show, noted.at - started, name, noted.reason)
                            told = noted.at
                    show.slices += 1
                    shown()

            async with asyncio.TaskGroup() as group:
                group.create_task(kill_and_restart())
                group.create_task(look())
                for _ in range(REAL_CALLERS):
                    group.create_task(caller())


# What is shown


def _first(show: Show, name: str, after: float, wanted: Callable[[float], bool]) -> float | None:
    """Seconds from `after` to the end of the first slice in which the share is as wanted."""
    for number in range(int(after / SLICE), show.slices):
        if wanted(show.tally.shares(number).get(name, 0.0)):
            return (number + 1) * SLICE - after
    return None


def _summary(show: Show, seed: int, real: bool) -> dict[str, Any]:
    tally = show.tally
    crash = REAL_CRASH if real else CRASHES[0]
    ill = {"crashing": crash}
    if not real:
        ill |= {"slow": SLOW[:2], "flaky": FLAKY[:2]}
    workers = []
    for name in NAMES:
        row: dict[str, Any] = {
            "worker": name,
            "share": round(tally.share_between(0.0, show.length, name), 4),
            "state": show.states[name],
        }
        if name in ill:
            start, end = ill[name]
            row["share_when_ill"] = round(tally.share_between(start + 1.0, end, name), 4)
            row["route_away_s"] = _first(show, name, start, lambda share: share < AWAY * FAIR)
            row["route_back_s"] = _first(show, name, end, lambda share: share > BACK * FAIR)
        workers.append(row)
    summary: dict[str, Any] = {
        "real": real,
        "seed": seed,
        "calls": tally.calls,
        "failed_calls": tally.failed_calls,
        "attempts": tally.attempts,
        "p50_ms": round(tally.percentile(0.5) * 1000, 1),
        "p99_ms": round(tally.percentile(0.99) * 1000, 1),
        "breaker_opened": sum("to OPEN" in what for _, what, _ in show.events),
        "workers": workers,
    }
    if not real:
        other = _baseline(seed)
        summary["round_robin"] = {
            "failed_calls": other.failed_calls,
            "attempts": other.attempts,
            "p50_ms": round(other.percentile(0.5) * 1000, 1),
            "p99_ms": round(other.percentile(0.99) * 1000, 1),
        }
    return summary


def _view(show: Show) -> Group:
    table = Table(
        title=f"{show.title}  {show.slices * SLICE:4.1f} of {show.length:g} s", title_justify="left"
    )
    table.add_column("worker")
    table.add_column("share", justify="right")
    table.add_column("")
    table.add_column("cost", justify="right")
    table.add_column("breaker")
    for name in NAMES:
        shares = show.shares(name)
        cost = show.costs[name][-1] if show.costs[name] else 0.0
        state = show.states[name]
        style = "green" if state == BreakerState.CLOSED else "bold yellow"
        share = shares[-1] if shares else 0.0
        line = Text(bars(shares, 50), style="cyan")
        table.add_row(name, f"{share:.0%}", line, f"{cost:.3f}", Text(state, style))
    recent = [happening(*event) for event in show.events[-8:]]
    return Group(table, *recent)


@contextlib.contextmanager
def _watched(show: Show, out: Console, *, real: bool) -> Iterator[Callable[[], None]]:
    if not out.is_terminal:
        yield lambda: None
        return
    with Live(_view(show), console=out, auto_refresh=False, transient=True) as live:
        began = clock.monotonic()

        def shown() -> None:
            live.update(_view(show), refresh=True)
            ahead = show.slices * SLICE / PLAYBACK - (clock.monotonic() - began)
            if not real and ahead > 0.0:
                clock.sleep(ahead)

        yield shown


def _print(show: Show, summary: dict[str, Any], out: Console) -> None:
    for event in sorted(show.events):
        out.print(happening(*event))
    table = Table(title="share of the requests", title_justify="left", title_style="bold")
    for name in ("worker", "over all", "when ill", "left after", "back after"):
        table.add_column(name, justify="left" if name == "worker" else "right")

    def seconds(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f} s"

    for row in summary["workers"]:
        ill = row.get("share_when_ill")
        table.add_row(
            row["worker"],
            f"{row['share']:.1%}",
            "-" if ill is None else f"{ill:.1%}",
            seconds(row.get("route_away_s")),
            seconds(row.get("route_back_s")),
        )
    out.print(table)
    other = summary.get("round_robin")

    def beside(key: str, unit: str = "") -> str:
        return "" if other is None else f"each in turn: {other[key]:,}{unit}"

    out.print(
        figures(
            "the calls",
            [
                ("calls", f"{summary['calls']:,}", f"from {REAL_CALLERS if summary['real'] else CALLERS} callers"),
                ("failed", f"{summary['failed_calls']:,}", beside("failed_calls")),
                ("requests sent", f"{summary['attempts']:,}", beside("attempts")),
                ("half took up to", f"{summary['p50_ms']:g} ms", beside("p50_ms", " ms")),
                ("99 of 100 up to", f"{summary['p99_ms']:g} ms", beside("p99_ms", " ms")),
                ("breakers opened", f"{summary['breaker_opened']}", "as one of the callers saw it"),
            ],
        )
    )  # fmt: skip


def picture(show: Show, summary: dict[str, Any]) -> str:
    """The shares and the costs as SVG."""
    if summary["real"]:
        bands = [Band(*REAL_CRASH, "killed")]
    else:
        bands = [Band(SLOW[0], SLOW[1], "slow"), *(Band(a, b, "crash") for a, b in CRASHES)]
    times = [(number + 1) * SLICE for number in range(show.slices)]

    def lines(values: Callable[[str], list[float]]) -> list[Line]:
        return [Line(name, list(zip(times, values(name), strict=False))) for name in NAMES]

    return svg(
        f"{summary['calls']:,} calls to five workers, {summary['failed_calls']} failed",
        [
            Panel(
                "Share of the requests",
                "seconds",
                "percent",
                lines(lambda name: [100 * share for share in show.shares(name)]),
                bands,
            ),
            Panel(
                "Cost as one caller sees it (capped at 1)",
                "seconds",
                "seconds",
                lines(lambda name: [min(1.0, cost) for cost in show.costs[name]]),
                bands,
            ),
        ],
    )
