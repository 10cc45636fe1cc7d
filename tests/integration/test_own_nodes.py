"""`exchange-node desk` over two real nodes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from processes import Nodes, eventually


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "node.cli.main", "desk", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )


def read(*words: str) -> Any:
    done = run(*words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_desk_sees_its_nodes_together(nodes: Nodes, tmp_path: Path) -> None:
    a, b = nodes.pair()
    a.sell(3, 100)
    eventually(lambda: "100" in b.asks())
    bought = b.buy(1, 100)
    eventually(lambda: b.get_order(bought.id).status == "filled")
    profile = tmp_path / "desk.toml"
    profile.write_text(
        f'[[node]]\nname = "one"\ndata_dir = "{a.data_dir}"\n'
        f'[[node]]\nname = "two"\ndata_dir = "{b.data_dir}"\n'
    )
    both = ("--profile", str(profile))
    assert [row["status"]["node_id"] for row in read("status", *both)["status"]] == [
        a.node_id,
        b.node_id,
    ]
    eventually(lambda: all(t["total"] == "0" for t in read("balances", *both)["totals"]))
    assert len(read("balances", *both)["balances"]) == 4
    assert [each["node"] for each in read("orders", *both)["orders"]] == ["one"]
    (trade,) = read("trades", *both)["trades"]
    assert (trade["node"], trade["internal"]) == ("two", True)
    owed = read("obligations", *both)
    assert owed["obligations"] == []
    assert all(each["net"] == "0" for each in owed["own"])
    assert "own: one" in run("trades", *both).stdout

    alone = run("obligations", "--nodes", f"{b.data_dir},{tmp_path / 'none'}")
    assert alone.returncode == 3
    assert f"pay to        {a.node_id}" in alone.stdout
    assert "none: no node runs on" in alone.stderr
    assert "1 of 2 nodes answered" in alone.stderr
    twice = run("balances", "--nodes", f"{a.data_dir},{a.api_url}")
    assert twice.returncode == 2
    assert "is the same node as" in twice.stderr
    neither = run("balances")
    assert neither.returncode == 2
    assert "--nodes DIR,URL,... or --profile FILE" in neither.stderr

    key = tmp_path / "key"
    key.write_text("operator:no-such-secret")
    key.chmod(0o644)
    profile.write_text(f'[[node]]\nname = "two"\napi = "{b.api_url}"\nkey_file = "key"\n')
    assert "chmod 600" in run("balances", *both).stderr
    key.chmod(0o600)
    assert run("balances", *both).returncode == 1
    key.write_text("nonsense")
    assert "must contain KEY:SECRET" in run("balances", *both).stderr
