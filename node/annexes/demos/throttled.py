"""`exchange-node demo throttled`: the same backlog through flow control, past a slow phase and a restart."""

from __future__ import annotations

import asyncio
import json as jsonlib
import random
from contextlib import AsyncExitStack
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

from rich.console import Console

from node.annexes.demos.story import SLICE, Story, figures, happening, watched
from node.virtual.loopback import LoopbackLink, LoopbackServer, LoopTime
from node.virtual.server_model import Network, Server, Timeline, VirtualTime, seeded
from node.virtual.svg_plot import BLUE, GREEN, RED, Band, Line, Panel, svg
from p2p.base.errors import LinkClosed
from p2p.flow import (
    FlowEvent,
    Gate,
    GateSettings,
    Governor,
    LoadReport,
    Outbox,
    OutboxEntry,
    Outcome,
)

MESSAGES = 2000
SLOW_FROM, SLOW_TO, SLOW_BY = 1.5, 3.0, 2.0  # something else keeps the server busy
RESTART_AT, RESTART_S = 4.0, 0.8
LIMIT_S = 30.0
PROMISED = 1.4  # times the optimum
TOLD = 1.3  # steps of the rate by at least this factor are worth a line


def optimum(messages: int, capacity: float) -> float:
    """Seconds that a sender needs who knows everything: the server is never idle and never crowded."""
    phases = [
        (SLOW_FROM, capacity),
        (SLOW_TO, capacity / SLOW_BY),
        (RESTART_AT, capacity),
        (RESTART_AT + RESTART_S, 0.0),
        (inf, capacity),
    ]
    at, left = 0.0, float(messages)
    for end, rate in phases:
        if rate and left <= rate * (end - at):
            return at + left / rate
        left -= rate * (end - at)
        at = end
    raise AssertionError("the last phase has no end")


class Narrator:
    """Turns what the governor and the server do into events and samples."""

    def __init__(self, time: Timeline, server: Server, story: Story, rng: random.Random) -> None:
        self.time = time
        self.story = story
        self.server = server
        self.governor = Governor(rng=rng, on_event=self.on_event)
        self.rates = 0  # steps of the rate
        self.opened = 0
        self.warm_up_s: float | None = None
        self._smooth = 0.0  # the rate, over a few slices; 0: in a warm-up
        self._told = 0.0
        self._why = ""
        self._slices = 0
        time.at(SLOW_FROM, self._slow, SLOW_BY, "the server slows down to half its speed")
        time.at(SLOW_TO, self._slow, 1.0, "the server is at full speed again")
        time.at(RESTART_AT, self._restart)

    def _slow(self, factor: float, what: str) -> None:
        self.server.slow = factor
        self.story.event(self.time.now, what, "cyan")

    def _restart(self) -> None:
        self.story.event(
            self.time.now, f"the server restarts: down for {RESTART_S:g} s", "bold red"
        )
        self.server.fall(RESTART_S)

    def on_event(self, event: FlowEvent) -> None:
        now = self.time.now
        if event.kind == "breaker":
            self._smooth = 0.0
            self.story.event(now, f"breaker {event.reason}", "bold yellow")
            self.opened += "to OPEN" in event.reason
            return
        rate = self.governor.rate()
        if event.kind == "ramp":
            if self.warm_up_s is None:
                self.warm_up_s = now
            self.story.event(now, f"warm-up over at {rate:,.0f}/s: {event.reason}", "green")
            self._smooth = self._told = rate
            return
        self.rates += 1
        self._why = event.reason

    def slice(self) -> None:
        governor = self.governor
        now = (
            asyncio.get_running_loop().time() if isinstance(self.time, LoopTime) else self.time.now
        )
        closed = governor.breaker.closed
        self.story.sample(
            self._slices,
            server_up=self.server.up,
            server_waiting=self.server.waiting,
            rate=governor.rate() if closed else 0.0,
            window=governor.window if closed else 0.0,
            breaker=str(governor.breaker.state(now)),
        )
        self._slices += 1
        if closed and self._smooth:
            self._smooth += 0.3 * (governor.rate() - self._smooth)
            self._tell()

    def _tell(self) -> None:
        """The steps of the rate that are worth a line."""
        rate, told = self._smooth, self._told
        if told / TOLD < rate < told * TOLD:
            return
        down = rate < told
        what = f"{'▼' if down else '▲'} rate {told:,.0f} to {rate:,.0f}/s: {self._why}"
        self.story.event(self.time.now, what, "red" if down else "green")
        self._told = rate


