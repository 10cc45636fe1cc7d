"""The real Grenache programs: installed once from the npm registry, started for the tests that ask.

Without Node.js the tests of this directory are skipped, with the reason; in CI (environment variable
CI) they fail instead.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from real import HERE, MODULES, RealGrape, grape_pair

TEST_TIMEOUT = 300.0  # seconds; Grapes that die cost others seconds, and so does a loaded machine
INSTALL_TIMEOUT = 280.0
OLDEST_NODE = 16  # major version that the packages ask for
_STAMP = MODULES / ".installed-from"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_TIMEOUT))


@pytest.fixture(scope="session")
def npm() -> Path:
    """The installed `node_modules`. Every test that starts a Node.js program needs this fixture."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            unavailable(f"{tool} is not installed (Node.js >= {OLDEST_NODE} and npm are needed)")
    version = subprocess.run(
        ["node", "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < OLDEST_NODE:
        unavailable(f"Node.js {version} is too old, {OLDEST_NODE} is the oldest that will do")

    wanted = hashlib.sha256()
    for name in ("package.json", "package-lock.json"):
        wanted.update((HERE / name).read_bytes())
    own = hashlib.sha256(str(HERE).encode()).hexdigest()[:12]
    with (Path(tempfile.gettempdir()) / f"interop-npm-{own}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several pytest runs in one checkout install once
        if not _STAMP.exists() or _STAMP.read_text() != wanted.hexdigest():
            done = subprocess.run(
                ["npm", "ci", "--no-audit", "--no-fund"],
                cwd=HERE,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=INSTALL_TIMEOUT,
            )
            if done.returncode != 0:
                pytest.fail(f"npm ci failed:\n{done.stdout}{done.stderr}", pytrace=False)
            _STAMP.write_text(wanted.hexdigest())
    return MODULES


@pytest.fixture(scope="session")
def grapes(npm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RealGrape]]:
    """Two real Grapes that know each other, for all tests that harm neither."""
    pair = grape_pair(tmp_path_factory.mktemp("grapes"))
    try:
        asyncio.run(pair.start())
        yield list(pair)
    finally:
        pair.kill()


@pytest.fixture
async def own_grapes(npm: Path, tmp_path: Path) -> AsyncIterator[list[RealGrape]]:
    """Two real Grapes that know each other, for one test that may kill them."""
    pair = grape_pair(tmp_path)
    try:
        await pair.start()
        yield list(pair)
    finally:
        pair.kill()


@pytest.fixture
def service() -> str:
    """A service name that no other test uses, so that tests can share Grapes."""
    return f"test_{uuid.uuid4().hex[:12]}"


def unavailable(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
