"""Show that a change keeps behaviour: `python -m tests.oracles compare COMMIT`.

    python -m tests.oracles compare HEAD~3 --seeds 200     against an earlier commit: what differs, by seed and line
    python -m tests.oracles write DIRECTORY --seeds 2000   digests and surfaces of this tree, to keep
    python -m tests.oracles diff BEFORE AFTER              two directories that `write` made

A digest covers all records and messages of each drain of a simulated network; the surfaces are the help of all
commands, the settings, the API's documents, and the names of the metrics. Any difference is a bug or a decision.
Exit code 1: something differs.
"""

from __future__ import annotations

import argparse
import difflib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from node.daemon.progress import Progress
from tests.oracles.digests import digests
from tests.oracles.surfaces import write as write_surfaces

ROOT = Path(__file__).resolve().parents[2]
DIGESTS = "digests.txt"
SHOWN = 40  # lines of a difference
WIDTH = 200  # characters of such a line


def write(directory: Path, seeds: int, start: int, jobs: int) -> None:
    """Write the surfaces and the digests of this tree."""
    write_surfaces(directory)
    progress = Progress(f"{seeds} seeds")
    with (directory / DIGESTS).open("w") as out:
        for done, line in enumerate(digests(range(start, start + seeds), jobs), 1):
            print(line, file=out)
            progress.update(done / seeds)
    progress.end()


def differences(before: Path, after: Path) -> list[str]:
    """Unified differences of all files of two directories."""
    names = sorted({path.name for folder in (before, after) for path in folder.iterdir()})
    found: list[str] = []
    for name in names:
        old, new = (
            (folder / name).read_text("utf-8").splitlines() if (folder / name).exists() else []
            for folder in (before, after)
        )
        lines = list(
            difflib.unified_diff(old, new, f"before/{name}", f"after/{name}", "", "", 0, "")
        )
        found += [line[:WIDTH] for line in lines[:SHOWN]]
        if len(lines) > SHOWN:
            found.append(f"... and {len(lines) - SHOWN} more lines of {name}")
    return found


def write_of_commit(commit: str, directory: Path, arguments: list[str]) -> None:
    """Run `write` in a work tree of an earlier commit."""
    with tempfile.TemporaryDirectory(prefix="oracles-") as scratch:
        tree = Path(scratch) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            if not (tree / "tests" / "oracles").exists():
                shutil.copytree(Path(__file__).parent, tree / "tests" / "oracles")
            command = [sys.executable, "-m", "tests.oracles", "write", str(directory), *arguments]
            subprocess.run(command, cwd=tree, check=True)
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.oracles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    writing = actions.add_parser("write", help="digests and surfaces of this tree")
    writing.add_argument("directory", type=Path)
    comparing = actions.add_parser("compare", help="this tree against an earlier commit")
    comparing.add_argument("commit")
    for each in (writing, comparing):
        each.add_argument("--seeds", type=int, default=200, help="how many (default 200)")
        each.add_argument("--start", type=int, default=0, help="the first seed")
        each.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    diffing = actions.add_parser("diff", help="two directories that `write` made")
    diffing.add_argument("before", type=Path)
    diffing.add_argument("after", type=Path)
    chosen = parser.parse_args()
    if chosen.action == "write":
        write(chosen.directory, chosen.seeds, chosen.start, chosen.jobs)
        return 0
    if chosen.action == "diff":
        found = differences(chosen.before, chosen.after)
    else:
        with tempfile.TemporaryDirectory(prefix="oracles-") as scratch:
            before, after = Path(scratch) / "before", Path(scratch) / "after"
            arguments = [f"--{n}={getattr(chosen, n)}" for n in ("seeds", "start", "jobs")]
            write_of_commit(chosen.commit, before, arguments)
            write(after, chosen.seeds, chosen.start, chosen.jobs)
            found = differences(before, after)
    print("\n".join(found) if found else "no difference")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
