"""`python -m tests.simulation.routing`: every policy on every workload, ours beside the oracle."""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys

from tests.simulation.routing.scenarios import SCENARIOS, makers, simulate


def main() -> int:
    names = list(makers(1))
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.routing", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each; medians are shown")
    parser.add_argument("--start", type=int, default=1000, help="the first seed")
    parser.add_argument("--policy", action="append", choices=names, help="only these")
    parser.add_argument("--scenario", action="append", help="only those whose name contains this")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--judge",
        action="store_true",
        help="a table of means with 95 %% intervals, p99.9 beside p99",
    )
    args = parser.parse_args()
    chosen = args.policy or names
    if args.judge:
        return judge(args.scenario, chosen, range(args.start, args.start + args.seeds))
    everything: dict[str, dict[str, dict[str, float]]] = {}
    for scenario in SCENARIOS:
        if args.scenario and not any(part in scenario.name for part in args.scenario):
            continue
        rows: dict[str, dict[str, float]] = {}
        for policy in chosen:
            runs = [simulate(scenario, policy, args.start + i) for i in range(args.seeds)]
            rows[policy] = {f: statistics.median(run[f] for run in runs) for f in scenario.figures}
        everything[scenario.name] = rows
        if not args.json:
            print(table(scenario.name, scenario.figures, rows), flush=True)
    if args.json:
        finite = {
            name: {
                policy: {f: value if math.isfinite(value) else None for f, value in row.items()}
                for policy, row in rows.items()
            }
            for name, rows in everything.items()
        }
        print(json.dumps({"seeds": args.seeds, "start": args.start, "median": finite}, indent=1))
    return 0


def judge(parts: list[str] | None, chosen: list[str], seeds: range) -> int:
    """Print p99 / p99.9 in ms and errors in %: means over seeds, each with half of its 95 % interval."""
    print("| workload | " + " | ".join(chosen) + " |\n|" + "---|" * (len(chosen) + 1))
    for scenario in SCENARIOS:
        if "p99" not in scenario.figures or (parts and not any(p in scenario.name for p in parts)):
            continue
        cells = []
        for policy in chosen:
            runs = [simulate(scenario, policy, seed) for seed in seeds]
            cell = f"{_mean(runs, 'p99', 0)} / {_mean(runs, 'p99.9', 0)}"
            if any(run.get("errors") for run in runs):
                cell += f", {_mean(runs, 'errors', 3)} %"
            cells.append(cell)
        print(f"| {scenario.name} | " + " | ".join(cells) + " |", flush=True)
    return 0


def _mean(runs: list[dict[str, float]], figure: str, digits: int) -> str:
    found = [run[figure] for run in runs]
    half = 2.0 * statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else 0.0
    return f"{statistics.fmean(found):.{digits}f}±{half:.{digits}f}"


def table(name: str, figures: tuple[str, ...], rows: dict[str, dict[str, float]]) -> str:
    """Latencies in ms, errors in % of requests, times in s; p99 also as a multiple of the oracle's."""
    oracle = rows.get("oracle", {}).get("p99")
    lines = [f"\n{name}", f"  {'':18}" + "".join(f"{f:>10}" for f in figures)]
    for policy, row in rows.items():
        line = f"  {policy:18}" + "".join(f"{_figure(f, row[f]):>10}" for f in figures)
        if oracle and "p99" in row:
            line += f"   {row['p99'] / oracle:5.2f}x"
        lines.append(line)
    return "\n".join(lines)


def _figure(name: str, value: float) -> str:
    if name == "errors":
        return f"{value:.2f}"
    return f"{value:.0f}" if name.startswith("p") else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
