"""`exchange-node demo storm`: twenty clients come back with 2,000 messages, without flow
control."""

from __future__ import annotations

import asyncio
import json as jsonlib
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from node.annexes.demos.story import SLICE, Story, figures, happening, watched
from node.virtual.loopback import LoopbackLink, LoopbackServer, LoopTime
from node.virtual.server_model import Done, Network, Server, Timeline, VirtualTime, seeded
from node.virtual.svg_plot import BLUE, GREEN, GREY, RED, Line, Panel, svg
from p2p.flow import LoadReport, Outcome

CLIENTS = 20
MESSAGES = 2000
LINE_RATE = 925.0  # messages a second that one client can put on the wire; 18,500 together
TICK = 0.005
ATTEMPTS = 50  # of one message, then its user gives up
LIMIT_S = 12.0
PROMISED_BURST = 18_000.0


class NaiveClient:
    """Sends what it has as fast as its line takes it, and what failed again at once."""

    def __init__(
        self, time: Timeline, ask: Callable[[Done], None], story: Story, messages: int
    ) -> None:
        self._time = time
        self._ask = ask
        self._story = story
        self._waiting = deque([0] * messages)  # attempts made
        self._out = 0
        self._allowance = 0.0
        time.at(time.now, self._tick)

    def _tick(self) -> None:
        self._allowance = min(LINE_RATE * TICK + 1.0, self._allowance + LINE_RATE * TICK)
        while self._waiting and self._allowance >= 1.0:
            self._allowance -= 1.0
            self._out += 1
            self._story.tally.send(self._time.now)
            self._ask(partial(self._ended, self._waiting.popleft() + 1))
        if self._waiting or self._out:
            self._time.at(self._time.now + TICK, self._tick)

    def _ended(self, attempts: int, outcome: Outcome, load: LoadReport | None) -> None:
        self._out -= 1
        self._story.tally.result(self._time.now, outcome == "ok")
        if outcome == "ok":
            self._story.delivered += 1
        elif attempts >= ATTEMPTS:
            self._story.given_up += 1
        else:
            self._waiting.append(attempts)


class Watcher:
    """Takes the samples and notes what happens to the server."""

    def __init__(self, time: Timeline, server: Server, story: Story) -> None:
        self._time = time
        self._server = server
        self._story = story
        self._was_up = True
        self._crashes = 0
        self._slices = 0
        self._told: set[str] = set()

    def slice(self) -> None:
        server, story = self._server, self._story
        now = story.sample(
            self._slices, server_up=server.up, server_waiting=server.waiting
        )  # the slice that ends now
        self._slices += 1
        if self._slices == 1:
            story.event(
                now.at, f"{now.offered:,.0f} requests a second arrive at a server for 500", "cyan"
            )
        if server.crashes > self._crashes:
            if not self._was_up:
                story.event(now.at, "the server is back", "green")
            self._crashes = server.crashes
            self._was_up = False
            story.event(now.at, f"the server falls over (crash {server.crashes})", "bold red")
        if server.up and not self._was_up:
            self._was_up = True
            story.event(now.at, "the server is back", "green")
        if server.up and server.waiting > server.settings.knee:
            self._once(
                "strain", now.at, f"{server.waiting} requests wait: each takes longer now", "yellow"
            )
        if now.failed and server.up:
            self._once("late", now.at, "answers come after their callers have given up", "yellow")
        if story.given_up:
            self._once("lost", now.at, "the first messages are given up for good", "red")

    def _once(self, name: str, at: float, what: str, style: str) -> None:
        if name not in self._told:
            self._told.add(name)
            self._story.event(at, what, style)


def run(seed: int, real: bool, json: bool, plot: Path | None, out: Console) -> int:
    """Run the demo. 0 when the storm was one: the burst, more than half failing, and a crash."""
    story = Story("retry storm", MESSAGES)
    crashes = asyncio.run(_real(seed, story, out)) if real else _virtual(seed, story, out)
    summary = _summary(story, seed, real, crashes)
    if plot is not None:
        plot.write_text(picture(story), encoding="utf-8")
    if json:
        print(jsonlib.dumps(summary))
    else:
        _show(story, summary, out)
    shown = summary["error_share"] > 0.5 and crashes > 0
    return 0 if shown and (real or summary["burst_per_second"] >= PROMISED_BURST) else 1


