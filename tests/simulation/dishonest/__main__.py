"""`python -m tests.simulation.dishonest`: latency of honest orders beside each misbehaviour, as a multiple of without."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.dishonest.latency import measure
from tests.simulation.dishonest.misbehaviours import CATALOGUE
from tests.simulation.dishonest.world import RATIO
from tests.simulation.settings import DELAYS


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation.dishonest", description=__doc__
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each (default 3)")
    parser.add_argument("--start", type=int, default=1, help="the first seed")
    parser.add_argument("--attack", action="append", help="only those whose name contains this")
    parser.add_argument("--shape", choices=["one", "network"], action="append")
    parser.add_argument("--delay", choices=list(DELAYS), default="lan")
    args = parser.parse_args()
    seeds = range(args.start, args.start + args.seeds)
    over = False
    print("| attack | identities | p95 beside it, ms | without, ms | greatest ratio |")
    print("|---|---|---|---|---|")
    for kind in CATALOGUE:
        if args.attack and not any(part in kind.__name__ for part in args.attack):
            continue
        for shape in args.shape or ["one", "network"]:
            worst = max(
                (measure(kind, shape, seed, args.delay) for seed in seeds), key=lambda m: m.ratio
            )
            over = over or worst.ratio > RATIO
            print(
                f"| {kind.__name__} | {1 if shape == 'one' else 50} | {worst.attacked * 1e3:.1f} "
                f"| {worst.alone * 1e3:.1f} | {worst.ratio:.2f} |",
                flush=True,
            )
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
