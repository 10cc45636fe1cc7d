"""`exchange-node demo components`: each part of flow control alone, with the figures that show what it does."""

from __future__ import annotations

import asyncio
import json as jsonlib
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from node.virtual.server_model import Network, Server, VirtualTime, seeded
from node.virtual.svg_plot import Line, Panel, svg
from p2p.flow import (
    Admission,
    AdmissionCore,
    Aimd,
    AimdSettings,
    BreakerOpen,
    BreakerSettings,
    Busy,
    Canary,
    CircuitBreaker,
    Gate,
    Governor,
    LoadReport,
    Outcome,
    RateOwner,
    RetryBudget,
    RetryPolicy,
    RetrySettings,
    Shadow,
    SlidingWindow,
    TokenBucket,
    WarmUp,
    guarded,
)

Points = list[tuple[float, float]]


@dataclass
class Part:
    """Result of one component's demo. `holds` is True if the component had its intended effect."""

    name: str
    what: str
    holds: bool
    figures: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    curve: Points = field(default_factory=list)
    axis: str = ""


def run(seed: int, real: bool, json: bool, plot: Path | None, out: Console) -> int:
    """Show each part. 0 when all of them do what they are for. `real`: on this machine's clock."""
    parts = asyncio.run(_real(out, quiet=json)) if real else [make(seed) for make in PARTS]
    if plot is not None:
        plot.write_text(picture(parts), encoding="utf-8")
    if json:
        found = {p.name: {"holds": p.holds, **p.figures} for p in parts}
        print(jsonlib.dumps({"demo": "components", "seed": seed, "real": real, "parts": found}))
    else:
        if not real:
            for part in parts:
                _show(part, out)
        out.print(_table(parts))
    return 0 if all(part.holds for part in parts) else 1


def token_bucket(seed: int) -> Part:
    """100 at once, at 20 a second with a burst of 5."""
    bucket = TokenBucket(20.0, burst=5.0)
    bucket.try_take(0.0)
    idle_until = 10.0  # it has been idle for long, and still holds five only
    at = idle_until
    taken: list[float] = []
    while len(taken) < 100:
        if bucket.try_take(at):
            taken.append(at - idle_until)
        else:
            at += bucket.would_delay(at)
    first = sum(1 for t in taken if t < 1.0)
    return Part(
        "TokenBucket",
        "rate 20/s, burst 5; 100 messages at once after a long idle time",
        holds=first <= 25 and taken[-1] >= 4.7,
        figures={"in_the_first_second": first, "last_s": round(taken[-1], 2)},
        lines=[
            f"{first} in the first second (never more than 25), the last after {taken[-1]:.2f} s"
        ],
        curve=[(t, float(i + 1)) for i, t in enumerate(taken)],
        axis="messages through",
    )


def warm_up(seed: int) -> Part:
    """A ramp that stops while there is trouble."""
    ramp = WarmUp(1.0, 100.0, seconds=10.0)
    ramp.resume(0.0)
    curve: Points = []
    for step in range(161):
        t = step / 10
        if t == 4.0:
            ramp.hold(t)
        if t == 7.0:
            ramp.resume(t)
        curve.append((t, ramp.rate(t)))
    rates = dict(curve)
    jump = max(b / a for (_, a), (_, b) in pairwise(curve))
    return Part(
        "WarmUp",
        "from 1/s to 100/s in ten healthy seconds; trouble from 4 s to 7 s",
        holds=rates[4.0] == rates[7.0] and rates[13.0] >= 99.9 and jump < 1.1,
        figures={
            "at_2s": round(rates[2.0], 1),
            "at_5s": round(rates[5.0], 1),
            "at_13s": rates[13.0],
        },
        lines=[
            "  ".join(f"{t:g} s: {rates[float(t)]:.1f}/s" for t in (0, 2, 4, 6, 8, 10, 13)),
        ],
        curve=curve,
        axis="allowed a second",
    )


