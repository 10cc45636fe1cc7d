"""A market view under load: book changes at a steady rate, a cut in the middle, and what it cost.

    python -m tests.web.storm [--seconds 60] [--rate 500] [--minutes 10]

reports the 95th percentile of frame times and the heap after one minute and after `--minutes`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from node.streams.book_checksums import MODULUS, level_check
from node.streams.stream_messages import Level
from tests.integration.processes import NodeProcess, Nodes
from tests.web.browser import Pages, a_browser

if TYPE_CHECKING:
    from playwright.sync_api import Page

MARKET = "BTC-USD"
DEPTH = 100  # levels of a side that the page follows
WORKERS = 4
OPEN = 60  # orders that each worker keeps

# Sockets can be cut from outside, and frames are timed.
INIT = """
const Real = WebSocket;
window.sockets = [];
window.WebSocket = class extends Real {
  constructor(...all) { super(...all); window.sockets.push(this); }
};
window.frames_ms = [];
let last = performance.now();
const frame = (now) => {
  window.frames_ms.push(now - last);
  if (window.frames_ms.length > 100000) window.frames_ms.shift();
  last = now;
  requestAnimationFrame(frame);
};
requestAnimationFrame(frame);
"""


@dataclass
class Load:
    """Changes of the book so far."""

    changes: int = 0
    errors: int = 0


async def _worker(
    session: aiohttp.ClientSession,
    url: str,
    load: Load,
    rate: float,
    seed: int,
    stop: threading.Event,
) -> None:
    """Places and cancels orders around a price: each is a change of the book."""
    rng = random.Random(seed)
    resting: list[str] = []
    due = time.monotonic()
    while not stop.is_set():
        due += 1 / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if len(resting) >= OPEN:
            order = resting.pop(rng.randrange(len(resting)))
            async with session.delete(f"{url}/v1/orders/{order}") as answer:
                await answer.read()
                load.errors += answer.status >= 400
        else:
            side = rng.choice(("buy", "sell"))
            offset = rng.randint(1, 90) / 10
            price = 30000 - offset if side == "buy" else 30000 + offset
            body = {
                "market": MARKET,
                "side": side,
                "quantity": f"{rng.randint(1, 99) / 100:.2f}",
                "price": f"{price:.1f}",
            }
            async with session.post(f"{url}/v1/orders", json=body) as answer:
                placed = await answer.json()
                if answer.status == 201:
                    resting.append(placed["id"])
                else:
                    load.errors += 1
        load.changes += 1


@contextmanager
def load_on(node: NodeProcess, rate: float) -> Iterator[Load]:
    """Change the node's book so many times a second, from a thread of its own."""
    load, stop = Load(), threading.Event()

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(
                *(
                    _worker(session, node.api_url, load, rate / WORKERS, n, stop)
                    for n in range(WORKERS)
                )
            )

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield load
    finally:
        stop.set()
        thread.join()


def checksum_of(node: NodeProcess) -> str:
    """The checksum of the REST book, as deep as the page follows it."""
    book = node.ask(lambda client: client.book(MARKET, depth=DEPTH))
    total = 0
    for side, levels in (("buy", book.bids), ("sell", book.asks)):
        for level in levels:
            total += level_check(side, Level(level.price, level.quantity, level.orders))
    return str(total % MODULUS)


def watch(page: Page, seconds: float) -> dict[str, Any]:
    """Let the page run, cut its connection in the middle; what frames and heap were."""
    page.evaluate("window.frames_ms.length = 0")
    page.wait_for_timeout(seconds * 500)
    page.evaluate("window.sockets.at(-1).close()")
    page.wait_for_timeout(seconds * 500)
    return page.evaluate(
        """() => {
          const times = window.frames_ms.slice().sort((a, b) => a - b);
          const at = (part) => times[Math.floor((times.length - 1) * part)];
          return {frames: times.length, p50: at(0.5), p95: at(0.95), worst: at(1),
                  heap: performance.memory.usedJSHeapSize, elements: document.querySelectorAll("*").length,
                  sockets: window.sockets.length};
        }"""
    )


def settled(page: Page, node: NodeProcess) -> bool:
    """True if the ladder is the node's book."""
    return page.locator(".ladder").get_attribute("data-checksum") == checksum_of(node)


def open_market(pages: Pages, node: NodeProcess) -> Page:
    page = pages.open(node.api_url, path=f"#/market/{MARKET}", init=INIT)
    page.locator(".ladder tr.sell:not(.void)").first.wait_for()
    return page


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=500)
    parser.add_argument("--minutes", type=float, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, a_browser() as browser:
        nodes, pages = Nodes(Path(scratch)), Pages(browser)
        try:
            node = nodes.start("a")
            with load_on(node, asked.rate) as load:
                page = open_market(pages, node)
                started, before = time.monotonic(), load.changes
                found = watch(page, asked.seconds)
                found["changes_a_second"] = (load.changes - before) / (time.monotonic() - started)
                print(json.dumps({"after_s": asked.seconds, **found}))
                while time.monotonic() - started < asked.minutes * 60:
                    page.wait_for_timeout(5000)
                if asked.minutes * 60 > asked.seconds:
                    print(json.dumps({"after_s": asked.minutes * 60, **watch(page, 10)}))
            page.wait_for_timeout(1000)
            print(json.dumps({"equal": settled(page, node), "faults": pages.faults}))
        finally:
            pages.close()
            nodes.cleanup()


if __name__ == "__main__":
    main()
