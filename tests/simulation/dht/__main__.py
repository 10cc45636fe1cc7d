"""`python -m tests.simulation.dht`: a DHT of many of our nodes in virtual time; figures of all scenarios."""

from __future__ import annotations

import argparse
import sys
import time

from node.virtual.virtual_dht import Conditions
from tests.simulation.dht import scenarios


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.dht", description=__doc__)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--services", type=int, default=200)
    parser.add_argument("--lookups", type=int, default=1000, help="in each of the three phases")
    parser.add_argument("--churn", type=float, default=0.2, help="share of nodes that leaves")
    parser.add_argument("--seconds", type=float, default=60.0, help="over which they leave")
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--latency", type=float, nargs=2, default=(0.005, 0.080), metavar="S")
    args = parser.parse_args()
    conditions = Conditions(latency=tuple(args.latency), loss=args.loss)
    began = time.perf_counter()
    result = scenarios.churn(
        args.nodes,
        args.seed,
        services=args.services,
        lookups=args.lookups,
        share=args.churn,
        seconds=args.seconds,
        conditions=conditions,
    )
    print(
        f"{args.nodes} nodes, {args.services} services, one way "
        f"{1000 * args.latency[0]:.0f} to {1000 * args.latency[1]:.0f} ms, "
        f"{100 * args.loss:.1f} % of datagrams lost"
    )
    print("in the quiet:", result.steady.text())
    print(f"while {result.left} nodes leave and as many join:", result.churning.text())
    print("afterwards:", result.after.text())
    for lookups in (result.steady, result.churning, result.after):
        for line in lookups.wrong[:5]:
            print("  wrong:", line)
    print(f"datagrams per node and second in the quiet: {result.sent_per_node_second:.1f}")
    print(
        f"of the closest nodes found: {100 * scenarios.closest_found(args.nodes, args.seed):.1f} %"
    )
    print("restart with a new id:", scenarios.restart(args.seed))
    print("the same, silent:", scenarios.silent_restart(args.seed))
    print("lookup seconds with one dead of 8:", scenarios.dead_node(args.seed))
    print("partition of 24 nodes:", scenarios.partition(args.seed))
    print("a lone node gains a neighbour:", scenarios.lone_node(args.seed))
    print("bootstrap node up 7 s late, then known after:", scenarios.bootstrap_down(args.seed))
    print(f"({time.perf_counter() - began:.1f} s)")
    return 0 if min(result.churning.success, result.after.success) > 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
