"""Bounds of dependencies, and the table of advisories that they are above."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[3]
EXTRAS = ("nats", "postgres", "tracing", "upnp")


def bounds() -> dict[str, Version]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(r for extra in (*EXTRAS, "test") for r in extras[extra])]
    parsed = [Requirement(each) for each in wanted]
    return {
        each.name: Version(next(iter(each.specifier)).version) for each in parsed if each.specifier
    }


def table() -> dict[str, tuple[str, str]]:
    """Bound and advisories by the cell of names."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    part = text[text.index("## Dependencies") : text.index("## Replay")]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", part, re.MULTILINE)[1:]
    return {names: (bound, why) for names, bound, why in rows}


def test_each_bound_is_the_one_in_the_table_and_above_each_fixed_version_there() -> None:
    found, rows = bounds(), table()
    assert len(rows) > 5
    for names, (bound, why) in rows.items():
        if why == "none known":
            continue
        name = names.removesuffix(" (tests)")
        assert Version(bound) == found[name], name
        fixed = re.findall(r"\b(\d+\.\d+(?:\.\d+)?)(?=[),]| to )", why)
        assert max(map(Version, fixed), default=Version("0")) <= found[name], name


def test_the_table_names_every_dependency_of_a_node() -> None:
    text = " ".join(table())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(r for extra in EXTRAS for r in extras[extra])]
    names = {Requirement(each).name for each in wanted}
    assert {name for name in names if name.partition("-")[0] not in text} == set()
