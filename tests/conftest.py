"""Shared by all tests: the repository's root on the path, options, and no skipping where CI runs."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent.parent))

# The same examples on every run; `--hypothesis-profile explore` looks for new ones.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("fixed")

# Up to Python 3.13 asyncio.get_event_loop makes a loop when none was ever set, and pytest-asyncio
# calls it between tests: that loop is never closed. After an explicit None it makes none.
asyncio.set_event_loop(None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds", type=int, default=200, help="seeds that the simulation runs (default 200)"
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """In CI everything is installed, so a skipped test is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and exitstatus == pytest.ExitCode.OK:
        skipped = reporter.stats.get("skipped", [])
        if skipped:
            reporter.write_line(f"CI: {len(skipped)} skipped tests count as failed", red=True)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
