"""`python -m tests.simulation.scale`: broadcasts, joins, losses, announcements and the DHT with up to 10,000 nodes.

Prints the tables of docs/scale.md, or JSON. Figures of processor time are of the machine that it runs on; all others
are the same in every run of one seed. With several seeds each figure is the median, with a second row of the worst.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from functools import partial
from typing import Any

from node.daemon.progress import Progress
from tests.simulation.scale.announcements import run_announcements
from tests.simulation.scale.broadcasts import BroadcastCase, run_case
from tests.simulation.scale.changes import run_changes
from tests.simulation.scale.formation import run_formation
from tests.simulation.scale.lookups import run_lookups
from tests.simulation.scale.newcomer import run_newcomer
from tests.simulation.scale.several_seeds import over_seeds

PARTS = ("cases", "sizes", "changes", "formation", "newcomers", "announcements", "dht")
SIZES = (100, 1000, 10_000)
COPIES = 2.7  # of a broadcast, for the traffic of announcements; see the table of sizes

CASES = (
    BroadcastCase("many origins, 50/s"),
    BroadcastCase("many origins, 2/s", rate=2.0, warm_up=20.0, measured=100),
    BroadcastCase("many origins, 200/s, 10 Mbit/s a node", rate=200.0, mbit=10.0, measured=600),
    BroadcastCase("one origin, 50/s", origins=1),
    BroadcastCase("4 links a node, 50/s", dials=2, max_links=8, nat_share=0.0),
    BroadcastCase("full mesh of 20 on a LAN, 50/s", nodes=20, mesh=True, lan=True, measured=500),
    BroadcastCase("2 % of messages lost, 50/s", loss=0.02),
    BroadcastCase("5 % a minute leave and come, 50/s", churn=0.05, measured=500),
)


def size_case(nodes: int) -> BroadcastCase:
    """Return the run for one size of network; the largest is kept to minutes by fewer broadcasts, in more seconds: each
    node reviews its choice of links once a second then, and changes one link at a time.
    """
    if nodes > 2000:
        return BroadcastCase(
            f"{nodes} nodes, 15/s", nodes=nodes, rate=15.0, warm_up=16.0, measured=45, drain=4.0
        )
    return BroadcastCase(f"{nodes} nodes, 50/s", nodes=nodes, warm_up=4.0, measured=200, drain=4.0)


def change_case(nodes: int) -> BroadcastCase:
    rate = 50.0 if nodes <= 200 else 10.0 if nodes <= 2000 else 2.0
    return BroadcastCase(f"{nodes} nodes", nodes=nodes, rate=rate, warm_up=20.0 / rate + 4.0)


Job = tuple[str, str, Callable[[Callable[[float], None]], Any]]


def jobs(parts: list[str], sizes: list[int], seed: int) -> Iterator[Job]:
    """Return the runs: part, name, and a function to call with a callback for progress."""
    if "cases" in parts:
        for case in CASES:
            yield "cases", case.name, partial(run_case, replace(case, seed=seed))
    for nodes in sizes:
        if "sizes" in parts:
            case = replace(size_case(nodes), seed=seed)
            yield "sizes", case.name, partial(run_case, case)
    for nodes in sizes:
        if "changes" in parts and nodes <= 2000:  # larger ones take too long
            case = replace(change_case(nodes), seed=seed)
            yield "changes", case.name, partial(run_changes, case)
    for nodes in sizes:
        if "formation" in parts and nodes <= 200:  # all nodes choose among all addresses
            yield "formation", f"{nodes} nodes", _with_progress(run_formation, nodes, seed=seed)
    for nodes in sizes:
        if "newcomers" in parts:
            yield "newcomers", f"{nodes} nodes", _with_progress(run_newcomer, nodes, seed=seed)
    for nodes in sizes:
        if "announcements" in parts:
            seconds = 10.0 if nodes <= 2000 else 5.0
            run = _with_progress(run_announcements, nodes, COPIES, seconds=seconds, seed=seed)
            yield "announcements", f"{nodes} nodes", run
    for nodes in sizes:
        if "dht" in parts and nodes <= 2000:
            yield "dht", f"{nodes} nodes", _with_progress(run_lookups, nodes, seed=seed)


def _with_progress(run: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    return lambda progress: run(*args, **kwargs, progress=progress)


def print_row(figures: Any, *, heading: bool) -> None:
    """Print one row of a table, with its heading before the first."""
    names = [field.name for field in fields(figures)]
    if heading:
        print("\n| " + " | ".join(name.replace("_", " ") for name in names) + " |")
        print("|" + "---|" * len(names))
    values = [getattr(figures, name) for name in names]
    print("| " + " | ".join(_text(value) for value in values) + " |", flush=True)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value < 1 else f"{value:.2f}"
    return str(value)


def node_count(text: str) -> int:
    """Return a number of nodes.

    Raises:
        argparse.ArgumentTypeError: no whole number from 20 to 10,000.
    """
    try:
        nodes = int(text.replace(",", "").replace("_", ""))
    except ValueError:
        nodes = 0
    if not 20 <= nodes <= 10_000:
        raise argparse.ArgumentTypeError(
            f"invalid number of nodes {text[:40]!r}: must be a whole number from 20 to 10000"
        )
    return nodes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--nodes", type=node_count, nargs="+", default=list(SIZES), metavar="N", help="sizes"
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="default: all; changes and dht only of up to 2,000 nodes, formation of 200",
    )
    parser.add_argument(
        "--seeds", "--seed", type=int, nargs="+", default=[1], metavar="S", help="default: 1"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document in place of tables")
    args = parser.parse_args(arguments)
    results: dict[str, list[dict[str, Any]]] = {}
    by_seed = [list(jobs(args.parts, args.nodes, seed)) for seed in args.seeds]
    for runs in zip(*by_seed, strict=True):
        part, name, _ = runs[0]
        progress = Progress(f"{part}: {name}")
        gc.collect()
        gc.disable()  # millions of objects that live to the end would be gone through again and again
        try:
            found = [run(progress.update) for _, _, run in runs]
        finally:
            progress.end()
        rows = over_seeds(found)
        if not args.json:
            for number, figures in enumerate(rows):
                print_row(figures, heading=part not in results and number == 0)
        results.setdefault(part, []).extend(asdict(figures) for figures in rows)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if args.json:
        print(json.dumps({"seeds": args.seeds, "memory_mb": memory, **results}, indent=2))
    else:
        print(f"\n{memory} MB of memory at most", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
