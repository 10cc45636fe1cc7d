"""Steps of the course: where each runs, what its page says, and the figures that the page promises.

The pages are the Markdown files of docs/learn; they ship inside the package. A page's table "Promised" is
read by `promises`, so what is printed is compared with what is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module, resources
from math import inf

from node.annexes.learn.sheet import Settings, Sheet


class UnknownSetting(Exception):
    """A setting that the step does not have, or a value out of its range."""


@dataclass(frozen=True)
class CourseStep:
    """A step of the course. `settings`: names and defaults of what the reader can change."""

    number: int
    slug: str
    place: str  # module:function
    settings: Mapping[str, float] = field(default_factory=dict)

    @property
    def page(self) -> str:
        return f"{self.number:02}-{self.slug}.md"

    def run(self, seed: int, changes: Mapping[str, float]) -> Sheet:
        """Run the step in virtual time.

        Raises:
            UnknownSetting: `changes` names a setting that the step does not have.
        """
        for name, value in changes.items():
            if name not in self.settings:
                known = ", ".join(f"{n}={v:g}" for n, v in self.settings.items())
                raise UnknownSetting(f"step {self.number} has no setting {name!r}; it has {known}")
            if not 0 <= value < inf:
                raise UnknownSetting(f"{name} is {value:g}; expected a number from 0 up")
        module, _, name = self.place.partition(":")
        play: Callable[[int, Settings], Sheet] = getattr(import_module(module), name)
        return play(seed, {**self.settings, **changes})


STEPS = (
    CourseStep(
        1, "grapes", "node.annexes.learn.grape_lessons:cluster", {"grapes": 3, "delay_ms": 2}
    ),
    CourseStep(
        2, "workers", "node.annexes.learn.grape_lessons:workers", {"max_age_s": 120, "load": 2}
    ),
    CourseStep(3, "random-calls", "node.annexes.learn.calls:baseline", {"retries": 0}),
    CourseStep(4, "metrics", "node.annexes.learn.calls:measuring", {"well_for_s": 5}),
    CourseStep(5, "scores", "node.annexes.learn.calls:scoring", {"slow_factor": 8}),
    CourseStep(6, "circuit-breaker", "node.annexes.learn.calls:breaking", {"cooldown_s": 10}),
    CourseStep(7, "gossip", "node.annexes.learn.gossip:spreading", {"nodes": 20, "links": 4}),
    CourseStep(8, "decay", "node.annexes.learn.gossip:fading", {"ttl_s": 60}),
    CourseStep(9, "failures", "node.annexes.learn.failures:injected", {"liars": 1}),
    CourseStep(10, "trade-offs", "node.annexes.learn.failures:trade_offs", {"callers": 20}),
    CourseStep(11, "token-bucket", "node.annexes.learn.throttling:token_bucket", {"rate": 20}),
    CourseStep(12, "warm-up", "node.annexes.learn.throttling:warm_up", {"seconds": 5}),
    CourseStep(13, "backoff", "node.annexes.learn.throttling:backoff", {"base_s": 0.5}),
    CourseStep(
        14, "breaker-in-a-client", "node.annexes.learn.throttling:breaker", {"threshold": 5}
    ),
    CourseStep(15, "sliding-window", "node.annexes.learn.throttling:window", {"seconds": 10}),
    CourseStep(16, "aimd", "node.annexes.learn.throttling:aimd", {"maximum": 20}),
    CourseStep(17, "adoption", "node.annexes.learn.adoption:adoption", {"percent": 10}),
)


@dataclass(frozen=True)
class Promise:
    """Range of a figure as promised by a page: of the plain run, and of the run with the page's change."""

    figure: str
    meaning: str
    low: float
    high: float
    low_changed: float
    high_changed: float

    def range(self, changed: bool) -> tuple[float, float]:
        return (self.low_changed, self.high_changed) if changed else (self.low, self.high)


@dataclass(frozen=True)
class Page:
    """A page of the course, taken apart."""

    title: str
    intro: str
    sections: Mapping[str, str]
    promises: tuple[Promise, ...]
    change: Mapping[str, float]  # settings of the page's own change


_ROW = re.compile(
    r"^\| `(\w+)` \| (.+?) \| ([\d.]+) to ([\d.]+) \| (?:([\d.]+) to ([\d.]+)|same) \|$", re.M
)


def read_page(step: CourseStep) -> Page:
    """Read the page of a step.

    Raises:
        ValueError: the page lacks its title.
    """
    text = (
        resources.files("node.annexes.learn")
        .joinpath("pages", step.page)
        .read_text(encoding="utf-8")
    )
    head, *rest = re.split(r"^## ", text, flags=re.M)
    title, _, intro = head.partition("\n")
    if not title.startswith("# "):
        raise ValueError(f"{step.page} has no title")
    sections = {name: body.strip() for name, _, body in (part.partition("\n") for part in rest)}
    promises = []
    for name, meaning, low, high, low2, high2 in _ROW.findall(sections.get("Promised", "")):
        plain = float(low), float(high)
        changed = (float(low2), float(high2)) if low2 else plain
        promises.append(Promise(name, meaning, *plain, *changed))
    settings = re.findall(r"--set (\w+)=([\d.]+)", sections.get("Change", ""))
    return Page(
        title[2:].strip(),
        intro.strip(),
        sections,
        tuple(promises),
        {name: float(value) for name, value in settings},
    )


def find_step(word: str) -> CourseStep | None:
    """Return the step with this number or name."""
    for step in STEPS:
        if word in (str(step.number), step.slug):
            return step
    return None
