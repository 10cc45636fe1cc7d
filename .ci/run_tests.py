"""The tests of `.ci/run`: all of them once, and tests of real processes that failed once more, each alone.

    .venv/bin/python .ci/run_tests.py [ARGUMENTS OF PYTEST]

A test of processes that fails beside others and passes alone is flaky: the run passes, and its last lines name the test with the
end of its first output, so that it is mended at its cause. Any other failure fails the run, as does a test that fails twice.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.conftest import OF_PROCESSES  # noqa: E402

MOST = 5  # tests that are run again: more failures have one cause
SHOWN = 40  # lines of a flaky test's first output
TIMEOUT = 300.0  # seconds for a test alone


@dataclass(frozen=True)
class Failure:
    """A test that failed, with its output."""

    test: str  # as pytest names it on its command line
    output: str


def failures(report: Path) -> list[Failure]:
    """Read the failed tests of a report in JUnit's format."""
    found = []
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - our own
        problems = [part for part in case if part.tag in ("failure", "error")]
        if problems:
            output = "\n".join(part.text or part.get("message", "") for part in problems)
            found.append(Failure(test_name(case), output))
    return found


def test_name(case: ElementTree.Element) -> str:
    """Return the node id of a test case: its module is the longest part of the class name that is a file."""
    parts = (case.get("classname") or "").split(".")
    for count in range(len(parts), 0, -1):
        module = Path(*parts[:count]).with_suffix(".py")
        if (ROOT / module).exists():
            return "::".join([module.as_posix(), *parts[count:], case.get("name") or ""])
    return case.get("name") or ""


def pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


def passes_alone(test: str) -> bool:
    print(f"\nonce more, alone: {test}", flush=True)
    try:
        again = subprocess.run(pytest("-q", test), cwd=ROOT, check=False, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return False
    return again.returncode == 0


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        code = subprocess.run(
            pytest("-n", "4", "--durations=25", f"--junitxml={report}", *arguments),
            cwd=ROOT,
            check=False,
        ).returncode
        failed = failures(report) if report.exists() else []
    of_processes = [failure for failure in failed if failure.test.startswith(OF_PROCESSES)]
    if code != 1 or not failed or len(failed) > MOST or len(of_processes) < len(failed):
        return code
    flaky = [failure for failure in failed if passes_alone(failure.test)]
    if len(flaky) < len(failed):
        return code
    for failure in flaky:
        lines = re.sub(r"\x1b\[[0-9;]*m", "", failure.output).splitlines()[-SHOWN:]
        print(f"\nFLAKY: {failure.test} failed beside others and passed alone. It printed:")
        print("\n".join(f"    {line}" for line in lines))
    print(f"\n{len(flaky)} flaky: to be mended at their cause", flush=True)
    return 0


if __name__ == "__main__":
    os.environ["CI"] = "true"
    sys.exit(main(sys.argv[1:]))
