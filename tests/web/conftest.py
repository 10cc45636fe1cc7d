"""Chromium, Playwright and the npm packages for the tests of the page.

Where one is missing the tests of this directory are skipped, with the reason; in CI they fail instead.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.integration.processes import Nodes, show_logs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.web.browser import Pages

HERE = Path(__file__).resolve().parent
MODULES = HERE / "node_modules"
INSTALL_TIMEOUT = 240.0


def _unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def npm() -> Path:
    """The directory with the installed npm packages."""
    if shutil.which("npm") is None:
        _unavailable("npm is not installed")
    stamp = MODULES / ".package-lock.json"
    lock = HERE / "package-lock.json"
    if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"],
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=INSTALL_TIMEOUT,
        )
    return HERE


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, until the module's last test: Playwright runs a loop in this thread as long, which
    tests with loops of their own could not bear."""
    if importlib.util.find_spec("playwright") is None:
        _unavailable(
            f"Playwright is not installed: {sys.executable} -m pip install --no-deps "
            "-r tests/web/requirements.txt"
        )
    from tests.web.browser import a_browser, chromium

    if chromium() is None:
        _unavailable("chromium is not installed: apt-get install chromium")
    with a_browser() as found:
        yield found


@pytest.fixture
def pages(browser: Browser) -> Iterator[Pages]:
    """Pages, none of which may have had a console error or violated the policy."""
    from tests.web.browser import Pages

    found = Pages(browser)
    yield found
    found.close()
    assert found.faults == []


@pytest.fixture
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nodes]:
    found = Nodes(tmp_path)
    show_logs(request, found)
    yield found
    found.cleanup()


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(300))