def retry_strategy(seed: int) -> Part:
    """Delays with full jitter, and what a budget does in an outage."""
    rng = seeded("retry", seed)
    settings = RetrySettings(max_retries=5, base_s=1.0, cap_s=20.0)
    free = RetryPolicy(settings, rng=rng, budget=RetryBudget(1.0, 1e9, 1e9))
    delays = [d for n in range(1, 6) if (d := free.next_delay(0.0, n, 1e9)) is not None]
    budget = RetryPolicy(settings, rng=rng, budget=RetryBudget(0.1, 10.0, 0.0))
    retries = 0
    for _ in range(1000):  # everything fails
        budget.on_request(0.0)
        attempts = 1
        while budget.next_delay(0.0, attempts, 1e9) is not None:
            retries += 1
            attempts += 1
    return Part(
        "RetryStrategy",
        "exponential backoff with full jitter; a budget of 10 % when all 1,000 requests fail",
        holds=len(delays) == 5
        and all(d <= 2.0**n for n, d in enumerate(delays))
        and retries <= 110,
        figures={"delays_s": [round(d, 2) for d in delays], "retries": retries},
        lines=[
            "waits of one message: " + ", ".join(f"{d:.2f} s" for d in delays),
            f"1,000 failing requests made {retries} retries; without the budget 5,000",
        ],
        curve=[(float(n + 1), d) for n, d in enumerate(delays)],
        axis="wait before retry n, seconds",
    )


def circuit_breaker(seed: int) -> Part:
    """A server that is down from 1 s to 4 s, asked ten times a second."""
    changes: list[str] = []
    curve: Points = [(0.0, 0.0)]
    heights = {"CLOSED": 0.0, "HALF_OPEN": 1.0, "OPEN": 2.0}

    def changed(now: float, old: str, new: str, reason: str) -> None:
        changes.append(f"{now:5.2f} s  {old} to {new}: {reason}")
        curve.extend([(now, heights[old]), (now, heights[new])])

    breaker = CircuitBreaker(
        BreakerSettings(failure_threshold=5, cooldown_s=5.0),
        rng=seeded("breaker", seed),
        on_change=changed,
    )
    asked = failed = 0
    for step in range(100):
        now = step / 10
        if breaker.allows(now):
            tag = breaker.on_send(now)
            ok = not 1.0 <= now < 4.0
            asked += 1
            failed += not ok
            breaker.on_result(now + 0.01, tag, ok)
    curve.append((10.0, heights[str(breaker.state(10.0))]))
    return Part(
        "CircuitBreaker",
        "asked ten times a second; the server is down from 1 s to 4 s",
        holds=breaker.closed and failed < 15,
        figures={"failed": failed, "without_it": 30, "changes": len(changes)},
        lines=[*changes, f"{failed} requests failed; without it 30"],
        curve=curve,
        axis="state: 0 closed, 1 half open, 2 open",
    )


def sliding_window(seed: int) -> Part:
    """Percentiles in bounded memory, next to exact ones."""
    rng = seeded("window", seed)
    window = SlidingWindow(seconds=10.0)
    exact: list[float] = []
    curve: Points = []
    for i in range(20_000):
        now = i / 1000
        latency = rng.lognormvariate(-4.0, 0.6)
        ok = rng.random() > 0.03
        window.record(now, latency, ok)
        if ok and now >= 10.5:
            exact.append(latency)
        if i % 500 == 499:
            curve.append((now, window.figures(now).p95_s * 1000))
    found = window.figures(20.0)
    exact.sort()
    p95 = exact[int(0.95 * len(exact))]
    return Part(
        "SlidingWindow",
        "20,000 results in 20 s, the last 10 s of them; 3 % fail",
        holds=abs(found.p95_s / p95 - 1) < 0.08 and 0.02 < found.error_rate < 0.04,
        figures={
            "throughput": round(found.throughput),
            "error_rate": round(found.error_rate, 4),
            "p50_ms": round(found.p50_s * 1000, 1),
            "p95_ms": round(found.p95_s * 1000, 1),
            "p99_ms": round(found.p99_s * 1000, 1),
            "exact_p95_ms": round(p95 * 1000, 1),
        },
        lines=[
            f"{found.throughput:,.0f}/s, {found.error_rate:.1%} errors, p50 {found.p50_s * 1000:.1f} ms, "
            f"p95 {found.p95_s * 1000:.1f} ms (exact: {p95 * 1000:.1f}), p99 {found.p99_s * 1000:.1f} ms"
        ],
        curve=curve,
        axis="p95, ms",
    )