def _virtual(seed: int, story: Story, out: Console) -> int:
    time = VirtualTime()
    server = Server(time, seeded("server", seed))
    network = Network(time, server)
    for _ in range(CLIENTS):
        NaiveClient(time, network.ask, story, MESSAGES // CLIENTS)
    watcher = Watcher(time, server, story)
    with watched(story, out) as shown:
        for number in range(1, round(LIMIT_S / SLICE) + 1):
            time.run(number * SLICE)
            watcher.slice()
            shown()
            if story.over:
                break
    return server.crashes


async def _real(seed: int, story: Story, out: Console) -> int:
    async with AsyncExitStack() as stack:
        time = LoopTime()
        stack.callback(time.close)
        model = Server(time, seeded("server", seed))
        server = LoopbackServer(model)
        stack.push_async_callback(server.close)
        await server.start()
        for _ in range(CLIENTS):
            link = LoopbackLink(time, server.port)
            stack.push_async_callback(link.close)
            NaiveClient(time, link.ask, story, MESSAGES // CLIENTS)
        watcher = Watcher(time, model, story)
        with watched(story, out, real=True) as shown:
            for number in range(1, round(LIMIT_S / SLICE) + 1):
                await asyncio.sleep(max(0.0, number * SLICE - time.now))
                watcher.slice()
                shown()
                if story.over:
                    break
        return model.crashes


def _summary(story: Story, seed: int, real: bool, crashes: int) -> dict[str, Any]:
    tally = story.tally
    ended = tally.ok + tally.failed
    return {
        "demo": "storm",
        "seed": seed,
        "real": real,
        "seconds": round(len(story.samples) * SLICE, 1),
        "messages": MESSAGES,
        "delivered": story.delivered,
        "given_up": story.given_up,
        "attempts": tally.offered,
        "burst_per_second": round(max(s.offered for s in story.samples)),
        "capacity_per_second": 500,
        "error_share": round(tally.failed / max(1, ended), 4),
        "crashes": crashes,
    }


def _show(story: Story, summary: dict[str, Any], out: Console) -> None:
    for event in story.events:
        out.print(happening(*event))
    out.print()
    seconds = summary["seconds"]
    out.print(
        figures(
            f"Retry storm, {CLIENTS} clients, seed {summary['seed']}",
            [
                ("burst", f"{summary['burst_per_second']:,}/s", "the server can do 500/s"),
                ("attempts", f"{summary['attempts']:,}", f"for {MESSAGES:,} messages"),
                ("failing", f"{summary['error_share']:.1%}", "of all attempts"),
                ("crashes", f"{summary['crashes']}", f"in {seconds:g} s"),
                ("delivered", f"{summary['delivered']:,}", "4 s would have been enough for all"),
                ("given up", f"{summary['given_up']:,}", "after 50 attempts each"),
            ],
        )
    )
    out.print("The same backlog behind flow control: exchange-node demo throttled", style="dim")


def picture(story: Story) -> str:
    """The story as SVG."""
    bands = story.outages()

    def line(label: str, colour: str, values: list[float]) -> Line:
        points = [(s.at, v) for s, v in zip(story.samples, values, strict=True)]
        return Line(label, points, colour)

    samples = story.samples
    return svg(
        "Retry storm: naive clients against a server for 500 requests a second",
        [
            Panel(
                "What is offered, and what fails",
                "seconds",
                "requests a second",
                [
                    line("offered", BLUE, [s.offered for s in samples]),
                    line("failed", RED, [s.failed for s in samples]),
                    line("answered", GREEN, [s.answered for s in samples]),
                ],
                bands,
            ),
            Panel(
                "What gets through",
                "seconds",
                "requests a second",
                [
                    Line("capacity", [(0.0, 500.0), (samples[-1].at, 500.0)], GREY, dashed=True),
                    line("answered", GREEN, [s.answered for s in samples]),
                ],
                bands,
            ),
        ],
    )
