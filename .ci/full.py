"""Parts of the full run that the core of `.ci/run` leaves out: long soaks, many seeds, other Pythons.

    .ci/run --full                      the core, then all parts
    .venv/bin/python .ci/full.py        all parts, without the core
    .venv/bin/python .ci/full.py NAME   some parts
    .venv/bin/python .ci/full.py seeds dishonest --times 10    with ten times the seeds, minutes and samples
    .venv/bin/python .ci/full.py --list

Two parts run at a time: one that needs a processor, and one whose real processes mostly wait. The output of a part
goes to `.ci/log/NAME.log`; the end of it is shown if the part fails. Exit code 1: a part failed; 130: interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / ".ci" / "log"
AMOUNT = re.compile(r"(--(?:seeds|minutes|sample|examples)) (\d+)")
SHOWN = 40  # last lines of the output of a part that failed
OTHER_PYTHONS = ("3.12", "3.13")


@dataclass(frozen=True)
class Part:
    """A shell command of the full run."""

    name: str
    command: str
    fails: bool = True  # False: its findings are listed and fail nothing


COMPUTING = (
    Part("seeds", "python -m tests.simulation --start 3000000 --seeds 1000"),
    Part("nasty", "python -m tests.simulation --start 8000000 --seeds 300 --nasty"),
    Part("older", "python -m tests.simulation --start 8500000 --seeds 100 --nasty --older"),
    Part("recoveries", "python -m tests.simulation.recoveries --seeds 100"),
    Part("dishonest", "python -m tests.simulation --start 8100000 --seeds 60 --dishonest"),
    Part("lies", "python -m tests.simulation.dishonest.lies --seeds 100"),
    Part("fuzz", "for t in $(python -m tests.fuzz); do python -m tests.fuzz $t --minutes 1; done"),
    Part("long", "LONG_TESTS=1 pytest -m long tests/unit tests/simulation"),
    Part("dht", "python -m tests.simulation.dht"),
    Part("scale", "python -m tests.simulation.scale --nodes 100"),
    Part("routing", "python -m tests.simulation.routing --seeds 1"),
    Part("storm", "python -m tests.simulation.storm --seeds 1"),
    Part(
        "coverage",
        "coverage run -m pytest -q -m 'not process and not slow' --hypothesis-profile fixed "
        "&& coverage report --format=total && coverage report",
    ),
    Part(
        "mutation",
        "for r in exchange p2p/adaptive p2p/mesh; do python -m tests.mutation $r --sample 100; done",
        fails=False,
    ),
)
LOWEST = Part(
    "lowest",
    "python3 -m venv .venv-lowest"
    " && python .ci/lowest.py > .ci/log/lowest.txt"
    " && .venv-lowest/bin/pip install --quiet --disable-pip-version-check -e . -r .ci/log/lowest.txt"
    " && .venv-lowest/bin/pytest -n 2 tests/unit --ignore tests/unit/docs",
)
PROCESSES = (
    Part("soak", "python -m tests.soak"),
    Part("bots", "python -m tests.bots --minutes 2 --nodes 1"),
    Part("bots-dry", "python -m tests.bots --minutes 1 --nodes 1 --dry"),
    Part("bots-kills", "python -m tests.bots --minutes 5 --nodes 3 --kill 75"),
    Part("long-web", "LONG_TESTS=1 pytest -m long tests/web"),
    Part("long-interop", "LONG_TESTS=1 pytest -m long tests/interop"),
    Part("long-integration", "LONG_TESTS=1 pytest -m long tests/integration"),
    Part("prometheus", "python -m tests.prometheus"),
    Part("openapi", "python -m tests.openapi --examples 50"),
    Part("documents", "python -m tests.documents"),
    Part("bare", "python -m tests.bare bookworm"),
    Part("bare-whole", "python -m tests.bare trixie --whole"),
)


def interpreter(version: str) -> str | None:
    """Path of another Python of this machine, from pyenv or the search path."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for found in (
        *sorted(versions.glob(f"{version}.*/bin/python")),
        shutil.which(f"python{version}"),
    ):
        if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
            return str(found)
    return None


def other_pythons() -> tuple[Part, ...]:
    """Unit tests on each other supported Python that is installed."""
    parts = []
    for version in OTHER_PYTHONS:
        if (python := interpreter(version)) is None:
            print(f"python{version} is not installed: not tested", flush=True)
            continue
        own = f".venv-{version}"
        parts.append(
            Part(
                f"python{version}",
                f"{shlex.quote(python)} -m venv {own}"
                f" && {own}/bin/pip install --quiet --disable-pip-version-check -c tests/requirements.lock"
                f" -e '.[test]'"
                f" && {own}/bin/pytest -n 2 tests/unit",
            )
        )
    return tuple(parts)


def longer(part: Part, times: int) -> Part:
    """The part with several times the seeds, minutes, samples and examples."""
    return replace(part, command=AMOUNT.sub(lambda m: f"{m[1]} {int(m[2]) * times}", part.command))


class Run:
    """Runs parts and keeps their results."""

    def __init__(self) -> None:
        self.results: dict[str, bool] = {}
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False
        self._lock = threading.Lock()

    def run_all(self, parts: list[Part]) -> None:
        """Run parts one after another."""
        for part in parts:
            if self._stopped:
                return
            self._run(part)

    def stop(self) -> None:
        """End what runs, with all that it started."""
        self._stopped = True
        with self._lock:
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGINT)

    def _run(self, part: Part) -> None:
        log = LOGS / f"{part.name}.log"
        path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-ec", part.command],
                cwd=ROOT,
                env={**os.environ, "PATH": path, "CI": "true"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            with self._lock:
                self._running.add(process)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
        passed = code == 0 or not part.fails
        self.results[part.name] = passed
        ended = "passed" if code == 0 else f"ended with {code}" if passed else f"FAILED ({code})"
        print(
            f"{part.name}: {ended} in {time.monotonic() - began:.0f} s: {part.command}", flush=True
        )
        if not passed:
            lines = log.read_text("utf-8", "replace").splitlines()[-SHOWN:]
            print("\n".join(f"    {line}" for line in lines), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog=".ci/full.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts to run (default all)")
    parser.add_argument("--list", action="store_true", help="list the parts and their commands")
    parser.add_argument(
        "--times", type=int, default=1, help="factor of seeds, minutes and samples (default 1)"
    )
    given = parser.parse_args()
    if given.times < 1:
        parser.error(f"--times must be 1 or more, not {given.times}")
    lanes = [
        [longer(part, given.times) for part in lane]
        for lane in ((*COMPUTING, LOWEST, *other_pythons()), PROCESSES)
    ]
    known = {part.name: part for lane in lanes for part in lane}
    if given.list:
        print("\n".join(f"{part.name:17} {part.command}" for part in known.values()))
        return 0
    if unknown := set(given.names) - known.keys():
        parser.error(f"unknown part {', '.join(sorted(unknown))}; `--list` lists them")
    chosen = set(given.names) or known.keys()
    LOGS.mkdir(exist_ok=True)
    run = Run()
    threads = [
        threading.Thread(target=run.run_all, args=([p for p in lane if p.name in chosen],))
        for lane in lanes
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        run.stop()
        for thread in threads:
            thread.join()
        return 130
    failed = sorted(name for name, passed in run.results.items() if not passed)
    print(f"full run: {len(run.results) - len(failed)} passed, {len(failed)} failed")
    if failed:
        print(f"failed: {', '.join(failed)}; see .ci/log", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