def aimd(seed: int) -> Part:
    """A server for 100/s, for 40/s between 10 s and 20 s; one owner of the rate, with a warm-up."""
    steps: list[tuple[float, float, str]] = []
    ramp = WarmUp(5.0, 200.0, seconds=4.0)
    control = Aimd(AimdSettings(initial=60.0, maximum=200.0, least_increase=2.0, increase=0.0))
    bucket = TokenBucket(5.0, burst=2.0)
    owner = RateOwner(
        bucket,
        on_change=lambda now, old, new, why: steps.append((now, new, why)),
        warm_up=ramp,
        aimd=control,
    )
    ramp.resume(0.0)
    room, refused, sent = 1.0, 0, 0
    curve: Points = []
    for step in range(3000):
        now = step / 100
        capacity = 40.0 if 10.0 <= now < 20.0 else 100.0
        room = min(5.0, room + capacity / 100)
        curve.append((now, owner.update(now)))
        while bucket.try_take(now):
            control.on_send(now)
            ok = room >= 1.0
            room -= ok
            sent += 1
            refused += not ok
            control.on_result(now, "ok" if ok else "busy", 0.02)
    by = {why for _, _, why in steps}
    late = [rate for t, rate in curve if 14.0 <= t < 20.0]
    return Part(
        "AIMD",
        "a server for 100/s, and for 40/s between 10 s and 20 s; a warm-up before it",
        holds=refused < 0.1 * sent and max(late) < 70.0 and by == {"warm_up", "aimd"},
        figures={"sent": sent, "refused": refused, "steps": len(steps)},
        lines=[
            f"{sent:,} sent, {refused} refused ({refused / sent:.1%}); the rate followed, set by "
            "one owner: the warm-up first, then AIMD",
        ],
        curve=curve,
        axis="allowed a second",
    )


def governor(seed: int) -> Part:
    """The window in front of a server for 500/s that slows down to a quarter for a while."""
    time = VirtualTime()
    server = Server(time, seeded("server", seed))
    network = Network(time, server)
    control = Governor(rng=seeded("governor", seed))
    done: list[float] = []
    failures = 0

    def pump() -> None:
        while (at := control.ready(time.now)) == 0.0:
            tag = control.on_send(time.now)
            network.ask(lambda outcome, load, tag=tag: ended(tag, outcome, load))  # type: ignore[misc]
        if at < 1e9:
            time.at(at, pump)

    def ended(tag: int, outcome: Outcome, load: LoadReport | None) -> None:
        nonlocal failures
        control.on_result(time.now, tag, outcome, load)
        if outcome == "ok":
            done.append(time.now)
        else:
            failures += 1
        pump()

    def slow(factor: float) -> None:
        server.slow = factor

    time.at(4.0, slow, 4.0)
    time.at(8.0, slow, 1.0)
    pump()
    curve: Points = []
    longest = 0
    for step in range(1, 121):
        time.run(step / 10)
        curve.append((step / 10, control.window))
        longest = max(longest, server.waiting)

    def rate(start: float, end: float) -> float:
        return sum(1 for t in done if start <= t < end) / (end - start)

    fast, slowed, back = rate(1.0, 4.0), rate(5.0, 8.0), rate(9.0, 12.0)
    return Part(
        "Governor",
        "a server for 500/s, for 125/s between 4 s and 8 s; as much as it can take",
        holds=min(fast, back) > 400.0 and slowed > 90.0 and failures == 0 and longest < 100,
        figures={
            "per_second": round(fast),
            "slow_per_second": round(slowed),
            "back_per_second": round(back),
            "failed": failures,
            "most_waiting": longest,
        },
        lines=[
            f"{fast:.0f}/s, then {slowed:.0f}/s of 125/s, then {back:.0f}/s; {failures} failed, "
            f"at most {longest} waited at the server"
        ],
        curve=curve,
        axis="window, attempts",
    )


