"""Nodes of earlier versions: their data directories are taken over, and they trade with present nodes."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from processes import NodeProcess, Nodes, eventually, run_cli

from node.views.node_views import CallRequest
from tests.fixtures.v0_1_0 import old_node
from tests.fixtures.v0_1_0.old_node import HERE as FILES
from tests.fixtures.v0_1_0.old_node import OldNode

EXPECTED: dict[str, Any] = json.loads((FILES / "expected.json").read_text("utf-8"))["api"]
MARKET = "TEST-USD"

# What the API of version 0.1.0 called otherwise: field by its present name, and values of fields.
RENAMED_FIELDS: dict[str, str] = {
    "trail": "trailing_offset",
    "display": "display_quantity",
    "sibling": "linked_order_id",
}
RENAMED_VALUES: dict[tuple[str, str], str] = {("status", "armed"): "untriggered"}


def in_present_words(answer: Any) -> Any:
    """An answer of version 0.1.0, as a present node would give it."""
    if isinstance(answer, dict):
        return {
            RENAMED_FIELDS.get(name, name): RENAMED_VALUES.get((name, value), value)
            if isinstance(value, str)
            else in_present_words(value)
            for name, value in answer.items()
        }
    if isinstance(answer, list):
        return [in_present_words(each) for each in answer]
    return answer


def includes(found: Any, expected: Any) -> bool:
    """True if an answer contains all that is expected; it may have more fields."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            name in found and includes(found[name], value) for name, value in expected.items()
        )
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(map(includes, found, expected))
        )
    return bool(found == expected)


