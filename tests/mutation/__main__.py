"""Put small faults into modules, one at a time, and see which ones no test notices.

    python -m tests.mutation exchange/takes                        every mutant of a room, and the survivors
    python -m tests.mutation exchange/takes --sample 200 --seed 7  some of them, chosen by the seed
    python -m tests.mutation exchange --choose --sample 3000       the tests that neither kill a mutant nor take a
                                                                   branch that no cheaper test does

A room is a folder or a module of the product. Its tests are those below `tests/unit` in the folder of the same name,
or in the next folder above that exists; `--tests` names others. Exit code 1: there are survivors.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.mutation.choice import Choice, choose
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.plan import EQUIVALENT
from tests.mutation.trial import Record, Trial, session

ROOT = Path(__file__).resolve().parents[2]
UNIT = "tests/unit"


def modules_of(room: str) -> list[str]:
    """Return the modules of a room, by their paths from the root."""
    place = ROOT / room
    if place.is_file():
        return [room]
    return sorted(str(path.relative_to(ROOT)) for path in place.rglob("*.py"))


def folder_of_tests(room: str) -> str:
    """Return the folder of a room's tests."""
    folder = Path(room).with_suffix("")
    while not (ROOT / UNIT / folder).is_dir():
        folder = folder.parent
    return str(UNIT / folder)


def mutants(rooms: list[str], sample: int, seed: int, only: str = "") -> list[tuple[str, Mutant]]:
    """Return the mutants of rooms, or a sample of them, in an order that the seed decides."""
    found = [
        (module, mutant)
        for room in rooms
        for module in modules_of(room)
        for mutant in mutants_of((ROOT / module).read_text())
        if only in f"{module} {mutant}"
        and not any(module == name and part in str(mutant) for name, part in EQUIVALENT)
    ]
    rng = random.Random(f"{sorted(rooms)} {seed}")
    rng.shuffle(found)
    return found[: sample or None]


def score(trial: Trial, record: Record, picked: list[tuple[str, Mutant]], without: set[str]) -> int:
    """Print the survivors and the score of each room; return how many survived."""
    covering = Covering(record, without)
    killed, count = Counter[str](), Counter[str]()
    for module, mutant in picked:
        if not trial.usable(module, mutant):
            continue
        room = str(Path(module).parent)
        count[room] += 1
        nodes = covering.nodes(module, mutant)
        if trial.killer(module, mutant, nodes, record.seconds) is None:
            print(f"  survived: {module} {mutant}", flush=True)
        else:
            killed[room] += 1
    for room, made in sorted(count.items()):
        print(f"{room}: {killed[room]} of {made} mutants killed, {killed[room] / made:.1%}")
    total, dead = count.total(), killed.total()
    print(f"all: {dead} of {total} mutants killed, {dead / max(1, total):.1%}", flush=True)
    return total - dead


class Covering:
    """Tests by the lines that they run, the quickest first."""

    def __init__(self, record: Record, without: set[str]) -> None:
        self._record = record
        self._by_line: dict[tuple[str, int], set[str]] = {}
        for node, arcs in record.arcs.items():
            if node in record.failed or node in without or node not in record.seconds:
                continue
            for module, start, end in arcs:
                for line in (start, end):
                    self._by_line.setdefault((module, abs(line)), set()).add(node)

    def nodes(self, module: str, mutant: Mutant) -> list[str]:
        found: set[str] = set()
        for line in mutant.lines():
            found |= self._by_line.get((module, line), set())
        return sorted(found, key=lambda node: self._record.seconds[node])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rooms", nargs="+", help="folders or modules of the product")
    parser.add_argument("--tests", nargs="*", help="tests (default: those of the rooms)")
    parser.add_argument("--sample", type=int, default=0, help="number of mutants (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="number that chooses the sample")
    parser.add_argument("--only", default="", help="part of the mutants' descriptions")
    parser.add_argument("--choose", action="store_true", help="list the tests that earn nothing")
    parser.add_argument("--out", type=Path, help="file for the chosen tests, as JSON")
    parser.add_argument("--minutes", type=float, default=0, help="time for mutants of `--choose`")
    parser.add_argument("--without", type=Path, help="file of an earlier choice: leave those out")
    args = parser.parse_args()
    for room in args.rooms:
        if not (ROOT / room).exists():
            parser.error(f"there is no folder or module {room}; for example exchange/takes")
    picked = mutants(args.rooms, args.sample, args.seed, args.only)
    tests = args.tests or sorted({folder_of_tests(room) for room in args.rooms})
    left = 0

    def use(trial: Trial) -> None:
        nonlocal left
        began = time.monotonic()
        record = trial.record([ROOT / Path(room).parts[0] for room in args.rooms])
        print(f"{len(trial.items)} tests ran in {time.monotonic() - began:.0f} s", flush=True)
        for node in sorted(record.failed):
            print(f"  fails without any mutant: {node}", file=sys.stderr)
        if args.choose:
            modules = {module for room in args.rooms for module in modules_of(room)}
            choice = choose(trial, record, picked, modules, 60 * args.minutes)
            report(choice, args.out)
        else:
            without = dropped_items(record, args.without) if args.without else set()
            left = score(trial, record, picked, without)
        print(f"{time.monotonic() - began:.0f} s", flush=True)

    session(tests, ROOT, use)
    return 1 if left else 0


def report(choice: Choice, out: Path | None) -> None:
    print("\n".join(f"  earns nothing: {name}" for name in choice.dropped))
    print(
        f"{len(choice.kept)} tests kept, {choice.kept_lines} lines; "
        f"{len(choice.dropped)} earn nothing, {choice.dropped_lines} lines; "
        f"{choice.tried} mutants tried, {choice.added} tests kept for them"
    )
    if out is not None:
        out.write_text(json.dumps(asdict(choice), indent=1))


def dropped_items(record: Record, path: Path) -> set[str]:
    names = set(json.loads(path.read_text())["dropped"])
    return {node for node in record.seconds if node.partition("[")[0] in names}


if __name__ == "__main__":
    sys.exit(main())
