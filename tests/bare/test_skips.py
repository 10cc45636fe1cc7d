"""A test that lacks something is skipped with a reason, except in CI, where nothing may be missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bare.readme_lines import ROOT

SKIPPED = "import pytest\ndef test_it():\n    pytest.skip('jq is not installed')\n"
XFAILED = "import pytest\n@pytest.mark.xfail\ndef test_it():\n    assert False\n"
LONG = "import pytest\n@pytest.mark.long\ndef test_it():\n    assert False\ndef test_other():\n    pass\n"


@pytest.mark.parametrize(
    ("program", "ci", "code", "said"),
    [
        (SKIPPED, "", 0, "jq is not installed"),
        (SKIPPED, "true", 1, "CI: 1 skipped count as failed"),
        (XFAILED, "", 0, "1 xfailed"),
        (XFAILED, "true", 1, "CI: 1 xfailed count as failed"),
        (LONG, "true", 0, "1 passed, 1 deselected"),
    ],
)
def test_skips_of_missing_programs_are_reported_and_fail_in_ci_alone(
    tmp_path: Path, program: str, ci: str, code: int, said: str
) -> None:
    (tmp_path / "test_one.py").write_text(program)
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "LONG_TESTS")}
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, tmp_path / "test_one.py"],
        cwd=ROOT, env={**kept, "CI": ci}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
