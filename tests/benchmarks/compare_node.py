"""Start, memory, idling and engine of two working trees in turn: `python -m tests.benchmarks.compare_node TREE`.

TREE is another checkout; both run with this interpreter. Times are processor time, so that other work on
the machine moves them less. The ratio is this tree's figure to the other's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.report import Row, table

ROOT = Path(__file__).parent.parent.parent
TICK = os.sysconf("SC_CLK_TCK")
NODES = 10  # of the idle mesh
SETTLED = 15.0  # seconds until nodes that have just met do nothing any more
IDLE = 20.0  # seconds
OPERATIONS = 8000

# Answers each line of its input with operations a second.
ENGINE = f"""
import sys
from tests.benchmarks import bench_engine
chosen = bench_engine.operations({OPERATIONS})
measures = {{
    "order book alone": lambda: bench_engine.through_book(chosen),
    "engine: checks, matching, signed feed": lambda: bench_engine.through_engine(chosen),
    "the same for clients": lambda: bench_engine.through_engine(chosen, clients=True),
    "engine and journal, normal": lambda: bench_engine.through_engine(chosen, "normal"),
}}
for line in sys.stdin:
    print(*(measure() for measure in measures.values()), flush=True)
"""
WAYS = (
    "order book alone",
    "engine: checks, matching, signed feed",
    "the same for clients",
    "engine and journal, normal",
)

Figures = dict[str, list[float]]


def environment(tree: Path, home: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": str(tree)}


@contextmanager
def node(tree: Path, directory: Path, *options: str) -> Iterator[tuple[int, dict[str, str]]]:
    """A node on loopback that is ready: its process id and its ready line."""
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "node.cli.main", "start", "--json", "--no-mdns"]
    command += ["--mode", "p2p", "--data-dir", str(directory / "data"), "--p2p-host", "127.0.0.1"]
    command += ["--p2p-port", "0", "--api-port", "0", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env=environment(tree, str(directory)), cwd=directory
    ) as process:
        try:
            assert process.stdout is not None
            yield process.pid, json.loads(process.stdout.readline())
        finally:
            process.terminate()


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def starts(trees: list[Path], rounds: int, scratch: Path, found: list[Figures]) -> None:
    for number in range(rounds + 1):
        for index, (tree, figures) in enumerate(zip(trees, found, strict=True)):
            with node(tree, scratch / f"start-{number}-{index}") as (pid, _):
                if number:  # the first one compiles
                    note(
                        figures, "start until ready, processor time, ms", processor_time(pid) * 1e3
                    )
                    note(figures, "resident when ready, MB", resident(pid) / 1024)


def idle(trees: list[Path], scratch: Path, found: list[Figures]) -> None:
    for index, (tree, figures) in enumerate(zip(trees, found, strict=True)):
        with ExitStack() as stack:
            pid, first = stack.enter_context(node(tree, scratch / f"mesh-{index}-0"))
            pids = [pid]
            for number in range(1, NODES):
                more = node(
                    tree,
                    scratch / f"mesh-{index}-{number}",
                    "--bootstrap",
                    first["p2p_address"],
                )
                pids.append(stack.enter_context(more)[0])
            time.sleep(SETTLED)
            before = [processor_time(pid) for pid in pids]
            time.sleep(IDLE)
            spent = [
                processor_time(pid) - earlier for pid, earlier in zip(pids, before, strict=True)
            ]
            note(
                figures, f"idle in a mesh of {NODES}, % of a core", sum(spent) / NODES / IDLE * 100
            )


def engines(trees: list[Path], rounds: int, found: list[Figures]) -> None:
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ENGINE],
                    env=environment(tree, os.environ["HOME"]),
                    cwd=tree,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for tree in trees
        ]
        for _ in range(rounds):
            for worker, figures in zip(workers, found, strict=True):
                assert worker.stdin is not None
                assert worker.stdout is not None
                print("go", file=worker.stdin, flush=True)
                for name, value in zip(WAYS, worker.stdout.readline().split(), strict=True):
                    note(figures, f"{name}, op/s", float(value))


def note(found: Figures, what: str, value: float) -> None:
    found.setdefault(what, []).append(value)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.compare_node", description=__doc__
    )
    parser.add_argument("tree", type=Path, help="the other working tree")
    parser.add_argument(
        "--rounds", type=int, default=40, help="of the engine; starts are a quarter"
    )
    arguments = parser.parse_args()
    trees = [arguments.tree.resolve(), ROOT]
    found: list[Figures] = [{}, {}]
    with tempfile.TemporaryDirectory(prefix="exchange-node-bench-") as directory:
        scratch = Path(directory)
        starts(trees, max(arguments.rounds // 4, 1), scratch, found)
        idle(trees, scratch, found)
    engines(trees, arguments.rounds, found)
    before, after = found
    rows = [
        Row(
            what,
            statistics.median(values),
            "",
            statistics.median(values) / statistics.median(before[what]),
            f"before: {statistics.median(before[what]):,.3g}"
            if statistics.median(before[what]) < 1000
            else f"before: {statistics.median(before[what]):,.0f}",
        )
        for what, values in after.items()
    ]
    print(table("Medians of both trees", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
