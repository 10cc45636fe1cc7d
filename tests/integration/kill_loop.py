"""`PYTHONPATH=. python tests/integration/kill_loop.py --minutes 10`: kill -9 under load, over and over, with the checker of
test_kill9.py.

Each round rests an order at the maker, takes part of it at the taker, and kills maker, taker or both at a random step of the
take. After the restart the client repeats what it may have no answer to; then orders, fills, books and journals of both
nodes have to agree. The same two nodes are used throughout. Ends with 1 at the first round that does not hold.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "tests/unit/kits"), str(ROOT)]

import test_kill9 as kill9  # noqa: E402 - found by the line above


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mode", choices=("p2p", "grenache"), default="p2p")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    done: Counter[str] = Counter()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-loop-") as directory:
        pair = kill9.Pair.start(Path(directory) / "nodes", args.mode)
        try:
            while time.monotonic() < began + 60 * args.minutes:
                victim, point = rng.choice(kill9.STEPS)
                both = rng.random() < 0.3
                step = f"{victim} {point}{' and the other' if both else ''}"
                try:
                    kill9.test_a_take_is_settled_once_after_a_kill_of_either_side_at_any_step(
                        pair, victim, point, both
                    )
                except BaseException:
                    print(f"round {done.total() + 1} failed: {step}, seed {args.seed}", flush=True)
                    raise
                done[step] += 1
            kill9.test_after_all_that_both_stop_in_order_and_their_journals_add_up(pair)
        finally:
            pair.nodes.cleanup()
    print(
        f"{done.total()} rounds in {time.monotonic() - began:.0f} s, {len(done)} kinds of step, "
        "nothing lost, nothing twice"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
