"""cryptofeed reads the markets of a node over wss, unmodified from PyPI in a locked environment of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bitfinex_world import IGNORED
from processes import NodeProcess, Nodes, eventually, same_books

from tests.environments import environment

pytestmark = [*IGNORED, pytest.mark.long]
HERE = Path(__file__).parent
MARKET, SYMBOL = "BTC-USD", "BTC-USD"
ROUNDS = 40
PAUSE = 0.05  # seconds between rounds
STOP = 20.0  # seconds


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[NodeProcess, NodeProcess]]:
    nodes = Nodes(tmp_path)
    try:
        first = nodes.start("a", API_TLS_SELF_SIGNED="true")
        second = nodes.start("b", bootstrap=first.p2p_address)
        eventually(lambda: first.linked() and second.linked(), what="a link")
        yield first, second
    finally:
        nodes.cleanup()


class Reader:
    """A process of cryptofeed_reader.py."""

    def __init__(self, node: NodeProcess, directory: Path) -> None:
        python = environment(HERE / "cryptofeed-requirements.lock") / "python"
        certificate = str(node.data_dir / "api-cert.pem")
        trust = {"SSL_CERT_FILE": certificate, "REQUESTS_CA_BUNDLE": certificate}
        self._log = (directory / "cryptofeed.log").open("wb")
        self._process = subprocess.Popen(
            [python, HERE / "cryptofeed_reader.py", node.api_url.removeprefix("https://")],
            env={"PATH": os.environ["PATH"], "HOME": str(directory), **trust},
            cwd=directory,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"running\n"

    def stop(self) -> Any:
        """End it; what it got."""
        self._process.send_signal(signal.SIGTERM)
        try:
            output, _ = self._process.communicate(timeout=STOP)
        finally:
            self.kill()
        return json.loads(output.splitlines()[-1])

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()


def test_a_reader_follows_books_trades_and_tickers(
    pair: tuple[NodeProcess, NodeProcess], tmp_path: Path
) -> None:
    own, other = pair
    own.buy("1", "9.5", market="TEST-USD")  # one-sided and never traded
    for level in range(30):
        own.sell("0.5", 30_010 + level, market=MARKET)
        other.buy("0.5", 29_990 - level, market=MARKET)
    same_books(own, other, market=MARKET)
    reader = Reader(own, tmp_path)
    try:
        time.sleep(3)
        for number in range(ROUNDS):
            node = pair[number % 2]
            resting = node.sell("0.25", 30_000 + number % 7, market=MARKET)
            if number % 4:
                node.buy("0.1", 30_000 + number % 7, market=MARKET)
            node.cancel(resting.id)
            node.buy("0.01", 29_950 + number % 30, market=MARKET)
            time.sleep(PAUSE)
        same_books(own, other, market=MARKET)
        own.sell("1", "2000", market="ETH-USD")  # until now an empty market: without a ticker
        time.sleep(1)
        found = reader.stop()
    finally:
        reader.kill()
    assert found["complaints"] == []  # of sequence numbers, unknown messages, reconnections
    counts = found["counts"]
    assert counts["l2_book"] >= ROUNDS
    assert counts["l3_book"] >= 2 * ROUNDS
    assert counts["trades BTC-USD"] == ROUNDS * 3 // 4
    for symbol in ("BTC-USD", "ETH-USD", "TEST-USD"):
        assert counts[f"ticker {symbol}"] >= 1
    book = own.ask(lambda client: client.book(MARKET, depth=100))
    bids, asks = ({row.price: row.quantity for row in rows} for rows in (book.bids, book.asks))
    for kind in ("l2_book", "l3_book"):
        seen = found["books"][kind][SYMBOL]
        for side, levels in (("bid", bids), ("ask", asks)):
            assert numbers(seen[side]) == numbers(levels), kind


def numbers(levels: dict[str, str]) -> dict[Decimal, Decimal]:
    return {Decimal(price): Decimal(size) for price, size in levels.items()}
