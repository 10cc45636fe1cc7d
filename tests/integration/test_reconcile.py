"""Two real nodes keep the same accounts of each other: through fees, client accounts and kill -9; and
when they do not, `ledger reconcile` says in what."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from processes import MARKET, NodeProcess, Nodes, eventually, run_cli, see_each_other

from node.client.exchange_client import ApiError
from node.views.account_views import AccountRequest
from node.views.views import OrderRequest, OrderView, Side


def trade_for(node: NodeProcess, account: str, side: Side, quantity: int, price: int) -> OrderView:
    """An order of a client account."""
    request = OrderRequest(market=MARKET, side=side, quantity=str(quantity), price=str(price))
    return node.ask(lambda client: client.submit(request, account=account))


def fund(node: NodeProcess, account: str) -> None:
    node.ask(lambda client: client.create_account(AccountRequest(name=account)))
    for asset, amount in (("USD", "100000"), ("TEST", "100")):
        node.ask(lambda client, a=asset, n=amount: client.deposit(account, a, n))


def reconcile(node: NodeProcess, peer: NodeProcess, *more: str) -> tuple[int, str]:
    """The exit code, and what a user reads."""
    done = run_cli(
        "ledger", "reconcile", peer.node_id[:12], "--data-dir", str(node.data_dir), *more
    )
    return done.returncode, done.stdout + done.stderr


def agree(a: NodeProcess, b: NodeProcess) -> dict[str, Any]:
    """Wait until both say that they agree; what one of them says."""
    for node, peer in ((a, b), (b, a)):
        eventually(
            lambda node=node, peer=peer: reconcile(node, peer)[0] == 0,
            what=lambda node=node, peer=peer: reconcile(node, peer)[1],
        )
    code, text = reconcile(a, b, "--json")
    assert code == 0
    found: dict[str, Any] = json.loads(text)
    return found


def filled(node: NodeProcess, order: OrderView, account: str) -> bool:
    return node.ask(lambda c: c.order(order.id, account=account)).status == "filled"


def test_accounts_of_two_nodes_agree_through_trades_fees_and_kill9(
    nodes: Nodes, tmp_path: Path
) -> None:
    a, b = nodes.pair()
    assert reconcile(a, b)[0] == 0  # strangers agree on nothing
    fund(a, "alice")
    fund(b, "bob")
    trade_for(a, "alice", "sell", 10, 20)
    eventually(b.asks)
    order = trade_for(b, "bob", "buy", 4, 20)
    eventually(lambda: filled(b, order, "bob"))
    b.sell(3, 19)  # the house
    eventually(lambda: "19" in a.asks())
    order = trade_for(a, "alice", "buy", 2, 19)
    eventually(lambda: filled(a, order, "alice"))
    found = agree(a, b)
    assert {row["asset"]: (row["ours"], row["theirs"]) for row in found["assets"]} == {
        "TEST": ("2", "2"),
        "USD": ("-42", "-42"),
    }
    assert (found["trades_count"], found["peer_trades_count"]) == (2, 2)

    # kill -9 of the maker before it has read a take, and of the taker right after it has asked
    a.send_signal(signal.SIGSTOP)
    b.buy(3, 20)  # 1 of its own at 19, and 2 of alice's
    assert b.status().pending_takes == 1
    a.kill9()
    a.restart()
    see_each_other(a, b)
    eventually(lambda: a.status().pending_takes == b.status().pending_takes == 0)
    for _ in range(3):
        b.buy(1, 20)
    b.kill9()
    b.restart()
    see_each_other(a, b)
    eventually(lambda: a.status().pending_takes == b.status().pending_takes == 0)
    eventually(lambda: not b.orders())  # after its fence it goes on with what is open
    found = agree(a, b)
    assert found["trades_count"] > 2
    assert found["trades"] == found["settlements"] == found["pending"] == []

    # One side records a payment that the other does not know of.
    kept = tmp_path / "kept.json"
    assert reconcile(a, b, "--save", str(kept))[0] == 0
    a.cli("ledger", "settle", b.node_id[:12], "received", "5.5", "USD")
    code, text = reconcile(a, b, "--save", str(tmp_path / "differs.json"))
    assert code == 1
    assert "DOES NOT AGREE" in text
    assert "we recorded: received 5.5 USD" in text
    assert f"exchange-node ledger settle {a.node_id[:10]} paid 5.5 USD" in text
    code, text = reconcile(b, a)
    assert (code, "they recorded: received 5.5 USD" in text) == (1, True)
    b.cli("ledger", "settle", a.node_id[:12], "paid", "5.5", "USD")
    agree(a, b)

    # What was kept is evidence, as long as nobody touches it.
    for name, word in (("kept", "agrees"), ("differs", "DOES NOT AGREE")):
        done = run_cli("ledger", "verify", str(tmp_path / f"{name}.json"))
        assert (done.returncode, word in done.stdout) == (0, True), done.stderr
    said = json.loads(kept.read_text())
    said["theirs"]["body"] = said["ours"]["body"]
    kept.write_text(json.dumps(said))
    done = run_cli("ledger", "verify", str(kept))
    assert done.returncode == 1
    assert "not genuine" in done.stderr


def test_a_node_that_lost_its_history_is_found_out(nodes: Nodes) -> None:
    a, b = nodes.pair()
    a.sell(5, 20)
    eventually(b.asks)
    b.buy(2, 20)
    eventually(a.fills)
    agree(a, b)
    copy = a.data_dir.with_name("copy")
    a.stop()
    (a.data_dir / "journal").rename(copy)
    (
        a.data_dir / "market.sqlite3"
    ).unlink()  # the start refuses a lost journal where a node has run
    a.restart()  # with its key, and nothing else
    see_each_other(a, b)
    code, text = eventually(lambda: (r := reconcile(a, b))[0] == 1 and r)
    assert "only they" in text
    assert "0 trades here, 1 there" in text
    assert "are owed 40" in text
    code, text = reconcile(b, a, "--json")
    found = json.loads(text)
    (trade,) = found["trades"]
    assert (code, trade["theirs"], trade["under_way"]) == (1, None, "")
    assert (trade["ours"]["quantity"], trade["ours"]["price"]) == ("2", "20")
    assert [row["unexplained"] for row in found["assets"]] == ["0", "0"]


def test_a_take_above_the_credit_limit_is_refused_with_the_reason(nodes: Nodes) -> None:
    a, b = nodes.pair()
    a.cli("ledger", "credit", "USD", "100", "--peer", b.node_id[:12])
    a.sell(10, 20)
    eventually(b.asks)
    first = b.buy(3, 20)
    eventually(lambda: b.get_order(first.id).status == "filled")
    refused = b.buy(3, 20)  # 60 USD, and 60 are owed already
    eventually(lambda: b.get_order(refused.id).reason == "credit")
    assert b.get_order(refused.id).filled == "0"
    row = next(
        row for row in a.cli("ledger", "obligations")["obligations"] if row["asset"] == "USD"
    )
    assert (row["direction"], row["amount"], row["limit"], row["room"]) == (
        *("collect", "60"),
        *("100", "40"),
    )
    agree(a, b)
    b.cancel(refused.id)
    a.cli("ledger", "settle", b.node_id[:12], "received", "60", "USD")
    b.cli("ledger", "settle", a.node_id[:12], "paid", "60", "USD")
    again = b.buy(4, 20)
    eventually(lambda: b.get_order(again.id).status == "filled")
    agree(a, b)


def test_reconciling_needs_the_other_node(nodes: Nodes) -> None:
    a, b = nodes.pair()
    a.sell(1, 20)
    eventually(b.asks)
    b.buy(1, 20)
    eventually(a.fills)
    b.stop()
    code, text = reconcile(a, b)
    assert code == 1
    assert b.node_id in text
    with pytest.raises(ApiError) as error:
        a.ask(lambda client: client.reconcile("nobody"))
    assert error.value.code == "unknown_node"
