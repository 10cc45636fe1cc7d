"""Compare the installed packages with the advisory database, by pip-audit in an environment of its own.

Exit code 1: an installed package has a known hole. Where no database can be reached this prints so, and passes: a run without
internet is no reason to fail, but it is no audit either.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-audit" / "bin" / "python"
PIP_AUDIT = "pip-audit==2.10.1"
LONGEST = 300  # seconds


def report() -> list[dict[str, object]] | str:
    """Return pip-audit's findings for each package, or why there are none."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", PYTHON.parents[1]], check=True)
    install = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PIP_AUDIT]
    subprocess.run(install, check=True)
    freeze = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    listed = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    requirements = PYTHON.parents[1] / "requirements.txt"
    requirements.write_text(listed)
    audit = [PYTHON, "-m", "pip_audit", "--vulnerability-service", "osv", "--format", "json"]
    audit += ["--no-deps", "--disable-pip", "--requirement", requirements]
    try:
        done = subprocess.run(audit, capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {LONGEST} s"
    try:
        found: list[dict[str, object]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return done.stderr.strip().rpartition("\n")[2][:200] or f"exit code {done.returncode}"
    return found


def main() -> int:
    found = report()
    if isinstance(found, str):
        print(f"audit: NOT DONE, no advisory database was reached: {found}")
        return 0
    holes = [package for package in found if package.get("vulns")]
    audited = sum("vulns" in package for package in found)
    for package in holes:
        print(f"audit: {package['name']} {package['version']}: {package['vulns']}")
    print(f"audit: {audited} of {len(found)} packages compared, {len(holes)} with a known hole")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
