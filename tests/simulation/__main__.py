"""`python -m tests.simulation`: run seeds, print what they came to; exit 1 when one fails."""

from __future__ import annotations

import argparse
import sys
import time

from node.daemon.progress import Progress
from tests.simulation.runner import Summary, run_many, run_one


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many (default 200)")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run only this one and print everything it does")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--nasty", action="store_true", help="more of every fault")
    parser.add_argument("--dishonest", action="store_true", help="with dishonest nodes")
    parser.add_argument("--older", action="store_true", help="with nodes of an older version")
    parser.add_argument("--stop", action="store_true", help="end at the first failure")
    args = parser.parse_args()
    kind = {"nasty": args.nasty, "dishonest": args.dishonest, "older": args.older}
    if args.seed is not None:
        outcome = run_one(args.seed, **kind, echo=print)
        print(outcome.trace)
        if outcome.failed:
            print(f"FAILED {outcome.failed}: {outcome.detail}")
        return 1 if outcome.failed else 0
    began = time.perf_counter()
    summary = Summary()
    seeds = range(args.start, args.start + args.seeds)
    progress = Progress(f"{args.seeds} seeds")
    for outcome in run_many(seeds, jobs=args.jobs, **kind):
        summary.add(outcome)
        progress.update(summary.seeds / args.seeds)
        if outcome.failed:
            progress.end()
            print(summary.report(outcome, **kind), flush=True)
            if args.stop:
                break
    progress.end()
    print(summary.text(time.perf_counter() - began))
    return 1 if summary.failures else 0


if __name__ == "__main__":
    sys.exit(main())
