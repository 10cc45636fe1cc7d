"""freqtrade on a node: its configuration, its process, and its database compared with the ledger."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import requests
from processes import NodeProcess

Entries = Literal["limit", "market"]

HERE = Path(__file__).resolve().parent
MONEY = Decimal(10_000)  # USD, to begin with
STOPPING = 30.0
LOT = Decimal("1e-8")
CENT = Decimal("0.01")
PAGE = 1000
STOPS = {"stoploss": "market", "stoploss_on_exchange": False}


def operate(node: NodeProcess, path: str, body: dict[str, Any]) -> Any:
    answer = requests.post(f"{node.api_url}/v1/{path}", json=body, timeout=20)
    assert answer.ok, answer.text
    return answer.json()


def account(node: NodeProcess, name: str, **deposits: str) -> dict[str, Any]:
    """Make an account with so much of each asset; return a key of it."""
    operate(node, "accounts", {"name": name})
    for asset, amount in deposits.items():
        operate(node, f"accounts/{name}/deposits", {"asset": asset, "amount": amount})
    key: dict[str, Any] = operate(node, f"accounts/{name}/keys", {"permissions": ["read", "trade"]})
    return key


def balances(node: NodeProcess, name: str) -> dict[str, Decimal]:
    found = requests.get(f"{node.api_url}/v1/balances", params={"account": name}, timeout=20)
    return {each["asset"]: Decimal(each["total"]) for each in found.json()}


def fills(node: NodeProcess, name: str) -> list[dict[str, Any]]:
    """All fills of an account, the oldest first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    start = "0"
    while True:
        asked = {"account": name, "limit": str(PAGE), "sort": "asc", "start": start}
        answer = requests.get(f"{node.api_url}/v1/fills", params=asked, timeout=20)
        assert answer.ok, answer.text
        page = answer.json()
        known = len(found)
        found.update({(fill["id"], fill["order_id"]): fill for fill in page})
        if len(page) < PAGE or len(found) == known:
            return list(found.values())
        start = page[-1]["time"]


def configuration(url: str, key: dict[str, Any], *, dry: bool, entries: Entries) -> dict[str, Any]:
    """Configure freqtrade: docs/bots.md has the lines that concern the node."""
    urls = {
        "urls": {"api": {"v1": url, "public": url, "private": url}},
        "precisionMode": 2,  # decimal places: what amounts are cut to, though ccxt says significant digits
    }
    pricing = {"price_side": "other", "use_order_book": True, "order_book_top": 1}
    return {
        "max_open_trades": 1,
        "stake_currency": "USD",
        "stake_amount": 500,
        "dry_run": dry,
        "dry_run_wallet": float(MONEY),
        "cancel_open_orders_on_exit": True,
        "order_types": {"entry": entries, "exit": entries, **STOPS},
        # It asks for an order's trades from five seconds before its end, so it ends soon.
        "unfilledtimeout": {"entry": 1, "exit": 1, "unit": "seconds"},
        "entry_pricing": pricing,
        "exit_pricing": pricing,
        "exchange": {
            **{"name": "bitfinex", "key": key["key"], "secret": key["secret"], "enable_ws": False},
            **{"ccxt_config": urls, "ccxt_async_config": urls},
            **{"pair_whitelist": ["BTC/USD"], "pair_blacklist": []},
        },
        "pairlists": [{"method": "StaticPairList"}],
        "initial_state": "running",
        "internals": {"process_throttle_secs": 2},
    }


