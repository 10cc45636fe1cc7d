"""Recording of a demo while it runs, and its display in a terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from node.virtual.server_model import TrafficCounts
from node.virtual.svg_plot import Band

SLICE = 0.1  # seconds of one sample
PLAYBACK = 1.5  # seconds of a story shown in one second, with a viewer
BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Sample:
    """A slice of time. Rates are per second."""

    at: float
    offered: float
    answered: float
    failed: float
    left: int  # messages not delivered yet
    server_up: bool
    server_waiting: int
    rate: float = 0.0  # that flow control allows
    window: float = 0.0
    breaker: str = ""


@dataclass
class Story:
    """Samples and what happened; `tally` counts attempts as they are made."""

    title: str
    messages: int
    tally: TrafficCounts = field(default_factory=lambda: TrafficCounts(SLICE))
    samples: list[Sample] = field(default_factory=list)
    events: list[tuple[float, str, str]] = field(default_factory=list)  # (at, what, style)
    delivered: int = 0
    given_up: int = 0

    def event(self, at: float, what: str, style: str = "") -> None:
        self.events.append((at, what, style))

    @property
    def over(self) -> bool:
        return self.delivered + self.given_up >= self.messages

    def sample(
        self,
        number: int,
        *,
        server_up: bool,
        server_waiting: int,
        rate: float = 0.0,
        window: float = 0.0,
        breaker: str = "",
    ) -> Sample:
        """Close slice `number`."""
        found = self.tally.slices.get(number)
        sample = Sample(
            at=round((number + 1) * SLICE, 6),
            offered=found.offered / SLICE if found else 0.0,
            answered=found.ok / SLICE if found else 0.0,
            failed=found.failed / SLICE if found else 0.0,
            left=self.messages - self.delivered,
            server_up=server_up,
            server_waiting=server_waiting,
            rate=rate,
            window=window,
            breaker=breaker,
        )
        self.samples.append(sample)
        return sample

    def outages(self) -> list[Band]:
        """Return the server's outages, for a plot."""
        bands: list[Band] = []
        began: float | None = None
        for sample in self.samples:
            if not sample.server_up and began is None:
                began = sample.at - SLICE
            elif sample.server_up and began is not None:
                bands.append(Band(began, sample.at - SLICE, "down"))
                began = None
        if began is not None:
            bands.append(Band(began, self.samples[-1].at, "down"))
        return bands


def bars(values: list[float], width: int = 60) -> str:
    """The last `width` values as a line of bars; the highest of all fills its cell."""
    highest = max(values, default=0.0)
    if highest <= 0.0:
        return " " * min(width, len(values))
    steps = len(BARS) - 1
    return "".join(
        BARS[0 if v <= 0 else max(1, round(v / highest * steps))] for v in values[-width:]
    )


def view(story: Story) -> Group:
    """The story so far, as a terminal shows it while it runs."""
    last = story.samples[-1] if story.samples else None
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="bold")
    rows.add_column(justify="right")
    rows.add_column()
    for name, pick, style in _ROWS:
        values = [pick(sample) for sample in story.samples]
        if name in ("allowed", "window") and not any(values):
            continue
        now = f"{values[-1]:,.0f}" if values else "0"
        rows.add_row(name, now, Text(bars(values), style=style))
    share = story.delivered / story.messages if story.messages else 1.0
    done = Text("█" * round(40 * share) + "░" * (40 - round(40 * share)), style="green")
    head = Text.assemble(
        (story.title, "bold"), f"   {last.at if last else 0.0:5.1f} s   ", done,
        f"  {story.delivered:,} of {story.messages:,} delivered",
    )  # fmt: skip
    state = Text("server ")
    if last is not None:
        state.append("up" if last.server_up else "DOWN", "green" if last.server_up else "bold red")
        if last.breaker:
            state.append("   breaker ")
            state.append(last.breaker, "green" if last.breaker == "CLOSED" else "bold yellow")
    recent = [happening(*event) for event in deque(story.events, maxlen=8)]
    return Group(head, state, Text(""), rows, Text(""), *recent)


_ROWS: tuple[tuple[str, Callable[[Sample], float], str], ...] = (
    ("offered/s", lambda s: s.offered, "cyan"),
    ("answered/s", lambda s: s.answered, "green"),
    ("failed/s", lambda s: s.failed, "red"),
    ("at the server", lambda s: float(s.server_waiting), "yellow"),
    ("allowed", lambda s: s.rate, "blue"),
    ("window", lambda s: s.window, "magenta"),
)


def happening(at: float, what: str, style: str) -> Text:
    """Format an event as a line."""
    return Text.assemble((f"{at:7.2f} s  ", "dim"), (what, style))


@contextmanager
def watched(story: Story, out: Console, *, real: bool = False) -> Iterator[Callable[[], None]]:
    """Shows the story live where there is a terminal. The given function ends a slice: it redraws, and
    lets virtual time pass no faster than eyes can follow.
    """
    if not out.is_terminal:
        yield lambda: None
        return
    with Live(view(story), console=out, auto_refresh=False, transient=True) as live:
        began = time.monotonic()

        def shown() -> None:
            live.update(view(story), refresh=True)
            if not real:
                ahead = len(story.samples) * SLICE / PLAYBACK - (time.monotonic() - began)
                if 0.0 < ahead < inf:
                    time.sleep(ahead)

        yield shown


def figures(title: str, rows: list[tuple[str, str, str]]) -> Table:
    """The summary: (what, figure, remark)."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column("what")
    table.add_column("figure", justify="right", style="bold")
    table.add_column("remark", style="dim")
    for row in rows:
        table.add_row(*row)
    return table
