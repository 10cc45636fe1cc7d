"""Run freqtrade, unmodified and in an environment of its own, on real nodes, and compare it with the ledger.

    python -m tests.bots [--minutes 5] [--nodes 1|2]

freqtrade buys and sells on one node while a maker on it, or on another node, quotes sizes that fill its
entries in part. At the end every order that it knows has the fills of the node's account, and every position
that it knows is the account's balance: fees are taken in the base asset, so exits are of the exact remainder.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import venv
from collections import defaultdict
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import requests

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "integration"))

from processes import NodeProcess, Nodes  # noqa: E402 - its folder comes before

MARKET = "BTC-USD"
PRICE, SPREAD = 30_000, 5
LIFTS = 4.0  # seconds between trades of others, which make candles
STOPPING = 30.0


def environment(directory: Path) -> Path:
    """Make freqtrade's environment if there is none; return its program."""
    program = directory / "bin" / "freqtrade"
    if not program.exists():
        print("installing freqtrade ...", flush=True)
        venv.create(directory, with_pip=True)
        subprocess.run(
            [directory / "bin" / "pip", "install", "-q", "-r", HERE / "requirements.lock"],
            check=True,
        )
    return program


def configuration(url: str, key: dict[str, Any]) -> dict[str, Any]:
    """Configure freqtrade: docs/bots.md has the lines that concern the node."""
    urls = {"urls": {"api": {"v1": url, "public": url, "private": url}}}
    pricing = {"price_side": "other", "use_order_book": True, "order_book_top": 1}
    return {
        "max_open_trades": 1,
        "stake_currency": "USD",
        "stake_amount": 500,
        "dry_run": False,
        "cancel_open_orders_on_exit": True,
        "unfilledtimeout": {"entry": 20, "exit": 20, "unit": "seconds"},
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


def operate(node: NodeProcess, path: str, body: dict[str, Any]) -> Any:
    answer = requests.post(f"{node.api_url}/v1/{path}", json=body, timeout=20)
    assert answer.ok, answer.text
    return answer.json()


def quote(maker: NodeProcess, around: int) -> None:
    """Offer sizes below and above that of an entry, on both sides."""
    for step, size in enumerate(("0.0123", "0.0061", "0.05"), start=1):
        maker.sell(size, around + step * SPREAD, market=MARKET)
        maker.buy(size, around - step * SPREAD, market=MARKET)


def compare(node: NodeProcess, database: Path) -> dict[str, int]:
    """Compare freqtrade's orders and positions with the account's fills and balances.

    Raises:
        AssertionError: they differ.
    """
    fills: dict[str, Decimal] = defaultdict(Decimal)
    account = {"account": "bot", "limit": "1000"}
    for fill in requests.get(f"{node.api_url}/v1/fills", params=account, timeout=20).json():
        fills[fill["order_id"].rpartition("-")[2]] += Decimal(fill["quantity"])
    balances = requests.get(
        f"{node.api_url}/v1/balances", params={"account": "bot"}, timeout=20
    ).json()
    held = {each["asset"]: Decimal(each["total"]) for each in balances}
    with closing(sqlite3.connect(database)) as connection:
        orders = connection.execute("SELECT order_id, filled FROM orders").fetchall()
        positions = connection.execute(
            "SELECT coalesce(sum(amount), 0) FROM trades WHERE is_open"
        ).fetchone()[0]
        closed = connection.execute("SELECT count(*) FROM trades WHERE NOT is_open").fetchone()[0]
    for order_id, filled in orders:
        number = str(int(order_id) % 10**12)
        known = Decimal(str(filled or 0))
        assert abs(known - fills.pop(number, Decimal(0))) < Decimal("1e-9"), (order_id, filled)
    assert not fills, f"fills that freqtrade does not know: {fills}"
    difference = abs(Decimal(str(positions)) - held.get("BTC", Decimal(0)))
    dust = Decimal("2e-8") * max(closed, 1)
    assert difference <= dust, f"freqtrade has {positions} BTC, the account {held}"
    return {"orders": len(orders), "closed positions": closed}


def trade(program: Path, directory: Path, minutes: float, count: int) -> dict[str, int]:
    """Run freqtrade for so long. Returns what it did, counted."""
    nodes = Nodes(directory)
    try:
        maker = nodes.start("maker")
        taker = maker if count == 1 else nodes.start("taker", bootstrap=maker.p2p_address)
        operate(taker, "accounts", {"name": "bot"})
        operate(taker, "accounts/bot/deposits", {"asset": "USD", "amount": "10000"})
        key = operate(taker, "accounts/bot/keys", {"permissions": ["read", "trade"]})
        config = directory / "config.json"
        config.write_text(json.dumps(configuration(taker.api_url, key)), "utf-8")
        database = directory / "freqtrade.sqlite"
        with (directory / "freqtrade.log").open("wb") as log:
            bot = subprocess.Popen(
                [program, "trade", "-c", config, "--strategy", "EnterAndLeave", "--db-url",
                 f"sqlite:///{database}", "--userdir", directory, "--strategy-path", HERE],
                stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": ""},
            )  # fmt: skip
            try:
                end = time.monotonic() + minutes * 60
                around = PRICE
                while time.monotonic() < end:
                    assert bot.poll() is None, (directory / "freqtrade.log").read_text()[-3000:]
                    around += 1 if around < PRICE + 50 else -50
                    maker.ask(lambda client: client.cancel_many(market=MARKET))
                    quote(maker, around)
                    maker.buy("0.0001", around + SPREAD, market=MARKET)
                    time.sleep(LIFTS)
            finally:
                bot.send_signal(signal.SIGTERM)
                try:
                    bot.wait(STOPPING)
                except subprocess.TimeoutExpired:
                    bot.kill()
                    bot.wait()
        return compare(taker, database)
    finally:
        nodes.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bots", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="of trading (default 5)")
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=2, help="1: the maker's too")
    parser.add_argument(
        "--environment",
        type=Path,
        default=Path(tempfile.gettempdir()) / "exchange-node-freqtrade",
        help="directory of freqtrade's environment, made if there is none",
    )
    given = parser.parse_args()
    program = environment(given.environment)
    with tempfile.TemporaryDirectory() as directory:
        done = trade(program, Path(directory), given.minutes, given.nodes)
    print(", ".join(f"{count} {name}" for name, count in done.items()), "agree with the ledger")
    return 0 if done["closed positions"] else 1


if __name__ == "__main__":
    sys.exit(main())