def admission(seed: int) -> Part:
    """A server for 100/s that is asked 200 times a second."""
    rng = seeded("admission", seed)
    time = VirtualTime()
    core = AdmissionCore(workers=2, service_s=0.02)
    waits: list[float] = []
    afters: list[float] = []
    curve: Points = []

    def start() -> None:
        for late in core.overdue(time.now):
            core.refusal(time.now, late)
        while (ticket := core.start(time.now)) is not None:
            waits.append(time.now - ticket.arrived)
            time.at(time.now + rng.expovariate(50.0), finish, ticket)

    def finish(ticket: Any) -> None:
        core.done(time.now, ticket)
        start()

    def arrive() -> None:
        try:
            core.offer(time.now, time.now + 0.5)
        except Busy as busy:
            afters.append(busy.retry_after_s)
        start()
        time.at(time.now + rng.expovariate(200.0), arrive)

    arrive()
    for step in range(1, 101):
        time.run(step / 10)
        curve.append((step / 10, float(core.waiting)))
    counters = core.counters
    return Part(
        "Admission",
        "the server's side: room for 100/s, asked 200 times a second for 10 s",
        holds=max(waits) <= 0.1 and counters["served"] > 900 and counters["busy"] > 0,
        figures={
            **counters,
            "longest_wait_ms": round(max(waits) * 1000, 1),
            "retry_after_ms": round(1000 * sum(afters) / max(1, len(afters))),
        },
        lines=[
            f"{counters['served']} served after at most {max(waits) * 1000:.0f} ms of waiting, "
            f"{counters['busy']} refused at once, to retry in about "
            f"{1000 * sum(afters) / max(1, len(afters)):.0f} ms"
        ],
        curve=curve,
        axis="requests waiting",
    )


def shadow(seed: int) -> Part:
    """Shadow mode: the effect that a limit of 10/s would have on traffic of 8/s with bursts."""
    rng = seeded("shadow", seed)
    model = Shadow(10.0, burst=3.0)
    real = TokenBucket(10.0, burst=3.0)
    before = real.tokens(0.0)
    now, curve = 0.0, []
    for _ in range(400):
        now += rng.expovariate(8.0)
        curve.append((now, model.decide(now) * 1000))
    found = model.figures()
    return Part(
        "Shadow",
        "what a limit of 10/s would do to 8/s with bursts, without delaying anything",
        holds=found.seen == 400 and 0 < found.delayed < 400 and real.tokens(0.0) == before,
        figures={
            "seen": found.seen,
            "would_wait": found.delayed,
            "longest_ms": round(found.longest_delay_s * 1000),
        },
        lines=[
            f"{found.delayed} of {found.seen} would have waited, the longest "
            f"{found.longest_delay_s * 1000:.0f} ms; none did, and no real token was taken"
        ],
        curve=curve,
        axis="would have waited, ms",
    )


def canary(seed: int) -> Part:
    """A change for 10 % of 500 clients, then for 25 %."""
    rng = seeded("canary", seed)
    share = Canary(10.0, name="throttling")
    clients = [f"client {i}" for i in range(500)]
    first = {c for c in clients if share.enrolled(c)}
    for i in range(10_000):
        client = rng.choice(clients)
        better = share.enrolled(client)
        share.record(i / 1000, client, rng.expovariate(50.0 if better else 20.0), True)
    found = share.figures(10.0)
    share.set_percent(25.0)
    second = {c for c in clients if share.enrolled(c)}
    return Part(
        "Canary",
        "a change for 10 % of 500 clients, then for 25 %; always the same ones",
        holds=first < second
        and 30 <= len(first) <= 75
        and found.canary.p95_s < found.control.p95_s,
        figures={
            "at_10_percent": len(first),
            "at_25_percent": len(second),
            "canary_p95_ms": round(found.canary.p95_s * 1000),
            "control_p95_ms": round(found.control.p95_s * 1000),
        },
        lines=[
            f"{len(first)} clients at 10 %, {len(second)} at 25 % (the first among them); p95 "
            f"{found.canary.p95_s * 1000:.0f} ms for them, {found.control.p95_s * 1000:.0f} ms for the rest"
        ],
    )


PARTS: tuple[Callable[[int], Part], ...] = (
    token_bucket,
    warm_up,
    retry_strategy,
    circuit_breaker,
    sliding_window,
    aimd,
    governor,
    admission,
    shadow,
    canary,
)


