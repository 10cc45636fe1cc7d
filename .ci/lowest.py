"""Print requirements for a test on the lowest versions: those that `pyproject.toml` admits of what a node runs on, and the
locked ones of what unit tests run with.

    pip install -e . -r <(python .ci/lowest.py)
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ("nats", "postgres", "tracing", "upnp")  # extras of a node
NOT_NEEDED = {
    "bitfinex-api-py",
    "ccxt",
    "import-linter",
}  # their own requirements are higher; no unit test runs them


def lowest(requirement: str) -> str:
    """Return the lower bound of a requirement as the only version.

    Raises:
        ValueError: it has no lower bound.
    """
    parsed = Requirement(requirement)
    bounds = [spec.version for spec in parsed.specifier if spec.operator in (">=", "==")]
    if len(bounds) != 1:
        raise ValueError(f"{requirement}: one lower bound (>=) is needed")
    return f"{canonicalize_name(parsed.name)}=={bounds[0]}"


def requirements() -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *(r for extra in RUNTIME for r in extras[extra])]:
        yield lowest(requirement)
    tools = {canonicalize_name(Requirement(each).name) for each in extras["test"]} - NOT_NEEDED
    for line in (ROOT / "tests" / "requirements.lock").read_text().splitlines():
        if line.partition("==")[0] in tools:
            yield line


if __name__ == "__main__":
    print("\n".join(requirements()))
