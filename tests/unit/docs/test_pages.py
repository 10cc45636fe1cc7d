"""Pages name folders, files and decisions that exist, and all of those that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.structure import PACKAGES, ROOT, modules

DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md")])
DECISIONS = sorted((DOCS / "decisions").glob("0*.md"))
ARCHITECTURE = (DOCS / "architecture.md").read_text()
SECTIONS = ["Context", "Options and decision", "Measurement", "Consequence"]
DIAGRAMS = [
    "Composition of a node",
    "An order from entry to fill on two nodes",
    "A stream subscription",
    "A service call",
    "A restart",
]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_architecture_names_every_folder_of_the_packages() -> None:
    folders = {
        named(path.parent)
        for package in PACKAGES
        for path in modules(ROOT / package)
        if path.name != "__init__.py"
    } - {"p2p"}  # p2p/overlay.py, composed of all folders beside it
    assert {folder for folder in folders if f"`{folder}`" not in ARCHITECTURE} == set()


def test_every_folder_in_the_table_of_the_architecture_exists() -> None:
    table = ARCHITECTURE.split("## Folders")[1].split("##")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    folders = [folder for row in rows for folder in re.findall(r"`([^`]+)`", row)]
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


@pytest.mark.parametrize("heading", DIAGRAMS)
def test_the_architecture_has_the_diagram(heading: str) -> None:
    section = ARCHITECTURE.split(f"## {heading}\n")[1].split("\n## ")[0]
    assert "```mermaid\n" in section


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_context_options_measurement_and_consequence(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    parts = re.split(r"^## .*$", text, flags=re.MULTILINE)[1:]
    assert all(part.strip() for part in parts)
    assert f"]({page.name})" in (DOCS / "decisions" / "README.md").read_text()
    status = re.search(r"\A# .*\n\nStatus: (accepted|replaced|dropped)\b.*\.\n", text)
    assert status, "the line after the title says: Status: accepted, replaced or dropped"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_paths_on_a_page_lead_to_files(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text)
    missing = [link for link in links if not (page.parent / link).exists()]
    if page.name != "CHANGELOG.md":  # it names what files were called in their version
        paths = re.findall(r"`((?:config|exchange|p2p|node|tests)/[\w/]+\.py)", text)
        missing += [path for path in paths if not (ROOT / path).exists()]
    assert missing == []