class Sender:
    """An `Outbox` in virtual time: what `Gate` is for asyncio."""

    def __init__(self, narrator: Narrator, network: Network, rng: random.Random) -> None:
        self._time = narrator.time
        self._story = narrator.story
        self._network = network
        self._wake = inf
        self.outbox: Outbox[int] = Outbox(narrator.governor, rng=rng, limit=MESSAGES)
        for number in range(MESSAGES):
            self.outbox.add(0.0, number)
        self._pump()

    def _pump(self) -> None:
        now = self._time.now
        while (entry := self.outbox.next(now)) is not None:
            self._story.tally.send(now)
            self._network.ask(partial(self._ended, entry))
        at = self.outbox.wake_at(now)
        if at < self._wake:
            self._wake = at
            self._time.at(at, self._woken, at)

    def _woken(self, at: float) -> None:
        if at == self._wake:
            self._wake = inf
            self._pump()

    def _ended(self, entry: OutboxEntry[int], outcome: Outcome, load: LoadReport | None) -> None:
        now = self._time.now
        self._story.tally.result(now, outcome == "ok")
        if self.outbox.on_result(now, entry, outcome, load):
            if outcome == "ok":
                self._story.delivered += 1
            else:
                self._story.given_up += 1
        self._pump()


def run(seed: int, real: bool, json: bool, plot: Path | None, out: Console) -> int:
    """Run the demo. 0 when everything was delivered (in virtual time: within 1.4 times the optimum)."""
    story = Story("throttled", MESSAGES)
    narrator = asyncio.run(_real(seed, story, out)) if real else _virtual(seed, story, out)
    summary = _summary(story, narrator, seed, real)
    if plot is not None:
        plot.write_text(picture(story, summary), encoding="utf-8")
    if json:
        print(jsonlib.dumps(summary))
    else:
        _show(story, summary, out)
    all_there = summary["delivered"] == MESSAGES
    return 0 if all_there and (real or summary["times_optimum"] <= PROMISED) else 1


def _virtual(seed: int, story: Story, out: Console) -> Narrator:
    time = VirtualTime()
    server = Server(time, seeded("server", seed))
    rng = seeded("sender", seed)
    narrator = Narrator(time, server, story, rng)
    Sender(narrator, Network(time, server), rng)
    with watched(story, out) as shown:
        for number in range(1, round(LIMIT_S / SLICE) + 1):
            time.run(number * SLICE)
            narrator.slice()
            shown()
            if story.over:
                break
    return narrator


async def _real(seed: int, story: Story, out: Console) -> Narrator:
    rng = seeded("sender", seed)
    async with AsyncExitStack() as stack:
        time = LoopTime()
        stack.callback(time.close)
        model = Server(time, seeded("server", seed))
        server = LoopbackServer(model)
        stack.push_async_callback(server.close)
        await server.start()
        link = LoopbackLink(time, server.port)
        stack.push_async_callback(link.close)
        narrator = Narrator(time, model, story, rng)
        gate = Gate(
            name="server",
            rng=rng,
            governor=narrator.governor,
            settings=GateSettings(limit=MESSAGES),
            load_of=lambda x: x,
        )
        await stack.enter_async_context(gate)
        loop = asyncio.get_running_loop()

        async def send() -> LoadReport | None:
            answer: asyncio.Future[LoadReport | None] = loop.create_future()
            story.tally.send(time.now)
            link.ask(partial(_answer, answer))
            try:
                load = await answer
            except (TimeoutError, LinkClosed):
                story.tally.result(time.now, False)
                raise
            story.tally.result(time.now, True)
            story.delivered += 1
            return load

        for _ in range(MESSAGES):
            gate.post(send)
        with watched(story, out, real=True) as shown:
            for number in range(1, round(LIMIT_S / SLICE) + 1):
                await asyncio.sleep(max(0.0, number * SLICE - time.now))
                narrator.slice()
                shown()
                if story.over:
                    break
        return narrator


