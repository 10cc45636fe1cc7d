"""The description on an index page, and what the source distribution holds."""

from __future__ import annotations

import re
import runpy
import sys
import types
from collections.abc import Callable
from fnmatch import fnmatch

import pytest

from tests.documents.examples import ROOT

README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture
def description(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """`description` of setup.py, without setuptools."""
    stand_in = types.ModuleType("setuptools")
    monkeypatch.setattr(stand_in, "setup", lambda **given: None, raising=False)
    monkeypatch.setitem(sys.modules, "setuptools", stand_in)
    found: Callable[[str, str], str] = runpy.run_path(str(ROOT / "setup.py"))["description"]
    return found


def links(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)


def test_an_index_page_has_no_link_that_leads_nowhere(
    description: Callable[[str, str], str],
) -> None:
    assert any(link.startswith("docs/") for link in links(README))
    assert all(re.match("https?://", link) for link in links(description(README, "")))


def test_links_lead_to_the_source_where_its_address_is_known(
    description: Callable[[str, str], str],
) -> None:
    made = links(description(README, "https://example.org/blob/v1/"))
    relative = [link for link in links(README) if link.endswith(".md") and "://" not in link]
    assert {f"https://example.org/blob/v1/{link}" for link in relative} <= set(made)


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for link in links(path.read_text("utf-8")):
            target = link.partition("#")[0]
            if target and "://" not in link:
                assert (path.parent / target).exists(), f"{path.name}: {link}"


def test_the_source_distribution_has_every_folder_of_the_source() -> None:
    wanted = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith((".", "_"))}
    grafted = set(re.findall(r"^graft (\S+)", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE))
    built = ("build", "dist", "*.egg-info")
    assert {name for name in wanted if not any(fnmatch(name, b) for b in built)} == grafted
