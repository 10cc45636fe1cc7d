"""`python -m tests.soak`: nodes, bots and faults for some minutes; exit 1 when something did not hold."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
from pathlib import Path
from tempfile import mkdtemp

from tests.soak.links import can_be_used
from tests.soak.network import MODES
from tests.soak.report import Report
from tests.soak.world import PAUSE, Plan, Soak

PROGRESS = 5.0  # seconds


async def soak(plan: Plan, *, verbose: bool, progress: bool) -> Report:
    """Run one, telling how it goes on stderr."""

    def tell(text: str) -> None:
        if verbose:
            print(f"{world.now:7.1f} s  {text}", file=sys.stderr, flush=True)

    world = Soak(plan, tell)

    async def show() -> None:
        while True:
            await asyncio.sleep(PROGRESS)
            print(world.progress(), file=sys.stderr, flush=True)

    shower = asyncio.create_task(show()) if progress else None
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        return await world.run()
    finally:
        if shower is not None:
            shower.cancel()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the storm (default 10)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (default 1)")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--bots", type=int, default=20)
    parser.add_argument(
        "--intensity",
        type=float,
        default=1.0,
        help="faults in a time (default 1; 0.01: hardly any)",
    )
    parser.add_argument(
        "--pause",
        type=float,
        default=PAUSE,
        help=f"seconds between acts of a bot (default {PAUSE})",
    )
    parser.add_argument(
        "--mode",
        choices=MODES,
        default="p2p",
        help="the nodes' ways to each other: direct links; both, and one node with Grenache alone; "
        "Grenache alone (default p2p)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--verbose", action="store_true", help="tell every fault")
    parser.add_argument("--keep", action="store_true", help="keep journals and logs in any case")
    args = parser.parse_args()
    if not can_be_used():
        print("this system has no addresses 127.77.x.y for the links", file=sys.stderr)
        return 2
    directory = Path(mkdtemp(prefix="soak-"))
    plan = Plan(
        *(directory, args.minutes * 60, args.seed, args.nodes, args.bots),
        *(args.intensity, args.pause, args.mode),
    )
    report = Report(failures=["it was interrupted"])
    try:
        progress = args.verbose or sys.stderr.isatty()
        report = asyncio.run(soak(plan, verbose=args.verbose, progress=progress))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted; every process was stopped", file=sys.stderr)
        return 130
    finally:
        if report.failures or args.keep:
            print(f"journals and logs: {directory}", file=sys.stderr)
            report.logs = str(directory)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(report.document(), indent=2) if args.json else "\n".join(report.lines()))
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