async def _real(out: Console, *, quiet: bool) -> list[Part]:
    """The parts with an asyncio form, on the clock and the loopback sockets of this machine."""
    parts = []
    for make in REAL_PARTS:
        part = await make()
        if not quiet:
            _show(part, out)
        parts.append(part)
    return parts


async def real_bucket() -> Part:
    loop = asyncio.get_running_loop()
    bucket = TokenBucket(50.0, burst=2.0)
    began = loop.time()
    order: list[int] = []

    async def one(number: int) -> None:
        await bucket.take()
        order.append(number)

    await asyncio.gather(*(one(n) for n in range(50)))
    took = loop.time() - began
    return Part(
        "TokenBucket",
        "await take(): 50 tasks at 50/s",
        holds=order == sorted(order) and 0.9 <= took < 2.0,
        figures={"seconds": round(took, 2), "in_order": order == sorted(order)},
        lines=[f"all through after {took:.2f} s, first come first served"],
    )


async def real_breaker() -> Part:
    with socket.socket() as unused:  # bound and not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        changes: list[str] = []
        breaker = CircuitBreaker(
            BreakerSettings(cooldown_s=5.0, first_share=0.05),
            rng=seeded("breaker", 0),
            on_change=lambda now, old, new, why: changes.append(f"{old} to {new}: {why}"),
        )
        refused = held = 0
        for _ in range(40):
            try:
                await guarded(breaker, lambda: asyncio.open_connection("127.0.0.1", port))
            except BreakerOpen:
                held += 1
            except OSError:
                refused += 1
            await asyncio.sleep(0.01)
    return Part(
        "CircuitBreaker",
        "guarded(): 40 connections to a closed port",
        holds=5 <= refused < 10 and held > 30,
        figures={"tried": refused, "held_back": held},
        lines=[*changes, f"{refused} were tried, {held} held back"],
    )


async def real_gate() -> Part:
    admission = Admission(workers=4, service_s=0.01)
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def serve() -> LoadReport:
        async with admission.admit(loop.time() + 1.0) as admitted:
            await asyncio.sleep(0.01)
            return admitted.load()

    async with Gate(name="server", rng=seeded("gate", 0), load_of=lambda load: load) as gate:
        loads = await asyncio.gather(*(gate.call(serve) for _ in range(400)))
        status = gate.status()
    took = loop.time() - began
    longest = max(load.waited_s for load in loads)
    attempts = status.counters["attempts"]
    return Part(
        "Gate and Admission",
        "400 calls at once through a gate, to a server for 400/s",
        holds=len(loads) == 400 and longest <= 0.2 and attempts <= 420 and took < 4.0,
        figures={
            "seconds": round(took, 2),
            "attempts": attempts,
            "refused": admission.core.counters["busy"],
            "longest_wait_ms": round(longest * 1000),
        },
        lines=[f"all answered after {took:.2f} s in {attempts} attempts"],
    )


REAL_PARTS: tuple[Callable[[], Awaitable[Part]], ...] = (
    real_bucket,
    real_breaker,
    real_gate,
)


def _show(part: Part, out: Console) -> None:
    out.print(f"[bold]{part.name}[/]  [dim]{part.what}[/]", highlight=False)
    for line in part.lines:
        out.print(f"  {line}", highlight=False)
    out.print()


def _table(parts: list[Part]) -> Table:
    table = Table(title="Components", title_justify="left", title_style="bold")
    table.add_column("part", style="bold")
    table.add_column("figures")
    table.add_column("as it should be")
    for part in parts:
        shown = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in part.figures.items())
        table.add_row(part.name, shown, "[green]yes[/]" if part.holds else "[red]no[/]")
    return table


def picture(parts: list[Part]) -> str:
    """Draw one panel for each part that has a curve."""
    panels = [
        Panel(
            f"{part.name}: {part.what}",
            "retry" if part.name == "RetryStrategy" else "seconds",
            part.axis.replace(":", ",").split(",")[0],
            [Line(part.axis, part.curve)],
        )
        for part in parts
        if part.curve
    ]
    return svg("Components of flow control", panels)
