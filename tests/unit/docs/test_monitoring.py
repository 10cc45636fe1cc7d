"""Alert rules: each fires when it should, and has a section that says what to do. The board is whole."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
ALERTS = ROOT / "deploy" / "alerts.yml"
NAMES = re.findall(r"- alert: (\w+)", ALERTS.read_text("utf-8"))


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    text = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert re.findall(r"^### (ExchangeNode\w+)$", text, re.MULTILINE) == NAMES
    anchors = re.findall(r"runbook: docs/operations\.md#(\w+)", ALERTS.read_text("utf-8"))
    assert anchors == [name.lower() for name in NAMES]


@pytest.mark.process
def test_each_alert_fires_for_a_sick_node_and_not_for_a_healthy_one(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's prometheus)")
    tests = ROOT / "tests" / "prometheus" / "alerts_test.yml"
    tested = re.findall(r"name: (\w+) (fires|is quiet)", tests.read_text("utf-8"))
    assert tested == [(name, case) for name in NAMES for case in ("fires", "is quiet")]
    for file in (ALERTS, tests):
        shutil.copy(file, tmp_path)
    done = subprocess.run(
        [promtool, "test", "rules", tests.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "expression"), [("grafana.json", "expr"), ("grafana-desk.json", "rawSql")]
)
def test_a_board_has_no_panel_without_an_expression_and_none_twice(
    file: str, expression: str
) -> None:
    board = json.loads((ROOT / "deploy" / file).read_text("utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(target[expression] for panel in panels for target in panel["targets"])
    titles = [panel["title"] for panel in board["panels"]]
    assert len(titles) == len(set(titles))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(places) == len(set(places))
