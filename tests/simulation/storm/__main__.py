"""`python -m tests.simulation.storm`: every strategy in every storm, medians over seeds."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict, replace
from math import inf

from tests.simulation.storm import real_clock, tables
from tests.simulation.storm.matrix import measure
from tests.simulation.storm.strategies import STRATEGIES
from tests.simulation.storm.world import SCENARIOS, Scenario, simulate

# These never drain; what they do is clear after a few seconds and costs a great deal to simulate.
SHORT = {"naive": 12.0, "full jitter": 120.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.storm", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each; medians are shown")
    parser.add_argument("--start", type=int, default=1000, help="the first seed")
    parser.add_argument("--strategy", action="append", choices=list(STRATEGIES), help="only these")
    parser.add_argument("--scenario", action="append", help="only those whose name contains this")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--matrix",
        action="store_true",
        help="distributions x delays x senders x load instead; takes an hour, or --scenario a part,"
        " or --strategy without the rest",
    )
    parser.add_argument(
        "--real", action="store_true", help="Gate on the real clock instead, 15 s for each seed"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes for the matrix")
    args = parser.parse_args()
    if args.real:
        return real(range(args.start, args.start + args.seeds))
    if args.matrix and args.strategy:
        return alone(args.strategy, args.scenario, range(args.start, args.start + args.seeds))
    if args.matrix:
        return matrix(args.scenario, range(args.start, args.start + args.seeds), args.jobs)
    everything: dict[str, dict[str, dict[str, float]]] = {}
    for scenario in SCENARIOS:
        if args.scenario and not any(part in scenario.name for part in args.scenario):
            continue
        if not args.json:
            print(head(scenario), flush=True)
        rows = everything[scenario.name] = {}
        for strategy in args.strategy or STRATEGIES:
            horizon = min(scenario.horizon, SHORT.get(strategy, inf)) if scenario.messages else 0.0
            run = replace(scenario, horizon=horizon) if horizon else scenario
            runs = [
                asdict(simulate(run, strategy, args.start + i))
                for i in range(1 if strategy == "naive" else args.seeds)
            ]
            rows[strategy] = {f: statistics.median(r[f] for r in runs) for f in runs[0]}
            if not args.json:
                print(row(scenario, strategy, rows[strategy]), flush=True)
    if args.json:
        found = {"seeds": args.seeds, "start": args.start, "median": everything}
        print(json.dumps(finite(found), indent=1))
    return 0


def matrix(parts: list[str] | None, seeds: range, jobs: int) -> int:
    """Print the matrix: lines as they come, then tables in Markdown."""
    print(tables.head(), flush=True)
    rows = []
    for row in tables.run_all(tables.select(parts), seeds, jobs):
        rows.append(row)
        print(tables.line(row), flush=True)
    print(f"\n{tables.summary(rows)}\n\n{tables.losses(rows)}\n\n{tables.goal(rows)}")
    return 0


def alone(strategies: list[str], parts: list[str] | None, seeds: range) -> int:
    """Print the matrix of these strategies, without the others and the search for fixed windows: a minute a seed."""
    for strategy in strategies:
        print(strategy)
        rows = []
        for cell in tables.select(parts):
            rows.append(runs := [measure(cell, strategy, seed) for seed in seeds])
            print(tables.runs_line(cell, runs), flush=True)
        print(tables.runs_summary(rows))
    return 0


def real(seeds: range) -> int:
    """Print messages a second through `Gate` on this machine's clock, and in virtual time."""
    print("messages a second, capacity 500, no load reports")
    for spread in ("exponential", "lognormal cv 2"):
        for seed in seeds:
            found = real_clock.measure(spread, seed)
            print(
                f"  {spread:20} real {found.real:5.0f} of {found.capacity:5.0f} that the server could do,"
                f" virtual {found.virtual:5.0f} of 500: {found.share:.2f}x",
                flush=True,
            )
    return 0


COLUMNS = ("errors %", "others %", "lost", "attempts", "peak", "crashes")


def head(scenario: Scenario) -> str:
    lead = ("drain",) if scenario.messages else ("back s", "clear s")
    columns = "".join(f"{c:>10}" for c in (*lead, *COLUMNS))
    return f"\n{scenario.name}\n  {'':20}{columns}"


def row(scenario: Scenario, strategy: str, found: dict[str, float]) -> str:
    """Drain and peak as multiples (of the optimum, of the capacity); attempts per message."""
    if scenario.messages:
        cells = ["never" if found["drain"] == inf else f"{found['drain']:.2f}x"]
    else:
        cells = ["never" if found[k] == inf else f"{found[k]:.1f}" for k in ("back", "cleared")]
    cells += [
        f"{100 * found['errors']:.2f}",
        f"{100 * found['others_failed']:.2f}",
        f"{found['lost']:.0f}",
        f"{found['attempts']:.3f}",
        f"{found['peak']:.2f}x",
        f"{found['crashes']:.0f}",
    ]
    return f"  {strategy:20}" + "".join(f"{c:>10}" for c in cells)


def finite(value: object) -> object:
    """JSON knows no infinity: null is never."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return None if value == inf else value


if __name__ == "__main__":
    sys.exit(main())
