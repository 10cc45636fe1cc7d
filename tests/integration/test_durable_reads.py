"""Reads of own orders and money are on the disk: the same after kill -9."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from node_accounts import make_account, money, place
from processes import NodeProcess, Nodes

from node.client.exchange_client import ClientError
from node.views.account_views import NewKeyView
from tests.soak.bitfinex import Nonces, signature, state_of

LAUNCHER = (str(Path(__file__).with_name("slow_disk_node.py")),)
COMMIT = 0.8  # seconds


def order_by_id(node: NodeProcess, _key: NewKeyView, number: int) -> Decimal:
    return Decimal(node.ask(lambda client: client.order(str(number), account="bob")).filled)


def open_orders(node: NodeProcess, _key: NewKeyView, number: int) -> Decimal:
    views = node.ask(lambda client: client.orders(account="bob"))
    return Decimal(next((view.filled for view in views if view.number == number), "0.1"))


def balances(node: NodeProcess, _key: NewKeyView, _number: int) -> Decimal:
    return 2 - money(node, "bob")["BTC"]


def bitfinex_orders(node: NodeProcess, key: NewKeyView, number: int) -> Decimal:
    rows = bitfinex(node, key, "r/orders")
    return next((s.filled for s in map(state_of, rows) if s.number == number), Decimal("0.1"))


def bitfinex_wallets(node: NodeProcess, key: NewKeyView, _number: int) -> Decimal:
    rows = bitfinex(node, key, "r/wallets")
    return 2 - next(row[2] for row in rows if row[1] == "BTC")


def bitfinex(node: NodeProcess, key: NewKeyView, path: str) -> Any:
    path, nonce = f"/v2/auth/{path}", Nonces().next()
    request = urllib.request.Request(node.api_url + path, data=b"{}", method="POST")
    request.add_header("bfx-apikey", key.key)
    request.add_header("bfx-nonce", str(nonce))
    request.add_header("bfx-signature", signature(key.secret, f"/api{path}{nonce}{{}}"))
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read(), parse_float=Decimal)


READS: tuple[Callable[[NodeProcess, NewKeyView, int], Decimal], ...] = (
    *(order_by_id, open_orders, balances, bitfinex_orders, bitfinex_wallets),
)


def test_a_trade_that_kill_9_undoes_is_never_published(nodes: Nodes, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    node = nodes.make("a", SLOW_FILE=str(slow), COMMIT_SECONDS=str(COMMIT))
    node.program = LAUNCHER
    node.start()
    alice, bob = make_account(node, "alice", USD="100000"), make_account(node, "bob", BTC="2")
    keys = [make_key(node) for _ in READS]  # nonces of one key would overtake each other
    resting = place(node, bob, "sell", "0.1", "30000")
    slow.touch()

    def buy() -> None:
        with suppress(ClientError):  # it is killed over it
            place(node, alice, "buy", "0.1", "30000")

    with ThreadPoolExecutor(len(READS) + 1) as threads:
        buying = threads.submit(buy)
        time.sleep(COMMIT / 4)  # the trade is made, and its commit is under way
        asked = [
            threads.submit(read, node, key, resting.number)
            for read, key in zip(READS, keys, strict=True)
        ]
        told = [each.result() for each in asked]
        node.kill9()
        buying.result()
    slow.unlink()
    node.restart()
    found = [read(node, key, resting.number) for read, key in zip(READS, keys, strict=True)]
    assert [*zip(READS, found, strict=True)] == [*zip(READS, told, strict=True)]


def make_key(node: NodeProcess) -> NewKeyView:
    return node.ask(lambda client: client.create_key("bob"))
