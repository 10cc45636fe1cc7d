"""`exchange-node demo`: the nodes of one terminal trade, and their books agree."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

from processes import ROOT, environment, eventually, run_cli


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


def test_the_newcomer_has_an_account_and_a_line_to_copy(tmp_path: Path) -> None:
    # Started by a path relative to where it was started, copied in another folder.
    command = [sys.executable, "-m", "node.cli.main", "demo", "--nodes", "2", "--seconds", "60"]
    said, name = "", tmp_path / "exchange-node"
    name.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m node.cli.main "$@"\n')
    name.chmod(0o755)
    env = environment(PATH=f"{tmp_path}:/usr/bin:/bin", PYTHONPATH=str(ROOT))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT) as demo:
        try:
            assert demo.stdout is not None
            while "EXCHANGE_NODE_KEY" not in said:
                said = demo.stdout.readline()
                assert said, "the demo ended"

            def paste(line: str) -> Any:
                ran = subprocess.run(
                    ["sh", "-c", f"{line} --json"],
                    env=env, cwd=tmp_path, capture_output=True, text=True, timeout=30,
                )  # fmt: skip
                assert ran.returncode == 0, ran.stderr
                return json.loads(ran.stdout)

            line = said.strip()
            eventually(lambda: Decimal(paste(line)["filled"]) > 0, what="sellers")
            head, _, url = line.partition(" order buy BTC-USD 0.01")
            balances = paste(f"{head} balances {url}")
        finally:
            demo.send_signal(signal.SIGINT)
            demo.communicate(timeout=30)
    held = {each["asset"]: Decimal(each["total"]) for each in balances}
    assert held["BTC"] > 2
    assert held["USD"] < 100_000