def get(node: NodeProcess, path: str) -> Any:
    """An answer of the API as it is."""
    runtime = json.loads(node.runtime_path.read_text("utf-8"))
    request = urllib.request.Request(
        node.api_url + path,
        headers={"Authorization": f"Bearer operator:{runtime['operator_token']}"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def test_a_node_goes_on_with_the_data_directory_of_version_0_1_0(nodes: Nodes) -> None:
    node = nodes.make("upgraded")
    shutil.copytree(FILES / "data", node.data_dir)
    (node.data_dir / "node.key").chmod(0o600)
    node.start()
    placed = node.buy(2, "4.50")  # once it has listened
    assert node.cancel(placed.id).status == "cancelled"
    for path, expected in EXPECTED.items():
        if path == "book":
            continue
        found = get(node, path)
        if path.startswith("/v1/orders") and path.endswith("house"):
            found = [order for order in found if order["id"] != placed.id]
            for order in expected:
                if order["client_id"] == "pending fok":  # the start itself has ended it
                    order.pop("updated", None)
        expected = in_present_words(expected)
        assert includes(found, expected), (path, found, expected)
    for market, book in EXPECTED["book"].items():
        found = get(node, f"/v1/book/{market}")
        for name in ("bids", "asks", "digest"):
            assert includes(found[name], in_present_words(book[name])), (market, name, found)
    assert node.stop() == 0
    # What it has written meanwhile does not keep the next one from reading it all.
    node.restart()
    assert node.get_order(placed.id).status == "cancelled"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 0.1.0."""
    return old_node.unpack(tmp_path_factory.mktemp("v0_1_0"))


@pytest.fixture(params=["tls", "off"])
def old(tmp_path: Path, program: Path, request: pytest.FixtureRequest) -> Iterator[OldNode]:
    """A node of version 0.1.0 that runs."""
    node = OldNode(program, tmp_path / "old", P2P_SECURITY=request.param)
    try:
        yield node.start()
    finally:
        node.cleanup()
        print(node.log[-4000:])  # shown when the test fails


def owed(obligations: list[dict[str, Any]], *, mirrored: bool = False) -> dict[str, Decimal]:
    """By asset, below zero what is to be collected."""
    paying = "collect" if mirrored else "pay"
    return {
        one["asset"]: Decimal(one["amount"]) * (1 if one["direction"] == paying else -1)
        for one in obligations
    }


OLD_STEPS = """
[BTC-USD]
tick = "0.1"
lot = "0.00001"
[TEST-USD]
tick = "0.01"
lot = "1"
"""


def test_the_steps_of_version_0_1_0_are_kept_until_they_are_changed(nodes: Nodes) -> None:
    def steps_of(market: str) -> tuple[str, str]:
        view = {view["market"]: view for view in node.cli("market", "steps")}[market]
        return view["tick"], view["lot"]

    node = nodes.make("upgraded")
    shutil.copytree(FILES / "data", node.data_dir)
    (node.data_dir / "node.key").chmod(0o600)
    node.start()
    assert (steps_of("BTC-USD"), steps_of(MARKET)) == (("0.1", "0.00001"), ("0.01", "1"))
    assert any("change-steps BTC-USD" in text for text in node.status().warnings)
    kept = node.sell("0.7", "40000", market="BTC-USD")  # once it has listened
    history = {order.id: order.quantity for order in node.orders(open_only=False)}

    cancelled = node.cli("market", "change-steps", "BTC-USD", "--yes")
    assert kept.number in {order["number"] for order in cancelled}
    assert not [order for order in node.orders() if order.market == "BTC-USD"]
    # An order of this market awaits the answer of a node that is not there.
    refused = run_cli("market", "change-steps", MARKET, "--yes", "--data-dir", str(node.data_dir))
    assert refused.returncode == 1
    assert "await answers of other nodes" in refused.stderr
    assert (steps_of("BTC-USD"), steps_of(MARKET)) == (("0.1", "0.00001"), ("0.01", "1"))

    assert node.stop() == 0
    node.restart()
    assert (steps_of("BTC-USD"), steps_of(MARKET)) == (("0.1", "0.00000001"), ("0.01", "1"))
    small = node.sell("0.00000001", "40000", market="BTC-USD")
    assert node.get_order(small.id).quantity == "0.00000001"
    # What was placed in the old steps is read in them.
    assert {order_id: node.get_order(order_id).quantity for order_id in history} == history


def test_nodes_of_both_versions_trade_with_each_other(
    nodes: Nodes, old: OldNode, tmp_path: Path
) -> None:
    assert old.get("/v1/status")["version"] == "0.1.0"
    (tmp_path / "instruments.toml").write_text(OLD_STEPS, "ascii")
    new = nodes.start(
        "new",
        bootstrap=old.p2p_address,
        P2P_SECURITY=old.settings["P2P_SECURITY"],
        INSTRUMENTS_FILE=str(tmp_path / "instruments.toml"),
    )
    eventually(lambda: new.status().nodes_present == 2, what="the new node to see the old one")
    old_node.eventually(lambda: old.get("/v1/status")["nodes_present"] == 2, "the old node to see")
    assert new.linked() == {old.node_id}

    offered = old.order(MARKET, "sell", "5", "10.00")
    eventually(new.asks)
    bought = new.buy(3, "10.50")
    eventually(lambda: new.get_order(bought.id).status == "filled")
    old_node.eventually(lambda: old.find_order(offered["id"])["filled"] == "3", "its order filled")

    bid = new.buy(4, "9.00")
    old_node.eventually(lambda: old.get(f"/v1/book/{MARKET}")["bids"], "the old node to see it")
    sold = old.order(MARKET, "sell", "4", "9.00", tif="fok")
    old_node.eventually(lambda: old.find_order(sold["id"])["status"] == "filled", "its sale")
    eventually(lambda: new.get_order(bid.id).status == "filled")

    def differences() -> list[tuple[Any, Any]]:
        def words(fill: Any) -> tuple[str, ...]:
            return tuple(fill[n] for n in ("id", "market", "price", "quantity", "time"))

        ours, theirs = (
            sorted(map(words, found)) for found in (get(new, "/v1/fills"), old.get("/v1/fills"))
        )
        assert len(ours) == 2
        return [] if ours == theirs else [(ours, theirs)]

    eventually(lambda: not differences(), what=lambda: differences())
    mine = owed(get(new, "/v1/obligations"))
    assert mine == owed(old.get("/v1/obligations"), mirrored=True)
    assert mine == {"TEST": Decimal(-7), "USD": Decimal(66)}
    # Signed statements, asked for by either.
    assert get(new, f"/v1/reconciliations/{old.node_id}")["agree"] is True
    assert old.get(f"/v1/reconciliations/{new.node_id}")["agree"] is True

    books = [get(new, f"/v1/book/{MARKET}"), old.get(f"/v1/book/{MARKET}")]
    assert books[0]["digest"] == books[1]["digest"]
    assert [level["quantity"] for level in books[0]["asks"]] == ["2"]
    # Services of each, called by the other.
    asked = {"market": MARKET}
    request = CallRequest(payload=asked, node=old.node_id)
    answer = eventually(lambda: new.ask(lambda client: client.call_service("book", request)))
    assert answer.result["digest"] == books[0]["digest"]
    body = {"payload": asked, "node": new.node_id}
    told = old.ask("POST", "/v1/services/book/call", body)
    assert told["result"]["digest"] == books[0]["digest"]
    old.cancel(offered["id"])
    eventually(lambda: not new.asks())
    old.stop()
    eventually(lambda: new.status().nodes_present == 1)
