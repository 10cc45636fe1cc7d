"""The original test suites of `grenache-grape`, `-link`, `-http` and `-ws`, unmodified, with Grapes of ours.

`node/our_grape.js` puts them in the place of the original `Grape`. The suites use fixed ports, so each runs in a
network namespace of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import unavailable
from real import HERE, MODULES, environment

ROOT = HERE.parents[1]
LIMIT = 200.0  # seconds
# The number of tests of each, so that a suite that stops early is no success.
SUITES = {
    "grenache-grape": 27,
    "grenache-nodejs-link": 5,
    "grenache-nodejs-http": 30,
    "grenache-nodejs-ws": 2,
}


@pytest.fixture
def alone() -> Iterator[list[str]]:
    """Command prefix for a network namespace of its own."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        unavailable("a network namespace needs root and iproute2")
    name = f"suite-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True, timeout=30)
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True, timeout=30)
        yield ["ip", "netns", "exec", name]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True, timeout=30)


@pytest.mark.parametrize("package", SUITES)
def test_every_test_of_the_original_passes(npm: Path, alone: list[str], package: str) -> None:
    done = subprocess.run(
        [
            *(*alone, "node", str(MODULES / "mocha" / "bin" / "mocha.js")),
            # Entries live for 200 ms there, so a busy machine can fail a test once.
            *(
                "--retries",
                "2",
                "--exit",
                "--reporter",
                "json",
                "--require",
                str(HERE / "node" / "our_grape.js"),
            ),
            *sorted(str(path) for path in (MODULES / package / "test").glob("*.js")),
        ],
        cwd=MODULES / package,
        env={**environment(), "PYTHON": sys.executable, "ROOT": str(ROOT), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    # What the tests themselves print comes first.
    report: dict[str, Any] = json.loads(done.stdout[done.stdout.index('{\n  "stats"') :])
    failed = {test["fullTitle"]: test["err"].get("message") for test in report["failures"]}
    assert not failed, done.stderr
    assert not report["pending"]
    assert len(report["passes"]) == SUITES[package]