class Freqtrade:
    """A process of it that trades for the account `bot` of a node, from `start` to `stop`."""

    def __init__(
        self,
        program: Path,
        directory: Path,
        node: NodeProcess,
        *,
        dry: bool = False,
        entries: Entries = "limit",
    ) -> None:
        self.node, self.dry = node, dry
        self._entries = entries
        self._program, self._directory = program, directory
        self._database = directory / "freqtrade.sqlite"
        self._log = directory / "freqtrade.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        key = account(self.node, "bot", USD=str(MONEY))
        config = self._directory / "config.json"
        config.write_text(
            json.dumps(configuration(self.node.api_url, key, dry=self.dry, entries=self._entries)),
            "utf-8",
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, "trade", "-c", config, "--strategy", "EnterAndLeave", "--db-url",
                 f"sqlite:///{self._database}", "--userdir", self._directory,
                 "--strategy-path", HERE],
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": ""},
            )  # fmt: skip

    def check(self) -> None:
        """Raise AssertionError if it has ended."""
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text("utf-8", "replace")[-3000:]

    def stop(self) -> None:
        """Have it cancel what is open, and end."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOPPING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def compare(self) -> dict[str, int]:
        """Compare its orders, position and profits with the account. Returns what it did, counted.

        Raises:
            AssertionError: they differ.
        """
        with closing(sqlite3.connect(self._database)) as connection:
            connection.row_factory = sqlite3.Row
            orders = connection.execute("SELECT * FROM orders").fetchall()
            trades = connection.execute("SELECT * FROM trades").fetchall()
        closed = [trade for trade in trades if not trade["is_open"]]
        counts = {"orders of freqtrade": len(orders), "closed positions": len(closed)}
        if self.dry:
            held = balances(self.node, "bot")
            assert not fills(self.node, "bot"), "a dry run traded"
            assert held.get("USD") == MONEY, held
            return counts
        by_order: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for fill in fills(self.node, "bot"):
            by_order[fill["order_id"].rpartition("-")[2]].append(fill)
        counts["fills of freqtrade"] = sum(map(len, by_order.values()))
        counts["orders filled in parts"] = sum(len(found) > 1 for found in by_order.values())
        counts["orders cancelled with a part filled"] = sum(
            order["status"] == "canceled" and bool(order["filled"]) for order in orders
        )
        numbers: dict[int, list[str]] = defaultdict(list)
        for order in orders:
            number = str(int(order["order_id"]) % 10**12)
            numbers[order["ft_trade_id"]].append(number)
            known = Decimal(str(order["filled"] or 0))
            filled = sum((Decimal(f["quantity"]) for f in by_order[number]), Decimal(0))
            assert abs(known - filled) < LOT / 10, (order["order_id"], known, filled)
        known_numbers = {number for each in numbers.values() for number in each}
        unknown = {number for number, found in by_order.items() if found} - known_numbers
        assert not unknown, f"orders with fills that freqtrade does not know: {unknown}"
        position = sum((Decimal(str(t["amount"])) for t in trades if t["is_open"]), Decimal(0))
        held = balances(self.node, "bot").get("BTC", Decimal(0))
        dust = 2 * LOT * max(len(closed), 1)
        assert abs(position - held) <= dust, f"freqtrade has {position} BTC, the account {held}"
        counts |= profits(closed, orders, numbers, by_order)
        return counts


def profits(
    closed: list[sqlite3.Row],
    orders: list[sqlite3.Row],
    numbers: dict[int, list[str]],
    by_order: dict[str, list[dict[str, Any]]],
) -> dict[str, int]:
    """Compare the profit of each closed position with the ledger's."""
    cut = {o["ft_trade_id"] for o in orders if o["status"] == "canceled" and o["filled"]}
    counts = {"profits equal to the ledger": 0, "profits of entries cancelled in part": 0}
    for trade in closed:
        found = [fill for number in numbers[trade["id"]] for fill in by_order[number]]
        ledger = sum(map(paid, found), Decimal(0))
        known = Decimal(str(trade["close_profit_abs"]))
        if (
            trade["id"] in cut and abs(ledger - known) >= CENT
        ):  # docs/bots.md: fees not found in time
            counts["profits of entries cancelled in part"] += 1
            continue
        assert abs(ledger - known) < CENT, (trade["id"], ledger, known)
        counts["profits equal to the ledger"] += 1
    return counts


def paid(fill: dict[str, Any]) -> Decimal:
    """Change of the USD balance by a fill, fees in USD included."""
    value = Decimal(fill["quantity"]) * Decimal(fill["price"])
    fee = Decimal(fill["fee"]) if fill["fee_asset"] == "USD" else Decimal(0)
    return (value if fill["side"] == "sell" else -value) - fee


def lines(counts: dict[str, int]) -> Iterator[str]:
    width = max(map(len, counts))
    for name, count in counts.items():
        yield f"{name:<{width}}  {count:>8,}"
