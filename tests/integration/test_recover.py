"""A machine is lost: its node is restored from a backup made under load, and recovers next to its peers."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from processes import NodeProcess, Nodes, eventually, run_cli, see_each_other

pytestmark = pytest.mark.process


class Load:
    """Orders that cross between nodes, from a thread for each node, until stopped."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(node, number))
            for number, node in enumerate(nodes)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, node: NodeProcess, number: int) -> None:
        step = number
        while not self._stop.is_set():
            step += 1
            side = "buy" if step % 2 else "sell"
            node.order(side, 1 + step % 4, 100 + step % 3)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def trades_with(node: NodeProcess, peer: str) -> set[tuple[str, str, str]]:
    """Trades of a node with a peer: id, price, quantity."""
    return {
        (fill["id"], fill["price"], fill["quantity"])
        for fill in all_fills(node)
        if fill["counterparty"] == peer
    }


def all_fills(node: NodeProcess) -> list[dict[str, Any]]:
    text = node.cli("journal", "export", "--kind", "fill", json_output=False)
    return [json.loads(line) for line in text.splitlines()]


def offline(node: NodeProcess, *words: str, code: int = 0) -> dict[str, Any]:
    """A command on a node's directory; its JSON."""
    ports = ["--p2p-port", str(node.p2p_port)] if words[0] == "recover" else []
    done = run_cli(*words, "--data-dir", str(node.data_dir), *ports, "--json")
    assert done.returncode == code, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def lose(node: NodeProcess, backup: Path) -> None:
    """The machine is gone; another one gets the backup."""
    node.kill9()
    shutil.rmtree(node.data_dir)
    assert "position" in offline(node, "restore", str(backup))
    node.launch()  # a restored directory is not started by mistake
    assert node.exit_code(30) == 2
    assert "recover --from-peers" in node.log


def test_a_lost_machine_recovers_all_that_its_peers_hold(nodes: Nodes, tmp_path: Path) -> None:
    first = nodes.start("first")
    second = nodes.start("second", bootstrap=first.p2p_address)
    third = nodes.start("third", bootstrap=f"{first.p2p_address},{second.p2p_address}")
    see_each_other(first, second, third)
    backup = tmp_path / "backup.tar"
    load = Load([first, second, third])
    try:
        eventually(lambda: len(first.fills()) > 20, what="trades")
        position = first.cli("backup", str(backup))["position"]
        last = first.fills()[0].id
        eventually(
            lambda: last not in [fill.id for fill in first.fills()[:40]],
            what="trades after the backup",
        )
    finally:
        load.stop()
    resting = first.sell(3, 190)
    assert resting.status == "open"
    eventually(lambda: "190" in second.asks() and "190" in third.asks(), what="the last order")
    eventually(
        lambda: not any(n.status().pending_takes for n in (first, second, third)), what="quiet"
    )
    peers = [(peer, trades_with(peer, first.node_id)) for peer in (second, third)]
    lose(first, backup)

    found = offline(first, "recover", "--from-peers")
    assert found["unheard"] == []
    assert found["without_statement"] == []
    assert found["events_fetched"] > 10
    assert len(found["fills"]) + len(found["suspense"]) >= 40
    assert resting.number in [order["order"] for order in found["closed_orders"]]
    assert position > 20

    first.start()
    for peer, trades in peers:
        assert trades
        assert trades_with(first, peer.node_id) == trades
        comparison = first.cli("ledger", "reconcile", peer.node_id)
        assert comparison["agree"] is True
    if found["suspense"]:
        shown = first.cli("trades", "--account", "suspense")
        assert len(shown) == min(len(found["suspense"]), 100)
        assert first.cli("balances", "--account", "suspense")
    verified = offline(first, "journal", "verify")
    assert verified["ok"] is True
    eventually(lambda: "190" not in second.asks(), what="the closed order to go")
    # It trades on, and nobody finds it at fault.
    first.sell("0.5", 30000, market="BTC-USD")
    eventually(lambda: second.asks("BTC-USD"), what="its new order")
    bought = second.buy("0.2", 30000, market="BTC-USD")
    eventually(lambda: second.get_order(bought.id).filled == "0.2", what="a fill")
    for node in (first, second, third):
        assert not [text for text in node.status().warnings if "old copy" in text]
        assert "contradicts its own feed" not in node.log


def test_recovery_without_peers_lists_the_losses(nodes: Nodes, tmp_path: Path) -> None:
    first, second = nodes.pair()
    second.sell(5, 100)
    eventually(lambda: first.asks(), what="the order")
    first.buy(1, 100)
    eventually(first.fills, what="the fill")
    backup = tmp_path / "backup.tar"
    first.cli("backup", str(backup))
    first.buy(2, 100)
    eventually(lambda: len(first.fills()) == 2, what="the second fill")
    second.stop()
    lose(first, backup)
    refused = offline(first, "recover", "--from-peers", "--wait", "2", code=1)
    assert second.node_id in refused["detail"]
    assert "--force" in refused["detail"]
    found = offline(first, "recover", "--from-peers", "--wait", "2", "--force")
    assert found["unheard"] == [second.node_id]
    assert found["heard"] == []
    assert found["fills"] == []
    first.start()
    assert len(first.fills()) == 1
