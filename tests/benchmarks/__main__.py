"""All benchmarks, or those named: `python -m tests.benchmarks [name ...] [--quick] [--json]`.

A benchmark is a module `bench_<name>.py` in this directory with `run(quick: bool) -> list[Row]`; the
first line of its docstring is its title. Absolute figures move with the machine: compare the ratios,
which come from runs that were interleaved in one process.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import platform
import sys
from pathlib import Path

from node.daemon.progress import Progress
from tests.benchmarks.report import table


def main() -> int:
    names = sorted(path.stem[6:] for path in Path(__file__).parent.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"of {', '.join(names)}; none: all"
    )
    parser.add_argument("--quick", action="store_true", help="less of everything, for a first look")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(names)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    machine = (
        f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}"
    )
    found = {}
    if not arguments.json:
        print(machine)
    chosen = arguments.names or names
    progress = Progress("benchmarks")
    for number, name in enumerate(chosen):
        progress.update(number / len(chosen))
        module = importlib.import_module(f"tests.benchmarks.bench_{name}")
        rows = module.run(arguments.quick)
        found[name] = [dataclasses.asdict(row) for row in rows]
        if not arguments.json:
            progress.end()
            title = (module.__doc__ or name).strip().splitlines()[0]
            print(f"\n{table(title, rows)}", flush=True)
    progress.end()
    if arguments.json:
        print(
            json.dumps(
                {"machine": machine, "quick": arguments.quick, "benchmarks": found}, indent=1
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