def _answer(
    answer: asyncio.Future[LoadReport | None], outcome: Outcome, load: LoadReport | None
) -> None:
    if answer.done():
        return
    if outcome == "ok":
        answer.set_result(load)
    elif outcome == "timeout":
        answer.set_exception(TimeoutError())
    else:
        answer.set_exception(LinkClosed("reset"))


def _summary(story: Story, narrator: Narrator, seed: int, real: bool) -> dict[str, Any]:
    tally = story.tally
    best = optimum(MESSAGES, narrator.server.settings.capacity)
    return {
        "demo": "throttled",
        "seed": seed,
        "real": real,
        "messages": MESSAGES,
        "delivered": story.delivered,
        "lost": story.given_up,
        "drain_s": round(tally.last_ok, 3),
        "optimum_s": round(best, 3),
        "times_optimum": round(tally.last_ok / best, 3),
        "error_share": round(tally.failed / max(1, tally.ok + tally.failed), 4),
        "attempts_per_message": round(tally.offered / MESSAGES, 4),
        "peak_per_second": round(tally.most_in(1.0)),
        "capacity_per_second": 500,
        "crashes": narrator.server.crashes,
        "warm_up_s": None if narrator.warm_up_s is None else round(narrator.warm_up_s, 3),
        "rate_steps": narrator.rates,
        "breaker_opened": narrator.opened,
    }


def _show(story: Story, summary: dict[str, Any], out: Console) -> None:
    for event in story.events:
        out.print(happening(*event))
    out.print()
    drain = f"{summary['drain_s']:.2f} s"
    warm_up = summary["warm_up_s"]
    out.print(
        figures(
            f"Throttled, seed {summary['seed']}",
            [
                ("drained in", drain, f"optimum {summary['optimum_s']:.2f} s"),
                ("times the optimum", f"{summary['times_optimum']:.2f}", f"promised: {PROMISED}"),
                (
                    "delivered",
                    f"{summary['delivered']:,}",
                    f"of {MESSAGES:,}; lost {summary['lost']}",
                ),
                ("failing", f"{summary['error_share']:.2%}", "what the restart cut off"),
                ("attempts", f"{summary['attempts_per_message']:.3f}", "for a message"),
                (
                    "peak",
                    f"{summary['peak_per_second']}/s",
                    "in any second; the server can do 500/s",
                ),
                ("warm-up", "-" if warm_up is None else f"{warm_up:.2f} s", ""),
                ("rate steps", f"{summary['rate_steps']}", "the larger ones are shown above"),
                ("breaker", f"{summary['breaker_opened']}x open", "then one probe at a time"),
            ],
        )
    )
    out.print("The same backlog without it: exchange-node demo storm", style="dim")


def picture(story: Story, summary: dict[str, Any]) -> str:
    """The story as SVG."""
    bands = [
        Band(SLOW_FROM, SLOW_TO, "half speed"),
        Band(RESTART_AT, RESTART_AT + RESTART_S, "restart"),
    ]
    samples = story.samples

    def line(label: str, values: list[float], colour: str = "") -> Line:
        return Line(label, [(s.at, v) for s, v in zip(samples, values, strict=True)], colour)

    return svg(
        f"2,000 messages through flow control: {summary['drain_s']:.1f} s, "
        f"optimum {summary['optimum_s']:.1f} s",
        [
            Panel(
                "What is sent and answered",
                "seconds",
                "requests a second",
                [
                    line("sent", [s.offered for s in samples], BLUE),
                    line("answered", [s.answered for s in samples], GREEN),
                    line("failed", [s.failed for s in samples], RED),
                ],
                bands,
            ),
            Panel(
                "Window (attempts in flight)",
                "seconds",
                "attempts",
                [
                    line("window", [s.window for s in samples]),
                    line("waiting at the server", [float(s.server_waiting) for s in samples]),
                ],
                bands,
            ),
            Panel(
                "Backlog",
                "seconds",
                "messages",
                [line("not delivered yet", [float(s.left) for s in samples])],
                bands,
            ),
        ],
    )
