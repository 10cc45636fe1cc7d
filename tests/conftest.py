"""Shared by all tests: the repository's root on the path, options, which tests keep together, and no
skipping where CI runs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Tests of real processes. Those of one group take turns, so that each has most of a machine with two cores.
OF_PROCESSES = (
    "tests/documents/",
    "tests/integration/",
    "tests/interop/",
    "tests/soak/",
    "tests/web/",
)

PROGRAMS = ("tests/interop/", "tests/web/")  # the group that waits for Node.js and for Chromium

sys.path.insert(0, str(Path(__file__).parent.parent))

# pytest puts tests/simulation before the root, and its node.py would take the package's name.
import node  # noqa: E402, F401

# The same examples on every run; `--hypothesis-profile explore` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
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
        "--seeds", type=int, default=200, help="seeds that the simulation runs (default 200)"
    )


# What the inner loop leaves out (`-m "not process and not slow"`): real processes, and these.
SLOW = (
    "tests/simulation/",
    "tests/unit/p2p/peers/test_eclipse",
    "tests/unit/node/annexes/demos/",
    "_properties.py",
    "_fuzz.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("LONG_TESTS"):
        long = [item for item in items if item.get_closest_marker("long") is not None]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    for item in items:
        if item.nodeid.startswith(OF_PROCESSES):
            item.add_marker("process")
        elif any(part in item.nodeid for part in SLOW):
            item.add_marker("slow")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n 3` one worker has the tests of nodes as processes, one those of other programs, each one after
    another, and one all the rest. (By `--dist loadgroup` pytest-xdist 3.8 with pytest 9.2 does not keep groups together.)"""
    from xdist.scheduler import LoadScopeScheduling

    class TakingTurns(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith(PROGRAMS):
                return "programs"
            return "processes" if nodeid.startswith(OF_PROCESSES) else nodeid

    return TakingTurns(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI everything is installed and nothing is known to be broken: each test has to pass."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and exitstatus == pytest.ExitCode.OK:
        for kind in ("skipped", "xfailed", "xpassed"):
            if reports := reporter.stats.get(kind):
                reporter.write_line(f"CI: {len(reports)} {kind} count as failed", red=True)
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
