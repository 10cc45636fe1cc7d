"""`python -m tests.mutation SUBJECT`: put small faults into modules, one at a time, and see which ones no test notices.

Without SUBJECT all are listed. `--sample N` takes N mutants of each subject, `--seed` chooses which. The tests run in
a copy of the tree; nothing here is changed. Exit code 1: there are survivors.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.plan import EQUIVALENT, SUBJECTS, Subject

ROOT = Path(__file__).parents[2]
COPIED = ("config", "exchange", "node", "p2p", "tests", "pyproject.toml")
TIMEOUT = 180.0  # seconds; a mutant that hangs is noticed


class Tree:
    """A copy of the source tree in which mutants run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        ignored = shutil.ignore_patterns("__pycache__", "node_modules")
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, directory / name, ignore=ignored)
            else:
                shutil.copy(source, directory / name)

    def passes(self, tests: tuple[str, ...]) -> bool:
        """Run tests until the first that fails."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.directory),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["-m", "not process", "--timeout", "60", *tests]
        try:
            ended = subprocess.run(
                command,
                cwd=self.directory,
                env=environment,
                capture_output=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        return ended.returncode == 0

    def survives(self, module: str, mutant: Mutant, tests: tuple[str, ...]) -> bool:
        """Run tests with a mutant in the place of its module."""
        path = self.directory / module
        original = path.read_text()
        path.write_text(mutant.source())
        try:
            return self.passes(tests)
        finally:
            path.write_text(original)


def chosen(
    subject: Subject, sample: int, rng: random.Random, only: str = ""
) -> list[tuple[str, Mutant]]:
    found = [
        (module, mutant)
        for module in subject.modules
        for mutant in mutants_of((ROOT / module).read_text())
        if only in f"{module} {mutant}"
        and not any(module == name and part in str(mutant) for name, part in EQUIVALENT)
    ]
    if sample and sample < len(found):
        found = sorted(rng.sample(found, sample), key=lambda each: (each[0], each[1].line))
    return found


def survivors(tree: Tree, subject: Subject, picked: list[tuple[str, Mutant]]) -> Iterator[str]:
    for module, mutant in picked:
        if tree.survives(module, mutant, subject.tests):
            yield f"{module} {mutant}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("subjects", nargs="*", choices=[*SUBJECTS, []], help="which")
    parser.add_argument("--sample", type=int, default=0, help="mutants of each (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--only", default="", help="those whose description contains this")
    args = parser.parse_args()
    if not args.subjects:
        print("\n".join(SUBJECTS))
        return 0
    left = 0
    with tempfile.TemporaryDirectory(prefix="mutation-") as directory:
        tree = Tree(Path(directory))
        for name in args.subjects:
            subject = SUBJECTS[name]
            if not tree.passes(subject.tests):
                print(f"{name}: its tests fail without any mutant", file=sys.stderr)
                return 2
            picked = chosen(subject, args.sample, random.Random(f"{name} {args.seed}"), args.only)
            began, count = time.monotonic(), 0
            for survivor in survivors(tree, subject, picked):
                count += 1
                print(f"  survived: {survivor}", flush=True)
            left += count
            took = time.monotonic() - began
            print(f"{name}: {len(picked)} mutants, {count} survived, {took:.0f} s", flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
