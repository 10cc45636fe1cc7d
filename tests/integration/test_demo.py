"""`exchange-node demo`: the nodes of one terminal trade, and their books agree."""

from __future__ import annotations

import json
from decimal import Decimal

from processes import run_cli


def test_the_demo_trades_and_all_books_agree() -> None:
    done = run_cli("demo", "--nodes", "3", "--seconds", "3", "--seed", "7", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    nodes = summary["nodes"]
    assert len(nodes) == 3
    assert summary["agree"] is True
    assert len({node["book"] for node in nodes}) == 1
    assert summary["between_nodes"] > 0
    assert summary["wrong_trades"] == 0
    assert sum(Decimal(node["position"]) for node in nodes) == 0
    assert sum(node["fills"] for node in nodes) == 2 * summary["trades"]  # both sides have it
