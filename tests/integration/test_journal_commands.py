"""`backup`, `restore` and `journal` as an operator types them, with their exit codes."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from processes import ROOT, NodeProcess, Nodes, environment, eventually, run_cli

pytestmark = pytest.mark.process


def stopped_node(nodes: Nodes) -> NodeProcess:
    """A node with an order and two fills that does not run any more."""
    node = nodes.start("node")
    node.sell(5, 100)
    node.buy(2, 100)
    eventually(lambda: len(node.fills()) == 2, what="the fills")
    assert node.stop() == 0
    return node


def test_damage_is_found_reported_and_repaired(nodes: Nodes) -> None:
    node = stopped_node(nodes)
    where = ("--data-dir", str(node.data_dir))
    assert run_cli("journal", "verify", *where).returncode == 0
    log = max((node.data_dir / "journal").glob("*.log"))
    data = bytearray(log.read_bytes())
    data[-100] ^= 1
    log.write_bytes(data)

    verified = run_cli("journal", "verify", *where, "--json")
    assert verified.returncode == 1
    assert [c["name"] for c in json.loads(verified.stdout)["checks"] if not c["ok"]] == ["frames"]
    node.launch()
    assert node.exit_code(30) != 0
    assert "exchange-node journal repair" in node.log

    looked = run_cli("journal", "repair", *where)
    assert looked.returncode == 0
    assert "--yes repairs it" in looked.stdout
    assert log.read_bytes() == data
    repaired = json.loads(run_cli("journal", "repair", "--yes", *where, "--json").stdout)
    assert repaired["repaired"] is True
    assert repaired["lost"] >= 1
    assert Path(repaired["original"]).is_dir()
    assert run_cli("journal", "verify", *where).returncode == 0
    node.launch()
    assert node.exit_code(30) == 2
    assert "recover --from-peers" in node.log


def test_a_running_node_is_not_repaired_but_verified_and_exported(nodes: Nodes) -> None:
    node = nodes.start("node")
    node.sell(5, 100)
    node.buy(2, 100)
    eventually(lambda: len(node.fills()) == 2, what="the fills")
    refused = run_cli("journal", "repair", "--data-dir", str(node.data_dir))
    assert (refused.returncode, "is running" in refused.stderr) == (1, True)
    assert node.cli("journal", "verify")["ok"] is True
    lines = node.cli("journal", "export", json_output=False).splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert (kinds.count("fill"), kinds.count("order")) == (2, 2)
    order = next(row for row in map(json.loads, lines) if row["kind"] == "order")
    assert order["market"] == "TEST-USD"
    later = node.cli("journal", "export", "--start", "2100-01-01T00:00:00Z", json_output=False)
    assert later == ""
    unknown = run_cli("journal", "export", "--account", "nobody", "--data-dir", str(node.data_dir))
    assert (unknown.returncode, "'nobody'" in unknown.stderr) == (1, True)


def test_an_interrupted_backup_leaves_nothing(nodes: Nodes, tmp_path: Path) -> None:
    node = stopped_node(nodes)
    with closing(sqlite3.connect(node.data_dir / "market.sqlite3")) as db:
        db.execute("CREATE TABLE filler (data BLOB)")  # so that it takes its time
        db.executemany("INSERT INTO filler VALUES (zeroblob(?))", [(20_000_000,)] * 10)
        db.commit()
    target = tmp_path / "backup.tar"
    words = ["backup", str(target), "--data-dir", str(node.data_dir)]
    running = subprocess.Popen(
        [sys.executable, "-m", "node.cli.main", *words],
        env=environment(),
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    eventually(lambda: (tmp_path / "backup.tar.partial").exists(), what="the backup to begin")
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 130
    assert running.stderr is not None
    running.stderr.close()
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == []


def test_a_backup_of_nothing_and_a_file_that_is_none(nodes: Nodes, tmp_path: Path) -> None:
    empty = ("--data-dir", str(tmp_path / "empty"))
    (tmp_path / "empty").mkdir()
    made = run_cli("backup", str(tmp_path / "x.tar"), "--without-key", *empty)
    assert (made.returncode, "has no journal" in made.stderr) == (1, True)
    (tmp_path / "none.tar").write_bytes(b"nothing")
    restored = run_cli("restore", str(tmp_path / "none.tar"), *empty)
    assert (restored.returncode, "no complete backup" in restored.stderr) == (1, True)
    recovered = run_cli("recover", "--from-peers", *empty)
    assert (recovered.returncode, "has no journal" in recovered.stderr) == (2, True)
