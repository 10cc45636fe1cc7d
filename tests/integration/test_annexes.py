"""An annex can be taken away: without its folder a node starts, trades, and stops in order."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, Nodes, environment, run_cli

from config import Settings, schema
from config.section import Section
from node.parts.annex import ANNEXES
from node.parts.table import NAMES, annexes

PACKAGES = ("config", "exchange", "p2p", "node")


def product_without(directory: Path, names: tuple[str, ...]) -> Path:
    """Copy the product into `directory` without the folders of these annexes."""
    removed = {ROOT / ANNEXES.replace(".", "/") / name for name in names}

    def left_out(folder: str, entries: list[str]) -> list[str]:
        return [entry for entry in entries if Path(folder, entry) in removed]

    for package in PACKAGES:
        shutil.copytree(ROOT / package, directory / package, ignore=left_out)
    return directory


def command(tree: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node.cli.main", *words], cwd=tree,
        env=environment(PYTHONPATH=str(tree), **env), capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES], ids="-".join)
def test_a_node_trades_without_an_annex(
    nodes: Nodes, tmp_path: Path, names: tuple[str, ...]
) -> None:
    tree = product_without(tmp_path / "tree", names)
    node = nodes.start("a", PYTHONPATH=str(tree))
    where = ("--data-dir", str(node.data_dir), "--json")
    assert json.loads(command(tree, "order", "sell", "TEST-USD", "2", "@", "100", *where).stdout)
    bought = json.loads(command(tree, "order", "buy", "TEST-USD", "1", "@", "100", *where).stdout)
    assert bought["status"] == "filled"
    assert node.status().warnings == []
    assert node.stop() == 0
    gone = [word for annex in annexes() if annex.name in names for word in annex.commands]
    for word in gone:
        refused = command(tree, word)
        assert (refused.returncode, "Unknown command" in refused.stderr) == (2, True)
    check_settings(tree, names)


def check_settings(tree: Path, names: tuple[str, ...]) -> None:
    """The settings of the annexes are neither listed nor checked, and their documentation is gone."""
    gone = {
        key.upper()
        for annex in annexes()
        if annex.name in names and annex.settings
        for section in annex.load(annex.settings).__mro__
        if section not in Settings.__mro__ and issubclass(section, Section)
        for key in section.fields
    }
    shown = command(tree, "config", "--json", **dict.fromkeys(gone, "~"))
    listed = {view["name"] for view in json.loads(shown.stdout)["settings"]}
    assert listed == {info.name for info in schema().values()} - gone
    written = tree / "written"
    subprocess.run(
        [sys.executable, "-m", "config.settings_docs", str(written)], cwd=tree, check=True
    )
    texts = [path.read_text() for path in (written / "docs/settings.md", written / ".env.example")]
    assert not [name for name in gone if f"`{name}` |" in texts[0] or f"#{name}=" in texts[1]]


def test_every_folder_of_an_annex_is_in_the_table() -> None:
    folder = ROOT / ANNEXES.replace(".", "/")
    found = {path.parent.name for path in folder.glob("*/annex.py")}
    assert found == set(NAMES) == {annex.name for annex in annexes()}


def test_commands_of_annexes_are_listed_with_the_others() -> None:
    listed = run_cli("--help").stdout
    for annex in annexes():
        for word in annex.commands:
            assert f"  {word} " in listed
