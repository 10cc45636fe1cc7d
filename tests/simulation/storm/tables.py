"""Tables of the matrix: every policy in every cell, medians over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass

from tests.simulation.storm.matrix import CELLS, Cell, Measured, best_fixed, measure

OURS = "governor"
POLICIES = (OURS, "governor, feedback", "Netflix Vegas", "Netflix gradient2", "Netflix AIMD")
FIXED = "best fixed"
TUNING_SEED = 50  # of the search for the best fixed window; judged on others

# Half a day of simulated crashes in a row is no news: a run of the others ends with its first.
MOST_CRASHES = {policy: 0 for policy in (*POLICIES, FIXED) if not policy.startswith(OURS)}


@dataclass(frozen=True)
class Row:
    """A cell: the medians of each policy, and the best fixed window for one sender."""

    cell: Cell
    window: int
    found: dict[str, Measured]

    @property
    def needed(self) -> float:
        """Goodput to reach: 85 % of what is free, or nine tenths of the best fixed window's."""
        return min(0.85, 0.9 * self.found[FIXED].goodput)

    @property
    def reached(self) -> bool:
        return self.found[OURS].goodput >= self.needed


def run(cell: Cell, seeds: range, policies: Iterable[str] = POLICIES) -> Row:
    window = best_fixed(cell, range(TUNING_SEED, TUNING_SEED + 1))
    found = {policy: _median(cell, policy, policy, seeds) for policy in policies}
    found[FIXED] = _median(cell, FIXED, window, seeds)
    return Row(cell, window, found)


def run_all(cells: Iterable[Cell], seeds: range, jobs: int = 1) -> Iterator[Row]:
    """Rows in the order of `cells`, `jobs` at a time."""
    if jobs == 1:
        yield from (run(cell, seeds) for cell in cells)
        return
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, cell, seeds) for cell in cells]
        for future in futures:
            yield future.result()


def select(parts: Iterable[str] | None) -> list[Cell]:
    """Cells whose name contains one of `parts`; all without."""
    wanted = list(parts or ())
    return [cell for cell in CELLS if not wanted or any(part in str(cell) for part in wanted)]


def _median(cell: Cell, policy: str, how: str | int, seeds: range) -> Measured:
    runs = [asdict(measure(cell, how, seed, MOST_CRASHES.get(policy))) for seed in seeds]
    return Measured(**{name: statistics.median(run[name] for run in runs) for name in runs[0]})


def head() -> str:
    columns = "".join(f"{policy:>22}" for policy in (*POLICIES, FIXED))
    return f"goodput as a share of what is free, p99/p99.9 in ms\n{'':48}{columns}"


def line(row: Row) -> str:
    cells = [_figures(row.found[policy]) for policy in POLICIES]
    cells.append(f"{row.window:>4}: {_figures(row.found[FIXED])}")
    mark = "" if row.reached else "  below"
    return f"{row.cell!s:48}" + "".join(f"{cell:>22}" for cell in cells) + mark


def _figures(found: Measured) -> str:
    if found.crashes and not found.goodput:
        return "falls over"
    down = f" {found.crashes:.0f}x down" if found.crashes else ""
    return f"{found.goodput:.2f} {1e3 * found.p99:.0f}/{1e3 * found.p999:.0f}{down}"


def summary(rows: list[Row]) -> str:
    """Markdown: goodput by distribution, senders and load; worst and median over the network delays."""
    policies = (*POLICIES, FIXED)
    lines = [
        "| service times | senders | " + " | ".join(policies) + " |",
        "|---|---|" + "---|" * len(policies),
    ]
    groups: dict[tuple[str, int, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.cell.spread, row.cell.senders, row.cell.others), []).append(row)
    for (spread, senders, others), group in groups.items():
        load = ", half load" if others else ""
        cells = [_range([row.found[policy] for row in group]) for policy in policies]
        lines.append(f"| {spread} | {senders}{load} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _range(found: list[Measured]) -> str:
    goodputs = sorted(f.goodput for f in found)
    down = sum(1 for f in found if f.crashes)
    text = f"{goodputs[0]:.2f}–{goodputs[-1]:.2f}"
    return text + (f", down in {down} of {len(found)}" if down else "")


def losses(rows: list[Row]) -> str:
    """Markdown: cells in which another policy has 5 % more goodput, or the goal is not reached."""
    lines = [
        f"| cell | {OURS} | best of the others | best fixed window |",
        "|---|---|---|---|",
    ]
    key: Callable[[tuple[str, Measured]], float] = lambda item: item[1].goodput  # noqa: E731
    for row in rows:
        ours = row.found[OURS].goodput
        field = [(name, f) for name, f in row.found.items() if not name.startswith(OURS)]
        name, best = max((item for item in field if item[0] != FIXED), key=key)
        if row.reached and max(best.goodput, row.found[FIXED].goodput) <= 1.05 * ours:
            continue
        missed = "" if row.reached else " (below the goal)"
        lines.append(
            f"| {row.cell} | {_figures(row.found[OURS])}{missed} | {name}: {_figures(best)} |"
            f" {row.window}: {_figures(row.found[FIXED])} |"
        )
    return "\n".join(lines)


def goal(rows: list[Row]) -> str:
    reached = sum(row.reached for row in rows)
    down = sum(1 for row in rows if row.found[OURS].crashes)
    return (
        f"{reached} of {len(rows)} cells reach 85 % of the free capacity or nine tenths of the best"
        f" fixed window; the server fell over in {down}"
    )


def runs_line(cell: Cell, runs: list[Measured]) -> str:
    """Goodput in the mean and of each run of one strategy."""
    mean = statistics.fmean(run.goodput for run in runs)
    return f"{cell!s:48}{mean:6.2f}: " + ", ".join(_figures(run) for run in runs)


def runs_summary(rows: list[list[Measured]]) -> str:
    means = [statistics.fmean(run.goodput for run in runs) for runs in rows]
    down = [run.crashes for runs in rows for run in runs]
    return (
        f"goodput {statistics.fmean(means):.3f} in the mean, {sum(mean < 0.85 for mean in means)} of"
        f" {len(rows)} cells below 0.85; {sum(down)} times down, in {sum(map(bool, down))} of {len(down)} runs"
    )
