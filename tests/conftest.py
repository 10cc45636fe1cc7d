"""Shared by all tests: the repository's root on the path, options, which tests keep together, and no
skipping where CI runs."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

MEMORY = Path("/dev/shm")  # a file system of most Linux machines

# Tests of real processes, sockets and seconds: they wait more than they compute.
OF_PROCESSES = (
    "tests/bare/",
    "tests/documents/",
    "tests/integration/",
    "tests/interop/",
    "tests/mutation/test_mutation.py",
    "tests/simulation/storm/test_real_clock.py",
    "tests/soak/",
    "tests/unit/p2p/discovery/test_mdns.py",
    "tests/unit/node/annexes/demos/",
    "tests/web/",
)

# Those that share Node.js programs or a browser for the session: the first worker begins with them.
PROGRAMS = ("tests/interop/", "tests/web/")

# Containers often set this. Each worker would then compile all tests, and each process of a node the whole product.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

sys.path.insert(0, str(Path(__file__).parent.parent))

# The same examples on every run, a quarter of them in the inner loop; `--hypothesis-profile explore` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("quick", derandomize=True, deadline=None, max_examples=25)
settings.register_profile("explore", deadline=None)
settings.load_profile("fixed")

# A run in the background of a script begins with SIGINT ignored, and the programs that tests interrupt
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Up to Python 3.13 asyncio.get_event_loop makes a loop when none was ever set, and pytest-asyncio
# calls it between tests: that loop is never closed. After an explicit None it makes none.
asyncio.set_event_loop(None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds", type=int, default=100, help="seeds that the simulation runs (default 100)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the inner loop quick: fewer examples, and files in memory, where nothing waits for a disk."""
    if "not slow" in config.option.markexpr:
        if config.getoption("--hypothesis-profile") is None:
            settings.load_profile("quick")
        if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 1 << 30:
            tempfile.tempdir = str(MEMORY)


# What the inner loop leaves out (`-m "not process and not slow"`): real processes, and these.
SLOW = (
    "tests/simulation/",
    "tests/unit/p2p/peers/test_eclipse",
    "_properties.py",
    "_fuzz.py",
)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, without importing them, modules whose tests would all be deselected."""
    expression = config.option.markexpr
    if " or " in expression:
        return None
    left = OF_PROCESSES if "not process" in expression else ()
    left += ("tests/simulation/",) if "not slow" in expression else ()
    place = f"{os.path.relpath(collection_path, config.rootpath)}/"
    return place.startswith(left) or None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("LONG_TESTS"):
        long = [item for item in items if item.get_closest_marker("long") is not None]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    for item in items:
        for marker in item.iter_markers("looptime"):
            marker.kwargs.setdefault(
                "noop_cycles", 10
            )  # turns of the loop that wait for sockets before time passes
        if item.nodeid.startswith(OF_PROCESSES):
            item.add_marker("process")
        elif any(part in item.nodeid for part in SLOW):
            item.add_marker("slow")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let the garbage collector leave out what stays until the end, and look less often: a tenth of the processor time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the last worker the tests that compute, and the others those of real processes. A worker that has none left
    takes the next module of any kind."""
    from xdist.scheduler import LoadScopeScheduling

    class Lanes(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0]

        def _assign_work_unit(self, worker: Any) -> None:
            lane = int(worker.gateway.id.removeprefix("gw")) % self.numnodes
            wanted = _lane(lane, self.numnodes)
            self.workqueue.move_to_end(min(self.workqueue, key=wanted), last=False)
            super()._assign_work_unit(worker)

    return Lanes(config, log)


def _lane(lane: int, lanes: int) -> Callable[[str], int]:
    """Rank modules by what a worker should run first."""

    def rank(module: str) -> int:
        if not module.startswith(OF_PROCESSES):
            return 0 if lane == lanes - 1 else 2
        return 0 if module.startswith(PROGRAMS) == (lane == 0) else 1

    return rank


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI everything is installed and nothing is known to be broken: each test has to pass."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and exitstatus == pytest.ExitCode.OK:
        for kind in ("skipped", "xfailed", "xpassed"):
            if reports := reporter.stats.get(kind):
                reporter.write_line(f"CI: {len(reports)} {kind} count as failed", red=True)
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
